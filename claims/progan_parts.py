"""ProGAN's ablation, one part off at a time: minibatch deviation and its place, equalised learning rate, pixel norm."""

import dataclasses
from collections.abc import Callable, Sequence

from claims import growing, stacked
from claims.harness import Claim, Finding, Measures, Row, Size, Trial, at_end, mean
from claims.measures import PATCHES, as_pictures, pixel_scores, samples, snapshots
from frugan.data import Dataset
from frugan.model import Model
from frugan.recipes import progan
from frugan.training.recipe import Recipe, tiny
from frugan.training.run import fit
from frugan.training.tasks.grow import GrowConfig

RESOLUTION: dict[Size, int] = {"smoke": 16, "cpu": 16, "full": 32}
LEARNED: dict[Size, int] = {"smoke": 200, "cpu": 20_000, "full": 1_000_000}
COUNTED: dict[Size, int] = {"smoke": 32, "cpu": 6_400, "full": 25_600}
PICTURES: dict[Size, int] = {"smoke": 32, "cpu": 1_000, "full": 16_384}
WHOLE, KL, SWD, SIMILAR = "whole", "KL of modes", "SWD x1000", "MS-SSIM"
CLEAR = 1.05
"""With one seed, less than so many times as bad is the same."""


def _changed(recipe: Recipe, generator: dict[str, object], discriminator: dict[str, object]) -> Recipe:
    task = recipe.task
    assert isinstance(task, GrowConfig)
    task = dataclasses.replace(
        task,
        generator=dataclasses.replace(task.generator, **generator),  # type: ignore[arg-type]
        discriminator=dataclasses.replace(task.discriminator, **discriminator),  # type: ignore[arg-type]
    )
    return dataclasses.replace(recipe, task=task)


def _elsewhere(recipe: Recipe) -> Recipe:
    """The deviation where pictures of half the size come in."""
    return _changed(recipe, {}, {"stddev_at": recipe.task.generator.resolution // 2})


def _not_equalised(recipe: Recipe) -> Recipe:
    """At a tenth of the learning rate, as in the article's rows without it: the layers' own steps are larger."""
    adams = {name: dataclasses.replace(adam, lr=adam.lr / 10) for name, adam in recipe.optimisers.items()}
    recipe = _changed(recipe, {"equalized": False}, {"equalized": False})
    return dataclasses.replace(recipe, optimisers=adams)


ARMS: dict[str, Callable[[Recipe], Recipe]] = {
    WHOLE: lambda recipe: recipe,
    "no minibatch deviation": lambda recipe: _changed(recipe, {}, {"stddev_features": 0}),
    "deviation at half the size": _elsewhere,
    "no equalised learning rate": _not_equalised,
    "no pixel norm": lambda recipe: _changed(recipe, {"norm": None}, {}),
}
OFF = tuple(arm for arm in ARMS if arm.startswith("no "))


def _recipe(size: Size, data: dict[str, Dataset]) -> Recipe:
    if size == "full":
        recipe = snapshots(fit(progan.ablation_g(), data), 0, 10_000_000, 500_000)
        return dataclasses.replace(recipe, task=dataclasses.replace(recipe.task, snapshots={}))
    recipe = fit(growing.small(RESOLUTION[size]), data)
    if size == "smoke":
        recipe = tiny(recipe)
        return snapshots(recipe, 0, recipe.training.total_images, recipe.training.snapshot_images)
    return snapshots(recipe, 0, 24_000, 8_000)


def _trials(size: Size) -> list[Trial]:
    data = {"images": stacked.stacked(LEARNED[size], RESOLUTION[size])}
    recipe = _recipe(size, data)
    return [Trial(arm=arm, seed=0, recipe=change(recipe), data=data) for arm, change in ARMS.items()]


def _measure(model: Model, trial: Trial, size: Size) -> Measures:
    fakes = samples(model, COUNTED[size])
    scores = pixel_scores(trial.data["images"], PICTURES[size])
    shown = as_pictures(fakes[: PICTURES[size]])
    return {
        **stacked.recovered(fakes),
        SWD: scores.sliced(shown)[0]["SWD-pyramid"],
        SIMILAR: scores.similarity(shown)[0]["MS-SSIM"],
    }


def _aside(size: Size) -> Measures:
    """What real pictures score, and how well the classifier reads."""
    reals = stacked.stacked(LEARNED[size], RESOLUTION[size])
    images = as_pictures(reals.batch(range(min(PICTURES[size], len(reals)))))
    scores = pixel_scores(reals, PICTURES[size])
    counted = stacked.recovered(reals.batch(range(min(COUNTED[size], len(reals)))))
    return {
        "digits read right, %": 100 * stacked.classifier(RESOLUTION[size])[1],
        **{f"{name}, real pictures": value for name, value in counted.items()},
        f"{SWD}, real pictures": scores.sliced(images)[1]["SWD-pyramid"],
        f"{SIMILAR}, real pictures": scores.similarity(images)[1]["MS-SSIM"],
    }


def _conclude(rows: Sequence[Row], aside: Measures) -> Finding:
    def end(arm: str, measure: str) -> float:
        return mean(at_end(rows, arm, measure))

    def judged(arm: str) -> str:
        words = [f"worse in {name}" for name in worse[arm]] + [f"better in {name}" for name in better[arm]]
        return f"{arm} is {' and '.join(words) or 'the same'}"

    worse = {arm: [name for name in (KL, SWD) if end(arm, name) > CLEAR * end(WHOLE, name)] for arm in ARMS}
    better = {arm: [name for name in (KL, SWD) if CLEAR * end(arm, name) < end(WHOLE, name)] for arm in ARMS}
    text = [
        f"{arm}: {end(arm, 'modes'):.0f} modes, KL {end(arm, KL):.3g}, SWD {end(arm, SWD):.4g}, "
        f"MS-SSIM {end(arm, SIMILAR):.3g}"
        for arm in ARMS
    ]
    sentence = f"{'; '.join(text)}. Against the whole, {'; '.join(judged(arm) for arm in ARMS if arm != WHOLE)}."
    if all(worse[arm] and not better[arm] for arm in OFF):
        return Finding(verdict="held", text=sentence)
    if not any(worse[arm] for arm in OFF):
        return Finding(verdict="did not hold", text=sentence)
    return Finding(verdict="mixed", text=sentence)


def _protocol(size: Size) -> str:
    networks = (
        "row g of the article's table 1, 10M images"
        if size == "full"
        else f"{growing.WIDTH} channels at every size, batch 16, logistic loss with lazy R1, Adam (0, .99) at 0.002, "
        f"{growing.PHASE_IMAGES:,} images a phase"
    )
    return (
        f"{LEARNED[size]:,} pictures of {RESOLUTION[size]} px, each of three of scikit-learn's 1,797 digits (8 px, "
        "enlarged by straight lines) as red, green and blue: 1,000 modes, about equally likely. Networks: "
        f"{networks}. Each part is taken out of the whole alone (the article adds one to the other); without equalised "
        "learning rates Adam runs at a tenth, as in the article's rows without them. "
        f"A small classifier reads each channel of {COUNTED[size]:,} fakes (seeds from 10000, averaged weights): how "
        "many of the modes there are, and the KL divergence of their shares to equal ones, in nats. SWD: "
        f"{PICTURES[size]:,} fakes against as many pictures, {PATCHES} patches each; MS-SSIM: half as many pairs of "
        "fakes, near that of real pictures is right. Worse or better: by more than a twentieth, in KL or SWD. One "
        "seed: small differences mean nothing."
    )


CLAIM = Claim(
    name="progan-parts",
    question="What do minibatch deviation, equalised learning rate and pixel norm each give to a growing GAN?",
    source="Karras et al. 2018 (arXiv:1710.10196), table 1, rows d to g, CelebA at 128 px: SWD 8.07 without all three, "
    "7.04 with the deviation, 4.39 with equalised learning rates too, 3.56 with pixel norm too; the deviation can "
    "stand anywhere and is best near the end (section 3).",
    shown=(KL, SWD, SIMILAR),
    trials=_trials,
    measure=_measure,
    conclude=_conclude,
    protocol=_protocol,
    aside=_aside,
)
