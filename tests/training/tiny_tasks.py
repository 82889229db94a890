"""Small tasks that prove the door: growth, two streams and a pool, a distilled supernet, one forward for two phases."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frugan.augment.ada import AdaConfig, AdaControllerConfig, preset
from frugan.augment.diffaugment import DiffAugmentConfig
from frugan.data import Dataset, from_arrays
from frugan.losses import adversarial
from frugan.model import Model
from frugan.models.biggan import BigGANConfig, BigGANDiscriminatorConfig
from frugan.models.heads import EmbeddingHead, HeadConfig, InfoCodes
from frugan.models.multiscale import MultiScaleConfig
from frugan.models.patchgan import PatchConfig
from frugan.models.progan import ProGANConfig, ProGANDiscriminatorConfig
from frugan.models.spade import SpadeConfig
from frugan.models.standing import StandingStatistics
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.models.stylegan2_discriminator import Discriminator, StyleGAN2DiscriminatorConfig
from frugan.models.subnet import Subnet
from frugan.models.translator import ResnetConfig, UNetConfig
from frugan.ops.elastic import InstanceNorm
from frugan.training.door import Batch, Draw, Phase, Plan, Shared, Step, Task
from frugan.training.recipe import AdamConfig, EmaConfig, Recipe, TrainingConfig
from frugan.training.tasks.adversary import LeCamConfig, R1Config, WganGpConfig
from frugan.training.tasks.classes import ClassesConfig
from frugan.training.tasks.conditioning import ConditioningConfig, D2DConfig
from frugan.training.tasks.cycle import CycleConfig
from frugan.training.tasks.gan import GanConfig, PathLengthConfig
from frugan.training.tasks.grow import GrowConfig, GrowthConfig
from frugan.training.tasks.semantic import SemanticConfig
from frugan.training.tasks.terms import ApaConfig, ConsistencyConfig, LatentConsistencyConfig, TermsConfig
from frugan.training.tasks.translate import PairedConfig


def pictures(count: int = 12, resolution: int = 8, channels: int = 3, classes: int = 0, seed: int = 0) -> Dataset:
    """A set of random pictures, with classes in turn where there are any."""
    shape = (count, channels, resolution, resolution)
    images = np.random.Generator(np.random.Philox(seed)).integers(0, 256, shape, dtype=np.uint8)
    labels = [index % classes for index in range(count)] if classes else None
    return from_arrays(images, labels, [f"class {index}" for index in range(classes)] or None)


def label_maps(count: int = 10, height: int = 32, width: int = 64, labels: int = 3, crop: int | None = None) -> Dataset:
    """A set of random label maps in blocks of 8 pixels, with edges."""
    random = np.random.Generator(np.random.Philox(5))
    maps = random.integers(0, labels, (count, 1, height // 8, width // 8), dtype=np.uint8)
    maps = maps.repeat(8, axis=2).repeat(8, axis=3)
    edges = np.zeros_like(maps)
    edges[:, :, 1:] = maps[:, :, 1:] != maps[:, :, :-1]
    names = tuple(f"label {index}" for index in range(labels))
    arrays = from_arrays(np.concatenate([maps, edges], axis=1))
    return dataclasses.replace(arrays, kind="labels", map_names=names, crop=crop)


def noise_for(recipe: Recipe, count: int = 10) -> dict[str, Dataset]:
    """Noise for every stream of a recipe, at its size, of three classes where it needs some; unpaired ones have one
    picture more each.
    """
    data = {}
    for index, (name, config) in enumerate(recipe.data.items()):
        width, height = config.size
        if config.kind == "labels":
            data[name] = label_maps(count, height, width, crop=config.crop)
            continue
        number = count + index if config.pairing == "unpaired" else count
        shape = (number, config.channels, height, width)
        noise = np.random.Generator(np.random.Philox(7 + index)).integers(0, 256, shape, dtype=np.uint8)
        labels = [row % 3 for row in range(number)] if getattr(recipe.task, "needs_classes", False) else None
        data[name] = dataclasses.replace(from_arrays(noise, labels), crop=config.crop)
    return data


def generator_config(resolution: int = 8, **changes: Any) -> StyleGAN2Config:
    """A generator of a few thousand weights."""
    base: dict[str, Any] = {"z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "mapping_layers": 2}
    return StyleGAN2Config(resolution=resolution, **(base | changes))


def discriminator_config(resolution: int = 8, **changes: Any) -> StyleGAN2DiscriminatorConfig:
    """A discriminator of a few thousand weights."""
    base: dict[str, Any] = {"channel_base": 64, "channel_max": 8, "mapping_layers": 2}
    return StyleGAN2DiscriminatorConfig(resolution=resolution, **(base | changes))


def gan_config(resolution: int = 8, channels: int = 3, num_classes: int = 0, **changes: Any) -> GanConfig:
    """The real task with small networks and, unless changed, no regulariser."""
    shape = {"channels": channels, "num_classes": num_classes}
    return GanConfig(
        generator=generator_config(resolution, **shape),
        discriminator=discriminator_config(resolution, **shape),
        **changes,
    )


def grow_config(resolution: int = 16, channels: int = 3, num_classes: int = 0, **changes: Any) -> GrowConfig:
    """Progressive growing for real with small networks: 4 px for 16 images, a fade of 16, and so on."""
    size: dict[str, Any] = {"resolution": resolution, "channels": channels, "num_classes": num_classes}
    small: dict[str, Any] = {**size, "channel_base": 32, "channel_max": 8}
    base: dict[str, Any] = {
        "generator": ProGANConfig(**small, z_dim=8),
        "discriminator": ProGANDiscriminatorConfig(**small, stddev_group=2),
        "growth": GrowthConfig(stable_images=16, fade_images=16),
        "gradient_penalty": WganGpConfig(),
        "rampup_images": 24,
        "batches": {"16": 4},
        "lr_scales": {"8": 0.5},
    }
    return GrowConfig(**(base | changes))


def paired_config(**changes: Any) -> PairedConfig:
    """pix2pix with networks of a few thousand weights, for 16 px."""
    base: dict[str, Any] = {
        "generator": ResnetConfig(width=4, num_blocks=2),
        "discriminator": PatchConfig(channels=6, width=4, num_layers=1),
        "reconstruction": 2.0,
    }
    return PairedConfig(**(base | changes))


def cycle_config(**changes: Any) -> CycleConfig:
    """CycleGAN with networks of a few thousand weights, for 16 px, and a pool of six pictures."""
    base: dict[str, Any] = {
        "generator": ResnetConfig(width=4, num_blocks=0),
        "discriminator": PatchConfig(channels=3, width=4, num_layers=1),
        "cycle": 1.0,
        "pool_size": 6,
    }
    return CycleConfig(**(base | changes))


def semantic_config(**changes: Any) -> SemanticConfig:
    """GauGAN with small networks, for 32x64 px, three labels and edges."""
    base: dict[str, Any] = {
        "generator": SpadeConfig(width=2, num_labels=3, resolution=32, aspect=2.0),
        "discriminator": MultiScaleConfig(channels=7, width=4),
    }
    return SemanticConfig(**(base | changes))


def classes_config(
    head: HeadConfig | None = EmbeddingHead(dim=6),  # noqa: B008
    conditioning: ConditioningConfig | None = D2DConfig(margin=0.9),  # noqa: B008
    norm: Any = "spectral",
    codes: InfoCodes | None = None,
    **changes: Any,
) -> ClassesConfig:
    """ReACGAN with networks of a few thousand weights, for 8 px and three classes; no classes without a head."""
    size: dict[str, Any] = {"resolution": 8, "num_classes": 0 if head is None else 3, "width": 4, "codes": codes}
    base: dict[str, Any] = {
        "generator": BigGANConfig(**size, z_dim=4 + (codes.size if codes else 0), shared_dim=5),
        "discriminator": BigGANDiscriminatorConfig(**size, head=head, norm=norm),
        "conditioning": conditioning,
        "discriminator_steps": 2,
        "statistics": StandingStatistics(batches=2, batch=8),
    }
    return ClassesConfig(**(base | changes))


ALL_TERMS = TermsConfig(
    consistency=ConsistencyConfig(reals=1.0, fakes=0.5),
    latent_consistency=LatentConsistencyConfig(sigma=0.1, discriminator=1.0, generator=0.1),
    feature_matching=0.5,
    apa=ApaConfig(p=0.3, controller=AdaControllerConfig(every=2, ramp_images=64)),
)
"""Everything that may stand beside an adversarial loss and does not choose among pictures."""


FULL = {
    "r1": R1Config(gamma=1.0, gamma_fake=0.5, every=2),
    "path_length": PathLengthConfig(every=2),
    "lecam": LeCamConfig(start_images=8),
    "augment": DiffAugmentConfig(),
}
"""Every regulariser and augmentation that the logistic loss takes at once."""


QUICK_ADA = preset("bgcfnc", AdaConfig(p=0.5, controller=AdaControllerConfig(every=2, ramp_images=64)))
"""Everything ADA has, at work from the start; p moves by a quarter every other iteration of eight pictures."""


@dataclass
class Job:
    """What a loop needs."""

    task: Task
    data: dict[str, Dataset]
    optimisers: dict[str, AdamConfig]
    training: TrainingConfig


# With an epsilon this large Adam steps along the gradient itself: rounding is not blown up to the size of a step.
GENTLE = AdamConfig(lr=0.05, beta1=0.5, beta2=0.9, eps=0.1)


def training_config(**changes: Any) -> TrainingConfig:
    """Settings for a few steps of eight pictures."""
    base: dict[str, Any] = {
        "batch": 8,
        "total_images": 48,
        "snapshot_images": 1_000_000,
        "precision": "fp32",
        "ema": EmaConfig(halflife_images=50.0),
    }
    return TrainingConfig(**(base | changes))


class Plain:
    """What most small tasks have in common."""

    nets: dict[str, nn.Module]
    frozen: dict[str, nn.Module] = {}  # noqa: RUF012
    ema: tuple[str, ...] = ()

    def begin(self, step: Step, draw: Shared) -> None:
        """Nothing to decide."""

    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Nothing to remember."""

    def eval_model(self, ema: Mapping[str, nn.Module], images_seen: int) -> Model:
        """Nobody asks for it here."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing."""


# -- growth ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """What holds from `start` images on."""

    start: int
    resolution: int
    batch: int
    lr_scale: float


STAGES = (Stage(0, 4, 8, 1.0), Stage(16, 8, 4, 0.5), Stage(24, 16, 4, 0.25))
FADE_IMAGES = 8


class Grow(Plain):
    """Progressive growing: resolution, blending, batch, learning rate and moments follow the images seen."""

    ema = ("generator",)

    def __init__(self) -> None:
        self.generator = Generator(generator_config(16))
        self.discriminator = Discriminator(discriminator_config(16, stddev_group=2))
        self.nets = {"generator": self.generator, "discriminator": self.discriminator}
        self.seen: list[tuple[int, float, int]] = []

    def plan(self, images_seen: int) -> Plan:
        """The newest stage that has begun."""
        number = max(index for index, stage in enumerate(STAGES) if stage.start <= images_seen)
        stage = STAGES[number]
        return Plan(
            phases=(
                Phase(name="generator", nets=("generator",), optimiser="generator"),
                Phase(name="discriminator", nets=("discriminator",), optimiser="discriminator"),
            ),
            batch=stage.batch,
            lr_scale={"generator": stage.lr_scale, "discriminator": stage.lr_scale},
            reset_moments=number,
            progress={
                "resolution": stage.resolution,
                "alpha": min((images_seen - stage.start) / FADE_IMAGES, 1.0) if number else 1.0,
            },
        )

    def _blend(self, low: Tensor, high: Tensor, step: Step) -> Tensor:
        size = high.shape[-2:]
        mixed = torch.lerp(F.interpolate(low, size=size), high, step.plan.progress["alpha"])
        return F.interpolate(mixed, size=(16, 16))

    def _fakes(self, step: Step, draw: Draw) -> Tensor:
        images = self.generator.synthesis.images(self.generator.mapping(draw.normal(8)), noise="none")
        side = int(step.plan.progress["resolution"])
        return self._blend(images[max(side // 2, 4)], images[side], step)

    def _reals(self, step: Step, batch: Mapping[str, Batch]) -> Tensor:
        images = batch["images"].images
        side = int(step.plan.progress["resolution"])
        return self._blend(F.adaptive_avg_pool2d(images, max(side // 2, 4)), F.adaptive_avg_pool2d(images, side), step)

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Tensor]]:
        """Logistic losses."""
        self.seen.append((step.plan.batch, step.plan.progress["alpha"], int(step.plan.progress["resolution"])))
        if phase.name == "generator":
            yield {"loss": adversarial.generator_loss("logistic", self.discriminator(self._fakes(step, draw)))}
            return
        with torch.no_grad():
            fakes = self._fakes(step, draw)
        real_logits = self.discriminator(self._reals(step, batch))
        yield {"loss": adversarial.discriminator_loss("logistic", real_logits, self.discriminator(fakes))}


# -- two streams ----------------------------------------------------------------------------------------------------

POOL = 6


def _painter() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1))


def _critic() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4), nn.Flatten(0))


class Cycle(Plain):
    """CycleGAN in small: two streams, two generators, two discriminators, and a pool of earlier fakes."""

    ema = ("to_source", "to_target")

    def __init__(self) -> None:
        self.nets = {
            "to_source": _painter(),
            "to_target": _painter(),
            "judge_source": _critic(),
            "judge_target": _critic(),
        }
        self.pool = {name: torch.zeros(POOL, 3, 8, 8) for name in ("source", "target")}
        self.filled = 0
        phases = (
            Phase(name="generators", nets=("to_source", "to_target"), optimiser="generators"),
            Phase(name="discriminators", nets=("judge_source", "judge_target"), optimiser="discriminators"),
        )
        self._plan = Plan(phases=phases, batch=4)

    def plan(self, images_seen: int) -> Plan:
        """The same at all times."""
        return self._plan

    def begin(self, step: Step, draw: Shared) -> None:
        """Where this iteration's fakes go in the pool."""
        step.shared["slots"] = [draw.integer(0, POOL) for _ in range(step.plan.batch)]

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Tensor]]:
        """Least squares, cycle and identity; the discriminators see what the generators' step has painted."""
        nets = self.nets
        for name, other in (("source", "target"), ("target", "source")):
            reals, others = batch[name].images, batch[other].images
            to_this, back, judge = nets[f"to_{name}"], nets[f"to_{other}"], nets[f"judge_{name}"]
            if phase.name == "generators":
                fakes = to_this(others)
                step.cache[name] = fakes.detach()
                yield {
                    f"adversarial_{name}": (judge(fakes) - 1).square(),
                    f"cycle_{name}": (back(fakes) - others).abs().flatten(1).mean(1),
                    f"identity_{name}": (to_this(reals) - reals).abs().mean(),
                }
            else:
                fakes = self._pooled(name, step.cache[name], draw)
                yield {f"loss_{name}": (judge(reals) - 1).square() + judge(fakes).square()}

    def _pooled(self, name: str, fakes: Tensor, draw: Draw) -> Tensor:
        old = draw.uniform() < 0.5
        chosen = draw.integers(0, max(self.filled, 1))
        if self.filled == 0:
            return fakes
        return torch.where(old[:, None, None, None], self.pool[name][chosen], fakes)

    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Put the fakes of the whole batch into the pool."""
        for name, pool in self.pool.items():
            filled = self.filled
            for image, slot in zip(step.collect(name), step.shared["slots"], strict=True):
                pool[filled if filled < POOL else slot] = image
                filled = min(filled + 1, POOL)
        self.filled = filled

    def state_dict(self) -> dict[str, Tensor]:
        """The pool."""
        return {**self.pool, "filled": torch.tensor(self.filled)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The pool as it was."""
        self.pool = {name: state[name].clone() for name in self.pool}
        self.filled = int(state["filled"])


# -- a supernet with a teacher -----------------------------------------------------------------------------------------


class Supernet(Plain):
    """One random sub-network per iteration and the sandwich's ends, distilled from a teacher.

    Generator and discriminator see each other's old weights and step together, from one forward of the sub-network.
    """

    ema = ("student",)

    def __init__(self) -> None:
        config = generator_config()
        self.student, self.teacher = Generator(config), Generator(config)
        self.discriminator = Discriminator(discriminator_config())
        self.nets = {"student": self.student, "discriminator": self.discriminator}
        self.frozen = {"teacher": self.teacher.requires_grad_(False)}
        self.subnets = [Subnet(widths=(width,) * 4) for width in (2, 4, 6)]
        self.used: list[Subnet] = []
        self.forwards = 0
        self.student.synthesis.register_forward_hook(self._count)
        phases = (
            Phase(name="student", nets=("student",), optimiser="student", step_with="discriminator"),
            Phase(name="discriminator", nets=("discriminator",), optimiser="discriminator"),
        )
        self._plan = Plan(phases=phases, batch=8)

    def _count(self, *_: object) -> None:
        self.forwards += 1

    def plan(self, images_seen: int) -> Plan:
        """The same at all times."""
        return self._plan

    def begin(self, step: Step, draw: Shared) -> None:
        """The sub-network of this iteration."""
        step.shared["subnet"] = draw.choice(self.subnets)

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Tensor]]:
        """The student: three backward passes. The discriminator: what the first of them painted."""
        if phase.name == "student":
            yield from self._student_losses(step, draw)
            return
        fakes = step.cache["fakes"]
        real_logits = self.discriminator(batch["images"].images)
        yield {"loss": adversarial.discriminator_loss("logistic", real_logits, self.discriminator(fakes))}

    def _student_losses(self, step: Step, draw: Draw) -> Iterator[Mapping[str, Tensor]]:
        z = draw.normal(8)
        with torch.no_grad():
            wanted = self.teacher(z, noise="none")
        self.used.append(step.shared["subnet"])
        fakes = self.student(z, noise="none", subnet=step.shared["subnet"])
        step.cache["fakes"] = fakes.detach()
        logits = self.discriminator(fakes)
        yield {
            "adversarial": adversarial.generator_loss("logistic", logits),
            "distill": (fakes - wanted).square().flatten(1).mean(1),
        }
        for name, subnet in (("widest", None), ("smallest", self.subnets[0])):
            images = self.student(z, noise="none", subnet=subnet)
            yield {f"distill_{name}": (images - wanted).square().flatten(1).mean(1)}


# -- one forward, first the discriminator, then the generator against the new discriminator --------------------------


class Translate(Plain):
    """pix2pix's order: paint once, step the discriminator, then the generator through that very painting."""

    ema = ("painter",)

    def __init__(self) -> None:
        self.nets = {"painter": _painter(), "judge": _critic()}
        self.forwards = 0
        self.nets["painter"].register_forward_hook(self._count)
        phases = (
            Phase(name="judge", nets=("judge",), optimiser="judge", through=("painter",)),
            Phase(name="painter", nets=("painter",), optimiser="painter"),
        )
        self._plan = Plan(phases=phases, batch=4)

    def _count(self, *_: object) -> None:
        self.forwards += 1

    def plan(self, images_seen: int) -> Plan:
        """The same at all times."""
        return self._plan

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Tensor]]:
        """Least squares and L1."""
        judge, source, target = self.nets["judge"], batch["source"].images, batch["target"].images
        if phase.name == "judge":
            fakes = self.nets["painter"](source)
            step.cache["fakes"] = fakes
            yield {"loss": (judge(target) - 1).square() + judge(fakes.detach()).square()}
        else:
            fakes = step.cache.pop("fakes")
            yield {"adversarial": (judge(fakes) - 1).square(), "l1": (fakes - target).abs().flatten(1).mean(1)}


# -- trouble on demand ------------------------------------------------------------------------------------------------


class Fragile(Plain):
    """Two linear nets that learn noise, and `trouble(phase, step)`, which may raise or give a factor on the loss."""

    ema = ("first",)

    def __init__(self) -> None:
        self.nets = {"first": nn.Linear(3, 1), "second": nn.Linear(3, 1)}
        phases = tuple(Phase(name=name, nets=(name,), optimiser=name) for name in self.nets)
        self._plan = Plan(phases=phases, batch=8)
        self.trouble: Callable[[Phase, Step], float] = lambda phase, step: 1.0
        self.ends: list[int] = []
        self.batches: list[int] = []

    def plan(self, images_seen: int) -> Plan:
        """The same at all times."""
        return self._plan

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Tensor]]:
        """Squared distance from noise."""
        inputs, net = batch["images"].images.mean(dim=(2, 3)), self.nets[phase.name]
        self.batches.append(len(inputs))
        yield {"loss": (net(inputs) - draw.normal(1)).square().flatten()}
        yield {"more": net(inputs).square().flatten() * self.trouble(phase, step)}

    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Note that it was called."""
        self.ends.append(step.images_seen)


# -- the jobs -------------------------------------------------------------------------------------------------------


def _gan_job(config: GanConfig, data: Dataset | None = None, **training: Any) -> Job:
    chosen = {"images": pictures() if data is None else data}
    setting = training_config(**training)
    optimisers = {"generator": GENTLE, "discriminator": GENTLE}
    return Job(config.build(chosen, setting.batch), chosen, optimisers, setting)


def _job(task: Any, streams: tuple[str, ...], resolution: int = 8, **training: Any) -> Job:
    data = {name: pictures(10 + index, resolution, seed=index) for index, name in enumerate(streams)}
    optimisers = {phase.optimiser: GENTLE for phase in task.plan(0).phases}
    return Job(task, data, optimisers, training_config(**training))


def _gan(**changes: Any) -> Callable[..., Job]:
    return lambda **training: _gan_job(gan_config(**changes), **training)


def _labelled_gan(**changes: Any) -> Callable[..., Job]:
    return lambda **training: _gan_job(gan_config(num_classes=3, **changes), pictures(classes=3), **training)


def _progan(classes: int = 0, **changes: Any) -> Callable[..., Job]:
    """In the middle of the first fade after the second of four iterations."""

    def build(**training: Any) -> Job:
        data = {"images": pictures(12, 16, classes=classes)}
        setting = training_config(**training)
        growth = GrowthConfig(stable_images=8, fade_images=16)
        config = grow_config(num_classes=classes, **({"growth": growth} | changes))
        task = config.build(data, setting.batch)
        if config.layer_noise > 0:
            task.load_state_dict({**task.state_dict(), "confidence": torch.tensor(0.8)})  # so that there is noise
        gentle = dataclasses.replace(GENTLE, lr=0.02)
        return Job(task, data, {"generator": gentle, "discriminator": gentle}, setting)

    return build


def _without_idle_biases(task: Task) -> Task:
    """In front of instance normalisation a bias changes nothing: its gradient is rounding, which nothing repeats."""
    for net in task.nets.values():
        for module in net.modules():
            if isinstance(getattr(module, "norm", None), InstanceNorm):
                for name, parameter in module.named_parameters():
                    parameter.requires_grad_(not name.endswith("bias"))
    return task


def _translator(config: PairedConfig | CycleConfig, sizes: tuple[int, int] = (10, 10)) -> Callable[..., Job]:
    """Two streams of noise at 16 px; the pictures of a pair have the same name."""

    def build(**training: Any) -> Job:
        data = {
            name: pictures(size, 16, seed=10 + index)
            for index, (name, size) in enumerate(zip(("source", "target"), sizes, strict=True))
        }
        setting = training_config(**({"batch": 4} | training))
        task = _without_idle_biases(config.build(data, setting.batch))
        gentle = dataclasses.replace(GENTLE, lr=0.01)
        return Job(task, data, {"generator": gentle, "discriminator": gentle}, setting)

    return build


def _semantic(config: SemanticConfig) -> Callable[..., Job]:
    """Label maps and noise at 32x64 px."""

    def build(**training: Any) -> Job:
        shape = (10, 3, 32, 64)
        noise = np.random.Generator(np.random.Philox(1)).integers(0, 256, shape, dtype=np.uint8)
        data = {"source": label_maps(), "target": from_arrays(noise)}
        setting = training_config(**({"batch": 4} | training))
        task = config.build(data, setting.batch)
        for name, parameter in task.generator.named_parameters():  # in front of batch normalisation
            parameter.requires_grad_(
                name != "start.bias" and not name.endswith(("conv0.bias", "conv1.bias", "norm_skip.beta.bias"))
            )
        gentle = dataclasses.replace(GENTLE, lr=2.0, eps=100.0)  # flat maps are normalised: gradients are large
        return Job(task, data, {"generator": gentle, "discriminator": gentle}, setting)

    return build


def _classes(**changes: Any) -> Callable[..., Job]:
    """Three classes of noise at 8 px. Biases in front of batch normalisation stand still: they have no gradients."""

    def build(**training: Any) -> Job:
        data = {"images": pictures(12, classes=3)}
        setting = training_config(**({"ema": EmaConfig(halflife_images=50.0, buffers=True)} | training))
        task = classes_config(**changes).build(data, setting.batch)
        for name, parameter in task.generator.named_parameters():
            parameter.requires_grad_(not name.endswith(("conv1.bias", "conv2.bias", "skip.bias", "start.bias")))
        gentle = dataclasses.replace(GENTLE, lr=0.02, eps=1.0)
        optimisers = {"generator": gentle, "discriminator": gentle}
        return Job(task, data, optimisers, setting)

    return build


JOBS: dict[str, Callable[..., Job]] = {
    "gan": _gan(**FULL),
    "gan-ada": _gan(**(FULL | {"augment": QUICK_ADA})),
    "gan-labels-steps": _labelled_gan(discriminator_steps=2, **FULL),
    "gan-relativistic": _labelled_gan(loss="relativistic", r1=R1Config(gamma=1.0, gamma_fake=1.0, every=1)),
    "gan-wgan": _gan(loss="wasserstein", gradient_penalty=WganGpConfig()),
    "gan-channels-last": lambda **training: _gan_job(gan_config(**FULL), channels_last=True, **training),
    "grow": lambda **training: _job(Grow(), ("images",), 16, **training),
    "progan": _progan(),
    "progan-labels-ada": _progan(
        3, loss="logistic", gradient_penalty=None, r1=R1Config(gamma=1.0, gamma_fake=0.5, every=2), augment=QUICK_ADA
    ),
    "progan-least-squares": _progan(loss="least_squares_flipped", gradient_penalty=None, layer_noise=1.0),
    "cycle": lambda **training: _job(Cycle(), ("source", "target"), **training),
    "supernet": lambda **training: _job(Supernet(), ("images",), **training),
    "translate": lambda **training: _job(Translate(), ("source", "target"), **training),
    "pix2pix": _translator(paired_config(augment=DiffAugmentConfig())),
    "pix2pix-unet-ada": _translator(
        paired_config(generator=UNetConfig(width=4, num_downs=4, norm="instance"), loss="logistic", augment=QUICK_ADA)
    ),
    "cyclegan": _translator(cycle_config(), (10, 11)),
    "gaugan": _semantic(semantic_config(augment=DiffAugmentConfig())),
    "reacgan": _classes(lecam=LeCamConfig(start_images=8), r1=R1Config(gamma=0.1, every=2), augment=QUICK_ADA),
    "reacgan-terms": _classes(terms=ALL_TERMS, augment=DiffAugmentConfig()),
    "fragile": lambda **training: _job(Fragile(), ("images",), **training),
}
KINDS = tuple(kind for kind in JOBS if kind not in ("fragile", "gaugan", "reacgan", "reacgan-terms"))


def make(kind: str, **training: Any) -> Job:
    """A fresh job of this kind, the same each time."""
    torch.manual_seed(1)
    return JOBS[kind](**training)
