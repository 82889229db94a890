"""A recipe: everything that decides a training, as one value that can be printed, compared, saved and rebuilt."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from frugan.data.pictures import DataConfig
from frugan.evaluation import EvaluationConfig
from frugan.training.tasks.classes import ClassesConfig
from frugan.training.tasks.cycle import CycleConfig
from frugan.training.tasks.gan import GanConfig
from frugan.training.tasks.grow import GrowConfig
from frugan.training.tasks.semantic import SemanticConfig
from frugan.training.tasks.translate import PairedConfig

Precision = Literal["auto", "fp32", "bf16", "fp16"]
TaskConfig = GanConfig | GrowConfig | PairedConfig | CycleConfig | SemanticConfig | ClassesConfig


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Adam (Kingma and Ba 2015) without weight decay."""

    lr: float
    beta1: float = 0.0
    beta2: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.lr < 0:
            raise ValueError(f"lr must be at least 0, got {self.lr}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Average of the weights over training, by half-life in images.

    With `rampup` the half-life is at most that share of the images seen, so that early averages forget the first noise.
    With `fixed` neither counts: that share of the old average stays in each iteration, whatever the batch. Until
    `start_images` the average is the newest weights. `buffers`: running statistics are averaged too, not copied.
    """

    halflife_images: float = 10_000.0
    rampup: float | None = 0.05
    fixed: float | None = None
    start_images: int = 0
    buffers: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.halflife_images < 0:
            raise ValueError(f"halflife_images must be at least 0, got {self.halflife_images}")
        if self.start_images < 0:
            raise ValueError(f"start_images must be at least 0, got {self.start_images}")
        if self.rampup is not None and self.rampup <= 0:
            raise ValueError(f"rampup must be above 0 or null, got {self.rampup}")
        if self.fixed is not None and not 0 <= self.fixed < 1:
            raise ValueError(f"fixed must be in [0, 1) or null, got {self.fixed}")

    def decay(self, batch: int, images_seen: int) -> float:
        """What remains of the old average after one iteration: 0.5 ^ (batch / half-life)."""
        if images_seen < self.start_images:
            return 0.0
        if self.fixed is not None:
            return self.fixed
        halflife = self.halflife_images
        if self.rampup is not None:
            halflife = min(halflife, images_seen * self.rampup)
        return float(0.5 ** (batch / max(halflife, 1e-8)))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A quantity that stays at `base` for `start_images`, changes to `final` over `duration_images`, then stays."""

    base: float
    final: float
    duration_images: int
    shape: Literal["linear", "cosine"] = "linear"
    start_images: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("duration_images", "start_images"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    def at(self, images_seen: int) -> float:
        """Its value after that many images."""
        if images_seen < self.start_images:
            return self.base
        passed = images_seen - self.start_images
        share = min(passed / self.duration_images, 1.0) if self.duration_images > 0 else 1.0
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.base + (self.final - self.base) * share

    def stretched(self, factor: float) -> "Schedule":
        """The same course in `factor` times as many images."""
        return dataclasses.replace(
            self,
            start_images=round(self.start_images * factor),
            duration_images=round(self.duration_images * factor),
        )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how a training runs; nothing here knows what is trained.

    `micro_batch` is the most samples that one process works on at once (None: the whole share of the batch); `lr` a
    factor on every learning rate over time. With `replay` a single process on a GPU records its phases and plays them
    again (see `training.replay`). With `epochs` the length follows the number of pictures (see `run.fit`);
    `total_images` is then that of the published set. A snapshot (grid, score, checkpoint) is taken each
    `snapshot_images`, a checkpoint also each `checkpoint_seconds`. `plateau_images`: stop when the score has not
    improved for so long (None: never). `hold_out`: the share of the pictures that is kept aside (at most 500, none of
    fewer than 20), to see whether the discriminator learns by heart. `evaluation`: scores by a feature network at
    snapshots, the best of which is then the best snapshot; left out where they would take more than `evaluation_share`
    of the time spent on training (but at the first and last they are taken).
    """

    batch: int
    total_images: int
    ema: EmaConfig
    seed: int = 0
    micro_batch: int | None = None
    lr: Schedule | None = None
    epochs: int | None = None
    precision: Precision = "auto"
    channels_last: bool | None = None
    replay: bool = True
    snapshot_images: int = 10_000
    checkpoint_seconds: float = 300.0
    status_seconds: float = 2.0
    keep_checkpoints: int = 2
    grid_columns: int = 8
    grid_rows: int = 5
    psi: float = 1.0
    score_images: int = 1000
    plateau_images: int | None = None
    hold_out: float = 0.0
    evaluation: EvaluationConfig | None = None
    evaluation_share: float = 0.1
    max_rollbacks: int = 3

    def __post_init__(self) -> None:
        """Check the ranges."""
        positive = ("batch", "snapshot_images", "keep_checkpoints", "grid_columns", "grid_rows", "score_images")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("total_images", "seed", "max_rollbacks", "checkpoint_seconds", "status_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.evaluation_share <= 0:
            raise ValueError(f"evaluation_share must be above 0, got {self.evaluation_share}")
        if not 0 <= self.hold_out < 1:
            raise ValueError(f"hold_out must be in [0, 1), got {self.hold_out}")
        for name in ("micro_batch", "plateau_images", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or null, got {value}")

    def lasting(self, total_images: int) -> "TrainingConfig":
        """The same training over so many images: a learning rate that changes does so at the same shares of it.

        Raises ValueError where this one has no length to take shares of.
        """
        if self.lr is None:
            return dataclasses.replace(self, total_images=total_images, epochs=None)
        if self.total_images < 1:
            raise ValueError("total_images must be above 0 for a learning rate that changes, got 0")
        lr = self.lr.stretched(total_images / self.total_images)
        return dataclasses.replace(self, total_images=total_images, lr=lr, epochs=None)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a training but the pictures themselves.

    `data` names the streams of pictures that the task reads; `optimisers` those that its phases name. `source` tells
    where the numbers come from.
    """

    name: str
    source: str
    data: dict[str, DataConfig]
    task: TaskConfig
    optimisers: dict[str, AdamConfig]
    training: TrainingConfig
    reasons: tuple[str, ...] = field(default=())


def tiny(recipe: Recipe, *, resolution: int = 16, images: int = 48, batch: int = 4) -> Recipe:
    """The same recipe shrunk to seconds on two CPU cores: every mechanism stays, every size goes down.

    `resolution` is the height of what networks are given; GauGAN's stay at 64 pixels where it is lower.
    """
    task = recipe.task.shrink(resolution)
    height = task.generator.resolution if isinstance(task, SemanticConfig) else resolution
    scores = recipe.training.evaluation
    training = dataclasses.replace(
        recipe.training.lasting(images),
        evaluation=None if scores is None else dataclasses.replace(scores, num_fake=16, num_real=None),
        batch=batch,
        snapshot_images=max(images // 2, 1),
        micro_batch=None,
        precision="fp32",
        grid_columns=3,
        grid_rows=2,
        score_images=16,
        ema=dataclasses.replace(
            recipe.training.ema,
            halflife_images=min(recipe.training.ema.halflife_images, 50.0),
            start_images=min(recipe.training.ema.start_images, images // 2),
        ),
    )
    data = {name: config.sized(height) for name, config in recipe.data.items()}
    return dataclasses.replace(recipe, name=f"tiny-{recipe.name}", data=data, task=task, training=training)
