"""3x3 convolutions with a quarter of the products, for pictures that are drawn on a CPU.

Source: Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", F(4x4, 3x3): a tile of 6x6 pixels and a
kernel become 36 numbers each, whose products become 4x4 pixels of the result. The numbers are values of polynomials at
0, +-3/4, +-5/4 and infinity, which round three times as finely as 0, +-1, +-2. All of it is matrix products in float32,
for so few tiles at a time that what is between them stays in the processor's cache.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from frugan.ops.convolution import is_drawing

POINTS = (0.0, 0.75, -0.75, 1.25, -1.25)
TILE = 4
_BLOCK = 12288
"""Tiles times channels that are worked on at a time: about 2 MB between two products."""
_NARROW = 64
"""With fewer channels than this, the passes over the maps cost more than the products saved."""


def suits(x: Float[Tensor, "N C_in H W"], weight: Float[Tensor, "C_out C_in rows columns"], padding: int) -> bool:
    """Whether `convolve_scaled` is the quick way: while pictures are drawn on a CPU, with many channels and more tiles.

    Training and exported graphs never take it: rounding differs by about 1e-6 of the range.
    """
    if not is_drawing(x) or weight.dtype != torch.float32 or weight.shape[2:] != (3, 3) or padding != 1:
        return False
    height, width = x.shape[2:]
    fewest, most = sorted(weight.shape[:2])
    # A kernel's 36 numbers are made anew each time; a few tiles would not pay for that.
    tiles = len(x) * height * width // TILE**2
    return height % TILE == width % TILE == 0 and fewest >= _NARROW and most <= 4 * tiles


def convolve_scaled(
    x: Float[Tensor, "N C_in H W"],
    weight: Float[Tensor, "C_out C_in 3 3"],
    before: Float[Tensor, "N C_in"],
    after: Float[Tensor, "N C_out"],
    bias: Float[Tensor, " C_out"],
) -> Float[Tensor, "N C_out H W"]:
    """What `conv2d(x * before, weight, padding=1) * after + bias` gives, channels-last; it has no derivatives.

    Raises ValueError unless H and W are multiples of 4.
    """
    n, c_in, height, width = x.shape
    if height % TILE or width % TILE:
        raise ValueError(f"height and width must be multiples of {TILE}, got {height} and {width}")
    down, across = height // TILE, width // TILE
    # As many whole pictures as fit, or as many rows of tiles of one.
    block = _BLOCK // (across * c_in)
    pictures, rows = min(max(block // down, 1), n), min(max(block, 1), down)
    kernels = _kernels(weight)
    x = x.permute(0, 2, 3, 1)
    padded = x.new_zeros(pictures, height + 2, width + 2, c_in)
    result = x.new_empty(n, height, width, len(bias))
    by_place = result.view(n, down, TILE, across, TILE, len(bias)).permute(2, 4, 0, 1, 3, 5)
    for first in range(0, n, pictures):
        some = slice(first, first + pictures)
        part = padded[: len(x[some])]
        torch.mul(x[some], before[some, None, None], out=part[:, 1:-1, 1:-1])
        for top in range(0, down, rows):
            place = by_place[:, :, some, top : top + rows]
            products = _convolved(_windows(part, top, place.shape[2:5]), kernels)
            torch.addcmul(bias, products.view(place.shape), after[some, None, None], out=place)
    return result.permute(0, 3, 1, 2)


def _windows(padded: Float[Tensor, "N H W C"], top: int, tiles: torch.Size) -> Float[Tensor, "6 6 N rows columns C"]:
    """The 6x6 pixels of each tile by their place in it, from the row of tiles `top` on; a view."""
    picture, row, column, one = padded.stride()
    shape, strides = (6, 6, *tiles, padded.shape[3]), (row, column, picture, TILE * row, TILE * column, one)
    return padded.as_strided(shape, strides, padded.storage_offset() + top * TILE * row)


def _convolved(
    windows: Float[Tensor, "6 6 N rows columns C_in"], kernels: Float[Tensor, "36 C_in C_out"]
) -> Float[Tensor, "4 4 tiles_C_out"]:
    for_tiles, _, for_products = _matrices()
    tiles, c_in = windows[0, 0, ..., 0].numel(), windows.shape[-1]
    values = _turned(for_tiles, _turned(for_tiles, windows.reshape(6, 6, -1)))
    products = torch.bmm(values.view(36, tiles, c_in), kernels)
    return _turned(for_products, _turned(for_products, products.view(6, 6, -1)))


def _turned(matrix: Float[Tensor, "out rows"], x: Float[Tensor, "rows columns L"]) -> Float[Tensor, "columns out L"]:
    """The matrix applied to every column; as a batch of products, since one alone would leave threads idle."""
    return torch.bmm(matrix.expand(x.shape[1], -1, -1), x.transpose(0, 1))


def _kernels(weight: Float[Tensor, "C_out C_in 3 3"]) -> Float[Tensor, "36 C_in C_out"]:
    _, for_kernels, _ = _matrices()
    both = torch.kron(for_kernels, for_kernels)
    return (both @ weight.reshape(-1, 9).t()).view(36, *weight.shape[:2]).transpose(1, 2)


@cache
def _matrices() -> tuple[Float[Tensor, "6 6"], Float[Tensor, "6 3"], Float[Tensor, "4 6"]]:
    """What tiles, kernels and products are multiplied by along each axis (Toom and Cook)."""

    def values(count: int) -> Tensor:
        """Those of the first `count` powers; at infinity the last one alone is 1."""
        rows = [[point**power for power in range(count)] for point in POINTS]
        return torch.tensor([*rows, [0.0] * (count - 1) + [1.0]], dtype=torch.float64)

    with torch.inference_mode(False), torch.no_grad():
        tiles = torch.linalg.inv(values(6)).t()
        # Scaled to a largest entry of 1 in each row, which the kernels make up for.
        peak = tiles.abs().amax(dim=1, keepdim=True)
        return (tiles / peak).float(), (values(3) * peak).float(), values(4).t().float().contiguous()
