"""Files of PyTorch-StudioGAN: told by their content, read whole, and what is said where they do not fit."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import frugan
from frugan import interop
from frugan.interop import ImportProblem, import_checkpoint
from frugan.interop.studiogan import from_authors, holds
from frugan.models.heads import EmbeddingHead, MultiHingeHead, PickHead


def state_of(fixtures_dir, name):
    return load_file(fixtures_dir / "studiogan" / f"{name}.state.safetensors")


def facts_of_training():
    """What their files of D hold beside the weights, numpy's numbers and a text for nothing included."""
    return {
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(2e-4), "params": [0, 1]}]},
        "seed": 3,
        "run_name": "CIFAR10-ReACGAN-train",
        "step": 2000,
        "epoch": 1,
        "topk": 64,
        "aa_p": "N/A",
        "best_step": 2000,
        "best_fid": np.float64(12.5),
        "best_fid_ckpt": None,
        "lecam_emas": {"real": np.float32(0.5)},
    }


@pytest.fixture
def run(fixtures_dir, tmp_path):
    """A folder as a training leaves it: G, its average and D."""
    average = state_of(fixtures_dir, "biggan32-G-a")
    newest = {name: value * 0.5 if name.startswith("conv2d5") else value for name, value in average.items()}
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"state_dict": newest, "optimizer": {"state": {}}}, folder / "model=G-best-weights-step=2000.pth")
    torch.save({"state_dict": average}, folder / "model=G_ema-best-weights-step=2000.pth")
    judge = state_of(fixtures_dir, "biggan32-D-d2dce-a")
    torch.save({"state_dict": judge, **facts_of_training()}, folder / "model=D-best-weights-step=2000.pth")
    return folder


def test_a_whole_training(run, tmp_path):
    with pytest.raises(pickle.UnpicklingError):  # torch's own careful reader stumbles over numpy's numbers
        torch.load(run / "model=D-best-weights-step=2000.pth", weights_only=True)
    imported = import_checkpoint(run, tmp_path / "out")
    model = imported.model
    assert imported.family == "PyTorch-StudioGAN"
    assert model.generator.config.num_classes == 5
    assert model.discriminator.config.head == EmbeddingHead(dim=10)
    assert any("model=G-best" in note and "left out" in note for note in imported.notes)
    assert any("standing statistics" in note for note in imported.notes)
    assert "MIT" in imported.licence
    again = frugan.load(tmp_path / "out")
    pictures = again.sample([0, 1, 2], classes=[0, 3, 4])
    assert torch.equal(pictures, model.sample([0, 1, 2], classes=[0, 3, 4]))
    assert "5 classes" in (tmp_path / "out" / "README.md").read_text()


def test_the_average_is_taken_and_its_norms_are_settled(run, fixtures_dir):
    data = load_file(fixtures_dir / "studiogan" / "biggan32-G-a.io.safetensors")
    net = interop.read(run).model.generator
    codes = torch.cat([data["z"], net.classes.weight[data["label"]]], dim=1)
    torch.testing.assert_close(net.pictures(codes), data["out_converged_sn"], atol=3e-5, rtol=1e-5)


def test_one_file_is_enough(run):
    model = frugan.load(run / "model=G_ema-best-weights-step=2000.pth")
    assert model.discriminator is None
    assert model.sample([0]).shape == (1, 3, 32, 32)


def test_bare_weights_and_the_prefix_of_several_gpus(fixtures_dir, tmp_path):
    state = state_of(fixtures_dir, "sngan32-G-cbn-a")
    save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / "G.safetensors")
    assert frugan.load(tmp_path / "G.safetensors").generator.config.num_classes == 5


def test_names_of_torchs_newer_spectral_norm(fixtures_dir):
    state = state_of(fixtures_dir, "biggan32-G-a")
    ends = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}
    newer = {}
    for name, value in state.items():
        layer, _, end = name.rpartition(".")
        newer[f"{layer}.parametrizations.weight.{ends[end]}" if end in ends else name] = value
    assert newer.keys() != state.keys()
    ours, older = from_authors(newer), from_authors(state)
    assert ours.config == older.config
    assert all(torch.equal(value, older.state[name]) for name, value in ours.state.items())


def test_heads_that_look_alike(fixtures_dir):
    """A logit for each of 5 classes, or for 4 and one for fakes: the generator's classes tell."""
    state = state_of(fixtures_dir, "biggan32-D-md-a")
    assert from_authors(state, num_classes=5).config.head == PickHead()
    assert from_authors(state, num_classes=4).config.head == MultiHingeHead()
    with pytest.raises(ImportProblem, match="PickHead of 5 or a MultiHingeHead of 4 classes"):
        from_authors(state)
    with pytest.raises(ImportProblem, match="it knows 5 classes, the generator 7"):
        from_authors(state_of(fixtures_dir, "biggan32-D-pd-a"), num_classes=7)


def test_the_bottleneck_of_the_published_runs(fixtures_dir):
    state = state_of(fixtures_dir, "biggan32-D-d2dce-a")
    for index, (outputs, inputs) in enumerate(((3, 10), (10, 3))):
        layer = f"convert_head{index}"
        state |= {f"{layer}.weight_orig": torch.randn(outputs, inputs), f"{layer}.bias": torch.zeros(outputs)}
        state |= {f"{layer}.weight_u": torch.randn(outputs), f"{layer}.weight_v": torch.randn(inputs)}
    told = from_authors(state)
    assert told.config.head.bottleneck.width == 3
    assert "head.embedding.narrow.u" in told.state
    assert any("nonlinear_embed" in note for note in told.notes)


def test_class_logits_of_the_first_versions(fixtures_dir):
    state = state_of(fixtures_dir, "biggan32-D-ac-a")
    early = {name.replace("linear2", "linear4"): value for name, value in state.items()}
    early["linear4.bias"] = torch.zeros(5)
    told = from_authors(early)
    assert told.state.keys() == from_authors(state).state.keys()
    assert any("bias" in note for note in told.notes)


def test_a_discriminator_of_other_pictures_is_left_out(fixtures_dir, tmp_path):
    torch.save({"state_dict": state_of(fixtures_dir, "biggan32-G-a")}, tmp_path / "G_ema.pth")
    torch.save({"state_dict": state_of(fixtures_dir, "biggan64-D-d2dce-a")}, tmp_path / "D.pth")
    imported = interop.read(tmp_path)
    assert imported.model.discriminator is None
    assert any("judges other pictures" in note for note in imported.notes)


def test_a_folder_without_a_generator(run):
    for file in run.glob("model=G*"):
        file.unlink()
    with pytest.raises(ImportProblem, match="only discriminators are in it"):
        interop.read(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("bn4.weight"), "lacks the weight"),
        (lambda state: state.update({"linear0.extra": torch.zeros(1)}), "does not know: linear0.extra"),
        (lambda state: state.update({"conv2d5.bias": torch.zeros(4)}), "conv2d5.bias must have the shape"),
        (lambda state: state.update({"conv2d5.bias": torch.full((3,), torch.nan)}), "not finite"),
        (lambda state: state.update({"conv2d5.bias": "text"}), "must be a tensor"),
        (lambda state: state.pop("blocks.0.0.bn1.gain.weight_orig"), "lacks the weight|no way to share"),
        (lambda state: state.update({"linear0.weight_orig": torch.zeros(384, 7)}), "no way to share z out"),
        (lambda state: state.update({"linear0.weight_orig": torch.zeros(10, 4)}), "outputs|fit"),
    ],
)
def test_damaged_files(fixtures_dir, tmp_path, change, message):
    state = dict(state_of(fixtures_dir, "biggan32-G-a"))
    change(state)
    torch.save({"state_dict": state}, tmp_path / "G.pth")
    with pytest.raises(ImportProblem, match=message):
        interop.read(tmp_path / "G.pth")


def test_other_tables_are_not_taken(fixtures_dir):
    assert not holds({"state_dict": {"weight": torch.zeros(1)}})
    assert not holds({"linear0.weight": torch.zeros(1, 1)})
    with pytest.raises(ImportProblem, match="no network of PyTorch-StudioGAN"):
        from_authors({"weight": torch.zeros(1)})


def test_every_generator_has_a_picture(fixtures_dir):
    """Through the whole door, the family of each told by its file."""
    for path in sorted((fixtures_dir / "studiogan").glob("*-G-*.meta.json"))[:4]:
        name = path.name.removesuffix(".meta.json")
        imported = interop.read(fixtures_dir / "studiogan" / f"{name}.state.safetensors")
        size = json.loads(path.read_text())["config"]["DATA"]["img_size"]
        assert imported.model.sample([0]).shape == (1, 3, size, size)
