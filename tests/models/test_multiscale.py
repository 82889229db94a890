"""The multi-scale discriminator: counts, shapes, scales and refusals."""

import pytest
import torch
import torch.nn.functional as F

from frugan import models
from frugan.metrics.cost import count_parameters
from frugan.models.multiscale import MultiScaleConfig, MultiScaleDiscriminator

SMALL = MultiScaleConfig(channels=4, width=3)


def test_the_published_network():
    with torch.device("meta"):
        network = models.build(MultiScaleConfig(channels=39))
        found = network(torch.empty(1, 39, 256, 512))
    assert count_parameters(network) / 1e6 == pytest.approx(5.60, abs=0.005)
    assert [tuple(maps.shape[1:]) for maps in found[0]] == [
        *((64, 129, 257), (128, 65, 129), (256, 33, 65), (512, 34, 66)),
        (1, 35, 67),
    ]


def test_scales_see_shrunken_pictures():
    torch.manual_seed(0)
    network = MultiScaleDiscriminator(MultiScaleConfig(channels=4, width=3, num_scales=3))
    images = torch.randn(2, 4, 33, 40)
    found = network(images)
    half = F.avg_pool2d(images, 3, 2, 1, count_include_pad=False)
    assert half.shape[2:] == (17, 20)
    for maps, again in zip(found[1], network.scales[1](half), strict=True):
        assert torch.equal(maps, again)
    assert [len(maps) for maps in found] == [5, 5, 5]


def test_samples_do_not_see_each_other():
    torch.manual_seed(0)
    network, images = MultiScaleDiscriminator(SMALL), torch.randn(3, 4, 16, 16)
    whole, alone = network(images), network(images[1:2])
    for scale, same in zip(whole, alone, strict=True):
        for maps, own in zip(scale, same, strict=True):
            torch.testing.assert_close(maps[1:2], own, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("num_scales", [1, 2, 3])
def test_the_smallest_pictures(num_scales):
    network = MultiScaleDiscriminator(MultiScaleConfig(channels=1, width=2, num_scales=num_scales))
    side = network.config.smallest
    assert all(bool(maps[-1].isfinite().all()) for maps in network(torch.randn(1, 1, side, side)))
    with pytest.raises(ValueError, match=f"1 channels and {side} pixels a side at least"):
        network(torch.randn(1, 1, side - 1, side))


def test_settings():
    plain = MultiScaleDiscriminator(MultiScaleConfig(channels=1, width=2, num_layers=2, norm=False, spectral=False))
    assert {name.rpartition(".")[2] for name in plain.state_dict()} == {"weight", "bias"}
    assert [maps[0].shape[1] for maps in plain(torch.randn(1, 1, 9, 9))] == [2, 2]
    with pytest.raises(ValueError, match="images must have 4 channels"):
        MultiScaleDiscriminator(SMALL)(torch.zeros(1, 3, 16, 16))
    for name in ("channels", "width", "num_scales"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            MultiScaleConfig(**{"channels": 1, name: 0})
    with pytest.raises(ValueError, match="num_layers must be at least 2, got 1"):
        MultiScaleConfig(channels=1, num_layers=1)
