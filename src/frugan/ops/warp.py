"""Turning, shifting and scaling images, and filtering each by taps of its own; beyond its borders an image is mirrored.

Mirroring has no end and repeats no pixel: a row a b c goes on as b a b c b a. As everything is linear in the images,
it is written as products with matrices and bilinear lookups, quick to differentiate twice.
Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", appendix B.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from frugan.ops.constants import constant, row
from frugan.ops.resample import upfirdn2d

_SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
"""The low-pass taps of the orthogonal wavelet sym6 (Daubechies 1992, table 6.3: least asymmetric, N = 6)."""
_SYM2 = tuple((a + b * math.sqrt(3)) / (4 * math.sqrt(2)) for a, b in ((1, -1), (3, -1), (3, 1), (1, 1)))
"""The low-pass taps of sym2, which is Daubechies' wavelet of 4 taps (Daubechies 1992, section 6.4)."""
_BLOCK = 32


def warp(
    images: Float[Tensor, "N C H W"], matrix: Float[Tensor, "N 2 2"], offset: Float[Tensor, "N 2"]
) -> Float[Tensor, "N C H W"]:
    """The images under affine maps: what is at place p = (x, y) comes from place matrix p + offset.

    Places are counted in pixels from the centre of the image, x to the right and y down. The image is doubled in size
    by the low-pass filter of sym6, looked up bilinearly, and halved by the same filter, turned around: as the filter is
    orthogonal, a shift by whole pixels changes no value but by rounding. No gradient flows to `matrix` and `offset`.
    """
    large = _doubled(images)
    with torch.no_grad():
        places = _places(matrix, offset, (images.shape[3], images.shape[2]), (large.shape[3], large.shape[2]))
    taps = constant(_taps, device=images.device, dtype=images.dtype)
    return upfirdn2d(_sample(large, places), taps, down=2, flip_filter=True)


def _taps() -> Float64[Tensor, " taps"]:
    return torch.tensor(_SYM6, dtype=torch.float64) / math.sqrt(2)


def _period(size: int) -> int:
    """After how many pixels a mirrored row begins again."""
    return max(2 * (size - 1), 1)


def _mirrored(index: Tensor, size: int) -> Tensor:
    """Which pixel of a row of this size stands at these places, any whole numbers, of the mirrored row."""
    place = index.remainder(_period(size))
    return torch.minimum(place, _period(size) - place)


def _doubled(x: Tensor) -> Tensor:
    """One period, and a little more, of the mirrored maps at twice the resolution, where pixel i is at place 2 i.

    Along either axis place j is 2 sum_i taps[j - 2 i + 5] x[i]. Blocks are products of one matrix with a window of the
    source each, which is several times quicker than padding and a depthwise convolution.
    """
    kernel = constant(_block, device=x.device, dtype=x.dtype)
    down, across = (constant(_sources, size, device=x.device) for size in x.shape[2:])
    x = x.index_select(3, across.flatten())
    x = (x.view(*x.shape[:3], *across.shape) @ kernel.mT).flatten(3)
    x = x.index_select(2, down.flatten())
    return (kernel @ x.view(*x.shape[:2], *down.shape, -1)).flatten(2, 3)


def _block() -> Float64[Tensor, "places sources"]:
    """What makes of a window of pixels a block of places."""
    tap = torch.arange(_BLOCK)[:, None] - 2 * torch.arange(_BLOCK // 2 + 6) + 11
    return torch.where((tap >= 0) & (tap < 12), 2 * _taps()[tap.clamp(0, 11)], 0.0)


def _sources(size: int) -> Int64[Tensor, "blocks sources"]:
    """The window of each block."""
    first = torch.arange(0, 2 * _period(size) + 1, _BLOCK)[:, None] // 2 - 3
    return _mirrored(first + torch.arange(_BLOCK // 2 + 6), size)


def _places(matrix: Tensor, offset: Tensor, size: tuple[int, int], large: tuple[int, int]) -> Tensor:
    """(N, rows, columns, 2): where each pixel of twice the resolution comes from, in `grid_sample`'s measure.

    The pixels are those that halving needs: from 5 before the first one of the image to 4 after the last one.
    """
    periods, last, centre = (
        constant(row, *map(number, sides), device=matrix.device, dtype=matrix.dtype)[:, None]
        for number, sides in ((_period, size), (lambda side: side - 1, large), (lambda side: (side - 1) / 2, size))
    )
    columns, rows = (torch.arange(-5, 2 * side + 5, device=matrix.device) / 2 - (side - 1) / 2 for side in size)
    # Counted in periods, of which only the fraction matters.
    across = matrix[:, :, :1] * columns / periods
    down = (matrix[:, :, 1:] * rows + offset[:, :, None] + centre) / periods
    part = across.mT[:, None] + (down - down.floor()).mT[:, :, None]
    return (part - part.floor()) * (4 * periods / last)[:, 0] - 1


class _Sample(torch.autograd.Function):
    """Bilinear lookup, differentiated by the maps alone, as often as one likes."""

    @staticmethod
    def forward(maps: Tensor, places: Tensor) -> Tensor:
        return F.grid_sample(maps, places, mode="bilinear", padding_mode="border", align_corners=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.size = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return _spread(gradient, places, ctx.size), None


class _Spread(torch.autograd.Function):
    """The transpose of a bilinear lookup in maps of this size."""

    @staticmethod
    def forward(values: Tensor, places: Tensor, size: torch.Size) -> Tensor:
        # Of the maps only the shape matters where the places need no derivative; 0, 1: bilinear, border.
        maps = values.new_empty(size)
        spread, _ = torch.ops.aten.grid_sampler_2d_backward(values, maps, places, 0, 1, True, [True, False])
        return cast(Tensor, spread)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, torch.Size], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return _sample(gradient, places), None, None


_sample: Callable[[Tensor, Tensor], Tensor] = _Sample.apply
_spread: Callable[[Tensor, Tensor, torch.Size], Tensor] = _Spread.apply


def filter_each(images: Float[Tensor, "N C H W"], taps: Float[Tensor, "N taps"]) -> Float[Tensor, "N C H W"]:
    """The images filtered along both axes, each by its own symmetric taps, odd in number."""
    rows, columns = (_mirrored_filter(taps, size)[:, None] for size in images.shape[2:])
    return rows @ images @ columns.mT


def _mirrored_filter(taps: Tensor, size: int) -> Tensor:
    """(N, size, size): the matrices that filter a mirrored row."""
    count = taps.shape[1]
    place = torch.arange(size, device=taps.device)[:, None] + torch.arange(count, device=taps.device) - count // 2
    index = _mirrored(place, size).expand(len(taps), -1, -1)
    return taps.new_zeros(len(taps), size, size).scatter_add(2, index, taps[:, None].expand(-1, size, -1))


def octaves(count: int) -> Float64[Tensor, "count taps"]:
    """Symmetric taps that pass one octave of frequencies each, the lowest first, from the wavelet sym2.

    The lowest passes all below, too. Together they pass everything: they add up to 1 at the middle tap, 0 elsewhere.
    """
    low = torch.tensor(_SYM2, dtype=torch.float64)
    high = low * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    smooth, detail = (_convolved(taps[None], taps.flip(0)) / 2 for taps in (low, high))
    bank = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(count - 1):
        # The bands an octave lower (zeros between their taps) of what is smooth, and the rest as the highest band.
        spaced = torch.stack([bank, torch.zeros_like(bank)], dim=2).flatten(1)[:, :-1]
        bank = _convolved(spaced, smooth[0])
        side = (bank.shape[1] - detail.shape[1]) // 2
        bank = torch.cat([bank, F.pad(detail, (side, side))])
    return bank


def _convolved(rows: Tensor, taps: Tensor) -> Tensor:
    return F.conv1d(rows[:, None], taps.flip(0)[None, None], padding=len(taps) - 1)[:, 0]
