"""Checkpoints written by `torch.save`, in both of its formats, as plain data and tensors."""

import io
import mmap
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from frugan.inert.machine import (
    Constructor,
    InertError,
    InertPickle,
    Limits,
    Namespace,
    Record,
    Stream,
    check_tree,
    plain_key,
)

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_ZIP_START = b"PK\x03\x04"
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error, OSError)
_SCRIPT = "__torch__."  # how the names of a TorchScript program's classes begin
_SHARING = 16  # tensors of a checkpoint may share memory, but not claim more than so many times the file's size


_STORAGE_TYPES: dict[str, torch.dtype] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.storage.UntypedStorage": torch.uint8,
}
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
)


@dataclass(frozen=True, slots=True)
class Storage:
    """The flat memory that tensors of a file are views of."""

    values: Tensor


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    return {plain_key(key): value for key, value in pairs}


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise InertError("a tensor needs a storage")
    return _view(storage.values, offset, size, stride)


def _rebuild_typed(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise InertError("a tensor needs a storage and a type")
    return _view(storage.values.view(dtype), offset, size, stride)


def _view(values: Tensor, offset: Any, size: Any, stride: Any) -> Tensor:
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 16):
        raise InertError("size and stride of a tensor must be tuples of one length up to 16")
    numbers = [offset, *size, *stride]
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
        raise InertError("offset, size and stride of a tensor must be whole numbers from 0 up")
    elements, last = 1, offset
    for length, step in zip(size, stride, strict=True):
        elements *= length
        last += (length - 1) * step
    if elements and (elements > values.numel() or last >= values.numel()):
        raise InertError(f"a tensor of {elements} elements does not fit its storage of {values.numel()}")
    return torch.as_strided(values, size, stride if elements else _no_stride(size), offset if elements else 0)


def _no_stride(size: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * len(size)


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise InertError("a parameter needs a tensor")
    return tensor


def _size(items: Any = ()) -> tuple[Any, ...]:
    return tuple(items)


def _device(*names: Any) -> str:
    if not all(isinstance(name, str | int) for name in names):
        raise InertError("a device must be text and a number")
    return ":".join(str(name) for name in names)


TORCH_CONSTRUCTORS: dict[str, Constructor] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "argparse.Namespace": Namespace,
}
TORCH_VALUES: dict[str, Any] = {**_STORAGE_TYPES, **{str(dtype): dtype for dtype in _DTYPES}}


class _Storages:
    """The storages of one file by key, each made once, all together no larger than the file."""

    def __init__(self, size_bytes: int, read: Callable[[str, torch.dtype, int], Tensor]) -> None:
        self.left_bytes = size_bytes
        self.read = read
        self.found: dict[str, Storage] = {}

    def __call__(self, identifier: Any) -> Storage:
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
            raise InertError("a checkpoint may refer to storages only")
        _, dtype, key, _, count = identifier[:5]
        if len(identifier) == 6 and identifier[5] is not None:
            raise InertError("views of storages (torch before 0.4) are not read; save the file with a newer torch")
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise InertError("a storage must have a type, a key and a length")
        if key not in self.found:
            self.left_bytes -= count * dtype.itemsize
            if self.left_bytes < 0:
                raise InertError("the storages of a checkpoint claim more than its size")
            self.found[key] = Storage(self.read(key, dtype, count))
        storage = self.found[key]
        if storage.values.dtype != dtype or storage.values.numel() != count:
            raise InertError(f"storage {key[:80]!r} is described in two ways")
        return storage


def _machine(storages: _Storages, constructors: Mapping[str, Constructor] | None, records: bool = False) -> InertPickle:
    table = {**TORCH_CONSTRUCTORS, **(constructors or {})}
    return InertPickle(table, values=TORCH_VALUES, persistent=storages, records=records)


def _as_values(data: bytes, dtype: torch.dtype) -> Tensor:
    if not data:
        return torch.empty(0, dtype=dtype)
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return raw != 0 if dtype == torch.bool else raw.view(dtype)


def read_torch(path: Path, *, constructors: Mapping[str, Constructor] | None = None) -> Any:
    """What a checkpoint written by `torch.save` holds: dictionaries, lists, tuples, numbers, text and CPU tensors.

    Tensors may share memory as they did when saved. Parameters come as tensors, ordered dictionaries as dictionaries,
    an `argparse.Namespace` as a dictionary, devices as text. `constructors` allows further names (see InertPickle).
    Of a TorchScript program (`torch.jit.save`) come its tensors by dotted names, as in its state dict; it is not run.
    Raises InertError for a file that is broken, is not a checkpoint, holds anything else (a whole pickled module, for
    one), or claims more than its size; FileNotFoundError where there is no such file.
    """
    size_bytes = path.stat().st_size
    if size_bytes < 16:
        raise InertError(f"{path.name} is too short for a checkpoint ({size_bytes} bytes)")
    try:
        with path.open("rb") as file:
            if file.read(4) == _ZIP_START:
                value = _read_archive(file, size_bytes, constructors)
            else:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    value = read_legacy(mapped, size_bytes, constructors=constructors)
        _check_tensors(value, size_bytes)
        return value
    except InertError as error:
        raise InertError(f"{path.name}: {error}") from error


def read_legacy(stream: Stream, size_bytes: int, *, constructors: Mapping[str, Constructor] | None = None) -> Any:
    """What a checkpoint in torch's format before 1.6 holds; a bare storage comes as `Storage`. Raises InertError.

    Five pickles follow each other: a mark, a version, facts of the machine, the value, the keys of its storages; then
    the storages, each with its length.
    """
    plain = InertPickle({})
    if plain.load(stream) != _LEGACY_MAGIC or plain.load(stream) != _LEGACY_VERSION:
        raise InertError("this is not a checkpoint written by torch.save")
    facts = plain.load(stream)
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise InertError("checkpoints of big-endian machines are not read")
    storages = _Storages(size_bytes, lambda key, dtype, count: torch.zeros(count, dtype=dtype))
    value = _machine(storages, constructors).load(stream)
    keys = plain.load(stream)
    if not isinstance(keys, list) or any(not isinstance(key, str) for key in keys) or set(keys) != {*storages.found}:
        raise InertError("the list of storages is not that of the value")
    for key in keys:
        values = storages.found[key].values
        head = stream.read(8)
        data = stream.read(values.numel() * values.dtype.itemsize)
        if head != struct.pack("<q", values.numel()) or len(data) != values.numel() * values.dtype.itemsize:
            raise InertError(f"storage {key[:80]!r} is cut off")
        values.copy_(_as_values(data, values.dtype))
    return value


def _read_archive(file: BinaryIO, size_bytes: int, constructors: Mapping[str, Constructor] | None) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_open_archive(archive, size_bytes, constructors)
    except InertError:
        raise
    except _ZIP_ERRORS as error:
        raise InertError(f"a broken archive: {str(error)[:200]}") from error


def _read_open_archive(
    archive: zipfile.ZipFile, size_bytes: int, constructors: Mapping[str, Constructor] | None
) -> Any:
    names = set(archive.namelist())
    heads = [name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(heads) != 1:
        raise InertError("this zip file is not a checkpoint written by torch.save")
    head = heads[0]
    if f"{head}byteorder" in names and _entry(archive, f"{head}byteorder", size_bytes) != b"little":
        raise InertError("checkpoints of big-endian machines are not read")

    def read(key: str, dtype: torch.dtype, count: int) -> Tensor:
        data = _entry(archive, f"{head}data/{key}", size_bytes)
        if len(data) != count * dtype.itemsize:
            raise InertError(f"storage {key[:80]!r} is not as long as it says")
        return _as_values(data, dtype)

    pickled, storages = io.BytesIO(_entry(archive, f"{head}data.pkl", size_bytes)), _Storages(size_bytes, read)
    if f"{head}constants.pkl" in names:
        return dict(_script_tensors(_machine(storages, constructors, records=True).load(pickled), ""))
    return _machine(storages, constructors).load(pickled)


def _script_tensors(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors that modules of a TorchScript program have as attributes, by the names in its state dict."""
    if not (isinstance(module, Record) and module.path.startswith(_SCRIPT) and isinstance(module.state, dict)):
        raise InertError("this TorchScript program is no module")
    for name, value in module.state.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Record) and isinstance(value.state, dict):
            yield from _script_tensors(value, f"{prefix}{name}.")


def _entry(archive: zipfile.ZipFile, name: str, size_bytes: int) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise InertError(f"the archive has no entry {name[:80]!r}") from None
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise InertError(f"entry {name[:80]!r} is compressed, which torch.save never does")
    if info.file_size > size_bytes:
        raise InertError(f"entry {name[:80]!r} claims more than the file's size")
    return archive.read(info)


def _check_tensors(value: Any, size_bytes: int) -> None:
    """Raises InertError where copying every tensor would take unreasonably more memory than the file."""
    claimed = check_tree(value, Limits(), lambda leaf: leaf.nbytes if isinstance(leaf, Tensor) else 0)
    if claimed > _SHARING * size_bytes:
        raise InertError(f"tensors claim {claimed} bytes in a file of {size_bytes}")
