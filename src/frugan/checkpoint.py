"""The one place that knows our format on disk: a folder of safetensors files and one `checkpoint.json`.

A checkpoint folder appears whole or not at all: it is written under another name, flushed to disk and renamed. The
JSON file holds a schema number, the size and SHA-256 of every tensor file, and its own SHA-256, so that damage is found
before anything is used. Nothing in a checkpoint is ever executed.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from frugan.data.write import explained

SCHEMA = 1
INDEX = "checkpoint.json"
CARD = "README.md"
Info = dict[str, Any]
Parts = dict[str, dict[str, Tensor]]

# A migration takes the info written with the schema number of its key and returns it as the next schema number has it.
MIGRATIONS: dict[int, Callable[[Info], Info]] = {}


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of a newer format: says which file and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds: `info` (plain data) and `parts` (part -> tensor name -> tensor)."""

    path: Path
    info: Info
    parts: Parts


def save(folder: Path, info: Info, parts: Mapping[str, Mapping[str, Tensor]], card: str | None = None) -> None:
    """Write a checkpoint folder atomically; an older folder of that name is replaced.

    Raises OutputError (an OSError: disk full, no permission) with the former state untouched and nothing left behind.
    """
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _save(folder, info, parts, card)


def _save(folder: Path, info: Info, parts: Mapping[str, Mapping[str, Tensor]], card: str | None) -> None:
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        files = {}
        for name, tensors in parts.items():
            data = safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
            write_durably(scratch / f"{name}.safetensors", data)
            files[name] = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if card is not None:
            write_durably(scratch / CARD, card.encode())
        index = {"schema": SCHEMA, "files": files, "info": info}
        index["sha256"] = _digest(index)
        write_durably(scratch / INDEX, json.dumps(index, indent=1, allow_nan=False).encode())
        _publish(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _digest(index: Mapping[str, Any]) -> str:
    """The SHA-256 of everything in the index but itself."""
    content = {key: value for key, value in index.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new contents atomically: a reader sees the old ones or the new ones, never a half.

    Raises OutputError (an OSError) with the old contents untouched.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with explained(path):
            write_durably(scratch, data)
            scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _publish(scratch: Path, folder: Path) -> None:
    _sync_folder(scratch)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        try:
            scratch.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        scratch.rename(folder)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system can flush a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_info(folder: Path) -> Info:
    """The plain data of a checkpoint, brought up to today's schema; tensors are not read. Raises CheckpointError."""
    return _read_index(folder)[0]


def _read_index(folder: Path) -> tuple[Info, dict[str, tuple[int, str]]]:
    """The info, and the size and SHA-256 of every part."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_bytes())
        schema, files, info = index["schema"], index["files"], index["info"]
        sizes = {name: (entry["size_bytes"], entry["sha256"]) for name, entry in files.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {INDEX}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); use another checkpoint") from None
    if index.get("sha256", _digest(index)) != _digest(index):
        raise CheckpointError(f"{path} is not what was written (SHA-256 differs): it is damaged")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise CheckpointError(f"{path} has format {schema!r}, this frugan reads up to {SCHEMA}: update frugan")
    for number in range(schema, SCHEMA):
        info = MIGRATIONS[number](info)
    return info, sizes


def load(folder: Path, parts: Iterable[str] | None = None) -> Checkpoint:
    """Read a checkpoint, checking every file against its recorded size and SHA-256; `parts` limits which are read.

    Raises CheckpointError where something is missing, damaged or too new.
    """
    info, files = _read_index(folder)
    wanted = list(files) if parts is None else list(parts)
    unknown = [name for name in wanted if name not in files]
    if unknown:
        raise CheckpointError(f"{folder} has no part {unknown[0]!r}; it has: {', '.join(files)}")
    return Checkpoint(folder, info, {name: _read_part(folder / f"{name}.safetensors", files[name]) for name in wanted})


def _read_part(path: Path, expected: tuple[int, str]) -> dict[str, Tensor]:
    size, digest = expected
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; use another checkpoint") from None
    if len(data) != size:
        raise CheckpointError(f"{path} has {len(data)} bytes, {size} were written: it is damaged")
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f"{path} is not what was written (SHA-256 differs): it is damaged")
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error}); use another checkpoint") from None


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders inside `folder`, oldest first (their names are numbers of images seen)."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()), key=_number)


def _number(path: Path) -> int:
    return int(path.name)


def newest_first(folder: Path, problems: list[str], before: int | None = None) -> Iterator[Checkpoint]:
    """The checkpoints inside `folder` that can be read whole, newest first; `problems` gets a line for each other.

    With `before` only those of fewer images seen.
    """
    for path in reversed(list_checkpoints(folder)):
        if before is not None and _number(path) >= before:
            continue
        try:
            checkpoint = load(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        yield checkpoint


def clean(folder: Path, newest: str, keep: int, protect: Iterable[str] = ()) -> None:
    """Delete all but `keep` checkpoints inside `folder`, counted back from `newest`, and what interrupted writes left.

    The folders named in `protect` always stay, and so do those after `newest` (of another try, perhaps damaged).
    """
    for path in folder.glob(".*.part"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".*.old"):
        shutil.rmtree(path, ignore_errors=True)
    protected = set(protect)
    for path in [path for path in list_checkpoints(folder) if _number(path) <= int(newest)][:-keep]:
        if path.name not in protected:
            shutil.rmtree(path, ignore_errors=True)


def drop_after(folder: Path, name: str) -> None:
    """Delete the checkpoints inside `folder` that are newer than the one called `name`."""
    for path in list_checkpoints(folder):
        if _number(path) > int(name):
            shutil.rmtree(path, ignore_errors=True)
