"""Folders and zips of many samples: layout, atomic appearance, resume."""

import json
import resource
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from frugan.data import open_source
from frugan.data.sink import Sink
from frugan.data.write import OutputError, from_pillow, read_metadata

FACTS = {"frugan:model": "m", "frugan:psi": "0.7"}


def sample(index: int) -> Tensor:
    return torch.randint(0, 256, (3, 9, 7), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)


def fill(sink: Sink, stop: int, batch: int = 4) -> None:
    for start in range(sink.count, stop, batch):
        indices = range(start, min(start + batch, stop))
        sink.add(torch.stack([sample(index) for index in indices]), [index % 3 for index in indices])


def contents(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
        return {info.filename: opened.read(info) for info in opened.infolist()}


def interrupt(path: Path, count: int) -> None:
    with pytest.raises(KeyboardInterrupt), Sink(path, 10, FACTS) as sink:
        fill(sink, count)
        raise KeyboardInterrupt
    assert not path.exists()


@pytest.fixture(params=["out.zip", "out"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "new" / request.param


def test_layout_labels_and_metadata(target: Path, tmp_path: Path) -> None:
    with Sink(target, 1002, FACTS) as sink:
        for start in range(0, 1002, 334):
            sink.add(sample(0).expand(334, -1, -1, -1), [start] * 334)
        assert not target.exists()
    files = contents(target)
    assert len(files) == 1003 and "00000/img00000999.png" in files and "00001/img00001001.png" in files
    labels = json.loads(files["dataset.json"])["labels"]
    assert labels[0] == ["00000/img00000000.png", 0] and labels[-1] == ["00001/img00001001.png", 668]
    (tmp_path / "one.png").write_bytes(files["00000/img00000000.png"])
    assert read_metadata(tmp_path / "one.png") == FACTS | {"frugan:label": "0"}
    with Image.open(tmp_path / "one.png") as image:
        assert torch.equal(from_pillow(image), sample(0))
    assert [file.name for file in target.parent.iterdir()] == [target.name]


def test_zip_entries_are_stored_and_labels_may_be_absent(tmp_path: Path) -> None:
    with Sink(tmp_path / "a.zip", 2) as sink:
        sink.add(torch.stack([sample(0), sample(1)]))
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        assert {info.compress_type for info in opened.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(opened.read("dataset.json")) == {"labels": None}


def test_classes_come_back_under_their_names(target: Path) -> None:
    names = ("cats, big", "猫", "a/b 'c'")
    with Sink(target, 4, FACTS, class_names=names) as sink:
        sink.add(torch.stack([sample(index) for index in range(4)]), [2, 0, 0, 2])
    with open_source(target) as source:
        assert source.class_names == names and source.labels == (2, 0, 0, 2)


@pytest.mark.parametrize("stop", [0, 1, 6, 10])
def test_resumed_equals_uninterrupted(target: Path, stop: int) -> None:
    with Sink(target.with_name("whole" + target.suffix), 10, FACTS) as sink:
        fill(sink, 10)
    interrupt(target, stop)
    with Sink(target, 10, FACTS) as sink:
        assert sink.count == stop
        fill(sink, 10)
    assert contents(target) == contents(target.with_name("whole" + target.suffix))
    assert not target.with_name(target.name + ".part").exists()


@pytest.mark.parametrize("cut", [1, 30, 120, 400])
def test_a_zip_torn_anywhere_goes_on_from_the_last_whole_picture(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.zip"
    interrupt(path, 6)
    part = tmp_path / "a.zip.part"
    with zipfile.ZipFile(part) as opened:
        end = opened.start_dir
    part.write_bytes(part.read_bytes()[: end - cut])
    with Sink(path, 10, FACTS) as sink:
        assert sink.count == (5 if cut < 400 else 4)
        fill(sink, 10)
    assert len(contents(path)) == 11


def test_a_flipped_byte_in_a_part_is_not_kept(tmp_path: Path) -> None:
    interrupt(tmp_path / "a.zip", 6)
    part = tmp_path / "a.zip.part"
    data = bytearray(part.read_bytes())
    data[700] ^= 255
    part.write_bytes(bytes(data))
    with Sink(tmp_path / "a.zip", 10, FACTS) as sink:
        assert 0 < sink.count < 6
        fill(sink, 10)


def test_a_torn_picture_in_a_folder_is_made_again(tmp_path: Path) -> None:
    interrupt(tmp_path / "a", 6)
    (tmp_path / "a.part" / "00000" / "img00000003.png").write_bytes(b"\x89PNG")
    with Sink(tmp_path / "a", 10, FACTS) as sink:
        assert sink.count == 3
        fill(sink, 10)
    assert len(contents(tmp_path / "a")) == 11


def test_more_than_wanted_is_cut(target: Path) -> None:
    interrupt(target, 8)
    with Sink(target, 5, FACTS) as sink:
        assert sink.count == 5
    assert len(contents(target)) == 6 and len(json.loads(contents(target)["dataset.json"])["labels"]) == 5


def test_other_settings_are_refused_or_begun_anew(target: Path) -> None:
    interrupt(target, 5)
    with pytest.raises(OutputError, match="begun with other settings"):
        Sink(target, 10, FACTS | {"frugan:psi": "1.0"})
    with Sink(target, 10, FACTS) as sink:
        assert sink.count == 5
        fill(sink, 10)
    with Sink(target, 3, {"frugan:psi": "1.0"}, overwrite=True) as sink:
        assert sink.count == 0
        fill(sink, 3)
    assert len(contents(target)) == 4


def test_without_metadata_nothing_is_resumed(target: Path) -> None:
    interrupt(target, 5)
    with Sink(target, 2) as sink:
        assert sink.count == 0
        fill(sink, 2)
    assert len(contents(target)) == 3


def test_an_existing_target_is_refused_unless_overwritten(target: Path) -> None:
    with Sink(target, 2, FACTS) as sink:
        fill(sink, 2)
    with pytest.raises(OutputError, match="exists already"):
        Sink(target, 2, FACTS)
    with Sink(target, 3, FACTS, overwrite=True) as sink:
        fill(sink, 2)
        assert len(contents(target)) == 3, "the old one stays until the new one is complete"
        fill(sink, 3)
    assert len(contents(target)) == 4
    assert [file.name for file in target.parent.iterdir()] == [target.name]


def test_an_empty_folder_is_used_and_a_foreign_one_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with Sink(tmp_path / "out", 1) as sink:
        fill(sink, 1)
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        Sink(tmp_path / "out", 1, overwrite=True)
    (tmp_path / "dir.zip").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        Sink(tmp_path / "dir.zip", 1)


def test_incomplete_and_misfitting_input_is_said(target: Path) -> None:
    with pytest.raises(ValueError, match="1 of 2 pictures"), Sink(target, 2, FACTS) as sink:
        fill(sink, 1)
    with Sink(target, 2, FACTS) as sink:
        with pytest.raises(ValueError, match="1 pictures are still wanted"):
            sink.add(torch.stack([sample(0)] * 2))
        with pytest.raises(ValueError, match="2 labels"):
            sink.add(sample(0)[None], [1, 2])
        fill(sink, 2)
    with pytest.raises(ValueError, match="total"):
        Sink(target, 0)


def test_a_file_size_limit_is_explained_and_the_part_goes_on(target: Path) -> None:
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OutputError, match="goes on from it"), Sink(target, 60, FACTS) as sink:
        fill(sink, 4)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000 if target.suffix else 10, usual[1]))
        try:
            fill(sink, 60)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not target.exists()
    with Sink(target, 60, FACTS) as sink:
        assert 4 <= sink.count < 60
        fill(sink, 60)
    assert len(contents(target)) == 61
