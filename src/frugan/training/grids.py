"""The sheets of pictures that a run shows at its snapshots: what it learns from, and what comes out of the model."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from frugan.data import write
from frugan.data.dataset import Dataset
from frugan.data.maps import coloured, some_colours
from frugan.evaluation import are_paired
from frugan.features import as_rgb
from frugan.model import Model
from frugan.training.classes import legend_of_sheets, shown_classes
from frugan.training.held_out import Split
from frugan.training.recipe import TrainingConfig

_ENOUGH_HELD = 10  # fewer pictures than these give no score that means anything


def judged(data: Mapping[str, Dataset], pictures: Split) -> tuple[Dataset | None, Dataset]:
    """(the sources whose translations are scored, None for a generator; the pictures they are held against).

    Those of a translator were kept aside, where there are enough of them; a generator meets its whole set.
    """
    if "source" not in data:
        return None, next(iter(data.values()))
    held = [pictures.held[name] for name in ("source", "target") if name in pictures.held]
    is_enough = len(held) == 2 and min(map(len, held)) >= _ENOUGH_HELD
    pool = pictures.held if is_enough else pictures.learned
    return pool["source"], pool["target"]


def fakes(model: Model, config: TrainingConfig, pictures: Split) -> UInt8[Tensor, "C H W"]:
    """What a model makes: of the first seeds, a row for each class; or of fixed sources, shown beside them."""
    if model.is_translator:
        return _translations(model, config, pictures)
    names, columns = model.class_names, config.grid_columns
    if not names:
        seeds = range(columns * config.grid_rows)
        return write.grid(model.sample(seeds, psi=config.psi).cpu(), columns=columns)
    rows, titles = [], write.titles(names)
    for index in shown_classes(names):
        seeds = range(index * columns, (index + 1) * columns)
        rows.append((titles[index], model.sample(seeds, classes=[index] * columns, psi=config.psi).cpu()))
    return write.labelled_grid(rows)


def reals(data: Mapping[str, Dataset], config: TrainingConfig) -> UInt8[Tensor, "C H W"]:
    """What a model learns from, evenly chosen: pictures, a row for each class, or sources beside their targets."""
    if "source" in data:
        return _examples(data, config)
    dataset, columns = next(iter(data.values())), config.grid_columns
    if dataset.labels is None:
        return write.grid(dataset.batch(_even(len(dataset), columns * config.grid_rows)), columns=columns)
    rows, titles = [], write.titles(dataset.class_names)
    for index in shown_classes(dataset.class_names):
        members = (dataset.labels == index).nonzero()[0][:columns]
        if len(members):
            rows.append((titles[index], dataset.batch(members)))
    return write.labelled_grid(rows)


def notes(data: Mapping[str, Dataset]) -> list[str]:
    """What the sheets leave unsaid of the classes, in a line; none where nothing."""
    told = "" if "source" in data else legend_of_sheets(next(iter(data.values())).class_names)
    return [f"in the sheets, {told}"] if told else []


def shown(dataset: Dataset, indices: Sequence[int] | np.ndarray) -> UInt8[Tensor, "N 3 H W"]:
    """These pictures of a set as a person sees them: label maps in colours."""
    pictures = dataset.batch(indices)
    if dataset.kind == "labels":
        return coloured(pictures, dataset.map_colours or some_colours(len(dataset.map_names)))
    return as_rgb(pictures)


def _even(available: int, count: int) -> list[int]:
    return torch.linspace(0, available - 1, min(count, available)).long().tolist()


def _examples(data: Mapping[str, Dataset], config: TrainingConfig) -> UInt8[Tensor, "3 H W"]:
    count = _places(config, 2) * config.grid_rows
    sides = [shown(data[name], _even(len(data[name]), count)) for name in ("source", "target")]
    return _sheet(("source", "target"), sides, config)


def _translations(model: Model, config: TrainingConfig, pictures: Split) -> UInt8[Tensor, "3 H W"]:
    """Fixed sources, those kept aside first, what comes out, and what should; without pairs the other direction."""
    source, target = (_held_first(pictures, name) for name in ("source", "target"))
    is_paired = len(source) == len(target) and all(map(are_paired, source, target))
    count = _places(config, 3 if is_paired else 4 if model.reverse is not None else 2) * config.grid_rows
    titles, sides = ["source", "output"], [_seen(source, count), _made(model, source, count)]
    if is_paired:
        titles, sides = [*titles, "target"], [*sides, _seen(target, count)]
    elif model.reverse is not None:
        titles, sides = [*titles, "target", "back"], [*sides, _seen(target, count)]
        sides.append(_made(model.reversed(), target, count))
    return _sheet(titles, sides, config)


def _held_first(pictures: Split, name: str) -> list[Dataset]:
    return [split[name] for split in (pictures.held, pictures.learned) if name in split]


def _seen(sets: Sequence[Dataset], count: int) -> UInt8[Tensor, "n 3 H W"]:
    return torch.cat([shown(dataset, range(min(count, len(dataset)))) for dataset in sets])[:count]


def _made(model: Model, sets: Sequence[Dataset], count: int) -> UInt8[Tensor, "n 3 H W"]:
    parts = [model.on(dataset).sample(range(min(count, len(dataset)))) for dataset in sets]
    return as_rgb(torch.cat(parts)[:count].cpu())


def _places(config: TrainingConfig, titles: int) -> int:
    """How many groups of so many pictures stand side by side."""
    return max(config.grid_columns // titles, 1)


def _sheet(titles: Sequence[str], sides: Sequence[Tensor], config: TrainingConfig) -> UInt8[Tensor, "3 H W"]:
    """Groups of one picture of each side, several in a row."""
    places = _places(config, len(titles))
    groups = torch.stack([side[: min(map(len, sides))] for side in sides], dim=1)
    columns = min(places, len(groups))
    rows = [("", chunk.flatten(0, 1)) for chunk in groups.split(columns)]
    return write.labelled_grid(rows, column_titles=[*titles] * columns)
