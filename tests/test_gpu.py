"""What needs a CUDA card: the same numbers as the CPU, half precision, training and resuming."""

from pathlib import Path

import numpy as np
import pytest
import torch

from frugan.augment.ada import apply, draw, preset
from frugan.data.dataset import from_arrays
from frugan.losses.regularize import path_lengths, r1_penalty
from frugan.metrics.multiscale import Descriptors, PyramidConfig, multiscale_similarity, pyramid_distances
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.models.stylegan2_discriminator import Discriminator, StyleGAN2DiscriminatorConfig
from frugan.recipes import RECIPES
from frugan.training.recipe import Precision, tiny
from frugan.training.run import Start, fit, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]
SETTINGS = {"resolution": 32, "channel_base": 512, "channel_max": 32, "conv_clamp": 256.0}


@pytest.fixture(autouse=True)
def exact() -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(StyleGAN2Config(z_dim=32, w_dim=32, mapping_layers=2, **SETTINGS))


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(1)
    return Discriminator(StyleGAN2DiscriminatorConfig(**SETTINGS))


def test_the_card_draws_what_the_processor_draws(generator: Generator) -> None:
    z = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    expected = generator(z)
    torch.testing.assert_close(generator.cuda()(z.cuda()).cpu(), expected, atol=1e-4, rtol=1e-4)


def test_second_derivatives_agree(generator: Generator, discriminator: Discriminator) -> None:
    def gradients(device: str) -> list[torch.Tensor]:
        g, d = generator.to(device), discriminator.to(device)
        w = g.mapping(torch.ones(4, 32, device=device)).detach().requires_grad_()
        images = g.synthesis(w, noise="none")
        penalty = path_lengths(images, w, torch.ones_like(images)).sum()
        first = torch.autograd.grad(penalty, [g.synthesis.b8.conv0.weight])
        real = torch.linspace(-1, 1, images.numel(), device=device).view_as(images).requires_grad_()
        second = torch.autograd.grad(r1_penalty(d(real), real).sum(), [d.b8.conv0.weight])
        return [gradient.cpu() for gradient in (*first, *second)]

    for card, processor in zip(gradients("cuda"), gradients("cpu"), strict=True):
        torch.testing.assert_close(card, processor, atol=1e-4 * float(processor.abs().max()), rtol=1e-3)


def test_augmentations_agree() -> None:
    config, generator = preset("bgcfnc"), torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 24, 20, generator=generator) * 2 - 1
    draws = draw(
        config,
        lambda *shape: torch.rand(8, *shape, generator=generator),
        lambda *shape: torch.randn(8, *shape, generator=generator),
        *images.shape[1:],
    )
    gradients = []
    for device in ("cuda", "cpu"):
        places = images.to(device).requires_grad_()
        changed = apply(places, config, 0.7, {name: numbers.to(device) for name, numbers in draws.items()})
        gradients.append([part.detach().cpu() for part in (changed, *torch.autograd.grad(changed.sum(), places))])
    for card, processor in zip(*gradients, strict=True):
        torch.testing.assert_close(card, processor, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(generator: Generator, discriminator: Discriminator, dtype: torch.dtype) -> None:
    generator.cuda()
    discriminator.cuda()
    z = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).cuda()
    exact, rough = generator(z), generator(z, dtype=dtype)
    assert rough.dtype == torch.float32
    assert float((exact - rough).abs().mean()) < 0.05 * float(exact.std())
    assert torch.isfinite(discriminator(rough, dtype=dtype)).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_runs_and_goes_on(tmp_path: Path, precision: Precision) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (12, 3, 16, 16), dtype=np.uint8)
    data = {"images": from_arrays(pictures)}
    recipe = fit(tiny(RECIPES["stylegan2-auto"]()), data)
    for setting in (("training.total_images", "24"), ("training.precision", precision)):
        from frugan.config import override

        recipe = override(recipe, *setting)
    start = Start(device="cuda")
    assert train(tmp_path / "run", recipe, data, start).reason == "finished"
    longer = override(recipe, "training.total_images", "48")
    assert train(tmp_path / "run", longer, data, start).images_seen == 48


def test_multiscale_scores_agree() -> None:
    config = PyramidConfig(patches=16, repeats=1)
    images = torch.randint(256, (2, 20, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[1] //= 2

    def scores(device: str) -> dict[int, float]:
        sides = []
        for seed, part in enumerate(images):
            side = Descriptors(20, (64, 64), config, torch.Generator().manual_seed(seed))
            side.add(part.to(device))
            sides.append(side)
        return pyramid_distances(sides[0], sides[1:], torch.Generator().manual_seed(2), device)[0]

    assert scores("cuda") == pytest.approx(scores("cpu"), rel=1e-4)
    card = multiscale_similarity(*images.cuda())
    torch.testing.assert_close(card.cpu(), multiscale_similarity(*images), atol=1e-9, rtol=0)
