"""Kept tensors come back as they were or not at all."""

from pathlib import Path

import pytest
import torch

from frugan.data.kept import keep, place_of, read_kept


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRUGAN_CACHE", str(tmp_path))
    return place_of("room", ["pictures", 1])


def test_what_was_kept_is_read_back_equal(path: Path, tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).T, "b": torch.zeros(0, 2), "c": torch.arange(5)}
    assert read_kept(path) is None
    keep(path, tensors)
    found = read_kept(path)
    assert found is not None and found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name] and path.parent == tmp_path / "room"


def test_other_content_lies_elsewhere(path: Path) -> None:
    places = {place_of("room", content) for content in (["pictures", 1], ["pictures", 2], ["pictures", "1"])}
    assert len(places) == 3 and path in places


@pytest.mark.parametrize("position", [0, 9, 100, -1])
def test_a_changed_byte_is_noticed(path: Path, position: int) -> None:
    keep(path, {"a": torch.randn(30)})
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))
    assert read_kept(path) is None
    path.write_bytes(b"")
    assert read_kept(path) is None


def test_a_place_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keep(tmp_path / "file" / "a.safetensors", {"a": torch.zeros(1)})
    assert read_kept(tmp_path / "file" / "a.safetensors") is None
