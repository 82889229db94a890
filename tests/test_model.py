"""The one door to a trained thing: seeds, truncation, classes, loading, saving."""

from pathlib import Path

import numpy as np
import pytest
import torch

import frugan
from frugan import checkpoint as checkpoints
from frugan import models
from frugan.checkpoint import CheckpointError
from frugan.data.dataset import to_uint8
from frugan.model import Model, describe_nets, load, save
from frugan.model.classes import classes_as_in
from frugan.models.progan import ProGANConfig, ProGANDiscriminator, ProGANDiscriminatorConfig, ProGANGenerator
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.models.stylegan2_discriminator import Discriminator, StyleGAN2DiscriminatorConfig
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


def grow(stage: dict[str, float] | None = None, num_classes: int = 0) -> Model:
    """A ProGAN model with random weights."""
    torch.manual_seed(0)
    size = {"resolution": 16, "num_classes": num_classes, "channel_max": 8}
    generator = ProGANGenerator(ProGANConfig(z_dim=12, **size))  # type: ignore[arg-type]
    discriminator = ProGANDiscriminator(ProGANDiscriminatorConfig(**size))  # type: ignore[arg-type]
    info = {"stage": stage} if stage else {}
    return Model(generator.eval(), discriminator.eval(), info)


def test_a_growing_model_draws_at_any_of_its_sizes() -> None:
    model = grow()
    assert model.family == "progan" and not model.has_styles
    assert model.resolution == 16 and model.resolutions == (4, 8, 16)
    assert model.sample([1]).shape == (1, 3, 16, 16)
    small = model.sample(range(3), resolution=8, batch=2)
    assert small.shape == (3, 3, 8, 8)
    expected = model.generator(model.z(range(3)), resolution=8)  # type: ignore[call-arg]
    assert int((small.int() - to_uint8(expected).int()).abs().max()) <= 1
    with pytest.raises(ValueError, match=r"one of \(4, 8, 16\) pixels per side, got 32"):
        model.sample([1], resolution=32)


@pytest.mark.parametrize("noise", ["const", "none", "random"])
def test_a_growing_model_has_no_noise_to_choose(noise: str) -> None:
    assert torch.equal(grow().sample([1, 2], noise=noise), grow().sample([1, 2]))  # type: ignore[arg-type]


def test_a_half_grown_model_repeats_pixels() -> None:
    young, grown = grow({"resolution": 8, "alpha": 0.25}), grow()
    assert young.resolution == 16 and young.resolutions == (4, 8)
    assert grown.is_grown and grow({"resolution": 16, "alpha": 1.0}).is_grown and make().is_grown
    assert not young.is_grown and not grow({"resolution": 16, "alpha": 0.9}).is_grown
    images, own = young.sample(range(3)), young.sample(range(3), resolution=8)
    assert images.shape == (3, 3, 16, 16) and own.shape == (3, 3, 8, 8)
    assert torch.equal(images, own.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    faded = to_uint8(young.generator(young.z(range(3)), resolution=8, alpha=0.25))  # type: ignore[call-arg]
    assert int((own.int() - faded.int()).abs().max()) <= 1
    assert torch.equal(young.sample([3], resolution=4), grown.sample([3], resolution=4))
    with pytest.raises(ValueError, match=r"one of \(4, 8\) pixels"):
        young.sample([1], resolution=16)


def test_a_walk_of_a_growing_model_stays_on_the_hypersphere() -> None:
    model = grow(num_classes=2)
    frames = torch.cat(list(model.walk([1, 2, 3], frames_between=4, batch=5)))
    assert frames.shape == (12, 3, 16, 16)
    for index, seed in enumerate([1, 2, 3]):
        assert int((frames[4 * index].int() - model.sample([seed])[0].int()).abs().max()) <= 1
    assert next(model.walk([1, 2], resolution=4)).shape == (16, 3, 4, 4)


def test_what_only_styles_can_do_names_the_family() -> None:
    model = grow()
    for call in (
        lambda: model.styles,
        lambda: model.w([1]),
        lambda: model.synthesize(torch.zeros(1, 6, 12)),
    ):
        with pytest.raises(ValueError, match="a progan model has no styles"):
            call()
    with pytest.raises(ValueError, match=r"progan generator has no average.*psi must be 1"):
        model.sample([1], psi=0.7)
    with pytest.raises(ValueError, match="progan generator has no subnets"):
        model.sample([1], subnet=Subnet(widths=(1,)))
    with pytest.raises(ValueError, match="fades nothing in: alpha must be 1"):
        make().generator.pictures(make().w([1]), alpha=0.5)


def test_a_skip_generator_stops_early_and_other_forms_do_not() -> None:
    model = make()
    assert model.resolutions == (4, 8, 16)
    early = Subnet(widths=model.styles.config.layer_widths, resolution=8)
    assert torch.equal(model.sample([1], resolution=8, noise="random"), model.sample([1], subnet=early, noise="random"))
    assert torch.equal(model.sample([1], resolution=16), model.sample([1]))
    narrow = Subnet.uniform(model.styles.config, 0.5)
    assert model.sample([1], subnet=narrow, resolution=4).shape == (1, 3, 4, 4)
    small = Model(model.generator.at_resolution(8))
    assert torch.equal(small.sample([1]), model.sample([1], resolution=8))
    whole = Generator(StyleGAN2Config(resolution=16, channel_max=8, z_dim=4, w_dim=4, architecture="orig"))
    with pytest.raises(ValueError, match="only a 'skip' generator can stop early"):
        Model(whole).sample([1], resolution=8)


@pytest.mark.parametrize("half", [False, True])
def test_a_growing_model_saved_and_loaded(tmp_path: Path, half: bool) -> None:
    model = grow({"resolution": 8, "alpha": 0.5}, num_classes=2)
    save(model, tmp_path / "model", half=half)
    again = frugan.load(tmp_path / "model")
    assert isinstance(again.discriminator, ProGANDiscriminator) and again.info["stage"]["alpha"] == 0.5
    assert int((model.sample(range(4)).int() - again.sample(range(4)).int()).abs().max()) <= (3 if half else 0)
    assert (again.hash == model.hash) is not half


def test_a_discriminator_is_not_taken_for_a_generator(tmp_path: Path) -> None:
    net = grow().discriminator
    assert net is not None
    table = describe_nets({"generator": ("generator", net)})
    checkpoints.save(tmp_path / "model", {"models": table}, {"generator": net.state_dict()})
    with pytest.raises(CheckpointError, match="names a ProGANDiscriminator as its generator"):
        load(tmp_path / "model")


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


def wandering(model: Model, seeds: list[int], frames: int = 24, sigma: float = 3.0, **options: object) -> torch.Tensor:
    return torch.stack(list(model.wander(seeds, frames=frames, sigma=sigma, **options)))  # type: ignore[arg-type]


def test_each_seed_wanders_alike_in_any_company_and_batch() -> None:
    model = make()
    film = wandering(model, [3, 8, 5])
    assert film.shape == (24, 3, 3, 16, 16) and film.dtype == torch.uint8
    # Sums over other batches may round otherwise, by one level of 256.
    for other, cell in ((wandering(model, [8]), 1), (wandering(model, [5, 3], batch=1), 2)):
        assert (film[:, cell].int() - other[:, 0].int()).abs().max() <= 1
    assert torch.equal(film, wandering(model, [3, 8, 5]))
    assert not torch.equal(film[:, 0], film[:, 1])


def test_a_wandering_is_smooth_and_closed() -> None:
    model = make()
    film = wandering(model, [1, 2], frames=60, sigma=6).double()
    steps = (torch.roll(film, -1, 0) - film).abs().mean(dim=(1, 2, 3, 4))
    across = (torch.roll(film, -30, 0) - film).abs().mean()
    assert 0 < steps.max() < 0.5 * across
    assert steps[-1] < 3 * steps.median()
    tame = wandering(model, [1, 2], frames=60, sigma=6, psi=0.0).double()
    assert (tame - tame[:1, :1]).abs().max() <= 1


def test_wanderings_of_classes_and_of_a_growing_model() -> None:
    model = make(num_classes=3)
    film = wandering(model, [4, 4], classes=[0, 2])
    assert not torch.equal(film[:, 0], film[:, 1])
    torch.manual_seed(0)
    grown = Model(ProGANGenerator(ProGANConfig(resolution=16, z_dim=8, channel_base=64, channel_max=8)).eval())
    assert wandering(grown, [0, 1], resolution=8).shape == (24, 2, 3, 8, 8)


@pytest.mark.parametrize(
    ("seeds", "sigma", "part"), [([], 3.0, "at least one seed"), ([1], 7.0, "quarter of 24 steps"), ([-1], 1.0, "seed")]
)
def test_wanderings_that_cannot_be(seeds: list[int], sigma: float, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        wandering(make(), seeds, sigma=sigma)


# ---- truncation by class --------------------------------------------------------------------------------------------


def test_truncation_to_a_class_draws_towards_its_own_average() -> None:
    model = make(num_classes=3)
    seeds, classes = list(range(6)), [0, 1, 2, 0, 1, 2]
    whole = model.w(seeds, classes=classes)
    centres = torch.stack(
        [model.w(range(3000), classes=[number] * 3000)[:, 0].double().mean(dim=0) for number in range(3)]
    )
    nothing_left = model.w(seeds, classes=classes, psi=0.0, truncate_to="class")
    spread = float(model.w(range(500), classes=[0] * 500)[:, 0].std())
    for row, number in enumerate(classes):  # 3000 other latents: means apart by a few of their standard errors
        apart = (nothing_left[row, 0].double() - centres[number]).abs().max()
        assert apart < 5 * spread * (1 / 3000 + 1 / 4096) ** 0.5
    half = model.w(seeds, classes=classes, psi=0.5, truncate_to="class")
    assert torch.allclose(half, (whole + nothing_left) / 2, atol=1e-6)
    assert torch.equal(model.w(seeds, classes=classes, psi=1.0, truncate_to="class"), whole)
    assert torch.equal(make(num_classes=3).w(seeds, classes=classes, psi=0.5, truncate_to="class"), half)
    some = model.w(seeds, classes=classes, psi=0.5, cutoff=2, truncate_to="class")
    assert torch.equal(some[:, :2], half[:, :2]) and torch.equal(some[:, 2:], whole[:, 2:])
    assert not torch.allclose(model.w(seeds, classes=classes, psi=0.5), half, atol=1e-3)
    assert torch.equal(
        model.sample(seeds, classes=classes, psi=0.5, truncate_to="class", batch=4), model.synthesize(half)
    )


def test_truncation_to_a_class_needs_classes_and_styles() -> None:
    with pytest.raises(ValueError, match="trained without classes: truncate to all"):
        make().sample([0], psi=0.5, truncate_to="class")
    with pytest.raises(ValueError, match="has no styles"):
        grow(num_classes=2).sample([0], truncate_to="class")


def test_classes_as_in_a_set_follow_its_counts_and_the_seed_alone() -> None:
    found = classes_as_in([30, 0, 10], range(4000))
    assert found[17:20] == classes_as_in([30, 0, 10], [17, 18, 19])
    assert 1 not in found and 0.70 < found.count(0) / 4000 < 0.80
    with pytest.raises(ValueError, match="no pictures of them"):
        classes_as_in([0, 0], [1])
