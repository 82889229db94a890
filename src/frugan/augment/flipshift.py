"""Mirrored and shifted images: what consistency regularisation expects a discriminator not to notice.

Zhang et al. 2020 (CR-GAN); the numbers are those of StudioGAN: half of the images are mirrored, all are shifted by up
to an eighth of each side, and what moves in is a reflection.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from frugan.ops.constants import constant, row

RATIO = 1 / 8


class FlipShift(NamedTuple):
    """Which images are mirrored, and by how many (rows, columns) each is shifted: output pixel i shows i + shift."""

    is_mirrored: Bool[Tensor, " N"]
    shifts: Int64[Tensor, "N 2"]


def draw(uniform: Callable[..., Tensor], height: int, width: int) -> FlipShift:
    """The random numbers for one call; `uniform(*shape)` gives (N, *shape) numbers from [0, 1)."""
    numbers = uniform(3)
    sides = int(height * RATIO + 0.5), int(width * RATIO + 0.5)
    reach = constant(row, *sides, device=numbers.device, dtype=numbers.dtype)
    shifts = torch.floor(numbers[:, 1:] * (2 * reach + 1)) - reach
    return FlipShift(numbers[:, 0] < 0.5, shifts.long())


def apply(images: Float[Tensor, "N C H W"], draws: FlipShift) -> Float[Tensor, "N C H W"]:
    """The images mirrored left to right, then shifted; gradients flow through."""
    images = torch.where(draws.is_mirrored[:, None, None, None], images.flip(3), images)
    height, width = images.shape[2:]
    rows, columns = (
        _reflected(torch.arange(size, device=images.device) + draws.shifts[:, axis : axis + 1], size)
        for axis, size in enumerate((height, width))
    )
    number = torch.arange(len(images), device=images.device)[:, None, None]
    # Indices stand before and after the channels: theirs come last then.
    return images[number, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _reflected(places: Tensor, size: int) -> Tensor:
    """Places beyond an edge counted back from it, the edge itself once."""
    last = max(size - 1, 1)
    places = places.abs() % (2 * last)
    return torch.where(places >= size, 2 * last - places, places)
