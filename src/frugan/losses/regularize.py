"""Terms that keep adversarial training stable: gradient penalties, path lengths, drift, LeCam; one number per image.

No weight is applied here: gamma / 2 of R1, lambda of WGAN-GP, 0.001 of drift, 2 of path length belong to the caller.
All of them can be differentiated again, which is how they train a network.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from frugan.losses.adversarial import at_least_float32


def r1_penalty(logits: Float[Tensor, " N"], images: Float[Tensor, "N C H W"]) -> Float[Tensor, " N"]:
    """The squared length of d logit / d image for each image; on fakes it is R2. Multiply by gamma / 2.

    Mescheder et al. 2018; R3GAN (Huang et al. 2024) for both. `images` is what the derivative is taken with respect to,
    so it requires gradients before the discriminator (or the augmentation in front of it) sees it.
    The derivative is that of the sum of all logits: where images of a batch see each other (minibatch standard
    deviation), each image's gradient holds its influence on the others' logits, as in all published code.
    Raises ValueError where `logits` do not come from `images`.
    """
    gradient = _gradient(logits.sum(), images, "images")
    return gradient.square().sum(dim=(1, 2, 3))


def mix(
    real_images: Float[Tensor, "N C H W"], fake_images: Float[Tensor, "N C H W"], uniform: Float[Tensor, " N"]
) -> Float[Tensor, "N C H W"]:
    """Points between reals and fakes, real + u (fake - real), as a leaf that requires gradients: the place for WGAN-GP.

    `uniform` is drawn by the caller from [0, 1), one number per pair. No gradient reaches the generator.
    """
    with torch.no_grad():
        mixed = real_images + uniform.to(real_images.dtype).view(-1, 1, 1, 1) * (fake_images - real_images)
    return mixed.requires_grad_()


def batch_deviation(
    images: Float[Tensor, "N C H W"], gather: Callable[[Tensor], Tensor] = lambda values: values
) -> Float[Tensor, ""]:
    """The standard deviation (without bias) of all numbers of a batch; `gather` gives the rows of all processes."""
    count, mean = float(images[0].numel() * len(images)), images.mean()
    squares = (images - mean).square().sum()
    counts, means, parts = gather(torch.stack([mean.new_full((), count), mean, squares])[None]).unbind(dim=1)
    total = counts.sum()
    apart = means - (counts * means).sum() / total
    return ((parts.sum() + (counts * apart.square()).sum()) / (total - 1)).sqrt()


def around(
    real_images: Float[Tensor, "N C H W"],
    deviation: Float[Tensor, ""],
    uniform: Float[Tensor, " N"],
    noise: Float[Tensor, "N C H W"],
) -> Float[Tensor, "N C H W"]:
    """Points beside reals, real + u noise deviation / 2, as a leaf that requires gradients: the place for DRAGAN.

    `uniform` and `noise` are drawn by the caller from [0, 1). Kodali et al. 2017, in the form of published code, whose
    noise moves pixels one way only.
    """
    with torch.no_grad():
        share = uniform.to(real_images.dtype).view(-1, 1, 1, 1)
        points = real_images + share * (0.5 * deviation) * noise.to(real_images.dtype)
    return points.requires_grad_()


def wgan_gp(logits: Float[Tensor, " N"], images: Float[Tensor, "N C H W"], target: float = 1.0) -> Float[Tensor, " N"]:
    """How far each gradient's length is from the target, ((|d logit / d image| - t) / t)^2. Multiply by lambda = 10.

    Gulrajani et al. 2017, at `images = mix(...)`, in ProGAN's form (Karras et al. 2018): divided by t^2, with t = 750
    for CIFAR-10. A gradient of exactly zero gives 1, and passes none on (its direction is undefined).
    Raises ValueError for a target that is not positive, or where `logits` do not come from `images`.
    """
    if not target > 0:
        raise ValueError(f"target must be positive, got {target}")
    gradient = _gradient(logits.sum(), images, "images")
    length: Tensor = torch.linalg.vector_norm(gradient, dim=(1, 2, 3))
    return (length / target - 1).square()


def drift(real_logits: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The square of each real logit; times 0.001 it keeps a Wasserstein critic near zero (ProGAN, appendix A.1)."""
    return at_least_float32(real_logits).square()


def path_lengths(
    images: Float[Tensor, "N C H W"], w: Float[Tensor, "N num_ws w_dim"], noise: Float[Tensor, "N C H W"]
) -> Float[Tensor, " N"]:
    """How far each image moves along a random direction for a small step of w: sqrt(mean over num_ws of |J_k|^2).

    J = d sum(image * noise) / d w / sqrt(H W). StyleGAN2 (Karras et al. 2020). `images` are synthesized from `w`, which
    requires gradients and gives every layer its own w. The caller draws `noise` from N(0, 1).
    Raises ValueError where `images` do not come from `w`.
    """
    # Divided before the derivative: a large image in half precision would overflow in the sum.
    scaled = noise.to(images.dtype) / math.sqrt(images.shape[2] * images.shape[3])
    jacobian = _gradient((images * scaled).sum(), w, "w")
    # A norm instead of a root of squares: its gradient at zero is zero, not NaN.
    length: Tensor = torch.linalg.vector_norm(jacobian, dim=(1, 2))
    return length / math.sqrt(w.shape[1])


def path_length_penalty(lengths: Float[Tensor, " N"], mean: Float[Tensor, ""]) -> Float[Tensor, " N"]:
    """The squared distance of each path length from their running mean. Multiply by 2 (StyleGAN2).

    `mean` is the new mean, `moving_mean(old, lengths)`, not detached: in the authors' code the gradient flows through
    the share of this batch in it. Keep `mean.detach()` for the next step.
    """
    return (at_least_float32(lengths) - mean).square()


def lecam(
    real_logits: Float[Tensor, " N"],
    fake_logits: Float[Tensor, " N"],
    ema_real: Float[Tensor, ""],
    ema_fake: Float[Tensor, ""],
) -> Float[Tensor, " N"]:
    """How far logits stray past the other side's running mean, relu(r - ema_fake)^2 + relu(ema_real - f)^2.

    Tseng et al. 2021, in the one-sided form of StudioGAN. The task owns the running means of the logits (detached):
    `moving_mean(ema, logits.detach(), decay)` before this call, with decay 0 in a warm-up.
    """
    real, fake = at_least_float32(real_logits), at_least_float32(fake_logits)
    return F.relu(real - ema_fake).square() + F.relu(ema_real - fake).square()


def moving_mean(mean: Float[Tensor, ""], values: Float[Tensor, " N"], decay: float = 0.99) -> Float[Tensor, ""]:
    """The running mean after this batch: decay * mean + (1 - decay) * mean(values). The gradient flows to `values`.

    Raises ValueError for a decay outside [0, 1].
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must lie in [0, 1], got {decay}")
    return mean + (1 - decay) * (values.mean() - mean)


def _gradient(total: Tensor, source: Tensor, name: str) -> Tensor:
    if not source.requires_grad:
        raise ValueError(f"{name} must require gradients before the network sees them")
    (gradient,) = torch.autograd.grad(total, source, create_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError(f"the network's output does not depend on these {name}: pass the very tensor it was given")
    return at_least_float32(gradient)
