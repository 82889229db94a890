"""pix2pix's claim: a translator learnt from pairs paints pictures that it has not seen, better than plain rules do."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from claims.harness import Claim, Finding, Measures, Row, Sheet, Size, Trial
from claims.measures import clearly_below, feature_name, lasting, of_baseline, paired_scores, translation
from frugan.data import Dataset, write
from frugan.data.write import Picture
from frugan.model import Model
from frugan.recipes import translation as recipes
from frugan.training.recipe import Recipe
from frugan.training.tasks.translate import PairedConfig

SETS: dict[Size, Path] = {
    "smoke": Path(),
    "cpu": Path("runs/sets/openmoji-pairs"),
    "gpu": Path("runs/sets/openmoji-pairs"),
    "full": Path("runs/sets/openmoji-pairs-256"),
}
SIDES: dict[Size, int] = {"smoke": 16, "cpu": 64, "gpu": 128, "full": 256}
EPOCHS: dict[Size, int] = {"smoke": 1, "cpu": 4, "gpu": 10, "full": 200}
EVERY: dict[Size, int] = {"smoke": 1, "cpu": 1, "gpu": 2, "full": 20}
"""Epochs between two measurements."""
DRAWING, NEAREST, MEAN = "the drawing itself", "the nearest training picture", "the mean picture under the lines"
_SHOWN, _COLUMNS, _CELLS = 24, 3, 16


def _recipe(size: Size) -> Recipe:
    return recipes.pix2pix(SIDES[size]) if size == "full" else recipes.pix2pix_small(SIDES[size])


def _sets(size: Size) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
    return translation(_recipe(size), SETS[size], size, SIDES[size])


def _trials(size: Size) -> list[Trial]:
    learned, _ = _sets(size)
    pictures = len(learned["source"])
    recipe = lasting(_recipe(size), learned, size, EPOCHS[size] * pictures, EVERY[size] * pictures)
    trials = [Trial(arm="pix2pix", seed=0, recipe=recipe, data=learned)]
    if size == "full":
        assert isinstance(recipe.task, PairedConfig)
        alone = dataclasses.replace(recipe, task=dataclasses.replace(recipe.task, adversarial=0.0))
        trials.append(Trial(arm="L1 alone", seed=0, recipe=alone, data=learned))
    return trials


def _measure(model: Model, trial: Trial, size: Size) -> Measures:
    _, held = _sets(size)
    return paired_scores(_made(model, held), _wanted(held), size)


def _made(model: Model, held: Mapping[str, Dataset]) -> Tensor:
    return model.on(held["source"]).sample(range(len(held["source"]))).cpu()


def _wanted(held: Mapping[str, Dataset]) -> Tensor:
    return torch.from_numpy(held["target"].images.copy())


def _plain(size: Size) -> dict[str, Tensor]:
    """What comes out by rules: nothing done, a training picture, or the mean of all of them multiplied by the lines."""
    learned, held = _sets(size)
    drawings = torch.from_numpy(held["source"].images.copy())
    sources, targets = (torch.from_numpy(learned[name].images.copy()) for name in ("source", "target"))
    closest = (_ink(drawings) @ _ink(sources).T).argmax(dim=1)
    mean = targets.double().mean(dim=0)
    lined = (drawings.double() / 255 * mean).round().to(torch.uint8)
    return {DRAWING: drawings, NEAREST: targets[closest], MEAN: lined}


def _ink(drawings: Tensor) -> Tensor:
    """Where drawings are dark, in 16 x 16 cells: rows of length 1 (0 for an empty one)."""
    dark = 255 - drawings.float().mean(dim=1, keepdim=True)
    return F.normalize(F.avg_pool2d(dark, drawings.shape[2] // _CELLS).flatten(1))


def _aside(size: Size) -> Measures:
    wanted, found = _wanted(_sets(size)[1]), {}
    for name, images in _plain(size).items():
        found |= of_baseline(paired_scores(images, wanted, size), name)
    return found


def _conclude(rows: Sequence[Row], aside: Measures) -> Finding:
    own = sorted((row for row in rows if row.arm == "pix2pix"), key=lambda row: row.images_seen)
    first, last = own[0].measures, own[-1].measures
    distance, kid = (next(name for name in last if name.startswith(start)) for start in ("paired ", "KID"))
    asked = [(distance, DRAWING), (distance, NEAREST), (distance, MEAN), (kid, DRAWING), (kid, MEAN)]
    holds = [clearly_below(last, aside, name, baseline) for name, baseline in asked]
    missed = [f"{name} of {baseline}" for (name, baseline), held in zip(asked, holds, strict=True) if not held]
    plain = "; ".join(
        f"{baseline} {aside[f'{distance} of {baseline}']:.4g} and {aside[f'{kid} of {baseline}']:.4g}"
        for baseline in (DRAWING, NEAREST, MEAN)
    )
    text = (
        f"Of drawings that it has not seen, pix2pix's pictures are at a {distance} of {last[distance]:.4g} (after the "
        f"first measurement {first[distance]:.4g}) from the true ones, and at a {kid} of {last[kid]:.4g} "
        f"({first[kid]:.4g}). Plain rules: {plain}. "
        + (f"Not clearly below: {'; '.join(missed)}." if missed else "It is below all of them by two standard errors.")
    )
    return Finding(verdict="held" if all(holds) else "mixed" if any(holds) else "did not hold", text=text)


def _draw(models: Mapping[str, Model], size: Size) -> Picture:
    """Held-out drawings evenly chosen, what each arm paints, what the nearest training picture is, and the truth."""
    _, held = _sets(size)
    chosen = torch.linspace(0, len(held["source"]) - 1, min(_SHOWN, len(held["source"]))).long()
    sides = {"drawing": torch.from_numpy(held["source"].images.copy())}
    sides |= {arm: _made(model, held) for arm, model in models.items()}
    sides |= {"nearest": _plain(size)[NEAREST], "truth": _wanted(held)}
    groups = torch.stack([images[chosen] for images in sides.values()], dim=1)
    rows = [("", part.flatten(0, 1)) for part in groups.split(_COLUMNS)]
    return write.labelled_grid(rows, column_titles=[*sides] * min(_COLUMNS, len(groups)))


def _protocol(size: Size) -> str:
    side, recipe = SIDES[size], _recipe(size)
    build = "frugan data build openmoji-pairs" + (" --size 256" if size == "full" else "")
    why = (
        " A core makes about 7 images a second at this size and 2.3 at 128 px: four epochs are twenty minutes of one "
        "core, and one epoch at 128 px would be a quarter of an hour."
        if size == "cpu"
        else ""
    )
    return (
        f"Line art to colour, the set of `{build} --out {SETS[size]}` (OpenMoji, CC BY-SA 4.0): 1,904 pairs to learn "
        "from, 210 held out; variants of one emoji and emoji of the same line art lie on one side. "
        f"`{recipe.name}` at {side} px (crops of pictures a little larger, no mirroring), {EPOCHS[size]} epochs of "
        f"batch {recipe.training.batch}, the learning rate falling in the second half.{why} Measured on the 210 "
        f"held-out drawings, whole, at {side} px: the Euclidean distance of {feature_name(size)} features (bicubic to "
        "224 px) to those of the true picture, with its standard error; the exact unbiased MMD of the same features "
        "(KID, times 1000) to the 210 true pictures, with its jackknife error; L1 in [0, 1]; and how often the nearest "
        "true picture is the right one. Plain rules: the drawing as it is; the colours of the training picture whose "
        "drawing has its ink in the most similar places (cosine over 16 x 16 cells); the mean of all training "
        "pictures, multiplied by the drawing. The claim is held if the distance is below that of all three, and KID "
        "below that of the drawing and the mean (the nearest training pictures are real ones), by two standard "
        "errors of the difference."
    )


CLAIM = Claim(
    name="pix2pix",
    question="Does pix2pix colour drawings that it has not seen?",
    source="Isola et al. 2017 (arXiv:1611.07004), section 4: with pairs, a conditional GAN and L1 give plausible "
    "pictures for sources that were held out.",
    shown=("paired ", "KID"),
    trials=_trials,
    measure=_measure,
    conclude=_conclude,
    protocol=_protocol,
    aside=_aside,
    sheet=Sheet(
        draw=_draw,
        text="Held-out drawings, evenly chosen: the drawing, what comes out of it, the colours of the training picture "
        "whose drawing is most alike, and the true colours:",
    ),
    sizes=get_args(Size),
)
