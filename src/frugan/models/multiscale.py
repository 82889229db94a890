"""The discriminator of pix2pixHD and GauGAN: patches are judged at several scales.

Sources: Wang et al. 2018 (pix2pixHD), section 3.2; Park et al. 2019 (SPADE), appendix A.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frugan.ops.elastic import Convolution, InstanceNorm
from frugan.ops.spectral import SpectralConvolution, settle

_SLOPE = 0.2
_GAIN = 0.02
_WIDEST = 8


@dataclass(frozen=True, kw_only=True)
class MultiScaleConfig:
    """Settings of the multi-scale discriminator.

    `channels` counts all that it is given: the maps of the condition and the picture's channels. Each of `num_scales`
    networks, on pictures half as large as the one before, has `num_layers` convolutions with `width`, 2, 4 and then 8
    times as many maps (the last in steps of one pixel), and one that judges. `norm` and `spectral` act on all but the
    first and the last.
    """

    channels: int
    width: int = 64
    num_layers: int = 4
    num_scales: int = 2
    norm: bool = True
    spectral: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, low in {"channels": 1, "width": 1, "num_layers": 2, "num_scales": 1}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")

    @property
    def smallest(self) -> int:
        """The least height and width of what it can judge: the last scale sees two pixels a side."""
        return (1 << (self.num_scales - 1)) + 1


class _Scale(nn.Module):
    """The network of one scale."""

    def __init__(self, config: MultiScaleConfig) -> None:
        super().__init__()
        widths = [config.width * min(1 << layer, _WIDEST) for layer in range(config.num_layers)]
        kind = SpectralConvolution if config.spectral else Convolution
        self.convs = nn.ModuleList([Convolution(config.channels, config.width, 4, stride=2, padding=2)])
        for layer in range(1, config.num_layers):
            stride = 1 if layer == config.num_layers - 1 else 2
            # A bias would go with the mean that the normalisation takes out.
            self.convs.append(kind(widths[layer - 1], widths[layer], 4, stride=stride, padding=2, bias=not config.norm))
        self.out = Convolution(widths[-1], 1, 4, padding=2)
        self.norm = InstanceNorm() if config.norm else None

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, conv in enumerate(self.convs):
            x = conv(x)
            if index and self.norm is not None:
                x = self.norm(x)
            x = F.leaky_relu_(x, _SLOPE)
            maps.append(x)
        return [*maps, self.out(x)]


class MultiScaleDiscriminator(nn.Module):
    """The same network several times, with weights of their own, on pictures of half the size each time."""

    config: MultiScaleConfig

    def __init__(self, config: MultiScaleConfig) -> None:
        super().__init__()
        self.config = config
        self.scales = nn.ModuleList(_Scale(config) for _ in range(config.num_scales))
        for module in self.modules():
            if isinstance(module, Convolution):
                nn.init.xavier_normal_(module.weight, gain=_GAIN)
        settle(self)

    def forward(self, images: Float[Tensor, "N channels H W"]) -> list[list[Float[Tensor, "N _ _ _"]]]:
        """For each scale, the full one first, the maps of every layer; the last are the logits (N, 1, h, w).

        `images` has condition and picture in one, the condition first. Raises ValueError for pictures that are too
        small or have other channels.
        """
        if images.shape[1] != self.config.channels or min(images.shape[2:]) < self.config.smallest:
            allowed = f"{self.config.channels} channels and {self.config.smallest} pixels a side at least"
            raise ValueError(f"images must have {allowed}, got {tuple(images.shape[1:])}")
        found = []
        for index, scale in enumerate(self.scales):
            if index:
                images = F.avg_pool2d(images, 3, 2, 1, count_include_pad=False)
            found.append(scale(images))
        return found
