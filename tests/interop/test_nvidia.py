"""NVIDIA's pickles: what they hold comes over, what they say does not run."""

import json

import pytest
import torch
from safetensors.torch import load_file

import frugan
from frugan import interop
from frugan.inert import InertError
from frugan.interop import nvidia
from frugan.interop.imported import ImportProblem
from frugan.models.stylegan2 import Generator
from frugan.models.stylegan2_discriminator import Discriminator
from tests.interop import emit

FIXTURES = ("sg2ada-tiny32-cond", "sg2ada-tiny16-grey-resnetG-skipD", "sg3repo-stylegan2-tiny32")


@pytest.fixture
def write(tmp_path, monkeypatch):
    def writing(data, name="network-snapshot.pkl"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    monkeypatch.chdir(tmp_path)
    return writing


def close(got, expected, atol):
    torch.testing.assert_close(got, expected, atol=atol, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "protocol"), [(FIXTURES[0], 2), (FIXTURES[0], 3), (FIXTURES[0], 5), (FIXTURES[1], 4), (FIXTURES[2], 4)]
)
@torch.no_grad()
def test_the_authors_pictures(fixtures_dir, write, monkeypatch, tmp_path, name, protocol):
    """A pickle with the authors' weights and settings gives the authors' styles, pictures and logits."""
    state = load_file(fixtures_dir / f"{name}.state.safetensors")
    meta = json.loads((fixtures_dir / f"{name}.meta.json").read_text())
    data = load_file(fixtures_dir / f"{name}.io.safetensors")
    model = interop.read(write(emit.nvidia(state, meta, monkeypatch, protocol))).model
    labels = data["c"] if data["c"].shape[1] else None
    generator, judge = model.generator, model.discriminator
    assert isinstance(generator, Generator) and isinstance(judge, Discriminator)
    w = generator.mapping(data["z"], labels)
    close(w, data["ws"], 2e-6)
    close(generator.truncate(w, 0.5, cutoff=4), data["ws_trunc0.5_cutoff4"], 2e-6)
    close(generator(data["z"], labels), data["img_const"], 3e-5)
    for key in ("img_none_trunc0.7", "img_trunc0.7"):
        if key in data:
            close(generator(data["z"], labels, psi=0.7, noise="none" if "none" in key else "const"), data[key], 3e-5)
    close(judge(data["img_const"], labels), data["d_logits"][:, 0], 1e-5)
    assert not (tmp_path / "EXECUTED").exists()


@torch.no_grad()
def test_a_seed_gives_the_authors_picture(fixtures_dir, write, monkeypatch):
    """The fixtures' z are those of RandomState(0).randn(4, z_dim): their first row is that of seed 0."""
    name = "sg3repo-stylegan2-tiny32"
    state = load_file(fixtures_dir / f"{name}.state.safetensors")
    meta = json.loads((fixtures_dir / f"{name}.meta.json").read_text())
    data = load_file(fixtures_dir / f"{name}.io.safetensors")
    model = frugan.load(write(emit.nvidia(state, meta, monkeypatch)))
    close(model.z([0]), data["z"][:1], 1e-6)
    expected = ((data["img_const"][:1] + 1) * 127.5).round().clamp(0, 255)
    assert (model.sample([0]).float() - expected).abs().max() <= 1
    assert (model.sample([0]).float() - expected).abs().mean() < 0.01


def test_what_is_told(write, monkeypatch, tmp_path):
    data = emit.tiny_nvidia(monkeypatch)
    assert b"os.system" in data
    imported = interop.read(write(data))
    assert "ADA" in imported.family and "non-commercial" not in imported.family
    assert "not commercially" in imported.licence
    origin = imported.model.info["origin"]
    assert origin["size_bytes"] == len(data) and len(origin["sha256"]) == 64
    assert any("all finite" in line for line in imported.check)
    assert not (tmp_path / "EXECUTED").exists()
    json.dumps(dict(imported.model.info))


def test_settings_that_the_file_does_not_give_are_those_of_its_repository(write, monkeypatch):
    data = emit.tiny_nvidia(monkeypatch, synthesis_kwargs={"channel_base": 64, "channel_max": 8})
    config = interop.read(write(data)).model.generator.config
    assert config.conv_clamp is None and config.num_half_resolutions == 0
    tensors = nvidia_tensors(monkeypatch)
    flat = {"z_dim": 8, "w_dim": 8, "c_dim": 0, "img_resolution": 8, "img_channels": 3}
    flat |= {"mapping_kwargs": {"num_layers": 2}, "channel_base": 64, "channel_max": 8}
    config = nvidia.read_generator(flat, tensors).config
    assert config.conv_clamp == 256 and config.num_half_resolutions == 4


def nvidia_tensors(monkeypatch):
    from frugan.models.stylegan2 import StyleGAN2Config

    config = StyleGAN2Config(resolution=8, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8)
    return Generator(config).state_dict()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"synthesis_kwargs": {"use_noise": False}}, "use_noise"),
        ({"synthesis_kwargs": {"activation": "relu"}}, "activation"),
        ({"mapping_kwargs": {"embed_features": 4}}, "embed_features"),
        ({"img_resolution": 100}, "power of two"),
        ({"img_resolution": 2**40}, "img_resolution"),
        ({"z_dim": "8"}, "z_dim"),
        ({"z_dim": 9}, "mapping.fc0.weight must have the shape"),
        ({"mapping_kwargs": {"num_layers": 3}}, "lacks the weight mapping.fc2"),
        ({"mapping_kwargs": {"num_layers": 1}}, "does not know: mapping.fc1"),
        ({"mapping_kwargs": {"num_layers": 10**6}}, "more than 100"),
        ({"w_dim": 10**6, "z_dim": 10**6}, "more than"),
        ({"mapping_kwargs": 7}, "mapping_kwargs"),
        ({"synthesis_kwargs": {"conv_clamp": "much"}}, "conv_clamp"),
        ({"synthesis_kwargs": {"resample_filter": [1, 2, 1], "channel_base": 64, "channel_max": 8}}, None),
        ({"mapping_kwargs": {"num_layers": 2, "layer_features": 8, "embed_features": 8, "w_avg_beta": None}}, None),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_settings_that_do_not_fit(write, monkeypatch, changes, part):
    path = write(emit.tiny_nvidia(monkeypatch, **changes))
    if part is None:  # supported: another filter that nothing in this file contradicts, widths that are the usual ones
        taps = changes.get("synthesis_kwargs", {}).get("resample_filter", (1, 3, 3, 1))
        assert interop.read(path).model.generator.config.resample_filter == tuple(taps)
        return
    with pytest.raises(ImportProblem, match=part) as caught:
        interop.read(path)
    assert str(path) in str(caught.value)


def test_a_discriminator_that_does_not_fit_is_left_out(write, monkeypatch):
    from frugan.models.stylegan2 import StyleGAN2Config

    config = StyleGAN2Config(resolution=8, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8)
    torch.manual_seed(0)
    generator = Generator(config)
    generator.mapping.w_avg.fill_(0.1)
    settings = {"z_dim": 8, "w_dim": 8, "c_dim": 0, "img_resolution": 8, "img_channels": 3}
    settings |= {"mapping_kwargs": {"num_layers": 2}, "synthesis_kwargs": {"channel_base": 64, "channel_max": 8}}
    content = {
        "G_ema": emit.module(generator.state_dict(), "Generator", settings),
        "D": emit.module({"b4.conv.weight": torch.ones(1)}, "Discriminator", {"img_resolution": 8, "other": 1}),
    }
    imported = interop.read(write(emit.dump(content, monkeypatch)))
    assert imported.model.discriminator is None
    assert any("discriminator was left out" in note and "other" in note for note in imported.notes)


def test_a_discriminator_without_classes_has_no_mapping(monkeypatch):
    """Pickles converted from TensorFlow say that it has 0 layers."""
    from frugan.models.stylegan2_discriminator import StyleGAN2DiscriminatorConfig

    judge = Discriminator(StyleGAN2DiscriminatorConfig(resolution=8, channel_base=64, channel_max=8))
    settings = {"c_dim": 0, "img_resolution": 8, "img_channels": 3, "channel_base": 64, "channel_max": 8}
    settings |= {"mapping_kwargs": {"num_layers": 0, "layer_features": 3}, "cmap_dim": 3}
    read = nvidia.read_discriminator(
        settings | {"epilogue_kwargs": {"mbstd_group_size": None}}, judge.state_dict(), True
    )
    assert read.config.stddev_group is None
    with pytest.raises(ImportProblem, match="layer_features = 3"):
        nvidia.read_discriminator(settings | {"c_dim": 2, "cmap_dim": 8}, judge.state_dict(), True)


def test_a_contradicting_filter_is_refused(write, monkeypatch):
    tensors = nvidia_tensors(monkeypatch) | {"synthesis.b8.resample_filter": torch.eye(4) / 4}
    settings = {"z_dim": 8, "w_dim": 8, "c_dim": 0, "img_resolution": 8, "img_channels": 3, "channel_base": 64}
    settings |= {"mapping_kwargs": {"num_layers": 2}, "channel_max": 8}
    with pytest.raises(ImportProblem, match="resample_filter"):
        nvidia.read_generator(settings, tensors)


def test_other_pickles_are_named(write, monkeypatch):
    import collections

    Network = type("Network", (), {"__module__": "dnnlib.tflib.network"})
    cases = {
        "no StyleGAN2 pickle": {"G": 1},
        "got a list": [1, 2],
        "G_ema must be a network": {"G_ema": 3},
        "G_ema is a collections.Counter": {"G_ema": collections.Counter()},
        "StyleGAN3": {
            "G_ema": emit.module({"synthesis.input.weight": torch.ones(1)}, "Generator", {"z_dim": 8}),
        },
        "with which settings": {"G_ema": emit.module({"a": torch.ones(1)}, "Generator")},
    }
    for part, content in cases.items():
        with pytest.raises(ImportProblem, match=part):
            interop.read(write(emit.dump(content, monkeypatch)))
    with monkeypatch.context() as patch:
        import sys
        import types

        for name in ("dnnlib.tflib", "dnnlib.tflib.network"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["dnnlib.tflib.network"].Network = Network
        data = emit.dump((Network(), Network(), Network()), monkeypatch)
    with pytest.raises(ImportProblem, match="TensorFlow"):
        interop.read(write(data))


def test_storages_cannot_be_asked_for_again_and_again():
    """One stored tensor, referred to a thousand times, must not become a thousand tensors."""
    build = nvidia.constructors(1000)["_codecs.encode"]
    assert build("\xff" * 600, "latin1") == b"\xff" * 600
    with pytest.raises(InertError, match="more than its size"):
        build("\xff" * 600, "latin1")
    with pytest.raises(InertError, match="latin1"):
        build("x", "rot13")
