"""Perceptual path length: how much pictures change along small steps between latents."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Distance = Callable[[Float[Tensor, "N 3 H W"], Float[Tensor, "N 3 H W"]], Float[Tensor, " N"]]
"""How far two pictures in [0, 255] are apart, pair by pair; the square of a norm, as LPIPS is."""

_LARGEST_SIDE = 256


@dataclass(frozen=True, kw_only=True)
class PathConfig:
    """Where paths run (`space`), at which points they are looked at, and the length of a step.

    `sampling`: "full" anywhere on the path, "end" at its first point only.
    """

    space: Literal["w", "z"] = "w"
    sampling: Literal["full", "end"] = "end"
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.space not in ("w", "z"):
            raise ValueError(f"space must be 'w' or 'z', got {self.space!r}")
        if self.sampling not in ("full", "end"):
            raise ValueError(f"sampling must be 'full' or 'end', got {self.sampling!r}")
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon must be between 0 and 1, got {self.epsilon}")


def slerp(a: Float[Tensor, "N D"], b: Float[Tensor, "N D"], t: Float[Tensor, "N 1"]) -> Float[Tensor, "N D"]:
    """The point at `t` on the great circle from the direction of `a` to that of `b`, of length 1.

    Source: Shoemake 1985. Opposite directions have no such circle; a random pair never is.
    """
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    cosine = (a * b).sum(dim=1, keepdim=True)
    aside = b - cosine * a
    aside = aside / aside.norm(dim=1, keepdim=True).clamp(min=1e-12)
    angle = t * cosine.clamp(-1, 1).acos()
    point: Tensor = a * angle.cos() + aside * angle.sin()
    return point


def path_lengths(
    mapping: Callable[[Float[Tensor, "N z_dim"]], Float[Tensor, "N num_ws w_dim"]],
    synthesis: Callable[[Float[Tensor, "N num_ws w_dim"]], Float[Tensor, "N C H W"]],
    distance: Distance,
    z: tuple[Float[Tensor, "N z_dim"], Float[Tensor, "N z_dim"]],
    position: Float[Tensor, " N"],
    config: PathConfig,
) -> Float[Tensor, " N"]:
    """distance(image(t), image(t + epsilon)) / epsilon^2 for each pair of latents, float64.

    The caller draws everything: the latents `z`, `position` uniform in [0, 1) (unused for "end" sampling, where t is
    0), and the noise inside `synthesis`, which must be the same for both pictures of a pair. `synthesis` gives float
    pictures in [-1, 1], not rounded to 256 levels: a step is far smaller than one level. Pictures larger than 256 px
    are averaged down to it. Source: Karras et al. 2019 (StyleGAN), section 4.1; epsilon and both spaces as there.
    The authors' crop to the middle of faces is left out: data sets here need not be faces.
    """
    start = position[:, None] if config.sampling == "full" else torch.zeros_like(position)[:, None]
    points = []
    if config.space == "w":
        ends = mapping(z[0]), mapping(z[1])
        for t in (start, start + config.epsilon):
            points.append(torch.lerp(ends[0], ends[1], t[:, :, None]))
    else:
        for t in (start, start + config.epsilon):
            points.append(mapping(slerp(z[0], z[1], t)))
    first, second = (_as_seen(synthesis(w)) for w in points)
    return distance(first, second).double() / config.epsilon**2


def _as_seen(images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N 3 H2 W2"]:
    """Pictures in [0, 255], three channels, at most 256 px: transparency is laid over white."""
    factor = max(images.shape[-1] // _LARGEST_SIDE, 1)
    seen = torch.nn.functional.avg_pool2d(images.float(), factor) if factor > 1 else images.float()
    seen = (seen + 1) * 127.5
    if seen.shape[1] == 4:
        alpha = seen[:, 3:].clamp(0, 255) / 255
        seen = seen[:, :3] * alpha + 255 * (1 - alpha)
    return seen.expand(-1, 3, -1, -1)


def trimmed_mean(lengths: Float[Tensor, " N"], share: float = 0.01) -> float:
    """The mean without the lowest and highest `share`, as published: a few paths over a jump would decide it else."""
    if len(lengths) == 0:
        raise ValueError("a path length needs at least one pair, got none")
    exact = lengths.double()
    low = exact.quantile(share, interpolation="lower")
    high = exact.quantile(1 - share, interpolation="higher")
    return float(exact[(exact >= low) & (exact <= high)].mean())
