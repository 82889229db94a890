"""What teaches a discriminator classes, and a generator to paint them: one number per image.

Labels are one-hot, (N, K). Losses that compare images of a batch take a `group`: with several processes their columns
are the global batch, so that every number of processes gives the same gradients (the loop sums per-image losses).
No weight is applied here. Half precision is lifted to float32 first; float64 stays as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from frugan.losses.adversarial import at_least_float32

D2DForm = Literal["exact", "released"]


@runtime_checkable
class Group(Protocol):
    """The processes that share a batch: sample i of process r is number i * world + r of the global batch.

    `gather` gives the rows of all processes in that order; its gradient flows back to every process's part.
    """

    @property
    def rank(self) -> int: ...
    @property
    def world(self) -> int: ...
    def gather(self, values: Tensor) -> Tensor:
        """The rows of all processes."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process that has the whole batch."""

    rank: int = 0
    world: int = 1

    def gather(self, values: Tensor) -> Tensor:
        """The rows as they are."""
        return values


ALONE = Alone()


def class_loss(class_logits: Float[Tensor, "N K"], labels: Float[Tensor, "N K"]) -> Float[Tensor, " N"]:
    """The cross-entropy of each image's class logits with its one-hot label, in float32; take the mean to train.

    AC-GAN's auxiliary classifier (Odena et al. 2017), in ProGAN's form (Karras et al. 2018): the discriminator adds it
    for reals and for fakes, the generator for its fakes, each with weight 1. The weight belongs to the caller.
    """
    return -(labels * F.log_softmax(at_least_float32(class_logits), dim=1)).sum(dim=1)


def multi_hinge(class_logits: Float[Tensor, "N K"], labels: Float[Tensor, "N K"]) -> Float[Tensor, " N"]:
    """How far the label's logit is from being 1 above every other one, relu(1 + max of the others - it).

    Crammer and Singer 2001; MHGAN (Kavalerov et al. 2021) trains K + 1 logits by it, the last one for fakes: see
    `with_fake_class`. Raises ValueError for fewer than two classes.
    """
    if class_logits.shape[1] < 2:
        raise ValueError(f"multi_hinge needs at least 2 logits, got {class_logits.shape[1]}")
    logits, is_own = at_least_float32(class_logits), labels > 0.5
    own = (logits * labels).sum(dim=1)
    others = logits.masked_fill(is_own, -torch.inf).amax(dim=1)
    return F.relu(1 + others - own)


def with_fake_class(labels: Float[Tensor, "N K"], are_fake: bool) -> Float[Tensor, "N K+1"]:
    """The labels among K + 1 classes, of which the last one is `fake`, whatever a fake was meant to show."""
    fake = torch.full_like(labels[:, :1], float(are_fake))
    return torch.cat([torch.zeros_like(labels) if are_fake else labels, fake], dim=1)


@dataclass(frozen=True)
class Similarities:
    """Cosines of each image of this process: with the proxy of its own class, (N,), and with every image of the global
    batch, (N, M); which of those are the image itself, and which have its class (itself among them).
    """

    own: Float[Tensor, " N"]
    pairs: Float[Tensor, "N M"]
    is_self: Bool[Tensor, "N M"]
    is_same: Bool[Tensor, "N M"]


def similarities(
    embedding: Float[Tensor, "N D"],
    proxies: Float[Tensor, "N D"],
    labels: Float[Tensor, "N K"],
    group: Group = ALONE,
) -> Similarities:
    """How like each other images and classes are; `proxies` holds, for each image, the one of its class.

    One matrix product of N D + N M numbers, where cosines by broadcasting take N M D of them.
    Raises ValueError where embeddings and proxies are not of one shape.
    """
    if embedding.shape != proxies.shape or embedding.ndim != 2:
        shapes = f"{tuple(embedding.shape)} and {tuple(proxies.shape)}"
        raise ValueError(f"embeddings and the images' own proxies must both be (N, D), got {shapes}")
    f = F.normalize(at_least_float32(embedding), dim=1)
    v = F.normalize(at_least_float32(proxies), dim=1)
    classes = labels.argmax(dim=1).to(f.dtype)  # as numbers that `gather` takes
    columns, column_classes = group.gather(f), group.gather(classes)
    place = torch.arange(group.rank, len(columns), group.world, device=f.device)
    with torch.autocast(f.device.type, enabled=False):
        pairs = f @ columns.T
    return Similarities(
        own=(f * v).sum(dim=1),
        pairs=pairs,
        is_self=place[:, None] == torch.arange(len(columns), device=f.device),
        is_same=classes[:, None] == column_classes,
    )


def d2d_ce(
    found: Similarities,
    *,
    temperature: float,
    margin: float,
    negative_margin: float | None = None,
    form: D2DForm = "exact",
) -> Float[Tensor, " N"]:
    """The data-to-data cross-entropy of each image (ReACGAN, Kang et al. 2021, equation 7):

        -a_i + log(exp(a_i) + sum over j of another class of exp(b_ij)),
        a_i = min(s_i - m_p, 0) / t,  b_ij = max(s_ij - m_n, 0) / t,

    with s_i the cosine with its class's proxy and s_ij that with image j. Images of the same class stand in no
    denominator. `margin` is m_p, `negative_margin` m_n, by default 1 - m_p; `temperature` is t. Pairs beyond a margin
    add a constant and no gradient: the least value is log(1 + number of images of other classes).

    `form="released"` is what the authors' published code computes: it subtracts from each row's b_ij, and not from a_i,
    the largest (s_ij - m_n) / t of all other images, of the same class too. Value and gradient then differ, most when
    embeddings cluster: the gradient is 0.30 to 0.85 as long as the exact one there.
    Raises ValueError for a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    m_n = 1 - margin if negative_margin is None else negative_margin
    positive = (found.own - margin).clamp(max=0) / temperature
    shifted = (found.pairs - m_n) / temperature
    negatives = F.relu(shifted)
    if form == "released" and shifted.shape[1] > 1:
        largest = shifted.detach().masked_fill(found.is_self, -torch.inf).amax(dim=1, keepdim=True)
        negatives = negatives - largest
    negatives = negatives.masked_fill(found.is_same, -torch.inf)
    return torch.logsumexp(torch.cat([positive[:, None], negatives], dim=1), dim=1) - positive


def contrastive_2c(found: Similarities, *, temperature: float) -> Float[Tensor, " N"]:
    """The conditional contrastive loss of each image (ContraGAN, Kang and Park 2020, equation 8): minus the log of

        (exp(s_i / t) + sum over other j of the class of exp(s_ij / t))
        / (exp(s_i / t) + sum over all other j of exp(s_ij / t)).

    Raises ValueError for a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    every, positive = _rows_2c(found, temperature)
    return torch.logsumexp(every, dim=1) - torch.logsumexp(positive, dim=1)


def _rows_2c(found: Similarities, temperature: float) -> tuple[Tensor, Tensor]:
    """The exponents of denominator and numerator; the image's own proxy first, what does not count at -inf."""
    others = found.pairs.masked_fill(found.is_self, -torch.inf)
    alike = others.masked_fill(~found.is_same, -torch.inf)
    own = found.own[:, None]
    return torch.cat([own, others], dim=1) / temperature, torch.cat([own, alike], dim=1) / temperature


def feature_matching(
    real_features: Float[Tensor, "N C"], fake_features: Float[Tensor, "N C"], group: Group = ALONE
) -> Float[Tensor, ""]:
    """The mean over features of |mean of the fakes - mean of the reals|, over the global batch: one number for all.

    Salimans et al. 2016, in MHGAN's form. No gradient flows to the reals.
    """
    reals = group.gather(at_least_float32(real_features.detach())).mean(dim=0)
    fakes = group.gather(at_least_float32(fake_features)).mean(dim=0)
    return (fakes - reals).abs().mean()


def discrete_codes_loss(
    code_logits: Sequence[Float[Tensor, "N K"]], codes: Sequence[Float[Tensor, "N K"]]
) -> Float[Tensor, " N"]:
    """The cross-entropies of one-hot codes, summed over codes (InfoGAN, Chen et al. 2016)."""
    terms = [class_loss(logits, code) for logits, code in zip(code_logits, codes, strict=True)]
    return torch.stack(terms).sum(dim=0)


def continuous_codes_loss(
    mean: Float[Tensor, "N C"], variance: Float[Tensor, "N C"], codes: Float[Tensor, "N C"]
) -> Float[Tensor, " N"]:
    """The negative log-likelihood of codes under independent normals, summed over codes (InfoGAN).

    1e-6 is added to 2 pi variance and to 2 variance, as in published code.
    """
    m, v, c = (at_least_float32(each) for each in (mean, variance, codes))
    likelihood = -0.5 * torch.log(2 * torch.pi * v + 1e-6) - (c - m).square() / (2 * v + 1e-6)
    return -likelihood.sum(dim=1)


# -- how a classifier is doing: no gradients ---------------------------------------------------------------------------


@torch.no_grad()
def true_probability(class_logits: Float[Tensor, "N K"], labels: Float[Tensor, "N K"]) -> Float[Tensor, " N"]:
    """The probability that the softmax of the class logits gives to each image's own class."""
    return (F.softmax(at_least_float32(class_logits), dim=1) * labels).sum(dim=1)


@torch.no_grad()
def classifier_gradients(
    features: Float[Tensor, "N C"], class_logits: Float[Tensor, "N K"], labels: Float[Tensor, "N K"]
) -> Float[Tensor, "K C"]:
    """The gradient of the mean `class_loss` by the classifier's weights, in closed form: -1/N sum_i h_i (y_i - p_i).

    ReACGAN, equation 4: it grows with |h| and with 1 - p, which is how AC-GAN's classifier explodes. The mean is that
    of these images; means over parts of a batch may be averaged.
    """
    wrong = F.softmax(at_least_float32(class_logits), dim=1) - labels
    return wrong.T @ at_least_float32(features) / len(features)


@torch.no_grad()
def active_shares(
    found: Similarities, *, margin: float, negative_margin: float | None = None
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """For each image, whether its positive is short of the margin (0 or 1), and the share of its negatives beyond
    theirs (0 where it has none): those alone give D2D-CE's gradient.
    """
    m_n = 1 - margin if negative_margin is None else negative_margin
    is_negative = ~found.is_same
    active = (found.pairs > m_n) & is_negative
    return (found.own < margin).float(), active.sum(dim=1) / is_negative.sum(dim=1).clamp(min=1)


@torch.no_grad()
def pull_2c(found: Similarities, *, temperature: float) -> Float[Tensor, " N"]:
    """The derivative of each image's `contrastive_2c` by the cosine with its own proxy: at most 0."""
    every, positive = _rows_2c(found, temperature)
    return (torch.softmax(every, dim=1)[:, 0] - torch.softmax(positive, dim=1)[:, 0]) / temperature


@torch.no_grad()
def pull_d2d(loss: Float[Tensor, " N"], is_active: Float[Tensor, " N"], temperature: float) -> Float[Tensor, " N"]:
    """The same of `d2d_ce` in either form, from its values and from which positives are short of their margin."""
    return -is_active * (1 - torch.exp(-loss)) / temperature
