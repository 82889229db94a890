"""Recipes: ranges are checked, and any recipe runs when it is shrunk."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from frugan.recipes import RECIPES
from frugan.training.recipe import AdamConfig, EmaConfig, Recipe, Schedule, TrainingConfig, tiny
from frugan.training.run import Start, fit, train
from frugan.training.tasks.classes import ClassesConfig
from frugan.training.tasks.gan import GanConfig
from frugan.training.tasks.grow import GrowConfig
from frugan.training.tasks.semantic import SemanticConfig
from tests.training.tiny_tasks import noise_for, training_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"total_images": -1}, "total_images must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"micro_batch": 0}, "micro_batch must be at least 1 or null, got 0"),
        ({"plateau_images": 0}, "plateau_images must be at least 1 or null, got 0"),
        ({"max_rollbacks": -1}, "max_rollbacks must be at least 0, got -1"),
        ({"score_images": 0}, "score_images must be at least 1, got 0"),
    ],
)
def test_trainings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(training_config(), **changes)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AdamConfig(lr=-0.1), "lr must be at least 0, got -0.1"),
        (lambda: AdamConfig(lr=0.1, beta1=1.0), r"beta1 must be in \[0, 1\), got 1.0"),
        (lambda: AdamConfig(lr=0.1, beta2=-0.1), r"beta2 must be in \[0, 1\), got -0.1"),
        (lambda: EmaConfig(halflife_images=-1.0), "halflife_images must be at least 0, got -1.0"),
        (lambda: EmaConfig(fixed=1.0), r"fixed must be in \[0, 1\) or null, got 1.0"),
        (lambda: EmaConfig(halflife_images=1.0, rampup=0.0), "rampup must be above 0 or null, got 0.0"),
    ],
)
def test_rates_and_averages_that_cannot_be_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", RECIPES)
def test_shrinking_keeps_every_mechanism(name: str) -> None:
    recipe: Recipe = RECIPES[name]()
    small = tiny(recipe, resolution=8, images=8, batch=4)
    heights = {config.fed_resolution for config in small.data.values()}
    assert heights == ({64} if isinstance(small.task, SemanticConfig) else {8})
    if isinstance(small.task, ClassesConfig | GanConfig | GrowConfig | SemanticConfig):
        assert {small.task.generator.resolution} == heights
    assert small.name == f"tiny-{name}"
    sizes = {
        "generator",
        "discriminator",
        "augment",
        "lecam",
        "growth",
        "rampup_images",
        "batches",
        "snapshots",
        "compile",
        "pool_size",
        "statistics",
    }
    for kept in {field.name for field in dataclasses.fields(recipe.task)} - sizes:
        assert getattr(small.task, kept) == getattr(recipe.task, kept), kept
    if isinstance(small.task, ClassesConfig):
        assert type(small.task.statistics) is type(recipe.task.statistics)
    ours, theirs = small.task.augment, recipe.task.augment
    assert type(ours) is type(theirs) and (ours is None or ours.operations == theirs.operations)
    assert small.optimisers == recipe.optimisers
    changed = {
        field.name
        for field in dataclasses.fields(TrainingConfig)
        if getattr(small.training, field.name) != getattr(recipe.training, field.name)
    }
    assert changed <= {
        *("batch", "total_images", "snapshot_images", "ema", "micro_batch", "precision"),
        *("grid_columns", "grid_rows", "score_images", "epochs", "lr"),
    }


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_from_beginning_to_end(name: str, tmp_path: Path) -> None:
    small = tiny(RECIPES[name](), resolution=8, images=8)
    data = noise_for(small, 6)
    recipe = fit(small, data)
    outcome = train(tmp_path, recipe, data, Start(device="cpu"))
    assert outcome.reason == "finished"
    steps = recipe.task.discriminator_steps if isinstance(recipe.task, ClassesConfig | GanConfig | GrowConfig) else 1
    assert outcome.images_seen == max(8, 4 * steps)


# -- lengths ----------------------------------------------------------------------------------------------------------


def test_a_rate_stays_and_then_falls() -> None:
    schedule = Schedule(base=1.0, final=0.0, start_images=100, duration_images=50)
    assert [schedule.at(images) for images in (0, 99, 100, 125, 150, 1000)] == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert schedule.stretched(2.0) == Schedule(base=1.0, final=0.0, start_images=200, duration_images=100)
    with pytest.raises(ValueError, match="start_images must be at least 0, got -1"):
        Schedule(base=1.0, final=0.0, start_images=-1, duration_images=0)


def test_a_training_of_another_length_falls_at_the_same_shares() -> None:
    falling = Schedule(base=1.0, final=0.0, start_images=30, duration_images=10)
    config = dataclasses.replace(training_config(), total_images=40, lr=falling, epochs=4)
    longer = config.lasting(400)
    assert (longer.total_images, longer.epochs) == (400, None)
    assert longer.lr == Schedule(base=1.0, final=0.0, start_images=300, duration_images=100)
    assert training_config().lasting(400) == training_config(total_images=400)
    with pytest.raises(ValueError, match="total_images must be above 0 for a learning rate that changes"):
        dataclasses.replace(config, total_images=0).lasting(400)


def test_epochs_are_counted_in_the_pictures_that_are_there() -> None:
    recipe = RECIPES["cyclegan"]()
    small = dataclasses.replace(tiny(recipe), training=recipe.training)
    data = noise_for(small, 30)  # and 31 targets, of which an epoch is one
    training = fit(small, data).training
    assert training.total_images == 200 * 31 and training.epochs is None and training.snapshot_images == 620
    assert training.lr == Schedule(base=1.0, final=0.0, start_images=100 * 31, duration_images=100 * 31)
    again = fit(fit(small, data), noise_for(small, 10)).training
    assert again == training  # a run that was begun keeps its length


@pytest.mark.parametrize("name", [name for name in RECIPES if name.partition("-")[0] in ("pix2pix", "cyclegan")])
def test_published_lengths_are_whole_epochs(name: str) -> None:
    training = RECIPES[name]().training
    assert training.epochs is not None and training.total_images % training.epochs == 0
    assert training.lr is not None and training.lr.at(training.total_images) == 0
    assert training.lr.start_images + training.lr.duration_images == training.total_images
