"""The page that shows translations beside their sources and their targets, and how near they come to these."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import torch
from PIL import Image
from torch import Tensor

from frugan.data import write
from frugan.data.digests import Progress
from frugan.data.pictures import PictureError
from frugan.data.sources import Source
from frugan.features import FeatureExtractor, as_rgb
from frugan.metrics.distribution import Estimate
from frugan.metrics.paired import feature_distances, mean_of, pixel_distances
from frugan.training.report import asset, embedded
from frugan.translation.folder import Options, Result, read_picture, view

MOST_ROWS = 100
_BYTES, _WIDTH = 16_000, 320

_STYLE = """
.rows { width: 100%; table-layout: fixed; } .rows th { width: auto; } .rows td { padding: 8px; vertical-align: top; }
.rows img { display: block; width: 100%; height: auto; border-radius: 6px; background: #fff; }
.rows .name td { padding-bottom: 0; border-bottom: 0; color: var(--soft); font-size: 13px; }
"""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How near translations come to their targets.

    `scores`: means with their standard errors; `apart`: the mean absolute difference of each, pixels in [0, 1], by the
    place in the source; `targets`: the place of each one's target; `left_out`: (name, reason) of those without one;
    `num_resized`: how many targets were of another size and brought to that of the output.
    """

    scores: dict[str, Estimate]
    apart: dict[int, float]
    targets: dict[int, int]
    left_out: tuple[tuple[str, str], ...]
    num_resized: int


def compare(
    result: Result, targets: Source, extractor: FeatureExtractor | None = None, progress: Progress | None = None
) -> Compared:
    """Hold translations against the pictures of the same names in `targets`, whatever their endings.

    Raises ValueError where no translation has a target.
    """
    places = {_stem(name): index for index, name in enumerate(targets.names)}
    exact = {name: index for index, name in enumerate(targets.names)}
    apart: dict[int, float] = {}
    found: dict[int, int] = {}
    left_out: list[tuple[str, str]] = []
    features: list[Tensor] = []
    num_resized = 0
    for done, item in enumerate(result.items, start=1):
        place = exact.get(item.name, places.get(_stem(item.name)))
        try:
            output = write.from_pillow(_open(item.output))
            target = None if place is None else _target(targets, place, output)
        except PictureError as error:
            left_out.append((item.name, str(error)))
            continue
        if target is None or place is None:
            left_out.append((item.name, "no target of that name"))
            continue
        num_resized += target[1]
        apart[item.index], found[item.index] = float(pixel_distances(output[None], target[0][None])), place
        if extractor is not None:
            features.append(_features_apart(extractor, output, target[0]))
        if progress is not None:
            progress(done, len(result.items), "comparing")
    if not apart:
        raise ValueError(f"no translation has a target of its name in {targets.path}: names must be the sources' own")
    scores = {"paired-L1": mean_of(torch.tensor(list(apart.values()), dtype=torch.float64))}
    if extractor is not None:
        scores[f"paired-{extractor.name}"] = mean_of(torch.cat(features))
    return Compared(scores=scores, apart=apart, targets=found, left_out=tuple(left_out), num_resized=num_resized)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError) as error:
        raise PictureError(f"the translation cannot be read: {error}") from None


def _target(targets: Source, place: int, output: Tensor) -> tuple[Tensor, bool]:
    """(the target in the channels and size of the output, whether it had another size)."""
    channels, height, width = output.shape
    pixels = torch.from_numpy(read_picture(targets.load(place), channels, Options()))
    if pixels.shape == output.shape:
        return pixels, False
    return write.from_pillow(write.to_pillow(pixels).resize((width, height), Image.Resampling.LANCZOS)), True


def _features_apart(extractor: FeatureExtractor, output: Tensor, target: Tensor) -> Tensor:
    device = next((parameter.device for parameter in extractor.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        seen = [extractor(as_rgb(image[None]).to(device).float())["pool"] for image in (output, target)]
        return feature_distances(seen[0], seen[1]).cpu()


# ---- the page -----------------------------------------------------------------------------------------------------


def write_gallery(
    path: Path,
    result: Result,
    source: Source,
    facts: Mapping[str, str],
    targets: Source | None = None,
    compared: Compared | None = None,
) -> Path:
    """Write the page and give its path back: a row for each translation, at most 100, evenly chosen.

    It needs no other file: small pictures are inside it, the full ones are linked by relative names.
    """
    chosen = torch.linspace(0, len(result.items) - 1, min(MOST_ROWS, len(result.items))).long().tolist()
    titles = ["Source", "Output"] + (["Target"] if compared is not None else [])
    rows = []
    for index in chosen:
        item = result.items[index]
        cells = [_cell(source, item.index, path), _output(item.output, path)]
        note = ""
        if compared is not None and targets is not None:
            place = compared.targets.get(item.index)
            cells.append("<td></td>" if place is None else _cell(targets, place, path))
            note = f" · {compared.apart[item.index]:.3f} apart" if place is not None else " · no target"
        rows.append(
            f'<tr class="name"><td colspan="{len(titles)}">{escape(item.name)}{note}</td></tr><tr>{"".join(cells)}</tr>'
        )
    head = "".join(f"<th>{title}</th>" for title in titles)
    few = f"{len(chosen):,} of {len(result.items):,}, evenly chosen. " if len(chosen) < len(result.items) else ""
    body = (
        f"<h1>{escape(facts.get('title', 'Translations'))}</h1>{_facts(facts)}{_scores(compared)}"
        f'<h2>Pictures</h2><p class="quiet">{few}Each links to the full picture.</p>'
        f'<div class="card"><table class="rows"><thead><tr>{head}</tr></thead>{"".join(rows)}</table></div>'
        f"{_skipped(result, compared)}"
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(facts.get('title', 'Translations'))} · frugan</title><style>{asset('report.css')}{_STYLE}"
        f"</style></head><body><main>{body}<footer>Written by frugan on {time.strftime('%Y-%m-%d %H:%M')}."
        "</footer></main></body></html>\n"
    )
    with write.replacing(path) as part:
        part.write_text(page, encoding="utf-8", errors="replace")
    return path


def _cell(source: Source, index: int, page: Path) -> str:
    """A picture of a source; linked where it is a file of its own."""
    try:
        image = view(source, index)
    except (PictureError, OSError):
        return "<td></td>"
    is_file = source.kind in ("folder", "file")
    return _picture(image, source.files[index] if is_file else None, page)


def _output(file: Path, page: Path) -> str:
    try:
        return _picture(write.flatten(_open(file)), file, page)
    except PictureError:
        return "<td></td>"


def _picture(image: Image.Image, file: Path | None, page: Path) -> str:
    held = f'<img {embedded(image, _BYTES, _WIDTH)} alt="">'
    if file is None:
        return f"<td>{held}</td>"
    relative = Path(os.path.relpath(file.resolve(), page.parent.resolve())).as_posix()
    return f'<td><a href="{quote(relative)}">{held}</a></td>'


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items() if name != "title"
    )
    return f'<div class="card"><table>{rows}</table></div>' if rows else ""


def _scores(compared: Compared | None) -> str:
    if compared is None:
        return ""
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{score.value:.4g}<small>± {score.spread:.2g}</small></dd></div>"
        for name, score in compared.scores.items()
    )
    resized = (
        f" {compared.num_resized:,} targets were brought to the size of the output." if compared.num_resized else ""
    )
    return (
        f'<dl class="tiles">{tiles}</dl><p class="quiet">Means over {len(compared.apart):,} pairs with their standard '
        "errors: the absolute difference of pixels in [0, 1], and the Euclidean distance of features where those were "
        f"asked for. Lower is better.{resized}</p>"
    )


def _skipped(result: Result, compared: Compared | None) -> str:
    lost = [*result.skipped, *(compared.left_out if compared is not None else ())]
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(reason)}</td></tr>" for name, reason in lost[:100])
    return f'<h2>Left out</h2><div class="card"><table>{rows}</table></div>' if rows else ""
