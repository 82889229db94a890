"""rosinality's layout and its relatives, read and written."""

import argparse
import pickletools
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import frugan
from frugan import interop
from frugan.interop import rosinality
from frugan.interop.imported import ImportProblem
from frugan.model import Model
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.models.stylegan2_discriminator import Discriminator, StyleGAN2DiscriminatorConfig
from frugan.models.subnet import Subnet
from tests.interop import emit


def close(got, expected, atol=4e-5):
    torch.testing.assert_close(got, expected, atol=atol, rtol=1e-5)


def part(folder, name, prefix=""):
    state = load_file(folder / f"{name}.state.safetensors")
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def noise_of(data):
    return [data[f"noise_{index}"] for index in range(7)]


def tiny(seed=0, **changes):
    """A small model of ours that their classes can hold."""
    torch.manual_seed(seed)
    settings = {"resolution": 16, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "widths": (8, 8, 8, 8, 6, 6)}
    generator = Generator(StyleGAN2Config(**{**settings, **changes}))
    for layer in generator.synthesis.layers():
        torch.nn.init.normal_(layer.bias)
        torch.nn.init.constant_(layer.noise_strength, 0.3)
    labels = None if not generator.config.num_classes else torch.eye(generator.config.num_classes)[:1].repeat(64, 1)
    generator.mapping.w_avg.copy_(generator.mapping(torch.randn(64, 8), labels).mean(dim=(0, 1)))
    generator.eval().requires_grad_(False)
    judge = Discriminator(StyleGAN2DiscriminatorConfig(resolution=16, widths=(8, 8, 6)))
    return Model(generator, judge.eval().requires_grad_(False))


@pytest.mark.parametrize("legacy", [False, True])
@torch.no_grad()
def test_a_training_checkpoint(fixtures_dir, tmp_path, legacy):
    """g, d, g_ema, optimisers, arguments: the averaged generator and the discriminator are taken."""
    state, judge = part(fixtures_dir, "ros-gen-a"), part(fixtures_dir, "ros-disc-a")
    data = load_file(fixtures_dir / "ros-gen-a.io.safetensors")
    content = {
        "g": {key: torch.zeros_like(value) for key, value in state.items()},
        "d": judge,
        "g_ema": state,
        "g_optim": {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.002}]},
        "d_optim": {},
        "args": argparse.Namespace(size=32, path="/somewhere", mixing=0.9),
        "ada_aug_p": np.float64(0.0),
        "latent_avg": data["mean_latent"][0],
    }
    model = interop.read(emit.save(content, tmp_path / "550000.pt", legacy=legacy)).model
    close(model.generator(data["z"], psi=0.7, noise=noise_of(data)), data["image.trunc0.7"])
    close(model.generator(data["z"], noise=noise_of(data)), data["image"])
    known = load_file(fixtures_dir / "ros-disc-a.io.safetensors")
    close(model.discriminator(known["input.batch4"]), known["output.batch4"][:, 0], 1e-5)
    assert model.generator.config.widths == (32, 32, 32, 32, 24, 24, 16, 16)


@torch.no_grad()
def test_anycost(fixtures_dir, tmp_path):
    """A supernet comes over with its table of widths, so that its sub-networks run."""
    data = load_file(fixtures_dir / "ac-gen-a.io.safetensors")
    content = {"g_ema": part(fixtures_dir, "ac-gen-a"), "d": part(fixtures_dir, "ac-disc-cond-a"), "epoch": 3}
    content["fid"] = np.float64(3.5)
    imported = interop.read(emit.save(content, tmp_path / "anycost.pt"))
    generator = imported.model.generator
    assert "AnyCost" in imported.family and imported.model.discriminator is None
    assert any("several resolutions" in note for note in imported.notes)
    assert (generator.config.channel_base, generator.config.channel_max) == (512, 32)
    w = generator.mapping(data["z"][:, 0])
    for ratio in (0.25, 0.5, 0.75):
        subnet = Subnet.uniform(generator.config, ratio)
        close(generator.synthesis(w, noise_of(data), subnet), data[f"rgb.uniform{ratio}.32"])
    assert imported.model.sample([1], subnet=Subnet.uniform(generator.config, 0.5, 16)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("name", ["style", "wshift"])
@torch.no_grad()
def test_sketch_your_own_gan(fixtures_dir, tmp_path, name):
    """Bare weights; a learned shift of w gives the authors' pictures, truncated ones too."""
    data = load_file(fixtures_dir / f"gansketch-model-{name}-a.io.safetensors")
    state = part(fixtures_dir, f"gansketch-model-{name}-a", "G/")
    imported = interop.read(emit.save(state, tmp_path / "100_net_G.pth"))
    generator = imported.model.generator
    shift = state.get("style.4.w_shift", torch.zeros(1, 16))
    assert ("Sketch" in imported.family) == (name == "wshift")
    close(generator.mapping(data["z1"])[:, 0] + shift, data["w"], 5e-6)
    generator.mapping.w_avg.copy_((data["mean_latent"] - shift)[0])
    close(generator(data["z1"], psi=0.7, noise=noise_of(data)), data["image.trunc0.7"])


def test_what_is_filled_in(fixtures_dir, tmp_path):
    """No noise maps (early versions of that code), no averaged generator, weights of several GPUs, safetensors."""
    state = part(fixtures_dir, "ros-gen-a")
    early = {f"module.{key}": value for key, value in state.items() if not key.startswith("noises.")}
    first, second = (interop.read(emit.save({"g": early}, tmp_path / "a.pt")) for _ in range(2))
    assert any("g_ema" in note for note in first.notes) and any("noise maps" in note for note in first.notes)
    assert any("4,096" in note for note in first.notes)
    assert first.model.hash == second.model.hash
    z = torch.randn(4096, 32, generator=torch.Generator().manual_seed(1))
    mean = first.model.generator.mapping.features(z, None).mean(dim=0)
    spread = first.model.generator.mapping.features(z, None).std(dim=0)
    assert ((mean - first.model.generator.mapping.w_avg).abs() < 0.15 * spread).all()
    save_file(state, tmp_path / "bare.safetensors")
    assert frugan.load(tmp_path / "bare.safetensors").resolution == 32


def test_known_channel_tables():
    """Sizes of their channel multipliers 2 and 1 become the table, even where every layer has the most channels."""
    for resolution, base in ((16, 32768), (128, 32768), (128, 16384)):
        config = StyleGAN2Config(resolution=resolution, channel_base=base, z_dim=512)
        with torch.device("meta"):
            state = Generator(config).state_dict()
        found = rosinality._generator_config(state, 8, len(config.resolutions))
        assert found.layer_widths == config.layer_widths
        assert found.channel_max == 512 and found.channel_base in (32768, base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("convs.1.conv.weight"), "synthesis.b8.conv1.weight"),
        (lambda s: s.pop("convs.1.activate.bias"), "lacks the weight convs.1.activate.bias"),
        (lambda s: s.update({"extra.weight": torch.ones(1)}), "does not know: extra.weight"),
        (lambda s: s.update({"style.1.weight": torch.ones(3)}), "wrong shape"),
        (lambda s: s.update({"style.2.bias": torch.ones(3)}), "style.2.bias must have the shape"),
        (lambda s: s.update({"style.2.bias": torch.ones(8, dtype=torch.int64)}), "floating-point"),
        (lambda s: s.update({"style.2.bias": 7}), "must be a tensor"),
        (lambda s: s.update({"conv1.noise.weight": torch.ones(2)}), "noise.weight must have the shape"),
        (lambda s: s.update({"convs.0.conv.blur.kernel": torch.ones(4, 4)}), "another filter"),
        (lambda s: s.update({"style.2.weight": torch.full((8, 8), torch.nan)}), "not finite"),
        (lambda s: s.update({"style.3.w_shift": torch.ones(1, 5)}), "w_shift must hold 8"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, message):
    rosinality.export_checkpoint(tiny(), tmp_path / "a.pt")
    state = torch.load(tmp_path / "a.pt", weights_only=True)["g_ema"]
    change(state)
    with pytest.raises(ImportProblem, match=message):
        interop.read(emit.save({"g_ema": state}, tmp_path / "b.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"final_linear.0.weight": torch.ones(1)}, "discriminator alone"),
        ({"state_dict": {}}, "encoder"),
        ({"synthesis.b4.const": torch.ones(1)}, "NVIDIA's names"),
        ({}, "holds nothing"),
        ([1], "a list"),
        ({"g_ema": 3}, "table of weights"),
        (torch.ones(3), "a Tensor"),
    ],
)
def test_other_checkpoints_are_named(tmp_path, content, message):
    with pytest.raises(ImportProblem, match=message):
        interop.read(emit.save(content, tmp_path / "a.pt"))


def test_a_discriminator_of_another_size_is_left_out(tmp_path):
    model = tiny()
    judge = Discriminator(StyleGAN2DiscriminatorConfig(resolution=8, widths=(8, 8)))
    notes = rosinality.export_checkpoint(Model(model.generator, judge), tmp_path / "a.pt")
    assert any("it is for 8 px" in note for note in notes)
    assert "d" not in torch.load(tmp_path / "a.pt", weights_only=True)
    rosinality.export_checkpoint(model, tmp_path / "b.pt")
    content = torch.load(tmp_path / "b.pt", weights_only=True)
    small = rosinality._theirs(judge.state_dict(), rosinality.discriminator_entries(2), [], 1.0)
    imported = interop.read(emit.save({**content, "d": small}, tmp_path / "c.pt"))
    assert imported.model.discriminator is None and any("8 px" in note for note in imported.notes)


def test_export_and_back(tmp_path):
    """What is written reads back the same, weight for weight, and torch's own safe reader reads it too."""
    model = tiny()
    notes = rosinality.export_checkpoint(model, tmp_path / "deep" / "out.pt")
    assert any("change the table" in note for note in notes)
    content = torch.load(tmp_path / "deep" / "out.pt", weights_only=True)
    assert list(content) == ["g_ema", "latent_avg", "d"]
    assert content["g_ema"]["convs.0.conv.blur.kernel"].sum() == 4
    assert content["d"]["convs.1.conv2.0.kernel"].sum() == 1
    back = interop.read(tmp_path / "deep" / "out.pt").model
    for ours, theirs in ((model.generator, back.generator), (model.discriminator, back.discriminator)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    assert torch.equal(model.sample(range(3), psi=0.5), back.sample(range(3), psi=0.5))
    again = tmp_path / "again.pt"
    rosinality.export_checkpoint(back, again)
    assert again.read_bytes() == (tmp_path / "deep" / "out.pt").read_bytes()


@pytest.mark.parametrize("name", ["ros-gen-a", "ac-gen-a"])
def test_export_has_the_authors_names_and_shapes(fixtures_dir, tmp_path, name):
    state = part(fixtures_dir, name)
    generator, _ = rosinality.read_generator(state)
    rosinality.export_checkpoint(
        Model(generator, rosinality.read_discriminator(part(fixtures_dir, "ros-disc-a"))), tmp_path / "a.pt"
    )
    written = torch.load(tmp_path / "a.pt", weights_only=True)
    assert set(written["g_ema"]) == set(state)
    assert all(torch.equal(written["g_ema"][key], value) or key.endswith("kernel") for key, value in state.items())
    for key, value in state.items():
        close(written["g_ema"][key], value, 1e-6)
    judge = part(fixtures_dir, "ros-disc-a")
    assert set(written["d"]) == set(judge)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet"}, "architecture = 'skip'"),
        ({"num_classes": 2}, "num_classes = 0"),
        ({"channels": 1}, "channels = 3"),
        ({"mapping_lr_multiplier": 0.1}, "mapping_lr_multiplier = 0.01"),
        ({"w_dim": 4}, "z_dim = 4"),
    ],
)
def test_export_refuses_what_their_class_cannot_hold(tmp_path, changes, message):
    model = Model(Generator(StyleGAN2Config(resolution=8, **{"z_dim": 8, "w_dim": 8, "channel_max": 8, **changes})))
    with pytest.raises(ValueError, match=message):
        rosinality.export_checkpoint(model, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_the_written_file_is_plain(tmp_path):
    """Only tensors: the names in it are those that every safe reader allows."""
    rosinality.export_checkpoint(tiny(conv_clamp=1.0), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        program = archive.read("archive/data.pkl")
    names = {argument for opcode, argument, _ in pickletools.genops(program) if opcode.name == "GLOBAL"}
    assert names == {"torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict"}
