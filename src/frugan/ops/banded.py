"""Filters along the two axes of feature maps as products with banded matrices, which keep the maps channels-last.

A graphics card has no quick depthwise convolution in half precision: its kernels want each channel in one piece, while
all else runs channels-last. A product with a matrix that holds taps, inserted zeros, padding and stride at once wastes
most of its multiplications on zeros, and is several times quicker, as the card has units for nothing but such products.
So it is on a CPU for the few channels of a small picture, which leave a convolution nothing to do side by side.
torch differentiates it as often as one likes. Zeros times infinity are no numbers: where one pixel overflows, its row
and column do.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from frugan.ops.constants import constant
from frugan.ops.convolution import is_drawing, is_traced

WIDEST = 768
"""The longest axis for which a product with a whole matrix pays: its cost for each pixel grows with the axis."""
_PICTURE = (4, 128)
"""The most channels and the longest axis for which it pays on a CPU."""


@dataclass(frozen=True)
class Band:
    """Along one axis: `up - 1` zeros after each pixel, padding, correlation with `taps`, every `down`-th one kept."""

    taps: tuple[float, ...]
    up: int
    down: int
    before: int
    after: int

    def size(self, size: int) -> int:
        """How many numbers become of so many."""
        return (size * self.up + self.before + self.after - len(self.taps)) // self.down + 1


def suits(x: Float[Tensor, "N C H W"], up: tuple[int, int]) -> bool:
    """Whether `correlate` is the quick way: in half precision on a card, up to `WIDEST` pixels, or for small pictures
    that are drawn on a CPU; `up` is (x, y).
    """
    longest = max(x.shape[3] * up[0], x.shape[2] * up[1])
    if is_drawing(x):
        channels, pixels = _PICTURE
        return x.shape[1] <= channels and longest <= pixels
    return x.device.type == "cuda" and x.dtype in (torch.float16, torch.bfloat16) and longest <= WIDEST


def correlate(x: Float[Tensor, "N C H W"], across: Band, along: Band) -> Float[Tensor, "N C H_out W_out"]:
    """The maps filtered by `across` in every row and by `along` in every column; channels-last, but for pictures."""
    if is_drawing(x):
        by_rows = x @ _matrix(across, x.shape[3], x.device, x.dtype).t()
        return _matrix(along, x.shape[2], x.device, x.dtype) @ by_rows
    x = x.permute(0, 2, 3, 1).contiguous()
    height, width = x.shape[1:3]
    high, wide = along.size(height), across.size(width)
    # The axis first that leaves less to do.
    if wide * height * (width + high) <= high * width * (height + wide):
        x = _columns(_rows(x, across), along)
    else:
        x = _rows(_columns(x, along), across)
    return x.permute(0, 3, 1, 2)


def _rows(x: Float[Tensor, "N H W C"], band: Band) -> Float[Tensor, "N H W_out C"]:
    n, height, width, channels = x.shape
    matrix = _matrix(band, width, x.device, x.dtype).expand(n * height, -1, -1)
    return torch.bmm(matrix, x.view(n * height, width, channels)).view(n, height, -1, channels)


def _columns(x: Float[Tensor, "N H W C"], band: Band) -> Float[Tensor, "N H_out W C"]:
    n, height, width, channels = x.shape
    matrix = _matrix(band, height, x.device, x.dtype).expand(n, -1, -1)
    return torch.bmm(matrix, x.view(n, height, width * channels)).view(n, -1, width, channels)


def _matrix(band: Band, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    if is_traced():
        return _made(band, size, device, dtype)
    return constant(_made, band, size, device, dtype, device=device)


def _made(band: Band, size: int, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "size_out size"]:
    """What `band` does to an axis of this size. Made on the device itself: nothing is copied to it."""
    rows = band.size(size)
    row, column = torch.arange(rows, device=device)[:, None], torch.arange(size, device=device)
    place = column * band.up + band.before - row * band.down
    # Matrix units read eight neighbours at once, so the axis that is stored piece by piece should be a multiple of it.
    if size % 8 and rows % 8 == 0:
        matrix = torch.zeros(size, rows, device=device, dtype=dtype).t()
    else:
        matrix = torch.zeros(rows, size, device=device, dtype=dtype)
    for number, tap in enumerate(band.taps):
        matrix.masked_fill_(place == number, tap)
    return matrix
