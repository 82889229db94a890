"""What every generator against a discriminator shares: judging with augmentation, losses, regularisers.

A task adds how pictures are painted, how the discriminator is asked, and what holds when.
"""

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from frugan.augment import AugmentConfig, flipshift
from frugan.augment.diffaugment import Place
from frugan.data.dataset import Dataset
from frugan.losses import adversarial, conditional, regularize
from frugan.losses.adversarial import AdversarialKind
from frugan.models.heads import Verdict
from frugan.ops.onehot import one_hot
from frugan.training.door import Batch, Draw, Phase, Shared, Step
from frugan.training.tasks.augmenter import Augmenter, Deceiver
from frugan.training.tasks.conditioning import Conditioning, Terms
from frugan.training.tasks.terms import TermsConfig, at_least, best, disagreement, share, slices


def shape_of(dataset: Dataset) -> tuple[int, int, int]:
    """Resolution, channels and number of classes of a set."""
    return dataset.resolution, dataset.channels, dataset.num_classes


@dataclass(frozen=True, kw_only=True)
class R1Config:
    """Penalty on the discriminator's gradient: gamma / 2 at the reals, `gamma_fake` / 2 at the fakes (R2).

    It is computed in every `every`-th iteration, with `every` times the weight.
    """

    gamma: float
    gamma_fake: float = 0.0
    every: int = 16

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, gamma=0, gamma_fake=0, every=1)


@dataclass(frozen=True, kw_only=True)
class WganGpConfig:
    """The Wasserstein critic's gradient penalty between reals and fakes, and its drift term."""

    weight: float = 10.0
    target: float = 1.0
    drift: float = 0.001

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, weight=0, drift=0)
        if self.target <= 0:
            raise ValueError(f"target must be above 0, got {self.target}")


@dataclass(frozen=True, kw_only=True)
class DraganConfig:
    """DRAGAN's penalty (Kodali et al. 2017): WGAN-GP's with target 1, at reals moved by up to half the standard
    deviation of the batch.
    """

    weight: float = 10.0

    def __post_init__(self) -> None:
        """Check the range."""
        at_least(self, weight=0)


@dataclass(frozen=True, kw_only=True)
class MaxGpConfig:
    """The largest squared gradient between reals and fakes of the batch (Zhou et al. 2019, Lipschitz GANs)."""

    weight: float = 10.0

    def __post_init__(self) -> None:
        """Check the range."""
        at_least(self, weight=0)


PenaltyConfig = WganGpConfig | DraganConfig | MaxGpConfig


@dataclass(frozen=True, kw_only=True)
class LeCamConfig:
    """LeCam regularisation of the discriminator (Tseng et al. 2021), from `start_images` on."""

    weight: float = 0.3
    decay: float = 0.99
    start_images: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, weight=0, start_images=0)
        share(self, "decay")


@runtime_checkable
class AdversaryConfig(Protocol):
    """The settings that every such task has."""

    @property
    def loss(self) -> AdversarialKind: ...
    @property
    def r1(self) -> R1Config | None: ...
    @property
    def gradient_penalty(self) -> PenaltyConfig | None: ...
    @property
    def lecam(self) -> LeCamConfig | None: ...
    @property
    def augment(self) -> AugmentConfig | None: ...
    @property
    def discriminator_steps(self) -> int: ...
    @property
    def terms(self) -> TermsConfig: ...


def check_pair(generator: object, discriminator: object) -> None:
    """Raises ValueError where the two networks are not for the same pictures."""
    for name in ("resolution", "channels", "num_classes"):
        a, b = getattr(generator, name), getattr(discriminator, name)
        if a != b:
            raise ValueError(f"generator and discriminator must have the same {name}, got {a} and {b}")


def check_losses(config: AdversaryConfig) -> None:
    """Raises ValueError for terms that do not go together."""
    if config.lecam is not None and config.loss == "least_squares_flipped":
        raise ValueError("lecam needs a loss that gives reals the higher logits, least_squares_flipped does not")


def generator_reads_reals(config: AdversaryConfig) -> bool:
    """Whether the generator's step compares with real pictures; then it or the discriminator's takes new ones."""
    return adversarial.needs_real_logits(config.loss) or config.terms.feature_matching > 0


def generator_phase(fresh: bool = False) -> Phase:
    """The generator's main step."""
    return Phase(name="generator", nets=("generator",), optimiser="generator", fresh=fresh)


def discriminator_phases(config: AdversaryConfig, fresh: bool = False) -> tuple[Phase, ...]:
    """The discriminator's main step, then its lazy penalty; a penalty of every iteration steps with it."""
    together = config.r1 is not None and config.r1.every == 1 and config.discriminator_steps == 1
    main = Phase(
        name="discriminator",
        nets=("discriminator",),
        optimiser="discriminator",
        repeats=config.discriminator_steps,
        step_with="r1" if together else None,
        fresh=fresh,
    )
    if config.r1 is None:
        return (main,)
    return main, Phase(name="r1", nets=("discriminator",), optimiser="discriminator", every=config.r1.every)


class Painted(NamedTuple):
    """Generated pictures, the style vectors they were made from where the generator has any, pictures of latents nearby
    where they were asked for, and whatever else the task wants to know of them again.
    """

    images: Tensor
    w: Tensor | None = None
    near: Tensor | None = None
    codes: Tensor | None = None
    moved: Tensor | None = None


class Seen(NamedTuple):
    """Pictures as the discriminator was shown them, with the labels it was given, and what it says."""

    images: Tensor
    labels: Tensor | None
    verdict: Verdict


class Adversary(abc.ABC):
    """A generator against a discriminator on the stream `images`; the phases are named `generator`, `discriminator`
    and `r1`.

    With several micro-batches, whatever compares pictures (D2D-CE, 2C, feature matching, MaxGP) does so in each of
    them, over all processes: a larger micro-batch is another loss there, as in all published code.
    """

    one_pass: bool = False
    """Whether the discriminator is shown reals and fakes in one call; not for one in which pictures of a batch see each
    other.
    """

    def __init__(self, config: AdversaryConfig, data: Dataset, num_classes: int) -> None:
        self._settings, self._num_classes = config, num_classes
        self._labels = None if data.labels is None else torch.from_numpy(data.labels)
        self.class_names = data.class_names
        self.conditioning = Conditioning(None)
        self._augmenter = Augmenter(config.augment)
        self._deceiver = Deceiver(config.terms.apa)
        self._logit_means = torch.zeros(2)

    # -- what a task adds ---------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def paint(
        self,
        step: Step,
        draw: Draw,
        labels: Tensor | None,
        dtype: torch.dtype | None,
        twice: bool = False,
        apart: float = 0.0,
    ) -> Painted:
        """New pictures for these labels. `twice`: they will be differentiated twice. `apart` above 0: `Painted.near`
        too, of latents moved by so many times a normal number.
        """

    @abc.abstractmethod
    def ask(
        self,
        step: Step,
        images: Tensor,
        labels: Tensor | None,
        draw: Draw,
        dtype: torch.dtype | None,
        twice: bool = False,
    ) -> Verdict:
        """What the discriminator says of pictures as it sees them. `twice` as above."""

    def reals(self, step: Step, batch: Mapping[str, Batch]) -> Tensor:
        """The real pictures as the discriminator is to see them, before augmentation."""
        return batch["images"].images

    def real_labels(self, batch: Mapping[str, Batch]) -> Tensor | None:
        """The labels of the real pictures; None for networks that know no classes."""
        return batch["images"].labels if self._num_classes else None

    def twice_dtype(self, step: Step) -> torch.dtype | None:
        """The compute type of R1 and R2 (None: float32): bfloat16 keeps too few digits of a small gradient."""
        return None

    # -- parts --------------------------------------------------------------------------------------------------------

    def begin(self, step: Step, draw: Shared) -> None:
        """Whether LeCam has begun and what it compares with, and the share of the fakes that counts."""
        lecam, top_k = self._settings.lecam, self._settings.terms.top_k
        step.shared["lecam"] = lecam is not None and step.images_seen >= lecam.start_images
        step.shared["logit_means"] = self._logit_means.to(step.ranks.device)
        step.shared["top_k"] = 1.0 if top_k is None else top_k.share_at(step.images_seen)

    def adversarial_losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Tensor]]:
        """The losses of the three shared phases, each sample's own."""
        match phase.name:
            case "generator":
                yield self._generator_losses(step, batch, draw)
            case "discriminator":
                yield from self._discriminator_losses(step, batch, draw)
            case "r1":
                yield self._r1_losses(phase, step, batch, draw)

    def _fake_labels(self, draw: Draw, batch: Mapping[str, Batch]) -> Tensor | None:
        """Random labels, or the reals' own where the loss pairs fakes with reals."""
        if adversarial.needs_real_logits(self._settings.loss):
            return self.real_labels(batch)
        return self.random_labels(draw)

    def random_labels(self, draw: Draw) -> Tensor | None:
        """The labels of random pictures of the set."""
        if self._labels is None or not self._num_classes:
            return None
        self._labels = self._labels.to(draw.device)  # where they stay
        classes = self._labels[draw.integers(0, len(self._labels))]
        return one_hot(classes, self._num_classes)

    def _show(
        self,
        step: Step,
        images: Tensor,
        labels: Tensor | None,
        place: Place,
        draw: Draw,
        dtype: torch.dtype | None,
        twice: bool = False,
    ) -> Seen:
        seen = self._augmenter(images, place, draw)
        given = self.conditioning.labels(labels, are_fake=place == "d_fake")
        return Seen(seen, given, self.ask(step, seen, given, draw, dtype, twice))

    def _show_both(
        self, step: Step, reals: Tensor, real_labels: Tensor | None, fakes: Tensor, labels: Tensor | None, draw: Draw
    ) -> tuple[Seen, Seen]:
        """Reals and fakes in the discriminator's own step; (reals, fakes)."""
        if not self.one_pass:
            of_fakes = self._show(step, fakes, labels, "d_fake", draw, step.dtype)
            return self._show(step, reals, real_labels, "d_real", draw, step.dtype), of_fakes
        fakes, reals = self._augmenter(fakes, "d_fake", draw), self._augmenter(reals, "d_real", draw)
        real_given = self.conditioning.labels(real_labels, are_fake=False)
        given = self.conditioning.labels(labels, are_fake=True)
        both = None if real_given is None or given is None else torch.cat([real_given, given])
        verdicts = slices(self.ask(step, torch.cat([reals, fakes]), both, draw, step.dtype), len(reals))
        return Seen(reals, real_given, verdicts[0]), Seen(fakes, given, verdicts[1])

    def _generator_losses(self, step: Step, batch: Mapping[str, Batch], draw: Draw) -> dict[str, Tensor]:
        kind, extra = self._settings.loss, self._settings.terms
        zcr = extra.latent_consistency
        labels = self._fake_labels(draw, batch)
        fakes = self.paint(step, draw, labels, step.dtype, apart=0.0 if zcr is None else zcr.sigma)
        verdict = self._show(step, fakes.images, labels, "g_fake", draw, step.dtype).verdict
        real_logits = None
        if adversarial.needs_real_logits(kind):
            real_labels = self.real_labels(batch)
            reals = self._show(step, self.reals(step, batch), real_labels, "d_real", draw, step.dtype)
            real_logits = reals.verdict.logits
        loss = self.conditioning.convince(kind, verdict, labels, real_logits)
        if extra.top_k is not None:
            loss = best(loss, verdict.logits, step.shared["top_k"])
        terms = {"loss": loss, **self.conditioning.learn(verdict, labels, step.ranks)}
        if extra.feature_matching > 0:
            with torch.no_grad():
                reals = self._show(step, self.reals(step, batch), self.real_labels(batch), "d_real", draw, step.dtype)
            distance = conditional.feature_matching(reals.verdict.features, verdict.features, step.ranks)
            terms["feature_matching"] = extra.feature_matching * distance
        if zcr is not None and fakes.near is not None:
            apart = (fakes.images.float() - fakes.near.float()).square().mean(dim=(1, 2, 3))
            terms["latent_consistency"] = -zcr.generator * apart
        return terms | self.more_generator_terms(fakes, verdict)

    def more_terms(self, fakes: Painted) -> dict[str, Tensor]:
        """What a task adds to the discriminator's losses."""
        return {}

    def more_generator_terms(self, fakes: Painted, verdict: Verdict) -> dict[str, Tensor]:
        """What a task adds to the generator's losses."""
        return {}

    def _discriminator_losses(self, step: Step, batch: Mapping[str, Batch], draw: Draw) -> Iterator[dict[str, Tensor]]:
        config, zcr = self._settings, self._settings.terms.latent_consistency
        labels = self._fake_labels(draw, batch)
        with torch.no_grad():
            fakes = self.paint(step, draw, labels, step.dtype, apart=0.0 if zcr is None else zcr.sigma)
        reals, real_labels = self._deceiver(
            self.reals(step, batch), self.real_labels(batch), fakes.images, labels, draw
        )
        of_reals, of_fakes = self._show_both(step, reals, real_labels, fakes.images, labels, draw)
        self._note(step, fakes, of_reals.verdict, of_fakes.verdict, draw)
        loss = self.conditioning.tell_apart(config.loss, of_reals.verdict, real_labels, of_fakes.verdict, labels)
        terms = {"loss": loss, **self.more_terms(fakes)}
        terms |= self.conditioning.teach(
            step.stats, of_reals.verdict, real_labels, of_fakes.verdict, labels, step.ranks
        )
        yield (
            terms
            | self._logit_terms(step, of_reals, of_fakes)
            | self._consistency(step, of_reals, of_fakes, draw)
            | (self._latent_consistency(step, fakes, labels, of_fakes, draw))
        )
        if config.gradient_penalty is not None:
            yield self._penalty(step, reals, real_labels, fakes.images.detach(), draw)

    def _logit_terms(self, step: Step, reals: Seen, fakes: Seen) -> Terms:
        config, terms = self._settings, {}
        real_logits, fake_logits = reals.verdict.logits, fakes.verdict.logits
        drift = config.gradient_penalty.drift if isinstance(config.gradient_penalty, WganGpConfig) else 0.0
        if drift > 0:
            terms["drift"] = drift * regularize.drift(real_logits)
        if config.lecam is not None and step.shared["lecam"]:
            means = step.shared["logit_means"]
            terms["lecam"] = config.lecam.weight * regularize.lecam(real_logits, fake_logits, means[0], means[1])
        return terms

    def _consistency(self, step: Step, reals: Seen, fakes: Seen, draw: Draw) -> Terms:
        config = self._settings.terms.consistency
        terms: Terms = {}
        for name, weight, seen in (
            () if config is None else (("", config.reals, reals), ("_fakes", config.fakes, fakes))
        ):
            if weight > 0:
                moved = flipshift.apply(seen.images, flipshift.draw(draw.uniform, *seen.images.shape[2:]))
                again = self.ask(step, moved, seen.labels, draw, step.dtype)
                terms[f"consistency{name}"] = weight * disagreement(seen.verdict, again)
        return terms

    def _latent_consistency(self, step: Step, fakes: Painted, labels: Tensor | None, seen: Seen, draw: Draw) -> Terms:
        config = self._settings.terms.latent_consistency
        if config is None or fakes.near is None:
            return {}
        near = self._show(step, fakes.near, labels, "d_fake", draw, step.dtype).verdict
        return {"latent_consistency": config.discriminator * disagreement(seen.verdict, near)}

    def _penalty(
        self, step: Step, reals: Tensor, real_labels: Tensor | None, fakes: Tensor, draw: Draw
    ) -> dict[str, Tensor]:
        config = self._settings.gradient_penalty
        assert config is not None
        uniform = draw.uniform()
        if isinstance(config, DraganConfig):
            spread = regularize.batch_deviation(reals, step.ranks.gather)
            points = regularize.around(reals, spread, uniform, draw.uniform(*reals.shape[1:]))
        else:
            points = regularize.mix(reals, fakes, uniform)
        logits = self._show(step, points, real_labels, "d_real", draw, None, twice=True).verdict.logits
        if isinstance(config, MaxGpConfig):
            value = step.ranks.gather(regularize.r1_penalty(logits, points)).max()
        else:
            value = regularize.wgan_gp(logits, points, config.target if isinstance(config, WganGpConfig) else 1.0)
        return {"gradient_penalty": config.weight * value}

    def _note(self, step: Step, fakes: Painted, reals: Verdict, of_fakes: Verdict, draw: Draw) -> None:
        if fakes.w is not None:
            step.stats.add("w", fakes.w[:, 0])
        signs = adversarial.realness(self._settings.loss, reals.logits, of_fakes.logits).sign()
        self._augmenter.note(step, signs, draw)
        self._deceiver.note(step, len(signs), draw)
        step.stats.add("real_logits", reals.logits)
        step.stats.add("fake_logits", of_fakes.logits)

    def _r1_losses(self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw) -> dict[str, Tensor]:
        config = self._settings.r1
        assert config is not None
        images, dtype = self.reals(step, batch).detach().requires_grad_(), self.twice_dtype(step)
        logits = self._show(step, images, self.real_labels(batch), "d_real", draw, dtype, twice=True).verdict.logits
        terms = {"reals": config.gamma / 2 * phase.every * regularize.r1_penalty(logits, images)}
        if config.gamma_fake > 0:
            labels = self._fake_labels(draw, batch)
            with torch.no_grad():
                fakes = self.paint(step, draw, labels, dtype).images
            fakes = fakes.detach().requires_grad_()
            logits = self._show(step, fakes, labels, "d_fake", draw, dtype, twice=True).verdict.logits
            terms["fakes"] = config.gamma_fake / 2 * phase.every * regularize.r1_penalty(logits, fakes)
        return terms

    # -- after --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Move LeCam's logit means and ADA's probability by means over the global batch."""
        lecam = self._settings.lecam
        if lecam is not None:
            decay = lecam.decay if step.shared["lecam"] else 0.0
            means = torch.stack([stats["real_logits"], stats["fake_logits"]])
            self._logit_means = self._logit_means.to(means).lerp(means, 1 - decay)
        images = step.plan.batch * self._settings.discriminator_steps
        self._augmenter.end(stats, images)
        self._deceiver.end(stats, images)

    def state_dict(self) -> dict[str, Tensor]:
        """LeCam's logit means, and where ADA and APA stand."""
        return {
            "logit_means": self._logit_means,
            **self._augmenter.state_dict(),
            **self._deceiver.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        self._logit_means = state["logit_means"].clone()
        self._augmenter.load_state_dict(state)
        self._deceiver.load_state_dict(state)
