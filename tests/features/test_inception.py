"""The Inception network of FID: structure against numbers of torch-fidelity, layout, fetching."""

import hashlib
import io
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

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


NARROW = {"branch1x1": "conv", "branch5x5_1": "tower.conv", "branch5x5_2": "tower.conv_1"}
NARROW |= {"branch3x3dbl_1": "tower_1.conv", "branch3x3dbl_2": "tower_1.conv_1", "branch3x3dbl_3": "tower_1.conv_2"}
HALVE = {"branch3x3": "conv", "branch3x3dbl_1": "tower.conv"}
HALVE |= {"branch3x3dbl_2": "tower.conv_1", "branch3x3dbl_3": "tower.conv_2"}
MIDDLE = {
    "branch1x1": "conv",
    "branch7x7_1": "tower.conv",
    "branch7x7_2": "tower.conv_1",
    "branch7x7_3": "tower.conv_2",
}
MIDDLE |= {"branch7x7dbl_1": "tower_1.conv", "branch7x7dbl_2": "tower_1.conv_1", "branch7x7dbl_3": "tower_1.conv_2"}
MIDDLE |= {"branch7x7dbl_4": "tower_1.conv_3", "branch7x7dbl_5": "tower_1.conv_4"}
HALVE_AGAIN = {"branch3x3_1": "tower.conv", "branch3x3_2": "tower.conv_1", "branch7x7x3_1": "tower_1.conv"}
HALVE_AGAIN |= {"branch7x7x3_2": "tower_1.conv_1", "branch7x7x3_3": "tower_1.conv_2", "branch7x7x3_4": "tower_1.conv_3"}
WIDE = {"branch1x1": "conv", "branch3x3_1": "tower_conv", "branch3x3_2a": "tower_mixed_conv"}
WIDE |= {"branch3x3_2b": "tower_mixed_conv_1", "branch3x3dbl_1": "tower_1_conv", "branch3x3dbl_2": "tower_1_conv_1"}
WIDE |= {
    "branch3x3dbl_3a": "tower_1_mixed_conv",
    "branch3x3dbl_3b": "tower_1_mixed_conv_1",
    "branch_pool": "tower_2_conv",
}
POOLED = {"branch_pool": "tower_2.conv"}
BLOCKS = {"Mixed_5b": NARROW | POOLED, "Mixed_5c": NARROW | POOLED, "Mixed_5d": NARROW | POOLED, "Mixed_6a": HALVE}
BLOCKS |= dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), MIDDLE | POOLED)
BLOCKS |= {"Mixed_7a": HALVE_AGAIN, "Mixed_7b": WIDE, "Mixed_7c": WIDE}
SCRIPT_NAMES = {"Conv2d_1a_3x3": "layers.conv", "Conv2d_2a_3x3": "layers.conv_1", "Conv2d_2b_3x3": "layers.conv_2"}
SCRIPT_NAMES |= {"Conv2d_3b_1x1": "layers.conv_3", "Conv2d_4a_3x3": "layers.conv_4"}
for number, (block, steps) in enumerate(BLOCKS.items()):
    place = f"layers.mixed_{number}" if number else "layers.mixed"
    SCRIPT_NAMES |= {f"{block}.{ours}": f"{place}.{theirs}" for ours, theirs in steps.items()}


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


def scripted(tensors: dict[str, Tensor], path: Path) -> Path:
    """A TorchScript program with these tensors as buffers of nested modules."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *places, last = name.split(".")
        module = root
        for place in places:
            if place not in module._modules:
                module.add_module(place, nn.Module())
            module = module.get_submodule(place)
        module.register_buffer(last, tensor)
    torch.jit.save(torch.jit.script(root), path)
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_nvidias_torchscript_program_is_read_without_running_it(
    state: dict[str, Tensor], network: Inception2015, tmp_path: Path
) -> None:
    parts = {"conv.weight": "weight", "bn.bias": "beta", "bn.running_mean": "mean", "bn.running_var": "var"}
    assert len(SCRIPT_NAMES) == len({*SCRIPT_NAMES.values()}) == 94
    given = {"output.weight": state["fc.weight"], "output.bias": state["fc.bias"]}
    for ours, theirs in SCRIPT_NAMES.items():
        given |= {f"{theirs}.{new}": state[f"{ours}.{old}"] for old, new in parts.items()}
    plain = {name: torch.ones_like(part) if name.endswith("bn.weight") else part for name, part in state.items()}
    read = open_inception_2015(scripted(given, tmp_path / "inception-2015-12-05.pt"))
    assert read.fingerprint == Inception2015(plain).fingerprint != network.fingerprint
    del given["layers.mixed_9.tower_1_mixed_conv_1.beta"]
    with pytest.raises(ValueError, match=r"not the weights of the Inception .*mixed_9\.tower_1_mixed_conv_1\.beta"):
        open_inception_2015(scripted(given, tmp_path / "less.pt"))


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
