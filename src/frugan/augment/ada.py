"""ADA: a pipe of random, differentiable changes whose probability follows how far the discriminator overfits.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", appendix B (the pipe) and section 3
(the control). An operation changes an image with its chance times p; images differ in what happens to them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from frugan.augment import diffaugment
from frugan.augment.diffaugment import Mode
from frugan.config import from_dict, suggest, to_dict
from frugan.ops.constants import constant, row
from frugan.ops.warp import filter_each, octaves, warp

_GROUPS = {
    "blit": ("flip", "quarter_turns", "shift"),
    "geom": ("scale", "rotation", "stretch", "fractional_shift"),
    "color": ("brightness", "contrast", "luma_flip", "hue", "saturation"),
    "filter": ("filter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
}
_OPERATIONS = tuple(name for group in _GROUPS.values() for name in group)
_SUMS = {"".join(group[0] for group in list(_GROUPS)[:count]): tuple(_GROUPS)[:count] for count in range(2, 7)}
PRESETS: dict[str, tuple[str, ...]] = {
    **_GROUPS,
    **{name: tuple(item for group in groups for item in _GROUPS[group]) for name, groups in _SUMS.items()},
}
"""The operations of each published set: the groups by name, and bg, bgc, bgcf, bgcfn, bgcfnc, which add them up."""


@dataclass(frozen=True, kw_only=True)
class AdaControllerConfig:
    """How p moves: every `every` iterations towards the point where mean sign(D(real)) is `target`.

    From 0 to 1 it takes `ramp_images` at least; the paper's are 500,000, and 100,000 from a trained model. `highest`
    bounds p (the authors let it grow beyond 1, where it says nothing).
    """

    target: float = 0.6
    every: int = 4
    ramp_images: int = 500_000
    highest: float = 1.0

    def __post_init__(self) -> None:
        if not -1 <= self.target <= 1:
            raise ValueError(f"target must be in [-1, 1], got {self.target}")
        if self.every < 1 or self.ramp_images < 1:
            raise ValueError(f"every and ramp_images must be at least 1, got {self.every} and {self.ramp_images}")
        if not 0 < self.highest <= 1:
            raise ValueError(f"highest must be in (0, 1], got {self.highest}")


@dataclass(frozen=True, kw_only=True)
class AdaConfig:
    """What is done to the images a discriminator sees, how often, how strongly and where.

    p: where the probability begins; it stays there if `controller` is null. `mode` as in DiffAugment.
    One number per operation is its chance, a factor on p from 0 (never) to 1; the default is the paper's set `bgc`
    (see `preset`). `rotation` stands for two, before and after stretching, which together happen with that chance.
    Strengths: `_ratio` of the side (`shift` the largest, `cutout` of the box), `_turns` the largest angle in half
    turns, `_std` the standard deviation: log2 of the factor for scale, stretch, contrast, saturation and filter, a part
    of the side for fractional_shift, plain for brightness and noise (images span 2).
    """

    p: float = 0.0
    controller: AdaControllerConfig | None = AdaControllerConfig()
    mode: Mode = "differentiable"
    flip: float = 1.0
    quarter_turns: float = 1.0
    shift: float = 1.0
    scale: float = 1.0
    rotation: float = 1.0
    stretch: float = 1.0
    fractional_shift: float = 1.0
    brightness: float = 1.0
    contrast: float = 1.0
    luma_flip: float = 1.0
    hue: float = 1.0
    saturation: float = 1.0
    filter: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0
    shift_ratio: float = 0.125
    scale_std: float = 0.2
    rotation_turns: float = 1.0
    stretch_std: float = 0.2
    fractional_shift_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_turns: float = 1.0
    saturation_std: float = 1.0
    filter_std: float = 1.0
    noise_std: float = 0.1
    cutout_ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"unknown mode '{self.mode}'{suggest(self.mode, get_args(Mode))}")
        for name in ("p", *_OPERATIONS, "shift_ratio", "cutout_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in (field.name for field in fields(self) if field.name.endswith(("_std", "_turns"))):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be zero or more, got {getattr(self, name)}")

    @property
    def operations(self) -> tuple[str, ...]:
        """The names of the operations that may happen, in order; none where the mode is "off"."""
        return () if self.mode == "off" else tuple(name for name in _OPERATIONS if getattr(self, name) > 0)


def preset(name: str, base: AdaConfig | None = None) -> AdaConfig:
    """The settings with the operations of one of the published sets, and no others; the rest as in `base`.

    Raises ValueError for an unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown set of augmentations '{name}'{suggest(name, PRESETS)}")
    return _only(base or AdaConfig(), PRESETS[name])


def _only(config: AdaConfig, names: tuple[str, ...]) -> AdaConfig:
    chances = {name: (getattr(config, name) or 1.0) if name in names else 0.0 for name in _OPERATIONS}
    return from_dict(AdaConfig, to_dict(config) | chances)


def geometry(config: AdaConfig) -> AdaConfig:
    """The same settings for maps of labels, which have no colours: only what moves or cuts out."""
    names = (*_GROUPS["blit"], *_GROUPS["geom"], *_GROUPS["cutout"])
    return _only(config, tuple(name for name in names if name in config.operations))


# -- control --------------------------------------------------------------------------------------------------------


def begin(config: AdaConfig) -> Float64[Tensor, "3"]:
    """The controller's state at the start: p, the sum of mean signs since its last move, and their number."""
    return torch.tensor([config.p, 0.0, 0.0], dtype=torch.float64)


def adapt(
    state: Float64[Tensor, "3"], real_sign: float, images: int, controller: AdaControllerConfig
) -> Float64[Tensor, "3"]:
    """The controller's state after an iteration that showed `images` reals, with mean sign(D(real)) over all of them.

    At every `every`-th call p <- p + sign(r - target) every images / ramp_images, kept in [0, highest], where r is the
    mean since the last move.
    """
    p, total, count = (float(value) for value in state)
    total, count = total + real_sign, count + 1
    if count < controller.every:
        return torch.tensor([p, total, count], dtype=torch.float64)
    excess = total / count - controller.target
    step = count * images / controller.ramp_images
    p += step * ((excess > 0) - (excess < 0))
    return torch.tensor([min(max(p, 0.0), controller.highest), 0.0, 0.0], dtype=torch.float64)


# -- draws ----------------------------------------------------------------------------------------------------------

# Numbers of each operation: gates (uniform), then uniform and normal ones of its own.
_NUMBERS = {
    "flip": (1, 1, 0),
    "quarter_turns": (1, 1, 0),
    "shift": (1, 2, 0),
    "scale": (1, 0, 1),
    "rotation": (2, 2, 0),
    "stretch": (1, 0, 1),
    "fractional_shift": (1, 0, 2),
    "brightness": (1, 0, 1),
    "contrast": (1, 0, 1),
    "luma_flip": (1, 1, 0),
    "hue": (1, 1, 0),
    "saturation": (1, 0, 1),
    "filter": (4, 0, 4),
    "noise": (1, 0, 1),
    "cutout": (1, 2, 0),
}


def draw(
    config: AdaConfig,
    uniform: Callable[..., Tensor],
    normal: Callable[..., Tensor],
    channels: int,
    height: int,
    width: int,
) -> dict[str, Tensor]:
    """The random numbers for one call of `apply` on images of this size, whatever p is; keyed by operation.

    `uniform(*shape)` gives (N, *shape) numbers from [0, 1), `normal(*shape)` standard normal ones: the caller owns the
    randomness, and may give constants to see everything at one percentile. Each operation has (N, k) numbers: gates,
    below whose chance it happens, then those of its own, raw; noise has `noise_field` (N, C, H, W) besides.
    Raises ValueError for an empty image size.
    """
    if min(channels, height, width) < 1:
        raise ValueError(f"channels, height and width must be at least 1, got {channels}, {height} and {width}")
    names = config.operations
    counts = [[gates + flat, bell] for gates, flat, bell in (_NUMBERS[name] for name in names)]
    flat_count, bell_count = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    if flat_count == 0:
        return {}
    flats = uniform(flat_count).split([count for count, _ in counts], dim=1)
    bells = (
        normal(bell_count).split([count for _, count in counts], dim=1)
        if bell_count
        else [flat[:, :0] for flat in flats]
    )
    draws = {name: torch.cat([flat, bell], dim=1) for name, flat, bell in zip(names, flats, bells, strict=True)}
    if "noise" in names:
        draws["noise_field"] = normal(channels, height, width)
    return draws


def for_channels(draws: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """The same draws for images of fewer channels, which take the first of the noise."""
    return {name: numbers[:, :channels] if name == "noise_field" else numbers for name, numbers in draws.items()}


class _Amounts:
    """What the draws mean at one p: (N, k) numbers per operation, 0 where it does not happen to an image."""

    def __init__(self, images: Tensor, config: AdaConfig, p: float | Tensor, draws: Mapping[str, Tensor]) -> None:
        self.images, self.config, self.p, self.draws = images, config, p, draws

    def chance(self, name: str) -> float | Tensor:
        chance = float(getattr(self.config, name)) * self.p
        # Two rotations, one of which happens at least with the chance meant.
        if name == "rotation":
            return 1 - ((1 - chance).sqrt() if isinstance(chance, Tensor) else math.sqrt(1 - chance))
        return chance

    def __getitem__(self, name: str) -> Tensor:
        gates, *own = _NUMBERS[name]
        if name not in self.config.operations:
            return self.images.new_zeros(len(self.images), sum(own))
        return _MEANINGS[name](self.drawn(name, (gates + sum(own),))[:, gates:], self.config) * self.happens(name)

    def happens(self, name: str) -> Tensor:
        gates = _NUMBERS[name][0]
        return self.drawn(name, (sum(_NUMBERS[name]),))[:, :gates] < self.chance(name)

    def drawn(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self.draws:
            raise ValueError(f"draws lack '{name}', got {', '.join(self.draws) or 'none'}: make them with draw()")
        numbers, wanted = self.draws[name], (len(self.images), *shape)
        if numbers.shape != wanted:
            raise ValueError(f"the draw for '{name}' must have shape {wanted}, got {tuple(numbers.shape)}")
        return numbers.to(self.images)


_MEANINGS: dict[str, Callable[[Tensor, AdaConfig], Tensor]] = {
    "flip": lambda u, config: (2 * u).floor(),  # mirrored or not
    "quarter_turns": lambda u, config: (4 * u).floor(),
    "shift": lambda u, config: (2 * u - 1) * config.shift_ratio,
    "scale": lambda z, config: z * config.scale_std,
    "rotation": lambda u, config: (2 * u - 1) * (math.pi * config.rotation_turns),
    "stretch": lambda z, config: z * config.stretch_std,
    "fractional_shift": lambda z, config: z * config.fractional_shift_std,
    "brightness": lambda z, config: z * config.brightness_std,
    "contrast": lambda z, config: z * config.contrast_std,
    "luma_flip": lambda u, config: (2 * u).floor(),
    "hue": lambda u, config: (2 * u - 1) * (math.pi * config.hue_turns),
    "saturation": lambda z, config: z * config.saturation_std,
    "filter": lambda z, config: z * config.filter_std,
    "noise": lambda z, config: z.abs() * config.noise_std,
    "cutout": lambda u, config: u,  # the centre
}


# -- the pipe -------------------------------------------------------------------------------------------------------


def apply(
    images: Float[Tensor, "N C H W"], config: AdaConfig, p: float | Float64[Tensor, ""], draws: Mapping[str, Tensor]
) -> Float[Tensor, "N C H W"]:
    """The images, each changed by the operations that its draws let happen at this p; gradients flow through.

    Any number of images of any size and float dtype (computed in at least float32), in [-1, 1]; the result may leave
    that range. With p = 0 they come back as they are; a p on the device, which is not looked at, must be above it.
    Colours need 1, 3 or 4 channels; a fourth is opacity, which is moved and cut out like the rest, but neither
    coloured, filtered nor given noise.
    The mode is not looked at, save that "off" changes nothing: ask `diffaugment.applies` where to call this.
    Deviations: the authors mirror a picture at its borders once, and what lies further out is 0; here mirroring has no
    end. Images to which no geometry happens are not resampled, which would change them by rounding only.
    Raises ValueError for p outside [0, 1], and where a draw is missing or does not fit the images.
    """
    if not isinstance(p, Tensor) and not 0 <= p <= 1:
        raise ValueError(f"p must be in [0, 1], got {p}")
    if not config.operations or (not isinstance(p, Tensor) and p == 0):
        return images
    x = images.to(torch.promote_types(images.dtype, torch.float32))
    amounts = _Amounts(x, config, p, draws)
    for names, change in _STAGES:
        if any(name in config.operations for name in names):
            x = change(x, amounts)
    return x.to(images.dtype)


def one_by_one(
    images: Float[Tensor, "N C H W"], config: AdaConfig, p: float, draws: Mapping[str, Tensor]
) -> Iterator[tuple[str, Float[Tensor, "N C H W"]]]:
    """Each operation's name with the images changed by it alone, in order."""
    for name in config.operations:
        yield name, apply(images, _only(config, (name,)), p, draws)


def _move(x: Tensor, amounts: _Amounts) -> Tensor:
    """Geometry, blitting included, in one resampling."""
    parts = [amounts[name] for name in (*_GROUPS["blit"], *_GROUPS["geom"])]
    is_moved = torch.cat(parts, dim=1).ne(0).any(dim=1)
    if not diffaugment.host_sees(is_moved):
        return torch.where(is_moved[:, None, None, None], _transformed(x, parts), x)
    chosen = is_moved.nonzero()[:, 0]
    if len(chosen) == len(x):
        return _transformed(x, parts)
    if len(chosen) == 0:
        return x
    return x.index_copy(0, chosen, _transformed(x[chosen], [part[chosen] for part in parts]))


def _transformed(x: Tensor, parts: Sequence[Tensor]) -> Tensor:
    return warp(x, *_backwards(x.shape[2], x.shape[3], *parts))


def _backwards(
    height: int,
    width: int,
    flip: Tensor,
    quarter_turns: Tensor,
    shift: Tensor,
    scale: Tensor,
    rotation: Tensor,
    stretch: Tensor,
    fractional_shift: Tensor,
) -> tuple[Tensor, Tensor]:
    """Where the pixel shown at (x, y) from the centre comes from: matrix (N, 2, 2) times it plus offset (N, 2).

    The inverse of: mirrored, turned by 90 degrees so many times, shifted, scaled, rotated, stretched, rotated, shifted.
    """
    sides = constant(row, width, height, device=scale.device, dtype=scale.dtype)
    turns = _rotations(torch.cat([quarter_turns * (math.pi / 2), rotation], dim=1))
    mirrored = torch.cat([1 - 2 * flip, torch.ones_like(flip)], dim=1)[:, :, None]
    stretched = torch.exp2(torch.cat([-stretch, stretch], dim=1) - scale)[:, :, None]
    matrix = turns[:, 1] @ (stretched * turns[:, 2])
    offset = matrix @ (fractional_shift * sides)[:, :, None] + (shift * sides).round()[:, :, None]
    blit = mirrored * turns[:, 0]
    return blit @ matrix, -(blit @ offset)[:, :, 0]


def _rotations(angles: Tensor) -> Tensor:
    """(N, k, 2, 2): the rotations by angles (N, k)."""
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([cos, -sin, sin, cos], dim=-1).view(*angles.shape, 2, 2)


# Colours. The luma axis is (1, 1, 1) / sqrt 3; mirroring, hue and saturation share it, so one sum of three parts tells
# what all of them do: along the axis, across it, and across it a quarter turn on.


def _luma_parts() -> Float[Tensor, "3 3 3"]:
    along = torch.full((3, 3), 1 / 3)
    turned = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    return torch.stack([along, torch.eye(3) - along, turned])


def _recolor(x: Tensor, amounts: _Amounts) -> Tensor:
    names = ("brightness", "contrast", "luma_flip", "hue", "saturation")
    brightness, contrast, luma_flip, hue, saturation = (amounts[name][:, :, None] for name in names)
    contrast = torch.exp2(contrast)
    luma = contrast * (1 - 2 * luma_flip)
    colors, opacity = _opacity_apart(x)
    if colors.shape[1] == 1:
        return (colors.flatten(2) * luma + luma * brightness).view_as(x)
    chroma = contrast * torch.exp2(saturation)
    along, across, turned = constant(_luma_parts, device=x.device, dtype=x.dtype)
    matrix = luma * along + chroma * hue.cos() * across + chroma * hue.sin() * turned
    changed = (matrix @ colors.flatten(2) + luma * brightness).view_as(colors)
    return changed if opacity is None else torch.cat([changed, opacity], dim=1)


def _opacity_apart(x: Tensor) -> tuple[Tensor, Tensor | None]:
    if x.shape[1] not in (1, 3, 4):
        raise ValueError(f"colours, filter and noise need 1, 3 or 4 channels, got {x.shape[1]}")
    return (x[:, :3], x[:, 3:]) if x.shape[1] == 4 else (x, None)


# Filtering, of octaves: the expected power is that of natural pictures.

_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)


def _power() -> Float64[Tensor, " bands"]:
    return torch.tensor(_POWER, dtype=torch.float64)


def _bands() -> Float64[Tensor, "bands taps"]:
    return octaves(len(_POWER))


def _amplify(x: Tensor, amounts: _Amounts) -> Tensor:
    gains = torch.exp2(amounts["filter"])
    power, bands = (constant(make, device=x.device, dtype=x.dtype) for make in (_power, _bands))
    gains = gains / (1 + power * (gains.square() - 1)).prod(dim=1, keepdim=True).sqrt()
    colors, opacity = _opacity_apart(x)
    changed = filter_each(colors, gains @ bands)
    return changed if opacity is None else torch.cat([changed, opacity], dim=1)


# Corruptions.


def _add_noise(x: Tensor, amounts: _Amounts) -> Tensor:
    noise = amounts["noise"][:, :, None, None] * amounts.drawn("noise_field", tuple(x.shape[1:]))
    if x.shape[1] == 4:
        noise = torch.cat([noise[:, :3], torch.zeros_like(noise[:, 3:])], dim=1)
    return x + noise


def _cut_out(x: Tensor, amounts: _Amounts) -> Tensor:
    half = amounts.config.cutout_ratio / 2
    columns, rows = (
        ((torch.arange(size, device=x.device) + 0.5) / size - centre[:, None]).abs() < half
        for size, centre in zip((x.shape[3], x.shape[2]), amounts["cutout"].unbind(1), strict=True)
    )
    rows = rows & amounts.happens("cutout")
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


_STAGES: tuple[tuple[tuple[str, ...], Callable[[Tensor, _Amounts], Tensor]], ...] = (
    ((*_GROUPS["blit"], *_GROUPS["geom"]), _move),
    (_GROUPS["color"], _recolor),
    (_GROUPS["filter"], _amplify),
    (_GROUPS["noise"], _add_noise),
    (_GROUPS["cutout"], _cut_out),
)
