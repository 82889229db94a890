"""Scores class by class: what a model makes of a class against the pictures of that class."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from frugan.config import some, suggest
from frugan.data import write
from frugan.data.dataset import Dataset
from frugan.data.digests import Progress
from frugan.evaluation.looking import features_of
from frugan.evaluation.pictures import Pictures, of_dataset, of_model, shuffled
from frugan.evaluation.protocol import (
    DENSITY_K,
    LEAST_PER_CLASS,
    MANIFOLD_K,
    NEIGHBOURS,
    ClassProtocol,
    ClassScore,
    ClassTable,
    EvaluationConfig,
)
from frugan.features import FeatureExtractor, as_rgb
from frugan.metrics.distribution import frechet_distance_of, kid_exact
from frugan.metrics.neighbours import density_coverage, memorisation, nearest, precision_recall
from frugan.model import Model

AS_THE_REALS = "as often as the real pictures have them, in a random order"
IN_TURN = "in turn, as often as each other"


def class_numbers(model: Model, reals: Dataset) -> list[int] | None:
    """The model's number of each class of the set, found by name; None where the set has no classes or others.

    Where one side calls its classes by numbers alone, they are taken to be numbered alike.
    """
    known, wanted = model.class_names, reals.class_names
    if reals.labels is None or not known:
        return None
    if set(wanted) <= set(known):
        return [known.index(name) for name in wanted]
    is_numbered = any(list(names) == [str(number) for number in range(len(names))] for names in (known, wanted))
    return list(range(len(wanted))) if is_numbered and len(wanted) <= len(known) else None


def classes_like(model: Model, reals: Dataset, count: int, seed: int) -> tuple[list[int | str] | None, str | None]:
    """(the class of each picture that the model is to draw, None: it takes them in turn; how they are chosen, in words,
    None for a model without classes).
    """
    if not model.class_names:
        return None, None
    numbers = class_numbers(model, reals)
    if numbers is None or reals.labels is None:
        why = "none" if reals.labels is None else "others"
        return None, f"{IN_TURN} (the real pictures have {why})"
    order = np.random.RandomState(seed).permutation(len(reals))
    return [numbers[int(reals.labels[order[index % len(order)]])] for index in range(count)], AS_THE_REALS


class ClassScores:
    """The scores of each class by one network; the reals are looked at once."""

    def __init__(
        self, reals: Dataset, extractor: FeatureExtractor, config: EvaluationConfig, most: int, tell: Progress
    ) -> None:
        """`most`: real pictures at most; of a larger set equally many of each class. ValueError without classes."""
        if reals.labels is None:
            raise ValueError(_unlabelled("real", reals))
        self.reals, self._extractor, self._config, self._tell = reals, extractor, config, tell
        self._rows = _rows_by_class(reals.labels, reals.num_classes, most, config.seed)
        self._all_rows = np.sort(np.concatenate(self._rows))
        self._real: Tensor | None = None

    # -- which pictures -----------------------------------------------------------------------------------------------

    def _fakes(self, fakes: Model | Dataset, first_seed: int, is_lasting: bool) -> tuple[Pictures, list[int]]:
        """The generated pictures, class after class, and how many there are of each."""
        names = self.reals.class_names
        if isinstance(fakes, Dataset):
            return self._folder(fakes)
        numbers = class_numbers(fakes, self.reals)
        if numbers is None:
            raise ValueError(self._strangers(fakes))
        each = self._each
        classes: list[int | str] = [number for number in numbers for _ in range(each)]
        seeds = range(first_seed, first_seed + len(classes))
        config = self._config
        drawn = of_model(fakes, seeds, classes, config.psi, config.noise, is_lasting, is_held=False)
        return drawn, [each] * len(names)

    def _folder(self, fakes: Dataset) -> tuple[Pictures, list[int]]:
        """Generated pictures that are there already; both sides must have the same classes, in any order."""
        names = self.reals.class_names
        if fakes.labels is None:
            raise ValueError(_unlabelled("generated", fakes))
        sides = (("real", names, fakes.class_names), ("generated", fakes.class_names, names))
        missing = [
            f"no {side} pictures have {some([name for name in others if name not in own])}"
            for side, own, others in sides
            if not set(others) <= set(own)
        ]
        if missing:
            raise ValueError(
                f"generated and real pictures must have the same classes: {', and '.join(missing)}. Give both the same "
                "names, or leave those out that one side lacks"
            )
        own = np.array([names.index(name) for name in fakes.class_names])[fakes.labels]
        rows = _rows_by_class(own, len(names), self._config.num_fake or len(fakes), self._config.seed)
        return of_dataset(fakes, np.concatenate(rows)), [len(part) for part in rows]

    def _strangers(self, model: Model) -> str:
        if not model.class_names:
            return "scores by class need a model with classes, and this one was trained without"
        missing = [name for name in self.reals.class_names if name not in model.class_names]
        near = suggest(missing[0], model.class_names, most=12)
        return f"the model knows no class {some(missing)}, which the real pictures have{near}"

    @property
    def _each(self) -> int:
        """How many pictures a model draws of each class."""
        config = self._config
        if config.num_per_class is not None:
            return config.num_per_class
        return max((config.num_fake or 0) // self.reals.num_classes, LEAST_PER_CLASS)

    def check(self, fakes: Model | Dataset) -> None:
        """Raise ValueError where generated and real classes do not fit together."""
        self._fakes(fakes, 0, is_lasting=False)

    # -- scores -------------------------------------------------------------------------------------------------------

    def score(self, fakes: Model | Dataset, first_seed: int, is_lasting: bool) -> ClassTable:
        """The table of all classes. Raises ValueError where generated and real classes do not fit together."""
        pictures, counts = self._fakes(fakes, first_seed, is_lasting)
        if self._real is None:
            reals = of_dataset(self.reals, self._all_rows)
            self._real = features_of(reals, self._extractor, ("pool",), self._tell, "looking at real pictures")["pool"]
        seen = features_of(pictures, self._extractor, ("pool",), self._tell, "looking at pictures class by class")
        parts = seen["pool"].split(counts)
        fake_owner = _owners(seen["pool"], self._real, leave_one_out=False)
        real_owner = _owners(self._real, self._real, leave_one_out=True)
        labels = torch.from_numpy(self._labels)
        starts = np.cumsum([0, *counts]).tolist()
        rows = []
        for number, name in enumerate(self.reals.class_names):
            self._tell(number, len(counts), "computing scores of classes")
            is_own = labels == number
            values = self._values(parts[number], self._real[is_own])
            owners = fake_owner[starts[number] : starts[number + 1]]
            values["own"] = _share(labels[owners] == number)
            values["own-reals"] = _share(labels[real_owner[is_own]] == number) if int(is_own.sum()) > 1 else None
            rows.append(ClassScore(name=name, num_fake=counts[number], num_real=int(is_own.sum()), values=values))
        self._tell(len(counts), len(counts), "computing scores of classes")
        return ClassTable(rows=tuple(rows), protocol=self._protocol(fakes, first_seed, sum(counts)))

    @property
    def _labels(self) -> Int64[np.ndarray, " N"]:
        assert self.reals.labels is not None
        return np.asarray(self.reals.labels[self._all_rows])

    def _protocol(self, fakes: Model | Dataset, first_seed: int, count: int) -> ClassProtocol:
        is_model = not isinstance(fakes, Dataset)
        return ClassProtocol(
            num_fake=count,
            num_real=len(self._all_rows),
            num_features=self._extractor.num_features,
            seeds=f"{first_seed}-{first_seed + count - 1}" if is_model else None,
            ddof=self._config.ddof,
        )

    def _values(self, x: Tensor, y: Tensor) -> dict[str, float | None]:
        """The scores of one class; None where it has too few pictures."""
        least, few = min(len(x), len(y)), LEAST_BY_SCORE
        values: dict[str, float | None] = dict.fromkeys(CLASS_SCORES)
        if least >= few["KID"]:
            values["KID"] = kid_exact(x, y).value
        if least >= few["FD"] + self._config.ddof:
            values["FD"] = frechet_distance_of(x, y, self._config.ddof)
        if least >= few["Precision"]:
            manifolds = precision_recall(x, y, MANIFOLD_K)
            values |= {"Precision": manifolds.precision, "Recall": manifolds.recall}
        if least >= few["Density"]:
            depths = density_coverage(x, y, DENSITY_K)
            values |= {"Density": depths.density, "Coverage": depths.coverage}
        if len(y) >= few["NN-ratio"] and len(x):
            ratio = memorisation(x, y).ratio
            values["NN-ratio"] = ratio if math.isfinite(ratio) else None
        return values

    def sheet(self, fakes: Model | Dataset, first_seed: int, most: int = 40) -> tuple[UInt8[Tensor, "3 H W"], str]:
        """(a row for each class: the fake nearest to a real picture of its class, its nearest reals, distances below;
        what it leaves unsaid of the classes, in words).

        Of more than `most` classes evenly chosen ones; classes without pictures on one side are left out.
        """
        pictures, counts = self._fakes(fakes, first_seed, is_lasting=True)
        seen = features_of(pictures, self._extractor, ("pool",), self._tell, "looking at pictures class by class")
        assert self._real is not None
        titles, starts, labels = write.titles(self.reals.class_names), np.cumsum([0, *counts]).tolist(), self._labels
        usable = [number for number, count in enumerate(counts) if count and (labels == number).any()]
        if not usable:
            raise ValueError("no class has both generated and real pictures")
        rows, closest, nears, captions = write.even(usable, most), [], [], []
        for number in rows:
            own = np.flatnonzero(labels == number)
            x = seen["pool"][starts[number] : starts[number + 1]]
            distances, indices = nearest(x, self._real[own], min(NEIGHBOURS, len(own)))
            best = int(distances[:, 0].argmin())
            closest.append(starts[number] + best)
            nears.append(as_rgb(self.reals.batch(self._all_rows[own[indices[best].numpy()]])))
            captions.append(["", *(f"{distance:.3g}" for distance in distances[best].tolist())])
        drawn = as_rgb(_chosen(pictures, closest)).split(1)
        shown = [
            (titles[number], torch.cat([fake, near])) for number, fake, near in zip(rows, drawn, nears, strict=True)
        ]
        heads = ["generated", "nearest real", "second", "third"]
        width = max(len(row) for _, row in shown)
        picture = write.labelled_grid(shown, column_titles=heads[:width], captions=captions)
        return picture, write.legend(self.reals.class_names, rows, available=len(usable))


CLASS_SCORES = ("FD", "KID", "Precision", "Recall", "Density", "Coverage", "NN-ratio")
LEAST_BY_SCORE = {"FD": 2, "KID": 3, "Precision": MANIFOLD_K + 1, "Density": DENSITY_K + 1, "NN-ratio": 2}


def _unlabelled(side: str, dataset: Dataset) -> str:
    noted = "".join(f" ({note})" for note in dataset.facts.notes)
    return f"scores by class need {side} pictures with classes: a sub-folder for each, or a dataset.json{noted}"


def _share(is_it: Tensor) -> float | None:
    return float(is_it.double().mean()) if len(is_it) else None


def _owners(queries: Tensor, reals: Tensor, leave_one_out: bool) -> Tensor:
    """The place of the nearest real of each."""
    return nearest(queries, reals, leave_one_out=leave_one_out)[1][:, 0]


def _chosen(pictures: Pictures, places: Sequence[int]) -> UInt8[Tensor, "N C H W"]:
    """The pictures at these places, from one pass: a model draws each of them once more at most."""
    found, done = dict[int, Tensor](), 0
    for part in pictures.batches(max(places) + 1):
        found |= {place: part[place - done].cpu() for place in places if done <= place < done + len(part)}
        done += len(part)
    return torch.stack([found[place] for place in places])


def _rows_by_class(
    labels: Int64[np.ndarray, " N"], num_classes: int, most: int, seed: int
) -> Sequence[Int64[np.ndarray, " n"]]:
    """The rows of each class: all, or where there are more than `most` in all, at most an equal share for each."""
    rows = [np.flatnonzero(labels == number) for number in range(num_classes)]
    if len(labels) <= most:
        return rows
    each = max(most // num_classes, 1)
    return [np.sort(own[shuffled(len(own), each, seed)]) for own in rows]
