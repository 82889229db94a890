"""What discriminator and generator minimise against each other: one number per image, from their logits alone."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from frugan.config import suggest

AdversarialKind = Literal["logistic", "hinge", "least_squares", "wasserstein", "relativistic", "least_squares_flipped"]


def needs_real_logits(kind: AdversarialKind) -> bool:
    """Whether the generator's loss of this kind compares fakes with reals, so that its step needs a real batch too."""
    return kind == "relativistic"


def realness(
    kind: AdversarialKind, real_logits: Float[Tensor, " N"], fake_logits: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """How sure the discriminator is of each real picture: above 0 where it takes it for one.

    Its sign is what overfitting is read from. The relativistic loss knows only how much more real it is than its fake;
    least_squares_flipped has the low logits for reals, and its middle at 0.5.
    """
    if kind == "relativistic":
        return real_logits - fake_logits
    return 0.5 - real_logits if kind == "least_squares_flipped" else real_logits


def discriminator_loss(
    kind: AdversarialKind, real_logits: Float[Tensor, " N"], fake_logits: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """The discriminator's loss of each pair (real i, fake i), in float32; take the mean over the batch to train.

    The real and the fake term are summed, never halved; r are the real and f the fake logits:

    * logistic: softplus(-r) + softplus(f). Goodfellow et al. 2014; binary cross-entropy with targets 1 and 0.
    * hinge: relu(1 - r) + relu(1 + f). Lim and Ye 2017; Miyato et al. 2018. pix2pix and CycleGAN code halves it.
    * least_squares: (r - 1)^2 + f^2. Mao et al. 2017 with targets 1 and 0; the paper and some code halve it (StudioGAN
      does).
    * least_squares_flipped: r^2 + 0.1 (f - 1)^2, ProGAN's variant (Karras et al. 2018, appendix B): targets exchanged,
      fakes count a tenth. Reals have the low logits here.
    * wasserstein: f - r. Arjovsky et al. 2017; it needs a penalty or clipping beside it.
    * relativistic: softplus(f - r), pairing equal indices. Jolicoeur-Martineau 2018; R3GAN, Huang et al. 2024. Where
      there are labels, real i and fake i carry the same one.

    Half-precision logits are lifted to float32 first; float64 stays as it is.
    Raises ValueError for an unknown kind, or logits that are not two (N,) tensors of equal length.
    """
    _check(real_logits, fake_logits)
    real, fake = at_least_float32(real_logits), at_least_float32(fake_logits)
    match kind:
        case "logistic":
            return F.softplus(-real) + F.softplus(fake)
        case "hinge":
            return F.relu(1 - real) + F.relu(1 + fake)
        case "least_squares":
            return (real - 1).square() + fake.square()
        case "least_squares_flipped":
            return real.square() + 0.1 * (fake - 1).square()
        case "wasserstein":
            return fake - real
        case "relativistic":
            return F.softplus(fake - real)
        case _:
            raise _unknown(kind)


def generator_loss(
    kind: AdversarialKind, fake_logits: Float[Tensor, " N"], real_logits: Float[Tensor, " N"] | None = None
) -> Float[Tensor, " N"]:
    """The generator's loss of each fake, in float32; take the mean over the batch to train.

    * logistic: softplus(-f), the non-saturating form.
    * hinge and wasserstein: -f.
    * least_squares: (f - 1)^2, not halved; least_squares_flipped: f^2.
    * relativistic: softplus(r - f), pairing equal indices; it needs `real_logits`. The other kinds do not look at them.

    Sources as in `discriminator_loss`. Raises ValueError for an unknown kind, relativistic without `real_logits`, or
    logits that are not (N,) tensors of equal length.
    """
    _check(fake_logits if real_logits is None else real_logits, fake_logits)
    fake = at_least_float32(fake_logits)
    match kind:
        case "logistic":
            return F.softplus(-fake)
        case "hinge" | "wasserstein":
            return -fake
        case "least_squares":
            return (fake - 1).square()
        case "least_squares_flipped":
            return fake.square()
        case "relativistic":
            if real_logits is None:
                raise ValueError("the relativistic generator loss needs real_logits, one for each fake; got None")
            return F.softplus(at_least_float32(real_logits) - fake)
        case _:
            raise _unknown(kind)


def patch_discriminator_loss(
    kind: AdversarialKind, real_logits: Float[Tensor, "N 1 h w"], fake_logits: Float[Tensor, "N 1 h w"]
) -> Float[Tensor, " N"]:
    """The mean of `discriminator_loss` over the patches of each pair, for a discriminator that judges patches.

    GauGAN takes its mean over scales as well; pix2pix and CycleGAN halve it. The authors' least squares and logistic
    losses of several scales are sums. The relativistic loss pairs patches of the same place.
    """
    losses = discriminator_loss(kind, real_logits.flatten(), fake_logits.flatten())
    return patch_mean(losses.reshape(fake_logits.shape))


def patch_generator_loss(
    kind: AdversarialKind,
    fake_logits: Float[Tensor, "N 1 h w"],
    real_logits: Float[Tensor, "N 1 h w"] | None = None,
) -> Float[Tensor, " N"]:
    """The mean of `generator_loss` over the patches of each fake."""
    reals = None if real_logits is None else real_logits.flatten()
    return patch_mean(generator_loss(kind, fake_logits.flatten(), reals).reshape(fake_logits.shape))


def patch_mean(logits: Float[Tensor, "N 1 h w"]) -> Float[Tensor, " N"]:
    """The mean over the patches of each picture, in float32 at least."""
    return at_least_float32(logits).flatten(1).mean(dim=1)


def at_least_float32(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The same numbers in float32, or in float64 where they came so: penalties square what float16 cannot hold."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check(real_logits: Tensor, fake_logits: Tensor) -> None:
    # Unequal shapes would broadcast into a plausible loss of the wrong pairs.
    if real_logits.ndim != 1 or real_logits.shape != fake_logits.shape:
        shapes = f"{tuple(real_logits.shape)} and {tuple(fake_logits.shape)}"
        raise ValueError(f"real and fake logits must be (N,) and equally long, got {shapes}")


def _unknown(kind: str) -> ValueError:
    return ValueError(f"unknown adversarial loss '{kind}'{suggest(kind, get_args(AdversarialKind))}")
