"""`frugan sample` with classes, as a user types it, on a run of a few pictures whose classes have odd names."""

import html
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from frugan import cli, load
from frugan.cli import sample as sampling
from frugan.data import write
from frugan.data.write import read_metadata
from frugan.model import Model

NAMES = ("cat", "dog, big", "it's", "Straße", "été", "猫")
SORTED = tuple(sorted(NAMES))
TINY = (
    *("--recipe", "small", "--resolution", "8", "--images", "8", "--batch", "4"),
    *("--set", "task.generator.widths=[8, 8, 8, 8]", "--set", "task.discriminator.widths=[8, 8]"),
    *("--set", "training.snapshot_images=8", "--set", "training.score_images=8"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run: nine pictures of cats, three of each other class."""
    place = tmp_path_factory.mktemp("classes")
    noise = np.random.default_rng(0)
    for name in NAMES:
        (place / "odd" / name).mkdir(parents=True)
        for index in range(9 if name == "cat" else 3):
            pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "odd" / name / f"{index}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("FRUGAN_CACHE", str(place / "cache"))
        patch.setattr(sys, "argv", ["frugan", "train", "odd", *TINY])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
    yield place / "runs" / "odd"


def drawn(folder: Path) -> dict[tuple[str, int], Path]:
    """The pictures by class and seed, as they say themselves."""
    facts = {path: read_metadata(path) for path in folder.glob("seed*.png")}
    return {(known["frugan:class"], int(known["frugan:seed"])): path for path, known in facts.items()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def as_drawn(model: Model, seed: int, name: str, **more: object) -> np.ndarray:
    return model.sample([seed], classes=[name], **more)[0].permute(1, 2, 0).numpy()  # type: ignore[arg-type]


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[tuple[str, Tensor]], list[list[str]]]]:
    """The rows and captions of what is drawn with titles."""
    found = []
    labelled_grid = write.labelled_grid

    def note(rows: list[tuple[str, Tensor]], captions: list[list[str]] | tuple[()] = ()) -> Tensor:
        found.append((rows, list(captions)))
        return labelled_grid(rows, captions=captions)

    monkeypatch.setattr(write, "labelled_grid", note)
    return found


def test_the_run_says_what_its_sheets_cannot_show(run: Path) -> None:
    told = f"names that a picture cannot show have numbers: #{SORTED.index('Straße')} is 'Straße'"
    notes = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["text"] for line in notes if line.get("event") == "note"] == [f"in the sheets, {told}, #5 is '猫'"]
    assert html.escape(told) in (run / "report.html").read_text(encoding="utf-8")


def test_so_many_of_each_class_that_was_named(call, run: Path, tmp_path: Path, sheets) -> None:
    status, shown = call("sample", str(run), "--classes", "dog, big,cat", "--per-class", "3", "--out", "few")
    assert status == 0, shown
    found, model = drawn(tmp_path / "few"), load(str(run))
    assert set(found) == {(name, seed) for name in ("cat", "dog, big") for seed in range(3)}
    for (name, seed), path in found.items():
        assert np.array_equal(pixels(path), as_drawn(model, seed, name, psi=0.7))
    assert found["dog, big", 1].name == f"seed00001-{SORTED.index('dog, big')}-dog__big.png"
    (rows, _), *others = sheets
    assert not others and [(title, len(images)) for title, images in rows] == [("dog, big", 3), ("cat", 3)]
    assert "in the sheet" not in shown
    status, shown = call("sample", str(run), "--classes", "cat,cat", "--per-class", "2", "--out", "twice")
    assert status == 0 and "drawn: 2 pictures" in shown


def test_names_that_a_picture_cannot_show_are_told(call, run: Path, tmp_path: Path, sheets) -> None:
    command = ("sample", str(run), "--classes", "猫,STRASSE,été", "--per-class", "2", "--to", "grid", "--out", "grid")
    status, shown = call(*command)
    assert status == 0, shown
    cat, street = SORTED.index("猫"), SORTED.index("Straße")
    assert [title for title, _ in sheets[0][0]] == [f"#{cat}", f"#{street} Strae", "été"]
    assert f"names that a picture cannot show have numbers: #{cat} is '猫', #{street} is 'Straße'" in shown
    assert [path.name for path in (tmp_path / "grid").iterdir()] == ["grid.png"]


def test_a_single_picture_of_each_has_its_class_below(call, run: Path, sheets) -> None:
    assert call("sample", str(run), "-n", "6", "--out", "one")[0] == 0
    rows, captions = sheets[0]
    assert [len(images) for _, images in rows] == [6] and captions == [write.titles(SORTED)]


def test_of_more_classes_than_fit_some_are_shown_and_it_is_said(
    call, run: Path, sheets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_ROWS", 4)
    status, shown = call("sample", str(run), "--per-class", "2", "--to", "grid")
    assert status == 0 and "4 of 6 classes are shown, evenly chosen" in shown
    titles = write.titles(SORTED)
    assert [title for title, _ in sheets[0][0]] == [titles[number] for number in write.even(range(6), 4)]
    assert len(sheets[0][0]) == 4 and sheets[0][0][-1][0] == titles[-1]
    monkeypatch.setattr(sampling, "_ROW", 2)
    monkeypatch.setattr(sampling, "_ROWS", 2)
    status, shown = call("sample", str(run), "--per-class", "24", "--to", "grid", "--overwrite")
    assert status == 0 and "1 of 6 classes is shown, evenly chosen" in shown
    assert "the sheet shows the first 2 of 12 rows" in shown and len(sheets.pop()[0]) == 2
    status, shown = call("sample", str(run), "-n", "6", "--to", "grid", "--overwrite")
    assert status == 0 and "4 of 6 classes are shown, evenly chosen" in shown
    assert [len(part) for part in sheets[1][1]] == [2, 2]


def test_a_data_set_of_some_classes_has_seeds_of_its_own(call, run: Path, tmp_path: Path) -> None:
    command = ("sample", str(run), "--classes", "猫,cat", "--per-class", "3", "--to", "folder", "--out", "set")
    assert call(*command)[0] == 0
    table = json.loads((tmp_path / "set" / "dataset.json").read_text(encoding="utf-8"))
    assert tuple(table["class_names"]) == SORTED
    assert [label for _, label in table["labels"]] == [SORTED.index("猫")] * 3 + [SORTED.index("cat")] * 3
    model, psi = load(str(run)), {"psi": 0.7}
    for index, (file, label) in enumerate(table["labels"]):
        assert np.array_equal(pixels(tmp_path / "set" / file), as_drawn(model, index, SORTED[label], **psi))


def test_classes_as_often_as_in_the_data(call, run: Path, tmp_path: Path) -> None:
    assert call("sample", str(run), "-n", "96", "--balance", "data", "--to", "folder", "--out", "set")[0] == 0
    labels = [label for _, label in json.loads((tmp_path / "set" / "dataset.json").read_text())["labels"]]
    counts = Counter(SORTED[label] for label in labels)
    assert counts.most_common(1)[0][0] == "cat" and 24 < counts["cat"] < 50, "nine of 24 pictures are cats"
    command = ("sample", str(run), "-n", "12", "--balance", "data", "--classes", "été,it's", "--out", "two")
    assert call(*command)[0] == 0
    assert {name for name, _ in drawn(tmp_path / "two")} == {"été", "it's"}


def test_truncation_towards_the_class(call, run: Path, tmp_path: Path) -> None:
    psi = ("--classes", "cat,été", "--per-class", "2", "--psi", "0")
    assert call("sample", str(run), *psi, "--truncate-to", "class", "--out", "own")[0] == 0
    assert call("sample", str(run), *psi, "--out", "all")[0] == 0
    own, common = drawn(tmp_path / "own"), drawn(tmp_path / "all")
    assert read_metadata(own["cat", 0])["frugan:truncate_to"] == "class"
    assert "frugan:truncate_to" not in read_metadata(common["cat", 0])
    model = load(str(run))
    for (name, seed), path in own.items():
        assert np.array_equal(pixels(path), as_drawn(model, seed, name, psi=0.0, truncate_to="class"))
    assert np.array_equal(pixels(own["cat", 0]), pixels(own["cat", 1])), "psi 0 is the average of the class"
    assert not np.array_equal(pixels(own["cat", 0]), pixels(common["cat", 0]))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--classes", "catt"), "no class 'catt'; did you mean 'cat'?"),
        (("--classes", "dog big"), "did you mean 'dog, big'?"),
        (("--classes", "zebra"), "it has 'Straße', 'cat', 'dog, big'"),
        (("--classes", "6"), "0 to 5, got 6"),
        (("--classes", ","), "names no class"),
        (("--per-class", "0"), "1 or more, got 0"),
        (("--per-class", "2", "--seeds", "1-4"), "leave --seeds out"),
        (("--per-class", "2", "-n", "4"), "leave -n out"),
        (("--per-class", "2", "--balance", "data"), "leave --balance out"),
        (("--balance", "date"), "Choose from"),
        (("--truncate-to", "classes"), "Choose from"),
    ],
)
def test_mistakes_get_one_clear_line(call, run: Path, words: tuple[str, ...], part: str) -> None:
    status, shown = call("sample", str(run), *words)
    assert status != 0 and "Traceback" not in shown
    assert part in " ".join(shown.replace("│", " ").split())


@pytest.mark.parametrize("words", [("--per-class", "2"), ("--balance", "data"), ("--classes", "0")])
def test_a_model_without_classes_says_so(call, words: tuple[str, str]) -> None:
    status, shown = call("sample", "demo", *words)
    assert status == 2 and f"without classes: leave {words[0]} out" in shown


def test_a_truncation_to_classes_needs_some(call) -> None:
    status, shown = call("sample", "demo", "--truncate-to", "class", "--psi", "0.5", "-n", "2")
    assert status == 2 and "class" in shown and "Traceback" not in shown


def test_what_is_there_is_kept_unless_it_may_be_overwritten(call, tmp_path: Path) -> None:
    command = ("sample", "demo", "--out", "drawn", "--seeds")
    assert call(*command, "0-2")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "drawn").iterdir()}
    assert set(before) == {"grid.png", "seed00000.png", "seed00001.png", "seed00002.png"}
    status, shown = call(*command, "2,5", "--psi", "0.2")
    assert status == 2 and "seed00002.png and 1 more of these files exist already" in " ".join(shown.split())
    assert "--overwrite" in shown
    status, shown = call(*command, "7")
    assert status == 2 and f"{Path('drawn', 'grid.png')} exists already" in shown
    assert {path.name: path.read_bytes() for path in (tmp_path / "drawn").iterdir()} == before
    assert call(*command, "2,5", "--psi", "0.2", "--overwrite")[0] == 0
    assert read_metadata(tmp_path / "drawn" / "seed00002.png")["frugan:psi"] == "0.2"
    assert (tmp_path / "drawn" / "seed00005.png").is_file()
    assert (tmp_path / "drawn" / "seed00001.png").read_bytes() == before["seed00001.png"]


def test_a_film_that_is_there_is_kept(call, tmp_path: Path) -> None:
    (tmp_path / "walk.gif").write_bytes(b"mine")
    walk = ("sample", "demo", "--seeds", "1,2", "--to", "gif", "--fps", "2", "--out", "walk")
    for more in ((), ("--walk", "smooth", "--seconds", "4")):
        status, shown = call(*walk, *more)
        assert status == 2 and "walk.gif exists already" in shown
    assert (tmp_path / "walk.gif").read_bytes() == b"mine"
    assert call(*walk, "--overwrite")[0] == 0 and pixels(tmp_path / "walk.gif").size


@pytest.mark.parametrize(
    "words",
    [
        *[("sample", "demo", flag, "nan") for flag in ("--psi", "--fps", "--seconds", "--seconds-between")],
        *[("sample", "demo", "--psi", "inf"), ("sample", "demo", "--psi=-inf"), ("cost", "demo", "--ratio", "nan")],
        *[("evaluate", "demo", "--psi", "nan"), ("data", "augment-sheet", "--p", "nan", "--policy", "ada")],
    ],
)
def test_numbers_that_are_none_are_refused(call, tmp_path: Path, words: tuple[str, ...]) -> None:
    status, shown = call(*words)
    assert status != 0 and "must be a finite number" in shown and "Traceback" not in shown
    assert not any(tmp_path.iterdir())
