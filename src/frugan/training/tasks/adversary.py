"""What every generator against a discriminator shares: judging with augmentation, losses, regularisers, ADA's state.

A task adds how pictures are painted, how the discriminator is asked, and what holds when.
"""

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from frugan.augment import AugmentConfig, ada, augment, jointly
from frugan.augment.ada import AdaConfig
from frugan.augment.diffaugment import Place, applies
from frugan.data.dataset import Dataset
from frugan.losses import adversarial, conditional, regularize
from frugan.losses.adversarial import AdversarialKind
from frugan.training.door import Batch, Draw, Phase, Shared, Step


def at_least(config: object, **lowest: float) -> None:
    """Raises ValueError where one of these settings is below its lowest value."""
    for name, low in lowest.items():
        if getattr(config, name) < low:
            raise ValueError(f"{name} must be at least {low}, got {getattr(config, name)}")


def share(config: object, name: str) -> None:
    """Raises ValueError where this setting is not in [0, 1]."""
    if not 0 <= getattr(config, name) <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {getattr(config, name)}")


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
    def gradient_penalty(self) -> WganGpConfig | None: ...
    @property
    def lecam(self) -> LeCamConfig | None: ...
    @property
    def augment(self) -> AugmentConfig | None: ...
    @property
    def discriminator_steps(self) -> int: ...


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


def at_work(config: AugmentConfig | None) -> AugmentConfig | None:
    """The same augmentation for a training of seconds: ADA begins at half strength and moves fast."""
    if not isinstance(config, AdaConfig):
        return config
    controller = config.controller and dataclasses.replace(config.controller, ramp_images=64)
    return dataclasses.replace(config, p=max(config.p, 0.5), controller=controller)


class Augmenter:
    """Changes what a discriminator sees, where the mode says so; with ADA its probability follows the logits' signs."""

    def __init__(self, config: AugmentConfig | None) -> None:
        self._config = config
        self._ada = config if isinstance(config, AdaConfig) else None
        self._controller = None if self._ada is None else self._ada.controller
        self._state = ada.begin(self._ada or AdaConfig())

    def __call__(self, images: Tensor, place: Place, draw: Draw) -> Tensor:
        """The images as they are seen there."""
        if self._config is None or not applies(self._config.mode, place):
            return images
        return augment(images, self._config, float(self._state[0]), draw.uniform, draw.normal)

    def jointly(
        self, images: Sequence[Tensor], place: Place, draw: Draw, are_pictures: Sequence[bool]
    ) -> Sequence[Tensor]:
        """Images of one scene as they are seen there, changed alike (see `augment.jointly`)."""
        if self._config is None or not applies(self._config.mode, place):
            return images
        p = float(self._state[0])
        return jointly(images, self._config, p, draw.uniform, draw.normal, are_pictures=are_pictures)

    def note(self, step: Step, signs: Tensor) -> None:
        """Count in, for each real picture, the sign of the discriminator's logit, or its mean over patches: (N,)."""
        step.stats.add("real_sign", signs)
        if self._ada is not None:
            step.stats.add("augment_p", self._state[0].to(signs).expand_as(signs))

    def end(self, stats: Mapping[str, Tensor], images: int) -> None:
        """Move ADA's probability by the mean sign over so many real pictures."""
        if self._controller is not None:
            self._state = ada.adapt(self._state, float(stats["real_sign"]), images, self._controller)

    def state_dict(self) -> dict[str, Tensor]:
        """Where ADA stands."""
        return {} if self._controller is None else {"ada": self._state}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        if self._controller is not None and "ada" in state:  # not in a run that was begun without it
            self._state = state["ada"].clone()


class Painted(NamedTuple):
    """Generated pictures, and the style vectors they were made from where the generator has any."""

    images: Tensor
    w: Tensor | None = None


class Opinion(NamedTuple):
    """What the discriminator says: logits (N,), and logits of classes (N, K) where it also tells classes apart."""

    logits: Tensor
    classes: Tensor | None = None


class Adversary(abc.ABC):
    """A generator against a discriminator on the stream `images`; the phases are named `generator`, `discriminator`
    and `r1`. `class_weight` is AC-GAN's, for a discriminator that also tells classes apart.
    """

    class_weight: float = 1.0

    def __init__(self, config: AdversaryConfig, data: Dataset, num_classes: int) -> None:
        self._settings, self._num_classes = config, num_classes
        self._labels = None if data.labels is None else torch.from_numpy(data.labels)
        self.class_names = data.class_names
        self._augmenter = Augmenter(config.augment)
        self._logit_means = torch.zeros(2)

    # -- what a task adds ---------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def paint(
        self, step: Step, draw: Draw, labels: Tensor | None, dtype: torch.dtype | None, twice: bool = False
    ) -> Painted:
        """New pictures for these labels. `twice`: they will be differentiated twice."""

    @abc.abstractmethod
    def ask(
        self,
        step: Step,
        images: Tensor,
        labels: Tensor | None,
        draw: Draw,
        dtype: torch.dtype | None,
        twice: bool = False,
    ) -> Opinion:
        """What the discriminator says of pictures as it sees them. `twice` as above."""

    def reals(self, step: Step, batch: Mapping[str, Batch]) -> Tensor:
        """The real pictures as the discriminator is to see them, before augmentation."""
        return batch["images"].images

    # -- parts --------------------------------------------------------------------------------------------------------

    def begin(self, step: Step, draw: Shared) -> None:
        """Whether LeCam has begun."""
        lecam = self._settings.lecam
        step.shared["lecam"] = lecam is not None and step.images_seen >= lecam.start_images

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
            return batch["images"].labels
        return self.random_labels(draw)

    def random_labels(self, draw: Draw) -> Tensor | None:
        """The labels of random pictures of the set."""
        if self._labels is None:
            return None
        chosen = draw.integers(0, len(self._labels)).cpu()
        classes = self._labels[chosen].to(draw.device)
        return nn.functional.one_hot(classes, self._num_classes).float()

    def _judge(
        self,
        step: Step,
        images: Tensor,
        labels: Tensor | None,
        place: Place,
        draw: Draw,
        dtype: torch.dtype | None,
        twice: bool = False,
    ) -> Opinion:
        return self.ask(step, self._augmenter(images, place, draw), labels, draw, dtype, twice)

    def _generator_losses(self, step: Step, batch: Mapping[str, Batch], draw: Draw) -> dict[str, Tensor]:
        labels = self._fake_labels(draw, batch)
        fakes = self.paint(step, draw, labels, step.dtype)
        opinion = self._judge(step, fakes.images, labels, "g_fake", draw, step.dtype)
        real_logits = None
        if adversarial.needs_real_logits(self._settings.loss):
            real_labels = batch["images"].labels
            real_logits = self._judge(step, self.reals(step, batch), real_labels, "d_real", draw, step.dtype).logits
        terms = {"loss": adversarial.generator_loss(self._settings.loss, opinion.logits, real_logits)}
        if opinion.classes is not None and labels is not None:
            terms["classes"] = self.class_weight * conditional.class_loss(opinion.classes, labels)
        return terms

    def _discriminator_losses(self, step: Step, batch: Mapping[str, Batch], draw: Draw) -> Iterator[dict[str, Tensor]]:
        config, real_labels = self._settings, batch["images"].labels
        labels = self._fake_labels(draw, batch)
        with torch.no_grad():
            fakes = self.paint(step, draw, labels, step.dtype)
        reals = self.reals(step, batch)
        of_fakes = self._judge(step, fakes.images, labels, "d_fake", draw, step.dtype)
        of_reals = self._judge(step, reals, real_labels, "d_real", draw, step.dtype)
        real_logits, fake_logits = of_reals.logits, of_fakes.logits
        self._note(step, fakes, real_logits, fake_logits)
        terms = {"loss": adversarial.discriminator_loss(config.loss, real_logits, fake_logits)}
        if of_reals.classes is not None and of_fakes.classes is not None:
            assert real_labels is not None and labels is not None
            both = conditional.class_loss(of_reals.classes, real_labels)
            both = both + conditional.class_loss(of_fakes.classes, labels)
            terms["classes"] = self.class_weight * both
        if config.gradient_penalty is not None and config.gradient_penalty.drift > 0:
            terms["drift"] = config.gradient_penalty.drift * regularize.drift(real_logits)
        if config.lecam is not None and step.shared["lecam"]:
            means = self._logit_means.to(real_logits)
            terms["lecam"] = config.lecam.weight * regularize.lecam(real_logits, fake_logits, means[0], means[1])
        yield terms
        if config.gradient_penalty is not None:
            mixed = regularize.mix(reals, fakes.images.detach(), draw.uniform())
            logits = self._judge(step, mixed, real_labels, "d_real", draw, None, twice=True).logits
            penalty = regularize.wgan_gp(logits, mixed, config.gradient_penalty.target)
            yield {"gradient_penalty": config.gradient_penalty.weight * penalty}

    def _note(self, step: Step, fakes: Painted, real_logits: Tensor, fake_logits: Tensor) -> None:
        if fakes.w is not None:
            step.stats.add("w", fakes.w[:, 0])
        self._augmenter.note(step, adversarial.realness(self._settings.loss, real_logits, fake_logits).sign())
        step.stats.add("real_logits", real_logits)
        step.stats.add("fake_logits", fake_logits)

    def _r1_losses(self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw) -> dict[str, Tensor]:
        config = self._settings.r1
        assert config is not None
        images = self.reals(step, batch).detach().requires_grad_()
        logits = self._judge(step, images, batch["images"].labels, "d_real", draw, None, twice=True).logits
        terms = {"reals": config.gamma / 2 * phase.every * regularize.r1_penalty(logits, images)}
        if config.gamma_fake > 0:
            labels = self._fake_labels(draw, batch)
            with torch.no_grad():
                fakes = self.paint(step, draw, labels, None).images
            fakes = fakes.detach().requires_grad_()
            logits = self._judge(step, fakes, labels, "d_fake", draw, None, twice=True).logits
            terms["fakes"] = config.gamma_fake / 2 * phase.every * regularize.r1_penalty(logits, fakes)
        return terms

    # -- after --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Move LeCam's logit means and ADA's probability by means over the global batch."""
        lecam = self._settings.lecam
        if lecam is not None:
            decay = lecam.decay if step.shared["lecam"] else 0.0
            means = torch.stack([stats["real_logits"], stats["fake_logits"]]).cpu()
            self._logit_means = self._logit_means.lerp(means, 1 - decay)
        self._augmenter.end(stats, step.plan.batch * self._settings.discriminator_steps)

    def state_dict(self) -> dict[str, Tensor]:
        """LeCam's logit means, and where ADA stands."""
        return {"logit_means": self._logit_means, **self._augmenter.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        self._logit_means = state["logit_means"].clone()
        self._augmenter.load_state_dict(state)
