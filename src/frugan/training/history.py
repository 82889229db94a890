"""What a run folder tells: facts, the log as series of numbers and events, sample grids; torn files do no harm."""

import bisect
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Point = tuple[float, float, float, float]  # x, mean, lowest, highest
_GROUPS = ("losses", "stats", "scores", "progress")
_SINGLES = ("images_per_second", "memory_mb")
_HIGHER_IS_BETTER = ("is", "nn", "inception", "precision", "recall", "density", "coverage", "miou", "accuracy", "ssim")


@dataclass
class Series:
    """A number over images seen, in the order of x."""

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)

    def add(self, x: float, y: float) -> None:
        """Appends a value; a second one at the same x takes the place of the first."""
        self.cut(x)
        self.x.append(x)
        self.y.append(y)

    def cut(self, x: float) -> None:
        """Drops everything at and after x."""
        if self.x and self.x[-1] >= x:
            place = bisect.bisect_left(self.x, x)
            del self.x[place:], self.y[place:]

    def buckets(self, count: int) -> list[Point]:
        """At most `count` points: mean, lowest and highest of equal stretches of the series."""
        size = math.ceil(len(self.x) / count) if count else 1
        points = []
        for start in range(0, len(self.x), max(size, 1)):
            x, y = self.x[start : start + size], self.y[start : start + size]
            points.append((sum(x) / len(x), sum(y) / len(y), min(y), max(y)))
        return points


@dataclass(frozen=True)
class Event:
    """Something that happened: kind such as `resumed`, `rollback`, `finished`."""

    kind: str
    images_seen: int
    text: str


@dataclass(frozen=True)
class Best:
    """The best value of a score and where it was reached."""

    name: str
    value: float
    images_seen: int
    last: float
    higher_is_better: bool

    @property
    def loss_since(self) -> float:
        """By what share the last value is worse than the best one; 0 where the last is the best."""
        change = self.value - self.last if self.higher_is_better else self.last - self.value
        return change / abs(self.value) if self.value else 0.0


@dataclass
class History:
    """The log of a run. `series[group][name]`: groups losses, stats, scores, progress, speed."""

    series: dict[str, dict[str, Series]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    images_seen: int = 0
    seconds: float = 0.0
    lines: int = 0
    unreadable_lines: int = 0
    ended: str | None = None

    def group(self, name: str) -> dict[str, Series]:
        """The series of a group, none where it is absent."""
        return self.series.get(name, {})

    def best_scores(self) -> list[Best]:
        """The best of each score, KID first: it is the one that holds for small sets."""
        found = []
        for name, series in self.group("scores").items():
            higher = name.lower().startswith(_HIGHER_IS_BETTER)
            value = max(series.y) if higher else min(series.y)
            at = int(series.x[series.y.index(value)])
            found.append(Best(name, value, at, series.y[-1], higher))
        return sorted(found, key=lambda best: not best.name.lower().startswith("kid"))

    def _add_status(self, line: Mapping[str, Any]) -> None:
        x = _number(line.get("images_seen"))
        if x is None:
            self.unreadable_lines += 1
            return
        if x < self.images_seen:  # after a return to an older checkpoint the repeated stretch counts, not the first try
            for group in self.series.values():
                for series in group.values():
                    series.cut(x)
        self.images_seen, self.ended = int(x), None
        self.seconds = _number(line.get("seconds")) or self.seconds
        for group_name in _GROUPS:
            values = line.get(group_name)
            for name, value in values.items() if isinstance(values, dict) else ():
                self._add(group_name, str(name), x, value)
        for name in _SINGLES:
            self._add("speed", name, x, line.get(name))

    def _add(self, group: str, name: str, x: float, value: Any) -> None:
        number = _number(value)
        if number is not None:
            self.series.setdefault(group, {}).setdefault(name, Series()).add(x, number)

    def _add_event(self, line: Mapping[str, Any]) -> None:
        kind = str(line["event"])
        self.events.append(Event(kind, int(_number(line.get("images_seen")) or 0), str(line.get("text", ""))))
        if kind in ("finished", "stopped", "plateau", "failed"):
            self.ended = kind


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        return None
    return float(value)


def read_history(path: Path) -> History:
    """The history in a log.jsonl; lines that cannot be read (a torn last one, say) are counted and left out."""
    history = History()
    for line in _lines(path):
        history.lines += 1
        if line is None:
            history.unreadable_lines += 1
        elif "event" in line:
            history._add_event(line)
        else:
            history._add_status(line)
    history.series = {
        group: {name: series for name, series in members.items() if series.x}
        for group, members in history.series.items()
    }
    return history


def _lines(path: Path) -> Iterator[dict[str, Any] | None]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            yield line if isinstance(line, dict) else None


def read_facts(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where the file is missing, torn or something else."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def sample_grids(run: Path) -> list[tuple[int, Path]]:
    """(images seen, file) of all grids of generated pictures, in the order of training."""
    found = [(re.fullmatch(r"fakes-(\d+)\.png", file.name), file) for file in (run / "grids").glob("fakes-*.png")]
    return sorted((int(match[1]), file) for match, file in found if match)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 .. count - 1 with both ends, denser at the start: early pictures change fast."""
    if count <= most:
        return list(range(count))
    power = min(1.5, math.log(count - 1) / math.log(most - 1))  # the first step is at least 1
    return sorted({round((count - 1) * (step / (most - 1)) ** power) for step in range(most)})
