"""One row per measured thing in results.csv beside this file: what, where, how fast, how much memory.

    from benchmarks import record
    record.append([record.Row(name="sample", size="small", batch=16, ms=12.3, images_per_second=1300.0)])

Rows tell the machine by its processor, not by its name. Compare rows of one machine and one torch only.
"""

import csv
import dataclasses
import datetime
import io
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("results.csv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. `ms` is the fastest of several; `median_ms` tells how busy the machine was; None: not measured.

    `macs` are the multiply-adds of one picture.
    """

    name: str
    size: str
    batch: int
    ms: float | None = None
    median_ms: float | None = None
    images_per_second: float | None = None
    macs: int | None = None
    peak_mb: float | None = None
    note: str = ""


def machine(threads: int | None = None) -> dict[str, str]:
    """Date, commit, processor, cores, threads, instruction set and torch of this run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "threads": str(threads or torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def _commit() -> str:
    """The short hash, with a plus for changes that are not committed; empty outside a checkout or without git."""
    hashed = _git("rev-parse", "--short", "HEAD")
    if not hashed:
        return ""
    return hashed + ("+" if _git("status", "--porcelain", "--untracked-files=no", "--", "../src") else "")


def _git(*arguments: str) -> str:
    """What git says here; nothing where it fails or is missing."""
    command = ["git", *arguments]
    try:
        said = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return "" if said.returncode else said.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def append(rows: Sequence[Row], path: Path = RESULTS) -> None:
    """Add the rows to the file, with a head line where it is new. Raises ValueError where its columns are others."""
    here = machine()
    lines = [{**here, **{key: _shown(value) for key, value in dataclasses.asdict(row).items()}} for row in rows]
    columns = [*here, *(field.name for field in dataclasses.fields(Row))]
    is_new = not path.exists()
    if not is_new:
        with path.open(encoding="utf-8", newline="") as file:
            found = next(csv.reader(file), [])
        if found != columns:
            raise ValueError(f"{path.name} has the columns {found}, these rows have {columns}")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if is_new:
        writer.writeheader()
    writer.writerows(lines)
    with path.open("a", encoding="utf-8") as file:
        file.write(text.getvalue())


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
