"""Whether the classes of a set suit a training: there at all, with pictures, and those that a run was begun with; which
of them its sheets show.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from frugan.config import counted, some
from frugan.data import write
from frugan.data.dataset import Dataset
from frugan.training.folder import RunError
from frugan.training.recipe import Recipe

_MOST_ROWS = 32  # classes in a sheet of a run


@runtime_checkable
class NeedsClasses(Protocol):
    """The settings of a task that can say whether it learns nothing from pictures without classes."""

    @property
    def needs_classes(self) -> bool:
        """Whether pictures must have classes, two or more."""
        ...


def require_classes(recipe: Recipe, data: Mapping[str, Dataset]) -> None:
    """Raise RunError where the recipe's task needs classes that the pictures do not have, with what to do."""
    if not isinstance(recipe.task, NeedsClasses) or not recipe.task.needs_classes:
        return
    for name, dataset in data.items():
        place = dataset.facts.path or "what was given"
        if dataset.labels is not None:
            found = len(np.unique(dataset.labels))
            if found > 1:
                continue
            raise RunError(
                f"the recipe {recipe.name!r} learns the difference between classes, and all pictures in {place} are of "
                f"one, {dataset.class_names[int(dataset.labels[0])]!r}: give at least two"
            )
        if recipe.data[name].labels == "none":
            raise RunError(
                f"the recipe {recipe.name!r} needs classes, and they were left out: leave --no-labels out, or use a "
                "recipe without classes, such as stylegan2 (`frugan recipes list`)"
            )
        noted = "".join(f" ({note})" for note in dataset.facts.notes)
        raise RunError(
            f"the recipe {recipe.name!r} needs classes, and the pictures in {place} have none{noted}: put each class "
            "in a sub-folder of its own (two or more), name them in a dataset.json, or use a recipe without classes, "
            "such as stylegan2 (`frugan recipes list`)"
        )


def class_counts(dataset: Dataset) -> list[int] | None:
    """How many pictures each class has; None without classes."""
    if dataset.labels is None:
        return None
    return [int(count) for count in np.bincount(dataset.labels, minlength=dataset.num_classes)]


def class_worries(dataset: Dataset) -> list[str]:
    """A line each for classes without pictures, and with a single one."""
    counts = class_counts(dataset) or []
    none = [name for name, count in zip(dataset.class_names, counts, strict=False) if count == 0]
    single = [name for name, count in zip(dataset.class_names, counts, strict=False) if count == 1]
    lines = []
    if none:
        lines.append(f"{_of_all(none, counts)} no picture here ({some(none)}): what is drawn of them means nothing")
    if single:
        lines.append(
            f"{_of_all(single, counts)} a single picture ({some(single)}): it can only be copied, and has no score by "
            "class; add pictures, join or drop such classes"
        )
    return lines


def class_changes(known: Sequence[str], dataset: Dataset) -> list[str]:
    """How the classes differ from those that a run was begun with, a line each."""
    names = dataset.class_names
    if list(known) == list(names):
        return []
    new, gone = [name for name in names if name not in known], [name for name in known if name not in names]
    lines = [f"{what} {some(items)}" for what, items in (("new classes:", new), ("missing classes:", gone)) if items]
    return lines or ["the same classes in another order"]


def check_number(known: Sequence[str], dataset: Dataset, place: object) -> None:
    """Raise RunError for another number of classes than the networks of a run in `place` have, forced or not."""
    if len(known) != len(dataset.class_names):
        begun = counted(len(known), "class")
        raise RunError(
            f"the run in {place} was begun with {begun} and there are {len(dataset.class_names):,} now "
            f"({'; '.join(class_changes(known, dataset))}): its networks cannot take them, forced or not. Give it the "
            "classes that it had, or begin a new run from it with --from and another --out"
        )


def shown_classes(names: Sequence[str]) -> list[int]:
    """The numbers of the classes that have a row in the sheets of a run: all, or of many evenly chosen ones."""
    return write.even(range(len(names)), _MOST_ROWS)


def legend_of_sheets(names: Sequence[str]) -> str:
    """What the sheets of a run do not show of its classes, in words: how many, and names; empty where nothing."""
    return write.legend(names, shown_classes(names), available=len(names))


def _of_all(names: Sequence[str], counts: Sequence[int]) -> str:
    return f"{len(names)} of {len(counts)} classes {'has' if len(names) == 1 else 'have'}"
