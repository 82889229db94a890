"""Preparing sets: bad input, the cache by content, damage, full disks, two processes at once."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frugan.config import override
from frugan.data import CacheError, DataConfig, DataError, cache_folder, digests, open_source, prepare
from frugan.data import cache as cache_module

CONFIG = DataConfig(resolution=16)


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "datasets").iterdir()) if (cache / "datasets").is_dir() else []


def age(*paths: Path, seconds: int = 10) -> None:
    """Makes files look older, as the index trusts no file that was changed a moment ago."""
    for path in paths:
        stamp = path.stat().st_mtime_ns - seconds * 10**9
        os.utime(path, ns=(stamp, stamp))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []
    whole = digests.digest_file

    def watched(path: Path) -> str:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(digests, "digest_file", watched)
    return read


def count_builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    built: list[int] = []
    build: Callable[..., None] = cache_module._build

    def watched(*args: Any) -> None:
        built.append(1)
        build(*args)

    monkeypatch.setattr(cache_module, "_build", watched)
    return built


# ---- what comes out ------------------------------------------------------------------------------------------------


def test_a_folder_becomes_a_set(folder: Path, picture: Any) -> None:
    dataset = prepare(folder, CONFIG)
    assert dataset.images.shape == (8, 3, 16, 16) and dataset.images.dtype == np.uint8
    assert isinstance(dataset.store, np.memmap) and not dataset.store.flags.writeable
    expected = picture(3).resize((16, 16), Image.Resampling.LANCZOS)
    assert (dataset.images[3] == np.asarray(expected).transpose(2, 0, 1)).all()
    assert dataset.names == tuple(f"{index:02d}.png" for index in range(8))
    assert dataset.labels is None and dataset.skipped == () and dataset.flip
    assert dataset.facts.kind == "folder" and dataset.facts.num_found == 8 and dataset.facts.num_upscaled == 0


@pytest.mark.parametrize("count", [1, 3])
def test_very_few_pictures_are_a_set(tmp_path: Path, picture: Any, count: int) -> None:
    for index in range(count):
        picture(index).save(tmp_path / f"{index}.png")
    dataset = prepare(tmp_path, CONFIG)
    assert len(dataset) == count and dataset.batch([0] * 5).shape == (5, 3, 16, 16)


def test_bad_files_are_named_counted_and_left_out(folder: Path, picture: Any) -> None:
    (folder / "text.png").write_text("no picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("words")
    picture(1, 200, 200).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:3000])
    dataset = prepare(folder, CONFIG)
    assert len(dataset) == 8 and dataset.facts.num_found == 11
    reasons = dict(dataset.skipped)
    assert set(reasons) == {"text.png", "empty.jpg", "cut.jpg"}
    assert reasons["text.png"] == "not a picture in a format that can be read here"
    assert reasons["empty.jpg"] == "the file is empty"
    assert reasons["cut.jpg"].startswith("broken: image file is truncated")
    assert dataset.facts.ignored == {".txt": 1}
    again = prepare(folder, CONFIG)
    assert again.skipped == dataset.skipped and again.fingerprint == dataset.fingerprint


def test_nothing_left_is_an_error_with_reasons_and_leaves_no_cache(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    with pytest.raises(DataError, match=r"no usable picture in .*\(it is empty\)"):
        prepare(root, CONFIG)
    (root / "notes.txt").write_text("words")
    with pytest.raises(DataError, match=r"\(1 other file\)$"):
        prepare(root, CONFIG)
    (root / "train.zip").write_text("an archive beside them")
    with pytest.raises(DataError, match=r"give one of its archives instead: train\.zip$"):
        prepare(root, CONFIG)
    (root / "train.zip").unlink()
    (root / "a.png").write_text("words")
    with pytest.raises(DataError, match=r"\(a.png: not a picture in a format that can be read here; 1 other file\)"):
        prepare(root, CONFIG)
    assert entries(cache) == []


def test_files_without_permission_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digests.digest_file

    def refuse(path: Path) -> str:
        if path.name == "02.png":
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(digests, "digest_file", refuse)
    dataset = prepare(folder, CONFIG)
    assert len(dataset) == 7 and dataset.skipped == (("02.png", "cannot be read: Permission denied"),)
    monkeypatch.undo()
    os.environ["FRUGAN_CACHE"] = str(cache_folder())


def test_a_bomb_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frugan.data.pictures.PIXEL_LIMIT", 40 * 40)
    Image.new("RGB", (50, 50)).save(folder / "big.png")
    dataset = prepare(folder, CONFIG)
    assert len(dataset) == 8 and dataset.skipped == (("big.png", "50 x 50 is more than 1,600 pixels (a bomb?)"),)


def test_labels_follow_their_pictures_past_bad_ones(tmp_path: Path, picture: Any) -> None:
    for index, name in enumerate(("a/0.png", "a/1.png", "b/0.png", "b/1.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(index).save(tmp_path / name)
    (tmp_path / "a" / "1.png").write_text("no picture")
    dataset = prepare(tmp_path, CONFIG)
    assert dataset.names == ("a/0.png", "b/0.png", "b/1.png")
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 1, 1] and dataset.class_names == ("a", "b")
    assert prepare(tmp_path, override(CONFIG, "labels", "none")).labels is None


def test_limit_takes_a_fixed_random_part(folder: Path) -> None:
    dataset = prepare(folder, override(CONFIG, "limit", 3))
    assert len(dataset) == 3 and list(dataset.names) == sorted(dataset.names)
    assert prepare(folder, override(CONFIG, "limit", 3)).names == dataset.names
    others = {prepare(folder, DataConfig(resolution=16, limit=3, seed=seed)).names for seed in range(6)}
    assert len(others) > 1


def test_upscaled_pictures_are_counted_or_skipped(folder: Path, picture: Any) -> None:
    picture(0, 9, 9).save(folder / "small.png")
    assert prepare(folder, CONFIG).facts.num_upscaled == 1
    skipped = prepare(folder, override(CONFIG, "upscale", "skip"))
    assert len(skipped) == 8 and skipped.skipped[0][0] == "small.png"


def test_a_zip_and_a_folder_of_the_same_pictures_are_the_same_set(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    assert prepare(tmp_path / "set.zip", CONFIG).fingerprint == prepare(folder, CONFIG).fingerprint


def test_progress_is_told_to_the_end(folder: Path) -> None:
    told: list[tuple[int, int, str]] = []
    prepare(folder, CONFIG, lambda done, total, text: told.append((done, total, text)))
    work = [item for item in told if item[2] == "preparing pictures"]
    assert [item[0] for item in work] == list(range(1, 9)) and work[-1][1] == 8
    assert threading.active_count() == 1


def test_names_that_are_no_text_are_kept(folder: Path, picture: Any) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    picture(9).save(folder / "plain.png")
    (folder / "plain.png").rename(folder / name)
    assert name in prepare(folder, CONFIG).names
    assert name in prepare(folder, CONFIG).names


# ---- found again ---------------------------------------------------------------------------------------------------


def test_a_second_time_nothing_is_decoded_or_read(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(*folder.iterdir())
    first = prepare(folder, CONFIG)
    built, read = count_builds(monkeypatch), count_reads(monkeypatch)
    second = prepare(folder, CONFIG)
    assert built == [] and read == []
    assert second.fingerprint == first.fingerprint and second.names == first.names
    assert len(entries(cache)) == 1


@pytest.mark.parametrize("change", [("resolution", 8), ("channels", 1), ("fit", "pad"), ("background", "black")])
def test_settings_that_change_pixels_have_a_cache_of_their_own(
    folder: Path, cache: Path, change: tuple[str, Any]
) -> None:
    prepare(folder, CONFIG)
    prepare(folder, override(CONFIG, *change))
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("change", [("flip", "off"), ("seed", 5), ("limit", 8), ("labels", "none")])
def test_settings_that_change_nothing_share_the_cache(folder: Path, cache: Path, change: tuple[str, Any]) -> None:
    prepare(folder, CONFIG)
    prepare(folder, override(CONFIG, *change))
    assert len(entries(cache)) == 1


def test_a_copied_or_touched_folder_is_found_by_content(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(folder, CONFIG)
    built = count_builds(monkeypatch)
    shutil.copytree(folder, tmp_path / "copy")
    prepare(tmp_path / "copy", CONFIG)
    age(*folder.iterdir(), seconds=500)
    prepare(folder, CONFIG)
    assert built == []


def test_a_changed_picture_is_seen(folder: Path, picture: Any) -> None:
    before = prepare(folder, CONFIG)
    picture(99).save(folder / "03.png")
    after = prepare(folder, CONFIG)
    assert after.fingerprint != before.fingerprint
    assert (after.images[3] != before.images[3]).any() and (after.images[2] == before.images[2]).all()


def test_a_change_of_the_same_size_in_the_same_instant_is_seen(folder: Path, picture: Any) -> None:
    """What size and time stamp cannot show: files changed a moment ago are never taken on trust."""
    raw = folder / "raw.bmp"
    picture(1).save(raw)
    prepare(folder, CONFIG)
    facts = raw.stat()
    picture(2).save(raw)
    os.utime(raw, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert raw.stat().st_size == facts.st_size
    dataset = prepare(folder, CONFIG)
    expected = picture(2).resize((16, 16), Image.Resampling.LANCZOS)
    assert (dataset.images[8] == np.asarray(expected).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("how", ["added", "removed", "renamed"])
def test_added_removed_and_renamed_pictures_are_seen(folder: Path, picture: Any, how: str) -> None:
    prepare(folder, CONFIG)
    if how == "added":
        picture(50).save(folder / "08.png")
    elif how == "removed":
        (folder / "03.png").unlink()
    else:
        (folder / "03.png").rename(folder / "zz.png")
    assert list(prepare(folder, CONFIG).names) == sorted(path.name for path in folder.iterdir())


def test_changed_labels_are_seen(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    for label in (0, 1):
        table = {"labels": [[name, label] for name in names]}
        (folder / "dataset.json").write_text(json.dumps(table))
        labels = prepare(folder, CONFIG).labels
        assert labels is not None and set(labels.tolist()) == {label}


def test_a_damaged_index_only_costs_time(folder: Path, cache: Path) -> None:
    age(*folder.iterdir())
    first = prepare(folder, CONFIG)
    (index,) = (cache / "index").iterdir()
    whole = index.read_bytes()
    place = whole.index(digests.digest_file(folder / "00.png").encode())
    wrong = whole[:place] + (b"0" if whole[place : place + 1] != b"0" else b"1") + whole[place + 1 :]
    for content in (b"{", b"[]", b"\xff", b'{"body": 5, "digest": 5}', b"", wrong):
        index.write_bytes(content)
        assert prepare(folder, CONFIG).fingerprint == first.fingerprint


# ---- damage and trouble --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage", ["flip", "cut", "longer", "meta", "no meta", "no pixels", "empty", "header", "other"]
)
def test_a_damaged_cache_is_built_again(folder: Path, cache: Path, damage: str) -> None:
    first = prepare(folder, CONFIG)
    expected = np.array(first.images)
    (entry,) = entries(cache)
    pixels, meta = entry / "images.npy", entry / "meta.json"
    if damage == "flip":
        data = bytearray(pixels.read_bytes())
        data[2000] ^= 1
        pixels.write_bytes(data)
        os.utime(pixels, (1, 1))
    elif damage == "cut":
        pixels.write_bytes(pixels.read_bytes()[:-100])
    elif damage == "longer":
        pixels.write_bytes(pixels.read_bytes() + b"x" * 100)
    elif damage == "meta":
        meta.write_text(meta.read_text().replace("03.png", "04.png"))
    elif damage == "no meta":
        meta.unlink()
    elif damage == "no pixels":
        pixels.unlink()
    elif damage == "empty":
        pixels.write_bytes(b"")
        meta.write_bytes(b"")
    elif damage == "header":
        pixels.write_bytes(b"\0" * 128 + pixels.read_bytes()[128:])
    else:
        np.save(pixels, np.zeros((8, 3, 16, 16), dtype=np.uint8))
    again = prepare(folder, CONFIG)
    assert again.names == first.names and again.fingerprint == first.fingerprint
    assert (again.images == expected).all()
    assert [path.name for path in entries(cache)] == [entry.name]


def test_a_cache_that_was_moved_is_checked_once(
    folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(folder, CONFIG)
    shutil.copytree(cache, tmp_path / "moved")
    monkeypatch.setenv("FRUGAN_CACHE", str(tmp_path / "moved"))
    built = count_builds(monkeypatch)
    (entry,) = entries(tmp_path / "moved")
    before = (entry / "checked.json").read_text()
    prepare(folder, CONFIG)
    assert built == [] and (entry / "checked.json").read_text() != before


def test_a_full_disk_is_told_before_work_starts(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CacheError, match=r"not enough room for 0.00 GB in .* set FRUGAN_CACHE"):
        prepare(folder, CONFIG)
    assert entries(cache) == []


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "not enough room in"), (errno.EIO, "cannot be written")])
def test_a_disk_that_fails_meanwhile_leaves_no_half_cache(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(CacheError, match=words):
            prepare(folder, CONFIG)
    assert entries(cache) == []
    assert len(prepare(folder, CONFIG)) == 8


def test_an_interrupted_preparation_leaves_nothing_and_can_be_repeated(folder: Path, cache: Path) -> None:
    def interrupt(done: int, total: int, text: str) -> None:
        if text == "preparing pictures" and done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(folder, CONFIG, interrupt)
    assert entries(cache) == [] and threading.active_count() == 1
    assert len(prepare(folder, CONFIG)) == 8


def test_a_cache_that_cannot_be_a_folder_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FRUGAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError, match=r"cannot be written: .*; set FRUGAN_CACHE to a folder"):
        prepare(folder, CONFIG)


def test_remains_of_killed_processes_are_cleared_after_a_week(folder: Path, cache: Path) -> None:
    old, new = cache / "datasets" / "x.tmp-1", cache / "datasets" / "y.tmp-2"
    old.mkdir(parents=True)
    new.mkdir()
    week = time.time() - 8 * 24 * 3600
    os.utime(old, (week, week))
    prepare(folder, CONFIG)
    assert not old.exists() and new.exists()


def test_a_file_that_changes_meanwhile_stops_the_preparation(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, picture: Any
) -> None:
    build: Callable[..., None] = cache_module._build

    def change_first(*args: Any) -> None:
        picture(77).save(folder / "05.png")
        build(*args)

    monkeypatch.setattr(cache_module, "_build", change_first)
    with pytest.raises(DataError, match=r"'05.png' changed while it was being prepared"):
        prepare(folder, CONFIG)
    assert entries(cache) == []


def test_a_zip_that_changes_meanwhile_stops_the_preparation(folder: Path, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for member in sorted(folder.iterdir()):
            archive.write(member, member.name)

    def grow(done: int, total: int, text: str) -> None:
        if text == "preparing pictures" and done == 8:
            with path.open("ab") as file:
                file.write(b"more")

    with pytest.raises(DataError, match="changed while it was being prepared"):
        prepare(path, CONFIG, grow)
    assert entries(cache) == []


def test_two_processes_at_once(folder: Path, cache: Path) -> None:
    code = (
        "import sys; from frugan.data import prepare, DataConfig\n"
        "for resolution in (8, 16, 24):\n"
        "    dataset = prepare(sys.argv[1], DataConfig(resolution=resolution))\n"
        "    print(dataset.fingerprint, dataset.images.sum())"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE) for _ in range(2)]
    outputs = {run.communicate(timeout=120)[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0] and len(outputs) == 1
    assert len(entries(cache)) == 3 and not [path for path in entries(cache) if ".tmp-" in path.name]


def test_the_second_to_finish_takes_the_first_ones_work(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[..., None] = cache_module._write_cache
    first: list[int] = []

    def be_late(*args: Any) -> None:
        write(*args)
        monkeypatch.setattr(cache_module, "_write_cache", write)
        prepare(folder, CONFIG)  # as another process would, meanwhile
        first.append((entries(cache)[0] / "images.npy").stat().st_ino)

    monkeypatch.setattr(cache_module, "_write_cache", be_late)
    assert len(prepare(folder, CONFIG)) == 8
    assert [path.name for path in entries(cache) if ".tmp-" in path.name] == []
    assert [(path / "images.npy").stat().st_ino for path in entries(cache)] == first


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUGAN_CACHE", "/somewhere/x")
    assert cache_folder() == Path("/somewhere/x")
    monkeypatch.delenv("FRUGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/frugan")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/frugan")


def test_sources_can_be_listed_without_a_cache(folder: Path, cache: Path) -> None:
    assert len(open_source(folder).names) == 8
    assert list(cache.iterdir()) == []


def test_pictures_without_a_label_are_refused_unless_asked(folder: Path) -> None:
    table = {"labels": [[f"{index:02d}.png", index % 2] for index in range(1, 7)]}
    (folder / "dataset.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match=r"2 of 8 pictures .*no label \(00.png, 07.png\).*unlabelled=skip.*--no-labels"):
        prepare(folder, DataConfig(resolution=16))
    dataset = prepare(folder, DataConfig(resolution=16, unlabelled="skip"))
    assert len(dataset) == 6 and dict(dataset.skipped) == dict.fromkeys(
        ["00.png", "07.png"], "no label in dataset.json"
    )
    assert len(prepare(folder, DataConfig(resolution=16, labels="none"))) == 8
