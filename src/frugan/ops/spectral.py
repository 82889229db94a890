"""Spectral normalisation: convolutions whose largest gain is about 1.

Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", section 2.1 and algorithm 1.
The weight is taken as a matrix of one row for each output; u and v approximate its first singular vectors.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frugan.ops.elastic import Convolution

_FIRST_ITERATIONS = 15
_EPS = 1e-12


class SpectralConvolution(Convolution):
    """A convolution that runs with its weight over its spectral norm, u W v; it is then that channels are left out.

    u and v change in `power_iterate` alone, never in a call. torch and the authors of GauGAN iterate in each call in
    training mode: that gives other numbers to two processes, and to a call that is made again.
    """

    u: Tensor
    v: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=padding, bias=bias)
        self.register_buffer("u", F.normalize(torch.randn(outputs), dim=0, eps=_EPS))
        self.register_buffer("v", F.normalize(torch.randn(inputs * kernel**2), dim=0, eps=_EPS))

    def kernel(self) -> Float[Tensor, "outputs inputs kernel kernel"]:
        """The weight over its spectral norm; the gradient takes u and v for constants."""
        # No matrix product, which autocast would do in half precision.
        gain = (self.weight.flatten(1) * (self.u[:, None] * self.v)).sum()
        return self.weight / gain

    @torch.no_grad()
    def iterate(self, count: int = 1) -> None:
        """Bring u and v so many steps closer to the singular vectors of the weight as it is."""
        matrix = self.weight.flatten(1)
        for _ in range(count):
            self.v.copy_(F.normalize(torch.mv(matrix.t(), self.u), dim=0, eps=_EPS))
            self.u.copy_(F.normalize(torch.mv(matrix, self.v), dim=0, eps=_EPS))


def power_iterate(network: nn.Module, count: int = 1) -> None:
    """One power iteration, or `count`, in every spectral convolution of a network; a task makes one after each step.

    Nothing is drawn: networks of equal weights stay equal.
    """
    for module in network.modules():
        if isinstance(module, SpectralConvolution):
            module.iterate(count)


def settle(network: nn.Module) -> None:
    """As many power iterations as new weights need before their first use."""
    power_iterate(network, _FIRST_ITERATIONS)


def folded_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of the same network with plain convolutions that run with the very same weights."""
    state = cast(dict[str, Tensor], network.state_dict())
    for name, module in network.named_modules():
        if isinstance(module, SpectralConvolution):
            prefix = f"{name}." if name else ""
            state[f"{prefix}weight"] = module.kernel().detach()
            del state[f"{prefix}u"], state[f"{prefix}v"]
    return state
