"""D2D-CE in its exact and its released form, in small and large batches, and beside its relatives on StyleGAN2."""

import dataclasses
from collections.abc import Sequence
from typing import get_args

from claims import labelled
from claims import measures as shared
from claims.harness import Claim, Finding, Measures, Row, Size, Trial, arms, at_end, deviation, mean
from claims.labelled import ACCURACY, BATCH
from frugan.model import Model
from frugan.models.heads import ClassifierHead, EmbeddingHead, HeadConfig
from frugan.recipes import conditional
from frugan.training.recipe import Recipe
from frugan.training.tasks.adversary import R1Config
from frugan.training.tasks.classes import ClassesConfig
from frugan.training.tasks.conditioning import ConditioningConfig, ContrastiveConfig, CrossEntropyConfig, D2DConfig
from frugan.training.tasks.gan import GanConfig

EXACT, RELEASED = "exact", "released"
STYLE = ("StyleGAN2 cross-entropy", "StyleGAN2 2C", "StyleGAN2 D2D-CE")
_PUBLISHED = conditional.reacgan_cifar().training.total_images
IMAGES: dict[Size, int] = {"smoke": 1, "cpu": 30_720, "gpu": 163_840, "full": _PUBLISHED}
SNAPSHOTS: dict[Size, int] = {"smoke": 1, "cpu": 7_680, "gpu": 40_960, "full": 2_560_000}
"""Images between two measurements. Tiny recipes have their own numbers."""
LARGE: dict[Size, tuple[int, ...]] = {"smoke": (4,), "cpu": (4,), "gpu": (8,), "full": (4, 8)}
"""Larger batches, over the first."""
WIDTHS = (64, 48, 32, 16)
"""StyleGAN2's; the last is that of the largest pictures."""
FORM_SEEDS: dict[Size, int] = {"cpu": 3}
"""Of the two forms, which decide on the default; elsewhere one."""
WEIGHTS: dict[Size, float] = {"smoke": 1.5, "cpu": 1.5, "gpu": 0.5, "full": 0.5}
"""Of D2D-CE on the ladder. At the published .5 no form learns classes in a training as short as the cpu size's."""
LEAST_ACCURACY = 20.0
"""Twice what chance gives with ten classes."""


def _ladder(size: Size) -> dict[str, Recipe]:
    """Both forms, and the exact one in larger batches, at a learning rate that grows by the root of the batch."""
    d2d = D2DConfig(weight=WEIGHTS[size], temperature=0.5, margin=0.98)
    base = (
        conditional.reacgan_cifar()
        if size == "full"
        else labelled.little("d2d-forms", size, EmbeddingHead(dim=labelled.SMALL[size].embedding), d2d)
    )
    batch = BATCH if size == "full" else base.training.batch
    factor = (batch / base.training.batch) ** 0.5
    base = _batched(base, batch, factor)
    assert isinstance(base.task, ClassesConfig)
    task = dataclasses.replace(base.task, conditioning=dataclasses.replace(d2d, form="released"))
    recipes = {f"{EXACT}, batch {batch}": base, f"{RELEASED}, batch {batch}": dataclasses.replace(base, task=task)}
    for times in LARGE[size]:
        recipes[f"{EXACT}, batch {batch * times}"] = _batched(base, batch * times, times**0.5)
    return recipes


def _batched(recipe: Recipe, batch: int, factor: float) -> Recipe:
    adams = {name: dataclasses.replace(adam, lr=factor * adam.lr) for name, adam in recipe.optimisers.items()}
    return dataclasses.replace(
        recipe, optimisers=adams, training=dataclasses.replace(recipe.training, batch=batch, micro_batch=None)
    )


def _style(size: Size) -> dict[str, Recipe]:
    dim = 512 if size == "full" else labelled.SMALL[size].embedding
    ways: dict[str, tuple[HeadConfig, ConditioningConfig]] = {
        STYLE[0]: (ClassifierHead(), CrossEntropyConfig(weight=1.0)),
        STYLE[1]: (EmbeddingHead(dim=dim), ContrastiveConfig(weight=1.0, temperature=1.0)),
        STYLE[2]: (EmbeddingHead(dim=dim), D2DConfig(weight=0.25, temperature=0.25, margin=0.98)),
    }
    base = conditional.stylegan2_d2d_cifar() if size == "full" else _small_style(size)
    recipes = {}
    for arm, (head, conditioning) in ways.items():
        assert isinstance(base.task, GanConfig)
        discriminator = dataclasses.replace(base.task.discriminator, head=head, num_classes=10)
        task = dataclasses.replace(base.task, discriminator=discriminator, conditioning=conditioning)
        recipes[arm] = dataclasses.replace(base, task=task)
    return recipes


def _small_style(size: Size) -> Recipe:
    """The networks of other claims, smaller, at batch 32."""
    base, side, widths = shared.little("d2d-forms", IMAGES[size], SNAPSHOTS[size]), labelled.side(size), _widths(size)
    assert isinstance(base.task, GanConfig)
    generator = dataclasses.replace(
        base.task.generator,
        resolution=side,
        widths=tuple(width for width in widths for _ in range(2)),
        num_classes=10,
    )
    discriminator = dataclasses.replace(base.task.discriminator, resolution=side, widths=widths, num_classes=10)
    task = dataclasses.replace(
        base.task, generator=generator, discriminator=discriminator, r1=R1Config(gamma=0.01), style_mixing=0.0
    )
    return _batched(dataclasses.replace(base, task=task), BATCH, 1.0)


def _widths(size: Size) -> tuple[int, ...]:
    return WIDTHS[-(labelled.side(size).bit_length() - 2) :]


def _trials(size: Size) -> list[Trial]:
    data, _ = labelled.CLOTHES.sets(size)
    trials = []
    ladder = _ladder(size)
    forms = list(ladder)[:2]
    for arm, recipe in (ladder | _style(size)).items():
        lasting = labelled.lasting(recipe, data, size, IMAGES[size], SNAPSHOTS[size])
        if size == "smoke" and arm == f"{EXACT}, batch {BATCH * LARGE[size][0]}":
            lasting = _batched(lasting, lasting.training.batch * LARGE[size][0], 1.0)
        for seed in range(FORM_SEEDS.get(size, 1) if arm in forms else 1):
            seeded = dataclasses.replace(lasting, training=dataclasses.replace(lasting.training, seed=seed))
            trials.append(Trial(arm=arm, seed=seed, recipe=seeded, data={"images": data}))
    return trials


def _measure(model: Model, trial: Trial, size: Size) -> Measures:
    return labelled.quality(model, size) | labelled.health(model, trial, size) | labelled.costs(model, trial)


def _conclude(rows: Sequence[Row], aside: Measures) -> Finding:
    kid = next(name for name in rows[0].measures if name.startswith("KID"))
    end = {name: {arm: mean(at_end(rows, arm, name)) for arm in arms(rows)} for name in (kid, "recall", ACCURACY)}
    exact, released, *large = [arm for arm in arms(rows) if arm not in STYLE]

    def told(names: Sequence[str]) -> str:
        return "; ".join(
            f"{arm} has {kid} {end[kid][arm]:.1f}{_spread(at_end(rows, arm, kid))}, recall {end['recall'][arm]:.2f}, "
            f"class accuracy {end[ACCURACY][arm]:.0f} %"
            for arm in names
        )

    def wins(compared: Sequence[str], holds: bool) -> bool | None:
        return holds if max(end[ACCURACY][arm] for arm in compared) > LEAST_ACCURACY else None

    found = {
        "the exact form is better than the released one": wins((exact, released), end[kid][exact] < end[kid][released]),
        "a larger batch is better at equal images": wins(
            (exact, *large), all(end[kid][arm] < end[kid][exact] for arm in large)
        ),
        "on StyleGAN2 D2D-CE is better than 2C and cross-entropy": wins(
            STYLE, end[kid][STYLE[2]] < min(end[kid][arm] for arm in STYLE[:2])
        ),
    }
    words = {True: "yes", False: "no", None: "not decided, for none of those arms has learned classes so far"}
    text = (
        "By KID: "
        + "; ".join(f"{claim}: {words[holds]}" for claim, holds in found.items())
        + f". {told((exact, released, *large))}. {told(STYLE)}. A comparison counts where an arm of it draws the class "
        f"that was asked for in more than {LEAST_ACCURACY:.0f} % of the pictures."
    )
    decided = [holds for holds in found.values() if holds is not None]
    if not decided:
        return Finding(verdict="not decided", text=text)
    verdict = "held" if all(decided) and len(decided) == len(found) else "mixed" if any(decided) else "did not hold"
    return Finding(verdict=verdict, text=text)  # type: ignore[arg-type]


def _spread(values: Sequence[float]) -> str:
    return f" ± {deviation(values):.1f} over {len(values)} seeds" if len(values) > 1 else ""


def _protocol(size: Size) -> str:
    networks = (
        "`reacgan-cifar` at batch 32, 128 and 256, and `stylegan2-d2d-cifar`"
        if size == "full"
        else f"`reacgan`'s small networks, and StyleGAN2 with {', '.join(map(str, _widths(size)))} channels, logistic "
        "loss, R1 of gamma .01 every 16 iterations, batch 32"
    )
    return (
        f"{networks}. On the ladder weight {WEIGHTS[size]:g}, temperature .5, margin .98; on "
        "StyleGAN2 cross-entropy and 2C of weight 1 (temperature 1), D2D-CE of weight and temperature .25, margin .98, "
        "as published. Equal images in all arms; the learning rate grows by the root of the batch, as the authors' did "
        "from batch 64 to 128. A gradient is by the proxies where there are any, by the classifier's weights elsewhere."
        f" {labelled.protocol(size)}"
    )


CLAIM = Claim(
    name="d2d-forms",
    question="Does D2D-CE's exact form do better than the released one, do larger batches, and does it beat 2C?",
    source="Kang et al. 2021 (arXiv:2111.01118), section 3 and tables: D2D-CE beats 2C and cross-entropy on BigGAN and "
    "StyleGAN2; the authors' code subtracts a row's largest similarity from its negatives alone. StudioGAN on CIFAR10: "
    "StyleGAN2 with D2D-CE FID 3.44, with its own projection 3.78; ContraGAN 6.01, ReACGAN 3.87.",
    shown=("KID", "recall", ACCURACY),
    trials=_trials,
    measure=_measure,
    conclude=_conclude,
    protocol=_protocol,
    aside=labelled.aside,
    sheet=labelled.sheet(),
    sizes=get_args(Size),
)
