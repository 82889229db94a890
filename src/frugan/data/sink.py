"""Many samples out: a folder or a zip with a table of labels; it appears when complete and resumes where it stopped."""

import contextlib
import io
import json
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from frugan.data.write import OutputError, encode_png, explained

_LABEL_KEY = "frugan:label"


def _sample_name(index: int) -> str:
    return f"{index // 1000:05d}/img{index:08d}.png"


class _Store(Protocol):
    """Where the finished PNG files of a Sink go. Nothing shows under the final name before `finish`."""

    part: Path

    def recover(self) -> Iterator[bytes]:
        """The PNG files an earlier try left, in order, up to the first that is missing or torn."""

    def begin(self, count: int) -> None:
        """Keeps the first `count` files of an earlier try, drops the rest, and makes ready for `put`."""

    def put(self, name: str, data: bytes) -> None:
        """Appends one file."""

    def finish(self, manifest: bytes) -> None:
        """Adds dataset.json and moves everything to the final name."""

    def close(self) -> None:
        """Stops in the middle; what is there stays for `recover`."""


class _FolderStore:
    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_name(path.name + ".part")
        names = [entry.name for entry in path.iterdir()] if path.exists() else []
        foreign = [name for name in names if not re.fullmatch(r"\d{5}|dataset\.json", name)]
        if foreign:  # never remove what is not ours, even when asked to overwrite
            raise OutputError(f"{path} holds other things, such as {foreign[0]}; choose another name")

    def recover(self) -> Iterator[bytes]:
        index = 0
        while (file := self.part / _sample_name(index)).is_file():
            yield file.read_bytes()
            index += 1

    def begin(self, count: int) -> None:
        if not count and self.part.exists():
            shutil.rmtree(self.part)
        while (file := self.part / _sample_name(count)).is_file():
            file.unlink()
            count += 1
        self.part.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, data: bytes) -> None:
        file = self.part / name
        file.parent.mkdir(exist_ok=True)
        unfinished = self.part / "unfinished"  # the next try writes over it
        unfinished.write_bytes(data)
        unfinished.replace(file)

    def finish(self, manifest: bytes) -> None:
        self.put("dataset.json", manifest)
        old = self.path.with_name(self.path.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.path.exists():
            self.path.rename(old)
        self.part.rename(self.path)
        shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """Nothing is open."""


class _ZipStore:
    """A zip of stored (not compressed) entries. An unfinished one is read again by its local headers."""

    _LOCAL = struct.Struct("<4s5H3I2H")

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_name(path.name + ".part")
        if path.is_dir():
            raise OutputError(f"{path} is a folder; choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.part.open("r+b" if self.part.is_file() else "w+b")
        self._entries: list[tuple[zipfile.ZipInfo, int]] = []
        self._zip: zipfile.ZipFile | None = None

    def recover(self) -> Iterator[bytes]:
        self._file.seek(0)
        while len(head := self._file.read(self._LOCAL.size)) == self._LOCAL.size:
            signature, _, _, _, _, _, crc, packed, size, name_length, extra_length = self._LOCAL.unpack(head)
            if signature != b"PK\x03\x04" or packed != size or extra_length:
                return
            info = zipfile.ZipInfo(self._file.read(name_length).decode("ascii", "replace"))
            data = self._file.read(size)
            if info.filename != _sample_name(len(self._entries)) or len(data) != size or zlib.crc32(data) != crc:
                return
            end = self._file.tell()
            info.header_offset = end - size - name_length - self._LOCAL.size
            info.CRC, info.compress_size, info.file_size = crc, size, size
            self._entries.append((info, end))
            yield data

    def begin(self, count: int) -> None:
        del self._entries[count:]
        self._file.truncate(self._entries[-1][1] if self._entries else 0)
        self._file.seek(0, os.SEEK_END)
        # Mode "w" appends at the place where the file stands; the earlier entries are listed by hand.
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        for info, _ in self._entries:
            self._zip.filelist.append(info)
            self._zip.NameToInfo[info.filename] = info

    def put(self, name: str, data: bytes) -> None:
        assert self._zip is not None
        self._zip.writestr(zipfile.ZipInfo(name), data)  # ZipInfo's fixed date: the same samples give the same bytes

    def finish(self, manifest: bytes) -> None:
        assert self._zip is not None
        self.put("dataset.json", manifest)
        self._zip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.part.replace(self.path)

    def close(self) -> None:
        # The end record is no loss where the disk is full: `recover` does not read it.
        with contextlib.suppress(OSError):
            if self._zip is not None:
                self._zip.close()
            self._file.close()


class Sink:
    """Takes many samples into a folder or a stored zip: 00000/img00000000.png ... and dataset.json with the labels.

    Use it as a context manager and go on where it stands, as pictures depend on their index alone:

        with Sink(Path("samples.zip"), total=50_000, metadata={"frugan:psi": "0.7"}) as sink:
            for start in range(sink.count, sink.total, 32): sink.add(images)

    Until all `total` pictures are in, everything is in PATH.part; a later Sink with equal, non-empty `metadata` goes on
    from it, one without metadata starts anew. The layout is the one that StyleGAN-style dataset readers take.
    """

    def __init__(
        self,
        path: Path,
        total: int,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = False,
        class_names: Sequence[str] = (),
    ) -> None:
        """Opens `path`, a zip by its suffix .zip, else a folder. `metadata` is put in every picture, and
        `class_names` beside the labels in dataset.json.

        Raises OutputError where `path` exists (`overwrite` replaces it, at the end), where PATH.part was made with
        other metadata (`overwrite` starts it anew), or where it cannot be written; ValueError for total < 1.
        """
        if total < 1:
            raise ValueError(f"total must be 1 or more, got {total}")
        self.path, self.total, self.count = path, total, 0
        self._metadata, self._class_names = dict(metadata or {}), list(class_names)
        self._labels: list[int | None] = []
        is_empty_folder = path.is_dir() and not any(path.iterdir())
        if path.exists() and not is_empty_folder and not overwrite:
            raise OutputError(f"{path} exists already; choose another name, or overwrite it")
        with explained(path):
            self._store: _Store = _ZipStore(path) if path.suffix.lower() == ".zip" else _FolderStore(path)
            self._resume(overwrite)

    def _resume(self, overwrite: bool) -> None:
        for data in self._store.recover() if self._metadata else ():
            facts = _png_facts(data)
            if facts is None or self.count == self.total:
                break
            if any(facts.get(key) != value for key, value in self._metadata.items()):
                self.count = 0
                if not overwrite:
                    self._store.close()
                    raise OutputError(f"{self._store.part} was begun with other settings; delete it, or overwrite it")
                break
            self._labels.append(int(facts[_LABEL_KEY]) if _LABEL_KEY in facts else None)
            self.count += 1
        del self._labels[self.count :]
        self._store.begin(self.count)

    def __enter__(self) -> "Sink":
        """The sink itself."""
        return self

    def add(self, images: UInt8[Tensor, "N C H W"], labels: Sequence[int] | None = None) -> None:
        """Writes the next pictures, with their class numbers if they have classes.

        Raises ValueError for more than `total` pictures or labels that do not fit, OutputError where it cannot write.
        """
        if self.count + len(images) > self.total or (labels is not None and len(labels) != len(images)):
            got = "no labels" if labels is None else f"{len(labels)} labels"
            raise ValueError(f"{self.total - self.count} pictures are still wanted, got {len(images)} with {got}")
        for index, image in enumerate(images):
            label = None if labels is None else int(labels[index])
            facts = self._metadata | ({} if label is None else {_LABEL_KEY: str(label)})
            data = encode_png(image, facts, compress_level=1)
            with explained(self._store.part, "; what is there is kept, and the same command goes on from it"):
                self._store.put(_sample_name(self.count), data)
            self._labels.append(label)
            self.count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Finishes the file if all pictures are in and no error passes; else leaves PATH.part for the next try."""
        if kind is not None:
            self._store.close()
            return
        if self.count < self.total:
            self._store.close()
            raise ValueError(f"{self.path} is not complete: {self.count} of {self.total} pictures")
        labelled = all(label is not None for label in self._labels)
        entries = [[_sample_name(index), label] for index, label in enumerate(self._labels)] if labelled else None
        named = {"class_names": self._class_names} if labelled and self._class_names else {}
        with explained(self.path):
            self._store.finish(json.dumps({"labels": entries, **named}).encode())


def _png_facts(data: bytes) -> dict[str, str] | None:
    """The text entries before the pixels of a PNG file, without decoding it; None where it is torn."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return {key: value for key, value in image.info.items() if isinstance(key, str) and isinstance(value, str)}
    except (OSError, SyntaxError):
        return None
