"""What it costs to run a network: multiply-adds, parameters, memory on a GPU. Times and processes: `measure`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_NORMS = (_aten.native_batch_norm.default, _aten.native_layer_norm.default, _aten.native_group_norm.default)


@dataclass(frozen=True, kw_only=True)
class Macs:
    """Multiply-adds of a run, by what they are, and as torchprofile counts them.

    `convolution`: a transposed convolution counts at its input, where its work is; this is what the tables of GAN
    Compression and AnyCost call MACs once the counting is mended. `product`: matrix products (linear layers,
    demodulation, attention). `filter`: fixed resampling filters, one kernel for all channels.
    `torchprofile`: all of them, but each transposed convolution at its output (four times too many at stride 2), and
    one for each output of a normalisation by sample (instance, layer, group); the published tables hold these numbers.
    Additions of bias and noise, activations and scalings are not counted.
    """

    convolution: int = 0
    product: int = 0
    filter: int = 0
    torchprofile: int = 0

    @property
    def total(self) -> int:
        """All multiply-adds that are done."""
        return self.convolution + self.product + self.filter


class _Counter(TorchDispatchMode):
    """Counts the operations that pass, as torch's dispatcher sees them, below autograd."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = {"convolution": 0, "product": 0, "filter": 0, "torchprofile": 0}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in _NORMS:
            with self:  # in inference mode linear and its like come whole
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        result = func(*args, **(kwargs or {}))
        if func is _aten.convolution.default:
            self._convolution(args, result)
        elif func in (_aten.mm.default, _aten.bmm.default):
            self._product(result.numel() * args[0].shape[-1])
        elif func in (_aten.addmm.default, _aten.baddbmm.default):
            self._product(result.numel() * args[1].shape[-1])
        elif func in (_aten.mv.default, _aten.dot.default):
            self._product(args[0].numel())
        elif func in _NORMS and not (func is _NORMS[0] and args[3] is not None):  # without running statistics
            self.counts["torchprofile"] += result[0].numel()
        return result

    def _product(self, macs: int) -> None:
        self.counts["product"] += macs
        self.counts["torchprofile"] += macs

    def _convolution(self, args: tuple[Any, ...], result: Tensor) -> None:
        x, weight, is_transposed, groups = args[0], args[1], args[6], args[8]
        # The weight is (outputs, inputs / groups, ...), transposed (inputs, outputs / groups, ...).
        macs = (x if is_transposed else result).numel() * weight[0].numel()
        per_output = weight.shape[0] // groups * weight[0, 0].numel() if is_transposed else weight[0].numel()
        is_filter = groups > 1 and weight.stride(0) == 0  # one kernel expanded over all channels
        self.counts["filter" if is_filter else "convolution"] += macs
        self.counts["torchprofile"] += result.numel() * per_output


def count_macs(run: Callable[[], object]) -> Macs:
    """The multiply-adds of one call of `run`, which may work on meta tensors: then nothing is computed.

    The call is made without gradients. Example: `count_macs(lambda: generator(z, subnet=subnet))`. Fused attention is
    not seen.
    """
    with torch.no_grad(), _Counter() as counter:
        run()
    return Macs(**counter.counts)


def count_parameters(module: nn.Module) -> int:
    """The number of trainable and frozen weights; buffers, such as noise maps, do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


def cuda_peak_mb(run: Callable[[], object], device: torch.device) -> float:
    """Megabytes (2^20 bytes) that torch held on the GPU at the peak of one call of `run`, weights included."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**20
