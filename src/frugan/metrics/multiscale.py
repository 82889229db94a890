"""Distances between sets of pictures that need no network: sliced Wasserstein distances of pixels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor


def sliced_distance(
    a: Float[Tensor, "N D"], b: Float[Tensor, "N D"], directions: Float[Tensor, "D K"]
) -> Float[Tensor, ""]:
    """The sliced Wasserstein-1 distance of two equally large sets: sorted projections, mean absolute difference.

    `directions` are unit vectors, drawn by the caller. Source: ProGAN (Karras et al. 2018), section 5.
    Raises ValueError for sets of different sizes.
    """
    if a.shape != b.shape:
        raise ValueError(f"the two sets must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return (torch.sort(a @ directions, dim=0).values - torch.sort(b @ directions, dim=0).values).abs().mean()


def unit_directions(dimensions: int, count: int, generator: torch.Generator) -> Float[Tensor, "D K"]:
    """Random directions, uniform on the sphere."""
    return F.normalize(torch.randn(dimensions, count, generator=generator), dim=0)


def pixel_features(images: UInt8[Tensor, "N C H W"], side: int = 16) -> Float[Tensor, "N D"]:
    """Pictures averaged down to `side` x `side` pixels in [0, 1], one row each."""
    small = F.adaptive_avg_pool2d(images.float() / 255, min(side, images.shape[-1]))
    return small.flatten(1)


def pixel_swd(
    real_images: UInt8[Tensor, "N C H W"],
    fake_images: UInt8[Tensor, "N C H W"],
    generator: torch.Generator,
    num_directions: int = 256,
) -> float:
    """1000 times the sliced distance of the two sets seen at 16 x 16 pixels: cheap, rough, lower is better.

    It sees colours, layout and variety, not detail; it is no substitute for KID and never called so.
    """
    real, fake = pixel_features(real_images), pixel_features(fake_images)
    directions = unit_directions(real.shape[1], num_directions, generator)
    return 1000 * float(sliced_distance(real, fake, directions))


def spread(images: UInt8[Tensor, "N C H W"]) -> float:
    """How much pictures differ from one another: the standard deviation over the set, at 16 x 16 pixels, averaged."""
    return float(pixel_features(images).std(dim=0, correction=0).mean())
