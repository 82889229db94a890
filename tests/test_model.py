"""The one door to a trained thing: seeds, truncation, classes, loading, saving."""

from pathlib import Path

import numpy as np
import pytest
import torch

import frugan
from frugan import models
from frugan.checkpoint import CheckpointError
from frugan.model import Model, load, save
from frugan.models.stylegan2 import Discriminator, Generator, StyleGAN2Config, StyleGAN2DiscriminatorConfig
from frugan.models.subnet import Subnet


def make(num_classes: int = 0, channels: int = 3) -> Model:
    torch.manual_seed(0)
    size = {"resolution": 16, "channels": channels, "num_classes": num_classes, "channel_base": 128, "channel_max": 16}
    generator = Generator(StyleGAN2Config(z_dim=12, w_dim=12, mapping_layers=2, **size))
    with torch.no_grad():
        generator.mapping.w_avg.normal_()
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.5)
    discriminator = Discriminator(StyleGAN2DiscriminatorConfig(**size))
    info = {"class_names": [f"kind {index}" for index in range(num_classes)], "images_seen": 5}
    return Model(generator.eval(), discriminator.eval(), info)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_samples_are_pictures(channels: int) -> None:
    images = make(channels=channels).sample(range(3))
    assert images.shape == (3, channels, 16, 16) and images.dtype == torch.uint8


@pytest.mark.parametrize("noise", ["const", "none", "random"])
def test_a_seed_is_a_picture_at_any_batch_size(noise: str) -> None:
    model = make()
    together = model.sample(range(5), noise=noise, psi=0.7)  # type: ignore[arg-type]
    alone = torch.cat([model.sample([seed], noise=noise, psi=0.7) for seed in range(5)])  # type: ignore[arg-type]
    in_twos = model.sample(range(5), noise=noise, psi=0.7, batch=2)  # type: ignore[arg-type]
    # Sums of other lengths may round a value to the next one of 256.
    assert int((together.int() - alone.int()).abs().max()) <= 1
    assert int((together.int() - in_twos.int()).abs().max()) <= 1
    assert not torch.equal(together[0], together[1])


def test_latents_are_the_authors() -> None:
    expected = np.random.RandomState(17).randn(12).astype(np.float32)
    np.testing.assert_array_equal(make().z([17])[0].numpy(), expected)


def test_truncation_draws_towards_the_average() -> None:
    model = make()
    average = model.generator.mapping.w_avg
    full, half = model.w([1], psi=1.0), model.w([1], psi=0.5)
    torch.testing.assert_close(half, average + 0.5 * (full - average))
    some = model.w([1], psi=0.0, cutoff=2)
    torch.testing.assert_close(some[:, 2:], full[:, 2:])
    torch.testing.assert_close(some[0, 0], average)


def test_classes_by_number_name_and_seed() -> None:
    model = make(num_classes=3)
    by_number, by_name = model.sample([4], classes=[1]), model.sample([4], classes=["kind 1"])
    assert torch.equal(by_number, by_name)
    assert torch.equal(model.sample([4]), by_number)  # seed 4 of three classes is class 1
    assert not torch.equal(by_number, model.sample([4], classes=[2]))


@pytest.mark.parametrize(
    ("classes", "message"),
    [(["kind 7"], "did you mean"), ([3], r"\[0, 2\]"), (["5"], r"\[0, 2\]"), ([0, 1], "as many classes as seeds")],
)
def test_wrong_classes(classes: list[int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(num_classes=3).sample([0], classes=classes)


def test_other_mistakes() -> None:
    model = make()
    with pytest.raises(ValueError, match="without classes"):
        model.sample([0], classes=[0])
    with pytest.raises(ValueError, match="at least one seed"):
        model.sample([])
    with pytest.raises(ValueError, match="seed must be"):
        model.sample([-1])
    with pytest.raises(ValueError, match="two seeds"):
        list(model.walk([1]))


def test_a_walk_is_closed_and_passes_its_seeds() -> None:
    model = make()
    frames = torch.cat(list(model.walk([1, 2, 3], frames_between=4, batch=5)))
    assert len(frames) == 12
    for index, seed in enumerate([1, 2, 3]):
        assert int((frames[4 * index].int() - model.sample([seed])[0].int()).abs().max()) <= 1


def test_a_subnet_is_an_argument() -> None:
    model = make()
    small = Subnet.uniform(model.generator.config, 0.5, resolution=8)
    assert model.sample([1], subnet=small).shape == (1, 3, 8, 8)
    assert model.sample([1], subnet=small, noise="random").shape == (1, 3, 8, 8)
    assert model.sample([1]).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("half", [False, True])
def test_saved_and_loaded(tmp_path: Path, half: bool) -> None:
    model = make(num_classes=2)
    save(model, tmp_path / "model", half=half, card="# a card")
    again = frugan.load(tmp_path / "model")
    assert again.discriminator is not None and again.class_names == ("kind 0", "kind 1")
    assert again.info["images_seen"] == 5
    difference = (model.sample(range(4)).int() - again.sample(range(4)).int()).abs()
    assert int(difference.max()) <= (3 if half else 0)
    assert (again.hash == model.hash) is not half
    assert (tmp_path / "model" / "README.md").read_text() == "# a card"


def test_what_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="neither a run"):
        load(tmp_path / "nothing")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        load(tmp_path / "run")
    folder = tmp_path / "model"
    save(make(), folder)
    with monkeypatch.context() as older:
        older.setattr(models, "KINDS", {})
        with pytest.raises(CheckpointError, match="unknown kind 'stylegan2'"):
            load(folder)
    weights = folder / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        load(folder)


def test_the_bundled_model() -> None:
    model = frugan.load("demo")
    images = model.sample(seeds=range(16), psi=0.7)
    assert images.shape == (16, 3, 64, 64)
    assert model.discriminator is not None
    assert float(images.float().std(dim=0).mean()) > 20, "its pictures are all alike"
    corners = images[:, :, :2, :2].float()
    assert float(corners.mean()) > 200, "its pictures stand on white"
    folder = Path(frugan.__file__).parent / "assets" / "models" / "demo"
    assert all(file.stat().st_size <= 12e6 for file in folder.iterdir())
