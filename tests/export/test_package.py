"""Exported = trained, for every kind of generator; nothing is left where that fails."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from frugan.export import ExportError, export, package
from frugan.model import Model
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.runtime import Runtime

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def tiny(**changes: object) -> Model:
    """A generator with random weights, whose average, noise and biases do something."""
    settings = {"resolution": 8, "channel_base": 32, "channel_max": 6, "z_dim": 5, "w_dim": 4, "mapping_layers": 2}
    torch.manual_seed(1)
    generator = Generator(StyleGAN2Config(**{**settings, **changes})).eval().requires_grad_(False)  # type: ignore[arg-type]
    generator.mapping.w_avg.normal_()
    for layer in generator.synthesis.layers():
        nn.init.constant_(layer.noise_strength, 0.3)
        nn.init.normal_(layer.bias)
    info = {"licence": "CC0-1.0", "images_seen": 5, "data": {"source": "made up", "licence": "CC-BY-4.0"}}
    return Model(generator, None, info)


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    model = tiny()
    folder = tmp_path_factory.mktemp("export") / "rgb"
    export(model, folder, repeats=0)
    return model, folder


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 1, "mapping_layers": 1, "conv_clamp": 2.0},
        {"channels": 4, "num_classes": 3, "mapping_layers": 3},
        {"architecture": "resnet", "resample_filter": (1.0, 2.0, 1.0), "num_half_resolutions": 0},
        {"architecture": "orig", "widths": (3, 5, 1, 7), "resample_filter": (1.0, 3.0, 5.0, 7.0, 7.0, 5.0, 3.0, 1.0)},
    ],
    ids=["grey", "rgba-labels", "resnet-odd-filter", "orig-odd-widths-long-filter"],
)
def test_exported_is_eager(tmp_path: Path, changes: dict[str, object]) -> None:
    model = tiny(**changes)
    done = export(model, tmp_path / "out", repeats=0)
    assert done.verification.worst_levels <= 127.5e-4
    assert done.verification.pictures == 25
    runtime = Runtime(done.model, threads=1)
    for seeds in ([3], [0, 1, 2, 7, 9]):
        ours = runtime.sample(seeds, psi=0.7)
        eager = model.sample(seeds, psi=0.7).permute(0, 2, 3, 1).numpy()
        assert ours.shape == eager.shape
        assert np.abs(ours.astype(int) - eager).max() <= 1  # a value between two levels may round either way
        assert (ours == eager).mean() > 0.99


def test_what_is_in_the_folder(rgb: tuple[Model, Path]) -> None:
    model, folder = rgb
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.json", "model.onnx"]
    facts = json.loads((folder / "model.json").read_text())
    assert facts["model"] == model.hash
    assert [entry["name"] for entry in facts["inputs"]] == ["z", "psi", "w_shift", "noise_strength"]
    assert facts["inputs"][2]["shape"] == ["N", 4, 4]
    assert facts["verification"]["worst_levels"] <= facts["verification"]["allowed"]["worst_levels"]
    assert facts["files"]["model.onnx"]["size_bytes"] == (folder / "model.onnx").stat().st_size
    assert "CC-BY-4.0" in (folder / "README.md").read_text()


def test_the_file_holds_no_paths_and_any_batch_size(rgb: tuple[Model, Path]) -> None:
    _, folder = rgb
    data = (folder / "model.onnx").read_bytes()
    for word in (b"site-packages", b".py", str(Path.home()).encode(), b"stack_trace"):
        assert word not in data
    graph = onnx.load_from_string(data).graph
    assert {node.domain for node in graph.node} == {""}
    axes = {value.name: [axis.dim_param for axis in value.type.tensor_type.shape.dim] for value in graph.input}
    axes |= {value.name: [axis.dim_param for axis in value.type.tensor_type.shape.dim] for value in graph.output}
    assert axes == {
        "z": ["N", ""],
        "psi": [""],
        "w_shift": ["N", "", ""],
        "noise_strength": [],
        "images": ["N", "", "", ""],
        "w": ["N", "", ""],
    }
    kinds = {node.op_type for node in graph.node}
    assert {"Conv", "ConvTranspose", "Gemm"} <= kinds
    assert not kinds & {"RandomNormal", "RandomNormalLike", "If", "Loop", "BatchNormalization"}


def test_half_weights_make_half_the_file(tmp_path: Path) -> None:
    model = tiny(resolution=4, channel_max=96, channel_base=512)
    whole = export(model, tmp_path / "whole", repeats=0)
    half = export(model, tmp_path / "half", precision="fp16", repeats=0)
    assert half.sizes["model.onnx"] < 0.55 * whole.sizes["model.onnx"]
    assert 0 < half.verification.worst_levels <= 4
    assert "float16" in half.notes[0]
    assert Runtime(half.model).facts["weights"] == "float16"


def test_weights_that_float16_cannot_hold_stay_float32(tmp_path: Path) -> None:
    model = tiny(resolution=4, z_dim=20, w_dim=20, mapping_lr_multiplier=1e-6)
    assert model.generator.mapping.get_parameter("fc0.weight").abs().max() > 70_000
    export(model, tmp_path / "half", precision="fp16", repeats=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino(tmp_path: Path, precision: package.Precision) -> None:
    pytest.importorskip("openvino")
    model = tiny(resolution=4 if precision == "bf16" else 8)
    done = export(model, tmp_path / "out", to="openvino", precision=precision, repeats=0)
    assert sorted(done.sizes) == ["README.md", "model.bin", "model.json", "model.xml"]
    runtime = Runtime(done.model, threads=1)
    assert runtime.execution in (("float32",) if precision == "fp32" else ("float32", "bfloat16"))
    if runtime.execution == "float32" and precision == "bf16":
        assert "no bfloat16" in done.notes[0]
    eager = model.sample([1, 2, 3]).permute(0, 2, 3, 1).numpy()
    assert np.abs(runtime.sample([1, 2, 3]).astype(int) - eager).max() <= (1 if precision == "fp32" else 24)


def test_times_and_memory_are_measured(tmp_path: Path) -> None:
    done = export(tiny(resolution=4), tmp_path / "out", repeats=1)
    assert set(done.latency) == {(who, batch) for who in ("eager", "exported") for batch in (1, 16)}
    assert done.memory is None or 20 < done.memory.peak_mb < 1000


def written(model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export whose graph is not that of the model."""
    other = tiny(resolution=4).generator
    other.mapping.w_avg.add_(0.05)
    real = package.to_onnx
    monkeypatch.setattr(package, "to_onnx", lambda _, facts, half: real(other, facts, half=half))
    export(model, folder, repeats=0)


def test_another_model_is_refused_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(resolution=4)
    with pytest.raises(ExportError, match=r"draws other pictures than the trained one.*nothing was written"):
        written(model, tmp_path / "out", monkeypatch)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def write(generator: Generator, folder: Path, *_: object) -> None:
        calls.append(folder)
        raise ExportError("stop here")

    monkeypatch.setattr(package, "_write", write)
    folder = tmp_path / "out"
    folder.mkdir()
    model = tiny(resolution=4)
    with pytest.raises(ExportError, match="stop here"):  # an empty folder is fine
        export(model, folder)
    for name in ("model.json", "model.onnx"):
        (folder / name).write_text("old")
    with pytest.raises(ExportError, match="holds an export already"):
        export(model, folder)
    with pytest.raises(ExportError, match="stop here"):
        export(model, folder, overwrite=True)
    assert (folder / "model.onnx").read_text() == "old"
    (folder / "photo.png").write_text("mine")
    with pytest.raises(ExportError, match="holds other things than an export"):
        export(model, folder, overwrite=True)
    with pytest.raises(ExportError, match="is a file"):
        export(model, folder / "photo.png")
    assert len(calls) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_impossible_wishes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(resolution=4)
    with pytest.raises(ExportError, match="bf16 needs --to openvino"):
        export(model, tmp_path / "out", precision="bf16")
    monkeypatch.setattr(package, "_is_installed", lambda name: name != "onnxscript")
    with pytest.raises(ExportError, match=r"needs onnxscript: pip install 'frugan\[export\]'"):
        export(model, tmp_path / "out")
    monkeypatch.setattr(package, "_is_installed", lambda name: name != "openvino")
    with pytest.raises(ExportError, match=r"frugan\[openvino\]"):
        export(model, tmp_path / "out", to="openvino")
    assert list(tmp_path.iterdir()) == []
