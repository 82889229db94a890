"""Words of the command line that are more than a number: durations, seeds, amounts of images, sources."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frugan.data import Source

_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}


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


def source(text: str) -> "Path | Source":
    """A path, or a bundled set for `demo:faces`, `demo:animals`, `demo:emoji`."""
    if text.startswith("demo:") and not Path(text).exists():
        from frugan.data.demo import open_demo

        return open_demo(text.removeprefix("demo:"))
    return Path(text)
