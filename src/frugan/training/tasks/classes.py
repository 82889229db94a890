"""Class-conditional GANs on the BigGAN ladder: ACGAN to ReACGAN, projection, BigGAN, and their relatives.

In an iteration the discriminator takes its steps first, then the generator, as in BigGAN and StudioGAN. Three
deviations from published code make an iteration that is made again, or made by several processes, give the same
numbers: spectral norms follow the weights once an iteration, not in every call; running statistics of batch
normalisation move at the end of an iteration, by the generator's step alone (the discriminator's: by its own steps);
draws belong to the global batch.
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frugan.augment import AugmentConfig
from frugan.data.dataset import Dataset
from frugan.losses import conditional
from frugan.losses.adversarial import AdversarialKind
from frugan.model import Model
from frugan.models.biggan import (
    BigGANConfig,
    BigGANDiscriminator,
    BigGANDiscriminatorConfig,
    BigGANGenerator,
)
from frugan.models.heads import Verdict
from frugan.models.ladder import doublings
from frugan.models.standing import StandingStatistics, stand
from frugan.ops.normalize import Pooling
from frugan.ops.onehot import one_hot
from frugan.ops.spectral import kernels, power_iterate, settle_exactly, using
from frugan.training.door import Batch, Draw, Phase, Plan, Published, Shared, Step
from frugan.training.tasks.adversary import (
    Adversary,
    LeCamConfig,
    Painted,
    PenaltyConfig,
    R1Config,
    check_losses,
    check_pair,
    discriminator_phases,
    generator_phase,
    generator_reads_reals,
    shape_of,
)
from frugan.training.tasks.augmenter import at_work
from frugan.training.tasks.conditioning import Conditioning, ConditioningConfig, Logits, check_conditioning
from frugan.training.tasks.statistics import (
    StatisticsConfig,
    largest_singular_value,
    move_statistics,
    note_statistics,
)
from frugan.training.tasks.terms import LatentOptimisationConfig, TermsConfig, at_least, share

_SINGULAR_EVERY = 16
"""Iterations from one look at the singular values to the next."""

_Network = TypeVar("_Network", BigGANConfig, BigGANDiscriminatorConfig)


@dataclass(frozen=True, kw_only=True)
class ClassesConfig:
    """What is trained against what, and how.

    `conditioning`: the class terms, which must be those of the discriminator's head; None where the head judges by the
    label itself, or knows no classes (such a recipe leaves labels out). `fake_labels`: drawn uniformly over classes, or
    as often as the set has them. `one_pass`: the discriminator is shown reals and fakes in one call, which changes
    nothing and saves time; with batch normalisation there are always two. `momentum`: the share of an iteration in the
    running statistics. `statistics`: those that the generator given out normalises by. `info`: the weight of InfoGAN's
    terms, for networks with codes; the generator's optimiser trains what reads them. `latent_optimisation` works in one
    process, with a discriminator without batch normalisation.
    """

    generator: BigGANConfig
    discriminator: BigGANDiscriminatorConfig
    conditioning: ConditioningConfig | None = None
    loss: AdversarialKind = "hinge"
    r1: R1Config | None = None
    gradient_penalty: PenaltyConfig | None = None
    lecam: LeCamConfig | None = None
    augment: AugmentConfig | None = None
    terms: TermsConfig = field(default_factory=TermsConfig)
    discriminator_steps: int = 1
    fake_labels: Literal["uniform", "as_data"] = "uniform"
    one_pass: bool = True
    momentum: float = 0.1
    statistics: StatisticsConfig = field(default_factory=StandingStatistics)
    info: float = 1.0
    latent_optimisation: LatentOptimisationConfig | None = None

    def __post_init__(self) -> None:
        """Check that the networks fit each other, and the terms the head."""
        check_pair(self.generator, self.discriminator)
        check_losses(self)
        check_conditioning(self.conditioning, self.discriminator.head, self.loss)
        at_least(self, discriminator_steps=1, info=0)
        share(self, "momentum")
        if self.generator.codes != self.discriminator.codes:
            codes = f"{self.generator.codes} and {self.discriminator.codes}"
            raise ValueError(f"generator and discriminator must have the same codes, got {codes}")
        if self.latent_optimisation is not None and self.discriminator.norm == "batch":
            raise ValueError("latent_optimisation needs a discriminator without batch normalisation")
        if self.generator.num_classes and self.discriminator.head is None:
            raise ValueError("a discriminator without a head knows no classes: num_classes must be 0")

    @property
    def needs_classes(self) -> bool:
        """Whether pictures must have classes."""
        return self.discriminator.head is not None

    def fit(self, data: Mapping[str, Dataset]) -> "ClassesConfig":
        """The same method for pictures of this size, channels and number of classes.

        Raises ValueError for a conditional method on pictures without labels.
        """
        resolution, channels, num_classes = shape_of(data["images"])
        if self.discriminator.head is None:
            num_classes = 0
        elif num_classes < 1:
            raise ValueError(
                "this recipe learns classes and the pictures have no labels: put each class in a folder of its own, or "
                "choose a recipe without classes"
            )
        return self.sized(resolution, channels=channels, num_classes=num_classes)

    def shrink(self, resolution: int) -> "ClassesConfig":
        """The same method with networks for seconds on a CPU, and ADA at work from the start."""
        return dataclasses.replace(
            self.sized(resolution, width=4),
            lecam=self.lecam and dataclasses.replace(self.lecam, start_images=0),
            augment=at_work(self.augment),
            statistics=self.statistics.shrunk(),
        )

    def sized(self, resolution: int, **changes: int) -> "ClassesConfig":
        """With networks of that resolution, and z as many numbers for each step as before. Attention stays at the
        resolutions that there still are.
        """
        generator = _resized(self.generator, resolution, changes)
        return dataclasses.replace(
            self,
            generator=generator,
            discriminator=_resized(self.discriminator, resolution, changes),
        )

    def build(self, data: Mapping[str, Dataset], batch: int) -> "ClassesTask":
        """The task on these pictures; the networks are initialised from torch's global generator."""
        return ClassesTask(self, data["images"], batch)

    def phases(self) -> tuple[Phase, ...]:
        """The discriminator's first. What reads codes is a part of it, but trained with the generator alone."""
        step, first = generator_phase(fresh=generator_reads_reals(self)), discriminator_phases(self)
        if self.generator.codes is not None:
            step = dataclasses.replace(step, nets=("generator", "reader"))
            first = tuple(dataclasses.replace(phase, through=("reader",)) for phase in first)
        return *first, step

    def lazy(self) -> dict[str, float]:
        """k / (k + 1) for the discriminator's optimiser where R1 counts every k-th iteration only."""
        every = 1 if self.r1 is None else self.r1.every
        return {} if every == 1 else {"discriminator": every / (every + 1)}


class ClassesTask(Adversary):
    """Trains `generator` and `discriminator` on the stream `images`."""

    def __init__(self, config: ClassesConfig, data: Dataset, batch: int) -> None:
        super().__init__(config, data, config.generator.num_classes)
        self.config = config
        self.generator = BigGANGenerator(config.generator)
        self.discriminator = BigGANDiscriminator(config.discriminator)
        self.conditioning = Conditioning(config.conditioning, self.discriminator.head.proxies)
        self.one_pass = config.one_pass and config.discriminator.norm != "batch"
        self.nets: dict[str, nn.Module] = {"generator": self.generator, "discriminator": self.discriminator}
        if self.discriminator.head.codes is not None:
            self.nets["reader"] = self.discriminator.head.codes
        self.frozen: dict[str, nn.Module] = {}
        self.ema: tuple[str, ...] = ("generator",)
        self._plan = Plan(phases=config.phases(), batch=batch, lr_scale=config.lazy(), beta_power=config.lazy())
        self._batch = batch

    def plan(self, images_seen: int) -> Plan:
        """The same at all times."""
        return self._plan

    def begin(self, step: Step, draw: Shared) -> None:
        """What is shared: the generator's kernels too, whose weights stay until its own step. In every 16th iteration
        the largest singular value of each side's layers as they are used now is noted.

        Raises ValueError for latent optimisation in several processes: statistics of batches are differentiated twice
        there, which goes through one process only.
        """
        super().begin(step, draw)
        if self.config.latent_optimisation is not None and step.ranks.world > 1:
            raise ValueError(f"latent_optimisation works in one process, got {step.ranks.world}: train with one")
        with torch.no_grad():
            step.shared["kernels"] = kernels(self.generator)
        iteration = step.images_seen // (step.plan.batch * self.config.discriminator_steps)
        for name in ("generator", "discriminator") if iteration % _SINGULAR_EVERY == 0 else ():
            value = largest_singular_value(self.nets[name])
            if value is not None:
                step.stats.add(f"{name}_singular", value[None])

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Float[Tensor, "..."]]]:
        """The losses of one phase, each sample's own."""
        step.phase = phase.name
        yield from self.adversarial_losses(phase, step, batch, draw)

    # -- parts --------------------------------------------------------------------------------------------------------

    def random_labels(self, draw: Draw) -> Tensor | None:
        """Uniform over classes, or the labels of random pictures of the set."""
        count = self.config.generator.num_classes
        if self.config.fake_labels == "as_data" or not count:
            return super().random_labels(draw)
        return one_hot(draw.integers(0, count), count)

    def paint(
        self,
        step: Step,
        draw: Draw,
        labels: Tensor | None,
        dtype: torch.dtype | None,
        twice: bool = False,
        apart: float = 0.0,
    ) -> Painted:
        """Pictures by the statistics of their own batch, which are noted in the generator's step."""
        z = draw.normal(self.config.generator.z_dim)
        with using(kernels(self.generator) if step.phase == "generator" else step.shared["kernels"]):
            if self.config.latent_optimisation is None:
                return self._painted(step, draw, z, labels, dtype, apart)
            with torch.enable_grad():  # the discriminator's gradients flow through the steps too
                z, moved = self._optimised(step, draw, z, labels, self.config.latent_optimisation)
                return self._painted(step, draw, z, labels, dtype, apart)._replace(moved=moved)

    def _painted(
        self, step: Step, draw: Draw, z: Tensor, labels: Tensor | None, dtype: torch.dtype | None, apart: float
    ) -> Painted:
        codes = self.generator.codes(z, labels)
        if step.phase == "generator":
            with note_statistics(self.generator, "generator", step.stats):
                images = self.generator.draw(codes, pooling=_pooling(step, 1.0), dtype=dtype)
        else:
            images = self.generator.draw(codes, pooling=_pooling(step), dtype=dtype)
        near = None
        if apart > 0:
            other = self.generator.codes(z + apart * draw.normal(z.shape[1]), labels)
            near = self.generator.draw(other, pooling=_pooling(step), dtype=dtype)
        return Painted(images, near=near, codes=codes)

    def _optimised(
        self, step: Step, draw: Draw, z: Tensor, labels: Tensor | None, config: LatentOptimisationConfig
    ) -> tuple[Tensor, Tensor]:
        """The latents after their steps, and the squared length of all steps together, (N,)."""
        moves = (draw.uniform() < config.fraction).to(z)[:, None]
        start, given = z, self.conditioning.labels(labels, are_fake=False)
        z = z.requires_grad_()
        for _ in range(config.steps):
            images = self.generator.draw(self.generator.codes(z, labels), pooling=_pooling(step))
            logits = self.ask(step, images, given, draw, None, twice=True).logits
            (gradient,) = torch.autograd.grad(logits.sum(), z, create_graph=True)
            move = config.alpha * gradient / (config.beta + gradient.square().sum(dim=1, keepdim=True))
            moved = z + move if config.clip is None else (z + move).clamp(-config.clip, config.clip)
            z = torch.lerp(z, moved, moves)
        return z, (z - start).square().sum(dim=1)

    def ask(
        self,
        step: Step,
        images: Tensor,
        labels: Tensor | None,
        draw: Draw,
        dtype: torch.dtype | None,
        twice: bool = False,
    ) -> Verdict:
        """The discriminator's verdict, by the statistics of these pictures where it has batch normalisation."""
        if self.config.discriminator.norm != "batch":
            with using(kernels(self.discriminator)):
                verdict: Verdict = self.discriminator(images, labels, dtype=dtype)
        elif step.phase == "discriminator":
            with note_statistics(self.discriminator, "discriminator", step.stats):
                verdict = self.discriminator(images, labels, dtype=dtype, pooling=_pooling(step, 1.0))
        else:
            verdict = self.discriminator(images, labels, dtype=dtype, pooling=_pooling(step))
        return verdict

    def more_terms(self, fakes: Painted) -> dict[str, Tensor]:
        """Latent optimisation's: how far latents moved."""
        config = self.config.latent_optimisation
        return {} if config is None or fakes.moved is None else {"latent_steps": config.weight * fakes.moved}

    def more_generator_terms(self, fakes: Painted, verdict: Verdict) -> dict[str, Tensor]:
        """InfoGAN's: how well the codes of fakes are read off them."""
        guess, terms = verdict.codes, self.more_terms(fakes)
        if guess is None or fakes.codes is None:
            return terms
        discrete, continuous = self.generator.info(fakes.codes)
        if guess.discrete is not None:
            value = conditional.discrete_codes_loss(guess.discrete.unbind(dim=1), discrete.unbind(dim=1))
            terms["info_discrete"] = self.config.info * value
        if guess.mean is not None and guess.variance is not None:
            value = conditional.continuous_codes_loss(guess.mean, guess.variance, continuous)
            terms["info_continuous"] = self.config.info * value
        return terms

    # -- after --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Move running statistics, follow the spectral norms of the new weights, then what the shared parts remember.

        The discriminator's norms follow by as many power iterations as it took steps.
        """
        super().end(step, stats)
        for name, steps in (("generator", 1), ("discriminator", self.config.discriminator_steps)):
            move_statistics(self.nets[name], name, stats, self.config.momentum)
            power_iterate(self.nets[name], steps)

    def published(self, ema: Mapping[str, nn.Module]) -> Published:
        """The averaged generator with its own spectral norms, by the statistics that the settings name.

        Averaged weights have other singular vectors than the newest ones: these are found anew.
        """
        averaged = ema["generator"]
        assert isinstance(averaged, BigGANGenerator)
        generator = copy.deepcopy(averaged).eval()
        settle_exactly(generator)
        if isinstance(self.config.statistics, StandingStatistics):
            stand(generator, self.config.statistics)
        return Published({"generator": generator}, {"statistics": self.config.statistics.text})

    def as_model(self, published: Published) -> Model:
        """What is published, spectral norms folded into its weights, and the discriminator as it is."""
        generator = published.nets["generator"]
        assert isinstance(generator, BigGANGenerator)
        names = {"class_names": list(self.class_names)} if self.config.generator.num_classes else {}
        info = {**published.info, **names}
        return Model(generator.fold_spectral(), Logits(self.discriminator, self.conditioning), info)

    def eval_model(self, ema: Mapping[str, nn.Module], images_seen: int) -> Model:
        """The model of what is published."""
        return self.as_model(self.published(ema))


def _pooling(step: Step, momentum: float = 0.0) -> Pooling:
    """Statistics of the batch of all processes."""
    return Pooling(gather=step.ranks.gather if step.ranks.world > 1 else None, momentum=momentum)


def _resized(config: _Network, resolution: int, changes: Mapping[str, int]) -> _Network:
    """The settings at another resolution: published widths of that size, as many numbers of z for each step, attention
    at the resolutions that there are.
    """
    if resolution == config.resolution:
        return dataclasses.replace(config, **changes)  # type: ignore[arg-type]
    more: dict[str, object] = {"multipliers": None, "attention": ()}
    if isinstance(config, BigGANConfig):
        if config.latent == "split":
            each = config.latent_dim // (config.doublings + 1)
            more["z_dim"] = each * (doublings(resolution) + 1) + config.z_dim - config.latent_dim
    else:
        more["num_halvings"] = None
    resized = dataclasses.replace(config, resolution=resolution, **changes, **more)  # type: ignore[arg-type]
    kept = tuple(size for size in config.attention if size in resized.stage_resolutions)
    return dataclasses.replace(resized, attention=kept)
