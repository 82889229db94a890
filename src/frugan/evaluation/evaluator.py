"""The evaluator: generated pictures against one set of reals."""

import math
import time

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from frugan.data import write
from frugan.data.dataset import Dataset
from frugan.data.digests import Progress
from frugan.evaluation.classes import ClassScores, classes_like
from frugan.evaluation.looking import Features, device_of, features_of
from frugan.evaluation.paths import PathScores, check_paths
from frugan.evaluation.pictures import (
    FIRST_SEED,
    SEED_STEP,
    Pictures,
    choice,
    of_dataset,
    of_model,
    of_translations,
    shuffled,
)
from frugan.evaluation.pixels import PixelScores
from frugan.evaluation.protocol import (
    CLASSES,
    DENSITY_K,
    MANIFOLD_K,
    NEIGHBOURS,
    PATHS,
    SIMILARITY,
    SPLITS,
    SWD,
    EvaluationConfig,
    Neighbours,
    PixelProtocol,
    Protocol,
    Scores,
    check_count,
)
from frugan.evaluation.quick import PAIRED_L1, are_paired
from frugan.evaluation.statistics import check_statistics
from frugan.features import FeatureExtractor, as_rgb
from frugan.metrics.distribution import Estimate, frechet_distance_of, inception_score, kid_exact, kid_subsets
from frugan.metrics.multiscale import SMALLEST_SIMILAR
from frugan.metrics.neighbours import density_coverage, memorisation, nearest, precision_recall
from frugan.metrics.paired import feature_distances, mean_of, pixel_distances
from frugan.model import Model

_MOST_REALS = 10_000


class Evaluator:
    """Scores generated pictures against one set of reals with one extractor; the reals are looked at once.

    Features are kept in the user's cache by content (pictures, weights, seeds), so that the same question is answered
    at once the next time. No random state but its own is touched.
    """

    def __init__(
        self,
        reals: Dataset,
        extractor: FeatureExtractor | None,
        config: EvaluationConfig,
        progress: Progress | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """`extractor`: None where no score needs one. `device`: of the scores without one; None: the extractor's.

        Raises ValueError for fewer or smaller real pictures than are asked for or needed, or an extractor that cannot
        do it.
        """
        self.reals, self.extractor, self.config = reals, extractor, config
        self._tell: Progress = progress or (lambda done, total, text: None)
        wanted = min(len(reals), _MOST_REALS) if config.num_real is None else config.num_real
        if wanted > len(reals):
            raise ValueError(f"{wanted:,} real pictures were asked for, and there are {len(reals):,}")
        check_count(config.metrics, wanted, "real")
        self._rows = choice(len(reals), wanted, config.seed)
        self._taps = ("pool", "logits") if "is" in config.metrics else ("pool",)
        self._check_pictures()
        self._real_features: Features | None = None
        if device is None:
            device = "cpu" if extractor is None else device_of(extractor)
        where = torch.device(device)
        self._pixels = PixelScores(reals, wanted, config.pyramid, config.seed, where, self._tell)
        self._paths = None if extractor is None else PathScores(extractor, config.seed, self._tell)
        self._by_class: ClassScores | None = None
        if extractor is not None and CLASSES in config.metrics:
            self._by_class = ClassScores(reals, extractor, config, config.num_real or _MOST_REALS, self._tell)

    def _check_pictures(self) -> None:
        config, extractor = self.config, self.extractor
        height, width = self.reals.height, self.reals.width
        if config.needs_features and extractor is None:
            raise ValueError(f"a feature network is needed for {', '.join(config.metrics)}")
        if extractor is not None and "is" in config.metrics and "logits" not in extractor.taps:
            raise ValueError(f"the Inception score needs class scores, which {extractor.name} does not give")
        if SWD in config.metrics:
            config.pyramid.sizes(height, width)
        if SIMILARITY in config.metrics and min(height, width) < SMALLEST_SIMILAR:
            raise ValueError(
                f"{SIMILARITY} needs pictures of at least {SMALLEST_SIMILAR} px, got {min(height, width)} px"
            )

    def score(self, fakes: Model | Dataset, *, is_lasting: bool = True) -> Scores:
        """The scores of a model, or of pictures that are there already.

        A translator must be `on` its sources; where those are paired with the reals (by name) the distance of each
        output from its target is scored too: as pixels, and as features where those are looked at. `is_lasting`: put
        what was found into the cache; not for a model that trains on.
        Raises ValueError for too few pictures, classes that do not fit together, a score that needs a model, or one the
        extractor cannot give.
        """
        began = time.monotonic()
        if fakes.resolution != self.reals.resolution:
            sizes = f"{fakes.resolution} and {self.reals.resolution} px"
            raise ValueError(f"generated and real pictures must have the same size, got {sizes}")
        config, count = self.config, self._count(fakes)
        if self._by_class is not None:
            self._by_class.check(fakes)
        pictures = self._pictures(fakes, count, is_lasting)
        found = self._paired(fakes, pictures)
        neighbours = None
        if self.extractor is not None and config.needs_mixed_features:
            seen, neighbours = self._by_network(self.extractor, fakes, pictures)
            found = {f"{key}-{self.extractor.name}": value for key, value in seen.items()} | found
        values = {name: _value(value) for name, value in found.items()}
        table = None
        if self._by_class is not None and self.extractor is not None:
            table = self._by_class.score(fakes, self._seeds(1).start, is_lasting)
            for score in table.rows[0].values:
                if math.isfinite(mean := table.mean(score)[0]):
                    values[f"intra-{_called(score, self.extractor)}-{self.extractor.name}"] = mean
        spreads = {name: value.spread for name, value in found.items() if isinstance(value, Estimate)}
        of_reals: dict[str, float] = {}
        if isinstance(fakes, Dataset):
            # In a random order: neighbours in a folder are often alike.
            pictures = of_dataset(fakes, shuffled(len(fakes), count, config.seed))
        for metric, measure in ((SIMILARITY, self._pixels.similarity), (SWD, self._pixels.sliced)):
            if metric in config.metrics:
                scored, reference = measure(pictures)
                values |= scored
                of_reals |= reference
        return Scores(
            values=values,
            spreads=spreads,
            protocol=self._protocol(fakes, pictures),
            seconds=time.monotonic() - began,
            of_reals=of_reals,
            neighbours=neighbours,
            classes=table,
        )

    def _by_network(
        self, extractor: FeatureExtractor, fakes: Model | Dataset, pictures: Pictures
    ) -> tuple[dict[str, Estimate | float], Neighbours | None]:
        if self._real_features is None:
            reals = of_dataset(self.reals, self._rows)
            self._real_features = features_of(reals, extractor, self._taps, self._tell, "looking at real pictures")
        text = "looking at the other pictures" if isinstance(fakes, Dataset) else "drawing and looking at pictures"
        features = features_of(pictures, extractor, self._taps, self._tell, text)
        found = self._distances(extractor, features, self._real_features)
        if not isinstance(fakes, Dataset) and self._paths is not None:
            found |= self._paths.lengths(fakes, self.config.metrics, pictures.count)
        ours, theirs = self._common(fakes, pictures)
        if len(ours):
            apart = feature_distances(features["pool"][ours], self._real_features["pool"][theirs])
            found["paired"] = mean_of(apart)
        neighbours = self._neighbours(features, self._real_features) if "nn" in self.config.metrics else None
        if neighbours is not None:
            found["NN-ratio"] = neighbours.ratio
        return found, neighbours

    def _pictures(self, fakes: Model | Dataset, count: int, is_lasting: bool) -> Pictures:
        config = self.config
        if isinstance(fakes, Dataset):
            return of_dataset(fakes, choice(len(fakes), count, config.seed))
        passes = config.needs_mixed_features + (SWD in config.metrics) + (SIMILARITY in config.metrics)
        if fakes.sources is not None:
            is_held = passes + are_paired(fakes.sources, self.reals) > 1
            return of_translations(fakes, self._source_rows(fakes.sources, count), is_lasting, is_held)
        classes, _ = classes_like(fakes, self.reals, count, config.seed)
        return of_model(fakes, self._seeds(count), classes, config.psi, config.noise, is_lasting, is_held=passes > 1)

    def _count(self, fakes: Model | Dataset) -> int:
        config = self.config
        if isinstance(fakes, Dataset):
            count = len(fakes) if config.num_fake is None else config.num_fake
            if count > len(fakes):
                raise ValueError(f"{count:,} generated pictures were asked for, and there are {len(fakes):,}")
            needs_model = [name for name in config.metrics if name in PATHS]
            if needs_model:
                raise ValueError(f"{needs_model[0]} is measured on a model, got pictures")
        elif fakes.sources is not None:
            check_paths(fakes, config.metrics)
            count = min(len(fakes.sources), config.num_fake or len(fakes.sources))
        elif config.num_fake is None:
            raise ValueError("how many pictures a model is to draw must be said: num_fake is None")
        else:
            count = config.num_fake
            check_paths(fakes, config.metrics)
            check_statistics(fakes, config.metrics, count)
        check_count(config.metrics, count, "generated")
        return count

    def _protocol(self, fakes: Model | Dataset, pictures: Pictures) -> Protocol:
        config, extractor = self.config, self.extractor if self.config.needs_features else None
        is_model = not isinstance(fakes, Dataset) and fakes.sources is None
        seeds = self._seeds(pictures.count)
        reals = self.reals.facts.path or "pictures in memory"
        if isinstance(fakes, Dataset):
            what = f"{fakes.facts.path or 'pictures in memory'}, fingerprint {fakes.fingerprint[:12]}"
        else:
            what = f"model {fakes.hash}"
            if fakes.sources is not None:
                known = fakes.sources.facts.path or "pictures in memory"
                what += f" on {known}, fingerprint {fakes.sources.fingerprint[:12]}"
        has_paths = self._paths is not None and not set(PATHS).isdisjoint(config.metrics)
        return Protocol(
            extractor=extractor.name if extractor else None,
            fingerprint=extractor.fingerprint if extractor else None,
            resizer=extractor.resizer if extractor else None,
            fakes=what,
            reals=f"{reals}, fingerprint {self.reals.fingerprint[:12]}",
            num_fake=pictures.count,
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
            path_distance=self._paths.distance_name if has_paths and self._paths else None,
            classes=classes_like(fakes, self.reals, 0, 0)[1] if isinstance(fakes, Model) and is_model else None,
            statistics=None if isinstance(fakes, Dataset) else fakes.info.get("statistics"),
            pixels=self._pixel_protocol(pictures),
            pairs=len(self._common(fakes, pictures)[0]) or None,
        )

    def _pixel_protocol(self, pictures: Pictures) -> PixelProtocol | None:
        has_sliced, has_similarity = (metric in self.config.metrics for metric in (SWD, SIMILARITY))
        if not has_sliced and not has_similarity:
            return None
        count, pixels, pyramid = self._pixels.compared(pictures), self._pixels, self.config.pyramid
        return PixelProtocol(
            pictures=count if has_sliced else None,
            floor_pictures=pixels.floor_pictures(pictures) if has_sliced else None,
            descriptors=count * pyramid.patches if has_sliced else None,
            pyramid=pyramid if has_sliced else None,
            pairs=pixels.pairs(pictures) if has_similarity else None,
            real_pairs=pixels.pairs() if has_similarity else None,
        )

    # -- translations -------------------------------------------------------------------------------------------------

    def _source_rows(self, sources: Dataset, count: int) -> Int64[np.ndarray, " N"]:
        return choice(len(sources), count, self.config.seed)

    def _common(
        self, fakes: Model | Dataset, pictures: Pictures
    ) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
        """Places among the generated and among the real pictures that belong together; none where nothing is paired."""
        none = np.zeros(0, dtype=np.int64)
        if isinstance(fakes, Dataset) or fakes.sources is None or not are_paired(fakes.sources, self.reals):
            return none, none
        rows = self._source_rows(fakes.sources, pictures.count)
        _, ours, theirs = np.intersect1d(rows, self._rows, assume_unique=True, return_indices=True)
        return ours, theirs

    def _paired(self, fakes: Model | Dataset, pictures: Pictures) -> dict[str, Estimate | float]:
        """The mean absolute difference of outputs and targets, with its standard error; empty without pairs."""
        ours, theirs = self._common(fakes, pictures)
        if not len(ours):
            return {}
        parts, start = [], 0
        target_of = dict(zip(ours.tolist(), self._rows[theirs].tolist(), strict=True))
        for images in pictures.batches():
            places = [place for place in range(start, start + len(images)) if place in target_of]
            if places:
                targets = self.reals.batch([target_of[place] for place in places])
                parts.append(pixel_distances(images[[place - start for place in places]].cpu(), targets))
            start += len(images)
        return {PAIRED_L1: mean_of(torch.cat(parts))}

    # -- scores of features -------------------------------------------------------------------------------------------

    def _distances(self, extractor: FeatureExtractor, fake: Features, real: Features) -> dict[str, Estimate | float]:
        found: dict[str, Estimate | float] = {}
        config, x, y = self.config, fake["pool"], real["pool"]
        for done, name in enumerate(config.metrics):
            self._tell(done, len(config.metrics), "computing scores")
            if name == "kid":
                found["KID"] = kid_exact(x, y)
                options = {"subsets": config.subsets, "subset_size": config.subset_size}
                found["KID-subsets"] = kid_subsets(x, y, seed=config.seed, **options)
            elif name == "fid":
                found[_called("FD", extractor)] = frechet_distance_of(x, y, config.ddof)
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

    def class_sheet(self, fakes: Model | Dataset) -> tuple[UInt8[Tensor, "3 H W"], str]:
        """(a picture with a row for each class: the fake that came nearest to a real one of its class, and these; which
        classes it leaves out and what numbers in it stand for, empty where nothing).

        Raises ValueError where "classes" was not asked for, nothing was scored yet, or no class has both.
        """
        if self._by_class is None:
            raise ValueError("this sheet needs the metric 'classes', which was not asked for")
        return self._by_class.sheet(fakes, self._seeds(1).start)

    def _fake(self, fakes: Model | Dataset, index: int, count: int) -> UInt8[Tensor, "1 C H W"]:
        config = self.config
        if isinstance(fakes, Dataset):
            return fakes.batch(choice(len(fakes), count, config.seed)[index : index + 1])
        if fakes.sources is not None:
            return fakes.sample([int(self._source_rows(fakes.sources, count)[index])]).cpu()
        classes, _ = classes_like(fakes, self.reals, count, config.seed)
        own = None if classes is None else [classes[index]]
        return fakes.sample([self._seeds(count)[index]], classes=own, psi=config.psi, noise=config.noise).cpu()

    # -- features -----------------------------------------------------------------------------------------------------

    def _seeds(self, count: int) -> range:
        first = FIRST_SEED + SEED_STEP * self.config.seed
        return range(first, first + count)


def _called(score: str, extractor: FeatureExtractor) -> str:
    return "FID" if score == "FD" and extractor.name == "inception_2015" else score


def _value(value: Estimate | float) -> float:
    return value.value if isinstance(value, Estimate) else value
