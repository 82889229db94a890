"""The content of files as digests, by an index of what was hashed before."""

import contextlib
import dataclasses
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from frugan.data.pictures import DataError
from frugan.data.sources import Source

Progress = Callable[[int, int, str], None]
"""Called as progress(done, total, text) from the calling thread."""

# A file changed within this time of being hashed could change again without its time stamp showing it.
_FRESH_NS = 2_000_000_000


def digest(data: bytes) -> str:
    """What these bytes are, as 40 hex digits."""
    return hashlib.blake2b(data, digest_size=20).hexdigest()


def digest_file(path: Path) -> str:
    """What a file's bytes are, as `digest` gives it."""
    whole = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            whole.update(piece)
    return whole.hexdigest()


def stamp(path: Path) -> list[int]:
    """[size, time of the last change in ns, inode] of a file: if unchanged, so is the content."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ino]


def hash_files(source: Source, index_folder: Path, tell: Progress) -> tuple[Source, list[str]]:
    """The source without the pictures whose files cannot be read, and the digest of each file that is left.

    A file whose size, time of change and inode are those of the index is not read. Files changed less than two seconds
    before they were hashed are not entered there, since a second change might not show.
    Raises: DataError if a file that holds many pictures cannot be read.
    """
    place = str(source.path.absolute()).encode("utf-8", "surrogateescape")
    index_path = index_folder / f"{digest(place)}.json"
    known = _read_index(index_path)
    entries = dict(known)
    digests: list[str] = []
    kept, failed = [], []
    for position, path in enumerate(source.files):
        try:
            current = stamp(path)
            entry = known.get(str(path))
            found = entry[1] if entry is not None and entry[0] == current else digest_file(path)
        except OSError as error:
            if source.kind != "folder":
                raise DataError(f"{str(path)!r} cannot be read: {error.strerror}") from None
            failed.append((source.names[position], f"cannot be read: {error.strerror}"))
            continue
        if current[1] < time.time_ns() - _FRESH_NS:
            entries[str(path)] = [current, found]
        kept.append(position)
        digests.append(found)
        if position % 256 == 0:
            tell(position, len(source.files), "looking for changed files")
    if entries != known:
        _write_index(index_path, entries)
    if failed:
        source = dataclasses.replace(source.take(kept), skipped=(*source.skipped, *failed))
    return source, digests


def _read_index(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):  # no index, or a damaged one: everything is hashed again
        return {}
    return content if isinstance(content, dict) else {}


def _write_index(path: Path, content: dict[str, list[Any]]) -> None:
    with contextlib.suppress(OSError):  # without the index the next start is slower, nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Writes beside, then moves into place: readers see the old file or the new one."""
    beside = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
