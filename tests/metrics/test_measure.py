import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from frugan.metrics.measure import Latency, Memory, latencies, peak_memory

LINUX = Path("/proc/self/status").is_file()


def allocating(megabytes: int) -> Callable[[], object]:
    return partial(np.ones, megabytes * 2**17)


def test_latencies_take_turns_and_leave_out_the_warm_up() -> None:
    order: list[str] = []

    def slow() -> None:
        order.append("slow")
        time.sleep(0.2 if len(order) <= 2 else 0.002)

    found = latencies({"slow": slow, "fast": lambda: order.append("fast")}, repeats=3, warmup=1)
    assert order == ["slow", "fast"] * 4
    assert 2 <= found["slow"].minimum_ms <= found["slow"].median_ms < 200
    assert found["fast"].minimum_ms < found["slow"].minimum_ms
    assert isinstance(found["fast"], Latency) and found["fast"].repeats == 3


def test_latencies_wait_for_the_device() -> None:
    waits: list[int] = []
    latencies({"a": lambda: None}, repeats=2, warmup=1, wait=lambda: waits.append(1))
    assert len(waits) == 3


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 0), (1, -1)])
def test_impossible_repeats_are_refused(repeats: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="repeats must be 1 or more"):
        latencies({}, repeats=repeats, warmup=warmup)


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_peak_memory_is_that_of_the_call_not_of_this_process() -> None:
    ballast = np.ones(64 * 2**17)
    found = peak_memory(allocating, 48)
    assert found is not None
    assert 46 <= found.added_mb <= 60
    assert ballast.nbytes == 64 * 2**20


def failing() -> Callable[[], object]:
    raise OSError("no such model")


def test_a_measure_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"memory could not be measured.*no such model"):
        peak_memory(failing)
    with pytest.raises(ValueError, match="at the top of a module"):
        peak_memory(lambda: lambda: None)


def test_added_memory_is_never_negative() -> None:
    assert Memory(before_mb=5.0, peak_mb=4.0).added_mb == 0


def test_it_works_without_torch() -> None:
    code = "import sys, frugan.metrics.measure; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
