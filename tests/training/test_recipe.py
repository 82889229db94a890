"""Recipes: ranges are checked, and any recipe runs when it is shrunk."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from frugan.recipes import RECIPES
from frugan.training.recipe import AdamConfig, EmaConfig, Recipe, TrainingConfig, tiny
from frugan.training.run import Start, fit, train
from tests.training.tiny_tasks import pictures, training_config


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
    assert small.task.generator.resolution == small.data["images"].resolution == 8
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
    }
    for kept in {field.name for field in dataclasses.fields(recipe.task)} - sizes:
        assert getattr(small.task, kept) == getattr(recipe.task, kept), kept
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
        *("grid_columns", "grid_rows", "score_images"),
    }


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_from_beginning_to_end(name: str, tmp_path: Path) -> None:
    data = {"images": pictures(6, 8)}
    recipe = fit(tiny(RECIPES[name](), resolution=8, images=8), data)
    outcome = train(tmp_path, recipe, data, Start(device="cpu"))
    assert outcome.reason == "finished"
    assert outcome.images_seen == max(8, 4 * recipe.task.discriminator_steps)
