"""Class-conditional recipes: published sizes, lengths and what goes with what."""

import pytest
import torch

from frugan.models import build
from frugan.recipes import RECIPES, conditional
from frugan.training.recipe import Recipe
from frugan.training.tasks.classes import ClassesConfig
from frugan.training.tasks.conditioning import D2DConfig

LADDERS = [name for name, make in RECIPES.items() if isinstance(make().task, ClassesConfig)]


def parameters(recipe: Recipe) -> tuple[int, int]:
    with torch.device("meta"):
        nets = build(recipe.task.generator), build(recipe.task.discriminator)
    generator, discriminator = (sum(p.numel() for p in net.parameters()) for net in nets)
    return generator, discriminator


@pytest.mark.parametrize(
    ("name", "generator", "discriminator"),
    [
        ("reacgan-cifar", 9_416_196, 2_517_186),
        ("contragan-cifar", 9_416_196, 2_517_186),
        ("biggan-cifar", 9_416_196, 2_415_170),
        ("mhgan-cifar", 9_416_196, 2_415_180),
        ("reacgan-cifar-deep", 7_762_948, 3_171_586),
        ("acgan-cifar", 4_304_387, 1_057_159),
        ("sagan-cifar", 4_386_308, 1_075_586),
        ("wgan-gp-cifar", 4_276_739, 1_055_879),
        ("reacgan-cub200", 49_226_404, 61_551_026),
        ("reacgan-imagenet-2048", 70_433_988, 91_642_146),
    ],
)
def test_networks_have_the_published_number_of_parameters(name: str, generator: int, discriminator: int) -> None:
    assert parameters(RECIPES[name]()) == (generator, discriminator)


def test_lengths_count_real_pictures() -> None:
    cifar, large = conditional.reacgan_cifar().training, conditional.reacgan_imagenet_2048().training
    assert (cifar.batch, cifar.total_images, cifar.ema.start_images) == (128, 100_000 * 128 * 5, 1_000 * 128 * 5)
    assert (large.batch, large.micro_batch, large.total_images) == (2048, 512, 200_000 * 2048 * 2)


@pytest.mark.parametrize(
    ("name", "weight", "temperature", "margin", "dim"),
    [
        ("reacgan-cifar", 0.5, 0.5, 0.98, 512),
        ("reacgan-tiny-imagenet", 0.75, 0.75, 1.0, 768),
        ("reacgan-cub200", 0.25, 0.25, 0.95, 1024),
        ("reacgan-imagenet-256", 1.0, 0.5, 0.98, 2048),
        ("reacgan-imagenet-2048", 0.5, 0.25, 0.90, 2048),
        ("stylegan2-d2d-cifar", 0.25, 0.25, 0.98, 512),
        ("stylegan2-d2d-cub200", 0.25, 0.25, 0.95, 1024),
        ("stylegan2-d2d-afhq", 0.5, 0.5, 0.95, 1024),
        ("stylegan2-d2d-imagenet", 0.5, 0.25, 0.90, 2048),
    ],
)
def test_data_to_data_settings_are_the_published_ones(
    name: str, weight: float, temperature: float, margin: float, dim: int
) -> None:
    task = RECIPES[name]().task
    found = task.conditioning
    assert isinstance(found, D2DConfig)
    assert (found.weight, found.temperature, found.margin) == (weight, temperature, margin)
    assert found.form == "exact" and task.discriminator.head.dim == dim


def test_small_and_own_recipes_follow_a_size_that_is_asked_for() -> None:
    for make in (conditional.small, conditional.reacgan):
        recipe = make(96)
        sizes = recipe.task.generator.resolution, recipe.task.discriminator.resolution, recipe.data["images"].resolution
        assert sizes == (96, 96, 96)


@pytest.mark.parametrize("name", LADDERS)
def test_a_recipe_says_whether_it_needs_classes(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.task.needs_classes == (recipe.data["images"].labels != "none")
