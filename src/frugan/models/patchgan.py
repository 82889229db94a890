"""Discriminators that judge patches: PatchGAN, its 1x1 form, and a pyramid of them over shrunken pictures.

Sources: Isola et al. 2017 (pix2pix), section 3.2.2; Huang et al. 2018 (MUNIT), appendix B.2.
"""

import itertools
from dataclasses import dataclass
from typing import Literal, cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frugan.models.elastic import ElasticWidths, leading_network
from frugan.models.subnet import Subnet
from frugan.ops.elastic import Convolution, Norm, norm_layer, normalize
from frugan.ops.normalize import Gather

_LEAK = 0.2
_WIDEST = 8


@dataclass(frozen=True, kw_only=True)
class PatchConfig(ElasticWidths):
    """Settings of a PatchGAN.

    `channels` are those of what is judged: the source's and the picture's together where it is conditional. `kind`:
    `layers` has `num_layers` layers of stride 2, one of stride 1 and the last, of kernel 4 (3 layers see patches of 70
    pixels); `pixel` judges each pixel by itself. They have 1, 2, 4, 8, 8, ... times `width` channels, or `widths`;
    the last layer is not listed. `norm` as in `ResnetConfig`; the first and the last layer have none.
    """

    kind: Literal["layers", "pixel"] = "layers"
    channels: int = 3
    num_layers: int = 3
    norm: Norm | None = "instance"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("channels", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        super().__post_init__()

    @property
    def width_table(self) -> tuple[int, ...]:
        """The width of each layer but the last without `widths`."""
        count = 1 if self.kind == "pixel" else self.num_layers
        return tuple(self.width * min(1 << step, _WIDEST) for step in range(count + 1))

    @property
    def smallest(self) -> int:
        """The least height and width of what it can judge."""
        return 1 if self.kind == "pixel" else 3 << self.num_layers


class _Layer(nn.Module):
    """A convolution, normalisation and leaky ReLU."""

    def __init__(self, conv: Convolution, norm: Norm | None, width: int) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm_layer(norm, width)

    def forward(
        self, x: Float[Tensor, "N C_in H W"], outputs: int | None = None, gather: Gather | None = None
    ) -> Float[Tensor, "N outputs H_out W_out"]:
        x = normalize(self.norm, self.conv(x, outputs), gather)
        return F.leaky_relu_(x, _LEAK)


class PatchDiscriminator(nn.Module):
    """A discriminator that gives a logit for each patch."""

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.config = config
        is_pixel, bias = config.kind == "pixel", config.norm != "batch"
        kernel, padding = (1, 0) if is_pixel else (4, 1)
        inputs = config.channels
        self.layers = nn.ModuleList()
        for index, width in enumerate(config.layer_widths):
            stride = 2 if not is_pixel and index < config.num_layers else 1
            norm = config.norm if index else None
            conv = Convolution(inputs, width, kernel, stride=stride, padding=padding, bias=norm is None or bias)
            self.layers.append(_Layer(conv, norm, width))
            inputs = width
        self.out = Convolution(inputs, 1, kernel, padding=padding)

    def forward(
        self, images: Float[Tensor, "N C H W"], *, subnet: Subnet | None = None, gather: Gather | None = None
    ) -> Float[Tensor, "N 1 h w"]:
        """The logits; in the leading channels of each layer with a `subnet`.

        `gather` (`Ranks.gather`) joins the batch statistics of all processes.

        Raises ValueError for pictures with other channels or too small, or a subnet that does not fit.
        """
        config = self.config
        if images.shape[1] != config.channels or min(images.shape[2:]) < config.smallest:
            raise ValueError(
                f"this discriminator judges {config.channels} channels of at least {config.smallest} pixels a side, "
                f"got {tuple(images.shape[1:])}"
            )
        x = images
        for layer, width in zip(self.layers, config.widths_of(subnet), strict=True):
            x = layer(x, width, gather)
        return cast(Tensor, self.out(x))

    def extract(self, subnet: Subnet) -> "PatchDiscriminator":
        """A network of its own that gives what this one gives for `subnet`; torch's random state is left as it was."""
        return leading_network(self, self.config.at(subnet))


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """Settings of the discriminator of MUNIT: `num_scales` nets, each next one on pictures of half the size.

    Each has `num_layers` layers of stride 2 with 1, 2, 4, 8, ... times `width` channels and reflected edges, without
    normalisation. `channels` as in `PatchConfig`.
    """

    channels: int = 3
    width: int = 64
    num_layers: int = 4
    num_scales: int = 3

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("channels", "width", "num_layers", "num_scales"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class PyramidDiscriminator(nn.Module):
    """The discriminator of MUNIT."""

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        self.config = config
        self.scales = nn.ModuleList(self._net(config) for _ in range(config.num_scales))

    @staticmethod
    def _net(config: PyramidConfig) -> nn.ModuleList:
        widths = (config.channels, *(config.width << step for step in range(config.num_layers)))
        layers: list[nn.Module] = [
            _Layer(Convolution(inputs, outputs, 4, stride=2, padding=1, reflect=True), None, outputs)
            for inputs, outputs in itertools.pairwise(widths)
        ]
        return nn.ModuleList([*layers, Convolution(widths[-1], 1, 1)])

    def forward(self, images: Float[Tensor, "N C H W"]) -> list[list[Float[Tensor, "N C_map h w"]]]:
        """For each scale, the largest first, the maps of its layers and at last the logits."""
        everything = []
        for index, net in enumerate(self.scales):
            if index:
                images = F.avg_pool2d(images, 3, 2, 1, count_include_pad=False)
            maps, x = [], images
            for layer in cast(nn.ModuleList, net):
                x = layer(x)
                maps.append(x)
            everything.append(maps)
        return everything
