"""The report on a source, its duplicates, its pictures, and the advice drawn from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frugan.data import DataError, Report, inspect, recommend
from frugan.data.inspection import leaders


def report(count: int = 5000, side: int = 256, **changes: Any) -> Report:
    """A report on `count` square colour pictures, made up."""
    base = Report(
        path="set",
        kind="folder",
        names=tuple(f"{index}.png" for index in range(count)),
        sizes=np.full((count, 2), side, dtype=np.int64),
        modes={"colour": count},
        formats={"PNG": count},
        classes={},
        num_transparent=0,
        num_grey=0,
        exact=(),
        near=(),
        skipped=(),
        ignored={},
        notes=(),
        has_glyphs=False,
        num_left_out=0,
        thumbs=np.zeros((2, 3, 96, 96), dtype=np.uint8),
        thumb_classes=(),
    )
    return replace(base, **changes)


# ---- looking -------------------------------------------------------------------------------------------------------


def test_what_is_in_a_folder(tmp_path: Path, picture: Any) -> None:
    picture(0, 40, 30).save(tmp_path / "a.png")
    picture(1, 600, 500).save(tmp_path / "b.jpg")
    picture(2, 50, 90, "L").save(tmp_path / "c.png")
    Image.new("RGBA", (64, 64), (255, 0, 0, 128)).save(tmp_path / "d.webp", lossless=True)
    (tmp_path / "e.png").write_text("words")
    (tmp_path / "f.txt").write_text("words")
    told: list[int] = []
    found = inspect(tmp_path, progress=lambda done, total, text: told.append(done))
    assert found.names == ("a.png", "b.jpg", "c.png", "d.webp")
    assert found.sizes.tolist() == [[40, 30], [600, 500], [50, 90], [64, 64]]
    assert found.modes == {"colour": 2, "colour with transparency": 1, "grey": 1}
    assert found.formats == {"JPEG": 1, "PNG": 2, "WEBP": 1}
    assert (found.num_transparent, found.num_grey) == (1, 1)
    assert [name for name, _ in found.skipped] == ["e.png"] and found.ignored == {".txt": 1}
    assert found.histogram() == {"0-31": 1, "32-63": 1, "64-127": 1, "128-255": 0, "256-511": 1}
    assert found.exact == () and found.near == ()
    assert told == [1, 2, 3, 4, 5]
    text = found.text()
    for words in ("4 pictures in", "smallest 40 x 30", "largest 600 x 500", "e.png: not a picture", "(.txt 1)"):
        assert words in text


def test_upright_sizes_are_reported(tmp_path: Path, picture: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, 60, 20).save(tmp_path / "a.jpg", exif=exif)
    assert inspect(tmp_path).sizes.tolist() == [[20, 60]]


def test_classes_are_counted_and_shown_in_rows(tmp_path: Path, picture: Any) -> None:
    for index in range(30):
        name = tmp_path / ("cat" if index % 3 else "dog") / f"{index}.png"
        name.parent.mkdir(exist_ok=True)
        picture(index).save(name)
    found = inspect(tmp_path)
    assert found.classes == {"cat": 20, "dog": 10}
    assert sorted(found.thumb_classes) == ["cat"] * 8 + ["dog"] * 8
    sheet = found.contact_sheet()
    assert sheet.dtype == torch.uint8 and sheet.shape[2] > 8 * 96 and 2 * 96 < sheet.shape[1] < 4 * 96


def test_pictures_of_the_report(tmp_path: Path, picture: Any) -> None:
    for index in range(130):
        picture(index, 20, 20).save(tmp_path / f"{index}.png")
    found = inspect(tmp_path)
    assert len(found.thumbs) == 100
    drawn = found.pictures()
    assert set(drawn) == {"contact_sheet", "sizes"}
    assert all(image.shape[0] == 3 and len(image.unique()) > 5 for image in drawn.values())


def test_one_picture_and_a_limit(folder: Path, tmp_path: Path, picture: Any) -> None:
    limited = inspect(folder, limit=1, seed=4)
    assert len(limited.names) == 1 and limited.num_left_out == 7
    assert "7 more pictures" in limited.text()
    assert len(limited.contact_sheet().shape) == 3
    assert recommend(limited).resolution == 32


def test_a_file_without_permission_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "02.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    found = inspect(folder)
    assert len(found.names) == 7 and found.skipped == (("02.png", "cannot be read: Permission denied"),)


def test_nothing_to_look_at_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(DataError, match=r"no usable picture in .*a.png: not a picture"):
        inspect(tmp_path)


def test_a_report_is_printable_whatever_the_names(folder: Path) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    (folder / "00.png").rename(folder / name)
    (folder / name).write_text("words")
    assert r"caf\udce9.png" in inspect(folder).text()


# ---- duplicates ----------------------------------------------------------------------------------------------------


def test_exact_duplicates_are_found_by_pixels_not_by_bytes(folder: Path) -> None:
    image = Image.open(folder / "02.png")
    image.save(folder / "same.bmp")
    image.convert("RGBA").save(folder / "same.webp", lossless=True)
    found = inspect(folder)
    assert found.exact == (("02.png", "same.bmp", "same.webp"),)
    assert found.near == ()
    assert "02.png = same.bmp = same.webp" in found.text()


def test_near_duplicates_are_found(folder: Path, picture: Any) -> None:
    image = picture(20, 200, 200).point(lambda value: 30 + value * 180 // 255)
    image.save(folder / "again.png")
    image.save(folder / "again_60.jpg", quality=60)
    image.resize((137, 137), Image.Resampling.LANCZOS).save(folder / "again_small.png")
    image.point(lambda value: value + 25).save(folder / "again_lighter.png")
    found = inspect(folder)
    assert found.exact == ()
    assert found.near == (("again.png", "again_60.jpg", "again_lighter.png", "again_small.png"),)


def test_mirrored_and_different_pictures_are_not_near(folder: Path) -> None:
    Image.open(folder / "02.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "mirrored.png")
    assert inspect(folder).near == ()


def test_near_duplicates_are_not_looked_for_in_very_large_sets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frugan.data.inspection.NEAR_LIMIT", 7)
    found = inspect(folder)
    assert found.near is None and "not looked for in more than 7 pictures" in found.text()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(0, 60), min_size=1, max_size=30),
    chunk=st.integers(1, 8),
    rms=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_leaders_are_the_same_for_any_chunk_and_as_defined(values: list[int], chunk: int, rms: float) -> None:
    points = np.array(values, dtype=np.float32)[:, None] * np.ones((1, 3), dtype=np.float32)
    expected: dict[int, list[int]] = {}
    for index, value in enumerate(values):
        near = [(abs(values[leader] - value), leader) for leader in expected if abs(values[leader] - value) <= rms]
        if near:
            expected[min(near)[1]].append(index)
        else:
            expected[index] = [index]
    assert leaders(points, rms, chunk) == [group for group in expected.values() if len(group) > 1]


# ---- advice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "side", "resolution"),
    [
        (500, 128, 128),
        (500, 120, 128),  # enlarged by less than a tenth
        (500, 115, 64),
        (500, 2000, 256),
        (5000, 2000, 512),
        (20000, 2000, 1024),
        (20000, 28, 32),
        (20000, 9, 32),
    ],
)
def test_resolution_by_size_and_number(count: int, side: int, resolution: int) -> None:
    assert recommend(report(count, side)).resolution == resolution


def test_a_few_small_pictures_do_not_lower_the_resolution() -> None:
    sizes = np.full((100, 2), 256, dtype=np.int64)
    sizes[:9] = 40
    assert recommend(report(100, sizes=sizes)).resolution == 256
    sizes[:11] = 40
    assert recommend(report(100, sizes=sizes)).resolution == 32


@pytest.mark.parametrize(
    ("count", "policy"),
    [
        (100, "color,translation,cutout"),
        (30_000, "color,translation,cutout"),
        (50_000, "translation,cutout"),
        (100_001, "translation"),
    ],
)
def test_augmentation_by_number(count: int, policy: str) -> None:
    advice = recommend(report(10, num_left_out=count - 10))
    assert advice.augmentation == policy
    assert any(f"{count:,} pictures" in reason for reason in advice.reasons)


def test_channels() -> None:
    assert recommend(report(200, num_grey=200)).channels == 1
    assert recommend(report(200, num_grey=199)).channels == 3
    advice = recommend(report(200, num_transparent=3))
    assert advice.channels == 3 and any("--channels 4" in reason for reason in advice.reasons)


def test_flip_is_off_for_glyphs_and_else_says_how_to_switch_off() -> None:
    kept = recommend(report(has_glyphs=True))
    reason = next(reason for reason in kept.reasons if reason.startswith("no mirroring"))
    assert not kept.flip and "left and right may matter" in reason and "--flip" in reason
    advice = recommend(report())
    assert advice.flip and any("--no-flip" in reason for reason in advice.reasons)


def test_worries() -> None:
    sizes = np.full((50, 2), 256, dtype=np.int64)
    sizes[:30, 0] = 600
    sizes[:4] = 64, 127
    advice = recommend(
        report(50, sizes=sizes, exact=(("a", "b", "c"),), near=(("d", "e"),), classes={"rare": 2, "common": 48})
    )
    text = "\n".join(advice.reasons)
    for words in (
        "50 pictures are very few",
        "3 pictures are there more than once",
        "(rare)",
        "far from square",
        "4 with a shorter",
    ):
        assert words in text
    assert len(recommend(report()).reasons) == 3


def test_a_class_of_one_picture_is_told_apart_from_small_ones() -> None:
    reasons = recommend(report(50, classes={"lonely": 1, "rare": 2, "common": 47})).reasons
    assert any("1 class has a single picture (lonely)" in reason for reason in reasons)
    assert any("1 class has fewer than 10 pictures (rare)" in reason for reason in reasons)
