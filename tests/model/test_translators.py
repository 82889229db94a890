"""The door to translators: any size, tiles, a set in the place of seeds, both directions, saving and loading."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import frugan
from frugan.checkpoint import CheckpointError
from frugan.data.dataset import Dataset, from_arrays, to_float, to_uint8
from frugan.model import Model, save
from frugan.model.tiles import reflected
from frugan.models.patchgan import PatchConfig, PatchDiscriminator
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.models.translator import ResnetConfig, ResnetTranslator, UNetConfig, UNetTranslator


def make(norm: str | None = "instance", source_channels: int = 3, channels: int = 3) -> Model:
    """A CycleGAN of two tiny ResNets with random weights."""
    torch.manual_seed(0)
    nets = []
    for source, out in ((source_channels, channels), (channels, source_channels)):
        config = ResnetConfig(width=4, num_blocks=1, norm=norm, source_channels=source, channels=out)  # type: ignore[arg-type]
        nets.append(ResnetTranslator(config).eval())
        with torch.no_grad():
            for parameter in nets[-1].parameters():
                parameter.mul_(4 if norm else 9)
    judge = PatchDiscriminator(PatchConfig(width=4, num_layers=1, channels=channels)).eval()
    return Model(nets[0], judge, {"class_names": [], "images_seen": 5}, nets[1])


def pictures(count: int = 3, height: int = 16, width: int = 16, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def source_set(count: int = 3, channels: int = 3) -> Dataset:
    return from_arrays(pictures(count, channels=channels).numpy())


def drawer() -> Model:
    return Model(Generator(StyleGAN2Config(resolution=8, z_dim=8, w_dim=8, channel_base=64, channel_max=8)).eval())


def test_a_translation_is_the_networks() -> None:
    model, images = make(), pictures()
    expected = to_uint8(model.translator(to_float(images)))
    assert int((model.translate(images).int() - expected.int()).abs().max()) <= 1
    assert int((model.translate(images, batch=1).int() - expected.int()).abs().max()) <= 1
    assert model.is_translator and not model.has_styles and model.family == "resnet_translator"
    assert model.class_names == () and model.is_grown


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 16), (8, 30)])
def test_any_size_is_reflected_and_cut_back(size: tuple[int, int]) -> None:
    model, images = make(), pictures(2, *size)
    made = model.translate(images)
    assert made.shape == (2, 3, *size)
    height, width = (-(-max(side, 8) // 4) * 4 for side in size)
    padded = torch.from_numpy(
        np.pad(images.numpy(), ((0, 0), (0, 0), (0, height - size[0]), (0, width - size[1])), "reflect")
    )
    if min(size) > 1:  # numpy has no reflection of a single pixel
        assert torch.equal(reflected(images, 4), padded)
    assert torch.equal(made, model.translate(reflected(images, 4))[:, :, : size[0], : size[1]])


@pytest.mark.parametrize(("source_channels", "channels"), [(1, 3), (3, 1), (4, 3)])
def test_other_channels(source_channels: int, channels: int) -> None:
    model = make(source_channels=source_channels, channels=channels)
    assert model.translate(pictures(2, channels=source_channels)).shape == (2, channels, 16, 16)
    with pytest.raises(ValueError, match=f"pictures of {source_channels} channels, got 2"):
        model.translate(pictures(2, channels=2))


def test_the_unet_takes_any_size_too() -> None:
    net = UNetTranslator(UNetConfig(width=4, num_downs=3, norm="instance")).eval()
    assert Model(net).translate(pictures(2, 13, 20)).shape == (2, 3, 13, 20)


@pytest.mark.parametrize("batch", [1, 16])
def test_tiles_are_the_whole_where_nothing_is_normalised(batch: int) -> None:
    """Farther from the edges of squares than the network looks nothing may differ."""
    model, images = make(norm=None), pictures(2, 96, 75)
    whole, tiled = model.translate(images), model.translate(images, tile=64, overlap=32, batch=batch)
    assert tiled.shape == whole.shape
    apart = (whole.int() - tiled.int()).abs().amax(dim=(0, 1))
    # One block and two halvings look 3 + 1 + 2 + 2 * 4 + 2 + 1 + 3 = 20 pixels far at most. The squares begin at 0 and
    # 32, and at 0 and 12; a pixel has the weight of every square that holds it.
    assert int(apart[:12, :12].max()) <= 1 and int(apart[84:, 64:].max()) <= 1
    assert int(apart.max()) > 1  # near the seams they differ, or this test would see nothing


def test_small_pictures_need_no_tiles() -> None:
    model, images = make(), pictures(2, 16, 20)
    assert torch.equal(model.translate(images, tile=32), model.translate(images))


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [(30, 8, "multiple of 4"), (4, 0, "at least 8"), (16, 12, "up to half a tile"), (16, 6, "multiple of 4")],
)
def test_wrong_tiles(tile: int, overlap: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().translate(pictures(1, 40, 40), tile=tile, overlap=overlap)


def test_on_a_set_seeds_are_its_pictures() -> None:
    model, sources = make(), source_set()
    bound = model.on(sources)
    expected = model.translate(sources.batch([0, 1, 2, 0]))
    assert torch.equal(bound.sample([0, 1, 2, 3]), expected)
    assert [len(part) for part in bound.stream(range(5), batch=2)] == [2, 2, 1]
    assert bound.resolution == 16 and bound.hash == model.hash
    for wrong in ({"psi": 0.7}, {"classes": [1]}, {"cutoff": 2}, {"resolution": 8}):
        with pytest.raises(ValueError, match=f"knows no {next(iter(wrong))}"):
            bound.sample([0], **wrong)
    with pytest.raises(ValueError, match="the set has 1"):
        model.on(source_set(channels=1))


def test_without_a_set_seeds_mean_nothing() -> None:
    model = make()
    for call in (
        lambda: model.sample([1]),
        lambda: model.z([1]),
        lambda: model.w([1]),
        lambda: model.styles,
        lambda: model.resolution,
        lambda: model.resolutions,
        lambda: list(model.walk([1, 2])),
        lambda: list(model.wander([1], frames=8, sigma=1)),
        lambda: model.synthesize(torch.zeros(1, 6, 12)),
        lambda: model.on(source_set()).z([1]),
    ):
        with pytest.raises(ValueError, match=r"a resnet_translator model translates pictures.*frugan translate"):
            call()


def test_a_generator_does_not_translate() -> None:
    model = drawer()
    for call in (lambda: model.translate(pictures()), lambda: model.on(source_set()), lambda: model.translator):
        with pytest.raises(ValueError, match=r"a stylegan2 model draws pictures from seeds.*frugan sample"):
            call()


def test_both_directions_are_stored(tmp_path: Path) -> None:
    model, images = make(), pictures()
    save(model, tmp_path / "model")
    again = frugan.load(tmp_path / "model")
    assert again.hash == model.hash and torch.equal(again.translate(images), model.translate(images))
    back = again.reversed()
    assert torch.equal(back.translate(images), model.reversed().translate(images))
    assert not torch.equal(back.translate(images), again.translate(images)) and back.hash != again.hash
    assert torch.equal(back.reversed().translate(images), again.translate(images)) and again.discriminator is not None


def test_one_direction_only(tmp_path: Path) -> None:
    model = Model(make().generator)
    with pytest.raises(ValueError, match="no other direction"):
        model.reversed()
    save(model, tmp_path / "model")
    assert frugan.load(tmp_path / "model").reverse is None


def test_only_a_translator_is_another_direction(tmp_path: Path) -> None:
    wrong = make()
    object.__setattr__(wrong, "reverse", drawer().generator)
    save(wrong, tmp_path / "model")
    with pytest.raises(CheckpointError, match="as the other direction"):
        frugan.load(tmp_path / "model")
