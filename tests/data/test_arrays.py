"""CIFAR and idx files: made here in their published layouts, read back, damaged, refused."""

import gzip
import io
import pickle
import struct
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frugan.data import DataConfig, DataError, open_source, prepare

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def pixels_and_labels(seed: int, count: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    return draws.integers(0, 256, (count, 3072), dtype=np.uint8), draws.integers(0, classes, count).astype(np.uint8)


def binary(pixels: np.ndarray, *labels: np.ndarray) -> bytes:
    return np.concatenate([*(column[:, None] for column in labels), pixels], axis=1).tobytes()


def text(value: bytes) -> bytes:
    return b"U" + bytes([len(value)]) + value + b"q\x05"


def number_list(values: np.ndarray) -> bytes:
    """A list as the published files have it: in portions of a thousand."""
    portions = [values[start : start + 1000] for start in range(0, len(values), 1000)]
    return b"]q\x04" + b"".join(
        b"(" + b"".join(b"K" + bytes([value]) for value in portion) + b"e" for portion in portions
    )


def text_list(values: list[str]) -> bytes:
    return b"]q\x04(" + b"".join(text(value.encode()) for value in values) + b"e"


def python_batch(pixels: np.ndarray, labels: np.ndarray, key: bytes = b"labels") -> bytes:
    """A batch of the Python version, byte for byte in the form that Python 2 wrote (serialisation protocol 2)."""
    count = struct.pack("<H", len(pixels))
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x0b(K\x01M"
        + count
        + b"M\x00\x0c\x86cnumpy\ndtype\nq\x0dU\x02u1K\x00K\x01\x87Rq\x10"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", pixels.size)
        + pixels.tobytes()
        + b"q\x12tb"
    )
    head = b"\x80\x02}q\x01(" + text(b"batch_label") + text(b"training batch 1 of 5")
    return (
        head
        + text(key)
        + number_list(labels)
        + text(b"data")
        + array
        + text(b"filenames")
        + text_list(["a.png"])
        + b"u."
    )


def write_all(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def archive(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def cifar10_binary() -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    parts = [pixels_and_labels(seed, 4) for seed in range(6)]
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    files = {name: binary(*part) for name, part in zip(names, parts, strict=True)}
    files["batches.meta.txt"] = ("\n".join(CLASSES) + "\n\n").encode()
    return files, np.concatenate([p for p, _ in parts]), np.concatenate([label for _, label in parts])


# ---- CIFAR ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "parent", "archive"])
def test_cifar10_binary(tmp_path: Path, form: str) -> None:
    files, pixels, labels = cifar10_binary()
    if form == "archive":
        path = archive(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)
    else:
        write_all(tmp_path / "cifar-10-batches-bin", files)
        path = tmp_path if form == "parent" else tmp_path / "cifar-10-batches-bin"
    dataset = prepare(path, DataConfig(resolution=32))
    assert (dataset.images == pixels[:20].reshape(-1, 3, 32, 32)).all()
    assert dataset.labels is not None and (dataset.labels == labels[:20]).all()
    assert dataset.class_names == tuple(CLASSES)
    assert dataset.names[4] == "data_batch_2/00000" and dataset.flip
    test = prepare(path, DataConfig(resolution=32, part="test"))
    assert (test.images == pixels[20:].reshape(-1, 3, 32, 32)).all()
    assert len(prepare(path, DataConfig(resolution=32, part="all", labels="none"))) == 24
    with pytest.raises(DataError, match="labels='folders' does not fit"):
        open_source(path, labels="folders")


def test_cifar100_binary_has_fine_labels(tmp_path: Path) -> None:
    pixels, fine = pixels_and_labels(0, 5, 100)
    coarse = np.zeros(5, dtype=np.uint8)
    names = "\n".join(f"class{number}" for number in range(100)).encode()
    write_all(tmp_path, {"train.bin": binary(pixels, coarse, fine), "fine_label_names.txt": names})
    source = open_source(tmp_path)
    assert source.labels == tuple(fine.tolist()) and source.class_names[99] == "class99"
    with pytest.raises(DataError, match=r"lacks the part 'test': test.bin"):
        open_source(tmp_path, part="test")


@pytest.mark.parametrize("count", [1, 7, 1000, 2500])
def test_cifar10_python_is_read_without_running_it(tmp_path: Path, count: int) -> None:
    pixels, labels = pixels_and_labels(1, count)
    batch = python_batch(pixels, labels)
    write_all(tmp_path, {"data_batch_1": batch, "batches.meta": b"not looked at"})
    source = open_source(tmp_path)
    assert source.labels == tuple(labels.tolist()) and source.class_names == tuple(CLASSES)
    loaded = np.stack([np.asarray(source.load(index)) for index in range(count)])
    assert (loaded.transpose(0, 3, 1, 2).reshape(count, 3072) == pixels).all()


def test_the_test_batch_is_what_python_2_would_have_written() -> None:
    """The oracle of the test above: the standard reader, which may only run on bytes made here, agrees."""
    pixels, labels = pixels_and_labels(1, 1200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old name of a module of numpy, in some versions
        content = pickle.loads(python_batch(pixels, labels), encoding="bytes")
    assert (content[b"data"] == pixels).all() and content[b"labels"] == labels.tolist()


def test_cifar100_python(tmp_path: Path) -> None:
    pixels, labels = pixels_and_labels(2, 3, 100)
    names = [f"kind{number}" for number in range(100)]
    meta = b"\x80\x02}q\x01(" + text(b"fine_label_names") + text_list(names) + b"u."
    files = {"train": python_batch(pixels, labels, b"fine_labels"), "meta": meta}
    source = open_source(archive(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", files))
    assert source.labels == tuple(labels.tolist()) and source.class_names == tuple(names)


@pytest.mark.parametrize("damage", ["empty", "hostile", "fortran", "short", "no labels"])
def test_other_python_objects_are_refused_and_never_run(tmp_path: Path, damage: str) -> None:
    pixels, labels = pixels_and_labels(1, 3)
    batch = python_batch(pixels, labels)
    mark = tmp_path / "was_run"
    data = {
        "empty": b"",
        "hostile": b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.",
        "fortran": batch.replace(b"\x89T", b"\x88T"),
        "short": batch[:2000],
        "no labels": batch.replace(b"labels", b"habits"),
    }[damage]
    write_all(tmp_path, {"data_batch_1": data, "batches.meta": b""})
    with pytest.raises(DataError, match="use the binary version"):
        open_source(tmp_path)
    assert not mark.exists()


def test_broken_cifar_files_are_refused(tmp_path: Path) -> None:
    files, _, _ = cifar10_binary()
    write_all(tmp_path / "a", files | {"data_batch_2.bin": b"123"})
    with pytest.raises(DataError, match=r"data_batch_2.bin is broken: 3 bytes is no multiple of 3073"):
        open_source(tmp_path / "a")
    write_all(tmp_path / "b", files | {"batches.meta.txt": b"one two"})
    with pytest.raises(DataError, match=r"has no name in batches\.meta\.txt"):
        open_source(tmp_path / "b")
    path = archive(tmp_path / "cifar-10-binary.tar.gz", "x", files)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="is not a whole archive"):
        open_source(path)
    with pytest.raises(DataError, match="none of the known CIFAR layouts"):
        open_source(archive(tmp_path / "cifar-pictures.tar.gz", "x", {"a.png": b""}))


# ---- idx -----------------------------------------------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def digits(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    return draws.integers(0, 256, (count, 28, 28), dtype=np.uint8), draws.integers(0, 10, count).astype(np.uint8)


@pytest.mark.parametrize("style", ["-idx3-ubyte.gz", "-idx3-ubyte", ".idx3-ubyte"])
def test_idx_files(tmp_path: Path, style: str) -> None:
    close = gzip.compress if style.endswith(".gz") else bytes
    sets = {"train": digits(0, 6), "t10k": digits(1, 3)}
    for name, (images, labels) in sets.items():
        write_all(
            tmp_path,
            {
                f"{name}-images{style}": close(idx(images)),
                f"{name}-labels{style.replace('idx3', 'idx1')}": close(idx(labels)),
            },
        )
    dataset = prepare(tmp_path, DataConfig(resolution=28, channels=1))
    assert (dataset.images[:, 0] == sets["train"][0]).all()
    assert dataset.labels is not None and (dataset.labels == sets["train"][1]).all()
    assert dataset.names[:2] == ("train/00000", "train/00001")
    assert not dataset.flip  # digits
    assert prepare(tmp_path, DataConfig(resolution=28, channels=1, flip="on")).flip
    both = prepare(tmp_path, DataConfig(resolution=28, channels=1, part="all"))
    assert len(both) == 9 and both.names[-1] == "test/00002"
    single = prepare(tmp_path / f"t10k-images{style}", DataConfig(resolution=28, channels=1))
    assert (single.images[:, 0] == sets["t10k"][0]).all() and single.labels is not None


def test_idx_without_labels(tmp_path: Path) -> None:
    write_all(tmp_path, {"train-images-idx3-ubyte": idx(digits(0, 2)[0])})
    assert open_source(tmp_path).labels is None
    with pytest.raises(DataError, match="labels='file' does not fit"):
        open_source(tmp_path, labels="file")
    with pytest.raises(DataError, match="holds no images file of the part 'test'"):
        open_source(tmp_path, part="test")


def test_emnist_is_turned_as_it_was_meant(tmp_path: Path) -> None:
    images, labels = digits(0, 2)
    write_all(
        tmp_path,
        {"emnist-letters-train-images-idx3-ubyte": idx(images), "emnist-letters-train-labels-idx1-ubyte": idx(labels)},
    )
    assert (np.asarray(open_source(tmp_path).load(1)) == images[1].T).all()
    write_all(tmp_path, {"emnist-digits-train-images-idx3-ubyte": idx(images)})
    with pytest.raises(DataError, match="holds several sets"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train-images-idx3-ubyte": b""}, "is not an idx file of 3 axes"),
        ({"train-images-idx3-ubyte": b"\0\0\x0d\x03" + b"\0\0\0\1" * 3 + b"\0"}, "is not an idx file of 3 axes"),
        ({"train-images-idx3-ubyte": b"\0\0\x08\x03" + b"\xff\xff\xff\xff" * 3}, "is not an idx file of 3 axes"),
        ({"train-images-idx3-ubyte": idx(np.zeros((2, 5, 5), np.uint8))[:-1]}, "is broken"),
        ({"train-images-idx3-ubyte": idx(np.zeros((2, 5, 5), np.uint8)) + b"x"}, "is broken"),
        ({"train-images-idx3-ubyte.gz": b"no gzip"}, "cannot be read"),
        ({"train-images-idx3-ubyte.gz": gzip.compress(idx(np.zeros((2, 5, 5), np.uint8)))[:-9]}, "cannot be read"),
        (
            {
                "train-images-idx3-ubyte": idx(np.zeros((2, 5, 5), np.uint8)),
                "train-labels-idx1-ubyte": idx(np.zeros(3, np.uint8)),
            },
            "3 labels, 2 pictures",
        ),
    ],
)
def test_broken_idx_files_are_refused(tmp_path: Path, files: dict[str, Any], words: str) -> None:
    write_all(tmp_path, files)
    with pytest.raises(DataError, match=words):
        open_source(tmp_path)
