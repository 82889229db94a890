"""VGG19: taps against a plain network with the published order of layers, conventions, and files that are not it."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from frugan.features.vgg import TAPS, VGG19, open_vgg19
from frugan.interop import torch_file

PLAN = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M")


def published():
    """The layers in the order in which the published weights number them."""
    torch.manual_seed(0)
    layers, inputs = [], 3
    for width in PLAN:
        if width == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        conv = nn.Conv2d(inputs, width, 3, padding=1)
        nn.init.normal_(conv.weight, std=math.sqrt(2 / (9 * inputs)))
        layers += [conv, nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers).requires_grad_(False)


@pytest.fixture(scope="module")
def plain():
    return published()


@pytest.fixture(scope="module")
def state(plain):
    return {f"features.{name}": tensor for name, tensor in plain.state_dict().items()} | {
        "classifier.0.bias": torch.zeros(2)
    }


@torch.no_grad()
def expected(plain, x):
    found = {}
    for index, layer in enumerate(plain[:30]):
        x = layer(x)
        if index in (1, 6, 11, 20, 29):
            found[TAPS[len(found)]] = x
    return found


@pytest.mark.parametrize("side", [32, 37])
@torch.no_grad()
def test_taps(plain, state, side):
    images = torch.rand(2, 3, side, side + 5) * 255
    network = VGG19(state)
    found = network(images, ("pool", *TAPS))
    for tap, maps in expected(plain, images / 127.5 - 1).items():
        torch.testing.assert_close(found[tap], maps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["pool"], found["relu5_1"].mean(dim=(2, 3)))
    assert set(network(images, ("relu2_1",))) == {"relu2_1"}


@torch.no_grad()
def test_conventions(plain, state):
    images = torch.rand(1, 3, 16, 16) * 255
    mean, deviation = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    network = VGG19(state, "imagenet")
    found = network(images, TAPS)
    for tap, maps in expected(plain, (images / 255 - mean) / deviation).items():
        torch.testing.assert_close(found[tap], maps, atol=1e-4, rtol=1e-4)
    assert (network.name, VGG19(state).name) == ("vgg19 (imagenet)", "vgg19")
    assert network.fingerprint == VGG19(state).fingerprint


def test_frozen_but_differentiable(state):
    network = VGG19(state).train()
    images = (torch.rand(1, 3, 16, 16) * 255).requires_grad_()
    network(images, ("relu3_1",))["relu3_1"].sum().backward()
    assert bool(images.grad.any()) and not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


def test_files(state, tmp_path):
    save_file(state, tmp_path / "vgg19.safetensors")
    (tmp_path / "vgg19.pth").write_bytes(torch_file.pack(state))
    ours = open_vgg19(tmp_path / "vgg19.pth")
    assert ours.fingerprint == open_vgg19(tmp_path / "vgg19.safetensors").fingerprint == VGG19(state).fingerprint


def test_what_is_not_vgg19(state, tmp_path):
    with pytest.raises(ValueError, match="vgg19 needs its weights: give the path"):
        open_vgg19(None)
    with pytest.raises(ValueError, match="no weights of VGG19 at"):
        open_vgg19(tmp_path / "absent.pth")
    sixteen = {name: tensor for name, tensor in state.items() if ".16." not in name}  # a pooling layer in VGG16
    with pytest.raises(ValueError, match=r"these are not the weights of VGG19: 'features\.16\.weight'"):
        VGG19(sixteen)
    with pytest.raises(ValueError, match="these are not the weights of VGG19"):
        VGG19(state | {"features.0.weight": torch.zeros(64, 3, 5, 5)})
