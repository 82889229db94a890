"""The resizers that feature networks and published scores were made with, as exact as float32 allows.

Scores move with the resizer more than with many a method (Parmar et al. 2022, "On Aliased Resizing and Surprising
Subtleties in GAN Evaluation"), so each is named, and each extractor has its own.
"""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from frugan.config import suggest

Kernel = Callable[[Tensor], Tensor]
Rule = Callable[[Tensor, int, int], Tensor]

_BAND = 32


def resize(images: Float[Tensor, "N C H W"], height: int, width: int, rule: str) -> Float[Tensor, "N C h w"]:
    """The pictures at another size by the named rule, clipped to [0, 255]; those that fit already come back as given.

    Rules: "bicubic-antialias", "bilinear-antialias", "lanczos-antialias" are Pillow's filters on float channels (the
    first is the "clean" resizer of clean-fid); "bilinear" is torch's without antialiasing (its "legacy" one);
    "tf1-bilinear" is TensorFlow 1's, with source position i * in / out, which the Inception network of 2015 was
    scored with. Differentiable in the pictures. Raises ValueError for an unknown rule or a size below 1.
    """
    if rule not in RULES:
        raise ValueError(f"no resizer is called '{rule}'{suggest(rule, RULES)}")
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height} x {width}")
    if images.shape[2:] == (height, width):
        return images
    return RULES[rule](images, height, width).clamp(0, 255)


def _tf1_bilinear(images: Tensor, height: int, width: int) -> Tensor:
    """TensorFlow's order of rounding is kept: columns are blended first, then rows, as a + (b - a) * t in float32."""
    images = _tf1_rows(images.transpose(2, 3).contiguous(), width)  # whole rows are quick to gather
    return _tf1_rows(images.transpose(2, 3).contiguous(), height)


def _tf1_rows(images: Tensor, height: int) -> Tensor:
    above, below, down = _tf1_neighbours(images.shape[2], height)
    device = images.device
    starts = images.index_select(2, above.to(device))
    return starts + (images.index_select(2, below.to(device)) - starts) * down.to(images)[:, None]


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for calls that need gradients
def _tf1_neighbours(size_in: int, size_out: int) -> tuple[Tensor, Tensor, Tensor]:
    scale = torch.tensor(size_in, dtype=torch.float32) / size_out
    position = torch.arange(size_out, dtype=torch.float32) * scale
    first = position.floor().long().clamp(max=size_in - 1)
    return first, (first + 1).clamp(max=size_in - 1), position - first


def _torch_bilinear(images: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(images, size=(height, width), mode="bilinear", align_corners=False)


def _bicubic(x: Tensor) -> Tensor:
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2  # Keys' kernel with a = -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)


def _weights(size_in: int, size_out: int, kernel: Kernel, reach: int) -> Tensor:
    """The (size_out, size_in) matrix of one pass; the kernel is widened by the factor of shrinking.

    A source pixel counts where its centre lies within `reach` (rounded as Pillow does), and each row sums to 1.
    """
    scale = size_in / size_out
    widened = max(scale, 1.0)
    centres = (torch.arange(size_out, dtype=torch.float64)[:, None] + 0.5) * scale
    pixels = torch.arange(size_in, dtype=torch.float64)
    first = (centres - reach * widened + 0.5).clamp(min=0).floor()
    last = (centres + reach * widened + 0.5).clamp(max=size_in).floor()
    weights = kernel((pixels - centres + 0.5) / widened)
    weights = torch.where((pixels >= first) & (pixels < last), weights, 0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _bands(size_in: int, size_out: int, kernel: Kernel, reach: int) -> tuple[tuple[int, int, Tensor], ...]:
    """The matrix of one pass as bands of rows, each with the range of columns where it is not zero."""
    weights = _weights(size_in, size_out, kernel, reach)
    bands = []
    for rows in weights.split(_BAND):
        used = rows.any(dim=0).nonzero()
        start, end = int(used[0]), int(used[-1]) + 1
        bands.append((start, end, rows[:, start:end].contiguous()))
    return tuple(bands)


def _filtered(kernel: Kernel, reach: int) -> Rule:
    def apply(images: Tensor, height: int, width: int) -> Tensor:
        if width != images.shape[3]:
            bands = _bands(images.shape[3], width, kernel, reach)
            images = torch.cat([images[..., start:end] @ rows.to(images).T for start, end, rows in bands], dim=3)
        if height != images.shape[2]:
            bands = _bands(images.shape[2], height, kernel, reach)
            images = torch.cat([rows.to(images) @ images[:, :, start:end] for start, end, rows in bands], dim=2)
        return images

    return apply


RULES: dict[str, Rule] = {
    "bicubic-antialias": _filtered(_bicubic, 2),
    "bilinear-antialias": _filtered(_triangle, 1),
    "lanczos-antialias": _filtered(_lanczos, 3),
    "bilinear": _torch_bilinear,
    "tf1-bilinear": _tf1_bilinear,
}
