"""`frugan translate`: a folder of pictures becomes a folder of their translations."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from frugan.cli.tell import Teller
from frugan.config import counted

if TYPE_CHECKING:
    from frugan.data import Source
    from frugan.features import FeatureExtractor
    from frugan.translation import Result

_SHOWN = 5


def translate(
    model: str,
    pictures: Path,
    out: Path,
    /,
    *,
    size: int | None = None,
    tile: int | None = None,
    overlap: int = 64,
    reverse: bool = False,
    batch: int = 8,
    gallery: bool = False,
    target: Path | None = None,
    features: str | None = None,
    weights: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Translate every picture of a folder. Stopped, the same command goes on: what is finished is kept.

    Parameters
    ----------
    model
        A run, a checkpoint, or a checkpoint file of another project that translates (see frugan import).
    pictures
        A folder, with its sub-folders, a zip, or a single picture. For a model of label maps a folder as it learned
        from.
    out
        The folder to write; names and sub-folders stay, endings become .png.
    size
        Bring the shorter side of each picture to so many pixels first; the size it was trained at suits best.
    tile
        Translate larger pictures in squares of this side, which takes less memory. Most models normalise each square by
        itself, so that brightness may differ from square to square.
    overlap
        Pixels that neighbouring squares share and are blended over.
    reverse
        The other direction, which models of cyclegan have.
    batch
        Pictures at once, as long as neighbours have one size.
    gallery
        Also write gallery.html: sources beside outputs, and with --target targets too.
    target
        What should have come out, under the same names: distances are told.
    features
        With --target also measure with this network, such as efficientnet_lite0.
    weights
        Its file, where it is not in its usual place.
    device
        auto, cpu, cuda or cuda:1.
    overwrite
        Translate again what is there already.
    """
    import torch

    from frugan import load
    from frugan.features import open_extractor
    from frugan.translation import Options, translate_folder
    from frugan.translation.folder import open_sources

    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    loaded = load(model, device=kind)
    loaded.translator  # noqa: B018 - refuses a model that draws from seeds before any picture is looked for
    if reverse:
        loaded = loaded.reversed()
    teller = Teller(plain_seconds=5)
    options = Options(
        size=size, tile=tile, overlap=overlap, batch=batch, background=_background(model), overwrite=overwrite
    )
    with open_sources(pictures, loaded) as source:
        result = translate_folder(loaded, source, out, options, teller.progress)
        kept = len(result.items) - result.num_new
        there = f", {kept:,} {'was' if kept == 1 else 'were'} there" if kept else ""
        teller.say(f"translated: {counted(result.num_new, 'picture')}{there}, {out}")
        for name, reason in result.skipped[:_SHOWN]:
            teller.say(f"  left out {name}: {reason}")
        if len(result.skipped) > _SHOWN:
            teller.say(f"  left out {len(result.skipped) - _SHOWN:,} more")
        if target is not None or gallery:
            facts = {"title": f"Translations by {Path(model).name}", "model": f"{loaded.family} {loaded.hash}"}
            extractor = None if features is None or target is None else open_extractor(features, weights, kind)
            _show(source, result, out / "gallery.html" if gallery else None, facts, target, extractor, teller)


def _background(model: str) -> str:
    """What transparent pictures were laid on where it learned."""
    from frugan.training.folder import RunFolder

    folder = RunFolder(Path(model))
    return next(iter(folder.read_recipe().data.values())).background if folder.exists else "white"


def _show(
    source: "Source",
    result: "Result",
    page: Path | None,
    facts: dict[str, str],
    target: Path | None,
    extractor: "FeatureExtractor | None",
    teller: Teller,
) -> None:
    """Tell the distances from the targets, where there are some, and write the page."""
    from frugan.translation import compare, write_gallery
    from frugan.translation.folder import open_pictures

    with contextlib.ExitStack() as stack:
        targets = None if target is None else stack.enter_context(open_pictures(target))
        compared = None if targets is None else compare(result, targets, extractor, teller.progress)
        if compared is not None:
            for name, score in compared.scores.items():
                teller.say(f"  {name}  {score.value:.4g} ± {score.spread:.2g} ({len(compared.apart):,} pairs)")
            for name, reason in compared.left_out[:_SHOWN]:
                teller.say(f"  not compared: {name}: {reason}")
        if page is not None:
            teller.say(f"gallery: {write_gallery(page, result, source, facts, targets, compared)}")
