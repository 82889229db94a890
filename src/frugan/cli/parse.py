"""Words of the command line that are more than a number: durations, seeds, amounts of images, sources."""

import difflib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from frugan.config import some

if TYPE_CHECKING:
    from frugan.data import Source

_SHOWN = 12
_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}


def _finite(_: object, value: float | None) -> None:
    if value is not None and not math.isfinite(value):
        raise ValueError(f"It must be a finite number, got {value}.")


FINITE = Parameter(validator=_finite)
"""For options that are numbers: what is infinite or no number (nan) is refused."""


def duration(text: str) -> float:
    """Seconds from `30min`, `2h`, `90s`, `1.5h` or `1h30min`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.lower())
    if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*([a-z]+)", "", text.lower()).strip():
        raise ValueError(f"a time must look like 30min, 2h or 1h30min, got {text!r}")
    unknown = [unit for _, unit in parts if unit not in _UNITS]
    if unknown:
        raise ValueError(f"a time unit must be s, min, h or d, got {unknown[0]!r}")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise ValueError(f"a time must be longer than nothing, got {text!r}")
    return seconds


def images(text: str) -> tuple[int, bool]:
    """(number, whether it is meant as so many more) from `200k`, `1.5M`, `5000` or `+200k`."""
    match = re.fullmatch(r"(\+?)(\d+(?:\.\d+)?)([kKmM]?)", text.strip())
    if match is None:
        raise ValueError(f"a number of images must look like 200k, 1.5M, 5000 or +200k, got {text!r}")
    return round(float(match[2]) * _FACTORS[match[3].lower()]), match[1] == "+"


def seeds(text: str) -> list[int]:
    """The numbers of `0-63`, `7` or `1,5,9-12`."""
    from frugan.runtime import parse_seeds  # the runtime stands alone, so the one copy is there

    return parse_seeds(text)


def classes(text: str, names: Sequence[str]) -> list[int]:
    """The numbers of the classes of `cat,dog`, `cat,3` or `0-4`: a name counts before a number, and a longer one (with
    commas in it) before a shorter one.
    """
    number = {name.strip(): index for index, name in enumerate(names)}
    parts, found, start = text.split(","), list[int](), 0
    while start < len(parts):
        ends = range(len(parts), start, -1)
        end = next((end for end in ends if ",".join(parts[start:end]).strip() in number), None)
        if end is not None:
            found.append(number[",".join(parts[start:end]).strip()])
        elif parts[start].strip():
            found += _class_numbers(parts[start].strip(), names)
        start = end or start + 1
    if not found:
        raise ValueError(f"--classes names no class, got {text!r}")
    return found


def _class_numbers(text: str, names: Sequence[str]) -> list[int]:
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", text)
    if match is None:
        same = [index for index, name in enumerate(names) if name.strip().casefold() == text.casefold()]
        if len(same) == 1:
            return same
        close = [repr(names[index]) for index in _near(text, names)]
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {some(names, _SHOWN)}"
        raise ValueError(f"this model has no class {text!r}; {hint} (`frugan info` lists them)")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < len(names):
        raise ValueError(f"a class number must be 0 to {len(names) - 1}, got {text}")
    return list(range(first, last + 1))


def _near(text: str, names: Sequence[str]) -> list[int]:
    """The classes whose names come near, the nearest first, whatever their case."""
    plain = [name.strip().casefold() for name in names]
    close = difflib.get_close_matches(text.casefold(), plain, n=3)
    return [index for found in dict.fromkeys(close) for index, name in enumerate(plain) if name == found]


def source(text: str) -> "Path | Source":
    """A path, or a bundled set for `demo:faces`, `demo:animals`, `demo:emoji`."""
    if text.startswith("demo:") and not Path(text).exists():
        from frugan.data.demo import open_demo

        return open_demo(text.removeprefix("demo:"))
    return Path(text)
