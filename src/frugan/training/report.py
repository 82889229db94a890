"""The report of a run: one HTML page that explains itself, and a short film of how the samples changed."""

import base64
import hashlib
import io
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from frugan.data.write import flatten, from_pillow, replacing, save_video
from frugan.training.chart import Line, chart
from frugan.training.classes import legend_of_sheets
from frugan.training.history import Best, History, Series, read_history, sample_grids, spread
from frugan.training.summary import Run, duration, hints, memory, next_commands, read_run, verdict
from frugan.training.timeline import NAMES as GROWTH
from frugan.training.timeline import caption, growth_chart

MAX_STILLS = 24
FILM_WIDTH, FILM_FRAMES = 480, 60
_STILL_BYTES = 80_000  # 24 of them, coded as text, stay below 3 MB
_STILL_WIDTH = 720
_FEW_PIXELS = 320  # up to this width a picture is enlarged by hard pixels
_MAX_EVENTS = 100
_MAX_CHARTS, _MAX_LINES = 24, 12


def write_report(run: Path, defaults: Mapping[str, Any] | None = None) -> Path:
    """Writes `report.html` into a run folder and gives its path back; what the folder lacks, the page leaves out.

    The page needs no other file: small pictures are inside it, the full ones are linked by relative names. It stays
    below 5 MB and takes one or two seconds to make. `defaults`: the recipe before the user's changes, as plain data, to
    mark what differs. Raises FileNotFoundError where `run` is not a folder, OutputError where it cannot be written.
    """
    found = read_run(run)
    path = run / "report.html"
    page = _page(found, defaults)
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8", errors="replace")
    return path


# ---- pictures -----------------------------------------------------------------------------------------------------


def _read(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as opened:
            return flatten(opened if opened.mode in ("L", "RGB", "RGBA") else opened.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # missing, torn, or no picture
        return None


def _small(path: Path, limit: int = _STILL_BYTES) -> str | None:
    """The attributes of an <img> that holds a picture file in about `limit` bytes; None where it cannot be read."""
    image = _read(path)
    return None if image is None else embedded(image, limit, _STILL_WIDTH)


def embedded(image: Image.Image, limit: int, width: int) -> str:
    """The attributes of an <img> that holds a picture in about `limit` bytes, at most `width` pixels wide.

    The picture itself is made smaller.
    """
    data = b""
    for _ in range(5):
        image.thumbnail((width, 2 * _STILL_WIDTH), Image.Resampling.LANCZOS, reducing_gap=2.0)
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=82, method=2)
        data = buffer.getvalue()
        if len(data) <= limit:
            break
        width = max(int(image.width * 0.9 * math.sqrt(limit / len(data))), 1)
    kind = ' class="pixels"' if image.width <= _FEW_PIXELS else ""
    return f'src="data:image/webp;base64,{base64.b64encode(data).decode()}"{kind}'


def _viewer(run: Run) -> str:
    stills = []
    for index in spread(len(run.grids), MAX_STILLS):
        seen, path = run.grids[index]
        held = _small(path)
        if held is not None:
            when = f"after {seen:,} pictures{caption(run.history, seen)}"
            stills.append((when, seen, f"grids/{quote(path.name)}", held))
    reals = _small(run.folder / "grids" / "reals.png", 2 * _STILL_BYTES)
    if not stills and reals is None:
        return ""
    parts = []
    if stills:
        parts.append(
            f"<figure><figcaption><b>{'Translated' if run.translates else 'Generated'}</b> "
            f'<span class="when">{stills[-1][0]}</span></figcaption>'
            f'<img id="stage" {stills[-1][3]} alt="Grid of generated pictures"></figure>'
        )
    if reals is not None:
        parts.append(
            "<figure><figcaption><b>Real</b> from the training set</figcaption>"
            f'<a href="grids/reals.png"><img {reals} alt="Grid of training pictures"></a></figure>'
        )
    rows = _legend(run)
    strip = "".join(
        f'<a href="{escape(href)}" data-caption="{when}"><i><img {held} alt=""></i>{_brief(seen)}</a>'
        for when, seen, href, held in stills
    )
    if not stills:
        return f'{rows}<section class="card pair">{parts[0]}</section>'
    film = _link_if_there(run.folder, "progress.gif", "Watch it as a film") or _link_if_there(
        run.folder, "progress.mp4", "Watch it as a film"
    )
    last = len(stills) - 1
    return (
        f'{rows}<section class="card" id="viewer"><div class="pair">{"".join(parts)}</div><div class="controls">'
        f'<button type="button">Play</button><input type="range" min="0" max="{last}" value="{last}" '
        f'aria-label="Time in training">{film}</div><div class="strip">{strip}</div></section>'
    )


def _legend(run: Run) -> str:
    """What the sheets do not show of the classes."""
    names = run.data.get("class_names")
    told = legend_of_sheets([str(name) for name in names]) if isinstance(names, list) else ""
    return f'<p class="quiet">A row for each class: {escape(told)}.</p>' if told else ""


def _link_if_there(folder: Path, name: str, text: str) -> str:
    return f'<a href="{name}">{text}</a>' if (folder / name).is_file() else ""


def _brief(count: int) -> str:
    return f"{count / 1e6:.3g}M" if count >= 1_000_000 else f"{count / 1e3:.3g}k" if count >= 1000 else str(count)


def _before_after(run: Run) -> str:
    held = _small(run.folder / "before_after.png", 2 * _STILL_BYTES)
    if held is None:
        return ""
    return (
        '<h2>Before and after</h2><figure class="single card"><a href="before_after.png">'
        f'<img {held} alt="Pictures before and after this training"></a></figure>'
    )


# ---- curves -------------------------------------------------------------------------------------------------------


def _line(name: str, series: Series) -> Line:
    count = len(series.x)
    return Line(name=name, points=series.buckets(min(120, max(count // 4, 40))))


def _together(series: Mapping[str, Series], parts: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, list[Line]]]:
    """(title, lines) of the charts: the series whose names share a part together, the lonely ones under no title."""
    shared = Counter(parts[name][0] for name in series)
    groups: dict[str, list[Line]] = {}
    for name, values in series.items():
        title, label = parts[name]
        lonely = shared[title] == 1
        groups.setdefault("" if lonely else title, []).append(_line(name if lonely else label, values))
    for title, lines in groups.items():
        yield title, lines[:_MAX_LINES]


def _loss_charts(history: History, marks: list[tuple[float, str]]) -> Iterator[str]:
    losses = history.group("losses")
    parts = {name: (name.partition("/")[0], name.partition("/")[2]) for name in losses}
    for title, lines in _together(losses, parts):
        yield chart(f"Losses: {title}" if title else "Losses", lines, marks=marks)


def _score_charts(history: History) -> Iterator[str]:
    for best in history.best_scores():
        points = history.group("scores")[best.name].buckets(200)
        note = "Higher is better." if best.higher_is_better else "Lower is better."
        line = Line(name="", points=points, dots=True)
        ringed = (float(best.images_seen), best.value) if len(points) < 200 else None
        yield chart(best.name, [line], note=f"{note} Best: {best.value:.4g} at {best.images_seen:,}.", best=ringed)


def _other_charts(history: History, marks: list[tuple[float, str]]) -> Iterator[str]:
    stats = dict(history.group("stats"))
    for name in [name for name in stats if name.endswith("real_sign")]:
        note = (
            "How surely the discriminator knows a training picture: 0 is guessing, 1 is certain. "
            "Values that stay near the dashed 0.6 are healthy; near 1 it learns by heart."
        )
        yield chart(name, [_line("mean", stats.pop(name))], note=note, target=0.6, marks=marks, log=False)
    if "overfitting_r_v" in stats:
        note = "How far pictures kept aside look generated to the discriminator: 0 not at all, 1 it learns by heart."
        yield chart("overfitting r_v", [_line("r_v", stats.pop("overfitting_r_v"))], note=note, marks=marks, log=False)
    parts = {name: (name.rpartition("_")[2], name.rpartition("_")[0]) for name in stats}
    for title, lines in _together(stats, parts):
        for name, members in [(title, lines)] if title else [(line.name, [line]) for line in lines]:
            yield chart(name, members, marks=marks)
    growth = growth_chart(history)
    for name, series in history.group("progress").items():
        if len(set(series.y)) > 1 and not (growth and name in GROWTH):
            yield chart(f"Schedule: {name}", [_line(name, series)], marks=marks)
    speed = history.group("speed").get("images_per_second")
    if speed is not None:
        yield chart("Speed", [_line("images/s", speed)], marks=marks, log=False)


def _curves(run: Run) -> str:
    marks = [
        (float(e.images_seen), e.kind) for e in run.history.events if e.kind in ("resumed", "rollback", "out_of_memory")
    ]
    marks = marks[:50]
    charts = [
        growth_chart(run.history),
        *_score_charts(run.history),
        *_loss_charts(run.history, marks),
        *_other_charts(run.history, marks),
    ]
    charts = [figure for figure in charts if figure][:_MAX_CHARTS]
    if not charts:
        return ""
    note = "Over pictures shown. Bands show the spread around the mean"
    note += "; dotted upright lines are restarts and returns." if marks else "."
    return f'<h2>Curves</h2><p class="quiet">{note}</p><div class="charts">{"".join(charts)}</div>'


# ---- tables -------------------------------------------------------------------------------------------------------


def _text(value: Any, most: int = 40) -> str:
    """A fact in words: lists are cut, tables become name: value pairs."""
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, (list, tuple)):
        rest = f" and {len(value) - most:,} more" if len(value) > most else ""
        return ", ".join(_text(item) for item in value[:most]) + rest
    if isinstance(value, dict):
        return _text([f"{key}: {_text(item)}" for key, item in value.items()])
    return str(value)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _rows(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<tr><th>{escape(name)}</th><td>{value}</td></tr>" for name, value in pairs)


def _facts(run: Run) -> str:
    titles = {
        "source": "Pictures from",
        "count": "Number of pictures",
        "held_out": "Kept aside, not learned from",
        "resolution": "Size in pixels",
        "channels": "Channels",
        "class_names": "Classes",
        "skipped": "Left out",
        "fingerprint": "Fingerprint",
    }
    data = [
        (titles.get(key, key), escape(_text(value)))
        for key, value in run.data.items()
        if value not in (None, "", [], {})
    ]
    machine: list[tuple[str, str]] = []
    said: set[tuple[str, str]] = set()
    for key, value in _flat({key: value for key, value in run.facts.items() if key not in ("name", "data", "command")}):
        fact = key.rpartition(".")[2], _text(value)
        if value not in (None, "", [], {}) and fact not in said:  # the same thing may stand in two places
            said.add(fact)
            machine.append((key.replace(".", ", ").replace("_", " "), escape(fact[1])))
    checkpoints = sorted(entry.name for entry in (run.folder / "checkpoints").glob("*") if entry.name.isdigit())
    if checkpoints:
        machine.append(("checkpoints", escape(", ".join(f"{int(name):,}" for name in checkpoints))))
    parts = []
    if data:
        parts.append(f'<h2>The pictures it learned from</h2><div class="card"><table>{_rows(data)}</table></div>')
    if machine:
        parts.append(f'<h2>Model and machine</h2><div class="card"><table>{_rows(machine)}</table></div>')
    return "".join(parts)


def _settings(run: Run, defaults: Mapping[str, Any] | None) -> str:
    if not run.recipe:
        return ""
    reasons = run.recipe.get("reasons")
    listed = [str(reason) for reason in reasons] if isinstance(reasons, list) else []
    pairs = list(_flat({key: value for key, value in run.recipe.items() if key != "reasons"}))
    usual = dict(_flat(defaults)) if defaults is not None else None
    changed = [(name, value) for name, value in pairs if usual is not None and usual.get(name, ...) != value]
    parts = [f'<ul class="reasons">{"".join(f"<li>{escape(reason)}</li>" for reason in listed)}</ul>' if listed else ""]
    if usual is not None:
        rows = [(name, f"{escape(_text(value))}</td><td>{escape(_usual(usual, name))}") for name, value in changed]
        head = "<thead><tr><th>Changed</th><th>here</th><th>in the recipe</th></tr></thead>"
        parts.append(f"<table>{head}{_rows(rows)}</table>" if rows else "<p>All as the recipe comes.</p>")
    table = _rows([(name, escape(_text(value))) for name, value in pairs])
    parts.append(f"<details><summary>All {len(pairs)} settings</summary><table>{table}</table></details>")
    return f'<h2>Settings</h2><div class="card">{"".join(parts)}</div>'


def _usual(usual: Mapping[str, Any], name: str) -> str:
    return _text(usual[name]) if name in usual else "not there"


def _events(run: Run) -> str:
    events = run.history.events
    if not events:
        return ""
    rows = "".join(
        f'<tr><td class="number">{event.images_seen:,}</td><td class="kind">{escape(event.kind.replace("_", " "))}</td>'
        f"<td>{escape(event.text)}</td></tr>"
        for event in events[-_MAX_EVENTS:]
    )
    earlier = f'<p class="quiet">{len(events) - _MAX_EVENTS:,} earlier ones are in log.jsonl.</p>'
    note = earlier if len(events) > _MAX_EVENTS else ""
    head = '<thead><tr><th class="number">Pictures shown</th><th>event</th><th></th></tr></thead>'
    return f'<h2>What happened</h2><div class="card">{note}<table class="events">{head}{rows}</table></div>'


def _commands(run: Run) -> str:
    command = run.facts.get("command")
    usable = command if isinstance(command, (str, list)) else None
    commands = next_commands(run.folder, usable, run.state, run.translates)
    if not commands:
        return ""
    items = "".join(
        f'<li>{escape(what)}<div><code>{escape(line)}</code><button type="button">Copy</button></div></li>'
        for what, line in commands
    )
    return f'<h2>What next</h2><ul class="commands card">{items}</ul>'


def _tiles(run: Run) -> str:
    history = run.history
    tiles: list[tuple[str, str, str]] = []
    if history.images_seen:
        planned = f"of {run.total_images:,} planned" if run.total_images and run.state != "finished" else ""
        tiles.append(("Pictures shown", f"{history.images_seen:,}", planned))
        tiles.append(("Time", duration(history.seconds), _left(run)))
    speed, memory = history.group("speed").get("images_per_second"), history.group("speed").get("memory_mb")
    if speed is not None:
        late = sorted(speed.y[-50:])
        tiles.append(("Speed", f"{late[len(late) // 2]:.3g}/s", "pictures, lately"))
    if memory is not None:
        peak = max(memory.y)
        tiles.append(("Memory", f"{peak / 1024:.1f} GB" if peak >= 1024 else f"{peak:.0f} MB", "at the most"))
    if isinstance(run.data.get("count"), int):
        side, aside = run.data.get("resolution"), run.data.get("held_out") or 0
        notes = [f"+ {aside:,} kept aside"] if aside else []
        notes += [f"{side} x {side} pixels"] if side else []
        tiles.append(("Training pictures", f"{run.data['count'] - aside:,}", ", ".join(notes)))
    tiles += [_score_tile(best) for best in history.best_scores()[:2]]
    if not tiles:
        return ""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(small)}</small></dd></div>"
        for name, value, small in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _score_tile(best: Best) -> tuple[str, str, str]:
    return f"Best {best.name.split('-')[0].split(' ')[0]}", f"{best.value:.4g}", f"at {best.images_seen:,}"


def _left(run: Run) -> str:
    total, seen = run.total_images, run.history.images_seen
    if run.state != "in progress" or total is None or seen >= total:
        return ""
    return f"about {duration(run.history.seconds * (total - seen) / seen)} to go"


# ---- the page -----------------------------------------------------------------------------------------------------


def asset(name: str) -> str:
    """The text of a file of the page, such as `report.css`."""
    return (resources.files("frugan") / "assets" / "report" / name).read_text(encoding="utf-8")


def _kicker(run: Run) -> str:
    parts = [str(run.recipe.get("name") or ""), str(run.facts.get("device") or ""), _minute(run.facts.get("created"))]
    if run.facts.get("parent"):
        parts.insert(1, f"started from {run.facts['parent']}")
    return " · ".join(escape(part) for part in parts if part)


def _minute(created: Any) -> str:
    try:
        return datetime.fromisoformat(str(created)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return str(created or "")


def _page(run: Run, defaults: Mapping[str, Any] | None) -> str:
    style, script = asset("report.css"), asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Only this very script may run, whatever a folder or class name holds.
    policy = f"default-src 'none'; img-src data: file: 'self'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    advice = "".join(f"<li>{escape(hint)}</li>" for hint in hints(run))
    viewer = _viewer(run)
    body = (
        f'<h1>{escape(run.name)}<span class="state {re.sub(r"[^a-z]", "-", run.state)}">{escape(run.state)}</span></h1>'
        f'<p class="kicker">{_kicker(run)}</p><p class="verdict">{escape(verdict(run))}</p>'
        + (f'<p class="memory">{escape(memory(run))}</p>' if memory(run) else "")
        + (f'<ul class="hints">{advice}</ul>' if advice else "")
        + _tiles(run)
        + (f"<h2>How the pictures changed</h2>{viewer}" if viewer else "")
        + _before_after(run)
        + _commands(run)
        + _curves(run)
        + _events(run)
        + _settings(run, defaults)
        + _facts(run)
    )
    unread = run.history.unreadable_lines
    torn = f" {unread:,} unreadable line{'s' * (unread > 1)} of the log left out." if unread else ""
    written = time.strftime("%Y-%m-%d %H:%M")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run.name)} · frugan</title><style>{style}</style></head><body><main>{body}"
        f"<footer>Written by frugan on {written}.{torn}</footer></main><script>{script}</script></body></html>\n"
    )


# ---- the film -----------------------------------------------------------------------------------------------------


def write_progress_video(run: Path, suffix: str = ".gif") -> Path:
    """Writes `progress.gif` (or .webp, .png, .mp4) into a run folder: its sample grids over time, with captions.

    At most 60 grids, denser at the start, at most 480 pixels wide; the last one stays for two seconds. Of networks that
    grow the captions tell the size.
    Raises FileNotFoundError where there are no grids, ValueError where none can be read, else as
    `frugan.data.write.save_video`.
    """
    grids = sample_grids(run)
    if not grids:
        raise FileNotFoundError(f"no sample grids (grids/fakes-*.png) in {run}")
    path = run / f"progress{suffix}"
    save_video(path, _film_frames([grids[index] for index in spread(len(grids), FILM_FRAMES)], _captions(run)), 6)
    return path


def _captions(run: Path) -> Callable[[int], str]:
    history = read_history(run / "log.jsonl")
    return lambda seen: f"{seen:,} pictures shown{caption(history, seen)}"


def _film_frames(grids: Sequence[tuple[int, Path]], told: Callable[[int], str]) -> Iterator[UInt8[Tensor, "3 H W"]]:
    size: tuple[int, int] | None = None
    font = ImageFont.load_default(14)
    for index, (seen, path) in enumerate(grids):
        image = _read(path)
        if image is None:
            continue
        if size is None:
            width = min(image.width, FILM_WIDTH)
            size = (width, max(round(image.height * width / image.width), 1))
        frame = Image.new("RGB", (size[0], size[1] + 24), "white")
        frame.paste(image.resize(size, Image.Resampling.LANCZOS), (0, 0))
        ImageDraw.Draw(frame).text((6, size[1] + 12), told(seen), fill="#333333", font=font, anchor="lm")
        for _ in range(12 if index == len(grids) - 1 else 1):
            yield from_pillow(frame)
