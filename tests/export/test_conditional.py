"""A class-conditional generator as a file: labels in, spectral norms folded, equal to eager."""

import numpy as np
import pytest
import torch

from frugan.export import export
from frugan.model import Model
from frugan.models.biggan import BigGANConfig, BigGANGenerator
from frugan.runtime import Runtime

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def test_onnx(tmp_path):
    torch.manual_seed(0)
    config = BigGANConfig(resolution=16, num_classes=3, width=8, z_dim=12, shared_dim=5, attention=(8,))
    generator = BigGANGenerator(config).eval().requires_grad_(False)
    model = Model(generator, None, {"class_names": ["a", "b", "c"]})
    done = export(model, tmp_path / "out", repeats=1)
    assert done.verification.worst_levels < 0.01
    weights = {tensor.name for tensor in onnx.load(done.model).graph.initializer}
    assert weights and not any(name.endswith((".u", ".v")) for name in weights)
    runtime = Runtime(done.model)
    assert runtime.class_names == ("a", "b", "c")
    chosen = ["a", "c", "b"]
    pictures = runtime.sample([0, 1, 2], classes=chosen)
    assert np.abs(pictures.astype(int) - model.sample([0, 1, 2], classes=chosen).permute(0, 2, 3, 1).numpy()).max() <= 1
    assert not np.array_equal(pictures, runtime.sample([0, 1, 2], classes=["b", "b", "a"]))
