"""A generator against a discriminator: StyleGAN2's training, with any adversarial loss, its regularisers,
DiffAugment or ADA.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frugan.augment import AugmentConfig, ada, augment
from frugan.augment.ada import AdaConfig
from frugan.augment.diffaugment import Place, applies
from frugan.data.dataset import Dataset
from frugan.losses import adversarial, regularize
from frugan.losses.adversarial import AdversarialKind
from frugan.model import Model
from frugan.models.stylegan2 import Discriminator, Generator, StyleGAN2Config, StyleGAN2DiscriminatorConfig
from frugan.training.door import Batch, Draw, Phase, Plan, Shared, Step


def _at_least(config: object, **lowest: float) -> None:
    for name, low in lowest.items():
        if getattr(config, name) < low:
            raise ValueError(f"{name} must be at least {low}, got {getattr(config, name)}")


def _share(config: object, name: str) -> None:
    if not 0 <= getattr(config, name) <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {getattr(config, name)}")


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
        _at_least(self, gamma=0, gamma_fake=0, every=1)


@dataclass(frozen=True, kw_only=True)
class PathLengthConfig:
    """StyleGAN2's path-length regularisation of the generator, every `every` iterations on a share of the batch."""

    weight: float = 2.0
    every: int = 4
    decay: float = 0.99
    fraction: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        _at_least(self, weight=0, every=1)
        _share(self, "decay")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")


@dataclass(frozen=True, kw_only=True)
class WganGpConfig:
    """The Wasserstein critic's gradient penalty between reals and fakes, and its drift term."""

    weight: float = 10.0
    target: float = 1.0
    drift: float = 0.001

    def __post_init__(self) -> None:
        """Check the ranges."""
        _at_least(self, weight=0, drift=0)
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
        _at_least(self, weight=0, start_images=0)
        _share(self, "decay")


@dataclass(frozen=True, kw_only=True)
class GanConfig:
    """What is trained against what, and how.

    `freeze_discriminator`: the number of layers nearest the image that stay as they are (Freeze-D). `train`: `all`, or
    `scale_shift` for only the generator's style affines, noise strengths and biases (few pictures, a source model).
    `w_average_decay` is the moving average's that truncation draws towards. `compile` runs the main steps through
    torch.compile; regularisers, which are differentiated twice, stay as they are. It helps on GPUs, not on CPUs.
    """

    generator: StyleGAN2Config
    discriminator: StyleGAN2DiscriminatorConfig
    loss: AdversarialKind = "logistic"
    r1: R1Config | None = None
    path_length: PathLengthConfig | None = None
    gradient_penalty: WganGpConfig | None = None
    lecam: LeCamConfig | None = None
    augment: AugmentConfig | None = None
    style_mixing: float = 0.9
    discriminator_steps: int = 1
    freeze_discriminator: int = 0
    train: Literal["all", "scale_shift"] = "all"
    w_average_decay: float = 0.998
    compile: bool = False

    def __post_init__(self) -> None:
        """Check that generator and discriminator fit each other."""
        for name in ("resolution", "channels", "num_classes"):
            a, b = getattr(self.generator, name), getattr(self.discriminator, name)
            if a != b:
                raise ValueError(f"generator and discriminator must have the same {name}, got {a} and {b}")
        _share(self, "style_mixing")
        _share(self, "w_average_decay")
        _at_least(self, discriminator_steps=1, freeze_discriminator=0)

    def fit(self, resolution: int, channels: int, num_classes: int) -> "GanConfig":
        """The same method for pictures of this size, channels and number of classes."""
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
            augment=_at_work(self.augment),
            compile=False,
        )

    def build(self, data: Mapping[str, Dataset], batch: int) -> "GanTask":
        """The task on these pictures; the networks are initialised from torch's global generator."""
        return GanTask(self, data["images"], batch)

    def phases(self) -> tuple[Phase, ...]:
        """The generator's phases first, then the discriminator's, as in the authors' code."""
        relativistic = adversarial.needs_real_logits(self.loss)
        phases = [Phase(name="generator", nets=("generator",), optimiser="generator")]
        if self.path_length is not None:
            every, fraction = self.path_length.every, self.path_length.fraction
            phases.append(
                Phase(name="path_length", nets=("generator",), optimiser="generator", every=every, fraction=fraction)
            )
        together = self.r1 is not None and self.r1.every == 1 and self.discriminator_steps == 1
        phases.append(
            Phase(
                name="discriminator",
                nets=("discriminator",),
                optimiser="discriminator",
                repeats=self.discriminator_steps,
                step_with="r1" if together else None,
                fresh=relativistic,
            )
        )
        if self.r1 is not None:
            phases.append(Phase(name="r1", nets=("discriminator",), optimiser="discriminator", every=self.r1.every))
        return tuple(phases)

    def lazy(self) -> dict[str, float]:
        """k / (k + 1) for the optimiser of each side that is regularised every k-th iteration only."""
        intervals = {"generator": self.path_length, "discriminator": self.r1}
        return {name: part.every / (part.every + 1) for name, part in intervals.items() if part and part.every > 1}


def _at_work(augment: AugmentConfig | None) -> AugmentConfig | None:
    if not isinstance(augment, AdaConfig):
        return augment
    controller = augment.controller and dataclasses.replace(augment.controller, ramp_images=64)
    return dataclasses.replace(augment, p=max(augment.p, 0.5), controller=controller)


class GanTask:
    """Trains `generator` and `discriminator` on the stream `images`."""

    def __init__(self, config: GanConfig, data: Dataset, batch: int) -> None:
        self.config = config
        self.generator = Generator(config.generator)
        self.discriminator = Discriminator(config.discriminator)
        self.nets: dict[str, nn.Module] = {"generator": self.generator, "discriminator": self.discriminator}
        self.frozen: dict[str, nn.Module] = {}
        self.ema: tuple[str, ...] = ("generator",)
        freeze_layers(self.discriminator, config.freeze_discriminator)
        if config.train == "scale_shift":
            keep_scale_and_shift(self.generator)
        if config.compile:
            self.generator.synthesis.compile()
            self.discriminator.compile()
        self._labels = None if data.labels is None else torch.from_numpy(data.labels)
        self._class_names = data.class_names
        self._plan = Plan(phases=config.phases(), batch=batch, lr_scale=config.lazy(), beta_power=config.lazy())
        self._ada = config.augment if isinstance(config.augment, AdaConfig) else None
        self._controller = None if self._ada is None else self._ada.controller
        self._ada_state = ada.begin(self._ada or AdaConfig())
        self._path_mean = torch.zeros(())
        self._logit_means = torch.zeros(2)

    def plan(self, images_seen: int) -> Plan:
        """The same at all times."""
        return self._plan

    def begin(self, step: Step, draw: Shared) -> None:
        """Whether LeCam has begun."""
        lecam = self.config.lecam
        step.shared["lecam"] = lecam is not None and step.images_seen >= lecam.start_images

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Float[Tensor, "..."]]]:
        """The losses of one phase, each sample's own."""
        match phase.name:
            case "generator":
                yield self._generator_losses(step, batch, draw)
            case "path_length":
                yield self._path_length_losses(step, draw)
            case "discriminator":
                yield from self._discriminator_losses(step, batch, draw)
            case "r1":
                yield self._r1_losses(phase, batch, draw)

    # -- parts ------------------------------------------------------------------------------------------------------

    def _fake(
        self, draw: Draw, labels: Tensor | None, dtype: torch.dtype | None, twice: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Pictures and the style vectors they were made from, mixed from two latents in a share of the batches.

        `twice`: they will be differentiated twice, which a compiled network cannot be (its `forward` is not compiled).
        """
        generator, config = self.generator, self.config.generator
        w = generator.mapping(draw.normal(config.z_dim), labels)
        if draw.shared.uniform() < self.config.style_mixing:
            cutoff = draw.shared.integer(1, w.shape[1])
            other = generator.mapping(draw.normal(config.z_dim), labels)
            w = torch.cat([w[:, :cutoff], other[:, cutoff:]], dim=1)
        noise = [draw.normal(*shape) for shape in generator.noise_shapes()]
        synthesis = generator.synthesis.forward if twice else generator.synthesis
        return synthesis(w, noise=noise, dtype=dtype), w

    def _fake_labels(self, draw: Draw, batch: Mapping[str, Batch]) -> Tensor | None:
        """Random labels, or the reals' own where the loss pairs fakes with reals."""
        if adversarial.needs_real_logits(self.config.loss):
            return batch["images"].labels
        return self._random_labels(draw)

    def _random_labels(self, draw: Draw) -> Tensor | None:
        """The labels of random pictures of the set."""
        if self._labels is None:
            return None
        chosen = draw.integers(0, len(self._labels)).cpu()
        classes = self._labels[chosen].to(draw.device)
        return nn.functional.one_hot(classes, self.config.generator.num_classes).float()

    def _judge(
        self,
        images: Tensor,
        labels: Tensor | None,
        place: Place,
        draw: Draw,
        dtype: torch.dtype | None,
        twice: bool = False,
    ) -> Tensor:
        config = self.config.augment
        if config is not None and applies(config.mode, place):
            images = augment(images, config, float(self._ada_state[0]), draw.uniform, draw.normal)
        discriminator = self.discriminator.forward if twice else self.discriminator
        return discriminator(images, labels, dtype=dtype)

    def _generator_losses(self, step: Step, batch: Mapping[str, Batch], draw: Draw) -> dict[str, Tensor]:
        labels = self._fake_labels(draw, batch)
        images, _ = self._fake(draw, labels, step.dtype)
        fake_logits = self._judge(images, labels, "g_fake", draw, step.dtype)
        real_logits = None
        if adversarial.needs_real_logits(self.config.loss):
            reals = batch["images"]
            real_logits = self._judge(reals.images, reals.labels, "d_real", draw, step.dtype)
        return {"loss": adversarial.generator_loss(self.config.loss, fake_logits, real_logits)}

    def _path_length_losses(self, step: Step, draw: Draw) -> dict[str, Tensor]:
        config = self.config.path_length
        assert config is not None
        images, w = self._fake(draw, self._random_labels(draw), None, twice=True)
        lengths = regularize.path_lengths(images, w, draw.normal(*images.shape[1:]))
        mean = regularize.moving_mean(self._path_mean.to(lengths), step.ranks.gather(lengths), config.decay)
        step.stats.add("path_length", lengths)
        return {"loss": config.weight * config.every * regularize.path_length_penalty(lengths, mean)}

    def _discriminator_losses(self, step: Step, batch: Mapping[str, Batch], draw: Draw) -> Iterator[dict[str, Tensor]]:
        config, reals = self.config, batch["images"]
        labels = self._fake_labels(draw, batch)
        with torch.no_grad():
            fakes, w = self._fake(draw, labels, step.dtype)
        fake_logits = self._judge(fakes, labels, "d_fake", draw, step.dtype)
        real_logits = self._judge(reals.images, reals.labels, "d_real", draw, step.dtype)
        step.stats.add("w", w[:, 0])
        step.stats.add("real_sign", self._signs(real_logits, fake_logits))
        step.stats.add("real_logits", real_logits)
        step.stats.add("fake_logits", fake_logits)
        if self._ada is not None:
            step.stats.add("augment_p", self._ada_state[0].to(real_logits).expand_as(real_logits))
        terms = {"loss": adversarial.discriminator_loss(config.loss, real_logits, fake_logits)}
        if config.gradient_penalty is not None and config.gradient_penalty.drift > 0:
            terms["drift"] = config.gradient_penalty.drift * regularize.drift(real_logits)
        if config.lecam is not None and step.shared["lecam"]:
            means = self._logit_means.to(real_logits)
            terms["lecam"] = config.lecam.weight * regularize.lecam(real_logits, fake_logits, means[0], means[1])
        yield terms
        if config.gradient_penalty is not None:
            yield {"gradient_penalty": self._wgan_gp(config.gradient_penalty, reals, fakes, draw)}

    def _signs(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """What overfitting is read from: whether each real is taken for one, or for more real than its fake where the
        loss knows only differences.
        """
        is_relative = adversarial.needs_real_logits(self.config.loss)
        return (real_logits - fake_logits if is_relative else real_logits).sign()

    def _wgan_gp(self, config: WganGpConfig, reals: Batch, fakes: Tensor, draw: Draw) -> Tensor:
        mixed = regularize.mix(reals.images, fakes.detach(), draw.uniform())
        logits = self._judge(mixed, reals.labels, "d_real", draw, None, twice=True)
        return config.weight * regularize.wgan_gp(logits, mixed, config.target)

    def _r1_losses(self, phase: Phase, batch: Mapping[str, Batch], draw: Draw) -> dict[str, Tensor]:
        config, reals = self.config.r1, batch["images"]
        assert config is not None
        images = reals.images.detach().requires_grad_()
        logits = self._judge(images, reals.labels, "d_real", draw, None, twice=True)
        terms = {"reals": config.gamma / 2 * phase.every * regularize.r1_penalty(logits, images)}
        if config.gamma_fake > 0:
            labels = self._fake_labels(draw, batch)
            with torch.no_grad():
                fakes, _ = self._fake(draw, labels, None)
            fakes = fakes.detach().requires_grad_()
            logits = self._judge(fakes, labels, "d_fake", draw, None, twice=True)
            terms["fakes"] = config.gamma_fake / 2 * phase.every * regularize.r1_penalty(logits, fakes)
        return terms

    # -- after ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Move the average latent, the path-length mean, LeCam's logit means and ADA's probability, all by means over
        the global batch.
        """
        w_average = self.generator.mapping.w_avg
        w_average.lerp_(stats["w"].to(w_average), 1 - self.config.w_average_decay)
        if self.config.path_length is not None and "path_length" in stats:
            self._path_mean = self._path_mean.lerp(stats["path_length"].cpu(), 1 - self.config.path_length.decay)
        if self.config.lecam is not None:
            decay = self.config.lecam.decay if step.shared["lecam"] else 0.0
            means = torch.stack([stats["real_logits"], stats["fake_logits"]]).cpu()
            self._logit_means = self._logit_means.lerp(means, 1 - decay)
        if self._controller is not None:
            images = step.plan.batch * self.config.discriminator_steps
            self._ada_state = ada.adapt(self._ada_state, float(stats["real_sign"]), images, self._controller)

    def eval_model(self, ema: Mapping[str, nn.Module]) -> Model:
        """The averaged generator with the discriminator as it is."""
        generator = ema["generator"]
        assert isinstance(generator, Generator)
        return Model(generator, self.discriminator, {"class_names": list(self._class_names)})

    def state_dict(self) -> dict[str, Tensor]:
        """The running means that regularisers compare with, and where ADA stands."""
        state = {"path_mean": self._path_mean, "logit_means": self._logit_means}
        return state if self._controller is None else state | {"ada": self._ada_state}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        self._path_mean, self._logit_means = state["path_mean"].clone(), state["logit_means"].clone()
        if self._controller is not None and "ada" in state:  # not in a run that was begun without it
            self._ada_state = state["ada"].clone()


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
