"""Joint augmentation: what is aligned stays aligned, and only pictures change their colours."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from frugan.augment import AugmentConfig, ada, augment, diffaugment, jointly
from frugan.augment.ada import AdaConfig
from frugan.augment.diffaugment import DiffAugmentConfig
from frugan.training.door import Draw, Share

GEOMETRY = DiffAugmentConfig(policy="translation,cutout,upscale")
BGC = ada.preset("bgcfnc", AdaConfig(p=1.0))


def draw(count: int = 6) -> Draw:
    return Draw((0, "joint"), torch.device("cpu"), Share(count))


def coordinates(count: int = 6, size: int = 16) -> Tensor:
    """Pictures whose two channels say where each pixel is, from -1 to 1."""
    line = torch.linspace(-1, 1, size)
    return torch.stack([line[:, None].expand(size, size), line.expand(size, size)]).expand(count, 2, size, size)


def together(images: list[Tensor], config: AugmentConfig, are_pictures: list[bool]) -> list[Tensor]:
    draws = draw(len(images[0]))
    return jointly(images, config, 1.0, draws.uniform, draws.normal, are_pictures=are_pictures)


@pytest.mark.parametrize("config", [GEOMETRY, ada.geometry(BGC), ada.preset("blit", BGC)])
def test_source_and_target_move_alike(config: AugmentConfig) -> None:
    """Where the source shows a place, the target shows the same one."""
    where = coordinates()
    source = torch.cat([where, torch.zeros_like(where[:, :1])], dim=1)  # three channels, for colours that are off
    for are_pictures in ([True, True], [False, True]):
        moved, target = together([source, -source], config, are_pictures)
        torch.testing.assert_close(moved, -target)
        assert not torch.allclose(moved, source, atol=0.1)


@pytest.mark.parametrize("config", [DiffAugmentConfig(), BGC])
def test_maps_of_labels_keep_their_colours(config: AugmentConfig) -> None:
    """Many channels, moved as the picture is, not coloured: flat maps stay what they are where nothing moves in."""
    still: Any = {"policy": "color"} if isinstance(config, DiffAugmentConfig) else {}
    if still:
        config = dataclasses.replace(config, **still)
    else:
        assert isinstance(config, AdaConfig)
        config = ada.preset("color", config)
    maps = torch.rand(6, 7, 8, 8, generator=torch.Generator().manual_seed(0))
    picture = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    seen, coloured = together([maps, picture], config, [False, True])
    assert torch.equal(seen, maps)
    assert not torch.allclose(coloured, picture, atol=0.05)


def test_pictures_of_one_pair_get_the_same_colours() -> None:
    image = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for config in (DiffAugmentConfig(), BGC):
        one, other = together([image, image], config, [True, True])
        assert torch.equal(one, other)


def test_grey_and_colour_are_changed_each_by_its_own_rule() -> None:
    """A grey source and a colour target are four channels together, but no picture with opacity."""
    grey, colour = torch.zeros(6, 1, 8, 8), torch.full((6, 3, 8, 8), 0.5)
    for config in (DiffAugmentConfig(policy="color"), ada.preset("bgcfn", BGC)):
        seen = together([grey, colour], config, [True, True])
        assert [image.shape[1] for image in seen] == [1, 3]
    lit = together([grey, colour], DiffAugmentConfig(policy="brightness"), [True, True])
    torch.testing.assert_close(lit[0].expand(-1, 3, -1, -1) + 0.5, lit[1])


def test_alone_it_is_the_usual_augmentation() -> None:
    image = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for config in (DiffAugmentConfig(), BGC):
        (seen,) = together([image], config, [True])
        draws = draw()
        assert torch.equal(seen, augment(image, config, 1.0, draws.uniform, draws.normal))


def test_geometry_of_policies() -> None:
    moves = diffaugment.geometry(DiffAugmentConfig(policy="color,translation,cutout", fill=1.0))
    assert moves.operations == ("translation", "cutout") and moves.fill == 0
    assert ada.geometry(ada.preset("bgc")).operations == (*ada.PRESETS["blit"], *ada.PRESETS["geom"])
    assert ada.geometry(ada.preset("color")).operations == ()


def test_images_that_are_not_of_one_scene_are_refused() -> None:
    with pytest.raises(ValueError, match="must have one size, got 8x8 and 8x16"):
        together([torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 16)], GEOMETRY, [True, True])
    with pytest.raises(ValueError, match="one of the images must be a picture"):
        together([torch.zeros(2, 3, 8, 8)], GEOMETRY, [False])
