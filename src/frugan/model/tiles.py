"""Pictures of any size through a network that wants multiples: reflected edges, and squares blended at their seams."""

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from frugan.data.dataset import to_uint8

OVERLAP = 64
"""Pixels that neighbouring squares share, unless told."""
_LEAST = 8  # networks that halve their maps twice cannot reflect the edges of smaller pictures

Run = Callable[[UInt8[Tensor, "N source H W"]], Float[Tensor, "N channels H W"]]


def translate_whole(run: Run, images: UInt8[Tensor, "N source H W"], multiple: int) -> UInt8[Tensor, "N channels H W"]:
    """What `run` makes of the pictures, reflected at the right and at the bottom up to a multiple, and cut back."""
    height, width = images.shape[2:]
    return to_uint8(run(reflected(images, multiple))[:, :, :height, :width])


def translate_tiles(
    run: Run, images: UInt8[Tensor, "N source H W"], multiple: int, tile: int, overlap: int, batch: int
) -> UInt8[Tensor, "N channels H W"]:
    """As `translate_whole`, in squares of side `tile` that share `overlap` pixels, `batch` of them at once.

    The weight of a square falls off evenly over the overlap, to almost nothing at its edge. Where a network does not
    normalise, a pixel is the untiled one, up to rounding, if it is farther from every edge of its square than the
    network looks. Raises ValueError for a tile that is no multiple, or an overlap of more than half of it.
    """
    if tile % multiple or tile < _LEAST:
        raise ValueError(f"a tile must be a multiple of {multiple}, and at least {_LEAST}, got {tile}")
    if not 0 <= overlap <= tile // 2 or overlap % multiple:
        raise ValueError(f"the overlap must be a multiple of {multiple} up to half a tile ({tile // 2}), got {overlap}")
    return torch.cat([_tiled(run, image, multiple, tile, overlap, batch) for image in images.split(1)])


def _tiled(run: Run, image: Tensor, multiple: int, tile: int, overlap: int, batch: int) -> Tensor:
    height, width = image.shape[2:]
    whole = reflected(image, multiple)
    tall, wide = min(tile, whole.shape[2]), min(tile, whole.shape[3])
    places = list(itertools.product(_starts(whole.shape[2], tall, overlap), _starts(whole.shape[3], wide, overlap)))
    weight = _ramp(tall, overlap)[:, None] * _ramp(wide, overlap)
    total = torch.zeros(whole.shape[2:])
    blended: Tensor | None = None
    for start in range(0, len(places), batch):
        chosen = places[start : start + batch]
        made = run(torch.cat([whole[:, :, top : top + tall, left : left + wide] for top, left in chosen]))
        if blended is None:
            blended = torch.zeros(1, made.shape[1], *whole.shape[2:], device=made.device)
            weight, total = weight.to(made.device), total.to(made.device)
        for (top, left), part in zip(chosen, made.float(), strict=True):
            blended[0, :, top : top + tall, left : left + wide] += part * weight
            total[top : top + tall, left : left + wide] += weight
    assert blended is not None
    return to_uint8((blended / total)[:, :, :height, :width])


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles of one axis begin: one after the other, the last one at the end."""
    last = length - tile
    return [*range(0, last, tile - overlap), last]


def _ramp(length: int, overlap: int) -> Tensor:
    """The weight of each place of a tile: 1 inside, falling evenly towards both ends over the overlap."""
    steps = torch.arange(length)
    near = torch.minimum(steps, steps.flip(0)) + 0.5
    return (near / max(overlap, 1)).clamp(max=1.0)


def reflected(images: UInt8[Tensor, "N C H W"], multiple: int) -> UInt8[Tensor, "N C H2 W2"]:
    """The pictures with their right and lower parts reflected until both sides are multiples and at least 8.

    The edge itself is not repeated; a picture of one pixel is. Label numbers come through as they are.
    """
    for axis in (2, 3):
        length = images.shape[axis]
        wanted = -(-max(length, _LEAST) // multiple) * multiple
        if wanted != length:
            steps = torch.arange(wanted) % max(2 * length - 2, 1)
            images = images.index_select(axis, torch.minimum(steps, 2 * length - 2 - steps).to(images.device))
    return images
