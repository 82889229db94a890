"""Which pictures are compared: a choice of a set, or those that a model draws, in batches, as often as needed."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor

from frugan.data.dataset import Dataset
from frugan.evaluation.statistics import Together
from frugan.model import Model

FIRST_SEED, SEED_STEP = 10_000, 1_000_000
BATCH = 32
_MOST_HELD = 2**30  # bytes


def shuffled(available: int, count: int, seed: int, start: int = 0) -> Int64[np.ndarray, " N"]:
    """`count` of `available` rows in a random order that the seed decides, from the place `start` of that order on."""
    return np.random.Generator(np.random.Philox(seed)).permutation(available)[start : start + count]


def choice(available: int, count: int, seed: int) -> Int64[np.ndarray, " N"]:
    """The same rows as the first that `shuffled` gives, sorted."""
    return np.sort(shuffled(available, count, seed))


class Pictures:
    """Pictures to be looked at: `count` of them, what they are as plain data (`key`), drawn anew at each pass.

    `key` is None for pictures that nothing can be kept of, such as those of a model that trains on. Where they are
    expensive to draw (`is_held`) the first whole pass keeps them, as far as they fit into a gigabyte.
    """

    def __init__(
        self,
        draw: Callable[[], Iterator[UInt8[Tensor, "N C H W"]]],
        count: int,
        key: list[Any] | None,
        is_held: bool = False,
    ) -> None:
        self.count, self.key = count, key
        self._draw, self._is_held = draw, is_held
        self._held: list[Tensor] | None = None

    def batches(self, count: int | None = None) -> Iterator[UInt8[Tensor, "N C H W"]]:
        """All of them, or the first `count`; an even number at once but for the last."""
        wanted, done = self.count if count is None else count, 0
        kept: list[Tensor] | None = [] if self._is_held and self._held is None else None
        for part in self._draw() if self._held is None else self._held:
            images = part[: wanted - done]
            done += len(images)
            if kept is not None:
                kept = [*kept, images.cpu()] if part.nbytes * self.count <= _MOST_HELD * len(part) else None
            if done == self.count and kept is not None:
                self._held = kept
            yield images
            if done == wanted:
                return


def of_dataset(dataset: Dataset, rows: Int64[np.ndarray, " N"]) -> Pictures:
    """These rows of a set, known by their content."""
    is_all = len(rows) == len(dataset) and bool((rows == np.arange(len(rows))).all())
    key = ["pictures", dataset.fingerprint if is_all else dataset.take(rows).fingerprint]

    def draw() -> Iterator[Tensor]:
        return (dataset.batch(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH))

    return Pictures(draw, len(rows), key)


def of_model(
    model: Model,
    seeds: range,
    classes: list[int | str] | None,
    psi: float | int,
    noise: Literal["const", "none", "random"],
    is_lasting: bool,
    is_held: bool,
) -> Pictures:
    """What a model draws from these seeds; `is_lasting` where its weights stay as they are."""
    batch = model.generator.batch if isinstance(model.generator, Together) else None
    together = [] if batch is None else [batch]
    key = ["model", model.hash, seeds.start, len(seeds), psi, noise, classes, *together] if is_lasting else None

    def draw() -> Iterator[Tensor]:
        return model.stream(seeds, classes, psi=psi, noise=noise, batch=batch or BATCH)

    return Pictures(draw, len(seeds), key, is_held)


def of_translations(model: Model, rows: Int64[np.ndarray, " N"], is_lasting: bool, is_held: bool) -> Pictures:
    """What a model that is on a set makes of these rows of it."""
    assert model.sources is not None
    seeds = rows.tolist()
    key = ["translations", model.hash, model.sources.take(rows).fingerprint] if is_lasting else None
    return Pictures(lambda: model.stream(seeds, batch=BATCH), len(seeds), key, is_held)
