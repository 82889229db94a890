"""What is in a set for translation: how it lies, what has no partner or another size, what suits it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from frugan.data.digests import Progress
from frugan.data.inspection import Report, inspect, listed
from frugan.data.layouts import Layout, find_layout
from frugan.data.pictures import Part
from frugan.data.sources import Source, open_source
from frugan.data.write import labelled_grid

_SHEET_ROWS, _SHEET_PAIRS = 8, 4
_FEWEST_COMPARED, _ENOUGH_COMPARED = 8, 30
_FEW = 200
_SIZES = (512, 256, 128, 64)
_PUBLISHED = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class PairReport:
    """What `inspect_pairs` found, a report for each side, and what is wrong between them.

    `layout`: how the set lies, in words. `num_found`: pictures of the larger side, looked at or not. `wrong_sizes`:
    (name, sizes) of pairs of two sizes. `likeness`: how much alike the outlines of pairs are, and those of pictures
    that do not belong together (correlations, with the standard error of the difference); None where there are no
    pairs or too few.
    """

    path: str
    layout: str
    num_found: int
    is_paired: bool
    has_maps: bool
    has_instances: bool
    source: Report
    target: Report
    unpaired: tuple[tuple[str, str], ...]
    wrong_sizes: tuple[tuple[str, str], ...]
    likeness: tuple[float, float, float] | None
    notes: tuple[str, ...]

    @property
    def looks_unpaired(self) -> bool:
        """Whether pairs are no more alike than any two pictures, by two standard errors."""
        return self.likeness is not None and self.likeness[0] - self.likeness[1] <= 2 * self.likeness[2]

    def text(self) -> str:
        """The report for a terminal."""
        counts = f"{len(self.source.names):,} and {len(self.target.names):,}"
        lines = [f"{self.path}: {self.layout}; {counts} pictures that can be read"]
        lines += [f"  note           {note}" for note in self.notes]
        if self.has_maps:
            lines.append(f"  instances      {'a map for each picture' if self.has_instances else 'none'}")
        lines += listed("unpaired", [f"{name}: {reason}" for name, reason in self.unpaired])
        lines += listed("other sizes", [f"{name}: {sizes}" for name, sizes in self.wrong_sizes])
        if self.likeness is not None:
            own, other, error = self.likeness
            lines.append(f"  likeness       {own:.2f} of pairs, {other:.2f} of other two (+- {error:.2f}), in outlines")
        text = "\n".join(lines).encode("utf-8", "backslashreplace").decode()
        return f"{text}\nsource: {self.source.text()}\ntarget: {self.target.text()}"

    def pictures(self) -> dict[str, UInt8[Tensor, "3 H W"]]:
        """The pictures of a report page: the contact sheet and the targets' sizes (save with `write.save_png`)."""
        return {"contact_sheet": self.contact_sheet(), "sizes": self.target.pictures()["sizes"]}

    def contact_sheet(self) -> UInt8[Tensor, "3 H W"]:
        """Sources beside their targets; of two domains a row of the one above a row of the other."""
        source, target = torch.from_numpy(self.source.thumbs), torch.from_numpy(self.target.thumbs)
        if not self.is_paired:
            wide = 2 * _SHEET_PAIRS
            rows = [(title, side[start : start + wide]) for start in range(0, min(len(source), len(target)), wide)
                    for title, side in (("source", source), ("target", target))]  # fmt: skip
            return labelled_grid(rows[: 2 * _SHEET_ROWS])
        one, other = _shared_thumbs(self.source, self.target)
        if not one:
            return labelled_grid([("source", source[:_SHEET_PAIRS]), ("target", target[:_SHEET_PAIRS])])
        pairs = torch.stack([source[one], target[other]], dim=1)
        wanted = np.linspace(0, len(pairs) - 1, min(len(pairs), _SHEET_ROWS * _SHEET_PAIRS)).astype(int)
        groups = pairs[torch.from_numpy(wanted)].split(_SHEET_PAIRS)
        columns = ["source", "target"] * min(_SHEET_PAIRS, len(pairs))
        return labelled_grid([("", group.flatten(0, 1)) for group in groups], column_titles=columns)


def inspect_pairs(
    source: str | Path | Source,
    part: Part = "train",
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> PairReport | None:
    """What is in a set for translation, both sides decoded in full once, nothing written; None if it is no such set.

    `part`, `limit`, `seed`: as in `DataConfig`. Only folders with names that say so are taken for two sides, and files
    twice as wide as high for two pictures unless the halves have nothing in common.
    Raises: DataError where one side is empty or nothing of it can be read.
    """
    with source if isinstance(source, Source) else open_source(source, "none", part) as opened:
        layout = find_layout(opened, part, None, is_asked=False)
        if layout is None:
            return None
        sides = [inspect(side, "none", part, limit, seed, progress) for side in (layout.source, layout.target)]
        report = _report(opened, layout, sides[0], sides[1])
        is_one_picture = layout.source.half is not None and report.looks_unpaired  # such as a panorama
        return None if is_one_picture else report


def _report(opened: Source, layout: Layout, source: Report, target: Report) -> PairReport:
    return PairReport(
        path=opened.title or str(opened.path),
        layout=layout.kind,
        num_found=max(len(layout.source.names), len(layout.target.names)),
        is_paired=layout.is_paired,
        has_maps=layout.has_maps,
        has_instances=layout.source.instances is not None,
        source=source,
        target=target,
        unpaired=(*layout.unpaired, *(_halves_lost(source, target) if layout.is_paired else ())),
        wrong_sizes=_wrong_sizes(source, target) if layout.is_paired else (),
        likeness=_likeness(source, target) if layout.is_paired else None,
        notes=layout.notes,
    )


def _halves_lost(source: Report, target: Report) -> tuple[tuple[str, str], ...]:
    """Pictures that lose their partner because it cannot be read."""
    lost = [(name, "the target cannot be read") for name in sorted(set(source.names) - set(target.names))]
    lost += [(name, "the source cannot be read") for name in sorted(set(target.names) - set(source.names))]
    return tuple(lost)


def _wrong_sizes(source: Report, target: Report) -> tuple[tuple[str, str], ...]:
    known = dict(zip(target.names, target.sizes.tolist(), strict=True))
    return tuple(
        (name, f"source {size[0]} x {size[1]}, target {known[name][0]} x {known[name][1]}")
        for name, size in zip(source.names, source.sizes.tolist(), strict=True)
        if name in known and known[name] != size
    )


def _shared_thumbs(source: Report, target: Report) -> tuple[list[int], list[int]]:
    """Places of the pairs of which both pictures are shown."""
    places = {name: place for place, name in enumerate(target.thumb_names)}
    shared = [(place, places[name]) for place, name in enumerate(source.thumb_names) if name in places]
    return [place for place, _ in shared], [place for _, place in shared]


def _likeness(source: Report, target: Report) -> tuple[float, float, float] | None:
    """Mean correlation of outlines in pairs, in sources with the target of the next pair, error of the difference."""
    one, other = _shared_thumbs(source, target)
    if len(one) < _FEWEST_COMPARED:
        return None
    first, second = _outlines(source.thumbs[one]), _outlines(target.thumbs[other])
    own, apart = (first * second).sum(axis=1), (first * np.roll(second, 1, axis=0)).sum(axis=1)
    error = float((own - apart).std(ddof=1) / np.sqrt(len(own)))
    return float(own.mean()), float(apart.mean()), error


def _outlines(thumbs: UInt8[np.ndarray, "N 3 S S"]) -> Float[np.ndarray, "N D"]:
    """Where pictures change, in cells of 4 x 4 pixels: rows of mean 0 and length 1 (0 for a picture of one colour)."""
    grey = thumbs.astype(np.float64).mean(axis=1)
    change = np.abs(np.diff(grey, axis=1))[:, :, :-1] + np.abs(np.diff(grey, axis=2))[:, :-1]
    side = change.shape[1] // 4 * 4
    cells = change[:, :side, :side].reshape(len(change), side // 4, 4, side // 4, 4).mean(axis=(2, 4))
    rows = cells.reshape(len(cells), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    found: Float[np.ndarray, "N D"] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return found


# ---- advice ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PairAdvice:
    """A recipe and a size that suit a set for translation. `reasons`: a line for each choice or worry.

    `edges`: whether label maps come with instances, whose edges can be shown; `pictures`: those of the larger side.
    """

    recipe: Literal["pix2pix", "cyclegan", "gaugan"]
    resolution: int
    edges: bool
    pictures: int
    reasons: tuple[str, ...]


def recommend_pairs(report: PairReport) -> PairAdvice:
    """What suits these pictures; knows nothing of the machine or the time.

    Resolution: the largest of 64, 128 and 256 (the published size) that nine of ten pictures fill without being
    enlarged by more than a tenth.
    """
    recipe, why = _recipe(report)
    sides = np.concatenate([report.source.shorter_sides, report.target.shorter_sides])
    side = int(np.quantile(sides, 0.1, method="lower"))
    resolution = next((size for size in _SIZES if size <= min(1.1 * side, _PUBLISHED)), _SIZES[-1])
    size = f"{resolution} px: nine of ten pictures have a shorter side of {side} or more"
    size += f"; {_PUBLISHED} is the size of the papers" if side > _PUBLISHED else ""
    return PairAdvice(
        recipe=recipe,
        resolution=resolution,
        edges=report.has_instances,
        pictures=report.num_found,
        reasons=(f"{why} ({report.layout})", size, *_worries(report)),
    )


def _recipe(report: PairReport) -> tuple[Literal["pix2pix", "cyclegan", "gaugan"], str]:
    if report.has_maps:
        return "gaugan", "gaugan: label maps are to become pictures"
    if report.looks_unpaired and _count(report) >= _ENOUGH_COMPARED:
        why = "cyclegan: both sides have the same names, but the pictures of a pair are no more alike than any two"
        return "cyclegan", f"{why}; if they do belong together: pix2pix"
    if report.is_paired:
        return "pix2pix", "pix2pix: every source has its target"
    return "cyclegan", "cyclegan: two domains, of which no picture has a partner"


def _count(report: PairReport) -> int:
    return min(len(report.source.names), len(report.target.names))


def _worries(report: PairReport) -> Sequence[str]:
    count, worries = _count(report), []
    if report.looks_unpaired and _recipe(report)[0] != "cyclegan":
        worries.append("the pictures of a pair are no more alike than any two: do they belong together?")
    if report.wrong_sizes and _recipe(report)[0] != "cyclegan":
        worries.append(
            f"{len(report.wrong_sizes):,} pairs have two sizes: training refuses them; resize or remove them"
        )
    if report.source.unknown:
        worries.append(
            f"{len(report.source.unknown):,} label maps have unknown labels: training refuses them; name these in "
            "classes.json, or mend the maps"
        )
    if report.has_maps and not report.has_instances:
        worries.append("no instance maps: edges between things of one kind cannot be shown (data.source.edges=false)")
    num_left_out = min(report.source.num_left_out, report.target.num_left_out)
    if count + num_left_out < _FEW:
        count += num_left_out
        single = "a single pair" if report.is_paired and count == 1 else f"{count:,} on the smaller side"
        worries.append(f"{single}: few; expect what was not seen to come out badly")
    if report.source.num_grey == len(report.source.names) and not report.has_maps:
        worries.append("the sources have no colour: they are read as colour pictures all the same")
    if report.source.has_glyphs:
        worries.append("no mirroring: the set says that its pictures must not be mirrored")
    ratios = report.target.sizes[:, 0] / report.target.sizes[:, 1]
    if np.mean(np.abs(np.log(ratios)) > np.log(1.05)) > 0.5:
        shown = f"{float(np.median(ratios)):.2f}"
        worries.append(
            f"most pictures are not square (width / height {shown}): they are stretched to a square, unless you "
            f"--set data.source.aspect={shown} and data.target.aspect={shown}"
        )
    return worries
