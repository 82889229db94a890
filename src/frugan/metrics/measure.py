"""How long calls take and how much memory they need, measured; works without torch.

Times come as minimum and median: on a busy machine single times are off by factors. What is compared takes turns.
"""

import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one call: the fastest and the median of `repeats`."""

    minimum_ms: float
    median_ms: float
    repeats: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Megabytes (2^20 bytes) of a process: `before` the call, and at the `peak` during it."""

    before_mb: float
    peak_mb: float

    @property
    def added_mb(self) -> float:
        """What the call needed at its peak on top of what was there."""
        return max(self.peak_mb - self.before_mb, 0.0)


def latencies(
    calls: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 20,
    warmup: int = 2,
    wait: Callable[[], object] | None = None,
) -> dict[str, Latency]:
    """The time of each call by name. The calls take turns, so that a busy machine slows all alike.

    The first `warmup` rounds do not count. `wait` runs after every call and waits for a device that works on its own,
    such as `torch.cuda.synchronize`. Raises ValueError for repeats < 1 or warmup < 0.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats must be 1 or more and warmup 0 or more, got {repeats} and {warmup}")
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if wait is not None:
                wait()
            if turn >= warmup:
                times[name].append(1000 * (time.perf_counter() - begin))
    return {
        name: Latency(minimum_ms=min(found), median_ms=statistics.median(found), repeats=repeats)
        for name, found in times.items()
    }


def peak_memory(prepare: Callable[..., Callable[[], object]], *args: str | int | float | None) -> Memory | None:
    """What a call needs, in a new process that runs `prepare(*args)` and then once what that returned.

    `prepare` is a function at the top of a module. The new process imports that module and nothing else of this one:
    memory that an earlier call left here would be used again unseen. None where the system does not tell (it needs
    Linux or macOS). Raises ValueError for a function that cannot be imported, RuntimeError where the process fails.
    """
    place, name = prepare.__module__, prepare.__qualname__
    if place == "__main__" or not name.isidentifier():
        raise ValueError(f"a function at the top of a module is needed, got {name} of {place}")
    code = f"from frugan.metrics import measure; measure._report({place!r}, {name!r}, {json.dumps(args)!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"memory could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return None if found is None else Memory(before_mb=found[0], peak_mb=found[1])


def _report(place: str, name: str, args: str) -> None:
    """In the new process: prints [megabytes before, at the peak], or null."""
    call = getattr(importlib.import_module(place), name)(*json.loads(args))
    gc.collect()
    before = _resident_mb()
    if before is not None:
        call()
    peak = _peak_mb()
    print(json.dumps(None if before is None or peak is None else [before, max(peak, before)]))


def _resident_mb() -> float | None:
    """Memory in use now; from here on the peak counts anew where the system can do that."""
    if not _STATUS.is_file():
        return _peak_mb()
    try:
        _RESET.write_text("5")
    except OSError:  # a container may forbid it: then the peak is that of the whole process
        return _peak_mb()
    return _from_status("VmRSS")


def _peak_mb() -> float | None:
    # getrusage would count the parent's memory as well: Linux hands its peak down to a new process.
    if _STATUS.is_file():
        return _from_status("VmHWM")
    if sys.platform != "darwin":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _from_status(key: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) / 1024
