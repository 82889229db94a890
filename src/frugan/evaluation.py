"""From a model and a set to scores with their protocol."""

from dataclasses import dataclass

import numpy as np
import torch

from frugan.data.dataset import Dataset
from frugan.metrics.multiscale import pixel_swd, spread
from frugan.model import Model

PIXEL_SWD = "SWD-16px"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores by name, what they were computed from, and how varied fakes and reals are."""

    scores: dict[str, float]
    protocol: dict[str, str | int]
    fake_spread: float
    real_spread: float


def quick_score(model: Model, dataset: Dataset, num_images: int, seed: int = 0) -> Evaluation:
    """The pixel distance that a training watches: `num_images` fakes (fewer for a smaller set) against as many reals.

    Fakes are the seeds 10000, 10001, ..., so that the same pictures are compared each time; reals are a fixed choice.
    """
    count = min(num_images, len(dataset))
    chosen = np.sort(np.random.Generator(np.random.Philox(seed)).permutation(len(dataset))[:count])
    reals = dataset.batch(chosen)
    classes = None if dataset.labels is None else [int(label) for label in dataset.labels[chosen]]
    fakes = model.sample(range(10_000, 10_000 + count), classes=classes, batch=32).cpu()
    generator = torch.Generator().manual_seed(seed)
    return Evaluation(
        scores={PIXEL_SWD: pixel_swd(reals, fakes, generator)},
        protocol={"features": "pixels at 16 px", "directions": 256, "reals": count, "fakes": count, "seed": seed},
        fake_spread=spread(fakes),
        real_spread=spread(reals),
    )
