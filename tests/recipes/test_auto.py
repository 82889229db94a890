"""The automatic choice: from pictures, device, time and a parent to a recipe, with reasons."""

import dataclasses
from typing import Any

import pytest
import torch

import frugan
from frugan.augment import diffaugment
from frugan.data import PairAdvice, Recommendation
from frugan.models.biggan import BigGANConfig, BigGANGenerator
from frugan.recipes import RECIPES, auto
from frugan.training.loop import Loop
from frugan.training.recipe import tiny
from tests.training.op_graph import OpGraph

CPU, CARD = torch.device("cpu"), torch.device("cuda")
ADVICE = Recommendation(
    resolution=256,
    channels=3,
    augmentation="color,translation,cutout",
    flip=True,
    reasons=("256 x 256: all are so large", "DiffAugment, all three: few pictures"),
)


def test_a_processor_gets_small_networks() -> None:
    recipe = auto.choose(ADVICE, CPU)
    assert recipe.name == "small" and recipe.data["images"].resolution == 64
    assert any("CPU" in reason for reason in recipe.reasons)
    assert recipe.task.augment is not None and recipe.task.augment.policy == ADVICE.augmentation


def test_a_card_gets_the_authors_rules() -> None:
    recipe = auto.choose(ADVICE, CARD)
    assert recipe.name == "stylegan2-auto" and recipe.task.generator.resolution == 256
    assert recipe.training.batch == 16
    assert recipe.task.r1 is not None and recipe.task.r1.gamma == pytest.approx(0.8192)


def test_a_size_asked_for_is_taken() -> None:
    assert auto.choose(ADVICE, CPU, resolution=32).task.generator.resolution == 32
    assert auto.choose(ADVICE, CPU, resolution=256).name == "stylegan2-auto"


def test_channels_follow_the_pictures() -> None:
    grey = dataclasses.replace(ADVICE, channels=1)
    assert auto.choose(grey, CPU).data["images"].channels == 1


def test_a_parent_decides_the_networks() -> None:
    parent = frugan.load("demo")
    recipe = auto.choose(ADVICE, CARD, parent=parent)
    assert recipe.task.generator == parent.generator.config
    assert recipe.name == "few-shot"
    alone = auto.choose(ADVICE, CARD, parent=dataclasses.replace(parent, discriminator=None))
    assert alone.task.discriminator.resolution == 64
    assert any("new one" in reason for reason in alone.reasons)


def test_a_parent_of_another_family_needs_a_recipe_that_is_named() -> None:
    generator = BigGANGenerator(BigGANConfig(resolution=32, num_classes=2, width=4, z_dim=8))
    parent = dataclasses.replace(frugan.load("demo"), generator=generator, discriminator=None)
    with pytest.raises(ValueError, match=r"from a biggan model .* choose --recipe, such as reacgan-small"):
        auto.choose(ADVICE, CARD, parent=parent)


def test_time_decides_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "measure_speed", lambda recipe, device: 40.0)
    recipe = auto.choose(ADVICE, CPU, budget_seconds=3600.0)
    assert recipe.training.total_images == 40 * 3600 * 0.9 // 16 * 16
    assert any("little" in reason for reason in recipe.reasons)
    longer = auto.choose(ADVICE, CPU, budget_seconds=6 * 3600.0)
    assert not any("little" in reason for reason in longer.reasons)
    assert auto.choose(ADVICE, CPU, budget_seconds=1.0).training.total_images == 32


def test_speed_is_measured() -> None:
    recipe = auto.choose(ADVICE, CPU, resolution=8)
    before = torch.get_rng_state()
    assert 0.1 < auto.measure_speed(recipe, CPU, iterations=1) < 1e5
    assert torch.equal(torch.get_rng_state(), before)


def test_speed_is_that_of_recordings_where_phases_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[OpGraph] = []
    known: list[int] = []
    seconds = auto._seconds

    def graph() -> OpGraph:
        graphs.append(OpGraph())
        return graphs[-1]

    def recorded(*arguments: Any) -> Loop:
        loop = Loop(*arguments)
        loop.record(lambda: graph)
        return loop

    def counted(*arguments: Any) -> float:
        known.append(len(graphs))
        return seconds(*arguments)

    monkeypatch.setattr(diffaugment, "host_sees", lambda x: False)
    monkeypatch.setattr(auto, "Loop", recorded)
    monkeypatch.setattr(auto, "_seconds", counted)
    auto.measure_speed(auto.choose(ADVICE, CPU, resolution=8), CPU)
    # The last two calls count, in which nothing is recorded any more.
    assert known[-2] == known[-1] == len(graphs) > 0


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_tells_what_it_is(name: str) -> None:
    first = (RECIPES[name].__doc__ or "").strip().splitlines()[0]
    assert 20 < len(first) < 120
    assert RECIPES[name]().name == name
    assert RECIPES[name]().source


def test_automatic_rules_are_the_papers() -> None:
    """The worked table of the rules: batch and gamma per resolution for one device."""
    for resolution, batch, gamma in [(32, 32, 0.0064), (64, 32, 0.0256), (128, 32, 0.1024), (512, 8, 6.5536)]:
        recipe = RECIPES["stylegan2-auto"](resolution)
        assert recipe.training.batch == batch
        assert recipe.task.r1 is not None and recipe.task.r1.gamma == pytest.approx(gamma)


PAIRS = PairAdvice(
    recipe="pix2pix", resolution=256, edges=False, pictures=100, reasons=("pix2pix: pairs", "256 px: large", "few")
)


def test_sets_for_translation_get_the_papers_networks_or_small_ones() -> None:
    small = auto.choose_translator(PAIRS, CPU)
    assert small.name == "pix2pix-small" and small.data["source"].fed_resolution == 128
    assert small.reasons == (
        "pix2pix: pairs",
        "128 px: the pictures allow 256, but more than 128 takes too long on a CPU",
        "small networks: the device is a CPU",
        "few",
    )
    full = auto.choose_translator(PAIRS, CARD)
    assert full.name == "pix2pix" and full.data["target"].fed_resolution == 256 and "256 px: large" in full.reasons
    little = auto.choose_translator(dataclasses.replace(PAIRS, recipe="cyclegan", resolution=64), CARD)
    assert little.name == "cyclegan" and little.data["source"].fed_resolution == 64
    asked = auto.choose_translator(PAIRS, CPU, resolution=64)
    assert asked.data["source"].fed_resolution == 64 and "64 px: as asked" in asked.reasons


@pytest.mark.parametrize("edges", [False, True])
def test_label_maps_show_edges_where_there_are_instances(edges: bool) -> None:
    recipe = auto.choose_translator(dataclasses.replace(PAIRS, recipe="gaugan", edges=edges), CPU)
    assert recipe.name == "gaugan-small" and recipe.data["source"].edges == edges
    assert 0.1 < auto.measure_speed(tiny(recipe), CPU, iterations=1) < 1e5


def test_time_decides_the_length_of_translators(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0.1 < auto.measure_speed(tiny(auto.choose_translator(PAIRS, CPU), resolution=32), CPU, iterations=1) < 1e5
    monkeypatch.setattr(auto, "measure_speed", lambda recipe, device: 1.0)
    recipe = auto.choose_translator(PAIRS, CPU, budget_seconds=400.0)
    training = recipe.training
    assert training.total_images == 360 and training.epochs is None and training.lr is not None
    assert (training.lr.at(180), training.lr.at(360)) == (1.0, 0.0)
    assert "that is 3.6 epochs, the recipe has 10: expect coarser pictures" in recipe.reasons
    assert not any("epochs" in reason for reason in auto.choose_translator(PAIRS, CPU, budget_seconds=4e3).reasons)
