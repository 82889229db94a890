"""Each term against plain autograd, one image at a time, and its second derivatives."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frugan.losses.regularize import (
    around,
    batch_deviation,
    drift,
    lecam,
    mix,
    moving_mean,
    path_length_penalty,
    path_lengths,
    r1_penalty,
    wgan_gp,
)


def random(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(0.3 * random(4, 3, 3, 3, seed=7))
        self.second = nn.Parameter(random(4, seed=8))

    def forward(self, images: Tensor) -> Tensor:
        return F.softplus(F.conv2d(images, self.first)).mean(dim=(2, 3)) @ self.second


def norms_one_by_one(critic: Critic, images: Tensor) -> Tensor:
    """The gradient's length of each image, each in a pass of its own, with plain autograd."""
    lengths = []
    for image in images.detach():
        leaf = image[None].requires_grad_()
        (gradient,) = torch.autograd.grad(critic(leaf), leaf, create_graph=True)
        lengths.append(sum(value**2 for value in gradient.flatten()) ** 0.5)  # type: ignore[misc]
    return torch.stack(lengths)


def same_gradients(critic: Critic, ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs)
    parameters = list(critic.parameters())
    expected = torch.autograd.grad(theirs.sum(), parameters)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), parameters), expected)


class TestGradientPenalties:
    @pytest.mark.parametrize("shape", [(5, 3, 6, 4), (1, 3, 3, 3)])
    def test_r1_against_one_image_at_a_time(self, shape: tuple[int, ...]) -> None:
        critic, images = Critic(), random(*shape).requires_grad_()
        penalty = r1_penalty(critic(images), images)
        assert penalty.shape == shape[:1]
        same_gradients(critic, penalty, norms_one_by_one(critic, images) ** 2)

    @pytest.mark.parametrize("target", [1.0, 750.0])
    def test_wgan_gp_against_one_image_at_a_time(self, target: float) -> None:
        critic, images = Critic(), random(5, 3, 6, 4).requires_grad_()
        theirs = (norms_one_by_one(critic, images) - target) ** 2 / target**2
        same_gradients(critic, wgan_gp(critic(images), images, target), theirs)

    def test_r1_of_a_known_function(self) -> None:
        images = random(3, 1, 2, 5).requires_grad_()
        logits = (images**2).sum(dim=(1, 2, 3)) / 2
        torch.testing.assert_close(r1_penalty(logits, images), (images**2).sum(dim=(1, 2, 3)))

    def test_wgan_gp_is_zero_at_the_target_length(self) -> None:
        images = random(3, 1, 2, 2).requires_grad_()
        logits = images.sum(dim=(1, 2, 3))  # gradient (1, 1, 1, 1), length 2
        torch.testing.assert_close(wgan_gp(logits, images, 2.0), torch.zeros(3, dtype=torch.float64))
        torch.testing.assert_close(wgan_gp(logits, images), torch.ones(3, dtype=torch.float64))

    def test_a_dead_critic_gives_no_nan(self) -> None:
        weight = torch.zeros((), requires_grad=True)
        images = torch.ones(2, 1, 2, 2, requires_grad=True)
        penalty = wgan_gp(weight * images.sum(dim=(1, 2, 3)), images)
        assert penalty.tolist() == [1.0, 1.0]
        assert torch.autograd.grad(penalty.sum(), weight)[0] == 0

    def test_second_derivatives(self) -> None:
        critic = Critic()

        def penalties(images: Tensor) -> tuple[Tensor, Tensor]:
            logits = critic(images)
            return r1_penalty(logits, images), wgan_gp(logits, images)

        assert torch.autograd.gradcheck(penalties, random(2, 3, 4, 3).requires_grad_())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_gradients_are_squared_in_float32(self, dtype: torch.dtype) -> None:
        images = torch.zeros(2, 1, 1, 1, dtype=dtype, requires_grad=True)
        logits = (1024 * images).sum(dim=(1, 2, 3))
        for penalty in (r1_penalty(logits, images), wgan_gp(logits, images, 1 / 1024)):
            assert penalty.dtype == torch.float32
            assert penalty.isfinite().all()
        assert r1_penalty(logits, images).tolist() == [2.0**20, 2.0**20]

    def test_works_on_fakes_inside_a_graph(self) -> None:
        critic, scale = Critic(), torch.ones((), dtype=torch.float64, requires_grad=True)
        fakes = scale * random(2, 3, 4, 4)
        r1_penalty(critic(fakes), fakes).sum().backward()
        assert scale.grad is not None and scale.grad.isfinite()

    def test_images_that_need_no_gradient_are_refused(self) -> None:
        critic, images = Critic(), random(2, 3, 4, 4)
        with pytest.raises(ValueError, match="images must require gradients"):
            r1_penalty(critic(images), images)

    def test_images_that_the_critic_did_not_see_are_refused(self) -> None:
        critic, images = Critic(), random(2, 3, 4, 4).requires_grad_()
        with pytest.raises(ValueError, match="does not depend on these images"):
            wgan_gp(critic(images), images.detach().requires_grad_())

    @pytest.mark.parametrize("target", [0.0, -1.0, float("nan")])
    def test_a_target_must_be_positive(self, target: float) -> None:
        images = random(2, 3, 4, 4).requires_grad_()
        with pytest.raises(ValueError, match="target must be positive, got"):
            wgan_gp(Critic()(images), images, target)


class TestMix:
    def test_from_real_to_fake(self) -> None:
        real, fake = random(3, 1, 2, 2), random(3, 1, 2, 2, seed=2)
        mixed = mix(real, fake, torch.tensor([0.0, 0.25, 1.0]))
        torch.testing.assert_close(mixed, torch.stack([real[0], 0.75 * real[1] + 0.25 * fake[1], fake[2]]))

    def test_is_a_leaf_of_its_own(self) -> None:
        real, fake = random(1, 1, 2, 2), random(1, 1, 2, 2, seed=2).requires_grad_()
        mixed = mix(real, fake, torch.zeros(1))
        assert mixed.is_leaf and mixed.requires_grad and not real.requires_grad

    def test_keeps_the_dtype(self) -> None:
        half = random(1, 1, 2, 2, dtype=torch.float32).bfloat16()
        assert mix(half, half, torch.rand(1)).dtype == torch.bfloat16


class TestPathLengths:
    @staticmethod
    def synthesis(w: Tensor) -> Tensor:
        weights = random(w.shape[1] * w.shape[2], 3 * 4 * 6, seed=3)
        return (w.flatten(1) @ weights).sin().view(-1, 3, 4, 6)

    @pytest.mark.parametrize(("count", "num_ws"), [(3, 4), (1, 1)])
    def test_against_the_whole_jacobian(self, count: int, num_ws: int) -> None:
        w, noise = random(count, num_ws, 5).requires_grad_(), random(count, 3, 4, 6, seed=4)
        lengths = path_lengths(self.synthesis(w), w, noise)
        for one, direction, length in zip(w.detach(), noise, lengths, strict=True):
            jacobian = torch.autograd.functional.jacobian(lambda w: self.synthesis(w[None])[0], one)
            moved = torch.einsum("chw,chwkd->kd", direction / 24**0.5, jacobian)
            torch.testing.assert_close(length, (moved**2).sum(dim=1).mean().sqrt())

    def test_second_derivatives(self) -> None:
        noise = random(2, 3, 4, 6, seed=4)
        w = random(2, 2, 3).requires_grad_()
        assert torch.autograd.gradcheck(lambda w: path_lengths(self.synthesis(w), w, noise), w)

    def test_a_dead_generator_gives_no_nan(self) -> None:
        w, weight = torch.ones(2, 1, 3, requires_grad=True), torch.zeros((), requires_grad=True)
        lengths = path_lengths((weight * w).view(2, 3, 1, 1), w, torch.ones(2, 3, 1, 1))
        assert lengths.tolist() == [0.0, 0.0]
        assert torch.autograd.grad(lengths.sum(), weight)[0] == 0

    def test_the_gradient_flows_through_the_mean(self) -> None:
        lengths, old = random(4).requires_grad_(), torch.tensor(0.7, dtype=torch.float64)
        penalty = path_length_penalty(lengths, moving_mean(old, lengths)).sum()
        (gradient,) = torch.autograd.grad(penalty, lengths)
        centred = lengths - (0.99 * old + 0.01 * lengths.mean())
        torch.testing.assert_close(gradient, 2 * centred - 2 * centred.sum() * 0.01 / 4)
        assert torch.autograd.gradcheck(lambda x: path_length_penalty(x, moving_mean(old, x)), lengths)

    def test_images_from_elsewhere_are_refused(self) -> None:
        w = random(2, 2, 3).requires_grad_()
        images = self.synthesis(w.detach().requires_grad_())
        with pytest.raises(ValueError, match="does not depend on these w"):
            path_lengths(images, w, torch.ones_like(images))
        with pytest.raises(ValueError, match="w must require gradients"):
            path_lengths(images, w.detach(), torch.ones_like(images))


class TestOnLogits:
    def test_drift(self) -> None:
        assert drift(torch.tensor([3.0, -2.0, 0.0])).tolist() == [9.0, 4.0, 0.0]
        assert drift(torch.tensor([300.0], dtype=torch.float16)).tolist() == [90000.0]

    def test_lecam_is_one_sided(self) -> None:
        real, fake = torch.tensor([2.0, -3.0, 0.5]), torch.tensor([-1.0, 4.0, 1.0])
        terms = lecam(real, fake, ema_real=torch.tensor(1.5), ema_fake=torch.tensor(-0.5))
        assert terms.tolist() == [2.5**2 + 2.5**2, 0.0, 1.0 + 0.5**2]

    def test_lecam_derivatives(self) -> None:
        means = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.2, dtype=torch.float64)
        sides = random(6).requires_grad_(), random(6, seed=2).requires_grad_()
        assert torch.autograd.gradcheck(lambda r, f: lecam(r, f, *means), sides)

    def test_moving_mean(self) -> None:
        values = torch.tensor([1.0, 3.0])
        assert moving_mean(torch.tensor(10.0), values, 0.75).item() == 8.0
        assert moving_mean(torch.tensor(10.0), values, 0.0).item() == 2.0
        assert moving_mean(torch.tensor(10.0), values, 1.0).item() == 10.0

    @pytest.mark.parametrize("decay", [-0.1, 1.5, float("nan")])
    def test_a_decay_lies_between_zero_and_one(self, decay: float) -> None:
        with pytest.raises(ValueError, match="decay must lie in"):
            moving_mean(torch.tensor(0.0), torch.ones(2), decay)


def test_the_deviation_of_a_batch_is_that_of_all_its_parts() -> None:
    numbers = torch.Generator().manual_seed(5)
    images = torch.randn(8, 3, 4, 4, generator=numbers) * 3 + 1
    torch.testing.assert_close(batch_deviation(images), images.std())
    rows = []

    def gather(row: Tensor) -> Tensor:
        rows.append(row)
        return torch.cat(rows)

    batch_deviation(images[::2], gather)
    torch.testing.assert_close(batch_deviation(images[1::2], gather), images.std())


def test_points_around_reals_move_by_half_a_deviation_at_most() -> None:
    reals = torch.zeros(4, 3, 2, 2)
    points = around(reals, torch.tensor(2.0), torch.tensor([0.0, 0.5, 1.0, 1.0]), torch.ones(4, 3, 2, 2))
    assert points.is_leaf and points.requires_grad
    torch.testing.assert_close(points[:, 0, 0, 0].detach(), torch.tensor([0.0, 0.5, 1.0, 1.0]))
