"""Generators without styles, exported: pictures from seeds and classes, and clear words for what they do not have."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from frugan.export import ExportError, export
from frugan.model import Model
from frugan.models.progan import ProGANConfig, ProGANGenerator
from frugan.runtime import Runtime

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def tiny(**changes: object) -> Model:
    torch.manual_seed(1)
    settings = {"resolution": 16, "channel_max": 6, "z_dim": 5, **changes}
    generator = ProGANGenerator(ProGANConfig(**settings)).eval().requires_grad_(False)  # type: ignore[arg-type]
    for name, parameter in generator.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    return Model(generator, None, {"licence": "CC0-1.0"})


SETTINGS = {
    "article": {"num_classes": 3},
    "labels before": {"num_classes": 3, "label_order": "before", "channels": 1},
    "batch norm": {"norm": "batch", "activation": "relu", "tanh": True, "equalized": False, "latent": "normal"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_exported_is_eager(tmp_path: Path, name: str) -> None:
    model = tiny(**SETTINGS[name])
    done = export(model, tmp_path / "out", repeats=0)
    assert done.verification.worst_levels <= 127.5e-4 and done.verification.pictures == 10
    runtime = Runtime(done.model, threads=1)
    assert not runtime.has_styles and not runtime.is_translator
    for seeds, classes in (([3], [2]), ([0, 1, 2, 7, 9], None)):
        classes = classes if SETTINGS[name].get("num_classes") else None
        ours = runtime.sample(seeds, classes=classes, batch=2)
        eager = model.sample(seeds, classes=classes).permute(0, 2, 3, 1).numpy()
        assert np.abs(ours.astype(int) - eager).max() <= 1 and ours.std() > 10
    assert [entry["name"] for entry in runtime.facts["outputs"]] == ["images"]
    inputs = [entry["name"] for entry in runtime.facts["inputs"]]
    assert inputs == (["z", "labels"] if "num_classes" in SETTINGS[name] else ["z"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny(num_classes=3), tmp_path_factory.mktemp("export") / "out", precision="fp16", repeats=1).model


def test_what_it_does_not_have_is_said(written: Path) -> None:
    runtime = Runtime(written, threads=1)
    z = np.zeros((2, 5), np.float32)
    calls = {
        "psi other than 1": lambda: runtime.sample([0], psi=0.7),
        "or a cutoff": lambda: runtime.sample([0], cutoff=1),
        "w needs a model with styles": lambda: runtime.w([0]),
        "walk needs": lambda: list(runtime.walk([0, 1])),
        "synthesize needs": lambda: runtime.synthesize(np.zeros((1, 1, 1), np.float32)),
        "run needs": lambda: runtime.run(z),
        "at least one seed": lambda: runtime.sample([]),
        "labels must have the shape": lambda: runtime.run_latents(z),
        "z must have the shape": lambda: runtime.run_latents(z[:, :4], labels=np.zeros((2, 3), np.float32)),
        "no class": lambda: runtime.sample([0], classes=["seven"]),
        "it does not translate": lambda: runtime.translate(np.zeros((1, 8, 8, 3), np.uint8)),
    }
    for part, act in calls.items():
        with pytest.raises(ValueError, match=part):
            act()


def test_the_command_line_draws_at_psi_1(written: Path, tmp_path: Path) -> None:
    """In a process that cannot import torch."""
    program = "import sys; sys.modules['torch'] = None; from frugan.runtime import main; sys.exit(main(sys.argv[1:]))"
    picture = tmp_path / "grid.png"
    done = subprocess.run(
        [sys.executable, "-c", program, str(written), "--seeds", "0-3", "--out", str(picture)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_model_that_is_still_growing_is_refused(tmp_path: Path) -> None:
    young = Model(tiny().generator, None, {"stage": {"resolution": 8, "alpha": 0.25}})
    with pytest.raises(ExportError, match=r"at 8 of 16 px, its newest layers at 25%"):
        export(young, tmp_path / "out", repeats=0)
    assert not (tmp_path / "out").exists()


def test_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = tiny()
    runtime = Runtime(export(model, tmp_path / "out", to="openvino", repeats=0).model, threads=1)
    eager = model.sample([0, 4]).permute(0, 2, 3, 1).numpy()
    assert np.abs(runtime.sample([0, 4]).astype(int) - eager).max() <= 1
