"""StyleGAN2's generator: mapping and synthesis. The discriminator is in `models.stylegan2_discriminator`.

Source: Karras et al. 2020 (StyleGAN2) and 2020 (StyleGAN2-ADA), with the authors' three architectures. Names of weights
follow the authors' PyTorch checkpoints; the fixed filters are not saved. Deviations: the modulated convolution always
runs in its activation-scaling form, w_avg is never updated in a forward pass, and noise is an argument.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frugan.models.generator import (
    ImageGenerator,
    Noise,
    check_picture,
    check_widths,
    resolutions_to,
)
from frugan.models.mapping import Labels, MappingNetwork
from frugan.models.subnet import Subnet
from frugan.ops.convolution import in_dtype
from frugan.ops.elastic import leading
from frugan.ops.equalized import EqualizedConv2d, EqualizedLinear, leaky_limited_, limited
from frugan.ops.modulate import modulated_conv2d
from frugan.ops.resample import Fir, fir_filter, upsample2d

Architecture = Literal["skip", "resnet", "orig"]
ROOT_HALF = math.sqrt(0.5)


@dataclass(frozen=True, kw_only=True)
class SharedConfig:
    """Settings that generator and discriminator share.

    Layers at resolution r have min(channel_base / r, channel_max) channels, unless `widths` lists them.
    `num_half_resolutions` counts the highest resolutions that follow a `dtype` given to a call; `conv_clamp` (256 in
    the authors' half-precision runs) limits activations.
    """

    resolution: int
    channels: int = 3
    num_classes: int = 0
    channel_base: int = 32768
    channel_max: int = 512
    widths: tuple[int, ...] | None = None
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    architecture: Architecture = "skip"
    conv_clamp: float | None = None
    num_half_resolutions: int = 4
    resample_filter: tuple[float, ...] = (1.0, 3.0, 3.0, 1.0)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_picture(self.resolution, self.channels)
        if self.architecture not in ("skip", "resnet", "orig"):
            raise ValueError(f"architecture must be 'skip', 'resnet' or 'orig', got {self.architecture!r}")
        lowest = {"channel_base": self.resolution, "channel_max": 1, "num_classes": 0, "num_half_resolutions": 0}
        for name, low in (lowest | {"mapping_layers": 1}).items():
            value = getattr(self, name)
            if value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}")
        if self.mapping_lr_multiplier <= 0:
            raise ValueError(f"mapping_lr_multiplier must be above 0, got {self.mapping_lr_multiplier}")
        if self.conv_clamp is not None and self.conv_clamp <= 0:
            raise ValueError(f"conv_clamp must be above 0 or None, got {self.conv_clamp}")
        fir_filter(self.resample_filter)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, ... up to the resolution."""
        return resolutions_to(self.resolution)


@dataclass(frozen=True, kw_only=True)
class StyleGAN2Config(SharedConfig):
    """Settings of the generator. `widths`: of the constant input, 4x4 conv1, then conv0 and conv1 of every block."""

    z_dim: int = 512
    w_dim: int = 512

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_widths(self.widths, len(self.layer_resolutions) + 1)
        if self.z_dim < 1 or self.w_dim < 1:
            raise ValueError(f"z_dim and w_dim must be at least 1, got {self.z_dim} and {self.w_dim}")

    @property
    def layer_resolutions(self) -> tuple[int, ...]:
        """The resolution at which each styled convolution gives its output, 4x4 conv1 first."""
        return (4, *(r for r in self.resolutions[1:] for _ in range(2)))

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """The output channels of the constant input and of each styled convolution."""
        return self.widths if self.widths is not None else self.layer_widths_at(1.0)

    @property
    def num_ws(self) -> int:
        """The number of styles: one for each styled convolution and one for the last RGB layer."""
        return 2 * len(self.resolutions)

    def layer_widths_at(self, ratio: float) -> tuple[int, ...]:
        """The widths (at least 1) if channel_base, or an explicit list, were times `ratio`; channel_max stays."""
        if self.widths is not None:
            return tuple(max(int(width * ratio), 1) for width in self.widths)
        table = {r: max(min(int(self.channel_base / r * ratio), self.channel_max), 1) for r in self.resolutions}
        return tuple(table[r] for r in (4, *self.layer_resolutions))

    def at(self, subnet: Subnet) -> "StyleGAN2Config":
        """The settings of the network that is `subnet` and nothing else. Raises ValueError where it does not fit."""
        full = self.layer_widths
        if len(subnet.widths) != len(full):
            raise ValueError(f"the subnet must list {len(full)} widths, got {len(subnet.widths)}")
        if any(width > most for width, most in zip(subnet.widths, full, strict=True)):
            raise ValueError(f"the subnet's widths must be at most {full}, got {subnet.widths}")
        resolution = self.resolution if subnet.resolution is None else subnet.resolution
        if resolution not in self.resolutions:
            raise ValueError(f"the subnet's resolution must be one of {self.resolutions}, got {resolution}")
        if resolution != self.resolution and self.architecture != "skip":
            raise ValueError(f"only a 'skip' generator can stop early, this one is {self.architecture!r}")
        kept = 2 * len(resolutions_to(resolution))
        halves = max(self.num_half_resolutions - len(self.resolutions) + len(resolutions_to(resolution)), 0)
        return replace(self, resolution=resolution, widths=subnet.widths[:kept], num_half_resolutions=halves)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU."""

    noise_const: Tensor

    def __init__(self, config: StyleGAN2Config, inputs: int, outputs: int, resolution: int, up: int) -> None:
        super().__init__()
        self.affine = EqualizedLinear(config.w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.fir = Fir(config.resample_filter)
        self.up = up
        self.clamp = config.conv_clamp

    def forward(
        self,
        x: Float[Tensor, "N C H W"],
        w: Float[Tensor, "N w_dim"],
        noise: Float[Tensor, "M 1 H_out W_out"] | None,
        num_out: int,
        gain: float = 1.0,
    ) -> Float[Tensor, "N num_out H_out W_out"]:
        """The first `num_out` channels, times `gain`, in the dtype of `x`, whose channels lead this layer's inputs."""
        total = gain * math.sqrt(2)
        x = modulated_conv2d(
            x,
            leading(self.weight, num_out, x.shape[1]),
            self.affine(w, x.shape[1]),
            leading(self.bias, num_out) * total,
            fir=self.fir,
            up=self.up,
            padding=1,
            flip_weight=self.up == 1,
            gain=total,
        )
        # In place: these features are nobody else's, and no derivative needs them as they were.
        if noise is not None:
            x = x.add_((noise * (self.noise_strength * total)).to(x.dtype))
        return leaky_limited_(x, None if self.clamp is None else self.clamp * gain)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to the image channels, without demodulation."""

    def __init__(self, config: StyleGAN2Config, inputs: int) -> None:
        super().__init__()
        self.affine = EqualizedLinear(config.w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(config.channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(config.channels))
        self.clamp = config.conv_clamp

    def forward(self, x: Float[Tensor, "N C H W"], w: Float[Tensor, "N w_dim"]) -> Float[Tensor, "N channels H W"]:
        """An image in the dtype of `w`. The style's gain is that of all inputs, also where fewer run."""
        styles = self.affine(w, x.shape[1]) * (1 / math.sqrt(self.weight.shape[1]))
        x = modulated_conv2d(x, leading(self.weight, None, x.shape[1]), styles, self.bias, demodulate=False)
        return in_dtype(limited(x, self.clamp), w.dtype)


class SynthesisBlock(nn.Module):
    """The layers of one resolution."""

    def __init__(self, config: StyleGAN2Config, resolution: int) -> None:
        super().__init__()
        widths = config.layer_widths
        index = 2 * (resolution.bit_length() - 3)
        self.index = index
        self.resolution = resolution
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(widths[0], 4, 4))
        else:
            self.conv0 = SynthesisLayer(config, widths[index - 1], widths[index], resolution, up=2)
        self.conv1 = SynthesisLayer(config, widths[index], widths[index + 1], resolution, up=1)
        self.has_rgb = config.architecture == "skip" or resolution == config.resolution
        self.has_skip = config.architecture == "resnet" and resolution > 4
        if self.has_rgb:
            self.torgb = ToRGB(config, widths[index + 1])
        if self.has_skip:
            fir = Fir(config.resample_filter)
            self.skip = EqualizedConv2d(widths[index - 1], widths[index + 1], 1, fir=fir, bias=False, up=2)

    def forward(
        self,
        x: Float[Tensor, "N C H W"] | None,
        w: Float[Tensor, "N styles w_dim"],
        noise: Sequence[Tensor | None],
        widths: Sequence[int],
        dtype: torch.dtype,
    ) -> Float[Tensor, "N num_out H_out W_out"]:
        """The features of this resolution, with as many channels as `widths` lists."""
        if x is None:
            const = leading(self.const, widths[0]).to(dtype)
            x = const[None].expand(w.shape[0], -1, -1, -1)
            return cast(Tensor, self.conv1(x, w[:, 0], noise[0], widths[1]))
        x = in_dtype(x, dtype)
        gain = ROOT_HALF if self.has_skip else 1.0
        y = self.skip(x, gain, widths[1]) if self.has_skip else None
        x = self.conv0(x, w[:, 0], noise[0], widths[0])
        x = self.conv1(x, w[:, 1], noise[1], widths[1], gain)
        return x if y is None else y + x


class SynthesisNetwork(nn.Module):
    """From w to images. Each block's RGB layer shares the style of the next block's first convolution."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        for resolution in config.resolutions:
            self.add_module(f"b{resolution}", SynthesisBlock(config, resolution))
        self.fir = Fir(config.resample_filter)

    def block(self, resolution: int) -> SynthesisBlock:
        """The block that gives `resolution`."""
        return cast(SynthesisBlock, self.get_submodule(f"b{resolution}"))

    def layers(self) -> Iterator[SynthesisLayer]:
        """The styled convolutions in order, 4x4 conv1 first."""
        for resolution in self.config.resolutions:
            block = self.block(resolution)
            if resolution > 4:
                yield block.conv0
            yield block.conv1

    def _noise(self, noise: Noise, count: int) -> list[Tensor | None]:
        if noise == "none":
            return [None] * count
        if noise == "const":
            noise = [layer.noise_const[None, None] for layer in self.layers()][:count]
        if isinstance(noise, str):
            raise ValueError(f"noise must be 'const', 'none' or one tensor for each layer, got {noise!r}")
        if len(noise) != count:
            raise ValueError(f"noise must have {count} tensors, one for each layer, got {len(noise)}")
        return list(noise)

    def images(
        self,
        w: Float[Tensor, "N num_ws w_dim"],
        noise: Noise = "const",
        subnet: Subnet | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[int, Float[Tensor, "N channels H_out W_out"]]:
        """The running image at every resolution that has an RGB layer, the lowest first, in float32."""
        config = self.config if subnet is None else self.config.at(subnet)
        if w.shape[1] < config.num_ws:
            raise ValueError(f"w must hold {config.num_ws} styles for each sample, got {w.shape[1]}")
        widths = config.layer_widths
        maps = self._noise(noise, len(config.layer_resolutions))
        half_from = 2 * config.resolution >> config.num_half_resolutions
        images: dict[int, Tensor] = {}
        x: Tensor | None = None
        image: Tensor | None = None
        for resolution in config.resolutions:
            block = self.block(resolution)
            first = max(block.index - 1, 0)
            use = dtype if dtype is not None and resolution >= half_from else w.dtype
            x = block(x, w[:, first : block.index + 2], maps[first : block.index + 1], widths[block.index :][:2], use)
            image = None if image is None else upsample2d(image, self.fir)
            if block.has_rgb:
                rgb = block.torgb(x, w[:, block.index + 1])
                image = rgb if image is None else image + rgb
                images[resolution] = image
        return images

    def forward(
        self,
        w: Float[Tensor, "N num_ws w_dim"],
        noise: Noise = "const",
        subnet: Subnet | None = None,
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, "N channels H_out W_out"]:
        """Images in float32, about [-1, 1].

        `noise` is 'const' (the saved maps), 'none', or one (N, 1, r, r) tensor for each layer, as `noise_shapes` lists.
        `subnet` runs the leading channels and may stop early; `dtype` is that of the highest `num_half_resolutions`
        resolutions (None: float32 throughout).
        """
        return list(self.images(w, noise, subnet, dtype).values())[-1].contiguous()


class Generator(ImageGenerator):
    """The StyleGAN2 generator. Its codes are styles, w."""

    family = "stylegan2"
    config: StyleGAN2Config

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(
            z_dim=config.z_dim,
            w_dim=config.w_dim,
            num_classes=config.num_classes,
            num_layers=config.mapping_layers,
            lr_multiplier=config.mapping_lr_multiplier,
            num_ws=config.num_ws,
        )
        self.synthesis = SynthesisNetwork(config)

    def truncate(
        self, w: Float[Tensor, "N num_ws w_dim"], psi: float | int, cutoff: int | None = None
    ) -> Float[Tensor, "N num_ws w_dim"]:
        """w moved towards the average: w_avg + psi (w - w_avg), in all layers or the first `cutoff`."""
        if psi == 1:
            return w
        moved = self.mapping.w_avg.lerp(w, psi)
        return moved if cutoff is None else torch.cat([moved[:, :cutoff], w[:, cutoff:]], dim=1)

    def codes(
        self,
        z: Float[Tensor, "N z_dim"],
        labels: Labels | None = None,
        psi: float | int = 1.0,
        cutoff: int | None = None,
    ) -> Float[Tensor, "N num_ws w_dim"]:
        """w, truncated."""
        return self.truncate(self.mapping(z, labels), psi, cutoff)

    def between(
        self, start: Float[Tensor, "num_ws w_dim"], end: Float[Tensor, "num_ws w_dim"], t: Float[Tensor, " F"]
    ) -> Float[Tensor, "F num_ws w_dim"]:
        """w on the straight line."""
        return torch.lerp(start[None], end[None], t[:, None, None])

    def pictures(
        self,
        codes: Float[Tensor, "N num_ws w_dim"],
        *,
        noise: Noise = "const",
        subnet: Subnet | None = None,
        resolution: int | None = None,
        alpha: float = 1.0,
    ) -> Float[Tensor, "N channels H_out W_out"]:
        """What the synthesis draws; it does not fade, so alpha must be 1."""
        if alpha != 1:
            raise ValueError(f"a {self.family} generator fades nothing in: alpha must be 1, got {alpha}")
        return cast(Tensor, self.synthesis(codes, noise, self._limited(subnet, resolution)))

    def _limited(self, subnet: Subnet | None, resolution: int | None) -> Subnet | None:
        """The subnet that stops early where a resolution is asked for."""
        if resolution is None or (resolution == self.config.resolution and subnet is None):
            return subnet
        return replace(subnet or Subnet(widths=self.config.layer_widths), resolution=resolution)

    def noise_shapes(
        self, subnet: Subnet | None = None, resolution: int | None = None
    ) -> tuple[tuple[int, int, int], ...]:
        """The shape, without the batch axis, of the noise that each layer takes."""
        subnet = self._limited(subnet, resolution)
        config = self.config if subnet is None else self.config.at(subnet)
        return tuple((1, r, r) for r in config.layer_resolutions)

    def at_resolution(self, resolution: int) -> "Generator":
        """A generator of its own that stops early. Raises ValueError unless its architecture is `skip`."""
        return self.extract(Subnet(widths=self.config.layer_widths, resolution=resolution))

    def extract(self, subnet: Subnet) -> "Generator":
        """A generator of its own that gives what this one gives for `subnet` (early exit at its resolution included).

        torch's random state is left as it was. Raises ValueError for a subnet that does not fit.
        """
        with torch.random.fork_rng(devices=[]):
            smaller = Generator(self.config.at(subnet))
        ours, state = self.state_dict(), smaller.state_dict()
        for name, tensor in state.items():
            part = leading(ours[name], *tensor.shape)
            if name.endswith(("torgb.weight", "skip.weight")):
                # These run as W / sqrt(inputs), of which there are now fewer.
                part = part * math.sqrt(part.shape[1] / ours[name].shape[1])
            state[name] = part.clone()
        smaller.load_state_dict(state)
        return smaller.to(self.mapping.w_avg).train(self.training)

    def forward(
        self,
        z: Float[Tensor, "N z_dim"],
        labels: Labels | None = None,
        psi: float | int = 1.0,
        cutoff: int | None = None,
        noise: Noise = "const",
        subnet: Subnet | None = None,
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, "N channels H_out W_out"]:
        """Images for latent codes; the arguments are those of mapping, truncate and synthesis."""
        return cast(Tensor, self.synthesis(self.codes(z, labels, psi, cutoff), noise, subnet, dtype))
