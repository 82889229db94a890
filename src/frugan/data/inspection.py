"""What is in a source of pictures: sizes, kinds, classes, unreadable files, duplicates, a sheet to look at."""

import collections
import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from frugan.data.digests import Progress
from frugan.data.maps import MapFile, load_reading, some_colours
from frugan.data.pictures import (
    DataConfig,
    DataError,
    Decoded,
    Half,
    Labels,
    Part,
    PictureError,
    decode_picture,
    fit_picture,
    half_of,
    open_member,
    open_picture,
    room_for,
)
from frugan.data.sources import Source, choose, no_pictures, open_source, read_all
from frugan.data.write import grid, labelled_grid

_THUMB = 96
_THUMBS = 100
_CLASS_ROWS = 12
_CLASS_THUMBS = 8
_SKETCH = 8  # near duplicates are compared as 8 x 8 colour cells
_NEAR_RMS = 2.5
NEAR_LIMIT = 50_000
"""Near duplicates are looked for in sets up to this many pictures (the time grows with the square)."""
_BINS = (0, 32, 64, 128, 256, 512, 1024, 2048)
_SHOWN = 10
_MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "RGB": "colour",
    "RGBA": "colour with transparency",
    "P": "palette",
    "CMYK": "CMYK",
    "I;16": "grey of 16 bits",
    "I;16B": "grey of 16 bits",
    "I": "grey of 32 bits",
    "F": "floats",
}
_LOOK = DataConfig(resolution=_THUMB, fit="pad", upscale="allow", fast_jpeg=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What `inspect` found; `text()` and `pictures()` show it, `frugan.data.recommend` draws the conclusions.

    `names`: the readable pictures, and in the same order `sizes`: (width, height) as they are seen, upright. `modes`
    (in words), `formats`, `classes`: how many pictures of each. `num_transparent`, `num_grey`: pictures that really
    have transparent parts, or no colour. `exact`: groups of pictures with the same pixels; `near`: groups that look
    the same (recompressed, resized, lighter), the first of each standing for it; None where not looked for. `skipped`,
    `ignored`, `notes`, `has_glyphs`: as in `Source`. `num_left_out`: pictures not looked at because of a limit.
    `thumb_names`: the pictures that `thumbs` shows. Of label maps, `labels`: how many pixels have each label, and
    `unknown`: (name, what labels could not be read).
    """

    path: str
    kind: str
    names: tuple[str, ...]
    sizes: Int64[np.ndarray, "N 2"]
    modes: dict[str, int]
    formats: dict[str, int]
    classes: dict[str, int]
    num_transparent: int
    num_grey: int
    exact: tuple[tuple[str, ...], ...]
    near: tuple[tuple[str, ...], ...] | None
    skipped: tuple[tuple[str, str], ...]
    ignored: dict[str, int]
    notes: tuple[str, ...]
    has_glyphs: bool
    num_left_out: int
    thumbs: UInt8[np.ndarray, "M 3 S S"]
    thumb_classes: tuple[str, ...]
    thumb_names: tuple[str, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)
    unknown: tuple[tuple[str, str], ...] = ()

    @property
    def shorter_sides(self) -> Int64[np.ndarray, " N"]:
        """The shorter side of each picture in pixels."""
        return np.asarray(self.sizes.min(axis=1))

    def histogram(self) -> dict[str, int]:
        """How many pictures have a shorter side from 32 to 63 pixels, and so on; empty ends are left out."""
        ends = (*(str(edge - 1) for edge in _BINS[1:]), "")
        counts = np.histogram(self.shorter_sides, bins=(*_BINS, 1 << 40))[0]
        used = np.flatnonzero(counts)
        rows = list(zip(_BINS, ends, counts.tolist(), strict=True))[used[0] : used[-1] + 1]
        return {f"{start}-{end}" if end else f"{start} and more": count for start, end, count in rows}

    def text(self) -> str:
        """The report for a terminal: about 30 lines, whatever the size of the set."""
        lines = [f"{len(self.names):,} pictures in {self.path} ({self.kind})", *self._size_lines()]
        lines.append(f"  kinds          {_counted(self.modes)}; {_counted(self.formats)}")
        if self.num_transparent or self.num_grey:
            lines.append(
                f"  of these       {self.num_transparent:,} with transparent parts, {self.num_grey:,} without colour"
            )
        if self.classes:
            lines.append(f"  classes        {len(self.classes)}: {_counted(self.classes)}")
        if self.labels:
            whole = sum(self.labels.values())
            shares = {name: f"{100 * count / whole:.2g}%" for name, count in _ranked(self.labels)[:_SHOWN]}
            shown = ", ".join(f"{name} {share}" for name, share in shares.items())
            lines.append(f"  labels         {len(self.labels)} of them used: {shown}")
        lines += listed("unknown", [f"{name}: {what}" for name, what in self.unknown])
        lines += listed("left out", [f"{name}: {reason}" for name, reason in self.skipped])
        if self.ignored:
            lines.append(f"  other files    {sum(self.ignored.values()):,} ({_counted(self.ignored)})")
        lines += listed("same pixels", [" = ".join(group) for group in self.exact])
        if self.near is None:
            lines.append(f"  look the same  not looked for in more than {NEAR_LIMIT:,} pictures")
        else:
            lines += listed("look the same", [" ~ ".join(group) for group in self.near])
        if self.num_left_out:
            lines.append(f"  not looked at  {self.num_left_out:,} more pictures (limit)")
        lines += [f"  note           {note}" for note in self.notes]
        # File names may hold bytes that are no text; a report must be printable all the same.
        return "\n".join(lines).encode("utf-8", "backslashreplace").decode()

    def _size_lines(self) -> list[str]:
        order = np.argsort(self.shorter_sides, kind="stable")
        picks = [f"{self.sizes[index][0]} x {self.sizes[index][1]}" for index in order[[0, len(order) // 2, -1]]]
        landscape = int((self.sizes[:, 0] > self.sizes[:, 1]).sum())
        portrait = int((self.sizes[:, 0] < self.sizes[:, 1]).sum())
        square = len(self.names) - landscape - portrait
        lines = [
            f"  sizes          smallest {picks[0]}, median {picks[1]}, largest {picks[2]}",
            f"  shapes         {square:,} square, {landscape:,} wider than high, {portrait:,} higher than wide",
        ]
        bars = self.histogram()
        most = max(bars.values())
        title = "shorter side"
        for label, count in bars.items():
            bar = "#" * (max(1, 30 * count // most) if count else 0)
            lines.append(f"  {title:14} {label:>13} {bar:30} {count:,}")
            title = ""
        return lines

    def contact_sheet(self) -> UInt8[Tensor, "3 H W"]:
        """Up to a hundred pictures, evenly taken, whole on white; a titled row for each of up to twelve classes."""
        thumbs = torch.from_numpy(self.thumbs)
        if not self.thumb_classes:
            return grid(thumbs)
        rows = []
        for name in sorted(set(self.thumb_classes))[:_CLASS_ROWS]:
            members = [index for index, other in enumerate(self.thumb_classes) if other == name]
            rows.append((name, thumbs[members[:_CLASS_THUMBS]]))
        return labelled_grid(rows)

    def pictures(self) -> dict[str, UInt8[Tensor, "3 H W"]]:
        """The pictures of a report page: the contact sheet and the sizes as bars (save with `write.save_png`)."""
        return {"contact_sheet": self.contact_sheet(), "sizes": _draw_bars("shorter side in pixels", self.histogram())}


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _counted(counts: dict[str, int]) -> str:
    ranked = _ranked(counts)
    shown = ", ".join(f"{name or 'without ending'} {count:,}" for name, count in ranked[:_SHOWN])
    return shown if len(ranked) <= _SHOWN else f"{shown}, ... (smallest {ranked[-1][0]} {ranked[-1][1]:,})"


def listed(title: str, items: Sequence[str]) -> list[str]:
    """Lines of a report: how many items there are, and the first ten of them."""
    lines = [f"  {title:14} {len(items):,}"] if items else []
    lines += [f"    {item if len(item) <= 150 else item[:147] + '...'}" for item in items[:_SHOWN]]
    return lines + ([f"    ... and {len(items) - _SHOWN:,} more"] if len(items) > _SHOWN else [])


def _draw_bars(title: str, bars: dict[str, int]) -> UInt8[Tensor, "3 H W"]:
    step, left, longest = 26, 130, 360
    image = Image.new("RGB", (left + longest + 90, step * (len(bars) + 1) + 10), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    pen.text((10, 8), title, fill="black", font=font)
    for row, (label, count) in enumerate(bars.items(), start=1):
        top = row * step + 4
        width = round(longest * count / max(bars.values()))
        pen.text((10, top + 2), label, fill="black", font=font)
        pen.rectangle((left, top, left + width, top + step - 8), fill="#3b6ea5")
        pen.text((left + width + 8, top + 2), f"{count:,}", fill="black", font=font)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


# ---- looking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    size: tuple[int, int]
    mode: str
    format: str
    is_transparent: bool
    is_grey: bool
    digest: bytes
    sketch: UInt8[np.ndarray, "S S 3"]
    thumb: UInt8[np.ndarray, "3 T T"] | None
    labels: dict[int, int] = field(default_factory=dict)
    unknown: str = ""


def inspect(
    source: str | Path | Source,
    labels: Labels = "auto",
    part: Part = "train",
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """What is in `source`: every picture decoded in full once, nothing written.

    `labels`, `part`, `limit`, `seed`: as in `DataConfig`. Same pixels: by digest of the decoded pixels, laid on white.
    Same look: 8 x 8 cells of mean colour, less the mean of the picture, that differ by at most 2.5 levels (root mean
    square) from those of the first picture of the group; mirrored and cropped copies are not found.
    Raises: DataError if there is nothing that can be read.
    """
    with source if isinstance(source, Source) else open_source(source, labels, part) as opened:
        chosen = choose(opened, limit, seed)
        found = _look_at_all(chosen, progress or (lambda done, total, text: None))
        seen = {index: item for index, item in found.items() if isinstance(item, _Seen)}
        broken = [(chosen.names[index], str(item)) for index, item in found.items() if isinstance(item, PictureError)]
        skipped = (*opened.skipped, *broken)
        if not seen:
            raise no_pictures(opened, skipped)
        names = tuple(chosen.names[index] for index in seen)
        classes = [] if chosen.labels is None else [chosen.class_names[chosen.labels[index]] for index in seen]
        shown = [(item.thumb, position) for position, item in enumerate(seen.values()) if item.thumb is not None]
        unknown = [(chosen.names[index], item.unknown) for index, item in seen.items() if item.unknown]
        exact = _groups([item.digest for item in seen.values()])
        return Report(
            path=opened.title or str(opened.path),
            kind=opened.kind,
            names=names,
            sizes=np.array([item.size for item in seen.values()], dtype=np.int64),
            modes=_count(_MODES.get(item.mode, item.mode) for item in seen.values()),
            formats=_count(item.format for item in seen.values()),
            classes=_count(classes),
            num_transparent=sum(item.is_transparent for item in seen.values()),
            num_grey=sum(item.is_grey for item in seen.values()),
            exact=tuple(tuple(names[member] for member in group) for group in exact),
            near=_near(names, list(seen.values()), exact),
            skipped=skipped,
            ignored=opened.ignored,
            notes=opened.notes,
            has_glyphs=opened.has_glyphs,
            num_left_out=len(opened.names) - len(chosen.names),
            thumbs=np.stack([thumb for thumb, _ in shown] or [np.full((3, _THUMB, _THUMB), 255, dtype=np.uint8)]),
            thumb_classes=tuple(classes[position] for _, position in shown) if classes else (),
            thumb_names=tuple(names[position] for _, position in shown),
            labels=_labels(opened, list(seen.values())),
            unknown=tuple(unknown),
        )


def _labels(source: Source, seen: Sequence[_Seen]) -> dict[str, int]:
    """Pixels by the name of their label."""
    total: collections.Counter[int] = collections.Counter()
    for item in seen:
        total.update(item.labels)
    names = source.maps.names if source.maps is not None else ()
    return {names[number] if names else str(number): count for number, count in sorted(total.items())}


def _count(items: Iterable[str]) -> dict[str, int]:
    return dict(sorted(collections.Counter(items).items()))


def _look_at_all(source: Source, tell: Progress) -> dict[int, _Seen | PictureError]:
    total = len(source.names)
    wanted = _thumb_indices(source)

    def look(index: int, data: bytes | np.ndarray) -> _Seen:
        if source.maps is not None:
            return _look_at_map(MapFile(data, None, source.maps, source.half), with_thumb=index in wanted)
        return _look(data, source.half, with_thumb=index in wanted)

    found: dict[int, _Seen | PictureError] = {}
    with contextlib.closing(read_all(_forgiving(source), look)) as results:
        for index, item in enumerate(results):
            found[index] = item
            tell(index + 1, total, "looking at pictures")
    return found


def _forgiving(source: Source) -> Source:
    """The same source, where a file of a folder that the system refuses is an unusable picture (as in `prepare`)."""

    def load(index: int) -> bytes | np.ndarray:
        try:
            return source.load(index)
        except OSError as error:
            raise PictureError(f"cannot be read: {error.strerror}") from None

    return dataclasses.replace(source, load=load) if source.kind == "folder" else source


def _thumb_indices(source: Source) -> set[int]:
    """Evenly taken pictures; with classes, the same number of each."""
    if source.labels is None:
        return {int(index) for index in np.linspace(0, len(source.names) - 1, _THUMBS)}
    labels = np.array(source.labels)
    chosen: set[int] = set()
    for label in sorted(set(source.labels), key=lambda label: source.class_names[label])[:_CLASS_ROWS]:
        members = np.flatnonzero(labels == label)
        chosen.update(int(members[int(place)]) for place in np.linspace(0, len(members) - 1, _CLASS_THUMBS))
    return chosen


def _look_at_map(file: MapFile, with_thumb: bool) -> _Seen:
    """A label map, seen in the colours of its labels; what is unknown is black."""
    opened = open_picture(file.labels)
    try:
        reading, _ = load_reading(file)
    except PictureError:
        raise
    except DataError as error:
        raise PictureError(str(error)) from None
    numbers, counts = np.unique(reading.numbers, return_counts=True)
    table = np.array(
        [*(file.rules.colours or some_colours(int(numbers.max(initial=0)) + 1)), (0, 0, 0)], dtype=np.uint8
    )
    seen = _look(table[reading.numbers], None, with_thumb)
    found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    found.pop(-1, None)
    unknown = ", ".join(f"{count:,} pixels of {what}" for what, count in list(reading.unknown.items())[:3])
    mode, kind = opened.mode, opened.format or "pixels"
    return dataclasses.replace(seen, mode=mode, format=kind, labels=found, unknown=unknown)


def _look(data: bytes | np.ndarray, half: Half | None, with_thumb: bool) -> _Seen:
    opened = open_member(data)
    mode = opened.mode
    with room_for(opened):
        image = half_of(decode_picture(opened), half).image
        is_transparent = image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        is_grey = image.mode == "L"
        image = image.convert("RGB")
        digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
        digest.update(image.tobytes())
        return _Seen(
            size=image.size,
            mode=mode,
            format=opened.format or "pixels",
            is_transparent=is_transparent,
            is_grey=is_grey or _has_no_colour(image),
            digest=digest.digest(),
            sketch=np.asarray(image.resize((_SKETCH, _SKETCH), Image.Resampling.BOX)),
            thumb=fit_picture(Decoded(image, image.size, (0, 0, *image.size)), _LOOK).pixels if with_thumb else None,
        )


def _has_no_colour(image: Image.Image) -> bool:
    pixels = np.asarray(image.resize((64, 64), Image.Resampling.NEAREST)).astype(np.int16)
    return bool((pixels.max(axis=2) - pixels.min(axis=2)).max() <= 8)


# ---- duplicates -----------------------------------------------------------------------------------------------------


def _groups(keys: Sequence[bytes]) -> list[list[int]]:
    members: dict[bytes, list[int]] = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    return [group for group in members.values() if len(group) > 1]


def _near(names: tuple[str, ...], seen: list[_Seen], exact: list[list[int]]) -> tuple[tuple[str, ...], ...] | None:
    """Groups of pictures that look the same, copies with the same pixels counting once."""
    copies = {member for group in exact for member in group[1:]}
    singles = [index for index in range(len(seen)) if index not in copies]
    if len(singles) > NEAR_LIMIT:
        return None
    sketches = np.stack([seen[index].sketch for index in singles]).astype(np.float32)
    sketches -= sketches.mean(axis=(1, 2), keepdims=True)
    groups = leaders(sketches.reshape(len(singles), -1), _NEAR_RMS)
    return tuple(tuple(names[singles[member]] for member in group) for group in groups)


def leaders(points: Float32[np.ndarray, "N D"], rms: float, chunk: int = 256) -> list[list[int]]:
    """Groups of two or more points, each within `rms` (root mean square per axis) of the first of its group.

    A point joins the nearest earlier leader that is close enough, else it becomes a leader itself; so groups do not
    chain. Time grows with N times the number of leaders; memory with `chunk` times it.
    """
    limit = rms * rms * points.shape[1]
    squares = (points * points).sum(axis=1)
    leading = np.empty(0, dtype=np.int64)
    groups: dict[int, list[int]] = {}

    def nearest(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distances = squares[rows, None] + squares[None, others] - 2 * (points[rows] @ points[others].T)
        best = distances.argmin(axis=1)
        return others[best], distances[np.arange(len(rows)), best]

    for start in range(0, len(points), chunk):
        rows = np.arange(start, min(start + chunk, len(points)))
        fresh: list[int] = []
        owner, distance = nearest(rows, leading) if len(leading) else (rows, np.full(len(rows), np.inf))
        for row, owned, far in zip(rows.tolist(), owner.tolist(), distance.tolist(), strict=True):
            if fresh:
                close, near = nearest(np.array([row]), np.array(fresh))
                owned, far = (int(close[0]), float(near[0])) if near[0] < far else (owned, far)
            if far <= limit:
                groups[owned].append(row)
            else:
                groups[row] = [row]
                fresh.append(row)
        leading = np.concatenate([leading, np.array(fresh, dtype=np.int64)])
    return [group for group in groups.values() if len(group) > 1]
