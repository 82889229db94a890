"""A generator against a discriminator: StyleGAN2's training, with any adversarial loss, its regularisers,
DiffAugment or ADA.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frugan.augment import AugmentConfig
from frugan.data.dataset import Dataset
from frugan.losses import regularize
from frugan.losses.adversarial import AdversarialKind
from frugan.model import Model
from frugan.models.heads import Verdict
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.models.stylegan2_discriminator import Discriminator, StyleGAN2DiscriminatorConfig
from frugan.training.door import Batch, Draw, Phase, Plan, Shared, Step
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
from frugan.training.tasks.terms import TermsConfig, at_least, share


@dataclass(frozen=True, kw_only=True)
class PathLengthConfig:
    """StyleGAN2's path-length regularisation of the generator, every `every` iterations on a share of the batch."""

    weight: float = 2.0
    every: int = 4
    decay: float = 0.99
    fraction: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, weight=0, every=1)
        share(self, "decay")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")


@dataclass(frozen=True, kw_only=True)
class GanConfig:
    """What is trained against what, and how.

    `freeze_discriminator`: the number of layers nearest the image that stay as they are (Freeze-D). `train`: `all`, or
    `scale_shift` for only the generator's style affines, noise strengths and biases (few pictures, a source model).
    `w_average_decay` is the moving average's that truncation draws towards. `compile` runs the main steps through
    torch.compile; regularisers, which are differentiated twice, stay as they are. It helps on GPUs, not on CPUs.
    `conditioning`: class terms, which must be those of the discriminator's head.
    """

    generator: StyleGAN2Config
    discriminator: StyleGAN2DiscriminatorConfig
    loss: AdversarialKind = "logistic"
    r1: R1Config | None = None
    path_length: PathLengthConfig | None = None
    gradient_penalty: PenaltyConfig | None = None
    lecam: LeCamConfig | None = None
    augment: AugmentConfig | None = None
    style_mixing: float = 0.9
    discriminator_steps: int = 1
    freeze_discriminator: int = 0
    train: Literal["all", "scale_shift"] = "all"
    w_average_decay: float = 0.998
    compile: bool = False
    terms: TermsConfig = field(default_factory=TermsConfig)
    conditioning: ConditioningConfig | None = None

    def __post_init__(self) -> None:
        """Check that generator and discriminator fit each other, and class terms the head."""
        check_pair(self.generator, self.discriminator)
        check_conditioning(self.conditioning, self.discriminator.head, self.loss)
        check_losses(self)
        share(self, "style_mixing")
        share(self, "w_average_decay")
        at_least(self, discriminator_steps=1, freeze_discriminator=0)

    @property
    def needs_classes(self) -> bool:
        """Whether pictures must have classes."""
        return self.discriminator.head is not None

    def fit(self, data: Mapping[str, Dataset]) -> "GanConfig":
        """The same method for pictures of this size, channels and number of classes."""
        resolution, channels, num_classes = shape_of(data["images"])
        return dataclasses.replace(
            self,
            generator=dataclasses.replace(
                self.generator, resolution=resolution, channels=channels, num_classes=num_classes
            ),
            discriminator=dataclasses.replace(
                self.discriminator, resolution=resolution, channels=channels, num_classes=num_classes
            ),
        )

    def shrink(self, resolution: int) -> "GanConfig":
        """The same method with networks for seconds on a CPU, and ADA at work from the start."""
        generator = dataclasses.replace(
            self.generator,
            resolution=resolution,
            channel_base=128,
            channel_max=16,
            widths=None,
            z_dim=16,
            w_dim=16,
            mapping_layers=2,
        )
        discriminator = dataclasses.replace(
            self.discriminator, resolution=resolution, channel_base=128, channel_max=16, widths=None, mapping_layers=2
        )
        return dataclasses.replace(
            self,
            generator=generator,
            discriminator=discriminator,
            lecam=self.lecam and dataclasses.replace(self.lecam, start_images=0),
            augment=at_work(self.augment),
            compile=False,
        )

    def build(self, data: Mapping[str, Dataset], batch: int) -> "GanTask":
        """The task on these pictures; the networks are initialised from torch's global generator."""
        return GanTask(self, data["images"], batch)

    def phases(self) -> tuple[Phase, ...]:
        """The generator's phases first, then the discriminator's, as in the authors' code."""
        phases = [generator_phase()]
        if self.path_length is not None:
            every, fraction = self.path_length.every, self.path_length.fraction
            phases.append(
                Phase(name="path_length", nets=("generator",), optimiser="generator", every=every, fraction=fraction)
            )
        return *phases, *discriminator_phases(self, fresh=generator_reads_reals(self))

    def lazy(self) -> dict[str, float]:
        """k / (k + 1) for the optimiser of each side that is regularised every k-th iteration only."""
        intervals = {"generator": self.path_length, "discriminator": self.r1}
        return {name: part.every / (part.every + 1) for name, part in intervals.items() if part and part.every > 1}


class GanTask(Adversary):
    """Trains `generator` and `discriminator` on the stream `images`."""

    def __init__(self, config: GanConfig, data: Dataset, batch: int) -> None:
        super().__init__(config, data, config.generator.num_classes)
        self.config = config
        self.generator = Generator(config.generator)
        self.discriminator = Discriminator(config.discriminator)
        if self.discriminator.head is not None:
            self.conditioning = Conditioning(config.conditioning, self.discriminator.head.proxies)
        self.nets: dict[str, nn.Module] = {"generator": self.generator, "discriminator": self.discriminator}
        self.frozen: dict[str, nn.Module] = {}
        self.ema: tuple[str, ...] = ("generator",)
        freeze_layers(self.discriminator, config.freeze_discriminator)
        if config.train == "scale_shift":
            keep_scale_and_shift(self.generator)
        if config.compile:
            self.generator.synthesis.compile(dynamic=False)
            self.discriminator.compile(dynamic=False)
        self._plan = Plan(phases=config.phases(), batch=batch, lr_scale=config.lazy(), beta_power=config.lazy())
        self._path_mean = torch.zeros(())

    def plan(self, images_seen: int) -> Plan:
        """The same at all times."""
        return self._plan

    def begin(self, step: Step, draw: Shared) -> None:
        """What path lengths are compared with, too."""
        super().begin(step, draw)
        step.shared["path_mean"] = self._path_mean.to(step.ranks.device)

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Float[Tensor, "..."]]]:
        """The losses of one phase, each sample's own."""
        if phase.name == "path_length":
            yield self._path_length_losses(step, draw)
        else:
            yield from self.adversarial_losses(phase, step, batch, draw)

    # -- parts ------------------------------------------------------------------------------------------------------

    def paint(
        self,
        step: Step,
        draw: Draw,
        labels: Tensor | None,
        dtype: torch.dtype | None,
        twice: bool = False,
        apart: float = 0.0,
    ) -> Painted:
        """Pictures and the style vectors they were made from, mixed from two latents in a share of the batches.

        `twice`: they will be differentiated twice, which a compiled network cannot be (its `forward` is not compiled).
        """
        generator, config = self.generator, self.config.generator
        z, mixed = draw.normal(config.z_dim), None
        if draw.decide(lambda shared: shared.uniform() < self.config.style_mixing):
            cutoff = draw.number(lambda shared: shared.integer(1, config.num_ws))
            is_other = torch.arange(config.num_ws, device=z.device) >= cutoff
            mixed = is_other[:, None], generator.mapping(draw.normal(config.z_dim), labels)
        noise = [draw.normal(*shape) for shape in generator.noise_shapes()]
        synthesis = generator.synthesis.forward if twice else generator.synthesis

        def styles(latents: Tensor) -> Tensor:
            w = generator.mapping(latents, labels)
            return w if mixed is None else torch.where(*mixed, w)

        w, near = styles(z), None
        if apart > 0:
            near = synthesis(styles(z + apart * draw.normal(config.z_dim)), noise=noise, dtype=dtype)
        return Painted(synthesis(w, noise=noise, dtype=dtype), w, near)

    def ask(
        self,
        step: Step,
        images: Tensor,
        labels: Tensor | None,
        draw: Draw,
        dtype: torch.dtype | None,
        twice: bool = False,
    ) -> Verdict:
        """The discriminator's verdict."""
        discriminator = self.discriminator.forward if twice else self.discriminator
        said = discriminator(images, labels, dtype=dtype)
        return said if isinstance(said, Verdict) else Verdict(said, said.new_zeros(len(said), 0))

    def twice_dtype(self, step: Step) -> torch.dtype | None:
        """Float16 where main phases compute in it, as in the authors' code, whose limit on activations goes with it."""
        return step.dtype if step.dtype == torch.float16 else None

    def _path_length_losses(self, step: Step, draw: Draw) -> dict[str, Tensor]:
        config = self.config.path_length
        assert config is not None
        painted = self.paint(step, draw, self.random_labels(draw), self.twice_dtype(step), twice=True)
        images, w = painted.images, painted.w
        assert w is not None
        lengths = regularize.path_lengths(images, w, draw.normal(*images.shape[1:]))
        mean = regularize.moving_mean(step.shared["path_mean"], step.ranks.gather(lengths), config.decay)
        step.stats.add("path_length", lengths)
        return {"loss": config.weight * config.every * regularize.path_length_penalty(lengths, mean)}

    # -- after ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Move the average latent, the path-length mean, LeCam's logit means and ADA's probability, all by means over
        the global batch.
        """
        super().end(step, stats)
        w_average = self.generator.mapping.w_avg
        w_average.lerp_(stats["w"].to(w_average), 1 - self.config.w_average_decay)
        if self.config.path_length is not None and "path_length" in stats:
            length = stats["path_length"]
            self._path_mean = self._path_mean.to(length).lerp(length, 1 - self.config.path_length.decay)

    def eval_model(self, ema: Mapping[str, nn.Module], images_seen: int) -> Model:
        """The averaged generator with the discriminator as it is."""
        generator = ema["generator"]
        assert isinstance(generator, Generator)
        judge = self.discriminator if self.discriminator.head is None else Logits(self.discriminator, self.conditioning)
        return Model(generator, judge, {"class_names": list(self.class_names)})

    def state_dict(self) -> dict[str, Tensor]:
        """The running means that regularisers compare with, and where ADA stands."""
        return {"path_mean": self._path_mean, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        super().load_state_dict(state)
        self._path_mean = state["path_mean"].clone()


def freeze_layers(discriminator: nn.Module, count: int) -> None:
    """Freeze-D (Mo et al. 2020): the first `count` layers, counted from the image, are not trained.

    A layer is `fromrgb`, `conv0`, `conv1` or `skip` of a block, the block of the highest resolution first.
    """
    layers: dict[str, list[nn.Parameter]] = {}
    for name, parameter in discriminator.named_parameters():
        block, _, rest = name.partition(".")
        if block[:1] == "b" and block[1:].isdigit() and block != "b4":
            layers.setdefault(f"{block}.{rest.split('.')[0]}", []).append(parameter)
    if not 0 <= count <= len(layers):
        raise ValueError(f"freeze_discriminator must be in [0, {len(layers)}] here, got {count}")
    order = sorted(layers, key=lambda layer: -int(layer.split(".")[0][1:]))
    for layer in order[:count]:
        for parameter in layers[layer]:
            parameter.requires_grad_(False)


def keep_scale_and_shift(generator: nn.Module) -> None:
    """Train only what scales and shifts channels: style affines, noise strengths and biases of the synthesis."""
    for name, parameter in generator.named_parameters():
        last = name.rsplit(".", 1)[-1]
        kept = name.startswith("synthesis.") and (".affine." in name or last in ("bias", "noise_strength"))
        parameter.requires_grad_(kept)
