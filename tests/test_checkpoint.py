"""The format on disk: there and back, atomic, and every damage found."""

import errno
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from frugan import checkpoint
from frugan.checkpoint import CheckpointError, clean, drop_after, list_checkpoints, load, newest_first, read_info, save

INFO = {"recipe": "tiny", "images_seen": 12, "names": ["ä", "b"], "nothing": None, "rate": 0.1}
PARTS = {
    "net.generator": {"a.weight": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(3.0)},
    "task": {"half": torch.ones(2, dtype=torch.float16), "count": torch.tensor([1, 2])},
    "empty": {},
}


def filled(folder: Path, *names: int) -> Path:
    for name in names:
        save(folder / f"{name:09d}", {"images_seen": name}, {"net": {"x": torch.full((2,), float(name))}})
    return folder


def names_of(folder: Path) -> list[str]:
    return [path.name.lstrip("0") or "0" for path in list_checkpoints(folder)]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path / "a", INFO, PARTS, "# A card\n")
    loaded = load(tmp_path / "a")
    assert loaded.info == INFO and read_info(tmp_path / "a") == INFO
    assert loaded.parts.keys() == PARTS.keys()
    for part, tensors in PARTS.items():
        assert loaded.parts[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert loaded.parts[part][name].dtype == tensor.dtype
            assert torch.equal(loaded.parts[part][name], tensor)
    assert (tmp_path / "a" / "README.md").read_text() == "# A card\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_tensors_of_any_layout_are_saved_by_their_values(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(1, 2, 3, 4)
    tensors = {
        "transposed": base.transpose(1, 3),
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "view": base[:, :, 1],
        "trained": base.clone().requires_grad_(),
    }
    save(tmp_path / "a", {}, {"net": tensors})
    for name, tensor in load(tmp_path / "a").parts["net"].items():
        assert torch.equal(tensor, tensors[name].detach())


def test_parts_can_be_loaded_alone(tmp_path: Path) -> None:
    save(tmp_path / "a", INFO, PARTS)
    (tmp_path / "a" / "net.generator.safetensors").write_bytes(b"damaged")
    assert load(tmp_path / "a", ["task"]).parts.keys() == {"task"}
    with pytest.raises(CheckpointError, match=r"has no part 'tusk'; it has: net.generator, task, empty"):
        load(tmp_path / "a", ["tusk"])


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path: Path) -> None:
    save(tmp_path / "a", INFO, PARTS)
    save(tmp_path / "a", {"new": 1}, {"other": {}})
    assert load(tmp_path / "a").info == {"new": 1}
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["checkpoint.json", "other.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("written") / "a"
    save(folder, INFO, PARTS)
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_no_damage_is_ever_loaded(data: st.DataObject, written: tuple[Path, dict[str, bytes]]) -> None:
    """A byte changed or a file cut anywhere: it is said, or what is loaded is what was saved."""
    folder, files = written
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    (folder / name).write_bytes(content)
    try:
        loaded = load(folder)
    except CheckpointError:
        assert bytes(content) != files[name]
    else:
        assert loaded.info == INFO
        assert all(torch.equal(loaded.parts[part][key], PARTS[part][key]) for part in PARTS for key in PARTS[part])
    finally:
        (folder / name).write_bytes(files[name])


def test_no_changed_byte_of_the_index_is_ever_believed(written: tuple[Path, dict[str, bytes]]) -> None:
    folder, files = written
    path, content = folder / "checkpoint.json", files["checkpoint.json"]
    found = 0
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            assert read_info(folder) == INFO, position
        except CheckpointError:
            found += 1
    path.write_bytes(content)
    assert found > 0.8 * len(content)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "is not a checkpoint: it has no checkpoint.json"),
        ("", "is damaged"),
        ("{}", "is damaged"),
        ("[]", "is damaged"),
        ('{"schema": 1, "files": [], "info": {}}', "is damaged"),
        ('{"schema": 1, "files": {"a": {}}, "info": {}}', "is damaged"),
        ('{"schema": 1, "files": {"a": {"size_bytes": 1, "sha256": ""}}, "info": {}}', "a.safetensors is missing"),
        ('{"schema": 99, "files": {}, "info": {}}', "has format 99, this frugan reads up to 1: update frugan"),
        ('{"schema": "x", "files": {}, "info": {}}', "has format 'x'"),
        ('{"schema": 1, "files": {}, "info": {}, "sha256": "0"}', "is not what was written"),
    ],
)
def test_what_is_wrong_is_said(index: str | None, message: str, tmp_path: Path) -> None:
    if index is not None:
        (tmp_path / "checkpoint.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_older_formats_are_brought_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a", {"count": 1}, {})
    monkeypatch.setattr(checkpoint, "SCHEMA", 3)
    monkeypatch.setattr(
        checkpoint,
        "MIGRATIONS",
        {1: lambda info: {"number": info["count"]}, 2: lambda info: {"number": info["number"] + 1}},
    )
    assert load(tmp_path / "a").info == read_info(tmp_path / "a") == {"number": 2}


def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(tmp_path / "a", {"loss": float("nan")}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", range(1, 6))
def test_a_full_disk_leaves_the_former_checkpoint(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a", INFO, PARTS)
    calls: list[Path] = []
    write, rename = checkpoint.write_durably, Path.rename

    def full(path: Path) -> None:
        calls.append(path)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")

    def failing_write(path: Path, data: bytes) -> None:
        write(path, data[: len(data) // 2])
        full(path)
        write(path, data)

    def failing_rename(path: Path, target: Path) -> Path:
        full(path)
        return rename(path, target)

    monkeypatch.setattr(checkpoint, "write_durably", failing_write)
    monkeypatch.setattr(Path, "rename", failing_rename)
    with pytest.raises(OSError, match=r"cannot write .*a: the disk is full"):
        save(tmp_path / "a", {"new": 1}, {"x": {}, "y": {}})
    assert load(tmp_path / "a").info == INFO
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "facts.json"
    checkpoint.replace_file(path, b"first")
    checkpoint.replace_file(path, b"second")
    assert path.read_bytes() == b"second"

    def fail(path: Path, data: bytes) -> None:
        path.write_bytes(data[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_durably", fail)
    with pytest.raises(OSError, match=r"cannot write .*facts.json: the disk is full"):
        checkpoint.replace_file(path, b"third")
    assert path.read_bytes() == b"second" and [item.name for item in tmp_path.iterdir()] == ["facts.json"]


def test_checkpoints_are_listed_by_number(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "nowhere") == []
    filled(tmp_path, 5, 999_999_999, 12, 1_000_000_000)
    (tmp_path / "notes").mkdir()
    (tmp_path / "7").write_text("a file")
    (tmp_path / ".000000009.1.part").mkdir()
    assert names_of(tmp_path) == ["5", "12", "999999999", "1000000000"]


def test_the_newest_whole_one_comes_first(tmp_path: Path) -> None:
    filled(tmp_path, 1, 2, 3, 4)
    (tmp_path / "000000004" / "net.safetensors").unlink()
    (tmp_path / "000000002" / "checkpoint.json").write_text("{")
    problems: list[str] = []
    found = [item.info["images_seen"] for item in newest_first(tmp_path, problems)]
    assert found == [3, 1]
    assert len(problems) == 2 and "000000004" in problems[0] and "000000002" in problems[1]
    assert [item.info["images_seen"] for item in newest_first(tmp_path, [], before=3)] == [1]


def test_old_ones_are_deleted_but_not_what_is_protected_or_newer(tmp_path: Path) -> None:
    filled(tmp_path, 1, 2, 3, 4, 5, 9)
    for name in (".000000006.1.part", ".000000006.1.old"):
        (tmp_path / name).mkdir()
    clean(tmp_path, "000000005", keep=2, protect=["000000002"])
    assert names_of(tmp_path) == ["2", "4", "5", "9"]
    assert not list(tmp_path.glob(".*"))
    drop_after(tmp_path, "000000004")
    assert names_of(tmp_path) == ["2", "4"]


def test_nothing_is_ever_executed(tmp_path: Path) -> None:
    """A part that is a pickle, with its right digest, is refused by its format."""
    import hashlib
    import io
    import zipfile

    box = io.BytesIO()
    with zipfile.ZipFile(box, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    data = box.getvalue()
    index = {
        "schema": 1,
        "info": {},
        "files": {"a": {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}},
    }
    (tmp_path / "checkpoint.json").write_text(json.dumps(index))
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a.safetensors is not a safetensors file"):
        load(tmp_path)


def test_saving_does_not_change_what_is_saved(tmp_path: Path) -> None:
    parts: dict[str, dict[str, Tensor]] = {"a": {"x": torch.zeros(2, requires_grad=True)}}
    save(tmp_path / "a", {}, parts)
    assert parts["a"]["x"].requires_grad
