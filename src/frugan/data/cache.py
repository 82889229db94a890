"""Pictures read, brought to size and kept: the cache of prepared sets, found again by content."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from frugan.config import to_dict
from frugan.data.dataset import Dataset, SourceFacts, fingerprint_of
from frugan.data.digests import Progress, digest, digest_file, hash_files, seal, stamp, unseal
from frugan.data.maps import MapFile, prepare_map, some_colours
from frugan.data.pictures import DataConfig, DataError, Fitted, PictureError, prepare_picture
from frugan.data.sources import Source, choose, no_pictures, open_source, read_all
from frugan.data.write import replacing

_FORMAT = 2  # raise it whenever the same files and settings would give other pixels
_HEADER_BYTES = 128
_PIXELS = "images.npy"
_META = "meta.json"
_CHECKED = "checked.json"
_SHOWN = 5
_ABANDONED_SECONDS = 7 * 24 * 3600
# Settings that change no pixels; what they choose is in the names, labels and digests.
_FREE_SETTINGS = ("flip", "labels", "unlabelled", "part", "limit", "seed", "role", "pairing", "reverse", "crop")


class CacheError(OSError):
    """The cache cannot be written or read; says where it is and what to do."""


def cache_folder() -> Path:
    """Where prepared sets are kept: $FRUGAN_CACHE, else $XDG_CACHE_HOME/frugan, else ~/.cache/frugan."""
    if named := os.environ.get("FRUGAN_CACHE"):
        return Path(named).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "frugan"
    return Path.home() / ".cache" / "frugan"


def prepare(source: str | Path | Source, config: DataConfig, progress: Progress | None = None) -> Dataset:
    """The pictures at `source` as a set by the rules of `config`, from the cache if they were prepared before.

    The cache is keyed by the content of the files (a file whose size, time stamp and inode are unchanged is not read
    again), the labels and the settings; it is checked when it is opened and rebuilt if damaged; written beside and
    moved in whole, so that an interrupted or a second process never leaves or sees half of it. Unreadable pictures are
    left out, named in `Dataset.skipped`. Pictures are decoded in threads (Pillow frees the interpreter meanwhile).
    Raises: DataError if there is nothing to make a set of or labels are missing for some pictures (see `unlabelled`),
    CacheError if the cache cannot be written (disk full).
    """
    tell = progress or (lambda done, total, text: None)
    given = source if isinstance(source, Source) else open_source(source, config.labels, config.part)
    with given as opened:
        if config.labels == "none":
            opened = dataclasses.replace(opened, labels=None, class_names=())
        elif opened.unlabelled and config.unlabelled == "refuse":
            raise _some_unlabelled(opened)
        return prepare_sized(opened, config, tell)[0]


def _some_unlabelled(source: Source) -> DataError:
    missing, whole = source.unlabelled, len(source.unlabelled) + len(source.names)
    shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    has = "has" if len(missing) == 1 else "have"
    return DataError(
        f"{len(missing):,} of {whole:,} pictures in {str(source.path)!r} {has} no label ({shown}): add them to its "
        "table, leave them out (--set data.images.unlabelled=skip), or leave out all classes (--no-labels)"
    )


def prepare_sized(opened: Source, config: DataConfig, tell: Progress) -> tuple[Dataset, dict[str, tuple[int, int]]]:
    """As `prepare`, of a source that is open and stays so: the set, and each picture's own width and height by name."""
    chosen, digests = _hashed(choose(opened, config.limit, config.seed), tell)
    if not chosen.names:
        raise no_pictures(chosen, chosen.skipped)
    folder = cache_folder() / "datasets" / _key(chosen, digests, config)
    found = _read(folder)
    if found is None:
        _build(folder, chosen, digests, config, tell)
        found = _read(folder)
    if found is None:
        raise CacheError(f"the cache in {str(folder)!r} was damaged while it was written; is the disk sound?")
    dataset = _as_dataset(found, chosen, config)
    return dataset, dict(zip(dataset.names, found[1].sizes, strict=True))


def _hashed(source: Source, tell: Progress) -> tuple[Source, list[str]]:
    """The source without what cannot be read, and the digest of each of its files, those of instance maps last."""
    index = cache_folder() / "index"
    chosen, digests = hash_files(source, index, tell)
    if chosen.instances is None:
        return chosen, digests
    instances, others = hash_files(chosen.instances, index, tell)
    if len(instances.names) < len(chosen.names):
        present = set(instances.names)
        kept = [place for place, name in enumerate(chosen.names) if name in present]
        digests = [digests[place] for place in kept] if chosen.kind == "folder" else digests
        chosen = dataclasses.replace(chosen.take(kept), skipped=(*chosen.skipped, *instances.skipped))
    return chosen, digests + others


def _key(source: Source, digests: list[str], config: DataConfig) -> str:
    settings = {name: value for name, value in to_dict(config).items() if name not in _FREE_SETTINGS}
    whole = hashlib.blake2b(digest_size=16)
    maps = None if source.maps is None else dataclasses.astuple(source.maps)
    what = (_FORMAT, source.kind, settings, source.names, source.labels, source.class_names, digests)
    # Files of a folder are known by their digests; of an archive it takes their names too.
    sides = [] if source.kind == "folder" else [side.members for side in (source, source.instances) if side is not None]
    for part in (*what, source.half, maps, sides):
        whole.update(json.dumps(part).encode() + b"\n")
    return whole.hexdigest()


# ---- building ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What a cache folder holds beside the pixels. `largest`: the largest label number of label maps, else 0."""

    shape: tuple[int, int, int, int]
    pixel_digest: str
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    largest: int
    labels: tuple[int, ...] | None
    class_names: tuple[str, ...]
    unusable: tuple[tuple[str, str], ...]
    num_upscaled: int


def _build(folder: Path, source: Source, digests: list[str], config: DataConfig, tell: Progress) -> None:
    beside = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex}")
    try:
        beside.mkdir(parents=True)
        _remove_abandoned(folder.parent)
        _check_space(beside, len(source.names), config)
        _write_cache(beside, source, digests, config, tell)
        if source.kind != "folder" and [digest_file(path) for path in source.files] != digests[: len(source.files)]:
            raise DataError(f"{str(source.path)!r} changed while it was being prepared; start again")
        _move_in(beside, folder)
    except CacheError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CacheError(error.errno, _full(folder, None)) from None
        raise CacheError(
            error.errno, f"the cache in {str(folder.parent)!r} cannot be written: {error}; {_ELSEWHERE}"
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


_ELSEWHERE = "set FRUGAN_CACHE to a folder that can be written and has room"


def _full(folder: Path, needed: int | None) -> str:
    amount = "" if needed is None else f" for {needed / 1e9:.2f} GB"
    place = str(folder.parent)
    return f"not enough room{amount} in {place!r}; free some, use a smaller resolution or limit, or {_ELSEWHERE}"


def _check_space(folder: Path, count: int, config: DataConfig) -> None:
    needed = count * config.stored_channels * math.prod(config.size)
    if shutil.disk_usage(folder).free < needed:
        raise CacheError(errno.ENOSPC, _full(folder, needed))


def _remove_abandoned(parent: Path) -> None:
    for left in parent.glob("*.tmp-*"):
        with contextlib.suppress(OSError):  # another process may be removing it too
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _write_cache(folder: Path, source: Source, digests: list[str], config: DataConfig, tell: Progress) -> None:
    kept: list[int] = []
    unusable: list[tuple[str, str]] = []
    sizes: list[tuple[int, int]] = []
    num_upscaled = largest = 0
    whole = hashlib.blake2b(digest_size=32)
    # Plain writes, not a memory map: a full disk then is an error that can be told, not a crash.
    with (folder / _PIXELS).open("wb") as file:
        file.write(b"\0" * _HEADER_BYTES)
        with contextlib.closing(_decode_all(source, digests, config)) as results:
            for index, result in enumerate(results):
                if isinstance(result, PictureError):
                    unusable.append((source.names[index], str(result)))
                else:
                    whole.update(result.pixels.data)
                    file.write(result.pixels.data)
                    kept.append(index)
                    sizes.append(result.size)
                    num_upscaled += result.is_upscaled
                    if config.kind == "labels":
                        largest = max(largest, int(result.pixels[0].max()))
                tell(index + 1, len(source.names), "preparing pictures")
        if not kept:
            raise no_pictures(source, (*source.skipped, *unusable))
        width, height = config.size
        shape = (len(kept), config.stored_channels, height, width)
        _write_header(file, shape)
        file.flush()
        os.fsync(file.fileno())
    content = _Content(
        shape=shape,
        pixel_digest=whole.hexdigest(),
        names=tuple(source.names[index] for index in kept),
        sizes=tuple(sizes),
        largest=largest,
        labels=None if source.labels is None else tuple(source.labels[index] for index in kept),
        class_names=source.class_names,
        unusable=tuple(unusable),
        num_upscaled=num_upscaled,
    )
    (folder / _META).write_bytes(seal(dataclasses.asdict(content)))
    (folder / _CHECKED).write_text(json.dumps(stamp(folder / _PIXELS)), encoding="utf-8")


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """The header of a .npy file (version 1.0), of fixed length, as the number of pictures is known only at the end."""
    head = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    file.seek(0)
    file.write(head + text.ljust(_HEADER_BYTES - 11) + b"\n")


def _decode_all(source: Source, digests: list[str], config: DataConfig) -> Generator[Fitted | PictureError, None, None]:
    def check(of: Source, index: int, data: bytes | np.ndarray, known: str) -> None:
        if of.kind == "folder" and isinstance(data, bytes) and digest(data) != known:
            raise DataError(f"{of.names[index]!r} changed while it was being prepared; start again")

    def work(index: int, data: bytes | np.ndarray) -> Fitted:
        check(source, index, data, digests[index] if source.kind == "folder" else "")
        if config.kind == "picture":
            return prepare_picture(data, config, source.half)
        assert source.maps is not None
        instances = None
        if source.instances is not None:
            instances = source.instances.load(index)
            others = digests[len(source.files) :]
            check(source.instances, index, instances, others[index] if source.kind == "folder" else "")
        return prepare_map(source.names[index], MapFile(data, instances, source.maps, source.half), config)

    return read_all(source, work)


def _move_in(beside: Path, folder: Path) -> None:
    """The finished cache to its place, unless another process was first with a sound one."""
    for _ in range(3):
        try:
            beside.rename(folder)
        except OSError:
            if _read(folder) is not None:
                return
            # What lies there is damaged: set it aside, so that processes which have it open keep their pages.
            aside = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex}")
            with contextlib.suppress(FileNotFoundError):
                folder.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            return
    raise CacheError(errno.EBUSY, f"{str(folder)!r} cannot be replaced; remove it and start again")


# ---- reading ------------------------------------------------------------------------------------------------------


def _read(folder: Path) -> tuple[np.ndarray, _Content] | None:
    """Pixels and content of a cache folder; None if it is not there or not sound."""
    try:
        values = unseal((folder / _META).read_bytes())
        if values is None:
            return None
        content = _content(values)
        images = np.load(folder / _PIXELS, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # absent, cut short or overwritten
        return None
    if images.dtype != np.uint8 or images.shape != content.shape or not _is_sound(folder, images, content):
        return None
    return images, content


def _content(values: dict[str, Any]) -> _Content:
    labels = values["labels"]
    return _Content(
        shape=tuple(values["shape"]),
        pixel_digest=values["pixel_digest"],
        names=tuple(values["names"]),
        sizes=tuple((width, height) for width, height in values["sizes"]),
        largest=values["largest"],
        labels=None if labels is None else tuple(labels),
        class_names=tuple(values["class_names"]),
        unusable=tuple((name, reason) for name, reason in values["unusable"]),
        num_upscaled=values["num_upscaled"],
    )


def _is_sound(folder: Path, images: np.ndarray, content: _Content) -> bool:
    """Whether the pixels are those that were written: by the file's stamp if that is known, else by their digest."""
    current = stamp(folder / _PIXELS)
    with contextlib.suppress(OSError, ValueError):
        if json.loads((folder / _CHECKED).read_bytes()) == current:
            return True
    whole = hashlib.blake2b(digest_size=32)
    for picture in images:
        whole.update(picture.data)
    if whole.hexdigest() != content.pixel_digest:
        return False
    # A cache on a read-only disk is checked on every start.
    with contextlib.suppress(OSError), replacing(folder / _CHECKED) as part:
        part.write_text(json.dumps(current), encoding="utf-8")
    return True


def _as_dataset(found: tuple[np.ndarray, _Content], source: Source, config: DataConfig) -> Dataset:
    images, content = found
    map_names: tuple[str, ...] = ()
    if source.maps is not None:
        map_names = source.maps.names or tuple(str(number) for number in range(content.largest + 1))
    return Dataset(
        store=images,
        names=content.names,
        fingerprint=fingerprint_of(
            content.pixel_digest, content.shape, content.labels, content.class_names or map_names
        ),
        labels=None if content.labels is None else np.array(content.labels, dtype=np.int64),
        class_names=content.class_names,
        skipped=(*source.skipped, *content.unusable),
        flip=not source.has_glyphs if config.flip == "auto" else config.flip == "on",
        kind=config.kind,
        map_names=map_names,
        map_colours=source.maps.colours or some_colours(len(map_names)) if source.maps is not None else (),
        crop=config.crop,
        facts=SourceFacts(
            path=source.title or str(source.path),
            kind=source.kind,
            num_found=len(source.names),
            num_upscaled=content.num_upscaled,
            ignored=source.ignored,
            notes=source.notes,
        ),
    )
