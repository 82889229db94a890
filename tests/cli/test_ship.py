"""`frugan export` and `frugan cost` as a user types them."""

import importlib.util
from pathlib import Path

import pytest
import torch

from frugan import load
from frugan.model import Model, save
from frugan.models.progan import ProGANConfig, ProGANGenerator
from frugan.models.stylegan2 import Generator, StyleGAN2Config

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A small generator with random weights, saved."""
    config = StyleGAN2Config(resolution=8, channel_base=128, channel_max=16, z_dim=8, w_dim=8, mapping_layers=2)
    save(Model(Generator(config)), tmp_path / "tiny")
    return "tiny"


@pytest.mark.skipif(not HAS_ONNX, reason="needs the extra `export`")
def test_export(call, model: str, tmp_path: Path) -> None:
    status, text = call("export", model, "--precision", "fp16", "--repeats", "1")
    assert status == 0, text
    for part in ("model.onnx", "compared on 25 pictures", "eager, 1 picture:", "exported, 16 pictures:", "float16"):
        assert part in text
    assert (tmp_path / "export-onnx" / "model.onnx").is_file()
    status, text = call("export", model)
    assert status == 2 and "holds an export already" in text


def test_refusals_are_one_line(call) -> None:
    assert call("export", "nowhere") == (2, "frugan: nowhere is neither a run, a checkpoint, nor 'demo'\n")
    status, text = call("export", "demo", "--precision", "bf16")
    assert status == 2 and "bf16 needs --to openvino" in text
    status, text = call("cost", "demo", "--ratio", "2")
    assert status == 2 and "ratio must be above 0 and at most 1" in text


def test_cost_of_a_model_and_of_a_part_of_it(call, model: str) -> None:
    status, whole = call("cost", model, "--repeats", "1")
    assert status == 0, whole
    for part in (
        "8 px, 3 channels",
        "multiply-adds",
        "as torchprofile counts",
        "16 pictures",
        "threads",
        "parameters",
    ):
        assert part in whole
    status, part = call("cost", model, "--repeats", "1", "--ratio", "0.5", "--resolution", "4")
    assert status == 0 and "4 px" in part

    def macs(text: str) -> float:
        return float(text.split("multiply-adds")[1].split()[0])

    assert macs(part) < 0.5 * macs(whole)


def test_export_to_rosinality_comes_back_as_it_was(call, model: str, tmp_path: Path) -> None:
    save_as = tmp_path / "same"
    config = StyleGAN2Config(resolution=8, channel_base=128, channel_max=16, z_dim=8, w_dim=8, mapping_layers=2)
    generator = Generator(config).eval()
    with torch.no_grad():
        generator.mapping.w_avg.copy_(generator.mapping(torch.randn(256, 8))[:, 0].mean(0))
    save(Model(generator, info={"licence": "mine alone"}), save_as)
    status, said = call("export", "same", "--to", "rosinality", "--out", "half.pt", "--precision", "fp16")
    assert status == 2 and "got --precision fp16" in said and not Path("half.pt").exists()
    status, said = call("export", "same", "--to", "rosinality", "--out", "out.pt")
    assert status == 0 and "mine alone" in said
    pictures = load("same").sample(range(3))
    assert (load("out.pt").sample(range(3)).int() - pictures.int()).abs().max() <= 1
    before = (tmp_path / "out.pt").read_bytes()
    status, said = call("export", "same", "--to", "rosinality", "--out", "out.pt")
    assert status == 2 and "--overwrite" in said and (tmp_path / "out.pt").read_bytes() == before


def test_a_growing_model_costs_less_at_fewer_pixels_and_is_exported_when_grown(call, tmp_path: Path) -> None:
    save(Model(ProGANGenerator(ProGANConfig(resolution=16, channel_max=8, z_dim=4))), tmp_path / "grown")
    found = {}
    for words in ((), ("--resolution", "8")):
        status, text = call("cost", "grown", "--repeats", "1", *words)
        assert status == 0, text
        found[words] = [
            int(text.split("parameters")[1].split()[0].replace(",", "")),
            float(text.split("adds")[1].split()[0]),
        ]
    assert all(small < whole for small, whole in zip(found["--resolution", "8"], found[()], strict=True))
    status, text = call("cost", "grown", "--ratio", "0.5")
    assert status == 2 and "a progan model has no styles" in text
    net = ProGANGenerator(ProGANConfig(resolution=16, channel_max=8, z_dim=4))
    save(Model(net, None, {"stage": {"resolution": 8, "alpha": 0.5}}), tmp_path / "young")
    status, text = call("export", "young")
    assert status == 2 and "still growing: at 8 of 16 px, its newest layers at 50%" in text
