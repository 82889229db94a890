"""The one place that knows our format on disk: a folder of safetensors files and one `checkpoint.json`.

A checkpoint folder appears whole or not at all: it is written under another name, flushed to disk and renamed. The
JSON file holds a schema number and the size and SHA-256 of every tensor file, so that damage is found before anything
is used. Nothing in a checkpoint is ever executed.
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

import safetensors.torch
from torch import Tensor

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

    Raises OSError (disk full, no permission) with the former state untouched and nothing left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
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
        write_durably(scratch / INDEX, json.dumps(index, indent=1, allow_nan=False).encode())
        _publish(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new contents atomically: a reader sees the old ones or the new ones, never a half."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
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
        scratch.rename(folder)
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


def _read_index(folder: Path) -> tuple[Info, dict[str, Any]]:
    path = folder / INDEX
    try:
        index = json.loads(path.read_bytes())
        schema, files, info = index["schema"], index["files"], index["info"]
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {INDEX}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); use another checkpoint") from None
    if not isinstance(schema, int) or schema > SCHEMA:
        raise CheckpointError(f"{path} has format {schema!r}, this frugan reads up to {SCHEMA}: update frugan")
    for number in range(schema, SCHEMA):
        info = MIGRATIONS[number](info)
    return info, files


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


def _read_part(path: Path, expected: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; use another checkpoint") from None
    if len(data) != expected["size_bytes"]:
        raise CheckpointError(f"{path} has {len(data)} bytes, {expected['size_bytes']} were written: it is damaged")
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise CheckpointError(f"{path} is not what was written (SHA-256 differs): it is damaged")
    return safetensors.torch.load(data)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders inside `folder`, oldest first (their names are numbers of images seen)."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit())


def newest_first(folder: Path, problems: list[str]) -> Iterator[Checkpoint]:
    """The checkpoints inside `folder` that can be read whole, newest first; `problems` gets a line for each other."""
    for path in reversed(list_checkpoints(folder)):
        try:
            checkpoint = load(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        yield checkpoint


def clean(folder: Path, keep: int, protect: Iterable[str] = ()) -> None:
    """Delete all but the newest `keep` checkpoints inside `folder`, and what interrupted writes left there.

    The folders named in `protect` always stay.
    """
    for path in folder.glob(".*.part"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".*.old"):
        shutil.rmtree(path, ignore_errors=True)
    protected = set(protect)
    for path in list_checkpoints(folder)[:-keep]:
        if path.name not in protected:
            shutil.rmtree(path, ignore_errors=True)
