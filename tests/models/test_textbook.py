"""The fast networks against the plain ones of the benchmarks: values, first and second derivatives."""

import pytest
import torch
from benchmarks import textbook

from frugan.models import stylegan2, stylegan2_discriminator
from tests import reference

CONFIG = stylegan2.StyleGAN2Config(resolution=16, z_dim=6, w_dim=5, widths=(5, 6, 4, 7, 3, 8), mapping_layers=2)
JUDGE = stylegan2_discriminator.StyleGAN2DiscriminatorConfig(resolution=16, widths=(6, 5, 4))


def randomize(network):
    """Every parameter away from its start: biases and noise strengths too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return network.double()


def agree(function, other, parameters, inputs):
    """The derivatives by inputs and by every weight."""
    names = list(parameters)

    def split(run):
        return lambda *tensors: run(dict(zip(names, tensors[: len(names)], strict=True)), *tensors[len(names) :])

    everything = [*parameters.values(), *inputs]
    for seed in (0, 1):
        got = reference.derivatives(split(function), everything, seed)
        expected = reference.derivatives(split(other), everything, seed)
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("batch", [1, 3])
def test_generators_agree(batch):
    fast = randomize(stylegan2.Generator(CONFIG))
    plain = textbook.Generator(CONFIG).double()
    plain.load_state_dict(fast.state_dict())
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, CONFIG.z_dim, dtype=torch.float64, generator=generator)
    noise = [torch.randn(batch, *s, dtype=torch.float64, generator=generator) for s in fast.noise_shapes()]
    buffers = dict(fast.named_buffers())

    def run_fast(weights, z):
        return torch.func.functional_call(fast, {**weights, **buffers}, (z,), {"noise": noise})

    def run_plain(weights, z):
        return torch.func.functional_call(plain, weights, (z, noise))

    agree(run_fast, run_plain, dict(fast.named_parameters()), [z])


@pytest.mark.parametrize("batch", [1, 4])
def test_discriminators_agree(batch):
    fast = randomize(stylegan2_discriminator.Discriminator(JUDGE))
    plain = textbook.Discriminator(JUDGE).double()
    plain.load_state_dict(fast.state_dict())
    images = torch.randn(batch, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def run(network):
        return lambda weights, images: torch.func.functional_call(network, weights, (images,))

    agree(run(fast), run(plain), dict(fast.named_parameters()), [images])
