"""DiffAugment's and ADA's main result: with fewer pictures a plain GAN falls apart, an augmented one much less."""

import dataclasses
from collections.abc import Sequence

import torch

from claims.harness import Claim, Finding, Measures, Row, Size, Trial, at_end, best, mean
from claims.measures import fashion, feature_name, little, samples, score, snapshots
from frugan.augment.ada import AdaConfig, AdaControllerConfig
from frugan.augment.diffaugment import DiffAugmentConfig
from frugan.data import Dataset
from frugan.model import Model
from frugan.recipes import stylegan2
from frugan.training.recipe import tiny
from frugan.training.run import fit

SHARES = {"all": 1.0, "1/5": 0.2, "1/10": 0.1, "100": 0.0}
FEWEST = 100
ALL: dict[Size, int] = {"smoke": 1000, "cpu": 6000, "full": 60_000}
FAKES: dict[Size, int] = {"smoke": 16, "cpu": 500, "full": 10_000}


def _part(whole: Dataset, share: float, size: Size) -> Dataset:
    """The first pictures in one random order, so that a smaller part lies in every larger one."""
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    return whole.take(order[: max(round(share * ALL[size]), FEWEST)].sort().values.numpy())


def _trials(size: Size) -> list[Trial]:
    whole, _ = fashion(size)
    augments: dict[str, DiffAugmentConfig | AdaConfig | None] = {
        "none": None,
        "DiffAugment": DiffAugmentConfig(),
        "ADA": _ada(size),
    }
    trials = []
    for label, share in SHARES.items():
        data = {"images": _part(whole, share, size)}
        for way, augment in augments.items():
            if size == "full":
                recipe = fit(snapshots(stylegan2.diffaugment_cifar(), 0, 2_000_000, 100_000), data)
            else:
                recipe = little("fewer-pictures", 6_000, 3_000)
                recipe = fit(tiny(recipe) if size == "smoke" else recipe, data)
                recipe = snapshots(recipe, 0, recipe.training.total_images, recipe.training.snapshot_images)
            recipe = dataclasses.replace(recipe, task=dataclasses.replace(recipe.task, augment=augment))
            trials.append(Trial(arm=f"{label} {way}", seed=0, recipe=recipe, data=data))
    return trials


def _ada(size: Size) -> AdaConfig:
    """The paper's set bgc; p can rise from 0 to 1 in a quarter of the training."""
    ramp = {"smoke": 12, "cpu": 1_500, "full": 500_000}[size]
    return AdaConfig(controller=AdaControllerConfig(ramp_images=ramp))


def _measure(model: Model, trial: Trial, size: Size) -> Measures:
    _, reference = fashion(size)
    count = FAKES[size]
    return score(samples(model, count), reference, trial.data["images"], 2 * count, size)


def _conclude(rows: Sequence[Row], aside: Measures) -> Finding:
    kid = next(name for name in rows[0].measures if name.startswith("KID"))

    def end(label: str, way: str) -> float:
        return mean(at_end(rows, f"{label} {way}", kid))

    table = "; ".join(
        f"{label}: " + ", ".join(f"{way} {end(label, way):.1f}" for way in ("none", "DiffAugment", "ADA"))
        for label in SHARES
    )
    loss = {way: end("100", way) / end("all", way) for way in ("none", "DiffAugment", "ADA")}
    turned = [
        arm
        for arm in dict.fromkeys(row.arm for row in rows)
        if mean(at_end(rows, arm, kid)) > 1.2 * mean(best(rows, arm, kid))
    ]
    text = (
        f"{kid} after equal images: {table}. From all pictures to 100 it grows "
        + ", ".join(f"{value:.2f} times ({way})" for way, value in loss.items())
        + f". Worse at the end than 20 % above their own best: {', '.join(turned) or 'none'}."
    )
    helps = {way: end("100", way) < end("100", "none") for way in ("DiffAugment", "ADA")}
    degrades = loss["none"] > 1.2
    if not degrades:  # what augmentation is to mend has not happened yet
        return Finding(verdict="not decided", text=f"{text} Too short: a plain GAN does not overfit here yet.")
    if all(helps.values()):
        return Finding(verdict="held", text=text)
    if not any(helps.values()):
        return Finding(verdict="did not hold", text=text)
    return Finding(verdict="mixed", text=text)


def _protocol(size: Size) -> str:
    what = "the bundled emoji in grey at 16 px" if size == "smoke" else "Fashion-MNIST (MIT) at 32 px, grey, unlabelled"
    return (
        f"{what}; nested parts of {ALL[size]:,} of its training half: all of those, a fifth, a tenth, {FEWEST}. "
        f"{FAKES[size]} fakes (seeds from 10000, psi 1, averaged weights) against {2 * FAKES[size]} pictures of the "
        f"test half, which no arm learned from: exact unbiased MMD of {feature_name(size)} features, times 1000. "
        "DiffAugment color,translation,cutout; "
        "ADA bgc with target 0.6, p may rise by 1 in a quarter of the training. One seed: "
        "small differences mean nothing."
    )


CLAIM = Claim(
    name="fewer-pictures",
    question="How much worse do GANs get with fewer pictures, and how much do DiffAugment and ADA give back?",
    source="Zhao et al. 2020 (arXiv:2006.10738), tables 2 to 4: StyleGAN2 on CIFAR-10 with 100, 20, 10 % of the "
    "pictures FID 11.07, 23.08, 36.02, with DiffAugment 9.89, 12.15, 14.50; Karras et al. 2020 "
    "(arXiv:2006.06676), figure 7.",
    shown=("KID", "nearest-neighbour ratio"),
    trials=_trials,
    measure=_measure,
    conclude=_conclude,
    protocol=_protocol,
)
