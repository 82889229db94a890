import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.models.subnet import Subnet, extract

FULL = (7, 6, 8, 5, 6, 4)
ANYCOST = StyleGAN2Config(resolution=1024)


def generator(architecture="skip", **more):
    torch.manual_seed(0)
    config = StyleGAN2Config(
        resolution=16, z_dim=5, w_dim=7, mapping_layers=2, widths=FULL, architecture=architecture, **more
    )
    network = Generator(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        network.mapping.w_avg.normal_()
    return network


NETWORKS = {name: generator(name) for name in ("skip", "resnet", "orig")}


@settings(max_examples=25, deadline=None)
@given(
    architecture=st.sampled_from(sorted(NETWORKS)),
    widths=st.tuples(*(st.integers(1, most) for most in FULL)),
    stop=st.sampled_from([None, 4, 8, 16]),
    batch=st.integers(1, 3),
    psi=st.sampled_from([1.0, 0.5]),
)
@torch.no_grad()
def test_running_a_part_equals_the_extracted_network(architecture, widths, stop, batch, psi):
    network = NETWORKS[architecture]
    subnet = Subnet(widths=widths, resolution=stop if architecture == "skip" else None)
    small = extract(network, subnet)
    z = torch.randn(batch, 5, generator=torch.Generator().manual_seed(batch))
    noise = [torch.randn(batch, *shape) for shape in network.noise_shapes(subnet)]
    for kind in ("const", "none", noise):
        part = network(z, psi=psi, noise=kind, subnet=subnet)
        torch.testing.assert_close(small(z, psi=psi, noise=kind), part, atol=1e-5, rtol=1e-5)
    assert small.noise_shapes() == network.noise_shapes(subnet)
    assert small.config.layer_widths == subnet.widths[: len(small.config.layer_widths)]
    full = network(z, psi=psi, subnet=subnet)
    assert full.shape[2] == small.config.resolution


@torch.no_grad()
def test_the_whole_network_is_its_own_subnet():
    network = NETWORKS["skip"]
    z = torch.randn(2, 5)
    torch.testing.assert_close(network(z, subnet=Subnet(widths=FULL)), network(z))
    assert extract(network, Subnet(widths=FULL)).config.layer_widths == FULL


@torch.no_grad()
def test_early_exit_is_the_running_image():
    network = NETWORKS["skip"]
    w = network.mapping(torch.randn(2, 5))
    images = network.synthesis.images(w)
    for resolution in (4, 8, 16):
        early = network.synthesis(w, subnet=Subnet(widths=FULL, resolution=resolution))
        torch.testing.assert_close(early, images[resolution])


def test_gradients_reach_the_leading_channels_only():
    network = generator()
    network(torch.randn(2, 5), subnet=Subnet(widths=(3, 3, 3, 3, 3, 3))).sum().backward()
    grad = network.synthesis.b16.conv1.weight.grad
    assert grad[:3, :3].any()
    assert not grad[3:].any() and not grad[:, 3:].any()


def test_threads_with_different_subnets_do_not_disturb_each_other():
    network = NETWORKS["skip"]
    z = torch.randn(2, 5)
    parts = [Subnet(widths=(width,) * 6) for width in (1, 2, 3, 4)]
    with torch.no_grad():
        alone = [network(z, subnet=part) for part in parts]
    wrong = []

    def run(part, expected):
        with torch.no_grad():
            for _ in range(10):
                if not torch.allclose(network(z, subnet=part), expected):
                    wrong.append(part)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(parts, alone, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_extraction_keeps_random_state_mode_and_dtype():
    network = generator().double().eval()
    before = torch.get_rng_state()
    small = extract(network, Subnet(widths=(2,) * 6, resolution=8))
    assert torch.equal(torch.get_rng_state(), before)
    assert small.mapping.w_avg.dtype == torch.float64 and not small.training
    with torch.no_grad():
        small.synthesis.b4.const.zero_()
    assert network.synthesis.b4.const.any()


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (1.0, (512,) * 10 + (256, 256, 128, 128, 64, 64, 32, 32)),
        (0.75, (512,) * 8 + (384, 384, 192, 192, 96, 96, 48, 48, 24, 24)),
        (0.5, (512,) * 8 + (256, 256, 128, 128, 64, 64, 32, 32, 16, 16)),
        (0.25, (512,) * 6 + (256, 256, 128, 128, 64, 64, 32, 32, 16, 16, 8, 8)),
    ],
)
def test_uniform_ratios_shrink_the_table_below_the_cap(ratio, expected):
    assert Subnet.uniform(ANYCOST, ratio) == Subnet(widths=expected)
    assert Subnet.uniform(ANYCOST, ratio, 256) == Subnet(widths=expected, resolution=256)


def test_uniform_ratio_of_explicit_widths():
    config = StyleGAN2Config(resolution=16, widths=FULL)
    assert Subnet.uniform(config, 0.5).widths == (3, 3, 4, 2, 3, 2)
    assert Subnet.uniform(config, 0.01).widths == (1,) * 6


def test_subnets_that_cannot_be_are_refused():
    for widths in ((), (3, 0, 1)):
        with pytest.raises(ValueError, match="a width of 1 or more for every layer"):
            Subnet(widths=widths)
    for ratio in (0.0, 1.5):
        with pytest.raises(ValueError, match="ratio must be above 0 and at most 1"):
            Subnet.uniform(ANYCOST, ratio)
    network = NETWORKS["skip"]
    cases = {
        "must list 6 widths, got 2": Subnet(widths=(1, 2)),
        "widths must be at most": Subnet(widths=(8, 6, 8, 5, 6, 4)),
        "resolution must be one of \\(4, 8, 16\\), got 32": Subnet(widths=FULL, resolution=32),
    }
    for message, subnet in cases.items():
        with pytest.raises(ValueError, match=message):
            network.synthesis(torch.zeros(1, 6, 7), subnet=subnet)
        with pytest.raises(ValueError, match=message):
            extract(network, subnet)
    with pytest.raises(ValueError, match="only a 'skip' generator can stop early"):
        extract(NETWORKS["orig"], Subnet(widths=FULL, resolution=8))


def test_half_resolutions_stay_where_they_are():
    config = StyleGAN2Config(resolution=64, num_half_resolutions=2)
    widths = config.layer_widths
    assert config.at(Subnet(widths=widths, resolution=32)).num_half_resolutions == 1
    assert config.at(Subnet(widths=widths, resolution=8)).num_half_resolutions == 0
    assert config.at(Subnet(widths=widths)).num_half_resolutions == 2
