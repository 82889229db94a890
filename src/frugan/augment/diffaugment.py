"""DiffAugment: random, differentiable changes of images, the same kind for reals and fakes, so few pictures suffice.

Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training"; `upscale` is from Wang et al. 2021,
"Sketch Your Own GAN". Every operation of the policy changes every image, with its own random numbers.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from frugan.config import suggest

Mode = Literal["differentiable", "reals_only", "discriminator_only", "off"]
Place = Literal["d_real", "d_fake", "g_fake"]

_PLACES: dict[str, tuple[Place, ...]] = {
    "differentiable": ("d_real", "d_fake", "g_fake"),
    "reals_only": ("d_real",),
    "discriminator_only": ("d_real", "d_fake"),
    "off": (),
}
_COLOR = ("brightness", "saturation", "contrast")
_OPERATIONS = (*_COLOR, "translation", "cutout", "upscale")


@dataclass(frozen=True, kw_only=True)
class DiffAugmentConfig:
    """What is done to the images a discriminator sees, and where.

    policy: comma-separated operations, done in this order; `color` stands for brightness, saturation, contrast; empty
        text changes nothing.
    mode: "differentiable" augments wherever the discriminator looks, with gradients through it; the paper's two
        negative controls are "reals_only" (the generator learns the augmentation) and "discriminator_only" (not in the
        generator's step); "off" nowhere.
    translation_ratio: the largest shift as a part of each side. cutout_ratio: the erased square's side as a part of the
        image's (Projected GAN uses 0.2). upscale_ratio: 0.25 enlarges by up to 1.25.
    fill: the value that appears where translation moved nothing in and where cutout erased, in all channels; 0 is mid
        grey, faithful to the authors; 1 is white, the paper of a sketch.
    """

    policy: str = "color,translation,cutout"
    mode: Mode = "differentiable"
    translation_ratio: float = 0.125
    cutout_ratio: float = 0.5
    upscale_ratio: float = 0.25
    fill: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"unknown mode '{self.mode}'{suggest(self.mode, get_args(Mode))}")
        for name in ("translation_ratio", "cutout_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.upscale_ratio < math.inf:
            raise ValueError(f"upscale_ratio must be zero or more, got {self.upscale_ratio}")
        if not math.isfinite(self.fill):
            raise ValueError(f"fill must be a finite number, got {self.fill}")
        operations = _parse(self.policy)
        if len(set(operations)) < len(operations):
            raise ValueError(f"each operation may stand once in a policy, got '{self.policy}'")

    @property
    def operations(self) -> tuple[str, ...]:
        """The names of the operations, in order; none where the mode is "off"."""
        return () if self.mode == "off" else _parse(self.policy)


def _parse(policy: str) -> tuple[str, ...]:
    names: list[str] = []
    for name in (part.strip() for part in policy.split(",")) if policy.strip() else ():
        if name not in ("color", *_OPERATIONS):
            raise ValueError(f"unknown augmentation '{name}'{suggest(name, ('color', *_OPERATIONS))}")
        names += _COLOR if name == "color" else (name,)
    return tuple(names)


def applies(mode: Mode, place: Place) -> bool:
    """Whether images are augmented there: what D sees of the reals, of the fakes in its own step, in G's step."""
    return place in _PLACES[mode]


def geometry(config: DiffAugmentConfig) -> DiffAugmentConfig:
    """The same settings for maps of labels, which have no colours: only what moves or cuts out, and 0 moves in."""
    return replace(config, policy=",".join(name for name in config.operations if name not in _COLOR), fill=0.0)


def draw(config: DiffAugmentConfig, uniform: Callable[..., Tensor], height: int, width: int) -> dict[str, Tensor]:
    """The random numbers for one call of `diffaugment` on images of this size, keyed by operation.

    `uniform(*shape)` gives (N, *shape) numbers from [0, 1): the caller owns the randomness. Meanings:
    brightness, saturation, contrast, upscale: (N,) those numbers; translation: (N, 2) whole numbers (rows, columns) in
    [-r, r], where output pixel i shows input pixel i + shift; cutout: (N, 2) whole numbers, the square's centre.
    Raises ValueError for an empty image size.
    """
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height}x{width}")
    draws: dict[str, Tensor] = {}
    for name in config.operations:
        if name == "translation":
            reach = _sizes(config.translation_ratio, height, width)
            draws[name] = _whole(uniform(2), (-reach[0], -reach[1]), reach)
        elif name == "cutout":
            box = _sizes(config.cutout_ratio, height, width)
            draws[name] = _whole(uniform(2), (0, 0), (height - box[0] % 2, width - box[1] % 2))
        else:
            draws[name] = uniform()
    return draws


def diffaugment(
    images: Float[Tensor, "N C H W"], config: DiffAugmentConfig, draws: Mapping[str, Tensor]
) -> Float[Tensor, "N C H W"]:
    """The images, each changed by every operation of the policy in order, at the given draws; gradients flow through.

    Any number of images of any size and float dtype, in [-1, 1]; the result may leave that range (the authors do not
    clamp either). Where images have exactly four channels the fourth is opacity: colour operations leave it alone, the
    others treat it like the rest. Grey images keep their values under saturation. The mode is not looked at, save that
    "off" changes nothing: ask `applies` where to call this.
    Deviation: neighbouring colour operations are done as one affine map in at least float32 (equal up to rounding);
    `upscale` draws one ratio per image, the authors one per batch.
    Raises ValueError where a draw is missing or does not fit the images.
    """
    colors: dict[str, Tensor] = {}
    for name in config.operations:
        numbers = _draw_for(name, draws, images)
        if name in _COLOR:
            colors[name] = numbers
        else:
            images = _GEOMETRY[name](_recolor(images, colors), numbers, config)
            colors = {}
    return _recolor(images, colors)


def one_by_one(
    images: Float[Tensor, "N C H W"], config: DiffAugmentConfig, draws: Mapping[str, Tensor]
) -> Iterator[tuple[str, Float[Tensor, "N C H W"]]]:
    """Each operation's name with the images changed by it alone, in the policy's order."""
    for name in config.operations:
        yield name, diffaugment(images, replace(config, policy=name), draws)


def describe(config: DiffAugmentConfig) -> list[tuple[str, str]]:
    """Each operation's name with one line saying what it does, in the policy's order; empty where nothing is done."""
    meanings = {
        "brightness": "adds one number from [-0.5, 0.5) to the whole image",
        "saturation": "scales the distance to the pixel's grey value by [0, 2)",
        "contrast": "scales the distance to the image's mean by [0.5, 1.5)",
        "translation": f"shifts by up to {config.translation_ratio:.4g} of each side; {config.fill:g} moves in",
        "cutout": f"sets a box of {config.cutout_ratio:.4g} of each side, anywhere, to {config.fill:g}",
        "upscale": f"enlarges by 1 to {1 + config.upscale_ratio:.4g} and keeps the middle",
    }
    return [(name, meanings[name]) for name in config.operations]


def _sizes(ratio: float, height: int, width: int) -> tuple[int, int]:
    return int(height * ratio + 0.5), int(width * ratio + 0.5)


def _whole(uniform: Tensor, first: tuple[int, int], last: tuple[int, int]) -> Tensor:
    """Whole numbers from first to last, both included, from (N, 2) numbers in [0, 1), one range per column."""
    columns = zip(uniform.unbind(1), first, last, strict=True)
    return torch.stack([(u * (b + 1 - a)).long() + a for u, a, b in columns], dim=1)


def _draw_for(name: str, draws: Mapping[str, Tensor], images: Tensor) -> Tensor:
    if name not in draws:
        raise ValueError(f"draws lack '{name}', got {', '.join(draws) or 'none'}: make them with draw()")
    shape = (len(images), 2) if name in ("translation", "cutout") else (len(images),)
    if draws[name].shape != shape:
        raise ValueError(f"the draw for '{name}' must have shape {shape}, got {tuple(draws[name].shape)}")
    return draws[name].to(images.device)


def _recolor(images: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
    """All given colour operations as one map y = scale x + pixel (mean over C) + image (mean over C, H, W) + offset."""
    if not draws:
        return images
    opacity = images[:, 3:] if images.shape[1] == 4 else None
    x = images if opacity is None else images[:, :3]
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    scale: Tensor | float = 1.0
    pixel: Tensor | float = 0.0
    image: Tensor | float = 0.0
    offset: Tensor | float = 0.0
    # Each operation stands once in a policy: no other moved the part of the map that only this one moves.
    for name, numbers in draws.items():
        u = numbers.to(x.dtype).view(-1, 1, 1, 1)
        if name == "brightness":
            offset = u - 0.5
        elif name == "saturation":
            factor = 2 * u
            pixel, scale = (1 - factor) * scale, factor * scale
        else:
            factor = u + 0.5
            image = (1 - factor) * (scale + pixel)
            scale, pixel = factor * scale, factor * pixel
    grey = x.mean(dim=1, keepdim=True)
    y = scale * x + (pixel * grey + (image * grey.mean(dim=(2, 3), keepdim=True) + offset))
    y = y.to(images.dtype)
    return y if opacity is None else torch.cat([y, opacity], dim=1)


def host_sees(x: Tensor) -> bool:
    """Whether the host may look at these numbers: on a GPU it would wait for them, a compiled graph has none."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _translate(images: Tensor, shift: Tensor, config: DiffAugmentConfig) -> Tensor:
    # Copying rectangles is several times quicker than gathering.
    if host_sees(shift):
        return _copied_shift(images, shift, config.fill)
    return _gathered_shift(images, shift, config.fill)


def _gathered_shift(images: Tensor, shift: Tensor, fill: float) -> Tensor:
    count, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device) + shift[:, :1]
    columns = torch.arange(width, device=images.device) + shift[:, 1:]
    row, column = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    index = row[:, :, None] * width + column[:, None, :]
    moved = images.flatten(2).gather(2, index.view(count, 1, -1).expand(-1, channels, -1))
    inside = (row == rows)[:, :, None] & (column == columns)[:, None, :]
    return _keep(moved.view_as(images), inside, fill)


class _CopiedShift(torch.autograd.Function):
    """The same shift by one copied rectangle per image; its derivative is the opposite shift, filled with zero."""

    @staticmethod
    def forward(images: Tensor, shift: Tensor, fill: float) -> Tensor:
        height, width = images.shape[2:]
        moved = torch.full_like(images, fill)
        for target, source, (down, right) in zip(moved.unbind(), images.unbind(), shift.tolist(), strict=True):
            rows, columns = height - abs(down), width - abs(right)
            top, left = max(-down, 0), max(-right, 0)
            if rows > 0 and columns > 0:
                piece = source[:, top + down : top + down + rows, left + right : left + right + columns]
                target[:, top : top + rows, left : left + columns] = piece
        return moved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (shift,) = ctx.saved_tensors
        return _copied_shift(gradient, -shift, 0.0), None, None


_copied_shift: Callable[[Tensor, Tensor, float], Tensor] = _CopiedShift.apply


def _cut_out(images: Tensor, centre: Tensor, config: DiffAugmentConfig) -> Tensor:
    height, width = images.shape[2:]
    box = _sizes(config.cutout_ratio, height, width)
    rows, columns = (
        _outside(size, centre[:, axis, None], side)
        for axis, (size, side) in enumerate(zip((height, width), box, strict=True))
    )
    return _keep(images, rows[:, :, None] | columns[:, None, :], config.fill)


def _keep(images: Tensor, inside: Tensor, fill: float) -> Tensor:
    """The images where `inside` (N, H, W) is true, elsewhere `fill`."""
    # A product where masked_fill would do: on a CPU that is ten times slower.
    share = inside.to(images.dtype)[:, None]
    kept = images * share
    return kept + fill * (1 - share) if fill else kept


def _outside(size: int, centre: Tensor, length: int) -> Tensor:
    """(N, size): which places are not among the `length` around the centre (N, 1)."""
    place = torch.arange(length // 2, size + length // 2, device=centre.device) - centre
    return (place < 0) | (place >= length)


def _upscale(images: Tensor, uniform: Tensor, config: DiffAugmentConfig) -> Tensor:
    height, width = images.shape[2:]
    ratio = 1 + config.upscale_ratio * uniform.double()
    dtype = torch.promote_types(images.dtype, torch.float32)
    down, right = (_enlarging(size, ratio).to(dtype)[:, None] for size in (height, width))
    return (down @ images.to(dtype) @ right.transpose(-1, -2)).to(images.dtype)


def _enlarging(size: int, ratio: Tensor) -> Tensor:
    """(N, size, size): the matrix that enlarges a row of pixels by bilinear interpolation and keeps its middle."""
    enlarged = (size * ratio).floor()
    # As torch resizes: an axis whose size stays the same is copied, whatever the ratio.
    ratio = torch.where(enlarged == size, 1.0, ratio)
    start = ((enlarged - size) / 2).round()
    position = torch.arange(size, device=ratio.device, dtype=ratio.dtype)
    source = ((position + start[:, None] + 0.5) / ratio[:, None] - 0.5).clamp(0, size - 1)
    return (1 - (source[:, :, None] - position).abs()).clamp(min=0)


_GEOMETRY: dict[str, Callable[[Tensor, Tensor, DiffAugmentConfig], Tensor]] = {
    "translation": _translate,
    "cutout": _cut_out,
    "upscale": _upscale,
}
