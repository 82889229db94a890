"""The sheets of a run: which pictures of a translation stand where, and which are scored."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from frugan.data import write
from frugan.data.dataset import Dataset, from_arrays
from frugan.data.maps import some_colours
from frugan.model import Model
from frugan.models.translator import ResnetConfig, ResnetTranslator
from frugan.training import grids
from frugan.training.classes import legend_of_sheets
from frugan.training.held_out import Split, hold_out
from frugan.training.recipe import EmaConfig, TrainingConfig

SIZE = 64


def config(columns: int = 6, rows: int = 2) -> TrainingConfig:
    return TrainingConfig(
        batch=2, total_images=4, ema=EmaConfig(halflife_images=0), grid_columns=columns, grid_rows=rows
    )


def flat(count: int, start: int, names: str = "p") -> Dataset:
    """Pictures of one grey each: start, start + 1, ..."""
    values = np.arange(start, start + count, dtype=np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (count, 3, SIZE, SIZE))
    return from_arrays(np.ascontiguousarray(images), names=[f"{names}{index}" for index in range(count)])


def translator(reverse: bool = False) -> Model:
    torch.manual_seed(0)
    nets = [ResnetTranslator(ResnetConfig(width=4, num_blocks=0)).eval() for _ in range(2)]
    return Model(nets[0], None, {}, nets[1] if reverse else None)


def cells(sheet: Tensor, columns: int, rows: int) -> list[list[Tensor]]:
    """The pictures in a sheet with one line of titles and no others."""
    gap = (sheet.shape[2] - columns * SIZE) // (columns + 1)
    top = sheet.shape[1] - rows * (SIZE + gap)
    step = SIZE + gap
    return [
        [
            sheet[:, top + r * step : top + r * step + SIZE, gap + c * step : gap + c * step + SIZE]
            for c in range(columns)
        ]
        for r in range(rows)
    ]


def test_source_output_target_with_those_kept_aside_first() -> None:
    held = {"source": flat(1, 100, "h"), "target": flat(1, 200, "h")}
    pictures = Split({"source": flat(9, 0), "target": flat(9, 50)}, held)
    model = translator()
    found = cells(grids.fakes(model, config(), pictures), 6, 2)
    sources = [int(found[r][c].float().mean()) for r in range(2) for c in (0, 3)]
    targets = [int(found[r][c].float().mean()) for r in range(2) for c in (2, 5)]
    assert sources == [100, 0, 1, 2] and targets == [200, 50, 51, 52]
    assert torch.equal(found[0][1], model.translate(held["source"].batch([0]))[0])
    examples = cells(grids.reals(pictures.learned, config(columns=4)), 4, 2)
    assert [int(examples[0][c].float().mean()) for c in range(4)] == [0, 50, 2, 52]


@pytest.mark.parametrize("both", [True, False])
def test_two_domains_show_both_directions(both: bool) -> None:
    pictures = Split({"source": flat(3, 0), "target": flat(5, 50, "q")}, {})
    model = translator(both)
    columns = 4 if both else 2
    found = cells(grids.fakes(model, config(columns=columns, rows=2), pictures), columns, 2)
    assert int(found[1][0].float().mean()) == 1
    if both:
        assert int(found[1][2].float().mean()) == 51
        assert torch.equal(found[1][3], model.reversed().translate(pictures.learned["target"].batch([1]))[0])


class Painter(Model):
    """Draws each class in a grey of its own, and remembers what it was asked for."""

    asked: ClassVar[list[tuple[list[int], list[int]]]] = []

    def sample(self, seeds: range, classes: list[int], **_: object) -> Tensor:  # type: ignore[override]
        self.asked.append((list(seeds), classes))
        return torch.tensor(classes, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, SIZE, SIZE).contiguous()


def test_many_classes_are_shown_from_the_first_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"c{number}" for number in range(87)] + ["犬"]
    pairs = [number for number in range(88) for _ in range(2)]
    greys = np.array(pairs, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, SIZE, SIZE), np.uint8)
    data = {"images": from_arrays(greys, pairs, names)}
    drawn: list[list[tuple[str, Tensor]]] = []
    labelled_grid = write.labelled_grid
    monkeypatch.setattr(write, "labelled_grid", lambda rows: drawn.append(rows) or labelled_grid(rows))
    Painter.asked.clear()
    painter = Painter(translator().generator, None, {"class_names": names})
    monkeypatch.setattr(Painter, "is_translator", False)
    grids.fakes(painter, config(columns=2), Split(data, {}))
    grids.reals(data, config(columns=2))
    fakes, reals = drawn
    assert len(fakes) == 32 and [title for title, _ in fakes] == [title for title, _ in reals]
    assert [fakes[row][0] for row in (0, 1, -1)] == ["c0", "c2", "#87"]
    assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(fakes, reals, strict=True))
    assert Painter.asked[-1] == ([174, 175], [87, 87])
    assert (
        grids.notes(data) == [f"in the sheets, {legend_of_sheets(names)}"] and grids.notes({"source": flat(2, 0)}) == []
    )
    assert legend_of_sheets(names) == (
        "32 of 88 classes are shown, evenly chosen; names that a picture cannot show have numbers: #87 is '犬'"
    )
    assert legend_of_sheets(names[:32]) == ""


def test_label_maps_are_coloured() -> None:
    maps = np.zeros((1, 1, SIZE, SIZE), np.uint8)
    maps[0, 0, 0, 0] = 2
    dataset = Dataset(store=maps, names=("a",), fingerprint="f", kind="labels", map_names=("x", "y", "z"))
    colours = some_colours(3)
    shown = grids.shown(dataset, [0])
    assert shown[0, :, 0, 0].tolist() == list(colours[2]) and shown[0, :, 1, 1].tolist() == list(colours[0])


def test_scores_are_of_pictures_kept_aside_where_they_are_enough() -> None:
    data = {"source": flat(40, 0), "target": flat(40, 50)}
    whole, part = hold_out(data, 0.1), hold_out(data, 0.5)
    assert [len(side or ()) for side in grids.judged(data, whole)] == [36, 36]
    assert [len(side or ()) for side in grids.judged(data, part)] == [20, 20]
    sources, reals = grids.judged({"images": data["source"]}, Split({}, {}))
    assert sources is None and reals is data["source"]
    assert write.grid(reals.batch([0])).shape[0] == 3
