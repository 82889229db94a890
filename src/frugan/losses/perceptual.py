"""How far a picture is from another in the eyes of a network: a fixed one, or the discriminator."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from frugan.features.extractor import FeatureExtractor
from frugan.losses.adversarial import at_least_float32

VGG_WEIGHTS = {"relu1_1": 1 / 32, "relu2_1": 1 / 16, "relu3_1": 1 / 8, "relu4_1": 1 / 4, "relu5_1": 1.0}
"""What the maps of VGG19 count in pix2pixHD, GauGAN and GAN Compression."""


def perceptual(
    network: FeatureExtractor,
    images: Float[Tensor, "N 3 H W"],
    targets: Float[Tensor, "N 3 H W"],
    weights: Mapping[str, float] = VGG_WEIGHTS,
) -> Float[Tensor, " N"]:
    """The mean absolute differences of each pair's feature maps, weighted and summed over the taps, in float32.

    Pictures are in [-1, 1]; no gradient flows to `targets`. Sources: Wang et al. 2018 (pix2pixHD), section 3.3; Park et
    al. 2019 (SPADE), appendix A, with VGG19 in its `raw` convention. Raises ValueError for a tap that the network does
    not have, or pictures that differ in size.
    """
    taps = tuple(weights)
    maps = network(_in_pixels(images), taps)
    with torch.no_grad():
        wanted = network(_in_pixels(targets), taps)
    return torch.stack([weight * _distance(maps[tap], wanted[tap]) for tap, weight in weights.items()]).sum(dim=0)


def _in_pixels(images: Tensor) -> Tensor:
    return (images + 1) * 127.5


def feature_matching(
    fakes: Sequence[Sequence[Float[Tensor, "N _ _ _"]]], reals: Sequence[Sequence[Float[Tensor, "N _ _ _"]]]
) -> Float[Tensor, " N"]:
    """The mean absolute differences of each pair's maps in the discriminator, without the last map, in float32.

    They are summed over the layers and averaged over the scales; no gradient flows to those of `reals`.
    Source: Wang et al. 2018 (pix2pixHD), equation 4. Raises ValueError where there is nothing to compare, or maps
    differ in number or shape.
    """
    counts = [len(scale) for scale in fakes], [len(scale) for scale in reals]
    if counts[0] != counts[1] or min(counts[0], default=0) < 2:
        raise ValueError(f"fakes and reals must have as many maps, two or more for each scale, got {counts}")
    return torch.stack(
        [
            torch.stack([_distance(a, b) for a, b in zip(fake[:-1], real[:-1], strict=True)]).sum(dim=0)
            for fake, real in zip(fakes, reals, strict=True)
        ]
    ).mean(dim=0)


def _distance(maps: Tensor, targets: Tensor) -> Float[Tensor, " N"]:
    # Unequal shapes would broadcast into a plausible distance of the wrong maps.
    if maps.shape != targets.shape:
        raise ValueError(f"feature maps must have equal shapes, got {tuple(maps.shape)} and {tuple(targets.shape)}")
    return at_least_float32(maps - targets.detach()).abs().flatten(1).mean(dim=1)
