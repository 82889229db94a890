"""A class-conditional generator as a file: labels in, spectral norms folded, equal to eager."""

import numpy as np
import pytest
import torch

from frugan.export import export
from frugan.model import Model
from frugan.models.biggan import BigGANConfig, BigGANGenerator
from frugan.models.heads import InfoCodes
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


@pytest.mark.parametrize("into", ["latent", "condition"])
def test_codes_of_infogan_are_chosen_by_the_last_numbers_of_z(tmp_path, into):
    torch.manual_seed(0)
    codes = InfoCodes(num_discrete=1, discrete_size=3, num_continuous=2)
    size = {"resolution": 8, "num_classes": 2, "width": 4, "shared_dim": 4, "latent": "first"}
    config = BigGANConfig(**size, z_dim=8 + codes.size, codes=codes, codes_into=into)
    generator = BigGANGenerator(config).eval().requires_grad_(False)
    done = export(Model(generator, None, {"class_names": ["a", "b"]}), tmp_path / "out", repeats=0)
    runtime = Runtime(done.model)
    meaning = runtime.facts["inputs"][0]["meaning"]
    assert "from place 8 on (counted from 0) they choose InfoGAN's codes: 1 choice of 3 numbers" in meaning
    assert "from place 11 on 2 numbers x, each the code 2 Phi(x) - 1" in meaning
    z = np.random.default_rng(0).standard_normal((1, config.z_dim)).astype(np.float32).repeat(5, axis=0)
    z[:, 8:11] = [[9, 0, 0], [0, 9, 0], [0, 7, 1], [0, 9, 0], [0, 9, 0]]
    z[:, 12] = [0, 0, 0, -40, 40]
    labels = np.tile(np.float32([[1, 0]]), (5, 1))
    images = runtime.run_latents(z, labels=labels)
    np.testing.assert_array_equal(images[1], images[2])
    rows, numbers = generator.info(generator.codes(torch.from_numpy(z), torch.from_numpy(labels)))
    assert rows[:, 0].argmax(dim=1).tolist() == [0, 1, 1, 1, 1] and numbers[2:, 1].tolist() == [0, -1, 1]
    apart = [np.abs(images[1] - images[other]).max() for other in (0, 3, 4)]
    assert min(apart) > 1e-3
