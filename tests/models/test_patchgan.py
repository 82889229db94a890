"""The patch discriminators: sizes, counts, subnets; parity with the authors' numbers is in tests/parity."""

import pytest
import torch

from frugan import models
from frugan.metrics.cost import count_macs, count_parameters
from frugan.models.patchgan import PatchConfig, PyramidConfig
from frugan.models.subnet import Subnet, extract

SMALL = {
    "layers": PatchConfig(width=4, channels=6),
    "one layer": PatchConfig(width=4, num_layers=1, norm=None),
    "five layers": PatchConfig(width=2, num_layers=5, norm="batch"),
    "pixel": PatchConfig(kind="pixel", width=4),
    "pixel batch": PatchConfig(kind="pixel", width=4, norm="batch", channels=1),
}


def built(config):
    torch.manual_seed(0)
    net = models.build(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return net


def pictures(config, height=96, width=128):
    return torch.randn(2, config.channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("channels", "width", "parameters"), [(6, 128, 11_040_641), (3, 64, 2_764_737), (6, 64, 2_767_809)]
)
def test_counts_of_the_authors_networks(channels, width, parameters):
    with torch.device("meta"):
        net = models.build(PatchConfig(channels=channels, width=width))
        images = torch.empty(1, channels, 256, 256)
    assert count_parameters(net) == parameters
    assert len(net.state_dict()) == 10
    assert net(images).shape == (1, 1, 30, 30)
    taps = (channels, width, 2 * width, 4 * width, 8 * width, 1)
    sizes = (128, 64, 32, 31, 30)
    macs = sum(16 * taps[k] * taps[k + 1] * size**2 for k, size in enumerate(sizes))
    assert count_macs(lambda: net(images)).total == macs


def test_a_patch_of_three_layers_is_70_pixels_wide():
    net = built(PatchConfig(width=2, norm=None))
    images = pictures(net.config, 128, 128).requires_grad_()
    (seen,) = torch.autograd.grad(net(images)[0, 0, 7, 7], images)
    rows = seen[0].abs().sum(dim=(0, 2)).nonzero()
    assert (rows.max() - rows.min() + 1).item() == 70


def test_a_pixel_is_judged_by_itself():
    net = built(PatchConfig(kind="pixel", width=4, norm=None))
    images = pictures(net.config, 5, 7)
    logits = net(images)
    assert logits.shape == (2, 1, 5, 7)
    torch.testing.assert_close(net(images[:, :, 2:3, 4:5]), logits[:, :, 2:3, 4:5])


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
@torch.no_grad()
def test_an_extracted_network_is_the_sliced_one(config, is_training):
    net = built(config).train(is_training)
    for subnet in (
        Subnet.uniform(config, 0.5),
        Subnet(widths=tuple(w - k % 2 for k, w in enumerate(config.layer_widths))),
    ):
        small = extract(net, subnet)
        assert small.config.layer_widths == subnet.widths
        torch.testing.assert_close(small(pictures(config)), net(pictures(config), subnet=subnet))
    with pytest.raises(ValueError, match="must be at most"):
        net(pictures(config), subnet=Subnet(widths=tuple(w + 1 for w in config.layer_widths)))


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_the_smallest_picture(config):
    net = built(config).eval()
    size = max(config.smallest, 2)  # instance norm needs more than one pixel
    assert net(pictures(config, size, size)).numel() > 0
    with pytest.raises(ValueError, match=f"judges {config.channels} channels of at least"):
        net(pictures(config, config.smallest - 1, size))
    with pytest.raises(ValueError, match="got \\(2, 64, 64\\)"):
        net(torch.zeros(1, 2, 64, 64))


def test_pyramid_shrinks_between_its_nets():
    config = PyramidConfig(width=2, num_layers=2, num_scales=2, channels=1)
    net = built(config)
    images = pictures(config)
    large, small = net(images)
    assert [tuple(map_.shape[1:]) for map_ in large] == [(2, 48, 64), (4, 24, 32), (1, 24, 32)]
    assert [tuple(map_.shape[1:]) for map_ in small] == [(2, 24, 32), (4, 12, 16), (1, 12, 16)]
    flat = torch.full((1, 1, 16, 16), 0.5)
    net.scales[1].load_state_dict(net.scales[0].state_dict())
    large, small = net(flat)  # averages at the edges are over the pixels that are there
    torch.testing.assert_close(small[-1], large[-1][:, :, :2, :2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchConfig(channels=0), "channels must be at least 1, got 0"),
        (lambda: PatchConfig(num_layers=0), "num_layers must be at least 1, got 0"),
        (lambda: PatchConfig(width=0), "width must be at least 1, got 0"),
        (lambda: PatchConfig(widths=(1, 2)), "widths must be 4 numbers"),
        (lambda: PyramidConfig(num_scales=0), "num_scales must be at least 1, got 0"),
    ],
)
def test_settings_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
