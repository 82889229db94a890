"""The report on a set for translation: how it lies, what is wrong between its sides, and the advice drawn from it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frugan.cli import data as command
from frugan.data import DataError, PairReport, inspect_pairs, recommend_pairs

Draw = Callable[..., Image.Image]


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def look(place: Path, **changes: Any) -> PairReport:
    found = inspect_pairs(place, **changes)
    assert found is not None
    return found


def outlined(root: Path, picture: Draw, count: int, shift: int = 0, side: int = 70) -> Path:
    """Pairs of grey pictures and the same in colours, or of pictures that only have the same names."""
    rng = np.random.default_rng(0)
    shapes = [rng.integers(0, 2, (8, 8), dtype=np.uint8) * 255 for _ in range(count)]
    for number in range(count):
        drawn = Image.fromarray(shapes[number]).resize((side, side), Image.Resampling.NEAREST)
        other = Image.fromarray(shapes[(number + shift) % count]).resize((side, side), Image.Resampling.NEAREST)
        save(drawn, root / f"source/{number:02d}.png")
        save(Image.merge("RGB", [other, picture(number, side, side, "L"), other]), root / f"target/{number:02d}.png")
    return root


def test_pairs(tmp_path: Path, picture: Draw) -> None:
    outlined(tmp_path, picture, 12)
    save(picture(0, 60, 70), tmp_path / "target/03.png")
    save(picture(0, 70, 70), tmp_path / "source/only.png")
    (tmp_path / "target/05.png").write_bytes(b"broken")
    found = look(tmp_path)
    assert found.layout == "two folders, paired by name" and found.is_paired and not found.has_maps
    assert found.wrong_sizes == (("03", "source 70 x 70, target 60 x 70"),)
    assert dict(found.unpaired) == {
        "source/only.png": "it has no target of the same name, so it is left out (source)",
        "05": "the target cannot be read",
    }
    text = found.text()
    assert "03: source 70 x 70, target 60 x 70" in text and "05: not a picture" in text
    assert "unpaired       2" in text and "source: 12 pictures" in text
    advice = recommend_pairs(found)
    assert (advice.recipe, advice.resolution) == ("pix2pix", 64)
    assert any("1 pairs have two sizes" in reason for reason in advice.reasons)
    assert any("no colour" in reason for reason in advice.reasons)


def test_pairs_that_are_none_are_seen(tmp_path: Path, picture: Draw) -> None:
    right = look(outlined(tmp_path / "right", picture, 20))
    wrong = look(outlined(tmp_path / "wrong", picture, 20, shift=3))
    assert right.likeness is not None and right.likeness[0] > right.likeness[1] + 0.2 and not right.looks_unpaired
    assert wrong.looks_unpaired and any("no more alike" in reason for reason in recommend_pairs(wrong).reasons)
    assert recommend_pairs(wrong).recipe == "pix2pix"  # too few to decide it
    many = [look(outlined(tmp_path / f"many{shift}", picture, 32, shift=shift)) for shift in (0, 3)]
    assert [recommend_pairs(found).recipe for found in many] == ["pix2pix", "cyclegan"]


def test_two_domains(tmp_path: Path, picture: Draw) -> None:
    for number in range(3):
        save(picture(number, 300, 300), tmp_path / f"trainA/a{number}.png")
        save(picture(number, 300, 300), tmp_path / f"trainB/b{number}.png")
    found = look(tmp_path)
    assert found.layout == "two domains" and not found.is_paired and found.likeness is None
    advice = recommend_pairs(found)
    assert (advice.recipe, advice.resolution, advice.pictures) == ("cyclegan", 256, 3)
    assert any("few" in reason for reason in advice.reasons)
    assert found.contact_sheet().shape[0] == 3


def test_label_maps(tmp_path: Path, picture: Draw) -> None:
    for number in range(3):
        save(picture(number, 32, 16), tmp_path / f"images/{number}.jpg")
        save(Image.fromarray(np.full((16, 32), number, dtype=np.uint8)), tmp_path / f"labels/{number}.png")
    (tmp_path / "classes.json").write_text(json.dumps({"class_names": ["sky", "sea"], "colours": [[0, 0, 255]] * 2}))
    found = look(tmp_path)
    assert found.has_maps and not found.has_instances and found.source.labels == {"sky": 512, "sea": 512}
    assert found.source.unknown == (("2", "512 pixels of the label number 2"),)
    assert "unknown        1" in found.text() and "instances      none" in found.text()
    advice = recommend_pairs(found)
    assert advice.recipe == "gaugan" and not advice.edges
    told = "\n".join(advice.reasons)
    assert "1 label maps have unknown labels" in told and "edges=false" in told and "aspect=2.00" in told
    blue = found.source.thumbs[0][:, 48, 48]
    assert blue.tolist() == [0, 0, 255]  # seen in its colour


def test_colours_without_names_are_told(tmp_path: Path, picture: Draw) -> None:
    for number in range(2):
        save(picture(number), tmp_path / f"images/{number}.png")
        save(picture(number) if number else Image.new("L", (40, 40)), tmp_path / f"labels/{number}.png")
    found = look(tmp_path)
    assert "needs classes.json" in dict(found.source.skipped)["1"] and found.source.labels == {"0": 1600}


def test_two_pictures_in_one_file(tmp_path: Path, picture: Draw) -> None:
    for number in range(3):
        save(picture(number, 128, 64), tmp_path / f"{number}.jpg")
    found = look(tmp_path)
    assert found.layout.startswith("two pictures side by side") and found.source.sizes.tolist() == [[64, 64]] * 3
    assert found.contact_sheet().shape[2] > 6 * 96


def test_pictures_that_are_just_wide_are_no_pairs(tmp_path: Path, picture: Draw) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        cells = Image.fromarray(rng.integers(0, 256, (8, 16, 3), dtype=np.uint8))
        save(cells.resize((128, 64), Image.Resampling.NEAREST), tmp_path / f"{number}.png")
    assert inspect_pairs(tmp_path) is None


def test_a_single_pair(tmp_path: Path, picture: Draw) -> None:
    found = look(outlined(tmp_path, picture, 1))
    assert found.likeness is None and any("a single pair" in reason for reason in recommend_pairs(found).reasons)
    assert found.pictures().keys() == {"contact_sheet", "sizes"}


def test_what_is_no_set_of_pairs(tmp_path: Path, picture: Draw, folder: Path) -> None:
    assert inspect_pairs(folder) is None
    for letter in "abcdefg":  # classes, two of which are called like sides
        save(picture(ord(letter)), tmp_path / f"letters/{letter}/0.png")
    assert inspect_pairs(tmp_path / "letters") is None
    for kind in ("cats", "dogs"):
        save(picture(0), tmp_path / f"pets/{kind}/0.png")
    assert inspect_pairs(tmp_path / "pets") is None


def test_three_classes_are_no_two_sides(tmp_path: Path, picture: Draw) -> None:
    for name in ("a", "b", "c"):
        for number in range(4):
            save(picture(number), tmp_path / name / f"{number}.png")
    assert inspect_pairs(tmp_path) is None


def test_an_empty_side_is_told(tmp_path: Path, picture: Draw) -> None:
    save(picture(0), tmp_path / "trainA/0.png")
    (tmp_path / "trainB").mkdir()
    with pytest.raises(DataError, match="1 pictures in 'trainA', but none in a folder target/"):
        inspect_pairs(tmp_path)


def test_a_limit_keeps_pairs_together(tmp_path: Path, picture: Draw) -> None:
    found = look(outlined(tmp_path, picture, 12), limit=5)
    assert found.source.names == found.target.names and len(found.source.names) == 5
    assert any("12 on the smaller side" in reason for reason in recommend_pairs(found).reasons)


def test_the_command_shows_pairs(
    tmp_path: Path, picture: Draw, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outlined(tmp_path / "pairs", picture, 10)
    command.inspect("pairs")
    said = capsys.readouterr().out
    assert "two folders, paired by name" in said and "pix2pix: every source has its target" in said
    with Image.open(tmp_path / "pairs-inspection/contact_sheet.png") as sheet:
        assert sheet.width > 8 * 96
