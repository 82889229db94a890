"""A line chart as inline SVG with an HTML legend: no script needed to read it, colours from the page's style sheet."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from frugan.training.history import Point

WIDTH, HEIGHT = 480.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 12.0, 10.0, 26.0
NUM_COLOURS = 6
_MAX_HITS = 80


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve: (x, mean, lowest, highest) in the order of x. `dots` marks every point."""

    name: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From values to pixels, linear or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside land outside."""
        if self.log:
            value, low, high = math.log(max(value, self.low * 1e-3)), math.log(self.low), math.log(self.high)
        else:
            low, high = self.low, self.high
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round values inside the scale."""
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)


def _linear_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1.0, 2.0, 5.0) if len(decades) <= 3 else (1.0,)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    return inside[:: math.ceil(len(inside) / 7)] if inside else [low, high]


def short(value: float) -> str:
    """A number for an axis: 0, 0.05, 1.5, 20k, 1.2M, 3e-05."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _y_scale(lines: Sequence[Line], log: bool, target: float | None) -> Scale:
    """Wide enough for all but the rarest spikes, which are cut, as one of them would flatten everything else."""
    extra = [] if target is None else [target]
    lows, highs = ([point[side] for line in lines for point in line.points] for side in (2, 3))
    means = [mean for line in lines for _, mean, _, _ in line.points]
    low, high = min(lows), max(highs)
    if len(means) > 50:
        low = min(_percentile(means, 0.01), _percentile(lows, 0.05))
        high = max(_percentile(means, 0.98), _percentile(highs, 0.95))
    low, high = min([low, *extra]), max([high, *extra])
    if log:
        room = max((high / low) ** 0.08, 1.1)
        return Scale(low=low / room, high=high * room, start=HEIGHT - BOTTOM, end=TOP, log=True)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low = 0.0 if 0 <= low < high * 0.35 else low - room
    return Scale(low=low, high=high + room, start=HEIGHT - BOTTOM, end=TOP)


def wants_log(lines: Sequence[Line]) -> bool:
    """Whether the curves are all above zero and too far apart, or fall too far, for a linear axis."""
    values = [value for line in lines for _, value, _, _ in line.points]
    if not values or min(lowest for line in lines for _, _, lowest, _ in line.points) <= 0:
        return False
    return _percentile(values, 0.98) / _percentile(values, 0.02) > 40


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    note: str = "",
    marks: Sequence[tuple[float, str]] = (),
    target: float | None = None,
    best: tuple[float, float] | None = None,
    log: bool | None = None,
    tell: Callable[[float], str] | None = None,
) -> str:
    """A figure with the curves over images seen; empty text where there is nothing to join (no two points, no dots).

    `marks`: (x, text) of events, as upright lines. `target`: a dashed level line. `best`: a ringed point. `log`: None
    chooses. `tell` says values in words, where whole numbers are levels with a name. All texts are escaped here.
    Hovering shows the values at that place.
    """
    lines = [line for line in lines if line.points]
    if not any(len(line.points) > 1 or line.dots for line in lines):
        return ""
    last = max(line.points[-1][0] for line in lines)
    first = min(line.points[0][0] for line in lines)
    x = Scale(low=0.0 if first < last * 0.5 else first, high=last or 1.0, start=LEFT, end=WIDTH - RIGHT)
    if x.low == x.high:
        x = Scale(low=x.low - 1, high=x.high + 1, start=LEFT, end=WIDTH - RIGHT)
    y = _y_scale(lines, wants_log(lines) if log is None else log, target)
    ticks = [(tick, short(_clean(tick))) for tick in y.ticks()] if tell is None else _levels(lines, tell)
    plot = _axes(x, y, ticks) + _marks(marks, x)
    said = tell or "{:.4g}".format
    if target is not None:
        plot += f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(target):.1f}" y2="{y(target):.1f}"/>'
    plot += "".join(_curve(index, line, x, y) for index, line in enumerate(lines))
    if best is not None:
        plot += f'<circle class="best" cx="{x(best[0]):.1f}" cy="{y(best[1]):.1f}" r="6"/>'
    note_html = f'<p class="note">{escape(note)}</p>' if note else ""
    plot += _hits(lines, x, said)
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>{_legend(lines, y.log, said)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(title)}">{plot}</svg>'
        f"{note_html}</figure>"
    )


def _levels(lines: Sequence[Line], tell: Callable[[float], str]) -> list[tuple[float, str]]:
    values = [value for line in lines for _, value, _, _ in line.points]
    return [(level, tell(level)) for level in range(math.floor(min(values)), math.ceil(max(values)) + 1)]


def _axes(x: Scale, y: Scale, ticks: Sequence[tuple[float, str]]) -> str:
    parts = []
    for tick, text in ticks:
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    for tick in x.ticks():
        anchor = "end" if x(tick) > WIDTH - RIGHT - 12 else "middle"
        place = min(x(tick), WIDTH - 2.0) if anchor == "end" else x(tick)
        parts.append(
            f'<line class="axis" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - 22}"/>'
        )
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - 7}" text-anchor="{anchor}">{short(_clean(tick))}</text>')
    return "".join(parts)


def _clean(tick: float) -> float:
    return float(f"{tick:.10g}") if abs(tick) > 1e-12 else 0.0


def _marks(marks: Sequence[tuple[float, str]], x: Scale) -> str:
    return "".join(
        f'<g class="mark"><line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></g>'
        for at, _ in marks
        if x.low <= at <= x.high
    )


def _curve(index: int, line: Line, x: Scale, y: Scale) -> str:
    def inside(value: float) -> float:
        return min(max(y(value), TOP - 4), HEIGHT - BOTTOM + 2)

    colour = f"c{index % NUM_COLOURS}"
    path = " ".join(f"{x(at):.1f},{inside(mean):.1f}" for at, mean, _, _ in line.points)
    parts = []
    if any(low < high for _, _, low, high in line.points):
        upper = [f"{x(at):.1f},{inside(high):.1f}" for at, _, _, high in line.points]
        lower = [f"{x(at):.1f},{inside(low):.1f}" for at, _, low, _ in reversed(line.points)]
        parts.append(f'<polygon class="band {colour}" points="{" ".join(upper + lower)}"/>')
    parts.append(f'<polyline class="line {colour}" points="{path}"/>')
    if line.dots or len(line.points) == 1:
        parts += [
            f'<circle class="dot {colour}" cx="{x(at):.1f}" cy="{inside(mean):.1f}" r="3"/>'
            for at, mean, _, _ in line.points
        ]
    return "".join(parts)


def _legend(lines: Sequence[Line], log: bool, said: Callable[[float], str]) -> str:
    items = "".join(
        f'<li class="c{index % NUM_COLOURS}"><i></i><span>{escape(line.name)}</span> '
        f"<output>{escape(said(line.points[-1][1]))}</output></li>"
        for index, line in enumerate(lines)
    )
    return f"<ul>{items}{'<li class=plain>log scale</li>' if log else ''}</ul>"


def _hits(lines: Sequence[Line], x: Scale, said: Callable[[float], str]) -> str:
    """Invisible upright strips that tell the values at their place, as a tooltip and to the page's script."""
    longest = max(lines, key=lambda line: len(line.points)).points
    step = max(math.ceil(len(longest) / _MAX_HITS), 1)
    places = [point[0] for point in longest[::step]]
    edges = [LEFT, *((x(a) + x(b)) / 2 for a, b in itertools.pairwise(places)), WIDTH - RIGHT]
    parts = []
    for index, at in enumerate(places):
        values = [min(line.points, key=lambda point: abs(point[0] - at))[1] for line in lines]
        text = "\n".join(f"{line.name}: {said(value)}" for line, value in zip(lines, values, strict=True))
        data = escape("|".join(said(value) for value in values))
        parts.append(
            f'<g class="hit" data-values="{data}"><title>{escape(f"{at:,.0f} images")}\n{escape(text)}</title>'
            f'<rect x="{edges[index]:.1f}" y="{TOP}" width="{max(edges[index + 1] - edges[index], 0.5):.1f}" '
            f'height="{HEIGHT - BOTTOM - TOP}"/>'
            f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></g>'
        )
    return "".join(parts)
