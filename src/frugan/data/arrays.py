"""Sets in fixed layouts: CIFAR-10/100 and MNIST-like idx files, packed or not; nothing in them is ever run."""

import contextlib
import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from frugan.data.pictures import DataError, Part

_CIFAR_PIXELS = 3 * 32 * 32
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar-100-binary", "cifar-100-python")
_MEMBER_LIMIT = 256 * 1024 * 1024
_IDX_LIMIT = 4 * 1024**3
_IDX_NAME = re.compile(r"(?P<head>.*?)images[-.]idx3-ubyte(\.gz)?")
_IDX_TEST = re.compile(r"t10k|test")


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """A whole set in memory: `pixels` (N, H, W) or (N, H, W, 3), labels where known, the files it all came from."""

    kind: str
    files: tuple[Path, ...]
    names: tuple[str, ...]
    pixels: UInt8[np.ndarray, "N H W *rgb"]
    labels: tuple[int, ...] | None
    class_names: tuple[str, ...]
    has_glyphs: bool


def open_arrays(place: Path, part: Part) -> Arrays | None:
    """The set at `place` if it is CIFAR (a folder or .tar.gz) or idx files (a folder or one images file), else None.

    Raises: DataError if it is one of these but broken, or the part asked for is not there.
    """
    if place.is_dir():
        inner = next((place / name for name in _CIFAR_FOLDERS if (place / name).is_dir()), place)
        members = _files_in(inner)
        for layout in _LAYOUTS:
            if layout.mark in members and any(name in members for name in layout.parts("all")):
                files = [members[name] for name in layout.files(part) if name in members]
                return _read_cifar(layout, part, {path.name: path.read_bytes() for path in files}, tuple(files))
        images = sorted(path for name, path in _files_in(place).items() if _IDX_NAME.fullmatch(name))
        return _read_idx_sets(images, part) if images else None
    if _IDX_NAME.fullmatch(place.name):
        return _read_idx_sets([place], "all")
    if re.match(r"cifar.*\.(tar|tar\.gz|tgz)$", place.name.lower()):
        return _open_cifar_archive(place, part)
    return None


def _files_in(folder: Path) -> dict[str, Path]:
    files = {}
    with os.scandir(folder) as entries:  # tells files from folders without asking for each of them
        for entry in entries:
            with contextlib.suppress(OSError):  # a link to itself is no file
                if entry.is_file():
                    files[entry.name] = Path(entry.path)
    return files


# ---- CIFAR ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """One of the four published forms: the file that marks it, its parts, where labels and class names stand."""

    mark: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int | None
    label_key: str = ""
    names_key: str = ""

    def parts(self, part: Part) -> tuple[str, ...]:
        return {"train": self.train, "test": self.test, "all": self.train + self.test}[part]

    def files(self, part: Part) -> tuple[str, ...]:
        return (*self.parts(part), self.mark)


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_LAYOUTS = (
    _Layout("batches.meta.txt", tuple(f"{name}.bin" for name in _BATCHES), ("test_batch.bin",), 1),
    _Layout("fine_label_names.txt", ("train.bin",), ("test.bin",), 2),
    _Layout("batches.meta", _BATCHES, ("test_batch",), None, "labels", "label_names"),
    _Layout("meta", ("train",), ("test",), None, "fine_labels", "fine_label_names"),
)


def _open_cifar_archive(path: Path, part: Part) -> Arrays:
    wanted = {name for layout in _LAYOUTS for name in layout.files("all")}
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and name in wanted and member.size <= _MEMBER_LIMIT:
                    stream = archive.extractfile(member)
                    members[name] = b"" if stream is None else stream.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{str(path)!r} is not a whole archive: {error}") from None
    for layout in _LAYOUTS:
        if layout.mark in members:
            return _read_cifar(layout, part, members, (path,))
    raise DataError(f"{str(path)!r} holds none of the known CIFAR layouts")


def _read_cifar(layout: _Layout, part: Part, members: Mapping[str, bytes], files: tuple[Path, ...]) -> Arrays:
    pixels, labels, names = [], [], []
    for name in layout.parts(part):
        if name not in members:
            continue
        batch, classes = _read_binary(layout, name, members[name]) or _read_python(layout, name, members[name])
        pixels.append(batch.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels += classes
        names += [f"{name.removesuffix('.bin')}/{index:05d}" for index in range(len(batch))]
    if not pixels:
        raise DataError(f"{str(files[-1].parent)!r} lacks the part {part!r}: {', '.join(layout.parts(part))}")
    class_names = _cifar_class_names(layout, members[layout.mark])
    if max(labels, default=0) >= len(class_names):
        raise DataError(f"CIFAR label {max(labels)} has no name in {layout.mark}: it names {len(class_names)}")
    return Arrays(
        kind="cifar",
        files=files,
        names=tuple(names),
        pixels=np.concatenate(pixels),
        labels=tuple(labels),
        class_names=class_names,
        has_glyphs=False,
    )


def _cifar_class_names(layout: _Layout, text: bytes) -> tuple[str, ...]:
    if layout.label_bytes is not None:
        return tuple(text.decode("ascii", "replace").split())
    if layout.mark == "batches.meta":
        return _CIFAR10_CLASSES
    return tuple(str(name) for name in _list_after(text, layout.names_key, layout.mark))


Batch = tuple[np.ndarray, list[int]]


def _read_binary(layout: _Layout, name: str, data: bytes) -> Batch | None:
    """Rows of labels (the last one the fine one) and pixels, from the binary version; None for the Python version."""
    if layout.label_bytes is None:
        return None
    width = layout.label_bytes + _CIFAR_PIXELS
    if not data or len(data) % width:
        raise DataError(f"{name} is broken: {len(data)} bytes is no multiple of {width}")
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, width)
    return rows[:, layout.label_bytes :], rows[:, layout.label_bytes - 1].tolist()


def _read_python(layout: _Layout, name: str, data: bytes) -> Batch:
    """The same from the Python version, by looking for the two runs of bytes that matter.

    The files are serialised Python objects, which could run anything when loaded. They all have one shape: a list of
    small integers behind the key of the labels, and the pixels as one long string of known length behind the mark of an
    array that is not in Fortran order. Only that shape is read; all else is refused.
    """
    labels = [int(label) for label in _list_after(data, layout.label_key, name)]
    size = len(labels) * _CIFAR_PIXELS
    head = b"\x89T" + size.to_bytes(4, "little")
    start = data.find(head) + len(head)
    if start < len(head) or len(data) < start + size:
        raise _strange(name)
    return np.frombuffer(data, dtype=np.uint8, count=size, offset=start).reshape(-1, _CIFAR_PIXELS), labels


def _strange(name: str) -> DataError:
    return DataError(
        f"{name} is not in the form of the published Python version of CIFAR, the only one read here; "
        "use the binary version (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz)"
    )


def _list_after(data: bytes, key: str, name: str) -> list[int | str]:
    """The list of small integers or short texts that follows a key in a file of serialisation protocol 2.

    A list is `]`, then items between `(` and `e`, in portions; `K` + byte is an integer, `U` + length + bytes a text,
    `q` + byte and `r` + 4 bytes are bookkeeping.
    """
    lengths = {b"q": 2, b"r": 5, b"]": 1, b"(": 1}
    mark = b"U" + bytes([len(key)]) + key.encode()
    at = data.find(mark) + len(mark)
    items: list[int | str] = []
    while at > len(mark) - 1 and at + 1 < len(data):
        code = data[at : at + 1]
        if code == b"K":
            items.append(data[at + 1])
            at += 2
        elif code == b"U":
            items.append(data[at + 2 : at + 2 + data[at + 1]].decode("ascii", "replace"))
            at += 2 + data[at + 1]
        elif code == b"e" and data[at + 1 : at + 2] != b"(":
            return items
        elif code == b"e":
            at += 1
        elif code in lengths:
            at += lengths[code]
        else:
            break
    raise _strange(name)


# ---- idx -----------------------------------------------------------------------------------------------------------


def _read_idx_sets(images: list[Path], part: Part) -> Arrays:
    """The wanted parts of MNIST, Fashion-MNIST, KMNIST or EMNIST, whose files say by their names what they are."""
    tests = [path for path in images if _IDX_TEST.search(path.name)]
    trains = [path for path in images if path not in tests]
    wanted = {"train": trains, "test": tests, "all": trains + tests}[part]
    if not wanted:
        raise DataError(f"{str(images[0].parent)!r} holds no images file of the part {part!r}")
    if len(trains) > 1 or len(tests) > 1:
        raise DataError(f"{str(images[0].parent)!r} holds several sets ({images[0].name} ...): name one images file")
    pixels, labels, names, files = [], [], [], []
    for path in wanted:
        batch = _read_idx(path, 3)
        # EMNIST was published with rows and columns exchanged.
        pixels.append(batch.transpose(0, 2, 1) if path.name.startswith("emnist") else batch)
        names += [f"{'test' if path in tests else 'train'}/{index:05d}" for index in range(len(batch))]
        files.append(path)
        beside = _labels_beside(path)
        if beside is not None:
            files.append(beside)
            labels += _read_idx(beside, 1).tolist()
            if len(labels) != len(names):
                raise DataError(f"{beside.name} does not fit {path.name}: {len(labels)} labels, {len(names)} pictures")
    if labels and len(labels) != len(names):
        raise DataError(f"{str(images[0].parent)!r} has labels for one part and not for the other")
    if len({batch.shape[1:] for batch in pixels}) > 1:
        raise DataError(f"{str(images[0].parent)!r} holds parts of different picture sizes; choose one by `part`")
    return Arrays(
        kind="idx",
        files=tuple(files),
        names=tuple(names),
        pixels=np.concatenate(pixels),
        labels=tuple(labels) if labels else None,
        class_names=tuple(str(number) for number in range(max(labels, default=-1) + 1)),
        has_glyphs=True,
    )


def _labels_beside(images: Path) -> Path | None:
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    choices = [images.with_name(name), images.with_name(name.removesuffix(".gz")), images.with_name(name + ".gz")]
    return next((path for path in choices if path.is_file()), None)


def _read_idx(path: Path, num_axes: int) -> UInt8[np.ndarray, "*shape"]:
    """The bytes of an idx file (0, 0, type 8 = unsigned byte, number of axes, big-endian sizes, data), shaped."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * num_axes).ljust(4 + 4 * num_axes, b"\0")
            shape = tuple(int(size) for size in np.frombuffer(head[4:], dtype=">u4"))
            size = int(np.prod(shape, dtype=np.float64))
            if head[:4] != bytes([0, 0, 8, num_axes]) or 0 in shape or size > _IDX_LIMIT:
                raise DataError(f"{str(path)!r} is not an idx file of {num_axes} axes of bytes")
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}") from None
    if len(data) != size:
        raise DataError(f"{str(path)!r} is broken: it says {shape} and does not hold {size} bytes")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
