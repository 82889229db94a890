"""The losses give the numbers and gradients of the published code for given logits and tiny given networks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from frugan.losses.adversarial import AdversarialKind, discriminator_loss, generator_loss
from frugan.losses.regularize import lecam, mix, moving_mean, path_length_penalty, path_lengths, r1_penalty, wgan_gp

Numbers = dict[str, Tensor]


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, expected.reshape(actual.shape).to(actual.dtype), rtol=rtol, atol=atol)


def both(kind: AdversarialKind, logits: Tensor) -> Tensor:
    """The mean loss of a discriminator that gave the same logits to reals and fakes."""
    return discriminator_loss(kind, logits.flatten(), logits.flatten()).mean()


def of_fakes(kind: AdversarialKind, logits: Tensor) -> Tensor:
    return generator_loss(kind, logits.flatten()).mean()


class TestGivenLogits:
    @pytest.mark.parametrize(
        ("theirs", "kind"),
        [("lsgan", "least_squares"), ("vanilla", "logistic"), ("hinge", "hinge"), ("wgangp", "wasserstein")],
    )
    def test_gan_compression(self, fixtures_dir: Path, theirs: str, kind: AdversarialKind) -> None:
        numbers = load_file(fixtures_dir / "gc-ganloss-a.io.safetensors")
        close(both(kind, numbers["pred"]), numbers[f"{theirs}.D_real"] + numbers[f"{theirs}.D_fake"])
        close(of_fakes(kind, numbers["pred"]), numbers[f"{theirs}.G"])

    @pytest.mark.parametrize(("theirs", "kind"), [("lsgan", "least_squares"), ("vanilla", "logistic")])
    def test_gan_compression_sums_over_maps(self, fixtures_dir: Path, theirs: str, kind: AdversarialKind) -> None:
        numbers = load_file(fixtures_dir / "gc-ganloss-a.io.safetensors")
        ours = both(kind, numbers["pred_list.0"]) + both(kind, numbers["pred_list.1"])
        close(ours, numbers[f"{theirs}.list.real"] + numbers[f"{theirs}.list.fake"])

    def test_gan_compression_hinge_averages_scales(self, fixtures_dir: Path) -> None:
        numbers = load_file(fixtures_dir / "gc-ganloss-a.io.safetensors")
        scales = [numbers["pred_nested.0.1"], numbers["pred_nested.1.1"]]
        theirs = numbers["hinge.nested.D_real"] + numbers["hinge.nested.D_fake"]
        close(torch.stack([both("hinge", scale) for scale in scales]).mean(), theirs)
        close(torch.stack([of_fakes("hinge", scale) for scale in scales]).mean(), numbers["hinge.nested.G"])

    @pytest.mark.parametrize(
        ("theirs", "kind"),
        [
            ("softplus", "logistic"),
            ("original", "logistic"),
            ("hinge", "hinge"),
            ("ls", "least_squares"),
            ("w", "wasserstein"),
        ],
    )
    def test_sketch_your_own_gan(self, fixtures_dir: Path, theirs: str, kind: AdversarialKind) -> None:
        numbers = load_file(fixtures_dir / "gansketch-losses-a.io.safetensors")
        for name in ("pred", "pred_patch"):
            expected = numbers[f"{theirs}.{name}.D_real"] + numbers[f"{theirs}.{name}.D_fake"]
            close(both(kind, numbers[name]), expected)
            close(of_fakes(kind, numbers[name]), numbers[f"{theirs}.{name}.G"])
        maps = [numbers["pred_list.0"], numbers["pred_list.1.last"]]
        expected = numbers[f"{theirs}.pred_list.D_real"] + numbers[f"{theirs}.pred_list.D_fake"]
        close(torch.stack([both(kind, one) for one in maps]).mean(), expected)
        close(torch.stack([of_fakes(kind, one) for one in maps]).mean(), numbers[f"{theirs}.pred_list.G"])

    @pytest.mark.parametrize(
        ("theirs", "kind", "factor"),
        [
            ("vanilla", "logistic", 1.0),
            ("logistic", "logistic", 1.0),
            ("least_square", "least_squares", 0.5),
            ("hinge", "hinge", 1.0),
            ("wasserstein", "wasserstein", 1.0),
        ],
    )
    def test_studiogan(self, fixtures_dir: Path, theirs: str, kind: AdversarialKind, factor: float) -> None:
        numbers = load_file(fixtures_dir / "studiogan/loss-adversarial-a.io.safetensors")
        real, fake = numbers["d_real"].requires_grad_(), numbers["d_fake"].requires_grad_()
        loss = factor * discriminator_loss(kind, real, fake).mean()
        real_gradient, fake_gradient = torch.autograd.grad(loss, (real, fake))
        close(loss, numbers[f"{theirs}.d_loss"])
        close(real_gradient, numbers[f"{theirs}.d_grad_real"])
        close(fake_gradient, numbers[f"{theirs}.d_grad_fake"])
        loss = factor * generator_loss(kind, fake).mean()
        close(loss, numbers[f"{theirs}.g_loss"])
        close(torch.autograd.grad(loss, fake)[0], numbers[f"{theirs}.g_grad_fake"])

    def test_r3gan(self, fixtures_dir: Path) -> None:
        numbers = load_file(fixtures_dir / "r3gan-tiny16-cond.loss.safetensors")
        zero = torch.zeros(4)
        # Only the differences of the logits are stored: D's is real - fake, G's is fake - real.
        close(discriminator_loss("relativistic", numbers["d_rel"], zero), numbers["d_adv"])
        close(discriminator_loss("relativistic", zero, -numbers["d_rel"]), numbers["d_adv"])
        close(generator_loss("relativistic", numbers["g_rel"], zero), numbers["g_adv"])
        close(generator_loss("relativistic", zero, -numbers["g_rel"]), numbers["g_adv"])

    def test_stylegan2(self, fixtures_dir: Path) -> None:
        logits = load_file(fixtures_dir / "sg2ada-tiny32-cond.io.safetensors")["d_logits"].squeeze(1)
        numbers = load_file(fixtures_dir / "sg2ada-tiny32-cond.loss.safetensors")
        close(generator_loss("logistic", logits), numbers["loss_G"])
        both_terms = numbers["loss_D_real"] + numbers["loss_D_fake"]
        close(discriminator_loss("logistic", logits, logits), both_terms)

    def test_lecam_and_its_running_means(self, fixtures_dir: Path) -> None:
        numbers = load_file(fixtures_dir / "studiogan/loss-adversarial-a.io.safetensors")
        ema_real = ema_fake = torch.zeros((), dtype=torch.float64)
        for step in range(8):
            real, fake = (numbers[f"lecam.{step}.{side}"].requires_grad_() for side in ("real", "fake"))
            decay = 0.0 if step < 3 else 0.99
            ema_real = moving_mean(ema_real, real.detach(), decay)
            ema_fake = moving_mean(ema_fake, fake.detach(), decay)
            close(ema_real, numbers[f"lecam.{step}.ema_real"])
            close(ema_fake, numbers[f"lecam.{step}.ema_fake"])
            loss = lecam(real, fake, ema_real, ema_fake).mean()
            gradients = torch.autograd.grad(loss, (real, fake))
            close(loss, numbers[f"lecam.{step}.reg"])
            close(gradients[0], numbers[f"lecam.{step}.grad_real"])
            close(gradients[1], numbers[f"lecam.{step}.grad_fake"])


PARAMETERS = ("W1", "b1", "w2", "b2", "E")


def tiny_logits(numbers: Numbers, images: Tensor) -> Tensor:
    """The discriminator that `loss-gradpen-a` describes: a strided convolution, tanh, a projection with labels."""
    hidden = F.conv2d(images, numbers["net.W1"], numbers["net.b1"], stride=2, padding=1).tanh().sum(dim=(2, 3))
    return (hidden * (numbers["net.w2"] + numbers["net.E"][numbers["label"]])).sum(dim=1) + numbers["net.b2"]


class TestGradientPenalties:
    @pytest.fixture
    def numbers(self, fixtures_dir: Path) -> Numbers:
        numbers = load_file(fixtures_dir / "studiogan/loss-gradpen-a.io.safetensors")
        for name in PARAMETERS:
            numbers[f"net.{name}"].requires_grad_()
        return numbers

    def test_the_tiny_network_is_theirs(self, numbers: Numbers) -> None:
        close(tiny_logits(numbers, numbers["real"]), numbers["adv_real"])
        close(tiny_logits(numbers, numbers["fake"]), numbers["adv_fake"])

    def test_mix(self, numbers: Numbers) -> None:
        # Theirs is the share of the real image, ours that of the fake one.
        mixed = mix(numbers["real"], numbers["fake"], 1 - numbers["wgan_gp.alpha"].squeeze(1))
        close(mixed, numbers["wgan_gp.points"])
        assert mixed.is_leaf and mixed.requires_grad

    @pytest.mark.parametrize(
        ("name", "penalty"),
        [
            ("wgan_gp", lambda logits, images: wgan_gp(logits, images).mean()),
            ("dragan", lambda logits, images: wgan_gp(logits, images).mean()),
            ("maxgp", lambda logits, images: r1_penalty(logits, images).max()),
            ("r1", lambda logits, images: r1_penalty(logits, images).mean() / 2),
            ("r1_stylegan", lambda logits, images: r1_penalty(logits, images).mean() / 2),
        ],
    )
    def test_studiogan(self, numbers: Numbers, name: str, penalty: Callable[[Tensor, Tensor], Tensor]) -> None:
        images = numbers[f"{name}.points"].requires_grad_()
        logits = tiny_logits(numbers, images)
        loss = penalty(logits, images)
        close(loss, numbers[f"{name}.penalty"])
        close(r1_penalty(logits, images).sqrt(), numbers[f"{name}.grad_norm_per_sample"])
        sources = [*(numbers[f"net.{parameter}"] for parameter in PARAMETERS), images]
        gradients = torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)
        for target, gradient in zip([*PARAMETERS, "points"], gradients, strict=True):
            close(gradient, numbers[f"{name}.grad_{target}"], rtol=1e-4, atol=1e-5)

    def test_sketch_your_own_gan(self, fixtures_dir: Path) -> None:
        numbers = load_file(fixtures_dir / "gansketch-losses-a.io.safetensors")
        images = numbers["r1.image"].requires_grad_()
        hidden = F.conv2d(images, numbers["r1.w1"], padding=1).tanh()
        patches = F.conv2d(hidden, numbers["r1.w2"], padding=1)
        close(patches, numbers["r1.patch_pred"])
        close(r1_penalty(patches.mean(dim=(1, 2, 3)), images).mean(), numbers["r1.penalty"])

    def test_stylegan2(self, fixtures_dir: Path) -> None:
        numbers = load_file(fixtures_dir / "sg2ada-tiny32-cond.loss.safetensors")
        # A linear critic with the stored gradients: the network itself is compared where networks are.
        images = torch.zeros(4, 3, 32, 32, requires_grad=True)
        logits = (images * numbers["d_grad_image"]).sum(dim=(1, 2, 3))
        close(r1_penalty(logits, images), numbers["r1_penalty"])


def test_path_lengths_and_their_mean(fixtures_dir: Path) -> None:
    numbers = load_file(fixtures_dir / "studiogan/loss-gradpen-a.io.safetensors")
    mean = torch.zeros(())
    for step in range(3):
        w = numbers[f"pl.{step}.ws"].requires_grad_()
        images = (w.sum(dim=1) @ numbers["pl.A"]).tanh().view(-1, 3, 4, 4)
        lengths = path_lengths(images, w, numbers[f"pl.{step}.noise_before_scaling"])
        mean = moving_mean(mean, lengths)
        loss = 2 * path_length_penalty(lengths, mean).mean()
        close(loss, numbers[f"pl.{step}.penalty"])
        close(mean, numbers[f"pl.{step}.mean_after"])
        close(torch.autograd.grad(loss, w)[0], numbers[f"pl.{step}.grad_ws"], rtol=1e-4, atol=1e-5)
        mean = mean.detach()
