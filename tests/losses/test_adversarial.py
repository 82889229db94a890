"""Each loss against its textbook form, its signs, its precision and its complaints."""

import inspect
import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from frugan.losses.adversarial import (
    AdversarialKind,
    discriminator_loss,
    generator_loss,
    needs_real_logits,
    patch_discriminator_loss,
    patch_generator_loss,
    patch_mean,
)

KINDS: tuple[AdversarialKind, ...] = ("logistic", "hinge", "least_squares", "wasserstein", "relativistic")
# Behind the annotations, which the tests check and an installed package does not.
plain_discriminator_loss = inspect.unwrap(discriminator_loss)
plain_generator_loss = inspect.unwrap(generator_loss)


def logits(count: int = 7, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draws = 3 * torch.randn(2, count, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    real, fake = draws.to(dtype).unbind()
    return real.requires_grad_(), fake.requires_grad_()


def test_textbook_forms() -> None:
    real, fake = logits()
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    cross_entropy = F.binary_cross_entropy(real.sigmoid(), one, reduction="none")
    cross_entropy = cross_entropy + F.binary_cross_entropy(fake.sigmoid(), zero, reduction="none")
    expected: dict[AdversarialKind, tuple[Tensor, Tensor]] = {
        "logistic": (cross_entropy, -fake.sigmoid().log()),
        "hinge": (torch.maximum(zero, 1 - real) + torch.maximum(zero, 1 + fake), -fake),
        "least_squares": ((real - 1) ** 2 + fake**2, (fake - 1) ** 2),
        "wasserstein": (fake - real, -fake),
        "relativistic": (-(real - fake).sigmoid().log(), -(fake - real).sigmoid().log()),
    }
    for kind, (of_discriminator, of_generator) in expected.items():
        torch.testing.assert_close(discriminator_loss(kind, real, fake), of_discriminator)
        torch.testing.assert_close(generator_loss(kind, fake, real), of_generator)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_each_number_belongs_to_one_pair(self, kind: AdversarialKind) -> None:
        real, fake = logits()
        together = discriminator_loss(kind, real, fake)
        alone = [discriminator_loss(kind, real[i : i + 1], fake[i : i + 1]) for i in range(7)]
        assert torch.equal(together, torch.cat(alone))
        assert together.shape == (7,)

    def test_discriminator_parts_real_from_fake(self, kind: AdversarialKind) -> None:
        zero = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
        of_real, of_fake = torch.autograd.grad(discriminator_loss(kind, *zero), zero)
        # At zero, least squares has the right target for fakes already.
        assert of_real < 0
        assert of_fake == 0 if kind == "least_squares" else of_fake > 0

    def test_generator_raises_the_logits_of_fakes(self, kind: AdversarialKind) -> None:
        fake = torch.full((1,), -4.0, requires_grad=True)
        (gradient,) = torch.autograd.grad(generator_loss(kind, fake, torch.full((1,), 4.0)), fake)
        assert gradient < -0.9  # not saturated where the discriminator is sure

    def test_derivatives(self, kind: AdversarialKind) -> None:
        real, fake = logits()
        assert torch.autograd.gradcheck(lambda r, f: discriminator_loss(kind, r, f), (real, fake))
        assert torch.autograd.gradcheck(lambda f, r: generator_loss(kind, f, r), (fake, real))
        assert torch.autograd.gradgradcheck(lambda r, f: discriminator_loss(kind, r, f), (real, fake))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_logits_are_lifted(self, kind: AdversarialKind, dtype: torch.dtype) -> None:
        real, fake = logits(dtype=dtype)
        lifted = real.float(), fake.float()
        of_discriminator, of_generator = discriminator_loss(kind, real, fake), generator_loss(kind, fake, real)
        assert of_discriminator.dtype == of_generator.dtype == torch.float32
        assert torch.equal(of_discriminator, discriminator_loss(kind, *lifted))
        assert torch.equal(of_generator, generator_loss(kind, lifted[1], lifted[0]))

    def test_great_logits_stay_finite(self, kind: AdversarialKind) -> None:
        real = torch.tensor([6e4, -6e4, 6e4, -6e4], dtype=torch.float16)
        fake = torch.tensor([6e4, 6e4, -6e4, -6e4], dtype=torch.float16)
        assert discriminator_loss(kind, real, fake).isfinite().all()
        assert generator_loss(kind, fake, real).isfinite().all()

    def test_reals_are_needed_where_it_says_so(self, kind: AdversarialKind) -> None:
        real, fake = logits()
        if needs_real_logits(kind):
            with pytest.raises(ValueError, match="needs real_logits"):
                generator_loss(kind, fake)
        else:
            assert torch.equal(generator_loss(kind, fake), generator_loss(kind, fake, real))

    @pytest.mark.parametrize(
        "shapes", [((4,), (3,)), ((4,), (1,)), ((4, 1), (4,)), ((4,), (4, 1)), ((4, 1), (4, 1)), ((), ())]
    )
    def test_other_shapes_are_refused(
        self, kind: AdversarialKind, shapes: tuple[tuple[int, ...], tuple[int, ...]]
    ) -> None:
        real, fake = (torch.zeros(shape) for shape in shapes)
        complaint = re.escape(f"got {shapes[0]} and {shapes[1]}")
        with pytest.raises(ValueError, match=complaint):
            plain_discriminator_loss(kind, real, fake)
        with pytest.raises(ValueError, match=complaint):
            plain_generator_loss(kind, fake, real)

    def test_no_images_no_losses(self, kind: AdversarialKind) -> None:
        assert discriminator_loss(kind, torch.zeros(0), torch.zeros(0)).shape == (0,)


def test_unknown_kinds_are_refused() -> None:
    for call in (plain_discriminator_loss, plain_generator_loss):
        with pytest.raises(ValueError, match="'logistics'; did you mean 'logistic'"):
            call("logistics", torch.zeros(2), torch.zeros(2))


@pytest.mark.parametrize("kind", KINDS)
def test_patches_are_averaged_picture_by_picture(kind: AdversarialKind) -> None:
    real, fake = (one.reshape(2, 1, 3, 4) for one in logits(24))
    losses = patch_discriminator_loss(kind, real, fake)
    expected = [discriminator_loss(kind, a.flatten(), b.flatten()).mean() for a, b in zip(real, fake, strict=True)]
    torch.testing.assert_close(losses, torch.stack(expected))
    losses = patch_generator_loss(kind, fake, real)
    expected = [generator_loss(kind, b.flatten(), a.flatten()).mean() for a, b in zip(real, fake, strict=True)]
    torch.testing.assert_close(losses, torch.stack(expected))


def test_patches_in_half_precision_and_refusals() -> None:
    fake = torch.full((2, 1, 3, 3), 300.0, dtype=torch.float16)
    assert patch_generator_loss("least_squares", fake).dtype == torch.float32
    assert bool(patch_generator_loss("least_squares", fake).isfinite().all())
    assert torch.equal(patch_mean(fake), torch.full((2,), 300.0))
    with pytest.raises(ValueError, match="needs real_logits"):
        patch_generator_loss("relativistic", fake)
