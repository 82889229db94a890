"""Spectral normalisation: layers whose largest gain is about 1.

Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", section 2.1 and algorithm 1.
The weight is taken as a matrix of one row for each output; u and v approximate its first singular vectors.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frugan.ops.elastic import Convolution, TransposedConvolution

_FIRST_ITERATIONS = 15
EPS = 1e-12
"""What a vector's length counts as at least while it is brought to length 1; StudioGAN has 1e-6."""


def _over_norm(weight: Tensor, outer: Tensor, first: int = 0) -> Tensor:
    """Weights over the sums of their products with `outer` along the axes from `first` on."""
    # No matrix product, which autocast would do in half precision.
    return weight / (weight * outer).sum(dim=tuple(range(first, weight.ndim)), keepdim=True)


class Spectral(nn.Module):
    """What a layer with a `weight` inherits, before its plain form, to run with the weight over its spectral norm.

    u and v change in `power_iterate` alone, never in a call. torch and the authors of GauGAN, BigGAN and StudioGAN
    iterate in each call in training mode: that gives other numbers to two processes, and to a call that is made again.
    """

    weight: nn.Parameter
    u: Tensor
    v: Tensor
    eps: float

    def _add_vectors(self, eps: float) -> None:
        rows, columns = self.matrix().shape
        self.register_buffer("u", F.normalize(torch.randn(rows), dim=0, eps=eps))
        self.register_buffer("v", F.normalize(torch.randn(columns), dim=0, eps=eps))
        self.eps = eps

    def matrix(self) -> Float[Tensor, "outputs rest"]:
        """The weight, a row for each output."""
        return self.weight.flatten(1)

    def kernel(self) -> Float[Tensor, "*shape"]:
        """The weight over its spectral norm, u W v; the gradient takes u and v for constants."""
        # A compiled graph knows no context variables.
        found = None if torch.compiler.is_compiling() else _AT_HAND.get().get(self)
        return _over_norm(self.weight, self.outer(self.u, self.v)) if found is None else found

    def outer(self, u: Float[Tensor, "*n outputs"], v: Float[Tensor, "*n rest"]) -> Float[Tensor, "..."]:
        """The products of all pairs of their numbers, (*n, *the weight's shape)."""
        return (u[..., None] * v[..., None, :]).reshape(*u.shape[:-1], *self.weight.shape)

    @torch.no_grad()
    def iterate(self, count: int = 1) -> None:
        """Bring u and v so many steps closer to the singular vectors of the weight as it is."""
        matrix = self.matrix()
        for _ in range(count):
            F.normalize(torch.mv(matrix.t(), self.u), dim=0, eps=self.eps, out=self.v)
            F.normalize(torch.mv(matrix, self.v), dim=0, eps=self.eps, out=self.u)


class SpectralConvolution(Spectral, Convolution):
    """A convolution that runs with its weight over its spectral norm; it is then that channels are left out."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        eps: float = EPS,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=padding, bias=bias)
        self._add_vectors(eps)


class SpectralTransposedConvolution(Spectral, TransposedConvolution):
    """A transposed convolution of that kind; a row of its matrix is still all that one output reads."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True, eps: float = EPS) -> None:
        super().__init__(inputs, outputs, kernel, bias=bias)
        self._add_vectors(eps)

    def matrix(self) -> Float[Tensor, "outputs rest"]:
        """The weight, a row for each output."""
        return self.weight.transpose(0, 1).flatten(1)

    def outer(self, u: Float[Tensor, "*n outputs"], v: Float[Tensor, "*n rest"]) -> Float[Tensor, "..."]:
        """The products of all pairs of their numbers, (*n, *the weight's shape)."""
        inputs, outputs, *kernel = self.weight.shape
        return (u[..., None] * v[..., None, :]).reshape(*u.shape[:-1], outputs, inputs, *kernel).transpose(-4, -3)


class SpectralLinear(Spectral):
    """A linear layer of that kind; weights and bias start as torch's."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, eps: float = EPS) -> None:
        super().__init__()
        plain = nn.Linear(inputs, outputs, bias)
        self.weight = nn.Parameter(plain.weight.detach())
        self.bias = plain.bias if bias else None
        self._add_vectors(eps)

    def forward(self, x: Float[Tensor, "*N inputs"]) -> Float[Tensor, "*N outputs"]:
        """The outputs."""
        return F.linear(x, self.kernel(), self.bias)


class Embedding(nn.Module):
    """A vector for each class, drawn from a normal distribution; labels are one-hot rows, or mixtures of them."""

    def __init__(self, classes: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, outputs))

    def kernel(self) -> Float[Tensor, "classes outputs"]:
        """The vectors it gives, which a subclass may scale."""
        return self.weight

    def forward(self, labels: Float[Tensor, "N classes"]) -> Float[Tensor, "N outputs"]:
        """The vector of each label."""
        return labels @ self.kernel()


class SpectralEmbedding(Spectral, Embedding):
    """An embedding whose vectors are divided by their matrix's spectral norm; a row is a class here."""

    def __init__(self, classes: int, outputs: int, *, eps: float = EPS) -> None:
        super().__init__(classes, outputs)
        self._add_vectors(eps)


_AT_HAND: ContextVar[Mapping[Spectral, Tensor]] = ContextVar("_AT_HAND", default=MappingProxyType({}))


def kernels(network: nn.Module) -> dict[Spectral, Tensor]:
    """The kernel of each spectral layer as weights, u and v are now, for `using`; gradients flow as in a call."""
    found: dict[Spectral, Tensor] = {}
    for layers in _together(network):
        if len(layers) > 1:
            found.update(zip(layers, kernels_together(layers), strict=True))
        else:
            found[layers[0]] = layers[0].kernel()
    return found


@contextmanager
def using(found: Mapping[Spectral, Tensor]) -> Iterator[None]:
    """Within it these layers run with these kernels, in this thread: for calls between which no weight changes."""
    token = _AT_HAND.set({**_AT_HAND.get(), **found})
    try:
        yield
    finally:
        _AT_HAND.reset(token)


def kernels_together(layers: Sequence[Spectral]) -> tuple[Tensor, ...]:
    """The kernel of each of these layers, which are of one kind and shape, in a few calls for all of them."""
    weights = torch.stack([layer.weight for layer in layers])
    u, v = torch.stack([layer.u for layer in layers]), torch.stack([layer.v for layer in layers])
    return _over_norm(weights, layers[0].outer(u, v), first=1).unbind()


def _together(network: nn.Module) -> list[list[Spectral]]:
    """The spectral layers of a network; in one list those of one kind and shape.

    On the CPU each is alone: copying weights side by side costs a processor what it saves.
    """
    groups: dict[object, list[Spectral]] = {}
    for module in network.modules():
        if isinstance(module, Spectral) and not module.weight.is_meta:
            weight = module.weight
            kind = (type(module), module.eps, weight.shape, weight.dtype, weight.device)
            groups.setdefault(module if weight.device.type == "cpu" else kind, []).append(module)
    return list(groups.values())


def power_iterate(network: nn.Module, count: int = 1) -> None:
    """One power iteration, or `count`, in every spectral layer of a network; a task makes one after each step.

    Nothing is drawn: networks of equal weights stay equal.
    """
    for layers in _together(network):
        if len(layers) > 1:
            iterate_together(layers, count)
        else:
            layers[0].iterate(count)


@torch.no_grad()
def iterate_together(layers: Sequence[Spectral], count: int = 1) -> None:
    """What `iterate` does to each of these layers, whose matrices are of one shape, in a few calls for all of them."""
    matrices = torch.stack([layer.matrix() for layer in layers])
    u, v = torch.stack([layer.u for layer in layers]), torch.stack([layer.v for layer in layers])
    for _ in range(count):
        v = F.normalize(torch.bmm(u[:, None], matrices)[:, 0], dim=1, eps=layers[0].eps)
        u = F.normalize(torch.bmm(matrices, v[:, :, None])[:, :, 0], dim=1, eps=layers[0].eps)
    torch._foreach_copy_([layer.u for layer in layers], list(u))
    torch._foreach_copy_([layer.v for layer in layers], list(v))


def settle(network: nn.Module, count: int = _FIRST_ITERATIONS) -> None:
    """As many power iterations as new weights need before their first use."""
    power_iterate(network, count)


@torch.no_grad()
def settle_exactly(network: nn.Module) -> None:
    """Make u and v the first singular vectors of each weight, for averaged weights: their vectors are averages, too."""
    for layer in network.modules():
        if isinstance(layer, Spectral):
            matrix = layer.matrix().double()
            is_wide = matrix.shape[0] <= matrix.shape[1]
            gram = matrix @ matrix.t() if is_wide else matrix.t() @ matrix
            vector = torch.linalg.eigh(gram).eigenvectors[:, -1]
            other = F.normalize(matrix.t() @ vector if is_wide else matrix @ vector, dim=0, eps=layer.eps)
            layer.u.copy_(vector if is_wide else other)
            layer.v.copy_(other if is_wide else vector)


def folded_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of the same network with plain layers that run with the very same weights."""
    state = cast(dict[str, Tensor], network.state_dict())
    for name, module in network.named_modules():
        if isinstance(module, Spectral):
            prefix = f"{name}." if name else ""
            state[f"{prefix}weight"] = module.kernel().detach()
            del state[f"{prefix}u"], state[f"{prefix}v"]
    return state
