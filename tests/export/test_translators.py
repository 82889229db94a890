"""Translators as files: any batch and size, equal to the trained model, drawn from without torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from frugan.export import ExportError, export, package
from frugan.model import Model
from frugan.models.spade import SpadeConfig, SpadeTranslator
from frugan.models.translator import ResnetConfig, ResnetTranslator
from frugan.runtime import Runtime

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def resnet(channels: int = 3) -> Model:
    torch.manual_seed(0)
    net = ResnetTranslator(ResnetConfig(width=4, num_blocks=1, channels=channels)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4)
    return Model(net, None, {"licence": "MIT", "images_seen": 3})


def spade() -> Model:
    torch.manual_seed(0)
    net = SpadeTranslator(SpadeConfig(width=4, num_labels=3, resolution=32, aspect=2.0)).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(30)
    return Model(net)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    model = resnet(channels=1)
    done = export(model, tmp_path_factory.mktemp("export") / "onnx", repeats=0)
    assert done.verification.worst_levels < 0.0128 and done.verification.pictures == 6
    assert "translate(pictures)" in done.usage
    return model, done.model


@pytest.mark.parametrize("size", [(3, 5, 2), (2, 13, 20), (1, 64, 40)])
def test_the_runtime_translates_any_size(exported: tuple[Model, Path], size: tuple[int, int, int]) -> None:
    model, path = exported
    pictures = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    ours = Runtime(path, threads=1).translate(pictures, batch=2)
    theirs = model.translate(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    assert ours.shape == (*size, 1)
    assert np.abs(ours.astype(int) - theirs.permute(0, 2, 3, 1).numpy().astype(int)).max() <= 1


def test_facts_and_refusals(exported: tuple[Model, Path]) -> None:
    model, path = exported
    runtime = Runtime(path, threads=1)
    assert runtime.facts["model"] == model.hash and runtime.facts["inputs"][0]["shape"] == ["N", 3, "H", "W"]
    assert "translator" in path.with_name("README.md").read_text()
    with pytest.raises(ValueError, match="it draws none from seeds"):
        runtime.sample([0])
    with pytest.raises(ValueError, match=r"pictures must be \(N, H, W, 3\)"):
        runtime.translate(np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="multiples of 4"):
        runtime.run_source(np.zeros((1, 3, 10, 8), np.float32))


def test_it_runs_without_torch(exported: tuple[Model, Path]) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np; from frugan.runtime import Runtime\n"
        f"print(Runtime({str(exported[1])!r}, threads=1).translate(np.zeros((1, 9, 9, 3), np.uint8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 9, 9, 1)", done.stderr


def test_label_maps_at_their_size(tmp_path: Path) -> None:
    model = spade()
    runtime = Runtime(export(model, tmp_path / "spade", repeats=0).model, threads=1)
    noise = np.random.default_rng(0)
    maps = np.stack([noise.integers(0, 3, (2, 32, 64)), noise.integers(0, 2, (2, 32, 64))], axis=-1).astype(np.uint8)
    theirs = model.translate(torch.from_numpy(maps).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert np.abs(runtime.translate(maps).astype(int) - theirs.astype(int)).max() <= 1 and theirs.std() > 1
    with pytest.raises(ValueError, match="H and W 32 x 64"):
        runtime.translate(maps[:, :, :32])
    with pytest.raises(ValueError, match="label numbers must be below 3, got 3"):
        runtime.translate(maps + 1)


def test_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = resnet()
    runtime = Runtime(export(model, tmp_path / "ov", to="openvino", repeats=0).model, threads=1)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 30, 20, 3), dtype=np.uint8)
    theirs = model.translate(torch.from_numpy(pictures).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert np.abs(runtime.translate(pictures).astype(int) - theirs.astype(int)).max() <= 1


def test_what_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "run_source", lambda self, source: np.zeros((len(source), 3, *source.shape[2:])))
    monkeypatch.setattr(package, "_write", lambda net, folder, *rest: (folder / "model.onnx").write_bytes(b""))
    monkeypatch.setattr(Runtime, "__init__", lambda self, path: setattr(self, "execution", "float32"))
    with pytest.raises(ExportError, match="nothing was written"):
        export(resnet(), tmp_path / "out", repeats=0)
    assert not (tmp_path / "out").exists()
