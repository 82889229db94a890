"""CycleGAN's claim: without any pair it learns which picture belongs to which, as a hidden pairing tells."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from claims.harness import Claim, Finding, Measures, Row, Sheet, Size, Trial
from claims.measures import clearly_below, feature_name, lasting, of_baseline, paired_scores, translation
from frugan.data import Dataset, write
from frugan.data.write import Picture
from frugan.model import Model
from frugan.recipes import translation as recipes
from frugan.training.recipe import Recipe
from frugan.training.tasks.cycle import CycleConfig

PLACE = Path("runs/sets/openmoji-fluent")
SIDES: dict[Size, int] = {"smoke": 16, "cpu": 64, "full": 128}
EPOCHS: dict[Size, float] = {"smoke": 1, "cpu": 2, "full": 200}
EVERY: dict[Size, float] = {"smoke": 1, "cpu": 0.5, "full": 20}
"""Epochs between two measurements."""
BATCH = 2
SOURCE, UNTRAINED = "the flat emoji itself", "an untrained network"
_SHOWN, _COLUMNS = 24, 3


def _recipe(size: Size) -> Recipe:
    if size == "full":
        return recipes.cyclegan(SIDES[size])
    recipe = recipes.cyclegan_small(SIDES[size])
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, batch=BATCH))


def _sets(size: Size) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
    """Two domains to learn from, numbered apart; and the test pictures, put in the order of their hidden pairing."""
    learned, held = translation(_recipe(size), PLACE, size, SIDES[size])
    if size == "smoke":
        return learned, held
    pairs = json.loads((PLACE / "pairing.json").read_bytes())["test"]
    rows = {}
    for name, key in (("source", "a"), ("target", "b")):
        places = {Path(known).name: place for place, known in enumerate(held[name].names)}
        rows[name] = [places[Path(pair[key]).name] for pair in pairs]
    return learned, {name: side.take(rows[name]) for name, side in held.items()}


def _trials(size: Size) -> list[Trial]:
    learned, _ = _sets(size)
    pictures = len(learned["source"])
    recipe = lasting(_recipe(size), learned, size, int(EPOCHS[size] * pictures), int(EVERY[size] * pictures))
    trials = [Trial(arm="CycleGAN", seed=0, recipe=recipe, data=learned)]
    if size == "full":
        assert isinstance(recipe.task, CycleConfig)
        free = dataclasses.replace(recipe, task=dataclasses.replace(recipe.task, identity=None))
        trials.append(Trial(arm="without identity", seed=0, recipe=free, data=learned))
    return trials


def _measure(model: Model, trial: Trial, size: Size) -> Measures:
    _, held = _sets(size)
    return paired_scores(_made(model, held["source"]), _seen(held["target"]), size)


def _made(model: Model, source: Dataset) -> Tensor:
    return model.on(source).sample(range(len(source))).cpu()


def _seen(side: Dataset) -> Tensor:
    return torch.from_numpy(side.images.copy())


def _aside(size: Size) -> Measures:
    learned, held = _sets(size)
    recipe = _trials(size)[0].recipe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        task = recipe.task.build(learned, recipe.training.batch)
    untrained = task.eval_model({name: task.nets[name] for name in task.ema}, 0)
    plain = {SOURCE: _seen(held["source"]), UNTRAINED: _made(untrained, held["source"])}
    found: Measures = {}
    for name, images in plain.items():
        found |= of_baseline(paired_scores(images, _seen(held["target"]), size), name)
    return found


def _conclude(rows: Sequence[Row], aside: Measures) -> Finding:
    own = sorted((row for row in rows if row.arm == "CycleGAN"), key=lambda row: row.images_seen)
    last = own[-1].measures
    distance, kid = (next(name for name in last if name.startswith(start)) for start in ("paired ", "KID"))
    holds = [clearly_below(last, aside, name, SOURCE) for name in (distance, kid)]
    said = [
        f"{name} {last[name]:.4g} ({SOURCE}: {aside[f'{name} of {SOURCE}']:.4g}, {UNTRAINED}: "
        f"{aside[f'{name} of {UNTRAINED}']:.4g}), {'clearly' if held else 'not clearly'} below the emoji itself"
        for name, held in zip((distance, kid), holds, strict=True)
    ]
    right = next(name for name in last if name.startswith("nearest"))
    text = (
        f"After {own[-1].images_seen:,} images, of flat emoji that it has not seen: {'; '.join(said)}. The nearest 3D "
        f"emoji is the right one for {last[right]:.0f} % ({SOURCE}: {aside[f'{right} of {SOURCE}']:.0f} %)."
    )
    return Finding(verdict="held" if all(holds) else "mixed" if any(holds) else "did not hold", text=text)


def _draw(models: Mapping[str, Model], size: Size) -> Picture:
    """Held-out flat emoji evenly chosen, what each arm makes of them, and the 3D ones that belong to them."""
    _, held = _sets(size)
    chosen = torch.linspace(0, len(held["source"]) - 1, min(_SHOWN, len(held["source"]))).long()
    sides = {"flat": _seen(held["source"])}
    sides |= {arm: _made(model, held["source"]) for arm, model in models.items()}
    sides |= {"hidden": _seen(held["target"])}
    sides |= {f"{arm}, back": _made(model.reversed(), held["target"]) for arm, model in models.items()}
    groups = torch.stack([images[chosen] for images in sides.values()], dim=1)
    rows = [("", part.flatten(0, 1)) for part in groups.split(_COLUMNS)]
    return write.labelled_grid(rows, column_titles=[*sides] * min(_COLUMNS, len(groups)))


def _protocol(size: Size) -> str:
    side, recipe = SIDES[size], _recipe(size)
    why = (
        " A core makes about two images a second, so that this is half an hour of one core; the paper sees 270,000 "
        "images. Batches of two, not of four: as many images are twice as many steps."
        if size == "cpu"
        else ""
    )
    return (
        f"Flat emoji to 3D emoji, the set of `frugan data build openmoji-fluent --out {PLACE}` (OpenMoji, CC BY-SA "
        "4.0; Fluent Emoji, MIT): 1,679 of each kind to learn from, numbered apart, so that nothing tells which belong "
        f"together; 176 held out. `{recipe.name}` at {side} px, {EPOCHS[size]:g} epochs of batch "
        f"{recipe.training.batch}, identity as in the paper, no mirroring.{why} Measured on the held-out flat emoji, "
        f"whole, at {side} px, against the 3D emoji that the hidden pairing gives: the Euclidean distance of "
        f"{feature_name(size)} features (bicubic to 224 px) with its standard error; L1 in [0, 1]; how often the "
        "nearest 3D emoji is the right one; and the exact unbiased MMD of the features (KID, times 1000) with its "
        "jackknife error, which knows no pairing. Compared with the flat emoji as it is, and with the network before "
        "its first step. The claim is held if distance and KID are both below those of the flat emoji by two standard "
        "errors of the difference."
    )


CLAIM = Claim(
    name="cyclegan",
    question="Does CycleGAN find the right picture without pairs?",
    source="Zhu et al. 2017 (arXiv:1703.10593), section 5: from two sets without pairs it learns a translation that "
    "comes near to what pairs would teach.",
    shown=("paired ", "KID"),
    trials=_trials,
    measure=_measure,
    conclude=_conclude,
    protocol=_protocol,
    aside=_aside,
    sheet=Sheet(
        draw=_draw,
        text="Held-out flat emoji, evenly chosen: the flat one, what comes out of it, the 3D one that the hidden "
        "pairing gives, and what the other direction makes of that:",
    ),
)
