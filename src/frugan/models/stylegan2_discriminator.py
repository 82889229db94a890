"""StyleGAN2's discriminator. Sources, and whose names its weights have, as in `models.stylegan2`."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frugan.models.generator import check_labels, check_widths
from frugan.models.heads import Head, HeadConfig, Verdict, check_head
from frugan.models.mapping import Labels, MappingNetwork
from frugan.models.stylegan2 import ROOT_HALF, Architecture, SharedConfig
from frugan.ops.convolution import in_dtype
from frugan.ops.equalized import EqualizedConv2d, EqualizedLinear
from frugan.ops.normalize import minibatch_stddev
from frugan.ops.resample import Fir, downsample2d


@dataclass(frozen=True, kw_only=True)
class StyleGAN2DiscriminatorConfig(SharedConfig):
    """Settings of the discriminator.

    `widths`: of the blocks at 4, 8, ... up to the resolution. `stddev_group` None takes the whole batch as one group;
    `stddev_features` 0 leaves the minibatch deviation out. `head` None: one logit, with StyleGAN2-ADA's own projection
    where there are classes, whose label is mapped as the mapping settings say; with a head the network ends in that
    one, after the layer that sees all of the 4x4 pixels.
    """

    architecture: Architecture = "resnet"
    stddev_group: int | None = 4
    stddev_features: int = 1
    head: HeadConfig | None = None

    def __post_init__(self) -> None:
        """Check the ranges and the head."""
        super().__post_init__()
        check_widths(self.widths, len(self.resolutions))
        check_head(self.head, self.num_classes)
        if self.stddev_group is not None and self.stddev_group < 1:
            raise ValueError(f"stddev_group must be at least 1 or None, got {self.stddev_group}")
        if self.stddev_features < 0 or (self.stddev_features and self.width(4) % self.stddev_features):
            raise ValueError(f"stddev_features must divide the {self.width(4)} channels, got {self.stddev_features}")

    def width(self, resolution: int) -> int:
        """The channels of the feature maps at a resolution."""
        if self.widths is not None:
            return self.widths[self.resolutions.index(resolution)]
        return min(self.channel_base // resolution, self.channel_max)


class DiscriminatorBlock(nn.Module):
    """From features, and the image where this block reads it, at one resolution to features at half of it."""

    def __init__(self, config: StyleGAN2DiscriminatorConfig, resolution: int) -> None:
        super().__init__()
        here, below = config.width(resolution), config.width(resolution // 2)
        fir = Fir(config.resample_filter)
        self.reads_image = resolution == config.resolution or config.architecture == "skip"
        self.has_skip = config.architecture == "resnet"
        clamp = config.conv_clamp
        if self.reads_image:
            self.fromrgb = EqualizedConv2d(config.channels, here, 1, fir=fir, activation="lrelu", clamp=clamp)
        self.conv0 = EqualizedConv2d(here, here, 3, fir=fir, activation="lrelu", clamp=clamp)
        self.conv1 = EqualizedConv2d(here, below, 3, fir=fir, activation="lrelu", down=2, clamp=clamp)
        if self.has_skip:
            self.skip = EqualizedConv2d(here, below, 1, fir=fir, bias=False, down=2)

    def forward(
        self, x: Float[Tensor, "N C H W"] | None, image: Float[Tensor, "N channels H W"] | None, dtype: torch.dtype
    ) -> Float[Tensor, "N C_out H_out W_out"]:
        """The features at half the resolution, in `dtype`."""
        x = None if x is None else in_dtype(x, dtype)
        if image is not None:
            y = self.fromrgb(in_dtype(image, dtype))
            x = y if x is None else x + y
        if self.has_skip:
            y = self.skip(x, ROOT_HALF)
            return cast(Tensor, y + self.conv1(self.conv0(x), ROOT_HALF))
        return cast(Tensor, self.conv1(self.conv0(x)))


class DiscriminatorEpilogue(nn.Module):
    """From 4x4 features to one number, one vector for the label projection, or a head's features; always float32."""

    def __init__(self, config: StyleGAN2DiscriminatorConfig) -> None:
        super().__init__()
        width = config.width(4)
        fir = Fir(config.resample_filter)
        self.group = config.stddev_group
        self.features = config.stddev_features
        self.reads_image = config.architecture == "skip" or config.resolution == 4
        if self.reads_image:
            self.fromrgb = EqualizedConv2d(config.channels, width, 1, fir=fir, activation="lrelu")
        self.conv = EqualizedConv2d(
            width + self.features, width, 3, fir=fir, activation="lrelu", clamp=config.conv_clamp
        )
        self.fc = EqualizedLinear(width * 16, width, activation="lrelu")
        self.out = EqualizedLinear(width, width if config.num_classes else 1) if config.head is None else None

    def forward(
        self, x: Float[Tensor, "N C 4 4"] | None, image: Float[Tensor, "N channels 4 4"] | None
    ) -> Float[Tensor, "N features"]:
        """The output of the last layer."""
        if image is not None:
            y = self.fromrgb(image)
            x = y if x is None else x + y
        if self.features and x is not None:
            x = minibatch_stddev(x, self.group, self.features)
        features = self.fc(self.conv(x).flatten(1))
        return cast(Tensor, features if self.out is None else self.out(features))


class Discriminator(nn.Module):
    """The StyleGAN2 discriminator, with a projection of the label where there are classes, or any `Head`."""

    def __init__(self, config: StyleGAN2DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        for resolution in config.resolutions[:0:-1]:
            self.add_module(f"b{resolution}", DiscriminatorBlock(config, resolution))
        self.b4 = DiscriminatorEpilogue(config)
        width = config.width(4)
        self.head = None
        if config.head is not None:
            self.head = Head(config.head, features=width, num_classes=config.num_classes, layers="equalized")
        elif config.num_classes:
            self.mapping = MappingNetwork(
                z_dim=0,
                w_dim=width,
                num_classes=config.num_classes,
                num_layers=config.mapping_layers,
                lr_multiplier=config.mapping_lr_multiplier,
                num_ws=None,
            )
        self.fir = Fir(config.resample_filter)

    def forward(
        self,
        images: Float[Tensor, "N channels H W"],
        labels: Labels | None = None,
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, " N"] | Verdict:
        """Logits: how real each image looks, higher is more real; float32. With a head a `Verdict`.

        `dtype` is that of the highest `num_half_resolutions` resolutions (None: float32 throughout).
        Raises ValueError for images of another size and for labels where there are no classes, or the reverse.
        """
        config = self.config
        if images.shape[1:] != (config.channels, config.resolution, config.resolution):
            expected = (config.channels, config.resolution, config.resolution)
            raise ValueError(f"images must be {expected} each, got {tuple(images.shape[1:])}")
        if self.head is None:
            check_labels(labels, config.num_classes)
        half_from = 2 * config.resolution >> config.num_half_resolutions
        x: Tensor | None = None
        image: Tensor | None = images
        for resolution in config.resolutions[:0:-1]:
            use = (
                dtype if dtype is not None and config.num_half_resolutions and resolution >= half_from else images.dtype
            )
            x = self.get_submodule(f"b{resolution}")(x, image, use)
            image = downsample2d(image, self.fir) if image is not None and config.architecture == "skip" else None
        features = self.b4(None if x is None else in_dtype(x, images.dtype), image)
        if self.head is not None:
            return cast(Verdict, self.head(features, labels))
        if not config.num_classes:
            return cast(Tensor, features[:, 0])
        code = self.mapping.features(None, labels)
        return cast(Tensor, (features * code).sum(dim=1) * (1 / math.sqrt(code.shape[1])))
