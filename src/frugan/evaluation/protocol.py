"""What can be asked of an evaluation, and what comes back: scores, and all that they depend on."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float, Int64
from torch import Tensor

from frugan.config import suggest
from frugan.metrics.multiscale import PyramidConfig
from frugan.metrics.path import PathConfig

PATHS: dict[str, PathConfig] = {
    "ppl": PathConfig(space="w", sampling="end"),
    "ppl-w-full": PathConfig(space="w", sampling="full"),
    "ppl-z-end": PathConfig(space="z", sampling="end"),
    "ppl-z-full": PathConfig(space="z", sampling="full"),
}
SWD, SIMILARITY, CLASSES = "swd", "ms-ssim", "classes"
METRICS: tuple[str, ...] = ("kid", "fid", "pr", "dc", "is", "nn", CLASSES, *PATHS, SWD, SIMILARITY)
"""What can be asked for: kernel and Fréchet distance, precision and recall, density and coverage, Inception score,
nearest training pictures, all of these class by class, path lengths; without a network the sliced distance over the
Laplacian pyramid and MS-SSIM.
"""

LEAST_PER_CLASS = 10
MANIFOLD_K, DENSITY_K, SPLITS, NEIGHBOURS = 3, 5, 10, 3
_LEAST = {
    **{"kid": 3, "fid": 2, "pr": MANIFOLD_K + 1, "dc": DENSITY_K + 1, "is": SPLITS, "nn": NEIGHBOURS + 1},
    **{SWD: 2, SIMILARITY: 2},
}


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Which scores, by which network, from how many pictures.

    `num_fake`: generated pictures (of a folder: None = all). `num_real`: None = all, at most 10,000; fewer than there
    are is a choice by `seed`. Fakes are the seeds 10000 + 1,000,000 x `seed` and up. `psi` 1 measures all the variety.
    `num_per_class`: pictures that a model draws of each class for "classes"; None = an equal share of `num_fake`, at
    least 10. `ddof`: divisor of the covariances, N - ddof. `subsets` of `subset_size`: for KID-subsets. `pyramid`: for
    swd, which takes as many reals as fakes.
    Raises ValueError.
    """

    metrics: tuple[str, ...] = ("kid", "fid", "pr")
    features: str = "efficientnet_lite0"
    num_fake: int | None = 2000
    num_real: int | None = None
    num_per_class: int | None = None
    psi: float = 1.0
    noise: Literal["const", "none", "random"] = "const"
    seed: int = 0
    ddof: int = 0
    subsets: int = 100
    subset_size: int = 1000
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.metrics:
            raise ValueError(f"at least one metric of {', '.join(METRICS)} is needed, got none")
        for name in self.metrics:
            if name not in METRICS:
                raise ValueError(f"there is no metric {name!r}{suggest(name, METRICS)}")
        for count, which in ((self.num_fake, "generated"), (self.num_real, "real")):
            if count is not None:
                check_count(self.metrics, count, which)
        for name in ("num_fake", "num_real", "num_per_class", "subsets", "subset_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.seed <= 4000:
            raise ValueError(f"seed must be 0 to 4000, got {self.seed}")
        if self.ddof not in (0, 1):
            raise ValueError(f"ddof must be 0 (divide by N) or 1 (divide by N - 1), got {self.ddof}")

    @property
    def needs_features(self) -> bool:
        """Whether a feature network is needed at all."""
        return not set(self.metrics) <= {SWD, SIMILARITY}

    @property
    def needs_mixed_features(self) -> bool:
        """Whether it needs them of pictures of all classes together."""
        return not set(self.metrics) <= {SWD, SIMILARITY, CLASSES}


@dataclass(frozen=True, kw_only=True)
class PixelProtocol:
    """What the scores without a network were computed from; None for what was not asked.

    `pictures`: of each side in the sliced distance, `floor_pictures` where reals are on both sides. `descriptors`:
    patches of each side and level. `pairs` and `real_pairs`: of MS-SSIM.
    """

    pictures: int | None = None
    floor_pictures: int | None = None
    descriptors: int | None = None
    pyramid: PyramidConfig | None = None
    pairs: int | None = None
    real_pairs: int | None = None

    def text(self, seed: int) -> list[str]:
        """It in lines."""
        lines = []
        if self.pyramid is not None:
            known, side = self.pyramid, self.pyramid.patch_size
            each = f"{self.pictures:,} pictures a side, {known.patches} patches of {side} x {side} px in each"
            ways = f"{known.repeats} x {known.directions} directions, seed {seed}"
            lines += [
                f"patches    {each} = {self.descriptors:,} a level; {ways}; SWD x 1000",
                f"           reals against reals: {self.floor_pictures:,} pictures a side, none on both",
            ]
        if self.pairs is not None:
            lines.append(f"pairs      {self.pairs:,} of generated, {self.real_pairs:,} of real pictures, seed {seed}")
        return lines


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything a score depends on: two scores compare only where all of this but `fakes` is equal.

    `seeds`, `psi`, `noise`: of the generated pictures, None where they came from files. `extractor`, `fingerprint`,
    `resizer`: None where no network was asked. `classes`: how those of the generated pictures were chosen; None where
    there are none. `statistics`: of batches, by which the model normalises, in words; None where it has none or does
    not say. `path_distance`: what path lengths were measured with. `pairs`: how many outputs of a translator were held
    against their own targets.
    """

    extractor: str | None
    fingerprint: str | None
    resizer: str | None
    fakes: str
    reals: str
    num_fake: int
    num_real: int
    available_real: int
    resolution: int
    seed: int
    seeds: str | None
    psi: float | None
    noise: str | None
    ddof: int
    subsets: int
    subset_size: int
    manifold_k: int = MANIFOLD_K
    density_k: int = DENSITY_K
    splits: int = SPLITS
    path_distance: str | None = None
    classes: str | None = None
    statistics: str | None = None
    pixels: PixelProtocol | None = None
    pairs: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClassProtocol:
    """What the scores by class were computed from; `seeds` None where the pictures came from files."""

    num_fake: int
    num_real: int
    num_features: int
    seeds: str | None
    ddof: int
    manifold_k: int = MANIFOLD_K
    density_k: int = DENSITY_K


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class: `values` by score, None where it has too few pictures for it.

    `own` is the share of its generated pictures whose nearest real one, of all classes, is of this class; `own-reals`
    the same of its real pictures (each without itself): what `own` can be at best, about, with this network.
    """

    name: str
    num_fake: int
    num_real: int
    values: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """The scores of all classes, in the order of the set."""

    rows: tuple[ClassScore, ...]
    protocol: ClassProtocol

    def mean(self, score: str) -> tuple[float, int]:
        """The mean of a score over the classes that have it, and how many these are."""
        found = [value for row in self.rows if (value := row.values[score]) is not None]
        return (math.fsum(found) / len(found) if found else math.nan), len(found)

    def as_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        means = {score: self.mean(score) for score in self.rows[0].values}
        return {
            "protocol": dataclasses.asdict(self.protocol),
            "means": {name: {"value": _finite(value), "classes": count} for name, (value, count) in means.items()},
            "classes": [dataclasses.asdict(row) for row in self.rows],
        }

    def text(self) -> list[str]:
        """It in lines: how it was made, a line for each class, the means, and which classes are too small for what."""
        known, scores = self.protocol, list(self.rows[0].values)
        drawn = "" if known.seeds is None else f", seeds {known.seeds}"
        lines = [
            f"classes    {known.num_fake:,} generated{drawn} against {known.num_real:,} real pictures, each class by "
            f"itself; k = {known.manifold_k} (precision, recall), {known.density_k} (density, coverage)",
            "           own: nearest real picture of all is of the same class; own-reals: the same of real pictures",
        ]
        if min(min(row.num_fake, row.num_real) for row in self.rows) < known.num_features:
            lines.append(
                f"           FD falls with the number of pictures where that is below {known.num_features:,}: compare "
                "it at equal numbers only, and trust KID"
            )
        width = max(12, *(len(row.name) for row in self.rows if len(row.name) <= 30))
        head = " ".join(f"{score:>9}" for score in scores)
        lines.append(f"  {'class':<{width}} {'fake':>6} {'real':>6} {head}")
        for row in self.rows:
            name = " ".join(row.name.split())
            name = name if len(name) <= width else name[: width - 1] + "…"
            cells = " ".join(f"{'-' if value is None else f'{value:.3g}':>9}" for value in row.values.values())
            lines.append(f"  {name:<{width}} {row.num_fake:>6} {row.num_real:>6} {cells}")
        means = [self.mean(score) for score in scores]
        cells = " ".join(f"{'-' if not count else f'{value:.3g}':>9}" for value, count in means)
        lines.append(f"  {'mean':<{width}} {'':>6} {'':>6} {cells}")
        return lines + self._too_small(scores)

    def _too_small(self, scores: Sequence[str]) -> list[str]:
        lines = []
        for score in scores:
            small = [
                f"{' '.join(row.name.split())} ({min(row.num_fake, row.num_real)})"
                for row in self.rows
                if row.values[score] is None
            ]
            if small:
                shown = ", ".join(small[:5]) + (f" and {len(small) - 5} more" if len(small) > 5 else "")
                lines.append(f"  too few pictures for {score}, so not in its mean: {shown}")
        return lines


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The nearest reals of each fake: `indices` into the set (N, 3), `distances`, and the verdict on copying.

    `ratio`: median distance fake to nearest real over median distance real to nearest other real; see
    `metrics.neighbours.Memorisation`.
    """

    indices: Int64[Tensor, "N k"]
    distances: Float[Tensor, "N k"]
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores by name, their spreads where they have one, and how they came about.

    Names carry the extractor: KID-efficientnet_lite0; FD-... is called FID only with the network it was defined by.
    Scores without a network have plain names. Spreads: KID a standard error, KID-subsets and IS a deviation over
    subsets and splits. `of_reals`: what real pictures score in the place of the generated ones, the noise floor.
    """

    values: dict[str, float]
    spreads: dict[str, float]
    protocol: Protocol
    seconds: float
    of_reals: dict[str, float] = field(default_factory=dict)
    neighbours: Neighbours | None = field(default=None, compare=False, repr=False)
    classes: ClassTable | None = field(default=None, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """As plain data for JSON; what is not a number is None."""
        return {
            "scores": {name: _finite(value) for name, value in self.values.items()},
            "spreads": {name: _finite(value) for name, value in self.spreads.items()},
            "of_reals": {name: _finite(value) for name, value in self.of_reals.items()},
            "protocol": dataclasses.asdict(self.protocol),
            **({} if self.classes is None else {"by_class": self.classes.as_dict()}),
            "seconds": round(self.seconds, 3),
        }

    def text(self) -> str:
        """The scores, a line each, under the lines of their protocol."""
        known = self.protocol
        drawn = "" if known.seeds is None else f", seeds {known.seeds}, psi {known.psi:g}, noise {known.noise}"
        available = f"{known.available_real:,} pictures at {known.resolution} px"
        lines = [
            f"generated  {known.num_fake:,} pictures: {known.fakes}{drawn}",
            f"real       {known.num_real:,} of {available}: {known.reals}",
        ]
        if known.extractor is not None:
            lines.append(
                f"features   {known.extractor} {known.fingerprint}, resized by {known.resizer}; covariance over "
                f"N{f' - {known.ddof}' if known.ddof else ''}, seed {known.seed}"
            )
        if known.classes is not None:
            lines.append(f"drawn      classes {known.classes}")
        if known.statistics is not None:
            lines.append(f"statistics {known.statistics}")
        if known.path_distance is not None:
            lines.append(f"paths      {known.path_distance}")
        if known.pairs is not None:
            apart = "mean absolute difference of pixels in [0, 1]; Euclidean distance of features; ± standard error"
            lines.append(f"paired     {known.pairs:,} outputs with their targets: {apart}")
        if known.pixels is not None:
            lines += known.pixels.text(known.seed)
        width = max(len(name) for name in self.values)
        for name, value in self.values.items():
            about = f" ± {self.spreads[name]:.2g}" if name in self.spreads else ""
            if name in self.of_reals:
                about += f"  (reals {self.of_reals[name]:.4g})"
            lines.append(f"  {name:<{width}}  {value:.4g}{about}")
        return "\n".join([*lines, *(() if self.classes is None else self.classes.text())])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def check_count(metrics: Sequence[str], count: int, which: str) -> None:
    """Raise ValueError where there are fewer pictures than one of the metrics needs."""
    least = max(_LEAST.get(name, 1) for name in metrics)
    if count < least:
        needy = max(metrics, key=lambda name: _LEAST.get(name, 1))
        raise ValueError(f"{needy} needs at least {least} {which} pictures, got {count}")
