"""The score that every training watches: cheap, without a network."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from frugan.data.dataset import Dataset
from frugan.evaluation.pictures import FIRST_SEED, choice
from frugan.metrics.multiscale import pixel_features, pixel_swd, spread
from frugan.metrics.neighbours import memorisation
from frugan.metrics.paired import mean_of, pixel_distances
from frugan.model import Model

PIXEL_SWD, PAIRED_L1 = "SWD-16px", "paired-L1"


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
    A translator must be `on` its sources. Where those are paired with the set (by name) the mean absolute difference of
    the pairs is scored too, and no nearest-neighbour ratio: to come close to a real is then the aim, not a copy.
    """
    if model.sources is not None:
        return _quick_translations(model, model.sources, dataset, num_images, seed)
    count = min(num_images, len(dataset))
    chosen = choice(len(dataset), count, seed)
    reals = dataset.batch(chosen)
    classes = None if dataset.labels is None else [int(label) for label in dataset.labels[chosen]]
    fakes = model.sample(range(FIRST_SEED, FIRST_SEED + count), classes=classes, batch=32).cpu()
    ratio = memorisation(pixel_features(fakes), pixel_features(reals)).ratio if count > 1 else math.nan
    return _evaluation(fakes, reals, seed, ratio)


def _quick_translations(model: Model, sources: Dataset, dataset: Dataset, num_images: int, seed: int) -> Evaluation:
    count = min(num_images, len(dataset), len(sources))
    rows = choice(len(dataset), count, seed)
    reals, is_paired = dataset.batch(rows), are_paired(sources, dataset)
    fakes = model.sample((rows if is_paired else choice(len(sources), count, seed)).tolist(), batch=32).cpu()
    found = _evaluation(fakes, reals, seed, math.nan)
    paired = {PAIRED_L1: mean_of(pixel_distances(fakes, reals)).value} if is_paired else {}
    return dataclasses.replace(found, scores=found.scores | paired)


def are_paired(sources: Dataset, targets: Dataset) -> bool:
    """Whether two sets show the same things in the same order: pairs have the same names."""
    return sources.names == targets.names


def _evaluation(
    fakes: UInt8[Tensor, "N C H W"], reals: UInt8[Tensor, "N C H W"], seed: int, ratio: float
) -> Evaluation:
    generator = torch.Generator().manual_seed(seed)
    count = len(reals)
    return Evaluation(
        scores={PIXEL_SWD: pixel_swd(reals, fakes, generator)},
        protocol={"features": "pixels at 16 px", "directions": 256, "reals": count, "fakes": count, "seed": seed},
        fake_spread=spread(fakes),
        real_spread=spread(reals),
        nearest_neighbour_ratio=ratio if math.isfinite(ratio) else None,
    )
