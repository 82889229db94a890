"""`frugan train` with recipes of translation: how long a run may become, and going on from a translator."""

import dataclasses
from pathlib import Path

import pytest

from frugan.cli.train import Wishes, _of_parent, _wished_again
from frugan.model import Model
from frugan.models.patchgan import PatchDiscriminator
from frugan.models.translator import ResnetTranslator
from frugan.recipes import RECIPES
from frugan.training.folder import RunError, RunFolder
from frugan.training.recipe import tiny
from frugan.training.tasks.translate import PairedConfig
from tests.training.tiny_tasks import paired_config


def test_a_run_whose_rate_has_come_to_nothing_is_not_extended(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.begin(tiny(RECIPES["pix2pix-small"](), images=48))
    assert _wished_again(folder, Wishes(images="24")).training.total_images == 24
    with pytest.raises(RunError, match="cannot go on beyond 48 images: its learning rate comes to 0 there"):
        _wished_again(folder, Wishes(images="96"))


def test_a_translator_gives_its_networks_to_the_next_training() -> None:
    config = paired_config()
    parent = Model(ResnetTranslator(config.generator), PatchDiscriminator(config.discriminator))
    recipe = _of_parent(RECIPES["pix2pix"](), parent)
    assert isinstance(recipe.task, PairedConfig)
    assert recipe.task.generator == config.generator and recipe.task.discriminator == config.discriminator
    assert recipe.data == RECIPES["pix2pix"]().data
    with pytest.raises(ValueError, match="'pix2pix-unet' trains other networks than the resnet_translator model"):
        _of_parent(RECIPES["pix2pix-unet"](), parent)


def test_the_length_asked_for_stretches_the_rate() -> None:
    training = RECIPES["pix2pix"]().training.lasting(1000)
    assert training.lr is not None and (training.lr.at(500), training.lr.at(750)) == (1.0, 0.5)
    assert dataclasses.replace(training, lr=None).lasting(10).total_images == 10
