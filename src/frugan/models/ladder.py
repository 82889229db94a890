"""The steps of the ladder that DCGAN, SNGAN, SAGAN, BigGAN and BigGAN-deep climb: blocks between two resolutions.

Sources: Radford et al. 2016 (DCGAN), Miyato et al. 2018 (SNGAN), Zhang et al. 2019 (SAGAN), Brock et al. 2019 (BigGAN,
appendix B), as PyTorch-StudioGAN has them. Resampling is merged into the convolution beside it where that is exact and
cheaper: a 3x3 one after doubling or before halving becomes a 4x4 one of 16 products instead of 36, and a 1x1 shortcut
runs at the lower resolution. All of it is equal but for rounding.
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frugan.models.generator import check_channels
from frugan.models.heads import SPECTRAL_EPS, InfoCodes
from frugan.ops.convolution import convolve, convolve_transposed
from frugan.ops.elastic import Convolution, TransposedConvolution
from frugan.ops.normalize import Pooling, conditional_batch_norm
from frugan.ops.resample import average_down2d, conv2d_average_down, conv2d_nearest_up, nearest_up2d
from frugan.ops.spectral import (
    Embedding,
    SpectralConvolution,
    SpectralLinear,
    SpectralTransposedConvolution,
)

Blocks = Literal["deep_conv", "resnet", "deep", "deep_legacy"]
Scale = Literal["same", "up", "down"]
_NORM_EPS = 1e-4
_BOTTLENECK = 4
UP: dict[int, tuple[int, ...]] = {
    1: (4, 4),
    2: (4, 4, 4),
    3: (4, 4, 4, 4),
    4: (16, 8, 4, 2, 1),
    5: (16, 16, 8, 4, 2, 1),
    6: (16, 16, 8, 8, 4, 2, 1),
    7: (16, 16, 8, 8, 4, 2, 1, 1),
}
"""Generator: the start's and each block's outputs over the base width, by the number of doublings."""
DOWN: dict[int, tuple[int, ...]] = {
    1: (2, 2),
    2: (2, 2, 2),
    3: (2, 2, 2, 2),
    4: (1, 2, 4, 8, 16),
    5: (1, 2, 4, 8, 16, 16),
    6: (1, 2, 4, 8, 8, 16, 16),
    7: (1, 1, 2, 4, 8, 8, 16, 16),
}
"""Discriminator of residual blocks: each block's outputs."""
DEEP_DOWN: dict[int, tuple[int, ...]] = {
    1: (4, 4),
    2: (4, 4, 4),
    3: (4, 4, 4, 4),
    4: (1, 2, 4, 8, 16),
    5: (1, 2, 4, 8, 16, 16),
    6: (1, 2, 4, 8, 8, 16, 16),
    7: (1, 1, 2, 4, 8, 8, 16, 16),
}
"""BigGAN-deep's discriminator: the stem's and each stage's outputs."""


def doublings(resolution: int) -> int:
    """How often a start of 4 to 7 pixels is doubled. Raises ValueError where that does not give the resolution."""
    times = max(resolution, 0).bit_length() - 3  # 4 to 7 have three binary digits
    if not 1 <= times <= 7 or resolution % (1 << times):
        raise ValueError(
            "resolution must be 4, 5, 6 or 7 times a power of two, from 8 to 896 (such as 32, 96 or 128), "
            f"got {resolution}"
        )
    return times


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """The settings that both networks share."""

    resolution: int
    channels: int = 3
    num_classes: int = 0
    width: int = 96
    blocks: Blocks = "resnet"
    multipliers: tuple[int, ...] | None = None
    depth: int | None = None
    attention: tuple[int, ...] = ()
    codes: InfoCodes | None = None

    def __post_init__(self) -> None:
        check_channels(self.channels)
        doublings(self.resolution)
        if self.width < 1 or self.num_classes < 0:
            raise ValueError(f"width must be at least 1 and num_classes 0, got {self.width} and {self.num_classes}")
        if self.depth is not None and (not self.is_deep or self.depth < 1):
            raise ValueError(f"depth is 1 or more blocks of a 'deep' ladder, got {self.depth} with {self.blocks!r}")
        if self.multipliers is not None and min(self.multipliers, default=0) < 1:
            raise ValueError(f"multipliers must be numbers of 1 or more, got {self.multipliers}")

    def check_attention(self, allowed: tuple[int, ...]) -> None:
        """Raise ValueError for attention at a resolution that no step ends at, or twice at one."""
        if not set(self.attention) <= set(allowed) or len(set(self.attention)) < len(self.attention):
            raise ValueError(f"attention must list different resolutions among {allowed}, got {self.attention}")

    @property
    def is_deep(self) -> bool:
        """Whether the blocks are bottlenecks, several to a resolution."""
        return self.blocks in ("deep", "deep_legacy")

    @property
    def blocks_each(self) -> int:
        """How many blocks there are at each step."""
        return (self.depth or 2) if self.is_deep else 1

    @property
    def doublings(self) -> int:
        """How often the lowest resolution is doubled."""
        return doublings(self.resolution)

    @property
    def bottom(self) -> int:
        """Pixels per side of the generator's start: 4 to 7."""
        return self.resolution >> self.doublings

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Those it can be asked for: the one it was made for."""
        return (self.resolution,)


def linear(inputs: int, outputs: int, *, spectral: bool, bias: bool = True) -> nn.Module:
    """A linear layer, spectrally normalised or not."""
    return (
        SpectralLinear(inputs, outputs, bias=bias, eps=SPECTRAL_EPS) if spectral else nn.Linear(inputs, outputs, bias)
    )


def convolution(
    inputs: int, outputs: int, kernel: int, *, spectral: bool, bias: bool = True, stride: int = 1
) -> Convolution:
    """A convolution that keeps the size, or halves it with a stride of 2 and a kernel of 4."""
    padding = (kernel - 1) // 2
    if spectral:
        return SpectralConvolution(inputs, outputs, kernel, stride=stride, padding=padding, bias=bias, eps=SPECTRAL_EPS)
    return Convolution(inputs, outputs, kernel, stride=stride, padding=padding, bias=bias)


def run(layer: Convolution, x: Float[Tensor, "N C H W"], scale: Scale = "same") -> Float[Tensor, "N C_out H_out W_out"]:
    """The layer in the dtype of `x`, after its maps were doubled or before they are halved (3x3 kernels)."""
    weight = layer.kernel()
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    match scale:
        case "up":
            return conv2d_nearest_up(x, weight, bias)
        case "down":
            return conv2d_average_down(x, weight, bias)
        case "same":
            return convolve(x, weight.to(x.dtype), bias, stride=layer.stride, padding=layer.padding)


def draw_weights(network: nn.Module) -> None:
    """Orthogonal weights for every convolution, linear layer and embedding that has no scale of its own; biases 0.

    Weights on the meta device, which others will take the place of, are left alone.
    """
    kinds = (Convolution, TransposedConvolution, nn.Linear, SpectralLinear, Embedding)
    for module in network.modules():
        if isinstance(module, kinds) and not module.weight.is_meta:
            nn.init.orthogonal_(module.weight)
            bias = None if isinstance(module, Embedding) else module.bias
            if bias is not None:
                nn.init.zeros_(bias)


class BatchNorm(nn.Module):
    """Batch normalisation by arguments: a gain and shift from a condition of `inputs` numbers, or learned where 0.

    The gain is 1 + W c, the shift V c. Which statistics count is said in each call.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, inputs: int = 0, *, spectral: bool = False) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.gain = linear(inputs, channels, spectral=spectral, bias=False) if inputs else None
        self.shift = linear(inputs, channels, spectral=spectral, bias=False) if inputs else None
        self.weight = None if inputs else nn.Parameter(torch.ones(channels))
        self.bias = None if inputs else nn.Parameter(torch.zeros(channels))

    def forward(
        self, x: Float[Tensor, "N C H W"], condition: Float[Tensor, "N inputs"] | None, pooling: Pooling | None
    ) -> Float[Tensor, "N C H W"]:
        """The maps by the batch's statistics, kept as `pooling` says; without it by the running ones."""
        if self.gain is not None and self.shift is not None:
            gain, shift = 1 + self.gain(condition), self.shift(condition)
        else:
            gain, shift = cast(Tensor, self.weight)[None], cast(Tensor, self.bias)[None]
        return conditional_batch_norm(x, self.running_mean, self.running_var, gain, shift, pooling, _NORM_EPS)


class Attention(nn.Module):
    """Self-attention to maps of half the size, added with a learned weight that starts at 0.

    Source: Zhang et al. 2019 (SAGAN), section 3; widths C/8 and C/2 and the pooling as in BigGAN.
    """

    def __init__(self, channels: int, *, spectral: bool) -> None:
        super().__init__()
        narrow, half = max(channels // 8, 1), max(channels // 2, 1)
        self.query = convolution(channels, narrow, 1, spectral=spectral, bias=False)
        self.key = convolution(channels, narrow, 1, spectral=spectral, bias=False)
        self.value = convolution(channels, half, 1, spectral=spectral, bias=False)
        self.out = convolution(half, channels, 1, spectral=spectral, bias=False)
        self.strength = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "N C H W"], *_: object) -> Float[Tensor, "N C H W"]:
        """The maps with what each place takes from all others."""
        query = run(self.query, x).flatten(2)
        key, value = (F.max_pool2d(run(layer, x), 2).flatten(2) for layer in (self.key, self.value))
        # Written out: the fused form has no second derivative on the CPU.
        shares = torch.softmax((query.transpose(1, 2) @ key).float(), dim=2).to(x.dtype)
        found = (value @ shares.transpose(1, 2)).unflatten(2, x.shape[2:])
        return torch.addcmul(x, run(self.out, found), self.strength.to(x.dtype))


class UpBlock(nn.Module):
    """A residual block of the generator that doubles the size: two 3x3 convolutions, each after normalisation."""

    def __init__(self, inputs: int, outputs: int, condition: int, *, spectral: bool) -> None:
        super().__init__()
        self.norm1 = BatchNorm(inputs, condition, spectral=spectral)
        self.conv1 = convolution(inputs, outputs, 3, spectral=spectral)
        self.norm2 = BatchNorm(outputs, condition, spectral=spectral)
        self.conv2 = convolution(outputs, outputs, 3, spectral=spectral)
        self.skip = convolution(inputs, outputs, 1, spectral=spectral)

    def forward(
        self, x: Float[Tensor, "N C H W"], condition: Float[Tensor, "N K"] | None, pooling: Pooling | None
    ) -> Float[Tensor, "N C_out H2 W2"]:
        """The maps, twice as large."""
        y = run(self.conv1, F.relu_(self.norm1(x, condition, pooling)), "up")
        y = run(self.conv2, F.relu_(self.norm2(y, condition, pooling)))
        return y + nearest_up2d(run(self.skip, x))


class DeepUpBlock(nn.Module):
    """BigGAN-deep's block of the generator: a bottleneck of four convolutions; doubles the size where `up`.

    `learned`: the shortcut is a 1x1 convolution (StudioGAN), else the leading channels (Brock et al. 2019).
    """

    def __init__(self, inputs: int, outputs: int, condition: int, *, up: bool, learned: bool, spectral: bool) -> None:
        super().__init__()
        hidden = max(inputs // _BOTTLENECK, 1)
        widths, kernels = (inputs, hidden, hidden, hidden, outputs), (1, 3, 3, 1)
        self.norms = nn.ModuleList(BatchNorm(width, condition, spectral=spectral) for width in widths[:4])
        self.convs = nn.ModuleList(
            convolution(widths[i], widths[i + 1], kernel, spectral=spectral) for i, kernel in enumerate(kernels)
        )
        self.skip = convolution(inputs, outputs, 1, spectral=spectral) if learned else None
        self.outputs, self.doubles = outputs, up

    def forward(
        self, x: Float[Tensor, "N C H W"], condition: Float[Tensor, "N K"] | None, pooling: Pooling | None
    ) -> Float[Tensor, "N C_out H_out W_out"]:
        """The maps, of the same size or twice as large."""
        y = x
        for index, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            active = F.relu_(norm(y, condition, pooling))
            y = run(cast(Convolution, conv), active, "up" if index == 1 and self.doubles else "same")
        x = x[:, : self.outputs] if self.skip is None else run(self.skip, x)
        return y + (nearest_up2d(x) if self.doubles else x)


class TransposedUpBlock(nn.Module):
    """DCGAN's step up: a transposed 4x4 convolution of stride 2, normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, condition: int, *, spectral: bool) -> None:
        super().__init__()
        self.conv: TransposedConvolution = (
            SpectralTransposedConvolution(inputs, outputs, 4, eps=SPECTRAL_EPS)
            if spectral
            else TransposedConvolution(inputs, outputs, 4)
        )
        self.norm = BatchNorm(outputs, condition, spectral=spectral)

    def forward(
        self, x: Float[Tensor, "N C H W"], condition: Float[Tensor, "N K"] | None, pooling: Pooling | None
    ) -> Float[Tensor, "N C_out H2 W2"]:
        """The maps, twice as large."""
        bias = None if self.conv.bias is None else self.conv.bias.to(x.dtype)
        y = convolve_transposed(x, self.conv.kernel().to(x.dtype), bias, stride=2, padding=1)
        return F.relu_(self.norm(y, condition, pooling))


def _normalized(norm: BatchNorm | None, x: Tensor, pooling: Pooling | None) -> Tensor:
    return x if norm is None else cast(Tensor, norm(x, None, pooling))


class DownBlock(nn.Module):
    """A residual block of the discriminator: two 3x3 convolutions; halves the size where `down`.

    `first`: it reads the picture, so that nothing is rectified before it. Without batch normalisation the shortcut of
    the others sees the rectified maps: the authors' ReLU writes over what the shortcut reads, and all published weights
    were trained so.
    """

    def __init__(self, inputs: int, outputs: int, *, first: bool, down: bool, spectral: bool, batch: bool) -> None:
        super().__init__()
        self.is_first, self.halves = first, down
        learned = down or inputs != outputs
        self.norm_skip = BatchNorm(inputs) if batch and learned else None
        self.norm1 = BatchNorm(inputs) if batch and not first else None
        self.norm2 = BatchNorm(outputs) if batch else None
        self.conv1 = convolution(inputs, outputs, 3, spectral=spectral)
        self.conv2 = convolution(outputs, outputs, 3, spectral=spectral)
        self.skip = convolution(inputs, outputs, 1, spectral=spectral) if learned else None

    def forward(self, x: Float[Tensor, "N C H W"], pooling: Pooling | None) -> Float[Tensor, "N C_out H_out W_out"]:
        """The maps, of the same size or half as large."""
        y = x if self.is_first else F.relu(_normalized(self.norm1, x, pooling))
        x = y if self.norm1 is None else x
        y = run(self.conv1, y)
        y = F.relu_(_normalized(self.norm2, y, pooling))
        y = run(self.conv2, y, "down" if self.halves else "same")
        return y + self._shortcut(x, pooling)

    def _shortcut(self, x: Tensor, pooling: Pooling | None) -> Tensor:
        if self.skip is None:
            return x
        if self.is_first:  # the picture is halved first, then normalised
            return run(self.skip, _normalized(self.norm_skip, average_down2d(x) if self.halves else x, pooling))
        x = _normalized(self.norm_skip, x, pooling)
        return run(self.skip, average_down2d(x) if self.halves else x)


class DeepDownBlock(nn.Module):
    """BigGAN-deep's block of the discriminator: a bottleneck of four convolutions; halves the size where `down`.

    `learned`: the shortcut is a 1x1 convolution wherever size or width change, and maps are halved before they are
    rectified for the last time (StudioGAN); else it makes the missing channels only, and they are halved after it
    (Brock et al. 2019). The shortcut sees the rectified maps, as in `DownBlock`.
    """

    def __init__(self, inputs: int, outputs: int, *, down: bool, learned: bool, spectral: bool, batch: bool) -> None:
        super().__init__()
        hidden = max(outputs // _BOTTLENECK, 1)
        widths, kernels = (inputs, hidden, hidden, hidden, outputs), (1, 3, 3, 1)
        self.halves = down
        self.norms = nn.ModuleList(BatchNorm(width) for width in widths[:4]) if batch else None
        self.convs = nn.ModuleList(
            convolution(widths[i], widths[i + 1], kernel, spectral=spectral) for i, kernel in enumerate(kernels)
        )
        missing = (outputs if down or inputs != outputs else 0) if learned else max(outputs - inputs, 0)
        self.is_learned = learned
        self.skip = convolution(inputs, missing, 1, spectral=spectral) if missing else None

    def forward(self, x: Float[Tensor, "N C H W"], pooling: Pooling | None) -> Float[Tensor, "N C_out H_out W_out"]:
        """The maps, of the same size or half as large."""
        y = x
        for index, conv in enumerate(self.convs):
            norm = None if self.norms is None else cast(BatchNorm, self.norms[index])
            y = F.relu(_normalized(norm, y, pooling))
            if index == 0 and norm is None:
                x = y
            if index == 3 and self.halves and not self.is_learned:
                y = average_down2d(y)
            halves_here = index == 2 and self.halves and self.is_learned
            y = run(cast(Convolution, conv), y, "down" if halves_here else "same")
        x = average_down2d(x) if self.halves else x
        if self.skip is None:
            return y + x
        made = run(self.skip, x)
        return y + (made if self.is_learned else torch.cat([x, made], dim=1))


class StridedDownBlock(nn.Module):
    """DCGAN's step down as StudioGAN has it: a 3x3 convolution and a 4x4 one of stride 2, each rectified."""

    def __init__(self, inputs: int, outputs: int, *, spectral: bool, batch: bool) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, spectral=spectral)
        self.norm1 = BatchNorm(outputs) if batch else None
        self.conv2 = convolution(outputs, outputs, 4, spectral=spectral, stride=2)
        self.norm2 = BatchNorm(outputs) if batch else None

    def forward(self, x: Float[Tensor, "N C H W"], pooling: Pooling | None) -> Float[Tensor, "N C_out H_out W_out"]:
        """The maps, half as large."""
        y = F.relu_(_normalized(self.norm1, run(self.conv1, x), pooling))
        return F.relu_(_normalized(self.norm2, run(self.conv2, y), pooling))
