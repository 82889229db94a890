"""Running the leading channels of a layer, as elastic generators do.

A layer takes as many input channels as the maps it is given have, and gives as many outputs as it is asked for.
Source: AnyCost GAN (Lin et al. 2021), section 3.2; GAN Compression (Li et al. 2020), section 3.3.
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frugan.ops.convolution import preferred_layout
from frugan.ops.normalize import Gather, Pooling, batch_norm

Norm = Literal["instance", "batch"]
_FEW = 8
"""With fewer outputs than this, a convolution on the CPU is much quicker on channels-last maps."""


def leading(tensor: Tensor, *sizes: int | None) -> Tensor:
    """A view of the leading entries of a tensor along its first axes; None keeps an axis whole.

    Raises ValueError where an axis is shorter than asked.
    """
    for axis, size in enumerate(sizes):
        if size is None or size == tensor.shape[axis]:
            continue
        if not 0 < size < tensor.shape[axis]:
            raise ValueError(f"axis {axis} has {tensor.shape[axis]} entries, of which 1 or more can lead; got {size}")
        tensor = tensor.narrow(axis, 0, size)
    return tensor


class Convolution(nn.Module):
    """A convolution, or one channel by channel (`depthwise`), with weights of deviation `std` and a bias of 0.

    The edges are padded with zeros, or reflected (`reflect`).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        reflect: bool = False,
        depthwise: bool = False,
        bias: bool = True,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        if depthwise and inputs != outputs:
            raise ValueError(f"a depthwise convolution has as many outputs as inputs, got {outputs} and {inputs}")
        self.weight = nn.Parameter(torch.randn(outputs, 1 if depthwise else inputs, kernel, kernel) * std)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.stride, self.padding, self.is_reflected, self.is_depthwise = stride, padding, reflect, depthwise

    def kernel(self) -> Float[Tensor, "outputs inputs kernel kernel"]:
        """The weight it runs with, which a subclass may scale."""
        return self.weight

    def forward(
        self, x: Float[Tensor, "N C_in H W"], outputs: int | None = None
    ) -> Float[Tensor, "N C_out H_out W_out"]:
        """The leading `outputs` maps, or all; a depthwise convolution gives one for each of `x`."""
        count = x.shape[1] if self.is_depthwise else outputs
        weight = leading(self.kernel(), count, None if self.is_depthwise else x.shape[1])
        bias = None if self.bias is None else leading(self.bias, count)
        padding = self.padding
        if self.is_reflected and padding:
            x, padding = F.pad(x, (padding,) * 4, mode="reflect"), 0
        if weight.shape[0] < _FEW:
            x = preferred_layout(x)
        return F.conv2d(x, weight, bias, self.stride, padding, groups=x.shape[1] if self.is_depthwise else 1)


class TransposedConvolution(nn.Module):
    """A transposed convolution that doubles height and width; weights and bias start as those of `Convolution`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs, kernel, kernel) * std)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def kernel(self) -> Float[Tensor, "inputs outputs kernel kernel"]:
        """The weight it runs with, which a subclass may scale."""
        return self.weight

    def forward(self, x: Float[Tensor, "N C_in H W"], outputs: int | None = None) -> Float[Tensor, "N C_out H2 W2"]:
        """The leading `outputs` maps, or all, twice as large."""
        weight = leading(self.kernel(), x.shape[1], outputs)
        bias = None if self.bias is None else leading(self.bias, outputs)
        kernel = weight.shape[2]
        if kernel % 2 == 0:
            return F.conv_transpose2d(x, weight, bias, 2, kernel // 2 - 1)
        # An odd kernel leaves one row and column over at the far edges; on the CPU this is quicker channels-last.
        return F.conv_transpose2d(preferred_layout(x), weight, bias, 2, kernel // 2, 1)


class SeparableConvolution(nn.Module):
    """A depthwise convolution, normalisation by sample, and a pointwise convolution; nothing is rectified between.

    Source: GAN Compression (Li et al. 2020), section 3.3, after MobileNet (Howard et al. 2017).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, padding: int = 0, reflect: bool = False, std: float = 0.02
    ) -> None:
        super().__init__()
        self.depthwise = Convolution(inputs, inputs, kernel, padding=padding, reflect=reflect, depthwise=True, std=std)
        self.norm = InstanceNorm()
        self.pointwise = Convolution(inputs, outputs, 1, std=std)

    def forward(self, x: Float[Tensor, "N C_in H W"], outputs: int | None = None) -> Float[Tensor, "N C_out H W"]:
        """The leading `outputs` maps, or all."""
        return cast(Tensor, self.pointwise(self.norm(self.depthwise(x)), outputs))


class InstanceNorm(nn.Module):
    """Maps of mean 0 and variance 1, each picture and channel by itself; nothing is learned and nothing kept."""

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """The normalised maps. Raises ValueError for maps of a single pixel."""
        if x.shape[2] * x.shape[3] == 1:
            raise ValueError(
                f"maps of one pixel have no variance to normalise by, got {tuple(x.shape)}: give larger ones"
            )
        # Groups of one channel: three to four times as quick as torch's instance norm on the CPU. On channels-last maps
        # torch takes the variance from sums of squares, which is inexact where the mean is large, and slow to derive.
        return F.group_norm(x.contiguous(), x.shape[1])


class BatchNorm(nn.Module):
    """Batch normalisation of the leading channels, with a learned scale and shift and running statistics of each.

    The scale is drawn around 1 with deviation `std`; `momentum` is the share of a batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, std: float = 0.02, momentum: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + torch.randn(channels) * std)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.momentum = momentum

    def forward(self, x: Float[Tensor, "N C H W"], gather: Gather | None = None) -> Float[Tensor, "N C H W"]:
        """The maps, normalised by this batch in training mode, else by the running statistics.

        `gather` (`Ranks.gather`) makes it the batch of all processes.
        """
        everything = (self.running_mean, self.running_var, self.weight, self.bias)
        mean, variance, weight, bias = (leading(values, x.shape[1]) for values in everything)
        if gather is None or not self.training:
            return F.batch_norm(x, mean, variance, weight, bias, self.training, self.momentum)
        x = batch_norm(x, mean, variance, Pooling(gather=gather, momentum=self.momentum))
        return torch.addcmul(bias[:, None, None], x, weight[:, None, None])


def norm_layer(kind: Norm | None, channels: int) -> nn.Module | None:
    """The normalisation of that name; None without one."""
    match kind:
        case "instance":
            return InstanceNorm()
        case "batch":
            return BatchNorm(channels)
        case None:
            return None


def normalize(
    norm: nn.Module | None, x: Float[Tensor, "N C H W"], gather: Gather | None = None
) -> Float[Tensor, "N C H W"]:
    """What a layer of `norm_layer` makes of the maps; `gather` as in `BatchNorm`."""
    if norm is None:
        return x
    return cast(Tensor, norm(x, gather) if isinstance(norm, BatchNorm) else norm(x))
