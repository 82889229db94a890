"""The Inception network of FID: structure against numbers of torch-fidelity, layout, fetching."""

import hashlib
import io
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from frugan.features import inception
from frugan.features.inception import Inception2015, download_inception_2015, open_inception_2015, state_shapes

# torch-fidelity 0.4.0, feature_extractor_inceptionv3, with the weights of `state` and the pictures below:
# the first four numbers for the second picture.
PUBLISHED = {
    "pool192": [0.6564, 0.95332, 1.68771, 0.32468],
    "pool768": [2.11186, 0.15398, 0.07481, 0.39758],
    "pool": [20.375, 0.03421, 0.0, 0.42418],
    "logits_unbiased": [5.81321, 7.13431, -5.56806, 1.4489],
    "logits": [5.86279, 7.02736, -5.45119, 1.53899],
}


def invent(name: str, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if name.endswith(("running_var", "bn.weight")):
        return torch.rand(shape, generator=generator) + 0.5
    scale = (2 / (shape[1] * shape[2] * shape[3])) ** 0.5 if len(shape) == 4 else 0.1
    return torch.randn(shape, generator=generator) * scale


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return {name: invent(name, shape) for name, shape in state_shapes().items()}


@pytest.fixture(scope="module")
def network(state: dict[str, Tensor]) -> Inception2015:
    return Inception2015(state)


def test_the_layout_has_the_published_size() -> None:
    shapes = state_shapes()
    assert len(shapes) == 94 * 5 + 2
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 23_885_392


def test_it_equals_torch_fidelity(network: Inception2015) -> None:
    images = torch.randint(0, 256, (2, 3, 50, 70), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    got = network(images.float(), tuple(PUBLISHED))
    for tap, expected in PUBLISHED.items():
        torch.testing.assert_close(got[tap][1, :4], torch.tensor(expected), rtol=0, atol=1e-3)
    assert got["pool"].shape == (2, 2048) and got["logits"].shape == (2, 1008)


def test_gradients_reach_the_pictures_only(network: Inception2015) -> None:
    images = (torch.rand(1, 3, 32, 32) * 255).requires_grad_()
    network(images)["pool"].sum().backward()
    assert images.grad is not None and images.grad.isfinite().all() and images.grad.abs().max() > 0
    assert not any(weight.requires_grad for weight in network.parameters())


def test_the_file_is_found_in_torch_hubs_folder(
    state: dict[str, Tensor], network: Inception2015, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    counts = {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}
    torch.save(state, folder / "pt_inception-2015-12-05-6726825d.pth")
    torch.save(state | counts, tmp_path / "named.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found, named = open_inception_2015(), open_inception_2015(tmp_path / "named.pth")
    assert found.fingerprint == network.fingerprint and found.resizer == "tf1-bilinear-299"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"put .* into .*nowhere.*, or name the file; .* fetches them"):
        open_inception_2015()
    assert torch.equal(named.classifier.weight, network.classifier.weight)


def test_weights_that_do_not_fit_are_named(state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"fc\.weight must have shape \(1008, 2048\), got \(1000, 2048\)"):
        Inception2015(state | {"fc.weight": torch.zeros(1000, 2048)})
    with pytest.raises(ValueError, match=r"AuxLogits\.x must have shape None"):
        Inception2015(state | {"AuxLogits.x": torch.zeros(1)})


def test_fetching_needs_consent_and_the_right_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(b"weights")

    monkeypatch.setattr(inception.urllib.request, "urlopen", answer)
    with pytest.raises(ValueError, match="consent"):
        download_inception_2015(consent=False)
    assert not asked
    with pytest.raises(ValueError, match=r"gave other weights: SHA-256"):
        download_inception_2015(consent=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    monkeypatch.setattr(inception, "_DIGEST", hashlib.sha256(b"weights").hexdigest()[:8])
    path = download_inception_2015(consent=True)
    assert path.read_bytes() == b"weights" and len(asked) == 2
    assert download_inception_2015(consent=False) == path and len(asked) == 2
