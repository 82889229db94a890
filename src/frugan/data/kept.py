"""Tensors kept in the user's cache under a key that says what they were made from; checked when they are read."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from frugan.data.cache import cache_folder
from frugan.data.write import replacing

Tensors = dict[str, Tensor]


def place_of(room: str, content: Any) -> Path:
    """Where tensors made from `content` (plain data: digests, settings) lie in that room of the cache."""
    key = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
    return cache_folder() / room / f"{key}.safetensors"


def read_kept(path: Path) -> Tensors | None:
    """What was kept there; None if there is nothing, or a single bit of it is not as it was."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            known = (file.metadata() or {}).get("digest")
            tensors: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    except (OSError, safetensors.SafetensorError):
        return None
    return tensors if _digest(tensors) == known else None


def keep(path: Path, tensors: Tensors) -> None:
    """Put tensors there, whole or not at all; where the cache cannot be written they are made again next time."""
    with contextlib.suppress(OSError), replacing(path) as part:
        data = {name: values.contiguous() for name, values in tensors.items()}
        part.write_bytes(safetensors.torch.save(data, {"digest": _digest(tensors)}))


def _digest(tensors: Tensors) -> str:
    whole = hashlib.blake2b(digest_size=20)
    for name, values in sorted(tensors.items()):
        whole.update(f"{name} {tuple(values.shape)}\n".encode())
        whole.update(values.contiguous().numpy().data)
    return whole.hexdigest()
