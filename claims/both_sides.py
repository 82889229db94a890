"""DiffAugment's figure: augmentation must be differentiable and be applied to both sides."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from claims.harness import Claim, Finding, Measures, Row, Size, Trial, at_end, deviation, mean
from claims.measures import feature_name, little, samples, score, snapshots
from frugan.augment.diffaugment import DiffAugmentConfig, Mode, diffaugment, draw
from frugan.data import Dataset, prepare, to_float
from frugan.data.demo import open_demo
from frugan.model import Model
from frugan.recipes import stylegan2
from frugan.training.recipe import tiny
from frugan.training.run import fit

ARMS: dict[str, Mode] = {
    "none": "off",
    "reals only": "reals_only",
    "discriminator only": "discriminator_only",
    "both, differentiable": "differentiable",
}
PICTURES = 100
FAKES: dict[Size, int] = {"smoke": 16, "cpu": 500, "full": 5000}


def _faces(resolution: int) -> tuple[Dataset, Dataset]:
    """A hundred of the bundled faces to learn from, and all of them."""
    config = dataclasses.replace(little("", 1, 1).data["images"], resolution=resolution)
    whole = prepare(open_demo("faces"), config)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    return whole.take(order[:PICTURES].sort().values.numpy()), whole


def _trials(size: Size) -> list[Trial]:
    learned, _ = _faces({"smoke": 16, "cpu": 32, "full": 128}[size])
    data = {"images": learned}
    seeds = range(1 if size == "smoke" else 3)
    trials = []
    for arm, mode in ARMS.items():
        for seed in seeds:
            if size == "full":
                recipe = fit(snapshots(stylegan2.diffaugment_100_shot(), seed, 300_000, 20_000), data)
            else:
                recipe = little("both-sides", 7_500, 2_500)
                recipe = tiny(recipe) if size == "smoke" else recipe
                recipe = snapshots(recipe, seed, recipe.training.total_images, recipe.training.snapshot_images)
            augment = None if mode == "off" else DiffAugmentConfig(mode=mode)
            task = dataclasses.replace(recipe.task, augment=augment)
            trials.append(Trial(arm=arm, seed=seed, recipe=dataclasses.replace(recipe, task=task), data=data))
    return trials


def _measure(model: Model, trial: Trial, size: Size) -> Measures:
    learned = trial.data["images"]
    _, whole = _faces(learned.resolution)
    fakes = samples(model, FAKES[size])
    return {
        **score(fakes, whole, learned, len(whole), size),
        "brightness spread / real": _brightness_spread(fakes) / _brightness_spread(torch.from_numpy(learned.images)),
        "mid-grey pixels, %": 100 * _mid_grey(fakes),
        "D right on augmented, %": 100 * _accuracy(model, learned, fakes, augmented=True),
        "D right on plain, %": 100 * _accuracy(model, learned, fakes, augmented=False),
    }


def _brightness_spread(images: Tensor) -> float:
    return float(images.float().mean(dim=(1, 2, 3)).std())


def _mid_grey(images: Tensor) -> float:
    """The share of pixels within 8 of what translation and cutout fill in; the faces hold next to none."""
    return float(((images.float() - 127.5).abs() <= 8).all(dim=1).float().mean())


def _accuracy(model: Model, learned: Dataset, fakes: Tensor, *, augmented: bool) -> float:
    """How often the discriminator takes training pictures for real and generated ones for generated."""
    assert model.discriminator is not None
    count = min(len(learned), len(fakes)) // 8 * 8
    generator, right = torch.Generator().manual_seed(0), 0
    for images, sign in ((torch.from_numpy(learned.images[:count]), 1), (fakes[:count], -1)):
        for part in images.split(8):
            shown = to_float(part)
            if augmented:
                config = DiffAugmentConfig()
                draws = draw(config, lambda *shape: torch.rand(8, *shape, generator=generator), *shown.shape[2:])
                shown = diffaugment(shown, config, draws)
            with torch.inference_mode():
                right += int((model.discriminator(shown.to(model.device), None).sign() == sign).sum())
    return right / (2 * count)


def _conclude(rows: Sequence[Row], aside: Measures) -> Finding:
    kid = next(name for name in rows[0].measures if name.startswith("KID"))
    ends = {arm: at_end(rows, arm, kid) for arm in ARMS}
    both, others = mean(ends["both, differentiable"]), {arm: ends[arm] for arm in ARMS if "both" not in arm}
    noise = max(deviation(values) for values in ends.values())
    below = [arm for arm, values in others.items() if both < mean(values) - noise]
    above = [arm for arm, values in others.items() if both > mean(values) + noise]
    bright = {arm: mean(at_end(rows, arm, "brightness spread / real")) for arm in ARMS}
    grey = {arm: mean(at_end(rows, arm, "mid-grey pixels, %")) for arm in ARMS}
    right = {what: mean(at_end(rows, "discriminator only", f"D right on {what}, %")) for what in ("plain", "augmented")}
    copies = grey["reals only"] > 5 * grey["both, differentiable"] or bright["reals only"] > 1.2
    falling = [arm for arm in ARMS if _still_falls(rows, arm, kid)]
    text = (
        f"{kid} at equal images: " + "; ".join(f"{arm} {mean(values):.0f}" for arm, values in ends.items()) + ". "
        f"Augmenting only the reals {'copies' if copies else 'does not copy'} the augmentation into the samples: "
        f"{grey['reals only']:.1f} % of their pixels are the grey of cutout and translation (both sides: "
        f"{grey['both, differentiable']:.1f} %), and their brightness varies {bright['reals only']:.2f} times as much "
        f"as the reals' (both sides: {bright['both, differentiable']:.2f}). Augmenting only in the discriminator's "
        f"step, the discriminator is right on {right['augmented']:.0f} % of augmented and {right['plain']:.0f} % of "
        "plain pictures. " + (f"Still improving when the training ended: {'; '.join(falling)}." if falling else "")
    )
    if len(below) == len(others):
        return Finding(verdict="held", text=text)
    if not below and above:
        return Finding(verdict="did not hold", text=text)
    return Finding(verdict="mixed", text=f"{text} Clearly better only than: {'; '.join(below) or 'none'}.")


def _still_falls(rows: Sequence[Row], arm: str, measure: str) -> bool:
    """Whether the mean over seeds fell by more than a twentieth between the last two points that were measured."""
    seen = sorted({row.images_seen for row in rows if row.arm == arm})[-2:]
    means = [mean([row.measures[measure] for row in rows if row.arm == arm and row.images_seen == at]) for at in seen]
    return means[-1] < 0.95 * means[0]


def _protocol(size: Size) -> str:
    return (
        f"{PICTURES} of the 124 bundled emoji faces (MIT), flipped at random; all arms see the same images at the same "
        f"seeds. DiffAugment color,translation,cutout. {FAKES[size]} fakes (seeds from 10000, psi 1, averaged weights) "
        f"against all 124 faces: KID is the exact unbiased MMD of {feature_name(size)} features (bicubic to 224 px), "
        "times 1000. Nearest-neighbour ratio: median distance of a fake to its nearest training picture over that of "
        "training pictures among themselves. D right: share of 100 training pictures above and as many fakes below 0. "
        "A difference counts if it is larger than the largest standard deviation over seeds."
    )


CLAIM = Claim(
    name="both-sides",
    question="Must augmentation be differentiable and be applied to both sides?",
    source="Zhao et al. 2020 (arXiv:2006.10738), section 3 and figures 5 and 6: augmenting reals only makes the "
    "generator copy the augmentation; augmenting only the discriminator's step unbalances the two; both are worse.",
    shown=("KID", "brightness spread / real", "mid-grey pixels, %"),
    trials=_trials,
    measure=_measure,
    conclude=_conclude,
    protocol=_protocol,
)
