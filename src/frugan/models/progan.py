"""ProGAN: a generator and a discriminator that grow from 4x4 pixels, one resolution after the other.

Source: Karras et al. 2018, "Progressive Growing of GANs for Improved Quality, Stability, and Variation", sections 2 to
4 and appendix A, with the settings of its ablation. Where growing stands is no state: resolution and `alpha` (the share
of the newest block while it fades in) are arguments. All layers of all resolutions exist from the start.
Deviation: doubling is merged into the convolution after it (equal but for rounding).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypedDict, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frugan.models.generator import (
    ImageGenerator,
    Noise,
    check_labels,
    check_picture,
    check_widths,
    resolutions_to,
)
from frugan.models.subnet import Subnet
from frugan.ops.convolution import convolve
from frugan.ops.equalized import SLOPE
from frugan.ops.normalize import minibatch_stddev, pixel_norm
from frugan.ops.resample import average_down2d, conv2d_average_down, conv2d_nearest_up, nearest_up2d

Labels = Float[Tensor, "N num_classes"]
Factors = Callable[[int], Float[Tensor, "N C"]]
Form = Literal["start", "same", "up", "down", "point", "whole"]
Norm = Literal["pixel", "batch", "layer"]
Active = Literal["lrelu", "relu", "tanh"]
_KERNELS: dict[Form, int] = {"start": 4, "same": 3, "up": 3, "down": 3, "point": 1, "whole": 4}
ROOT_TWO = math.sqrt(2)
EPS, HALF_EPS = 1e-8, 1e-4


@dataclass(frozen=True, kw_only=True)
class _Pyramid:
    """The settings that both networks share."""

    resolution: int
    channels: int = 3
    num_classes: int = 0
    channel_base: int = 8192
    channel_max: int = 512
    widths: tuple[int, ...] | None = None
    equalized: bool = True
    num_half_resolutions: int = 4

    def __post_init__(self) -> None:
        check_picture(self.resolution, self.channels)
        check_widths(self.widths, len(self.resolutions))
        at_least = {
            "channel_base": self.resolution // 2,
            "channel_max": 1,
            "num_classes": 0,
            "num_half_resolutions": 0,
        }
        for name, low in at_least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, ... up to the resolution."""
        return resolutions_to(self.resolution)

    def width(self, resolution: int) -> int:
        """The channels at a resolution; at 2 those of the discriminator's last hidden layer."""
        if self.widths is not None:
            return self.widths[max(resolution.bit_length() - 3, 0)]
        return min(2 * self.channel_base // resolution, self.channel_max)

    def dtype_at(self, resolution: int, dtype: torch.dtype | None, full: torch.dtype) -> torch.dtype:
        """What a resolution computes in: `dtype` in the highest `num_half_resolutions`, else `full`."""
        return dtype if dtype is not None and resolution >= 2 * self.resolution >> self.num_half_resolutions else full


@dataclass(frozen=True, kw_only=True)
class ProGANConfig(_Pyramid):
    """Settings of the generator.

    Feature maps at resolution r have min(2 channel_base / r, channel_max) channels, unless `widths` lists the channels
    at 4, 8, ... up to the resolution. `latent`: on the `hypersphere` of radius sqrt(z_dim), or `normal` as drawn
    (docs/decisions/0006-latent-hypersphere.md). `label_order`: one-hot labels join the latent `after` it was put on the
    hypersphere (the article's code) or `before` (the authors' later code). `equalized` False starts from He's
    initialisation and scales nothing while it runs. `norm`: `pixel`, `batch` (before the activation) or None; `tanh`
    limits each RGB layer. `num_half_resolutions` counts the highest resolutions that follow a `dtype` given to a call.
    """

    z_dim: int = 512
    latent: Literal["hypersphere", "normal"] = "hypersphere"
    label_order: Literal["after", "before"] = "after"
    activation: Literal["lrelu", "relu"] = "lrelu"
    norm: Literal["pixel", "batch"] | None = "pixel"
    tanh: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if self.z_dim < 1:
            raise ValueError(f"z_dim must be at least 1, got {self.z_dim}")


@dataclass(frozen=True, kw_only=True)
class ProGANDiscriminatorConfig(_Pyramid):
    """Settings of the discriminator; what the generator has too means the same.

    Minibatch deviation: `stddev_features` maps (0: none) over groups of `stddev_group` samples (None: the whole batch,
    as in the article), appended to what enters the block of resolution `stddev_at`; before pictures reach that
    resolution there are none. `discrimination_kernels` above 0 adds minibatch discrimination (Salimans et al. 2016)
    with kernels of `discrimination_dim` numbers to the last hidden layer. `norm`: `layer` (over channels and pixels,
    before the activation) or None; the RGB layers and the last one have none. `fused_down` averages 2x2 pixels before
    the activation instead of after it, in one convolution of stride 2: the authors' later code, and quicker. `head`,
    with classes: `acgan` has class logits beside a verdict that knows no label; `projection` gives each class a verdict
    of its own on top.
    """

    norm: Literal["layer"] | None = None
    stddev_group: int | None = None
    stddev_features: int = 1
    stddev_at: int = 4
    discrimination_kernels: int = 0
    discrimination_dim: int = 5
    fused_down: bool = False
    head: Literal["acgan", "projection"] = "acgan"

    def __post_init__(self) -> None:
        """Check the ranges, and that the features can be dealt out."""
        super().__post_init__()
        if self.stddev_group is not None and self.stddev_group < 1:
            raise ValueError(f"stddev_group must be at least 1 or None, got {self.stddev_group}")
        if self.stddev_at not in self.resolutions:
            raise ValueError(f"stddev_at must be one of {self.resolutions}, got {self.stddev_at}")
        width = self.width(self.stddev_at)
        if self.stddev_features < 0 or (self.stddev_features and width % self.stddev_features):
            raise ValueError(f"stddev_features must divide the {width} channels, got {self.stddev_features}")
        if self.discrimination_kernels < 0 or self.discrimination_dim < 1:
            raise ValueError(
                "discrimination_kernels must be at least 0 and discrimination_dim at least 1, "
                f"got {self.discrimination_kernels} and {self.discrimination_dim}"
            )

    @property
    def has_classifier(self) -> bool:
        """Whether `with_classes` works."""
        return self.num_classes > 0 and self.head == "acgan"


class _Own(TypedDict):
    """What the layers inside a block have in common."""

    equalized: bool
    activation: Active
    norm: Norm | None


class Layer(nn.Module):
    """Weights of variance 1 that run times gain / sqrt(fan-in), a bias that runs as it is, activation, normalisation.

    `form`: `start` makes 4x4 maps of a vector (its fan-in counts the 16 places), `whole` a vector of 4x4 maps; `same`,
    `up` and `down` are 3x3, `point` is 1x1. StyleGAN2's layers (`ops.equalized`) also scale the bias, by sqrt(2).
    """

    def __init__(
        self,
        form: Form,
        inputs: int,
        outputs: int,
        *,
        equalized: bool,
        gain: float = ROOT_TWO,
        activation: Active | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        kernel = _KERNELS[form]
        scale = gain / math.sqrt(inputs * kernel * kernel)
        shape = (inputs, outputs) if form == "start" else (outputs, inputs)
        self.weight = nn.Parameter(torch.randn(*shape, kernel, kernel) * (1.0 if equalized else scale))
        # The learned shift of a normalisation is the bias where there is one.
        self.bias = nn.Parameter(torch.zeros(outputs)) if norm in (None, "pixel") else None
        self.norm: nn.Module | None = None
        if norm == "batch":
            self.norm = nn.BatchNorm2d(outputs)
        if norm == "layer":
            self.norm = nn.GroupNorm(1, outputs)
        self.form = form
        self.scale = scale if equalized else 1.0
        self.activation = activation
        self.is_pixel_normed = norm == "pixel"

    def forward(self, x: Float[Tensor, "N inputs *place"]) -> Float[Tensor, "N outputs H_out W_out"]:
        """The features in the dtype of `x`; a vector comes out as 1x1 maps."""
        weight = self.weight if self.scale == 1 else self.weight * self.scale
        x = self._linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))
        if self.norm is not None:
            x = cast(Tensor, self.norm(x))
        # In place: the features are nobody else's, and the derivative takes their sign from the result.
        match self.activation:
            case "lrelu":
                x = F.leaky_relu_(x, SLOPE)
            case "relu":
                x = F.relu_(x)
            case "tanh":
                x = torch.tanh(x)
        return pixel_norm(x, HALF_EPS if x.dtype == torch.float16 else EPS) if self.is_pixel_normed else x

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        match self.form:
            case "up":
                return conv2d_nearest_up(x, weight, bias)
            case "down":
                return conv2d_average_down(x, weight, bias)
        weight = weight.to(x.dtype)
        match self.form:
            case "start":
                maps: Tensor = (x @ weight.flatten(1)).unflatten(1, weight.shape[1:])
                return maps if bias is None else maps + bias[:, None, None]
            case "whole":
                return F.linear(x.flatten(1), weight.flatten(1), bias)[:, :, None, None]
        return convolve(x, weight, bias, padding=weight.shape[2] // 2)


class GeneratorBlock(nn.Module):
    """The layers of one resolution."""

    def __init__(self, config: ProGANConfig, resolution: int) -> None:
        super().__init__()
        width = config.width(resolution)
        own: _Own = {"equalized": config.equalized, "activation": config.activation, "norm": config.norm}
        inputs = config.z_dim + config.num_classes if resolution == 4 else config.width(resolution // 2)
        form: Form = "start" if resolution == 4 else "up"
        self.conv0 = Layer(form, inputs, width, **own)
        self.conv1 = Layer("same", width, width, **own)
        self.torgb = Layer(
            "point",
            width,
            config.channels,
            equalized=config.equalized,
            gain=1.0,
            activation="tanh" if config.tanh else None,
        )

    def forward(self, x: Float[Tensor, "N C *place"]) -> Float[Tensor, "N C_out H_out W_out"]:
        """The features of this resolution, from those of half of it, or from the code."""
        return cast(Tensor, self.conv1(self.conv0(x)))


class ProGANGenerator(ImageGenerator):
    """The generator. Its codes are what enters the first layer: the latent on the hypersphere, and the label."""

    family: ClassVar[str] = "progan"
    config: ProGANConfig

    def __init__(self, config: ProGANConfig) -> None:
        super().__init__()
        self.config = config
        for resolution in config.resolutions:
            self.add_module(f"b{resolution}", GeneratorBlock(config, resolution))

    def block(self, resolution: int) -> GeneratorBlock:
        """The block that gives `resolution`."""
        return cast(GeneratorBlock, self.get_submodule(f"b{resolution}"))

    def forward(
        self,
        z: Float[Tensor, "N z_dim"],
        labels: Labels | None = None,
        *,
        resolution: int | None = None,
        alpha: float | int = 1.0,
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, "N channels H W"]:
        """Images of `resolution` (None: the full one) in about [-1, 1], in the dtype of `z`.

        `alpha` in [0, 1] is the share of the newest block; at 1, and at 4x4 pixels, only the newest RGB layer runs.
        `labels` are float one-hot rows, given exactly where there are classes. `dtype` is that of the highest
        `num_half_resolutions` resolutions of the full network (None: the dtype of `z` throughout).
        """
        return self._draw(self.codes(z, labels), resolution, alpha, dtype)

    def codes(
        self,
        z: Float[Tensor, "N z_dim"],
        labels: Labels | None = None,
        psi: float | int = 1.0,
        cutoff: int | None = None,
    ) -> Float[Tensor, "N inputs"]:
        """What enters the first layer. Raises ValueError for a psi other than 1, or a cutoff."""
        if psi != 1 or cutoff is not None:
            raise ValueError(f"a {self.family} generator has no average to draw towards: psi must be 1 without cutoff")
        check_labels(labels, self.config.num_classes)
        is_last = self.config.label_order == "before"
        if self.config.latent == "hypersphere" and not is_last:
            z = pixel_norm(z)
        code = z if labels is None else torch.cat([z, labels.to(z.dtype)], dim=1)
        return pixel_norm(code) if self.config.latent == "hypersphere" and is_last else code

    def between(
        self, start: Float[Tensor, " inputs"], end: Float[Tensor, " inputs"], t: Float[Tensor, " F"]
    ) -> Float[Tensor, "F inputs"]:
        """Codes on the way, as long as those at its ends; labels, where they are not part of that, on a straight line.

        The line between two points is put back on the hypersphere; between normal latents it is stretched by the share
        that averaging takes from their variance.
        """
        path = torch.lerp(start[None], end[None], t[:, None])
        count = self.config.z_dim + (self.config.num_classes if self.config.label_order == "before" else 0)
        z, labels = path[:, :count], path[:, count:]
        if self.config.latent == "hypersphere":
            return torch.cat([pixel_norm(z), labels], dim=1)
        z, labels = path[:, : self.config.z_dim], path[:, self.config.z_dim :]
        return torch.cat([z * (t * t + (1 - t) * (1 - t)).rsqrt()[:, None], labels], dim=1)

    def pictures(
        self,
        codes: Float[Tensor, "N inputs"],
        *,
        noise: Noise = "const",
        subnet: Subnet | None = None,
        resolution: int | None = None,
        alpha: float | int = 1.0,
    ) -> Float[Tensor, "N channels H W"]:
        """As `forward`, from codes. There are no noise maps, so `noise` changes nothing."""
        if subnet is not None:
            raise ValueError(f"a {self.family} generator has no subnets: leave the subnet out")
        return self._draw(codes, resolution, alpha, None)

    def at_resolution(self, resolution: int) -> "ProGANGenerator":
        """A generator of its own that ends at this resolution. torch's random state is left as it was."""
        config = self.config
        _check_stage(resolution, config.resolutions, 1.0)
        fewer = len(config.resolutions) - len(resolutions_to(resolution))
        widths = config.widths and config.widths[: len(config.widths) - fewer]
        halves = max(config.num_half_resolutions - fewer, 0)
        with torch.random.fork_rng(devices=[]):
            smaller = ProGANGenerator(
                replace(config, resolution=resolution, widths=widths, num_half_resolutions=halves)
            )
        state = self.state_dict()
        smaller.load_state_dict({name: state[name] for name in smaller.state_dict()})
        return smaller.to(self.block(4).torgb.weight).train(self.training)

    def _draw(self, codes: Tensor, resolution: int | None, alpha: float, dtype: torch.dtype | None) -> Tensor:
        config = self.config
        top = config.resolution if resolution is None else resolution
        _check_stage(top, config.resolutions, alpha)
        x = before = codes
        for size in resolutions_to(top):
            before, x = x, self.block(size)(x.to(config.dtype_at(size, dtype, codes.dtype)))
        image: Tensor = self.block(top).torgb(x).to(codes.dtype)
        if alpha < 1 and top > 4:
            image = torch.lerp(nearest_up2d(self.block(top // 2).torgb(before).to(codes.dtype)), image, alpha)
        return image.contiguous()


def _check_stage(resolution: int, allowed: tuple[int, ...], alpha: float) -> None:
    if resolution not in allowed:
        raise ValueError(f"the resolution must be one of {allowed}, got {resolution}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")


class MinibatchDiscrimination(nn.Module):
    """Appends, for each kernel, how near the other samples of the batch are: sum over j of exp(-|M_i - M_j|_1).

    M is a learned map of the features to `dim` numbers for each kernel. Salimans et al. 2016, section 3.2; without the
    sample itself, whose share is always 1. `log_scale` is set from data by `calibrate`.
    """

    def __init__(self, features: int, kernels: int, dim: int, *, equalized: bool) -> None:
        super().__init__()
        scale = 1 / math.sqrt(features)
        self.weight = nn.Parameter(torch.randn(features, kernels, dim) * (1.0 if equalized else scale))
        self.log_scale = nn.Parameter(torch.zeros(kernels))
        self.scale = scale if equalized else 1.0

    def _distances(self, x: Tensor) -> Tensor:
        """(N, N, kernels)"""
        places: Tensor = (x @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])
        places = places * (self.log_scale.exp() * self.scale)[:, None]
        return (places[:, None] - places[None]).abs().sum(dim=3)

    def forward(self, x: Float[Tensor, "N features"]) -> Float[Tensor, "N features_and_kernels"]:
        """The features, then one number for each kernel."""
        return torch.cat([x, (-self._distances(x)).exp().sum(dim=1) - 1], dim=1)

    def calibrate(self, x: Float[Tensor, "N features"]) -> None:
        """Scale each kernel so that on these samples the nearest other one is at distance 1 on average."""
        distances = self._distances(x)
        distances.diagonal(dim1=0, dim2=1).fill_(torch.inf)
        self.log_scale.sub_(distances.amin(dim=1).mean(dim=0).log())


class DiscriminatorBlock(nn.Module):
    """From features at one resolution, or a picture, to features at half of it; at 4 to one vector."""

    def __init__(self, config: ProGANDiscriminatorConfig, resolution: int) -> None:
        super().__init__()
        width, features = config.width(resolution), config.stddev_features
        self.stddev_features = features if resolution == config.stddev_at else 0
        self.stddev_group = config.stddev_group
        self.fromrgb = Layer("point", config.channels, width, equalized=config.equalized, activation="lrelu")
        inputs, below = width + self.stddev_features, config.width(resolution // 2)
        self.pools = resolution > 4 and not config.fused_down
        form: Form = "whole" if resolution == 4 else "down" if config.fused_down else "same"
        own: _Own = {"equalized": config.equalized, "activation": "lrelu", "norm": config.norm}
        self.conv0 = Layer("same", inputs, width, **own)
        self.conv1 = Layer(form, width, below, **own)

    def forward(self, x: Float[Tensor, "N C H W"], factors: Factors | None) -> Float[Tensor, "N C_out H_out W_out"]:
        """The features in the dtype of `x`; the deviation over the batch is taken in float32 at least."""
        if self.stddev_features:
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            x = minibatch_stddev(wide, self.stddev_group, self.stddev_features).to(x.dtype)
        for layer in (self.conv0, self.conv1):
            x = x if factors is None else x * factors(x.shape[1]).to(x.dtype)[:, :, None, None]
            x = layer(x)
        return average_down2d(x) if self.pools else x


class ProGANDiscriminator(nn.Module):
    """The discriminator: the generator's mirror image."""

    def __init__(self, config: ProGANDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        for resolution in config.resolutions:
            self.add_module(f"b{resolution}", DiscriminatorBlock(config, resolution))
        width, kernels = config.width(2), config.discrimination_kernels
        self.discrimination = (
            MinibatchDiscrimination(width, kernels, config.discrimination_dim, equalized=config.equalized)
            if kernels
            else None
        )
        self.out = Layer("point", width + kernels, 1 + config.num_classes, equalized=config.equalized, gain=1.0)

    def block(self, resolution: int) -> DiscriminatorBlock:
        """The block that reads features of `resolution`."""
        return cast(DiscriminatorBlock, self.get_submodule(f"b{resolution}"))

    def forward(
        self,
        images: Float[Tensor, "N channels H W"],
        labels: Labels | None = None,
        *,
        alpha: float | int = 1.0,
        dtype: torch.dtype | None = None,
        factors: Factors | None = None,
    ) -> Float[Tensor, " N"]:
        """Logits: how real each image looks, higher is more real; in the dtype of `images`.

        The images' size says from which block on the network runs; `alpha` is that block's share beside the next one's
        own view of the images at half the size. `factors` gives, for C channels, (N, C) numbers that multiply what
        enters each convolution but the RGB layer and the last (the article's noise for LSGAN, appendix B:
        1 + s sqrt(C) normal). With `head` `acgan` labels may be given and change nothing.
        """
        if labels is not None or self.config.head == "projection":
            check_labels(labels, self.config.num_classes)
        scores = self._scores(images, alpha, dtype, factors)
        if labels is None or self.config.head == "acgan":
            return scores[:, 0]
        return scores[:, 0] + (scores[:, 1:] * labels.to(scores.dtype)).sum(dim=1)

    def with_classes(
        self,
        images: Float[Tensor, "N channels H W"],
        *,
        alpha: float | int = 1.0,
        dtype: torch.dtype | None = None,
        factors: Factors | None = None,
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N K"]]:
        """(logits, class logits), as AC-GAN needs them. Raises ValueError without classes or with another head."""
        if not self.config.has_classifier:
            raise ValueError(
                "class logits need num_classes above 0 and head 'acgan', "
                f"got {self.config.num_classes} and {self.config.head!r}"
            )
        scores = self._scores(images, alpha, dtype, factors)
        return scores[:, 0], scores[:, 1:]

    def calibrate(self, images: Float[Tensor, "N channels H W"], *, alpha: float | int = 1.0) -> None:
        """Set the scales of minibatch discrimination from real images (500 in the article's code); else do nothing."""
        if self.discrimination is not None:
            with torch.no_grad():
                self.discrimination.calibrate(self._features(images, alpha, None, None))

    def _scores(self, images: Tensor, alpha: float, dtype: torch.dtype | None, factors: Factors | None) -> Tensor:
        x = self._features(images, alpha, dtype, factors)
        x = x if self.discrimination is None else self.discrimination(x)
        return cast(Tensor, self.out(x[:, :, None, None]).flatten(1))

    def _features(self, images: Tensor, alpha: float, dtype: torch.dtype | None, factors: Factors | None) -> Tensor:
        """(N, width): the last hidden layer."""
        config, top = self.config, images.shape[3]
        if images.shape[1] != config.channels or images.shape[2] != top:
            raise ValueError(f"images must be square with {config.channels} channels, got {tuple(images.shape[1:])}")
        _check_stage(top, config.resolutions, alpha)

        def seen(pictures: Tensor) -> Tensor:
            size = pictures.shape[3]
            return cast(Tensor, self.block(size).fromrgb(pictures.to(config.dtype_at(size, dtype, images.dtype))))

        x = seen(images)
        for size in resolutions_to(top)[:0:-1]:
            x = self.block(size)(x, factors).to(config.dtype_at(size // 2, dtype, images.dtype))
            if size == top and alpha < 1:
                x = torch.lerp(seen(average_down2d(images)), x, alpha)
        return cast(Tensor, self.block(4)(x, factors).flatten(1).to(images.dtype))
