"""`frugan train` with recipes of translation: how long a run may become, and going on from a translator."""

import dataclasses
from pathlib import Path

import pytest
import torch

from frugan.cli.tell import Teller
from frugan.cli.train import Wishes, _of_parent, _wished, _wished_again
from frugan.data import write
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


@pytest.mark.parametrize(
    ("folders", "recipe"),
    [
        (("source", "target"), "pix2pix-small"),
        (("trainA", "trainB"), "cyclegan-small"),
        (("labels", "images"), "gaugan-small"),
        (("cats", "dogs"), "small"),
    ],
)
def test_a_set_tells_which_recipe_it_is_for(folders: tuple[str, str], recipe: str, tmp_path: Path) -> None:
    """By its folders; for no set of pairs, domains or maps a generator of pictures."""
    for place, folder in enumerate(folders):
        for number in range(12):
            name = f"{folder if folder.startswith('train') else ''}{number}.png"
            picture = torch.full((3 if folder != "labels" else 1, 64, 64), number % 3 + place, dtype=torch.uint8)
            write.save_png(tmp_path / folder / name, picture)
    chosen = _wished(str(tmp_path), Wishes(), torch.device("cpu"), Teller())
    assert chosen.name == recipe
    assert all(config.fed_resolution == 64 for config in chosen.data.values())
    assert chosen.reasons[0].startswith(recipe.removesuffix("-small")) or recipe == "small"


@pytest.mark.parametrize(
    ("folders", "recipe", "translates"),
    [
        (("source", "target"), "small", "--recipe pix2pix"),
        (("trainA", "trainB"), "progan-small", "--recipe cyclegan"),
        (("labels", "images"), "small", "--recipe gaugan"),
        (("source", "target"), "pix2pix-small", ""),
        (("cats", "dogs"), "small", ""),
        (("source",), "small", ""),
    ],
)
def test_a_generator_of_pictures_says_that_the_set_is_one_for_translation(
    folders: tuple[str, ...], recipe: str, translates: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, folder in enumerate(folders):
        for number in range(4):
            name = f"{folder if folder.startswith('train') else ''}{number}.png"
            picture = torch.full((3 if folder != "labels" else 1, 64, 64), number % 3 + place, dtype=torch.uint8)
            write.save_png(tmp_path / folder / name, picture)
    assert _wished(str(tmp_path), Wishes(recipe=recipe), torch.device("cpu"), Teller()).name == recipe
    shown = capsys.readouterr()
    lines = [line for line in (shown.out + shown.err).splitlines() if "set for translation" in line]
    assert len(lines) == bool(translates) and all(f"{recipe} draws all" in line for line in lines)
    assert not translates or lines[0].endswith(translates)


def test_pairs_do_not_go_on_from_a_generator_of_pictures(tmp_path: Path) -> None:
    for folder in ("source", "target"):
        write.save_png(tmp_path / folder / "0.png", torch.zeros(3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match="'pix2pix-small' trains other networks than the stylegan2 model given"):
        _wished(str(tmp_path), Wishes(parent="demo"), torch.device("cpu"), Teller())
