"""Progressive growing: generator and discriminator begin with few pixels, and new layers are faded in on schedule.

Karras et al. 2018 (arXiv:1710.10196). Everything that changes follows from the images seen (`GrowConfig.stage`), so a
training that was killed in the middle of a fade goes on as if nothing had been. Any adversarial loss, regulariser and
augmentation goes with it.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frugan.augment import AugmentConfig
from frugan.data.dataset import Dataset, to_float
from frugan.losses.adversarial import AdversarialKind
from frugan.model import Model
from frugan.models.generator import Borrowing, Noise
from frugan.models.heads import Verdict
from frugan.models.progan import ProGANConfig, ProGANDiscriminator, ProGANDiscriminatorConfig, ProGANGenerator
from frugan.models.subnet import Subnet
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
from frugan.training.tasks.conditioning import Conditioning, CrossEntropyConfig
from frugan.training.tasks.terms import TermsConfig, at_least

CALIBRATION_IMAGES = 500
NOISE_MEMORY, NOISE_FROM = 0.9, 0.5
RAMPUP_SHARPNESS = 5.0


@dataclass(frozen=True)
class Stage:
    """What holds at some point: pixels per side, the share `alpha` of the newest layers (1: no fade), and how many
    beginnings and ends of fades lie behind.
    """

    resolution: int
    alpha: float
    number: int


@dataclass(frozen=True, kw_only=True)
class GrowthConfig:
    """When the networks grow, in real pictures shown: each size is trained for `stable_images`, then the next one,
    twice as large, is faded in over `fade_images`. The last size then trains to the end.
    """

    start: int = 4
    stable_images: int = 800_000
    fade_images: int = 800_000

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, stable_images=0, fade_images=0)
        if self.start < 4 or self.start & (self.start - 1):
            raise ValueError(f"start must be a power of two of at least 4, got {self.start}")
        if self.stable_images + self.fade_images < 1:
            raise ValueError("stable_images and fade_images must not both be 0: growth null trains at full size")

    def check(self, resolution: int) -> None:
        """Raises ValueError where doubling never leads from `start` to this size."""
        rounds = resolution // self.start
        if resolution % self.start or rounds & (rounds - 1) or rounds < 1:
            sizes = ", ".join(str(self.start << step) for step in range(9) if self.start << step <= 1024)
            raise ValueError(
                f"a network that grows from {self.start} px must end at {self.start} times a power of two ({sizes}), "
                f"got {resolution}"
            )

    def at(self, images_seen: int, resolution: int) -> Stage:
        """The stage after so many images, on the way to this size."""
        doublings = (resolution // self.start).bit_length() - 1
        phase = self.stable_images + self.fade_images
        done, within = divmod(images_seen, phase)
        if done >= doublings:
            return Stage(resolution, 1.0, 2 * doublings)
        faded = within - self.stable_images
        if faded <= 0:
            return Stage(self.start << done, 1.0, 2 * done)
        return Stage(self.start << (done + 1), faded / self.fade_images, 2 * done + 1)

    def images(self, resolution: int) -> int:
        """After how many images the last fade to this size ends."""
        return ((resolution // self.start).bit_length() - 1) * (self.stable_images + self.fade_images)


@dataclass(frozen=True, kw_only=True)
class GrowConfig:
    """What grows, when, and by which losses.

    `growth` None trains at full size from the start. `batches`, `lr_scales` and `snapshots` (images between two) hold
    at the resolutions they name, such as "512"; elsewhere hold the training's own batch and snapshot_images, and 1.
    `rampup_images`: over so many images the learning rates rise, exp(-5 (1 - share)^2). `class_weight`: AC-GAN's, for a
    discriminator with classes. `layer_noise`: the coefficient of the discriminator's adaptive multiplicative noise that
    belongs to least_squares_flipped (0.2 in the paper; 0: off). Moments of the optimisers restart at the beginning and
    the end of each fade.
    """

    generator: ProGANConfig
    discriminator: ProGANDiscriminatorConfig
    growth: GrowthConfig | None = field(default_factory=GrowthConfig)
    loss: AdversarialKind = "wasserstein"
    gradient_penalty: PenaltyConfig | None = None
    r1: R1Config | None = None
    lecam: LeCamConfig | None = None
    augment: AugmentConfig | None = None
    class_weight: float = 1.0
    layer_noise: float = 0.0
    discriminator_steps: int = 1
    rampup_images: int = 40_000
    batches: dict[str, int] = field(default_factory=dict)
    lr_scales: dict[str, float] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    terms: TermsConfig = field(default_factory=TermsConfig)

    def __post_init__(self) -> None:
        """Check that the networks fit each other and the schedule, and the tables."""
        check_pair(self.generator, self.discriminator)
        check_losses(self)
        at_least(self, discriminator_steps=1, rampup_images=0, class_weight=0, layer_noise=0)
        if self.growth is not None:
            self.growth.check(self.generator.resolution)
        for name in ("batches", "lr_scales", "snapshots"):
            for key, value in getattr(self, name).items():
                if not key.isdigit() or int(key) < 4 or int(key) & (int(key) - 1):
                    raise ValueError(f"{name} must be by resolution, a power of two of at least 4, got {key!r}")
                if not value > 0:
                    raise ValueError(f"{name} must be above 0, got {value} at {key} px")

    def fit(self, data: Mapping[str, Dataset]) -> "GrowConfig":
        """The same method for pictures of this size, channels and number of classes."""
        resolution, channels, num_classes = shape_of(data["images"])
        if self.growth is not None:
            self.growth.check(resolution)
        size = {"resolution": resolution, "channels": channels, "num_classes": num_classes}
        return dataclasses.replace(
            self,
            generator=dataclasses.replace(self.generator, **size),  # type: ignore[arg-type]
            discriminator=dataclasses.replace(self.discriminator, **size),  # type: ignore[arg-type]
        )

    def shrink(self, resolution: int) -> "GrowConfig":
        """The same method with networks for seconds on a CPU, that begin to grow in the second iteration of four."""
        small = {"resolution": resolution, "channel_base": 128, "channel_max": 16, "widths": None}
        return dataclasses.replace(
            self,
            generator=dataclasses.replace(self.generator, z_dim=16, **small),  # type: ignore[arg-type]
            discriminator=dataclasses.replace(self.discriminator, **small),  # type: ignore[arg-type]
            growth=self.growth and GrowthConfig(stable_images=4, fade_images=12),
            lecam=self.lecam and dataclasses.replace(self.lecam, start_images=0),
            augment=at_work(self.augment),
            rampup_images=min(self.rampup_images, 16),
            batches={},
            snapshots={},
        )

    def build(self, data: Mapping[str, Dataset], batch: int) -> "GrowTask":
        """The task on these pictures; the networks are initialised from torch's global generator."""
        return GrowTask(self, data["images"], batch)

    def stage(self, images_seen: int) -> Stage:
        """What holds after so many images."""
        full = self.generator.resolution
        return Stage(full, 1.0, 0) if self.growth is None else self.growth.at(images_seen, full)

    def phases(self) -> tuple[Phase, ...]:
        """The discriminator's first, as in the paper."""
        return *discriminator_phases(self), generator_phase(fresh=generator_reads_reals(self))

    def rampup(self, images_seen: int) -> float:
        """The share of the learning rate at the beginning."""
        if images_seen >= self.rampup_images:
            return 1.0
        return math.exp(-RAMPUP_SHARPNESS * (1 - images_seen / self.rampup_images) ** 2)


class GrowTask(Adversary):
    """Trains `generator` and `discriminator` on the stream `images`, both as large as the schedule says."""

    def __init__(self, config: GrowConfig, data: Dataset, batch: int) -> None:
        super().__init__(config, data, config.generator.num_classes)
        self.config = config
        self.generator = ProGANGenerator(config.generator)
        self.discriminator = ProGANDiscriminator(config.discriminator)
        self.nets: dict[str, nn.Module] = {"generator": self.generator, "discriminator": self.discriminator}
        self.frozen: dict[str, nn.Module] = {}
        self.ema: tuple[str, ...] = ("generator",)
        self._phases, self._batch = config.phases(), batch
        self._tells_classes = config.discriminator.has_classifier
        if self._tells_classes:
            self.conditioning = Conditioning(CrossEntropyConfig(weight=config.class_weight, on_fakes=True))
        self._confidence = torch.zeros(())
        self._check_batches()
        if config.discriminator.discrimination_kernels:
            chosen = np.random.Generator(np.random.Philox(0)).permutation(len(data))[:CALIBRATION_IMAGES]
            reals = to_float(data.batch(np.sort(chosen)))
            self.discriminator.calibrate(faded(reals, config.stage(0).resolution, 1.0))

    def _check_batches(self) -> None:
        """Raises ValueError now for what a later stage could not do."""
        group = self.config.discriminator.stddev_group
        start = self.config.stage(0).resolution
        sizes = [2**power for power in range(2, 11) if start <= 2**power <= self.config.generator.resolution]
        for size in sizes if group is not None else ():
            batch = self.config.batches.get(str(size), self._batch)
            assert group is not None
            if batch % min(group, batch):
                raise ValueError(
                    f"at {size} px the batch must be a multiple of the minibatch-stddev group {group}, or smaller than "
                    f"it, got {batch}: choose another --batch, task.batches or task.discriminator.stddev_group"
                )

    def plan(self, images_seen: int) -> Plan:
        """Batch, learning rates and resolution at this point."""
        config, stage = self.config, self.config.stage(images_seen)
        key = str(stage.resolution)
        scale = config.lr_scales.get(key, 1.0) * config.rampup(images_seen)
        lazy = 1.0 if config.r1 is None or config.r1.every == 1 else config.r1.every / (config.r1.every + 1)
        return Plan(
            phases=self._phases,
            batch=config.batches.get(key, self._batch),
            lr_scale={"generator": scale, "discriminator": scale * lazy},
            beta_power={"discriminator": lazy},
            reset_moments=stage.number,
            snapshot_images=config.snapshots.get(key),
            progress={"resolution": stage.resolution, "alpha": stage.alpha},
        )

    def begin(self, step: Step, draw: Shared) -> None:
        """The stage of this iteration."""
        super().begin(step, draw)
        step.shared["stage"] = self.config.stage(step.images_seen)

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Float[Tensor, "..."]]]:
        """The losses of one phase, each sample's own."""
        yield from self.adversarial_losses(phase, step, batch, draw)

    # -- parts --------------------------------------------------------------------------------------------------------

    def paint(
        self,
        step: Step,
        draw: Draw,
        labels: Tensor | None,
        dtype: torch.dtype | None,
        twice: bool = False,
        apart: float = 0.0,
    ) -> Painted:
        """Pictures of this stage's size."""
        stage: Stage = step.shared["stage"]
        z = draw.normal(self.config.generator.z_dim)

        def images(latents: Tensor) -> Tensor:
            shown: Tensor = self.generator(latents, labels, resolution=stage.resolution, alpha=stage.alpha, dtype=dtype)
            return shown

        near = images(z + apart * draw.normal(z.shape[1])) if apart > 0 else None
        return Painted(images(z), near=near)

    def reals(self, step: Step, batch: Mapping[str, Batch]) -> Tensor:
        """The real pictures averaged down to this stage's size, and as little sharp as the fakes while it fades in."""
        stage: Stage = step.shared["stage"]
        return faded(batch["images"].images, stage.resolution, stage.alpha)

    def ask(
        self,
        step: Step,
        images: Tensor,
        labels: Tensor | None,
        draw: Draw,
        dtype: torch.dtype | None,
        twice: bool = False,
    ) -> Verdict:
        """The discriminator's logits, and those of classes where it has a head for them; no features."""
        alpha = step.shared["stage"].alpha

        def factors(channels: int) -> Tensor:
            strength = draw.number(lambda _: self.noise_strength * math.sqrt(channels))
            return 1 + strength * draw.normal(channels)

        noisy = factors if draw.decide(lambda _: self.noise_strength > 0) else None
        classes = None
        if self._tells_classes:
            logits, classes = self.discriminator.with_classes(images, alpha=alpha, dtype=dtype, factors=noisy)
        else:
            logits = self.discriminator(images, labels, alpha=alpha, dtype=dtype, factors=noisy)
        return Verdict(logits, logits.new_zeros(len(logits), 0), classes)

    # -- after --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Move what the shared parts remember, and how sure the discriminator is of fakes, which the noise follows."""
        super().end(step, stats)
        if self.config.layer_noise > 0:
            sure = stats["fake_logits"].clamp(0, 1).cpu()
            self._confidence = self._confidence.lerp(sure, 1 - NOISE_MEMORY)

    @property
    def noise_strength(self) -> float:
        """Of the discriminator's multiplicative noise: coefficient * max(confidence - 0.5, 0)^2.

        The confidence is the running mean (0.9 / 0.1) of the batch's mean logit of fakes, cut to [0, 1]: the output of
        the discriminator that the paper describes (appendix B), where its code is said to average the loss.
        """
        return self.config.layer_noise * max(float(self._confidence) - NOISE_FROM, 0.0) ** 2

    def eval_model(self, ema: Mapping[str, nn.Module], images_seen: int) -> Model:
        """The averaged generator as far as it has grown, and the discriminator, both behind full-size pictures.

        So every grid of a training has one size and shows its pixels, and every score compares with the same reals:
        a low resolution never looks like a good score. A checkpoint knows its stage and gives its own pixels instead.
        """
        generator, stage = ema["generator"], self.config.stage(images_seen)
        assert isinstance(generator, ProGANGenerator)
        info = {"class_names": list(self.class_names)}
        return Model(Enlarged(generator, stage), AveragedDown(self.discriminator, stage), info)

    def state_dict(self) -> dict[str, Tensor]:
        """What the shared parts remember, and the discriminator's confidence."""
        return {"confidence": self._confidence, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        super().load_state_dict(state)
        self._confidence = state["confidence"].clone()


class Enlarged(Borrowing):
    """A generator as far as it has grown, whose pictures are enlarged to the full size, pixel by pixel."""

    family = ProGANGenerator.family

    def __init__(self, net: ProGANGenerator, stage: Stage) -> None:
        super().__init__()
        self.net, self.stage, self.config = net, stage, net.config

    @property
    def lender(self) -> ProGANGenerator:
        """The generator."""
        return self.net

    def pictures(
        self,
        codes: Float[Tensor, "N *code"],
        *,
        noise: Noise = "const",
        subnet: Subnet | None = None,
        resolution: int | None = None,
        alpha: float | int = 1.0,
    ) -> Float[Tensor, "N channels H W"]:
        """Pictures of this stage at `resolution`, the full one by default."""
        wanted = resolution or self.config.resolution
        size = min(self.stage.resolution, wanted)
        share = self.stage.alpha if size == self.stage.resolution else 1.0
        images = self.net.pictures(codes, noise=noise, subnet=subnet, resolution=size, alpha=share)
        return F.interpolate(images, scale_factor=wanted // size, mode="nearest")

    def at_resolution(self, resolution: int) -> ProGANGenerator:
        """The generator's own, without enlarging."""
        return self.net.at_resolution(resolution)


class AveragedDown(nn.Module):
    """A discriminator as far as it has grown, for full-size pictures, which it sees averaged down."""

    def __init__(self, net: ProGANDiscriminator, stage: Stage) -> None:
        super().__init__()
        self.net, self.stage = net, stage

    def forward(
        self, images: Float[Tensor, "N C H W"], labels: Float[Tensor, "N num_classes"] | None = None
    ) -> Float[Tensor, " N"]:
        """Logits. Details that are being faded in are not taken from the pictures: generated ones have less already."""
        images = faded(images, self.stage.resolution, 1.0)
        logits: Tensor = self.net(images, labels, alpha=self.stage.alpha)
        return logits


def faded(images: Float[Tensor, "N C H W"], resolution: int, alpha: float) -> Float[Tensor, "N C h w"]:
    """The images averaged down to `resolution` px, of which details finer than half of that count only by `alpha`."""
    if images.shape[-1] != resolution:
        images = F.avg_pool2d(images, images.shape[-1] // resolution)  # the mean of means: as halving again and again
    if alpha >= 1:
        return images
    return F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="nearest").lerp(images, alpha)
