"""Writing torch's zip format without pickling: the few opcodes that tables of tensors need, put together by hand.

Read by `torch.load(path, weights_only=True)`. Format: PyTorch's serialisation notes; opcodes: Python's pickletools.
"""

import io
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

STORAGES = {torch.float32: "FloatStorage", torch.float16: "HalfStorage", torch.float64: "DoubleStorage"}
_PROTOCOL, _STOP, _MARK, _EMPTY_DICT, _EMPTY_TUPLE = b"\x80\x02", b".", b"(", b"}", b")"
_TUPLE, _SET_ITEMS, _CALL, _PERSISTENT, _FALSE = b"t", b"u", b"R", b"Q", b"\x89"


def pack(content: Mapping[str, Any]) -> bytes:
    """The file for a table of tensors (float32, float16, float64) and such tables. Raises ValueError for others."""
    storages: list[bytes] = []
    program = _PROTOCOL + _table(content, storages) + _STOP
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in [("data.pkl", program), ("byteorder", b"little"), ("version", b"3\n")]:
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
        for key, data in enumerate(storages):
            archive.writestr(zipfile.ZipInfo(f"archive/data/{key}"), data)
    return buffer.getvalue()


def _table(content: Mapping[str, Any], storages: list[bytes]) -> bytes:
    items = b"".join(_text(key) + _value(value, storages) for key, value in content.items())
    return _EMPTY_DICT + _MARK + items + _SET_ITEMS


def _value(value: Any, storages: list[bytes]) -> bytes:
    if isinstance(value, Mapping):
        return _table(value, storages)
    if isinstance(value, Tensor) and value.dtype in STORAGES:
        return _tensor(value.detach().cpu().contiguous(), storages)
    raise ValueError(f"a table of tensors can hold float tensors and tables, got {value!r}")


def _tensor(tensor: Tensor, storages: list[bytes]) -> bytes:
    key = str(len(storages))
    storages.append(tensor.numpy().astype(tensor.numpy().dtype.newbyteorder("<")).tobytes())
    storage = (
        *(_MARK, _text("storage"), _global("torch", STORAGES[tensor.dtype]), _text(key), _text("cpu")),
        *(_number(tensor.numel()), _TUPLE, _PERSISTENT),
    )
    hooks = _global("collections", "OrderedDict") + _EMPTY_TUPLE + _CALL
    arguments = (*storage, _number(0), _numbers(tensor.shape), _numbers(tensor.stride()), _FALSE, hooks)
    return _global("torch._utils", "_rebuild_tensor_v2") + _MARK + b"".join(arguments) + _TUPLE + _CALL


def _numbers(values: Any) -> bytes:
    return _MARK + b"".join(_number(value) for value in values) + _TUPLE


def _number(value: int) -> bytes:
    if not 0 <= value < 2**31:
        raise ValueError(f"a tensor of this file must have fewer than 2^31 numbers, got {value}")
    return b"J" + struct.pack("<i", value)


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()
