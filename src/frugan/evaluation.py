"""From generated pictures and a set to scores with their protocol: what was compared, how many, by which network."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from frugan.config import suggest
from frugan.data import write
from frugan.data.dataset import Dataset
from frugan.data.digests import Progress
from frugan.data.kept import keep, place_of, read_kept
from frugan.features import FeatureExtractor, as_rgb
from frugan.metrics.distribution import Estimate, frechet_distance_of, inception_score, kid_exact, kid_subsets
from frugan.metrics.multiscale import pixel_features, pixel_swd, spread
from frugan.metrics.neighbours import density_coverage, memorisation, nearest, precision_recall
from frugan.metrics.path import PathConfig, path_lengths, trimmed_mean
from frugan.model import Model

PIXEL_SWD = "SWD-16px"
PATHS: dict[str, PathConfig] = {
    "ppl": PathConfig(space="w", sampling="end"),
    "ppl-w-full": PathConfig(space="w", sampling="full"),
    "ppl-z-end": PathConfig(space="z", sampling="end"),
    "ppl-z-full": PathConfig(space="z", sampling="full"),
}
METRICS: tuple[str, ...] = ("kid", "fid", "pr", "dc", "is", "nn", *PATHS)
"""What can be asked for: kernel and Fréchet distance, precision and recall, density and coverage, Inception score,
nearest training pictures, path lengths.
"""

MANIFOLD_K, DENSITY_K, SPLITS, NEIGHBOURS = 3, 5, 10, 3
_LEAST = {"kid": 3, "fid": 2, "pr": MANIFOLD_K + 1, "dc": DENSITY_K + 1, "is": SPLITS, "nn": NEIGHBOURS + 1}
_FIRST_SEED, _SEED_STEP = 10_000, 1_000_000
_MOST_REALS = 10_000
_BATCH = 32
_FORMAT = 1  # raise it whenever the same pictures and extractor would give other features


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores by name, what they were computed from, how varied fakes and reals are, and how near fakes come to reals.

    `nearest_neighbour_ratio` (see `Memorisation.ratio`) is of the same thumbnails; None where most reals have doubles.
    """

    scores: dict[str, float]
    protocol: dict[str, str | int]
    fake_spread: float
    real_spread: float
    nearest_neighbour_ratio: float | None


def quick_score(model: Model, dataset: Dataset, num_images: int, seed: int = 0) -> Evaluation:
    """The pixel distance that a training watches: `num_images` fakes (fewer for a smaller set) against as many reals.

    Fakes are the seeds 10000, 10001, ..., so that the same pictures are compared each time; reals are a fixed choice.
    """
    count = min(num_images, len(dataset))
    chosen = _choice(len(dataset), count, seed)
    reals = dataset.batch(chosen)
    classes = None if dataset.labels is None else [int(label) for label in dataset.labels[chosen]]
    fakes = model.sample(range(_FIRST_SEED, _FIRST_SEED + count), classes=classes, batch=32).cpu()
    generator = torch.Generator().manual_seed(seed)
    ratio = memorisation(pixel_features(fakes), pixel_features(reals)).ratio if count > 1 else math.nan
    return Evaluation(
        scores={PIXEL_SWD: pixel_swd(reals, fakes, generator)},
        protocol={"features": "pixels at 16 px", "directions": 256, "reals": count, "fakes": count, "seed": seed},
        fake_spread=spread(fakes),
        real_spread=spread(reals),
        nearest_neighbour_ratio=ratio if math.isfinite(ratio) else None,
    )


def _choice(available: int, count: int, seed: int) -> Int64[np.ndarray, " N"]:
    return np.sort(np.random.Generator(np.random.Philox(seed)).permutation(available)[:count])


# ---- what is asked for, and what comes back -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Which scores, by which network, from how many pictures.

    `num_fake`: generated pictures (of a folder: None = all). `num_real`: None = all, at most 10,000; fewer than there
    are is a choice by `seed`. Fakes are the seeds 10000 + 1,000,000 x `seed` and up. `psi` 1 measures all the variety.
    `ddof`: divisor of the covariances, N - ddof. `subsets` of `subset_size`: for KID-subsets.
    Raises ValueError.
    """

    metrics: tuple[str, ...] = ("kid", "fid", "pr")
    features: str = "efficientnet_lite0"
    num_fake: int | None = 2000
    num_real: int | None = None
    psi: float = 1.0
    noise: Literal["const", "none", "random"] = "const"
    seed: int = 0
    ddof: int = 0
    subsets: int = 100
    subset_size: int = 1000

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.metrics:
            raise ValueError(f"at least one metric of {', '.join(METRICS)} is needed, got none")
        for name in self.metrics:
            if name not in METRICS:
                raise ValueError(f"there is no metric {name!r}{suggest(name, METRICS)}")
        for count, which in ((self.num_fake, "generated"), (self.num_real, "real")):
            if count is not None:
                _check_count(self.metrics, count, which)
        for name in ("num_fake", "num_real", "subsets", "subset_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.seed <= 4000:
            raise ValueError(f"seed must be 0 to 4000, got {self.seed}")
        if self.ddof not in (0, 1):
            raise ValueError(f"ddof must be 0 (divide by N) or 1 (divide by N - 1), got {self.ddof}")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything a score depends on: two scores compare only where all of this but `fakes` is equal.

    `seeds`, `psi`, `noise`: of the generated pictures, None where they came from files.
    """

    extractor: str
    fingerprint: str
    resizer: str
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
    Spreads: KID a standard error, KID-subsets and IS a deviation over subsets and splits.
    """

    values: dict[str, float]
    spreads: dict[str, float]
    protocol: Protocol
    seconds: float
    neighbours: Neighbours | None = field(default=None, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """As plain data for JSON; what is not a number is None."""
        return {
            "scores": {name: _finite(value) for name, value in self.values.items()},
            "spreads": {name: _finite(value) for name, value in self.spreads.items()},
            "protocol": dataclasses.asdict(self.protocol),
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
            f"features   {known.extractor} {known.fingerprint}, resized by {known.resizer}; covariance over "
            f"N{f' - {known.ddof}' if known.ddof else ''}, seed {known.seed}",
        ]
        width = max(len(name) for name in self.values)
        for name, value in self.values.items():
            about = f" ± {self.spreads[name]:.2g}" if name in self.spreads else ""
            lines.append(f"  {name:<{width}}  {value:.4g}{about}")
        return "\n".join(lines)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# ---- scoring --------------------------------------------------------------------------------------------------------

Features = dict[str, Tensor]


class Evaluator:
    """Scores generated pictures against one set of reals with one extractor; the reals are looked at once.

    Features are kept in the user's cache by content (pictures, weights, seeds), so that the same question is answered
    at once the next time. No random state but its own is touched.
    """

    def __init__(
        self, reals: Dataset, extractor: FeatureExtractor, config: EvaluationConfig, progress: Progress | None = None
    ) -> None:
        """Raises ValueError for fewer real pictures than are asked for or needed, or an extractor that cannot do it."""
        self.reals, self.extractor, self.config = reals, extractor, config
        self._tell: Progress = progress or (lambda done, total, text: None)
        wanted = min(len(reals), _MOST_REALS) if config.num_real is None else config.num_real
        if wanted > len(reals):
            raise ValueError(f"{wanted:,} real pictures were asked for, and there are {len(reals):,}")
        _check_count(config.metrics, wanted, "real")
        self._rows = _choice(len(reals), wanted, config.seed)
        if "is" in config.metrics and "logits" not in extractor.taps:
            raise ValueError(f"the Inception score needs class scores, which {extractor.name} does not give")
        self._taps = ("pool", "logits") if "is" in config.metrics else ("pool",)
        self._real_features: Features | None = None

    def score(self, fakes: Model | Dataset, *, is_lasting: bool = True) -> Scores:
        """The scores of a model, or of pictures that are there already.

        `is_lasting`: put the features into the cache; not for a model that trains on.
        Raises ValueError for too few pictures, a score that needs a model, or one the extractor cannot give.
        """
        began = time.monotonic()
        if fakes.resolution != self.reals.resolution:
            sizes = f"{fakes.resolution} and {self.reals.resolution} px"
            raise ValueError(f"generated and real pictures must have the same size, got {sizes}")
        count = self._count(fakes)
        if self._real_features is None:
            self._real_features = self._features_of_pictures(self.reals, self._rows, "looking at real pictures")
        if isinstance(fakes, Dataset):
            rows = _choice(len(fakes), count, self.config.seed)
            features = self._features_of_pictures(fakes, rows, "looking at the other pictures")
        else:
            features = self._features_of_model(fakes, count, is_lasting)
        found = self._distances(features, self._real_features)
        if not isinstance(fakes, Dataset):
            found |= self._paths(fakes, count)
        neighbours = self._neighbours(features, self._real_features) if "nn" in self.config.metrics else None
        if neighbours is not None:
            found["NN-ratio"] = neighbours.ratio
        name = self.extractor.name
        return Scores(
            values={f"{key}-{name}": _value(value) for key, value in found.items()},
            spreads={f"{key}-{name}": value.spread for key, value in found.items() if isinstance(value, Estimate)},
            protocol=self._protocol(fakes, count),
            seconds=time.monotonic() - began,
            neighbours=neighbours,
        )

    def _count(self, fakes: Model | Dataset) -> int:
        config = self.config
        if isinstance(fakes, Dataset):
            count = len(fakes) if config.num_fake is None else config.num_fake
            if count > len(fakes):
                raise ValueError(f"{count:,} generated pictures were asked for, and there are {len(fakes):,}")
            needs_model = [name for name in config.metrics if name in PATHS]
            if needs_model:
                raise ValueError(f"{needs_model[0]} is measured on a model, got pictures")
        elif config.num_fake is None:
            raise ValueError("how many pictures a model is to draw must be said: num_fake is None")
        else:
            count = config.num_fake
        _check_count(config.metrics, count, "generated")
        return count

    def _protocol(self, fakes: Model | Dataset, count: int) -> Protocol:
        config, extractor = self.config, self.extractor
        is_model = not isinstance(fakes, Dataset)
        seeds = self._seeds(count)
        reals = self.reals.facts.path or "pictures in memory"
        if isinstance(fakes, Dataset):
            what = f"{fakes.facts.path or 'pictures in memory'}, fingerprint {fakes.fingerprint[:12]}"
        else:
            what = f"model {fakes.hash}"
        return Protocol(
            extractor=extractor.name,
            fingerprint=extractor.fingerprint,
            resizer=extractor.resizer,
            fakes=what,
            reals=f"{reals}, fingerprint {self.reals.fingerprint[:12]}",
            num_fake=count,
            num_real=len(self._rows),
            available_real=len(self.reals),
            resolution=self.reals.resolution,
            seed=config.seed,
            seeds=f"{seeds.start}-{seeds.stop - 1}" if is_model else None,
            psi=config.psi if is_model else None,
            noise=config.noise if is_model else None,
            ddof=config.ddof,
            subsets=config.subsets,
            subset_size=config.subset_size,
        )

    # -- scores of features -------------------------------------------------------------------------------------------

    def _distances(self, fake: Features, real: Features) -> dict[str, Estimate | float]:
        found: dict[str, Estimate | float] = {}
        config, x, y = self.config, fake["pool"], real["pool"]
        for done, name in enumerate(config.metrics):
            self._tell(done, len(config.metrics), "computing scores")
            if name == "kid":
                found["KID"] = kid_exact(x, y)
                options = {"subsets": config.subsets, "subset_size": config.subset_size}
                found["KID-subsets"] = kid_subsets(x, y, seed=config.seed, **options)
            elif name == "fid":
                short = "FID" if self.extractor.name == "inception_2015" else "FD"
                found[short] = frechet_distance_of(x, y, config.ddof)
            elif name == "pr":
                manifolds = precision_recall(x, y, MANIFOLD_K)
                found |= {"Precision": manifolds.precision, "Recall": manifolds.recall}
            elif name == "dc":
                depths = density_coverage(x, y, DENSITY_K)
                found |= {"Density": depths.density, "Coverage": depths.coverage}
            elif name == "is":
                order = np.random.RandomState(config.seed).permutation(len(x))
                found["IS"] = inception_score(fake["logits"], SPLITS, torch.from_numpy(order).long())
        self._tell(len(config.metrics), len(config.metrics), "computing scores")
        return found

    def _neighbours(self, fake: Features, real: Features) -> Neighbours:
        distances, indices = nearest(fake["pool"], real["pool"], NEIGHBOURS)
        rows = torch.from_numpy(self._rows)
        verdict = memorisation(fake["pool"], real["pool"])
        return Neighbours(indices=rows[indices.cpu()], distances=distances.cpu(), ratio=verdict.ratio)

    def sheet(self, fakes: Model | Dataset, scores: Scores, rows: int = 16) -> UInt8[Tensor, "3 H W"]:
        """A picture with a row for each of `rows` fakes: the fake, its three nearest reals, distances below.

        The upper half are the fakes that came nearest to a real one, the lower half the first ones, as they come.
        Raises ValueError where the scores were made without "nn".
        """
        found = scores.neighbours
        if found is None:
            raise ValueError("the sheet needs the metric 'nn', which was not asked for")
        closest = found.distances[:, 0].argsort(stable=True)[: (rows + 1) // 2].tolist()
        others = [index for index in range(len(found.indices)) if index not in closest][: rows - len(closest)]
        shown, captions = [], []
        for place, index in enumerate([*closest, *others]):
            title = "closest" if place == 0 else "any" if place == len(closest) else ""
            near = self.reals.batch(found.indices[index].numpy())
            shown.append((title, torch.cat([as_rgb(self._fake(fakes, index, len(found.indices))), as_rgb(near)])))
            captions.append(["", *(f"{distance:.3g}" for distance in found.distances[index].tolist())])
        titles = ["generated", "nearest real", "second", "third"]
        return write.labelled_grid(shown, column_titles=titles, captions=captions)

    def _fake(self, fakes: Model | Dataset, index: int, count: int) -> UInt8[Tensor, "1 C H W"]:
        config = self.config
        if isinstance(fakes, Dataset):
            return fakes.batch(_choice(len(fakes), count, config.seed)[index : index + 1])
        classes = self._classes(count) if fakes.class_names else None
        own = None if classes is None else [classes[index]]
        return fakes.sample([self._seeds(count)[index]], classes=own, psi=config.psi, noise=config.noise).cpu()

    # -- features -----------------------------------------------------------------------------------------------------

    def _seeds(self, count: int) -> range:
        first = _FIRST_SEED + _SEED_STEP * self.config.seed
        return range(first, first + count)

    def _classes(self, count: int) -> list[int | str] | None:
        """Classes for the fakes as often as the real pictures have them, in a shuffled order."""
        if self.reals.labels is None:
            return None
        order = np.random.RandomState(self.config.seed).permutation(len(self.reals))
        return [int(self.reals.labels[order[index % len(order)]]) for index in range(count)]

    def _features_of_pictures(self, dataset: Dataset, rows: Int64[np.ndarray, " N"], text: str) -> Features:
        everything = len(rows) == len(dataset)
        content = dataset.fingerprint if everything else dataset.take(rows).fingerprint
        parts = (dataset.batch(rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH))
        return self._cached(["pictures", content], parts, len(rows), text, is_lasting=True)

    def _features_of_model(self, model: Model, count: int, is_lasting: bool) -> Features:
        config = self.config
        classes = self._classes(count) if model.class_names else None
        seeds = self._seeds(count)
        key = ["model", model.hash if is_lasting else "", seeds.start, count, config.psi, config.noise, classes]
        parts = model.stream(seeds, classes, psi=config.psi, noise=config.noise, batch=_BATCH)
        return self._cached(key, parts, count, "drawing and looking at pictures", is_lasting)

    def _cached(self, content: list[Any], parts: Iterator[Tensor], count: int, text: str, is_lasting: bool) -> Features:
        extractor = self.extractor
        asked = [_FORMAT, content, extractor.name, extractor.resizer, extractor.fingerprint, self._taps]
        path = place_of("features", asked)
        # An extractor whose weights are not known by a digest cannot be found again.
        is_kept = is_lasting and extractor.fingerprint != "unknown"
        found = read_kept(path) if is_kept else None
        if found is None:
            found = self._extract(parts, count, text)
            if is_kept:
                keep(path, found)
        return found

    def _extract(self, parts: Iterator[Tensor], count: int, text: str) -> Features:
        device = _device_of(self.extractor)
        # Larger blocks of memory than four pictures need are given back to the system and cleared each time: twice the
        # work (measured with EfficientNet-Lite0).
        most = 4 if device.type == "cpu" else _BATCH
        rows: dict[str, list[Tensor]] = {tap: [] for tap in self._taps}
        done, began = 0, time.monotonic()
        with torch.inference_mode():
            for images in (small for part in parts for small in part.split(most)):
                seen = self.extractor(as_rgb(images).to(device).float(), self._taps)
                for tap in self._taps:
                    rows[tap].append(seen[tap].float().cpu())
                done += len(images)
                left = (time.monotonic() - began) / done * (count - done)
                self._tell(done, count, f"{text} (about {_rough(left)} left)" if done < count else text)
        # Outside of inference mode, so that what is kept is an ordinary tensor.
        return {tap: torch.cat(blocks).clone() for tap, blocks in rows.items()}

    # -- path lengths -------------------------------------------------------------------------------------------------

    def _paths(self, model: Model, count: int) -> dict[str, Estimate | float]:
        """Path lengths over the extractor's features: squared distances, as LPIPS is one."""
        device = _device_of(self.extractor)

        def distance(a: Float[Tensor, "N 3 H W"], b: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
            features = self.extractor(torch.cat([a, b]).to(device))["pool"].double()
            first, second = features.chunk(2)
            apart: Tensor = (first - second).square().sum(dim=1).cpu()
            return apart

        found: dict[str, Estimate | float] = {}
        for name in self.config.metrics:
            if name in PATHS:
                config = PATHS[name]
                lengths = self._lengths(model, count, distance, config)
                found[f"PPL-{config.space}-{config.sampling}"] = trimmed_mean(lengths)
        return found

    def _lengths(
        self, model: Model, count: int, distance: Callable[[Tensor, Tensor], Tensor], config: PathConfig
    ) -> Float[Tensor, " N"]:
        generator = torch.Generator().manual_seed(self.config.seed)
        net, size = model.generator, model.generator.config
        parts = []
        with torch.inference_mode():
            for start in range(0, count, _BATCH):
                rows = min(_BATCH, count - start)
                z = [torch.randn(rows, size.z_dim, generator=generator).to(model.device) for _ in range(2)]
                position = torch.rand(rows, generator=generator).to(model.device)
                maps = [torch.randn(rows, *shape, generator=generator).to(model.device) for shape in net.noise_shapes()]
                names = [(start + row) % size.num_classes for row in range(rows)] if size.num_classes else None
                labels = None if names is None else model.one_hot(names)
                parts.append(
                    path_lengths(
                        lambda latents, labels=labels: net.mapping(latents, labels),  # type: ignore[misc]
                        lambda w, maps=maps: net.synthesis(w, noise=maps),  # type: ignore[misc]
                        distance,
                        (z[0], z[1]),
                        position,
                        config,
                    )
                )
                self._tell(start + rows, count, "walking short steps")
        return torch.cat(parts).clone()


def _value(value: Estimate | float) -> float:
    return value.value if isinstance(value, Estimate) else value


def _check_count(metrics: Sequence[str], count: int, which: str) -> None:
    least = max(_LEAST.get(name, 1) for name in metrics)
    if count < least:
        needy = max(metrics, key=lambda name: _LEAST.get(name, 1))
        raise ValueError(f"{needy} needs at least {least} {which} pictures, got {count}")


def _device_of(extractor: FeatureExtractor) -> torch.device:
    return next((parameter.device for parameter in extractor.parameters()), torch.device("cpu"))


def _rough(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
