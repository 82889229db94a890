"""Distances between sets of pictures that need no network: sliced Wasserstein distances, multi-scale similarity.

The sliced distance over the Laplacian pyramid and MS-SSIM are those of ProGAN (Karras et al. 2018), section 5; on
equal pictures, patches and directions they equal the authors' up to the rounding of float32.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

_BLOCK = 16  # directions sorted at once: at the authors' 2^21 descriptors 128 MiB a set
_PAIRS = 8  # pairs compared at once
_ROWS = 65_536  # descriptors whose moments are taken at once


def sliced_distances(
    reference: Float[Tensor, "N D"], others: Sequence[Float[Tensor, "M D"]], directions: Float[Tensor, "D K"]
) -> list[float]:
    """The sliced Wasserstein-1 distance of each of `others` to the reference: mean difference of sorted projections.

    `directions` are unit vectors, drawn by the caller. Source: ProGAN (Karras et al. 2018), section 5.
    Raises ValueError for sets of different sizes.
    """
    for other in others:
        if other.shape != reference.shape:
            shapes = f"{tuple(reference.shape)} and {tuple(other.shape)}"
            raise ValueError(f"the two sets must have the same shape, got {shapes}")
    sums = [0.0] * len(others)
    for block in directions.to(reference).split(_BLOCK, dim=1):
        ordered = _sorted(block.T @ reference.T)
        for place, other in enumerate(others):
            apart = (_sorted(block.T @ other.T) - ordered).abs_()
            sums[place] += float(apart.mean(dim=1, dtype=torch.float64).sum())
    return [total / directions.shape[1] for total in sums]


def _sorted(rows: Float[Tensor, "K N"]) -> Float[Tensor, "K N"]:
    # NumPy's sort gives no positions along with the values: measured 8 times as fast on a CPU.
    return torch.from_numpy(np.sort(rows.numpy())) if rows.device.type == "cpu" else torch.sort(rows).values


def unit_directions(dimensions: int, count: int, generator: torch.Generator) -> Float[Tensor, "D K"]:
    """Random directions, uniform on the sphere."""
    return F.normalize(torch.randn(dimensions, count, generator=generator), dim=0)


# ---- the cheap one --------------------------------------------------------------------------------------------------


def pixel_features(images: UInt8[Tensor, "N C H W"], side: int = 16) -> Float[Tensor, "N D"]:
    """Pictures averaged down to `side` x `side` pixels in [0, 1], one row each."""
    small = F.adaptive_avg_pool2d(images.float() / 255, min(side, images.shape[-1]))
    return small.flatten(1)


def pixel_swd(
    real_images: UInt8[Tensor, "N C H W"],
    fake_images: UInt8[Tensor, "N C H W"],
    generator: torch.Generator,
    num_directions: int = 256,
) -> float:
    """1000 times the sliced distance of the two sets seen at 16 x 16 pixels: cheap, rough, lower is better.

    It sees colours, layout and variety, not detail; it is no substitute for KID and never called so.
    """
    real, fake = pixel_features(real_images), pixel_features(fake_images)
    directions = unit_directions(real.shape[1], num_directions, generator)
    return 1000 * sliced_distances(real, [fake], directions)[0]


def spread(images: UInt8[Tensor, "N C H W"]) -> float:
    """How much pictures differ from one another: the standard deviation over the set, at 16 x 16 pixels, averaged."""
    return float(pixel_features(images).std(dim=0, correction=0).mean())


# ---- sliced Wasserstein distance over the Laplacian pyramid ---------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """The pyramid goes down to `lowest` pixels; `patches` of `patch_size` squared are looked at in each picture and
    level; `repeats` x `directions` projections are taken. The defaults are the authors'.
    """

    lowest: int = 16
    patches: int = 128
    patch_size: int = 7
    repeats: int = 4
    directions: int = 128

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("patches", "repeats", "directions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.patch_size < 1 or self.patch_size % 2 == 0:
            raise ValueError(f"patch_size must be odd and at least 1, got {self.patch_size}")
        if self.lowest < max(self.patch_size, 3):
            raise ValueError(f"lowest must be at least the patch size and 3, got {self.lowest}")

    def sizes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """(height, width) of each level, the finest first; a picture smaller than two of the lowest is one level.

        Raises ValueError where the picture is smaller than a patch.
        """
        if min(height, width) < max(self.patch_size, 3):
            raise ValueError(f"pictures must have at least {max(self.patch_size, 3)} px, got {height} x {width}")
        found = [(height, width)]
        while min(found[-1]) >= 2 * self.lowest:
            found.append(((found[-1][0] + 1) // 2, (found[-1][1] + 1) // 2))
        return tuple(found)


def laplacian_pyramid(images: Float[Tensor, "N C H W"], levels: int) -> list[Float[Tensor, "N C h w"]]:
    """What each octave of detail adds, the finest first; the last level is the blurred picture that is left.

    Source: Burt and Adelson 1983, with the binomial kernel 1 4 6 4 1, borders mirrored without repeating the edge.
    Sums of slices, not convolutions: those may be rounded to TF32 on a GPU.
    """
    found = []
    for _ in range(levels - 1):
        height, width = images.shape[-2:]
        smaller = _halve(_halve(images, 2), 3)
        found.append(images - _double(_double(smaller, 2, height), 3, width))
        images = smaller
    return [*found, images]


def _ends(values: Tensor, dim: int, index: int) -> Tensor:
    return values.narrow(dim, index % values.shape[dim], 1)


def _halve(values: Tensor, dim: int) -> Tensor:
    """Blurred along `dim`, every second value from the first on."""
    parts = [_ends(values, dim, 2), _ends(values, dim, 1), values, _ends(values, dim, -2), _ends(values, dim, -3)]
    padded = torch.cat(parts, dim)
    count = (values.shape[dim] + 1) // 2

    def shifted(by: int) -> Tensor:
        return padded.narrow(dim, by, padded.shape[dim] - by).index_select(dim, steps)

    steps = torch.arange(0, 2 * count, 2, device=values.device)
    return (shifted(0) + shifted(4) + 4 * (shifted(1) + shifted(3)) + 6 * shifted(2)) / 16


def _double(values: Tensor, dim: int, size: int) -> Tensor:
    """Zeros set between the values along `dim`, blurred, times two: in the two phases that this comes down to."""
    count = values.shape[dim]
    # The mirror stands at the last of the `size` places: on a value, or on the zero after it.
    after = _ends(values, dim, -1 if size == 2 * count else -2)
    padded = torch.cat([_ends(values, dim, 1), values, after], dim)
    before, behind = padded.narrow(dim, 0, count), padded.narrow(dim, 2, count)
    phases = torch.stack([(before + 6 * values + behind) / 8, (values + behind) / 2], dim + 1)
    return phases.flatten(dim, dim + 1).narrow(dim, 0, size)


class Descriptors:
    """Random patches of a set of pictures at every level of its pyramid, collected batch by batch.

    Where the patches lie is drawn here at once from `generator`, so that batches of any size give the same. Memory:
    4 bytes x pictures x patches x channels x patch_size^2 a level (16,384 RGB pictures: 1.2 GB), on the CPU.
    """

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        config: PyramidConfig,
        generator: torch.Generator,
        channels: int = 3,
    ) -> None:
        """Raises ValueError for pictures smaller than a patch, or fewer than one."""
        if count < 1:
            raise ValueError(f"at least one picture is needed, got {count}")
        self.config, self.count = config, count
        self._size, self._sizes, self._done = size, config.sizes(*size), 0
        side, radius = config.patch_size, config.patch_size // 2
        self._corners = []
        for height, width in self._sizes:
            rows, columns = (
                torch.randint(length - 2 * radius, (count, config.patches), generator=generator)
                for length in (height, width)
            )
            self._corners.append(rows * width + columns)
        self._rows = [torch.empty(count * config.patches, channels, side * side) for _ in self._sizes]

    @property
    def sides(self) -> tuple[int, ...]:
        """Pixels of the shorter side of each level, the finest first."""
        return tuple(min(size) for size in self._sizes)

    def add(self, images: UInt8[Tensor, "N C H W"]) -> None:
        """Look at the next pictures, on whatever device they are. Raises ValueError for too many, or another size."""
        begin, end = self._done, self._done + len(images)
        if end > self.count or tuple(images.shape[-2:]) != self._size:
            given = f"{end} of {images.shape[-2]} x {images.shape[-1]} px"
            raise ValueError(
                f"{self.count} pictures of {self._size[0]} x {self._size[1]} px were announced, got {given}"
            )
        side, patches = self.config.patch_size, self.config.patches
        levels = laplacian_pyramid(images.float(), len(self._sizes))
        for level, corners, rows in zip(levels, self._corners, self._rows, strict=True):
            area, width = level.shape[2] * level.shape[3], level.shape[3]
            inside = (torch.arange(side)[:, None] * width + torch.arange(side)).flatten()
            first = corners[begin:end] + torch.arange(len(images))[:, None] * area
            places = (first.flatten()[:, None] + inside).flatten().to(level.device)
            found = level.transpose(0, 1).flatten(1).index_select(1, places).unflatten(1, (-1, side * side))
            rows[begin * patches : end * patches] = found.transpose(0, 1).to(rows.device)
        self._done = end

    def normalised(self, level: int) -> Float[Tensor, "M D"]:
        """The descriptors of that level, every channel scaled to mean 0 and deviation 1 over the whole set.

        Raises ValueError before all pictures were added.
        """
        if self._done < self.count:
            raise ValueError(f"{self.count} pictures were announced, got {self._done}")
        return normalise(self._rows[level])


def normalise(patches: Float[Tensor, "M C P"]) -> Float[Tensor, "M D"]:
    """Patches as rows, every channel scaled to mean 0 and deviation 1 over all patches and positions.

    A channel that is the same everywhere becomes 0 (the authors divide by 0).
    """
    count = patches.shape[0] * patches.shape[2]
    total = torch.stack([part.sum(dim=(0, 2), dtype=torch.float64) for part in patches.split(_ROWS)]).sum(dim=0)
    centre = (total / count).float()[:, None]
    squares = [(part - centre).square_().sum(dim=(0, 2), dtype=torch.float64) for part in patches.split(_ROWS)]
    deviation = (torch.stack(squares).sum(dim=0) / count).sqrt().float()[:, None]
    return ((patches - centre) / torch.where(deviation > 0, deviation, 1.0)).flatten(1)


def pyramid_distances(
    reals: Descriptors, others: Sequence[Descriptors], generator: torch.Generator, device: torch.device | str = "cpu"
) -> list[dict[int, float]]:
    """1000 times the sliced distance of each of `others` to the reals, by the level's size in pixels; lower is better.

    One level at a time is on `device`. Directions are drawn from `generator`, the same for all of `others`. The
    authors' table adds the mean over the levels. Raises ValueError for sets of different numbers or sizes.
    """
    config = reals.config
    found: list[dict[int, float]] = [{} for _ in others]
    for level, side in enumerate(reals.sides):
        reference, *compared = (each.normalised(level).to(device) for each in (reals, *others))
        count = config.repeats * config.directions
        directions = unit_directions(reference.shape[1], count, generator)
        for place, value in enumerate(sliced_distances(reference, compared, directions)):
            found[place][side] = 1000 * value
    return found


# ---- multi-scale structural similarity ------------------------------------------------------------------------------

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
SMALLEST_SIMILAR = 2 ** (len(_WEIGHTS) - 1)
"""Pixels per side below which MS-SSIM has no five scales."""


def multiscale_similarity(first: UInt8[Tensor, "N C H W"], second: UInt8[Tensor, "M C H W"]) -> Float[Tensor, " N"]:
    """MS-SSIM of each pair, float64 in [0, 1]; 1 for equal pictures. Within one set, lower means more variety.

    Source: Wang et al. 2003, with their five weights; a Gaussian window of 11 pixels and sigma 1.5, both shrunk
    together where a scale is smaller than that; borders left out; contrast below 0 counts as 0. It runs in float64:
    variances are small differences of large squares, and float32 convolutions on a GPU may be rounded to TF32.
    Raises ValueError for sides under 16 px.
    """
    if first.shape != second.shape or min(first.shape[-2:]) < SMALLEST_SIMILAR:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"MS-SSIM needs pairs of one size, at least {SMALLEST_SIMILAR} px a side, got {shapes}")
    pair = torch.stack([first, second]).double()
    product = pair.new_ones(first.shape[0])
    for scale, weight in enumerate(_WEIGHTS):
        similarity, contrast = _similarity(pair[0], pair[1])
        is_last = scale == len(_WEIGHTS) - 1
        product = product * (similarity if is_last else contrast).clamp(min=0) ** weight
        if not is_last:
            pair = _average_down(pair.flatten(0, 1)).unflatten(0, (2, -1))
    return product


def _average_down(images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C h w"]:
    """2 x 2 means; the last row or column of an odd size counts twice."""
    odd = images.shape[-1] % 2, images.shape[-2] % 2
    padded = F.pad(images, (0, odd[0], 0, odd[1]), mode="replicate") if any(odd) else images
    return F.avg_pool2d(padded, 2)


def _similarity(x: Float[Tensor, "N C H W"], y: Float[Tensor, "N C H W"]) -> tuple[Tensor, Tensor]:
    """(SSIM, its contrast and structure part), each averaged over a picture (N,)."""
    size = min(_WINDOW, *x.shape[-2:])
    away = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    window = torch.exp(-away.square() / (2 * (size * _SIGMA / _WINDOW) ** 2))
    taps: list[float] = (window / window.sum()).tolist()
    means = torch.stack([x, y, x * x, y * y, x * y])
    for dim in (-1, -2):
        means = _filtered(means, taps, dim)
    mean_x, mean_y, xx, yy, xy = means
    both = mean_x * mean_y
    squares = mean_x.square() + mean_y.square()
    contrast = (2 * (xy - both) + _C2) / (xx + yy - squares + _C2)
    similarity = contrast * (2 * both + _C1) / (squares + _C1)
    return similarity.flatten(1).mean(dim=1), contrast.flatten(1).mean(dim=1)


def _filtered(values: Tensor, taps: Sequence[float], dim: int) -> Tensor:
    """Filtered along `dim`, where the window fits."""
    count = values.shape[dim] - len(taps) + 1
    total = torch.zeros_like(values.narrow(dim, 0, count))
    for place, tap in enumerate(taps):
        total.add_(values.narrow(dim, place, count), alpha=tap)
    return total


def mean_similarity(batches: Iterable[UInt8[Tensor, "N C H W"]]) -> tuple[float, int]:
    """(mean MS-SSIM over pairs of neighbours: first and second, third and fourth, ...; how many pairs).

    Batches of an even size; a picture left over in one is not counted. Raises ValueError without a pair.
    """
    total, pairs = 0.0, 0
    for images in batches:
        count = len(images) // 2
        for part in images[: 2 * count].split(2 * _PAIRS):
            total += float(multiscale_similarity(part[0::2], part[1::2]).sum())
        pairs += count
    if not pairs:
        raise ValueError("MS-SSIM needs at least one pair of pictures, got none")
    return total / pairs, pairs
