"""Terms that may stand beside any adversarial loss, each off unless it is named: settings, and the numbers they give.

The adversary (`training.tasks.adversary`) decides when each holds.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from frugan.augment.ada import AdaControllerConfig
from frugan.losses.adversarial import at_least_float32
from frugan.models.heads import Verdict


def at_least(config: object, **lowest: float) -> None:
    """Raises ValueError where one of these settings is below its lowest value."""
    for name, low in lowest.items():
        if getattr(config, name) < low:
            raise ValueError(f"{name} must be at least {low}, got {getattr(config, name)}")


def share(config: object, name: str) -> None:
    """Raises ValueError where this setting is not in [0, 1]."""
    if not 0 <= getattr(config, name) <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {getattr(config, name)}")


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig:
    """Consistency regularisation: the discriminator says the same of a picture and of it mirrored and shifted.

    CR-GAN (Zhang et al. 2020) has it for reals; with `fakes` above 0 it is bCR (Zhao et al. 2021). Mean squares of the
    differences of logits, and of class logits or embeddings where there are any.
    """

    reals: float = 10.0
    fakes: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, reals=0, fakes=0)


@dataclass(frozen=True, kw_only=True)
class LatentConsistencyConfig:
    """zCR (Zhao et al. 2021): for latents `sigma` apart the discriminator says the same, + `discriminator` times the
    mean square; and the generator paints different pictures, - `generator` times theirs.
    """

    sigma: float = 0.05
    discriminator: float = 20.0
    generator: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, sigma=0, discriminator=0, generator=0)


@dataclass(frozen=True, kw_only=True)
class TopKConfig:
    """The generator learns from the fakes that look best alone (Sinha et al. 2020): the share falls from 1 to `final`
    by a factor of `decay` each `every_images`. Of each micro-batch and process, so many of its own.
    """

    final: float = 0.5
    decay: float = 0.99
    every_images: int = 50_000

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, every_images=1)
        share(self, "final")
        share(self, "decay")

    def share_at(self, images_seen: int) -> float:
        """The share of the fakes that counts after so many images."""
        return max(self.decay ** (images_seen // self.every_images), self.final)


@dataclass(frozen=True, kw_only=True)
class ApaConfig:
    """Adaptive pseudo augmentation (Jiang et al. 2021): with probability p a real picture is replaced by a fake, and
    its label with it; p begins at `p` and moves like ADA's.
    """

    p: float = 0.0
    controller: AdaControllerConfig = field(default_factory=AdaControllerConfig)

    def __post_init__(self) -> None:
        """Check the range."""
        share(self, "p")


@dataclass(frozen=True, kw_only=True)
class LatentOptimisationConfig:
    """LOGAN (Wu et al. 2019): latents take `steps` steps d = alpha g / (beta + |g|^2), where g is the gradient of the
    discriminator's logit, before pictures are made of them; gradients of both sides flow through the steps.

    A picture's latent moves with probability `fraction`, and is then kept in [-clip, clip] (None: anywhere). Both
    losses add `weight` times the squared length of all steps. StudioGAN's code returns after the first step.
    """

    steps: int = 2
    alpha: float = 0.9
    beta: float = 0.1
    fraction: float = 0.8
    weight: float = 0.1
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, steps=1, alpha=0, weight=0)
        share(self, "fraction")
        for name in ("beta", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class TermsConfig:
    """All of them. `feature_matching`: the weight of the distance between mean features of reals and fakes, which the
    generator makes small (Salimans et al. 2016; 1 in MHGAN); its step then reads new real pictures.
    """

    consistency: ConsistencyConfig | None = None
    latent_consistency: LatentConsistencyConfig | None = None
    feature_matching: float = 0.0
    top_k: TopKConfig | None = None
    apa: ApaConfig | None = None

    def __post_init__(self) -> None:
        """Check the range."""
        at_least(self, feature_matching=0)


def disagreement(a: Verdict, b: Verdict) -> Tensor:
    """How far two verdicts on the same pictures are apart, (N,): squares of the differences of logits, and mean squares
    of those of class logits, multi-hinge logits or embeddings.
    """
    total = (at_least_float32(a.logits) - at_least_float32(b.logits)).square()
    for name in ("classes", "embedding", "hinge"):
        one, other = getattr(a, name), getattr(b, name)
        if one is not None and other is not None:
            total = total + (one - other).square().mean(dim=1)
    return total


def best(values: Tensor, logits: Tensor, fraction: float) -> Tensor:
    """The values (N,) where the logits are among the highest such share of them, in proportion; elsewhere 0.

    Their mean is that of the chosen ones.
    """
    count = max(int(len(values) * fraction + 0.5), 1)
    if count >= len(values):
        return values
    chosen = torch.zeros_like(values).index_fill_(0, logits.detach().topk(count).indices, len(values) / count)
    return values * chosen


def slices(verdict: Verdict, count: int) -> tuple[Verdict, Verdict]:
    """The verdict on the first `count` pictures, and that on the others."""
    return _taken(verdict, slice(count)), _taken(verdict, slice(count, None))


def _taken(verdict: Verdict, which: slice) -> Verdict:
    codes = verdict.codes
    if codes is not None:
        codes = type(codes)(*(None if each is None else each[which] for each in codes))
    fields = {name: value[which] for name, value in verdict._asdict().items() if isinstance(value, Tensor)}
    return verdict._replace(**fields, codes=codes)
