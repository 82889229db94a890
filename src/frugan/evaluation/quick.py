"""The score that every training watches: cheap, without a network."""

import math
from dataclasses import dataclass

import torch

from frugan.data.dataset import Dataset
from frugan.evaluation.pictures import FIRST_SEED, choice
from frugan.metrics.multiscale import pixel_features, pixel_swd, spread
from frugan.metrics.neighbours import memorisation
from frugan.model import Model

PIXEL_SWD = "SWD-16px"


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
    chosen = choice(len(dataset), count, seed)
    reals = dataset.batch(chosen)
    classes = None if dataset.labels is None else [int(label) for label in dataset.labels[chosen]]
    fakes = model.sample(range(FIRST_SEED, FIRST_SEED + count), classes=classes, batch=32).cpu()
    generator = torch.Generator().manual_seed(seed)
    ratio = memorisation(pixel_features(fakes), pixel_features(reals)).ratio if count > 1 else math.nan
    return Evaluation(
        scores={PIXEL_SWD: pixel_swd(reals, fakes, generator)},
        protocol={"features": "pixels at 16 px", "directions": 256, "reals": count, "fakes": count, "seed": seed},
        fake_spread=spread(fakes),
        real_spread=spread(reals),
        nearest_neighbour_ratio=ratio if math.isfinite(ratio) else None,
    )
