"""Where pictures come from: folders, zip files, sets in fixed layouts; listed with their labels, read one by one."""

import collections
import contextlib
import dataclasses
import difflib
import json
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from frugan.config import counted
from frugan.data.arrays import Arrays, open_arrays
from frugan.data.labels import LABEL_FILE, Labelled, assign_labels
from frugan.data.maps import MapRules
from frugan.data.pictures import FILE_LIMIT, DataError, Half, Labels, Part, PictureError, quiet_pillow
from frugan.data.published import Read, published

T = TypeVar("T")

# fmt: off
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
    ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".avif",
})
# fmt: on
"""Endings of the files that are taken for pictures."""
_FOREIGN = {
    ".heic": "HEIC cannot be read here; convert to JPEG",
    ".heif": "HEIC cannot be read here; convert to JPEG",
    ".svg": "a drawing, not pixels; render it to PNG first",
    ".psd": "a layered file; export it as PNG first",
    **dict.fromkeys([".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf"], "a raw photo; develop it to JPEG or TIFF first"),
}

BUILD_NOTES = "build.json"
"""What `frugan data build` writes about a set into its folder."""
_MOST_WORKERS = 16
_ROUNDS_AHEAD = 8


@dataclass(frozen=True, kw_only=True)
class Source:
    """The pictures of one place, not yet read.

    `names`: sorted, unique, with "/" whatever the system. `load(i)`: the bytes of picture i's file, or its pixels;
    raises PictureError (this picture is unusable) or OSError (the file system failed). `files`: for a folder the file
    of each name; else the archive or files whose content decides everything. `skipped`: (name, reason) seen while
    listing, `unlabelled`: those of them that lack only a class; `ignored`: other files counted by ending. `has_glyphs`:
    digits or letters, which must not be mirrored. `title`: what a user calls it where that is not its path. `half`: the
    half of each file that is meant, where two pictures lie side by side. `maps`: how to read label maps; None = these
    are pictures. `instances`: the instance maps of label maps, name for name. `members`: what `names` are called in the
    folder or archive, where that differs.
    A context manager: leaving it closes the files.
    """

    path: Path
    kind: str
    names: tuple[str, ...]
    load: Callable[[int], bytes | np.ndarray]
    files: tuple[Path, ...]
    labels: tuple[int, ...] | None = None
    class_names: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    unlabelled: tuple[str, ...] = ()
    ignored: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    has_glyphs: bool = False
    title: str = ""
    members: tuple[str, ...] = ()
    half: Half | None = None
    maps: MapRules | None = None
    instances: "Source | None" = None
    close: Callable[[], None] = lambda: None

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, indices: Sequence[int]) -> "Source":
        """The same source with only these pictures, in this order."""
        chosen = tuple(indices)
        whole = self.load
        return dataclasses.replace(
            self,
            names=tuple(self.names[index] for index in chosen),
            load=lambda index: whole(chosen[index]),
            files=tuple(self.files[index] for index in chosen) if self.kind == "folder" else self.files,
            labels=None if self.labels is None else tuple(self.labels[index] for index in chosen),
            members=tuple(self.members[index] for index in chosen) if self.members else (),
            instances=None if self.instances is None else self.instances.take(chosen),
        )


def open_source(path: str | Path, labels: Labels = "auto", part: Part = "train") -> Source:
    """The pictures at `path`: a folder, a zip file, CIFAR-10/100 or MNIST-like idx files (packed or not),
    Tiny-ImageNet, CUB-200-2011.

    `labels`, `part`: as in `DataConfig`. Raises: DataError if there is nothing there that can become a set.
    """
    place = Path(path).expanduser()
    if not os.path.lexists(place):
        raise DataError(f"there is no {str(place)!r}{_nearest(place)}")
    try:
        place.stat()
        found = open_arrays(place, part)
    except OSError as error:
        raise DataError(f"{str(place)!r} cannot be read: {error.strerror}") from None
    if found is not None:
        return _array_source(place, found, labels)
    if place.is_dir():
        return _open_folder(place, labels, part)
    if zipfile.is_zipfile(place):
        return _open_zip(place, labels, part)
    if place.suffix.lower() == ".zip":
        raise DataError(f"{str(place)!r} is not a whole zip file ({place.stat().st_size:,} bytes): fetch it again")
    raise DataError(
        f"{str(place)!r} is a single file, not a set of pictures: give a folder, a .zip, a CIFAR .tar.gz or its folder "
        "or idx files (other archives must be unpacked first)"
    )


def _nearest(place: Path) -> str:
    """ "; did you mean ...?": the existing path nearest to a missing one, or how far the path exists."""
    parent = place.absolute().parent
    missing, names = place.name, []
    while not parent.is_dir():
        parent, missing = parent.parent, parent.name
    with contextlib.suppress(OSError):
        names = [entry.name for entry in parent.iterdir()]
    close = difflib.get_close_matches(missing, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {str(parent / close[0])!r}?"
    return f" ({str(parent)!r} exists and holds nothing of a name like {missing!r})"


@dataclass
class _Listing:
    """What a walk over a folder or archive found."""

    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored: collections.Counter[str] = field(default_factory=collections.Counter)

    def sort_out(self, name: str, size: int) -> bool:
        """Whether the file is to be read as a picture; others are counted, picture formats of no use named."""
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in SUFFIXES and size <= FILE_LIMIT:
            return True
        if suffix in SUFFIXES:
            self.skipped.append((name, f"{size:,} bytes are more than {FILE_LIMIT:,} (a bomb?)"))
        elif suffix in _FOREIGN:
            self.skipped.append((name, _FOREIGN[suffix]))
        elif PurePosixPath(name).name != LABEL_FILE:
            self.ignored[suffix] += 1
        return False


def _open_folder(root: Path, labels: Labels, part: Part) -> Source:
    listing = _Listing()
    files = _walk(root, listing)
    table = root / LABEL_FILE
    try:
        text = table.read_bytes() if labels != "none" and table.is_file() else None
    except OSError as error:
        raise DataError(f"{str(table)!r} cannot be read: {error.strerror}; or use labels='none'") from None

    def read(name: str) -> bytes | None:
        try:
            return (root / name).read_bytes() if (root / name).is_file() else None
        except OSError as error:
            raise DataError(f"{str(root / name)!r} cannot be read: {error.strerror}") from None

    labelled = _labelled(sorted(files), labels, text, read, part)
    kept = tuple(files[name] for name in labelled.names)
    return _source(root, "folder", listing, labelled, lambda name: files[name].read_bytes(), kept)


def _labelled(
    names: list[str], labels: Labels, table: bytes | None, read: Read, part: Part, base: str = ""
) -> Labelled:
    """The classes by dataset.json, by a published layout, or by the folders."""
    found = published(names, read, part) if table is None and labels in ("auto", "folders") else None
    return found or assign_labels(names, labels, table, base)


def _walk(root: Path, listing: _Listing) -> dict[str, Path]:
    """Every real picture file below `root` once, by its name; links are followed last, loops are not."""
    files: dict[str, Path] = {}
    seen = {os.path.realpath(root): "."}
    places = collections.deque([(root, "")])
    links: collections.deque[tuple[os.DirEntry[str], str]] = collections.deque()

    def take(entry: os.DirEntry[str], name: str) -> None:
        facts = entry.stat()
        is_folder = stat.S_ISDIR(facts.st_mode)
        if not is_folder and not (stat.S_ISREG(facts.st_mode) and listing.sort_out(name, facts.st_size)):
            return
        real = os.path.realpath(entry.path)
        if real in seen:
            listing.skipped.append((name, f"a link to {seen[real]}, which is there already"))
            return
        seen[real] = name
        if is_folder:
            places.append((Path(entry.path), name + "/"))
        else:
            files[name] = Path(entry.path)

    while places or links:
        if places:
            folder, prefix = places.popleft()
            found = [(entry, prefix + entry.name) for entry in _entries(folder, prefix, listing)]
            links.extend(item for item in found if item[0].is_symlink())
            found = [item for item in found if not item[0].is_symlink()]
        else:
            found = [links.popleft()]
        for entry, name in found:
            try:
                take(entry, name)
            except OSError as error:
                listing.skipped.append((name, f"cannot be read: {error.strerror}"))
    return files


def _entries(folder: Path, prefix: str, listing: _Listing) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not _is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        listing.skipped.append((prefix or ".", f"the folder cannot be read: {error.strerror}"))
        return []


def _is_hidden(piece: str) -> bool:
    return piece.startswith(".") or piece == "__MACOSX"


def _open_zip(path: Path, labels: Labels, part: Part) -> Source:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(f"{str(path)!r} is not a whole zip file: {error}") from None
    listing = _Listing()
    members: dict[str, zipfile.ZipInfo] = {}
    tables: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        pieces = name.split("/")
        if ".." in pieces or name.startswith("/") or re.match(r"[A-Za-z]:", name):
            listing.skipped.append((name, "an unsafe name in the archive (it points outside)"))
        elif info.is_dir() or any(_is_hidden(piece) for piece in pieces):
            continue
        elif pieces[-1] == LABEL_FILE:
            tables[name] = info
        elif name in members:
            listing.skipped.append((name, "the archive holds this name twice; the first one is used"))
        elif listing.sort_out(name, info.file_size):
            members[name] = info
    table = min(tables, key=lambda name: (name.count("/"), name), default=LABEL_FILE)

    def read(name: str) -> bytes | None:
        return _read_member(archive, archive.getinfo(name)) if name in archive.NameToInfo else None

    try:
        text = _read_member(archive, tables[table]) if labels != "none" and table in tables else None
        labelled = _labelled(sorted(members), labels, text, read, part, table.removesuffix(LABEL_FILE))
    except (DataError, PictureError) as error:
        archive.close()
        raise DataError(f"{str(path)!r}: {error}") from None
    return _source(
        path, "zip", listing, labelled, lambda name: _read_member(archive, members[name]), (path,), archive.close
    )


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.flag_bits & 0x1:
        raise PictureError("encrypted in the archive")
    try:
        with archive.open(info) as stream:
            # Never more than the size that was checked, whatever the packed bytes would unpack to.
            return stream.read(info.file_size)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise PictureError(f"broken in the archive: {error}") from None


def _source(
    path: Path,
    kind: str,
    listing: _Listing,
    labelled: Labelled,
    read: Callable[[str], bytes],
    files: tuple[Path, ...],
    close: Callable[[], None] = lambda: None,
) -> Source:
    return Source(
        path=path,
        kind=kind,
        names=labelled.names,
        load=lambda index: read(labelled.names[index]),
        files=files,
        labels=labelled.labels,
        class_names=labelled.class_names,
        skipped=(*listing.skipped, *labelled.skipped),
        unlabelled=labelled.unlabelled,
        ignored=dict(listing.ignored),
        notes=labelled.notes,
        close=close,
        has_glyphs=_must_not_be_mirrored(path),
    )


def _must_not_be_mirrored(place: Path) -> bool:
    return read_notes(place).get("flip") is False


def read_notes(place: Path) -> dict[str, Any]:
    """The notes of a built set (`frugan data build`), beside or up to two folders above; empty where there are none."""
    for folder in (place, *place.parents[:2]):
        notes = folder / BUILD_NOTES
        if notes.is_file():
            with contextlib.suppress(OSError, ValueError):
                facts = json.loads(notes.read_bytes())
                return facts if isinstance(facts, dict) else {}
    return {}


def _array_source(place: Path, found: Arrays, labels: Labels) -> Source:
    if labels == "folders" or (labels == "file" and found.labels is None):
        raise DataError(f"labels={labels!r} does not fit {str(place)!r}; use 'auto' or 'none'")
    is_labelled = labels != "none" and found.labels is not None
    return Source(
        path=place,
        kind=found.kind,
        names=found.names,
        load=lambda index: found.pixels[index],
        files=found.files,
        labels=found.labels if is_labelled else None,
        class_names=found.class_names if is_labelled else (),
        has_glyphs=found.has_glyphs,
    )


def choose(source: Source, limit: int | None, seed: int) -> Source:
    """A random choice of at most `limit` pictures, in their old order; the same for all versions of numpy."""
    if limit is None or limit >= len(source.names):
        return source
    draws = np.random.Philox(key=np.array([seed, 0], dtype=np.uint64)).random_raw(len(source.names))
    return source.take(sorted(np.argsort(draws, kind="stable")[:limit].tolist()))


def first_reasons(skipped: Sequence[tuple[str, str]], most: int = 5) -> list[str]:
    """ "a.png, b.png and 7 more: why", for the first reasons. Advice, after the colon of a reason, is given once."""
    names: dict[str, list[str]] = {}
    for name, reason in skipped:
        names.setdefault(reason, []).append(name)
    said: list[str] = []
    advised: set[str] = set()
    for reason, who in list(names.items())[:most]:
        what, colon, advice = reason.partition(": ")
        more = f" and {len(who) - most:,} more" if len(who) > most else ""
        said.append(f"{', '.join(who[:most])}{more}: {what if advice in advised else reason}")
        if colon:
            advised.add(advice)
    if len(names) > most:
        rest = sum(len(who) for who in list(names.values())[most:])
        said.append(f"{rest:,} more for other reasons")
    return said


def no_pictures(source: Source, skipped: Sequence[tuple[str, str]]) -> DataError:
    """The error for a source of which nothing is left, with the first reasons."""
    others = sum(source.ignored.values())
    detail = "; ".join([*first_reasons(skipped), *([counted(others, "other file")] if others else [])]) or "it is empty"
    archives = sorted(file.name for file in source.path.glob("*.zip")) if source.path.is_dir() else []
    advice = f"; give one of its archives instead: {', '.join(archives[:5])}" if archives else ""
    return DataError(f"no usable picture in {str(source.path)!r} ({detail}){advice}")


def read_all(source: Source, work: Callable[[int, bytes | np.ndarray], T]) -> Generator[T | PictureError, None, None]:
    """work(index, bytes or pixels) for every picture in order, in threads, a little ahead; the reason where it failed.

    Close it when done (`contextlib.closing`), so that an error elsewhere leaves no thread waiting.
    Raises: DataError if the file system fails (a bad picture is no reason), and what `work` raises but PictureError.
    """

    def one(index: int) -> T | PictureError:
        try:
            return work(index, source.load(index))
        except PictureError as error:
            return error
        except OSError as error:
            raise DataError(f"{source.names[index]!r} cannot be read any more: {error}") from None

    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    ahead: collections.deque[Future[T | PictureError]] = collections.deque()
    with quiet_pillow(), ThreadPoolExecutor(workers, thread_name_prefix="frugan-data") as pool:
        try:
            for index in range(len(source.names)):
                ahead.append(pool.submit(one, index))
                if len(ahead) >= _ROUNDS_AHEAD * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()
