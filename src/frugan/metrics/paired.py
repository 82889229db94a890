"""Distances between pictures that belong together: what was made of a source, and what should have come out."""

from jaxtyping import Float, UInt8
from torch import Tensor

from frugan.metrics.distribution import Estimate


def pixel_distances(first: UInt8[Tensor, "N C H W"], second: UInt8[Tensor, "M C2 H2 W2"]) -> Float[Tensor, " N"]:
    """The mean absolute difference of each pair, pixels in [0, 1], float64.

    Raises ValueError for pairs of different sizes or channels.
    """
    if first.shape != second.shape:
        raise ValueError(f"pairs must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    return (first.int() - second.int()).abs().double().flatten(1).mean(dim=1) / 255


def feature_distances(first: Float[Tensor, "N D"], second: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """The Euclidean distance between the features of each pair, float64."""
    return (first.double() - second.double()).square().sum(dim=1).sqrt()


def mean_of(distances: Float[Tensor, " N"]) -> Estimate:
    """The mean and its standard error, which is NaN for a single pair."""
    count = len(distances)
    error = distances.std(correction=1).item() / count**0.5 if count > 1 else float("nan")
    return Estimate(value=distances.double().mean().item(), spread=error)
