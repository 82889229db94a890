"""Networks of CycleGAN, pix2pix, GAN Compression and GauGAN, from files in their layouts to models of ours."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor

import frugan
from frugan import interop
from frugan.interop.imported import ImportProblem
from tests.cli.conftest import call  # noqa: F401 - the command line in this process

State = OrderedDict[str, Tensor]


def conv(name: str, outputs: int, inputs: int, kernel: int, *, bias: bool = True, turned: bool = False) -> State:
    shape = (inputs, outputs) if turned else (outputs, inputs)
    state = OrderedDict({f"{name}.weight": torch.randn(*shape, kernel, kernel) * 0.2})
    return state | ({f"{name}.bias": torch.randn(outputs) * 0.1} if bias else {})


def resnet(seed: int = 0, blocks: int = 2, second: int = 5, source: int = 3, channels: int = 3) -> State:
    """A CycleGAN generator with 4 filters; `second` is where the second convolution of a block stands."""
    torch.manual_seed(seed)
    state = conv("model.1", 4, source, 7) | conv("model.4", 8, 4, 3) | conv("model.7", 16, 8, 3)
    for block in range(10, 10 + blocks):
        for place in (1, second):
            state |= conv(f"model.{block}.conv_block.{place}", 16, 16, 3)
    end = 10 + blocks
    state |= conv(f"model.{end}", 8, 16, 3, turned=True) | conv(f"model.{end + 3}", 4, 8, 3, turned=True)
    return state | conv(f"model.{end + 7}", channels, 4, 7)


def judge(channels: int = 3, seed: int = 7) -> State:
    """A PatchGAN with one layer between the first and the last two."""
    torch.manual_seed(seed)
    state = conv("model.0", 4, channels, 4)
    return state | conv("model.2", 8, 4, 4) | conv("model.5", 16, 8, 4) | conv("model.8", 1, 16, 4)


def put(path: Path, state: State, *, legacy: bool = False) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("second", [5, 6])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_generator_under_any_name(tmp_path: Path, second: int, legacy: bool) -> None:
    """The block's index depends on a dropout of no effect; the networks are the same."""
    path = put(tmp_path / "whatever.bin", resnet(second=second), legacy=legacy)
    imported = interop.import_checkpoint(path, tmp_path / "out")
    assert "ResNet" in imported.family and "BSD" in imported.licence
    assert any("weights, all finite" in line for line in imported.check)
    assert any("translation of random pixels" in line for line in imported.check)
    assert any("without a discriminator" in note for note in imported.notes)
    images = torch.randint(0, 256, (2, 3, 13, 20), dtype=torch.uint8)
    made = frugan.load(tmp_path / "out").translate(images)
    other = interop.read(put(tmp_path / "b", resnet(second=11 - second))).model
    assert made.shape == images.shape and torch.equal(made, other.translate(images))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A translator (3 to 3 channels)" in card and "image-to-image" in card


def test_a_folder_of_a_cyclegan(tmp_path: Path) -> None:
    """Generators by the order of their names, the first discriminator judges what the first generator makes."""
    folder = tmp_path / "zebra"
    folder.mkdir()
    put(folder / "latest_net_G_A.pth", resnet(0))
    put(folder / "latest_net_G_B.pth", resnet(1))
    put(folder / "latest_net_D_A.pth", judge(seed=2))
    put(folder / "latest_net_D_B.pth", judge(seed=3))
    (folder / "loss_log.txt").write_text("epoch 1\n")
    imported = interop.import_checkpoint(folder, tmp_path / "out")
    model = frugan.load(tmp_path / "out")
    assert model.reverse is not None and model.discriminator is not None
    first, second = (interop.read(folder / f"latest_net_G_{side}.pth").model for side in "AB")
    assert model.hash == first.hash and model.reversed().hash == second.hash
    weight = model.discriminator.state_dict()["layers.0.conv.weight"]
    assert torch.equal(weight, judge(seed=2)["model.0.weight"])
    assert any("latest_net_G_B.pth for the other" in note for note in imported.notes)
    assert any("latest_net_D_B.pth was left out" in note for note in imported.notes)
    assert len(imported.check) == 5  # three networks, a picture of each direction


def test_pix2pix_sees_both(tmp_path: Path) -> None:
    put(tmp_path / "g", resnet(source=1, blocks=1))
    put(tmp_path / "d", judge(channels=4))
    model = interop.read(tmp_path).model
    assert model.discriminator is not None and model.translator.config.source_channels == 1
    put(tmp_path / "d", judge(channels=6))
    imported = interop.read(tmp_path)
    assert imported.model.discriminator is None and any("other channels" in note for note in imported.notes)


def test_mistakes(tmp_path: Path) -> None:
    only = tmp_path / "only"
    only.mkdir()
    with pytest.raises(ImportProblem, match="no file in this folder"):
        interop.read(only)
    put(only / "d.pth", judge())
    with pytest.raises(ImportProblem, match=r"only discriminators are in it \(d.pth\)"):
        interop.read(only)
    for index in range(3):
        put(only / f"{index}_net_G.pth", resnet(index))
    with pytest.raises(ImportProblem, match="it holds 3 generators"):
        interop.read(only)
    broken = resnet()
    broken["model.1.weight"][0] = float("nan")
    with pytest.raises(ImportProblem, match="not finite"):
        interop.read(put(tmp_path / "nan.pth", broken))
    del broken["model.4.weight"]
    with pytest.raises(ImportProblem, match=r"model\.4\.weight"):
        interop.read(put(tmp_path / "less.pth", broken))
    dull = OrderedDict((name, torch.zeros_like(value)) for name, value in resnet().items())
    with pytest.raises(ImportProblem, match="single colour"):
        interop.read(put(tmp_path / "dull.pth", dull))


def test_commands(call, tmp_path: Path) -> None:  # noqa: F811
    put(tmp_path / "latest_net_G.pth", resnet())
    status, shown = call("import", "latest_net_G.pth", "--out", "model")
    assert status == 0 and "frugan translate model" in shown and "A translator (3 to 3 channels)" in shown
    status, shown = call("info", "model")
    assert (status == 0 and "resnet_translator" in shown) or "ResNet" in shown
    status, shown = call("sample", "model")
    assert status == 2 and "frugan translate" in shown
