"""The content of files as digests, by an index of what was hashed before."""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from frugan.data.pictures import DataError
from frugan.data.sources import Source
from frugan.data.write import replacing

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
            found: str = entry[1] if entry is not None and entry[0] == current else digest_file(path)
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
        return unseal(path.read_bytes()) or {}
    except OSError:  # no index yet: everything is hashed
        return {}


def _write_index(path: Path, content: dict[str, list[Any]]) -> None:
    # Without the index the next start is slower, nothing else.
    with contextlib.suppress(OSError), replacing(path) as part:
        part.write_bytes(seal(content))


def seal(content: dict[str, Any]) -> bytes:
    """The content as JSON together with its digest."""
    body = json.dumps(content)
    return json.dumps({"digest": digest(body.encode()), "body": body}).encode()


def unseal(data: bytes) -> dict[str, Any] | None:
    """What `seal` sealed, or None if a single bit of it is not as it was."""
    try:
        outer = json.loads(data)
        body = outer["body"]
        content: dict[str, Any] = json.loads(body)
        return content if digest(body.encode()) == outer["digest"] else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
