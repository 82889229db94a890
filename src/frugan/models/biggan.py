"""The ladder of class-conditional GANs: DCGAN, SNGAN, SAGAN, WGAN-GP's ResNet, BigGAN and BigGAN-deep.

One generator and one discriminator; which of them they are is told by their settings. Sources: those of
`models.ladder`; widths as in PyTorch-StudioGAN, whose checkpoints `interop.studiogan` reads. Modules hold weights only:
whose statistics a batch normalisation uses is an argument (`pooling`) and not the training mode, and spectral norms
move in `ops.spectral.power_iterate` alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frugan.models.generator import ImageGenerator, Noise, check_labels
from frugan.models.heads import Head, HeadConfig, InfoCodes, Layers, Verdict, check_head
from frugan.models.ladder import (
    DEEP_DOWN,
    DOWN,
    UP,
    Attention,
    BatchNorm,
    DeepDownBlock,
    DeepUpBlock,
    DownBlock,
    LadderConfig,
    StridedDownBlock,
    TransposedUpBlock,
    UpBlock,
    convolution,
    draw_weights,
    linear,
    run,
)
from frugan.models.mapping import Labels
from frugan.models.subnet import Subnet
from frugan.ops.elastic import Convolution
from frugan.ops.normalize import Pooling
from frugan.ops.onehot import one_hot
from frugan.ops.spectral import Embedding, folded_state, settle
from frugan.ops.truncate import truncated_normal, uniform

Latent = Literal["first", "split", "everywhere"]


@dataclass(frozen=True, kw_only=True)
class BigGANConfig(LadderConfig):
    """Settings of the generator.

    `blocks`: `deep_conv` (DCGAN), `resnet` (SNGAN to BigGAN), `deep` (BigGAN-deep as StudioGAN changed it) or
    `deep_legacy` (as published), the last two with `depth` blocks to a step (None: 2). The start and each step have
    `width` times `multipliers` channels (None: the published ones of the resolution). `latent`: z feeds the `first`
    layer alone, is `split` among it and the steps (hierarchical), or goes `everywhere`, whole. Batch normalisations are
    conditioned by what z gives them and by the class: one-hot, or an embedding of `shared_dim` numbers that all share.
    `attention` lists the resolutions after whose step there is self-attention. `codes`
    (InfoGAN's) are the last numbers of z; they are mixed into the `latent` or join the `condition`.
    """

    z_dim: int = 120
    latent: Latent = "split"
    shared_dim: int | None = 128
    spectral: bool = True
    codes_into: Literal["latent", "condition"] = "latent"

    def __post_init__(self) -> None:
        """Check the ranges, and that z can be shared out."""
        super().__post_init__()
        if self.shared_dim is not None and self.shared_dim < 1:
            raise ValueError(f"shared_dim must be at least 1 or None, got {self.shared_dim}")
        if len(self.steps) != self.doublings + 1:
            raise ValueError(
                f"multipliers must be {self.doublings + 1} numbers for {self.resolution} px, got {self.multipliers}"
            )
        self.check_attention(self.stage_resolutions)
        parts = self.doublings + 1 if self.latent == "split" else 1
        if self.latent_dim < 1 or self.latent_dim % parts:
            less = f" less the {self.codes.size} of the codes" if self.codes else ""
            raise ValueError(f"z_dim{less} must be a multiple of {parts} and above 0, got {self.latent_dim}")

    @property
    def steps(self) -> tuple[int, ...]:
        """The start's and each step's outputs over `width`."""
        if self.multipliers is not None:
            return self.multipliers
        if self.blocks == "deep_conv":
            return tuple(min(1 << step, 16) for step in range(self.doublings, -1, -1))
        return UP[self.doublings]

    @property
    def stage_resolutions(self) -> tuple[int, ...]:
        """The resolution after each step."""
        return tuple(self.bottom << step for step in range(1, self.doublings + 1))

    @property
    def latent_dim(self) -> int:
        """The numbers of z that are no codes."""
        return self.z_dim - (self.codes.size if self.codes is not None else 0)

    @property
    def class_dim(self) -> int:
        """The numbers that stand for a class in what conditions: 0 without classes."""
        return (self.shared_dim or self.num_classes) if self.num_classes else 0

    @property
    def first_dim(self) -> int:
        """The inputs of the first layer."""
        if self.latent == "everywhere":
            return self.condition_dim
        return self.latent_dim // (self.doublings + 1) if self.latent == "split" else self.latent_dim

    @property
    def code_dim(self) -> int:
        """The numbers that codes are turned into where they join the condition."""
        return (self.shared_dim or self.latent_dim) if self.codes and self.codes_into == "condition" else 0

    @property
    def condition_dim(self) -> int:
        """The inputs of each batch normalisation's gain and shift; 0: they are learned alone."""
        own = {"first": 0, "split": self.latent_dim // (self.doublings + 1), "everywhere": self.latent_dim}
        return self.code_dim + self.class_dim + own[self.latent]


class BigGANGenerator(ImageGenerator):
    """The generator. Its codes are [z, class vector]: normal numbers, InfoGAN's codes, and an embedding or one-hot row.

    In `forward`, `pooling` None normalises by the running statistics; `Pooling()` by the batch's, which then move them;
    `Pooling(momentum=0)` by the batch's alone.
    """

    family: ClassVar[str] = "biggan"
    config: BigGANConfig

    def __init__(self, config: BigGANConfig) -> None:
        super().__init__()
        self.config = config
        spectral, widths = config.spectral, [config.width * step for step in config.steps]
        has_vectors = config.num_classes and config.shared_dim
        self.classes = Embedding(config.num_classes, config.shared_dim) if has_vectors and config.shared_dim else None
        self.codes_layer: nn.Module | None = None
        if config.codes is not None:
            is_mixed = config.codes_into == "latent"
            sizes = (config.z_dim, config.latent_dim) if is_mixed else (config.codes.size, config.code_dim)
            self.codes_layer = linear(*sizes, spectral=spectral)
        self.start = linear(config.first_dim, widths[0] * config.bottom**2, spectral=spectral)
        self.stages = nn.ModuleList()
        for step, resolution in enumerate(config.stage_resolutions):
            self.stages.extend(_up_blocks(config, widths[step], widths[step + 1]))
            if resolution in config.attention:
                self.stages.append(Attention(widths[step + 1], spectral=spectral))
        # DCGAN's last step is normalised and rectified already.
        self.norm = BatchNorm(widths[-1]) if config.blocks != "deep_conv" else None
        self.out = convolution(widths[-1], config.channels, 3, spectral=spectral)
        draw_weights(self)
        settle(self)

    def forward(
        self,
        z: Float[Tensor, "N z_dim"],
        labels: Labels | None = None,
        *,
        pooling: Pooling | None = None,
        dtype: torch.dtype | None = None,
        psi: float | int = 1.0,
    ) -> Float[Tensor, "N channels H W"]:
        """Images in [-1, 1], in the dtype of `z`, of normal numbers and float one-hot rows.

        `labels` are given exactly where there are classes. The feature maps are of `dtype` (None: that of `z`).
        """
        return self.draw(self.codes(z, labels, psi), pooling=pooling, dtype=dtype)

    def codes(
        self,
        z: Float[Tensor, "N z_dim"],
        labels: Labels | None = None,
        psi: float | int = 1.0,
        cutoff: int | None = None,
    ) -> Float[Tensor, "N code"]:
        """[z, class vector]. `psi` below 1 leaves that share of the latent's deviation, by cutting the far ends off.

        Truncation maps normal numbers to the truncated normal distribution, so that a seed stays a seed. Where there
        are InfoGAN codes, the last numbers of z choose them: the largest of a code's numbers its value, the others
        their place in the normal distribution. Raises ValueError for a psi outside [0, 1], or a cutoff.
        """
        if cutoff is not None:
            raise ValueError(f"a {self.family} generator truncates all of z: leave the cutoff out, got {cutoff}")
        config = self.config
        check_labels(labels, config.num_classes)
        if z.shape[1] != config.z_dim:
            raise ValueError(f"z must have {config.z_dim} numbers for each picture, got {z.shape[1]}")
        parts = [truncated_normal(z[:, : config.latent_dim], psi)]
        if config.codes is not None:
            parts.append(_chosen(config.codes, z[:, config.latent_dim :]))
        if labels is not None and config.num_classes:
            labels = labels.to(z.dtype)
            parts.append(labels if self.classes is None else self.classes(labels).to(z.dtype))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def info(
        self, codes: Float[Tensor, "N code"]
    ) -> tuple[Float[Tensor, "N num_discrete size"], Float[Tensor, "N num_continuous"]]:
        """InfoGAN's part of codes: one-hot rows, and numbers in [-1, 1]. Raises ValueError where there is none."""
        config = self.config
        if config.codes is None:
            raise ValueError("this generator has no InfoGAN codes: its config.codes is None")
        part = codes[:, config.latent_dim : config.z_dim]
        count = config.codes.num_discrete * config.codes.discrete_size
        return part[:, :count].unflatten(1, (config.codes.num_discrete, config.codes.discrete_size)), part[:, count:]

    def between(
        self, start: Float[Tensor, " code"], end: Float[Tensor, " code"], t: Float[Tensor, " F"]
    ) -> Float[Tensor, "F code"]:
        """Codes on the straight line; the latent is stretched by the share that averaging takes from its variance."""
        path = torch.lerp(start[None], end[None], t[:, None])
        count = self.config.latent_dim
        stretch = (t * t + (1 - t) * (1 - t)).rsqrt()[:, None]
        return torch.cat([path[:, :count] * stretch, path[:, count:]], dim=1)

    def pictures(
        self,
        codes: Float[Tensor, "N code"],
        *,
        noise: Noise = "const",
        subnet: Subnet | None = None,
        resolution: int | None = None,
        alpha: float | int = 1.0,
    ) -> Float[Tensor, "N channels H W"]:
        """What `draw` gives by the running statistics. There are no noise maps, so `noise` changes nothing."""
        if subnet is not None:
            raise ValueError(f"a {self.family} generator has no subnets: leave the subnet out")
        if alpha != 1:
            raise ValueError(f"a {self.family} generator fades nothing in: alpha must be 1, got {alpha}")
        self._check_resolution(resolution)
        return self.draw(codes)

    def _check_resolution(self, resolution: int | None) -> None:
        if resolution not in (None, self.config.resolution):
            raise ValueError(
                f"a {self.family} generator has one resolution, {self.config.resolution}, and stops nowhere before; "
                f"got {resolution}"
            )

    def draw(
        self,
        codes: Float[Tensor, "N code"],
        *,
        pooling: Pooling | None = None,
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, "N channels H W"]:
        """The images of codes, which may lie between classes; arguments as in `forward`."""
        config = self.config
        first, conditions = self._shared_out(codes)
        x = self.start(first).to(dtype or codes.dtype)
        x = x.unflatten(1, (config.width * config.steps[0], config.bottom, config.bottom))
        step = -1
        for stage in self.stages:
            if not isinstance(stage, Attention):
                step += 1
            x = stage(x, conditions[step // config.blocks_each], pooling)
        if self.norm is not None:
            x = F.relu_(self.norm(x, None, pooling))
        # The last sums and the tanh decide between two neighbouring pixels: not in half precision.
        return torch.tanh(run(self.out, x).to(codes.dtype)).contiguous()

    def _shared_out(self, codes: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """What the first layer reads, and what conditions each step."""
        config = self.config
        latent, info = codes[:, : config.latent_dim], codes[:, config.latent_dim : config.z_dim]
        known = [codes[:, config.z_dim :]] if config.num_classes else []
        if self.codes_layer is not None:
            if config.codes_into == "latent":
                latent = self.codes_layer(torch.cat([latent, info], dim=1))
            else:
                known = [self.codes_layer(info), *known]
        if config.latent == "split":
            first, *rest = latent.chunk(config.doublings + 1, dim=1)
            return first, [torch.cat([*known, part], dim=1) for part in rest]
        whole = [*known, latent] if config.latent == "everywhere" else known
        condition = torch.cat(whole, dim=1) if whole else None
        first = latent if condition is None or config.latent == "first" else condition
        return first, [condition] * config.doublings

    def at_resolution(self, resolution: int) -> "BigGANGenerator":
        """A copy of its own. Raises ValueError for another resolution than its own."""
        self._check_resolution(resolution)
        return self._made_of(self.config, self.state_dict())

    def fold_spectral(self) -> "BigGANGenerator":
        """A generator of its own without spectral normalisation that gives the same pictures."""
        return self._made_of(replace(self.config, spectral=False), folded_state(self))

    def _made_of(self, config: BigGANConfig, state: Mapping[str, Tensor]) -> "BigGANGenerator":
        with torch.device("meta"):  # nothing is drawn
            net = BigGANGenerator(config)
        net.load_state_dict({name: tensor.detach().clone() for name, tensor in state.items()}, assign=True)
        return net.train(self.training)


def _up_blocks(config: BigGANConfig, inputs: int, outputs: int) -> list[nn.Module]:
    """The blocks of one step; of a deep ladder the last doubles the size and changes the width."""
    condition, spectral = config.condition_dim, config.spectral
    match config.blocks:
        case "deep_conv":
            return [TransposedUpBlock(inputs, outputs, condition, spectral=spectral)]
        case "resnet":
            return [UpBlock(inputs, outputs, condition, spectral=spectral)]
    last, learned = config.blocks_each - 1, config.blocks == "deep"
    return [
        DeepUpBlock(
            inputs,
            outputs if index == last else inputs,
            condition,
            up=index == last,
            learned=learned,
            spectral=spectral,
        )
        for index in range(config.blocks_each)
    ]


def _chosen(codes: InfoCodes, numbers: Tensor) -> Tensor:
    """InfoGAN's codes, chosen by normal numbers."""
    count = codes.num_discrete * codes.discrete_size
    scores = numbers[:, :count].unflatten(1, (codes.num_discrete, codes.discrete_size))
    rows = one_hot(scores.argmax(dim=2), codes.discrete_size).flatten(1).to(numbers.dtype)
    return torch.cat([rows, 2 * uniform(numbers[:, count:]) - 1], dim=1)


@dataclass(frozen=True, kw_only=True)
class BigGANDiscriminatorConfig(LadderConfig):
    """Settings of the discriminator.

    `blocks`, `width`, `depth`, `attention` as in `BigGANConfig`, from the picture down. `multipliers` are each block's
    outputs over `width`; of `deep` ladders the stem's come first, of `deep_conv` the last convolution's come last.
    The first `num_halvings` steps halve the size (None: down to the generator's start, but 8 px at most at 32 px and
    less). `head` says what becomes of classes, `norm` how its layers are normalised; None: not at all.
    """

    head: HeadConfig | None = None
    norm: Literal["spectral", "batch"] | None = "spectral"
    num_halvings: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges and the head."""
        super().__post_init__()
        check_head(self.head, self.num_classes)
        count, least = len(self.stage_steps), 1 if self.blocks == "deep_conv" or self.is_deep else 2
        if count < least:
            raise ValueError(f"multipliers must list {least} steps or more beside stem and end, got {self.multipliers}")
        if not 1 <= self.halvings <= min(count, self.doublings):
            raise ValueError(
                f"num_halvings must be from 1 to {min(count, self.doublings)}, of {count} steps at "
                f"{self.resolution} px, got {self.halvings}"
            )
        self.check_attention(self.stage_resolutions)

    @property
    def steps(self) -> tuple[int, ...]:
        """`multipliers`, or the published ones of the resolution."""
        if self.multipliers is not None:
            return self.multipliers
        match self.blocks:
            case "deep_conv":
                return tuple(min(1 << step, 16) for step in range(self.doublings + 1))
            case "resnet":
                return DOWN[self.doublings]
            case "deep_legacy":
                return DEEP_DOWN[self.doublings]
            case "deep":  # StudioGAN's form has a narrow stem at every size
                return (1, *DEEP_DOWN[self.doublings][1:])

    @property
    def stage_steps(self) -> tuple[int, ...]:
        """Those of the steps between stem and end."""
        if self.is_deep:
            return self.steps[1:]
        return self.steps[:-1] if self.blocks == "deep_conv" else self.steps

    @property
    def halvings(self) -> int:
        """How many steps halve the size."""
        if self.num_halvings is not None:
            return self.num_halvings
        return self.doublings if self.doublings > 3 or self.blocks == "deep_conv" else max(self.doublings - 1, 1)

    @property
    def stage_resolutions(self) -> tuple[int, ...]:
        """The resolution after each step."""
        return tuple(self.resolution >> min(step + 1, self.halvings) for step in range(len(self.stage_steps)))

    @property
    def layers(self) -> Layers:
        """The kind of its layers."""
        return "spectral" if self.norm == "spectral" else "plain"


class BigGANDiscriminator(nn.Module):
    """The discriminator: the ladder down, a sum over places, and a `Head`."""

    config: BigGANDiscriminatorConfig

    def __init__(self, config: BigGANDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        spectral, width = config.norm == "spectral", config.width
        is_deep, steps = config.is_deep, config.steps
        self.stem = convolution(config.channels, width * steps[0], 3, spectral=spectral) if is_deep else None
        inputs = width * steps[0] if is_deep else config.channels
        self.stages = nn.ModuleList()
        waiting = set(config.attention)
        for index, (step, resolution) in enumerate(zip(config.stage_steps, config.stage_resolutions, strict=True)):
            self.stages.extend(_down_blocks(config, inputs, width * step, index))
            inputs = width * step
            if resolution in waiting:  # after the first step of that size
                waiting.remove(resolution)
                self.stages.append(Attention(inputs, spectral=spectral))
        self.end: Convolution | None = None
        self.norm: BatchNorm | None = None
        if config.blocks == "deep_conv":
            self.end = convolution(inputs, width * steps[-1], 3, spectral=spectral)
            inputs = width * steps[-1]
            self.norm = BatchNorm(inputs) if config.norm == "batch" else None
        self.head = Head(
            config.head,
            features=inputs,
            num_classes=config.num_classes,
            layers=config.layers,
            codes=config.codes,
            area=config.stage_resolutions[-1] ** 2,
        )
        draw_weights(self)
        settle(self)

    def forward(
        self,
        images: Float[Tensor, "N channels H W"],
        labels: Labels | None = None,
        dtype: torch.dtype | None = None,
        pooling: Pooling | None = None,
    ) -> Verdict:
        """What it says of each image, in float32.

        The feature maps are of `dtype` (None: that of the images). `pooling` counts where there is batch normalisation:
        None normalises by the running statistics, as evaluation does. Labels as in `Head`. Raises ValueError for images
        of another size.
        """
        config = self.config
        expected = (config.channels, config.resolution, config.resolution)
        if images.shape[1:] != expected:
            raise ValueError(f"images must be {expected} each, got {tuple(images.shape[1:])}")
        x = images.to(dtype or images.dtype)
        x = x if self.stem is None else run(self.stem, x)
        for stage in self.stages:
            x = stage(x, pooling)
        if self.end is not None:
            x = run(self.end, x)
            x = x if self.norm is None else self.norm(x, None, pooling)
        # A sum of a thousand places is no number for half precision.
        h = F.relu(x).to(torch.promote_types(x.dtype, torch.float32)).sum(dim=(2, 3))
        return cast(Verdict, self.head(h, labels))


def _down_blocks(config: BigGANDiscriminatorConfig, inputs: int, outputs: int, index: int) -> list[nn.Module]:
    """The blocks of one step; of a deep ladder the first halves the size and changes the width."""
    spectral, batch, down = config.norm == "spectral", config.norm == "batch", index < config.halvings
    match config.blocks:
        case "deep_conv":
            return [StridedDownBlock(inputs, outputs, spectral=spectral, batch=batch)]
        case "resnet":
            return [DownBlock(inputs, outputs, first=index == 0, down=down, spectral=spectral, batch=batch)]
    learned = config.blocks == "deep"
    return [
        DeepDownBlock(
            outputs if later else inputs,
            outputs,
            down=down and not later,
            learned=learned,
            spectral=spectral,
            batch=batch,
        )
        for later in range(config.blocks_each)
    ]
