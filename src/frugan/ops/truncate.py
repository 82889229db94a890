"""The truncation trick for latents: normal numbers mapped to a normal distribution whose far ends are cut off.

Source: Brock et al. 2019 (BigGAN), section 3.1, who draw again until a number is small enough. Here it is a map, by the
inverse of the distribution function, so that the same normal numbers give the same picture at every strength.
"""

import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor

_HALVINGS = 100


def uniform(z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The share of the normal distribution below each number: uniform in [0, 1] for normal numbers."""
    share: Tensor = torch.special.ndtr(z)
    return share


def truncated_normal(z: Float[Tensor, "..."], psi: float | int) -> Float[Tensor, "..."]:
    """Normal numbers without the far ends: of deviation `psi`, limited to +-`threshold(psi)`; at 1 as they are.

    Raises ValueError for a psi outside [0, 1].
    """
    if not 0 <= psi <= 1:
        raise ValueError(f"psi must be in [0, 1], got {psi}")
    if psi == 1:
        return z
    if psi == 0:
        return torch.zeros_like(z)
    limit = threshold(float(psi))
    tail = 0.5 * math.erfc(limit / math.sqrt(2))
    # In float64 and on the lower half, where numbers far out keep their digits.
    wide = z.double()
    low = torch.special.ndtr(-wide.abs()) * (1 - 2 * tail) + tail
    far: Tensor = -torch.special.ndtri(low)
    return far.copysign(wide).to(z.dtype)


@functools.cache
def threshold(psi: float) -> float:
    """Where a normal distribution is cut on both sides to have the deviation `psi`, in (0, 1).

    BigGAN's thresholds 2, 1 and 0.5 are psi 0.88, 0.54 and 0.28.
    """
    low, high = 0.0, 40.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _deviation(middle) < psi else (low, middle)
    return high


def _deviation(limit: float) -> float:
    """That of a normal distribution cut at +-`limit`."""
    if limit < 1e-3:
        return limit / math.sqrt(3)  # the difference below would have no digits left
    density = math.exp(-0.5 * limit * limit) / math.sqrt(2 * math.pi)
    return math.sqrt(max(1 - 2 * limit * density / math.erf(limit / math.sqrt(2)), 0.0))
