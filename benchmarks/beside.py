"""What comparisons with other people's code share: their modules made importable, a side measured, its row."""

import dataclasses
import gc
import importlib
import importlib.abc
import importlib.util
import sys
import time
import types
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import record


def open_folder(folder: Path, unused: Sequence[str] = ()) -> None:
    """Make the modules of a folder importable. Raises SystemExit where there is no such folder.

    The `unused` are packages that they import for other ends: those that are missing become empty ones. A part of
    setuptools that is gone by now is given back to them.
    """
    if not folder.is_dir():
        raise SystemExit(f"--repository must be a checkout of theirs, got one without {folder}")
    missing = {name for name in unused if importlib.util.find_spec(name) is None}
    sys.path.insert(0, str(folder))
    sys.meta_path.append(_Absent(missing))
    if importlib.util.find_spec("pkg_resources") is None:
        stand_in = types.ModuleType("pkg_resources")
        stand_in.parse_version = importlib.import_module("packaging.version").parse  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = stand_in


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds packages that are not there, with all their parts."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        is_absent = fullname.partition(".")[0] in self.names
        return ModuleSpec(fullname, self, is_package=True) if is_absent else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing in it."""


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of each call after warming up, and the most memory that was held meanwhile (on a GPU).

    Held, as recordings use memory that is allocated once.
    """

    seconds: list[float]
    peak_mb: float | None

    def row(self, *, name: str, size: str, batch: int, images: int, iterations: int = 1, note: str = "") -> record.Row:
        """The row of calls that go through so many iterations and show so many pictures."""
        return record.Row(
            name=name,
            size=size,
            batch=batch,
            ms=1000 * min(self.seconds) / iterations,
            median_ms=1000 * float(np.median(self.seconds)) / iterations,
            images_per_second=images / min(self.seconds),
            peak_mb=self.peak_mb,
            note=note,
        )


def measure(build: Callable[[], Callable[[], object]], device: torch.device, warm: int, rounds: int) -> Measured:
    """Build a side, call it `warm` times, then time it `rounds` times; it is gone afterwards, its memory free."""
    gc.collect()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
    run = build()
    for _ in range(warm):
        print(f"warming up: {timed(run, device):.1f} s", flush=True)
    if on_gpu:  # without what trying convolutions out has taken
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    seconds = [timed(run, device) for _ in range(rounds)]
    return Measured(seconds=seconds, peak_mb=torch.cuda.max_memory_reserved(device) / 2**20 if on_gpu else None)


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the work on the card included."""
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def card(device: torch.device) -> str:
    """The name of the card, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
