"""How far networks that grow had grown, from the log of a run: a chart of the way, and words for captions."""

import bisect
import math

from frugan.training.chart import Line, chart
from frugan.training.history import History, Series

NAMES = ("resolution", "alpha")
"""What the log of such a run tells in its group `progress`."""


def growth_level(history: History, images_seen: float) -> float | None:
    """log2 of the size in pixels; in between two sizes by the share of the newer one. None for a run without growth.

    Between two lines of the log it lies between theirs, where they tell of one size; else it is that of the earlier.
    """
    series = _levels(history)
    if series is None:
        return None
    after = min(bisect.bisect_left(series.x, images_seen), len(series.x) - 1)
    before = max(after - (series.x[after] > images_seen), 0)
    low, high = series.y[before], series.y[after]
    if before == after or math.ceil(low) != math.ceil(high):
        return low
    return low + (high - low) * (images_seen - series.x[before]) / (series.x[after] - series.x[before])


def _levels(history: History) -> Series | None:
    """The level at each line of the log that tells of one; None where sizes are no powers of two or never told."""
    sizes, shares = (history.group("progress").get(name) for name in NAMES)
    if sizes is None or shares is None or sizes.x != shares.x or min(sizes.y) < 2 or not all(map(_is_size, sizes.y)):
        return None
    return Series(sizes.x, [math.log2(size) - 1 + share for size, share in zip(sizes.y, shares.y, strict=True)])


def _is_size(value: float) -> bool:
    return math.log2(value).is_integer()


def told(level: float) -> str:
    """A level in words: `8 px`, or `16 px, 27% in` while 16 px fade in over 8."""
    share = 1 - (math.ceil(level) - level)
    size = 2 ** math.ceil(level)
    return f"{size} px" if share >= 0.995 else f"{size} px, {share:.0%} in"


def caption(history: History, images_seen: int) -> str:
    """The level after so many images in words, after a dot; empty for a run without growth."""
    level = growth_level(history, images_seen)
    return "" if level is None else f" · {told(level)}"


def growth_chart(history: History) -> str:
    """The way from size to size as a figure: level stretches train a size, slopes fade the next one in."""
    series = _levels(history)
    if series is None:
        return ""
    start = [(0.0, series.y[0])] if series.x[0] > 0 else []
    points = [(x, y, y, y) for x, y in [*start, *zip(series.x, series.y, strict=True)]]
    note = "Level: a size is trained. Rising: the layers of the next size are faded in."
    return chart("Growth", [Line(name="", points=_thinned(points))], note=note, log=False, tell=told)


def _thinned(points: list[tuple[float, float, float, float]]) -> list[tuple[float, float, float, float]]:
    """Without those that lie level between equal neighbours; the curve stays as it is."""
    inner = range(1, len(points) - 1)
    kept = [i for i in inner if not points[i - 1][1] == points[i][1] == points[i + 1][1]]
    return [points[i] for i in (0, *kept, len(points) - 1)] if len(points) > 1 else points
