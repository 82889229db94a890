"""Folders and zips: what is found, what is left out and why, and which class a picture gets."""

import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from frugan.data import DataConfig, DataError, open_source, prepare
from frugan.data.pictures import PictureError
from frugan.data.sink import Sink
from frugan.data.sources import choose, first_reasons, read_all


def png(picture: Any, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture(seed, 16, 16).save(buffer, "PNG")
    return buffer.getvalue()


def lay_out(root: Path, picture: Any, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(picture, seed))
    return root


def pack(path: Path, picture: Any, *names: str, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for seed, name in enumerate(names):
            archive.writestr(name, png(picture, seed))
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def table(labels: Any, **more: Any) -> bytes:
    return json.dumps({"labels": labels} | more).encode()


# ---- what is found -------------------------------------------------------------------------------------------------


def test_names_are_sorted_and_other_files_counted(tmp_path: Path, picture: Any) -> None:
    lay_out(tmp_path, picture, "b.png", "a.JPG", "sub/c.webp", ".hidden/d.png", "__MACOSX/e.png", ".f.png")
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "more.txt").write_text("words")
    (tmp_path / "README").write_text("words")
    (tmp_path / "phone.heic").write_bytes(b"x")
    source = open_source(tmp_path)
    assert source.names == ("a.JPG", "b.png", "sub/c.webp")
    assert source.ignored == {".txt": 2, "": 1}
    assert source.skipped == (("phone.heic", "HEIC cannot be read here; convert to JPEG"),)


def test_every_real_file_once_whatever_the_links(tmp_path: Path, picture: Any) -> None:
    root = lay_out(tmp_path / "set", picture, "z/real.png", "z/other.png")
    (root / "loop").symlink_to(root)
    (root / "z" / "up").symlink_to(root / "z")
    (root / "a_link.png").symlink_to(root / "z" / "real.png")
    (root / "broken.png").symlink_to(root / "nothing.png")
    outside = lay_out(tmp_path / "outside", picture, "far.png")
    (outside / "back").symlink_to(root)
    (root / "out").symlink_to(outside)
    source = open_source(root)
    assert source.names == ("out/far.png", "z/other.png", "z/real.png")
    reasons = dict(source.skipped)
    assert reasons["a_link.png"] == "a link to z/real.png, which is there already"
    assert reasons["loop"] == "a link to ., which is there already"
    assert "cannot be read" in reasons["broken.png"]


def test_a_link_to_itself_is_named(tmp_path: Path, picture: Any) -> None:
    lay_out(tmp_path, picture, "a.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    source = open_source(tmp_path)
    assert source.names == ("a.png",) and source.skipped[0][0] == "self.png"


def test_a_pipe_is_not_waited_for(tmp_path: Path, picture: Any) -> None:
    lay_out(tmp_path, picture, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert open_source(tmp_path).names == ("a.png",)


def test_a_folder_that_cannot_be_opened_is_named(tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, picture, "a.png", "closed/b.png")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = open_source(tmp_path)
    assert source.names == ("a.png",)
    assert source.skipped == (("closed/", "the folder cannot be read: Permission denied"),)


def test_too_large_a_file_is_not_read(tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frugan.data.sources.FILE_LIMIT", 2000)
    lay_out(tmp_path, picture, "a.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(5000)
    source = open_source(tmp_path)
    assert source.names == ("a.png",) and "5,000 bytes are more than 2,000" in source.skipped[0][1]


def test_a_missing_path_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "portraits" / "cats").mkdir(parents=True)
    with pytest.raises(DataError, match=r"there is no .*; did you mean '.*/portraits'\?"):
        open_source(tmp_path / "portrait")
    with pytest.raises(DataError, match=r"did you mean '.*/portraits/cats'\?"):
        open_source(tmp_path / "portraits" / "cat")
    with pytest.raises(DataError, match=r"did you mean '.*/portraits'\?"):
        open_source(tmp_path / "potraits" / "cats")
    with pytest.raises(DataError, match=r"exists and holds nothing of a name like 'xyz'"):
        open_source(tmp_path / "xyz" / "deep")


@pytest.mark.parametrize(
    ("name", "data"), [("a.png", None), ("a.txt", b"words"), ("a.7z", b"PK no zip"), ("a.tar", b"")]
)
def test_a_single_file_is_no_set(tmp_path: Path, picture: Any, name: str, data: bytes | None) -> None:
    (tmp_path / name).write_bytes(png(picture) if data is None else data)
    with pytest.raises(DataError, match="is a single file, not a set of pictures: give a folder"):
        open_source(tmp_path / name)


def test_a_home_folder_is_understood(tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path / "set", picture, "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_source("~/set").names == ("a.png",)


# ---- zip -----------------------------------------------------------------------------------------------------------


def test_a_zip_is_read_without_unpacking(tmp_path: Path, picture: Any) -> None:
    path = pack(tmp_path / "set.zip", picture, "b.png", "sub/a.png", **{"notes.txt": b"words"})
    with open_source(path) as source:
        assert source.names == ("b.png", "sub/a.png")
        assert source.load(0) == png(picture, 0)
        assert source.ignored == {".txt": 1}


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/etc/out.png", "C:/out.png", "..\\out.png"])
def test_names_that_point_outside_are_left_out(tmp_path: Path, picture: Any, name: str) -> None:
    path = pack(tmp_path / "set.zip", picture, "a.png", name)
    with open_source(path) as source:
        assert source.names == ("a.png",)
        assert source.skipped[0][1] == "an unsafe name in the archive (it points outside)"


def test_a_zip_bomb_is_left_out(tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frugan.data.sources.FILE_LIMIT", 100_000)
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", b"\0" * 200_000)
        archive.writestr("a.png", png(picture))
    with open_source(path) as source:
        assert source.names == ("a.png",)
        assert "200,000 bytes are more than 100,000" in source.skipped[0][1]


def test_a_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", b"\0" * 5_000_000)
    data = path.read_bytes().replace(struct.pack("<I", 5_000_000), struct.pack("<I", 1000))
    path.write_bytes(data)
    with open_source(path) as source:
        assert source.names == ("bomb.png",)
        with pytest.raises(PictureError, match="broken in the archive"):
            source.load(0)


def test_damaged_and_encrypted_members_are_named(tmp_path: Path, picture: Any) -> None:
    path = pack(tmp_path / "set.zip", picture, "a.png", "b.png")
    data = bytearray(path.read_bytes())
    data[60] ^= 255  # inside a.png: the checksum fails
    place = data.rindex(b"PK\x01\x02")
    data[place + 8] |= 1  # b.png says that it is encrypted
    path.write_bytes(data)
    with open_source(path) as source:
        results = list(read_all(source, lambda index, content: len(content)))
    assert [str(result) for result in results] == [
        "broken in the archive: Bad CRC-32 for file 'a.png'",
        "encrypted in the archive",
    ]


def test_a_zip_cut_short_is_refused(tmp_path: Path, picture: Any) -> None:
    path = pack(tmp_path / "set.zip", picture, "a.png", "b.png")
    path.write_bytes(path.read_bytes()[:-80])
    with pytest.raises(DataError, match="not a whole zip"):
        open_source(path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"not a whole zip file \(9 bytes\)"):
        open_source(path)


def test_a_name_twice_is_read_once(tmp_path: Path, picture: Any) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a.png", png(picture, 0))
        archive.writestr("a.png", png(picture, 1))
    with open_source(path) as source:
        assert source.names == ("a.png",) and source.load(0) == png(picture, 0)
        assert source.skipped == (("a.png", "the archive holds this name twice; the first one is used"),)


def test_what_the_sink_writes_is_read_with_its_labels(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name in ("samples.zip", "samples"):
        with Sink(tmp_path / name, total=5) as sink:
            sink.add(images, [2, 0, 1, 2, 0])
        dataset = prepare(tmp_path / name, DataConfig(resolution=8))
        assert torch.equal(dataset.batch(range(5)), images)
        assert dataset.labels is not None and dataset.labels.tolist() == [2, 0, 1, 2, 0]


# ---- classes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_zip", [False, True])
def test_sub_folders_are_classes(tmp_path: Path, picture: Any, is_zip: bool) -> None:
    names = ("wrap/dog/1.png", "wrap/cat/deep/2.png", "wrap/cat/1.png")
    path = pack(tmp_path / "s.zip", picture, *names) if is_zip else lay_out(tmp_path / "s", picture, *names)
    with open_source(path) as source:
        assert source.names == ("wrap/cat/1.png", "wrap/cat/deep/2.png", "wrap/dog/1.png")
        assert source.labels == (0, 0, 1) and source.class_names == ("cat", "dog")
    with open_source(path, labels="none") as source:
        assert source.labels is None and source.class_names == ()


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (("a/1.png", "b/2.png", "3.png"), "1 picture lies beside the sub-folders"),
        (("train/1.png", "test/2.png"), "the sub-folders test, train are taken for parts"),
        (("00000/1.png", "00001/2.png"), "are taken for portions"),
    ],
)
def test_folders_that_look_like_no_classes_are_taken_only_when_asked(
    tmp_path: Path, picture: Any, names: tuple[str, ...], note: str
) -> None:
    lay_out(tmp_path, picture, *names)
    source = open_source(tmp_path)
    assert source.labels is None and len(source.names) == len(names)
    assert note in source.notes[0] and "data.images.labels=folders" in source.notes[0]
    asked = open_source(tmp_path, labels="folders")
    assert asked.labels == (0, 1)
    assert asked.skipped == ((("3.png", "in no sub-folder, so of no class"),) if "3.png" in names else ())


def test_a_single_folder_is_no_class(tmp_path: Path, picture: Any) -> None:
    lay_out(tmp_path, picture, "only/1.png", "only/2.png")
    assert open_source(tmp_path).labels is None and open_source(tmp_path).notes == ()
    with pytest.raises(DataError, match="labels='folders' needs two or more"):
        open_source(tmp_path, labels="folders")


@pytest.mark.parametrize("is_zip", [False, True])
def test_dataset_json_gives_the_classes(tmp_path: Path, picture: Any, is_zip: bool) -> None:
    labels = table([["00000/b.png", 3], ["00000/a.png", 1], ["00001/c.png", 0]])
    names = ("00000/a.png", "00000/b.png", "00001/c.png")
    if is_zip:
        path = pack(tmp_path / "s.zip", picture, *names, **{"dataset.json": labels})
    else:
        path = lay_out(tmp_path / "s", picture, *names)
        (path / "dataset.json").write_bytes(labels)
    with open_source(path) as source:
        assert source.labels == (1, 3, 0) and source.class_names == ("0", "1", "2", "3")
        assert source.ignored == {}


def test_dataset_json_in_the_only_folder_of_a_zip(tmp_path: Path, picture: Any) -> None:
    labels = table([["a.png", 1], ["b.png", 0]], class_names=["no", "yes"])
    path = pack(tmp_path / "s.zip", picture, "top/a.png", "top/b.png", **{"top/dataset.json": labels})
    with open_source(path) as source:
        assert source.labels == (1, 0) and source.class_names == ("no", "yes")


def test_dataset_json_without_labels_means_no_classes(tmp_path: Path, picture: Any) -> None:
    path = pack(tmp_path / "s.zip", picture, "x/a.png", "y/b.png", **{"dataset.json": table(None)})
    with open_source(path) as source:
        assert source.labels is None and source.notes == ("dataset.json says that there are no labels",)
    with pytest.raises(DataError, match="labels='file' needs"):
        open_source(path, labels="file")
    with open_source(path, labels="folders") as source:
        assert source.labels == (0, 1)


def test_missing_and_extra_names_in_dataset_json_are_told(tmp_path: Path, picture: Any) -> None:
    lay_out(tmp_path, picture, "a.png", "b.png")
    (tmp_path / "dataset.json").write_bytes(table([["a.png", 0], ["gone.png", 1]]))
    source = open_source(tmp_path)
    assert source.names == ("a.png",) and source.labels == (0,)
    assert source.skipped == (
        ("b.png", "no label in dataset.json"),
        ("gone.png", "named in dataset.json but not there"),
    )
    assert source.unlabelled == ("b.png",)


def test_class_names_that_are_not_unique_are_refused(tmp_path: Path, picture: Any) -> None:
    lay_out(tmp_path, picture, "a.png")
    names = {"labels": [["a.png", 0]], "class_names": ["crane", "cat", "crane"]}
    (tmp_path / "dataset.json").write_text(json.dumps(names))
    with pytest.raises(DataError, match="class_names has 'crane' more than once"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{not json", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (table([["a.png", [0.5, 0.5]]]), "vectors and fractions cannot be used as labels"),
        (table([["a.png", 0.5]]), "vectors and fractions cannot be used"),
        (table([["a.png", -1]]), "a label must be 0 to 99999, whole, got -1"),
        (table([["a.png", 10**9]]), "a label must be 0 to 99999"),
        (table([["a.png", "cat"]]), "got 'cat' for 'a.png'"),
        (table([["a.png", True]]), "got True"),
        (table([["a.png"]]), r"each label must be \[name, class number\]"),
        (table("cats"), "labels must be a list"),
        (table([["a.png", 1]], class_names=["one"]), "class_names must be 2 texts or more"),
        (table([["other.png", 1]]), "names none of the pictures"),
    ],
)
@pytest.mark.parametrize("is_zip", [False, True])
def test_a_bad_dataset_json_is_refused_and_can_be_left_aside(
    tmp_path: Path, picture: Any, content: bytes, words: str, is_zip: bool
) -> None:
    if is_zip:
        path = pack(tmp_path / "s.zip", picture, "a.png", **{"dataset.json": content})
    else:
        path = lay_out(tmp_path / "s", picture, "a.png")
        (path / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=words):
        open_source(path)
    with open_source(path, labels="none") as source:
        assert source.names == ("a.png",)


# ---- reading -------------------------------------------------------------------------------------------------------


def test_choosing_is_random_fixed_and_keeps_the_order(folder: Path) -> None:
    source = open_source(folder)
    chosen = {choose(source, 3, seed).names for seed in range(20)}
    assert len(chosen) > 5
    assert all(list(names) == sorted(names) and len(names) == 3 for names in chosen)
    picked = choose(source, 3, 7)
    assert picked.names == choose(source, 3, 7).names
    assert [picked.load(i) for i in range(3)] == [(folder / name).read_bytes() for name in picked.names]
    assert choose(source, 8, 0) is source and choose(source, None, 0) is source


def test_reading_keeps_order_and_returns_reasons(folder: Path) -> None:
    def work(index: int, data: Any) -> int:
        if index % 3 == 1:
            raise PictureError(f"no {index}")
        return index

    results = list(read_all(open_source(folder), work))
    assert [str(result) for result in results] == ["0", "no 1", "2", "3", "no 4", "5", "6", "no 7"]


def test_a_file_that_vanishes_meanwhile_stops_the_reading(folder: Path) -> None:
    source = open_source(folder)
    (folder / "03.png").unlink()
    with pytest.raises(DataError, match=r"'03.png' cannot be read any more"):
        list(read_all(source, lambda index, data: index))


def test_an_error_in_the_work_is_seen(folder: Path) -> None:
    def work(index: int, data: Any) -> int:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(read_all(open_source(folder), work))


@pytest.mark.parametrize(("flip", "expected"), [(False, True), (True, False)])
def test_the_notes_of_a_built_set_say_whether_to_mirror(tmp_path: Path, flip: bool, expected: bool) -> None:
    pictures = tmp_path / "set" / "train" / "source"
    pictures.mkdir(parents=True)
    PIL.Image.new("RGB", (8, 8)).save(pictures / "a.png")
    (tmp_path / "set" / "build.json").write_text(json.dumps({"flip": flip}))
    with open_source(pictures) as source:
        assert source.has_glyphs is expected
    (tmp_path / "set" / "build.json").write_text("{half")
    with open_source(pictures) as source:
        assert source.has_glyphs is False


# ---- reasons ---------------------------------------------------------------------------------------------------------


def test_equal_reasons_are_told_once() -> None:
    small = [(f"{number}.png", "small: enlarge it") for number in range(7)]
    assert first_reasons(small) == ["0.png, 1.png, 2.png, 3.png, 4.png and 2 more: small: enlarge it"]
    two = [("a.png", "7 px is small: enlarge it"), ("b.png", "8 px is small: enlarge it"), ("c.png", "empty")]
    assert first_reasons(two) == ["a.png: 7 px is small: enlarge it", "b.png: 8 px is small", "c.png: empty"]
    assert first_reasons([*two, ("d.png", "empty")], most=2)[2:] == ["2 more for other reasons"]
    assert first_reasons([]) == []


def test_a_set_of_small_pictures_says_once_what_to_do(tmp_path: Path, picture: Any) -> None:
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(png(picture, number))
    with pytest.raises(DataError, match=r"\(0\.png, .* and 1 more: \d+ x \d+ is less than half of 512 x 512") as caught:
        prepare(tmp_path, DataConfig(resolution=512))
    assert str(caught.value).count("--set data.images.upscale=allow") == 1
