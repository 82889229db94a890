"""Perceptual distance in the form of LPIPS over a trunk of ours.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", equation 1: features at
several depths, scaled to unit length at every position; squared differences, weighted by channel; mean over positions;
sum over depths. Their calibrated distance needs their trunk. Over HED's trunk, a VGG16 trained further for edges, the
numbers are of the same kind but not the same, hence the name "HED-LPIPS".
"""

from importlib import metadata
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frugan.features.extractor import FeatureExtractor, fitting, read_state
from frugan.features.hed import TRUNK_TAPS, open_hed

_EPSILON = 1e-10


class PerceptualDistance(nn.Module):
    """The LPIPS form over a trunk's taps: weighted by `heads`, one non-negative weight a channel, or unweighted.

    `name` is for reports: "HED-LPIPS" for weighted HED, "HED-LPIPS (unweighted)" without heads.
    """

    def __init__(
        self, trunk: FeatureExtractor, taps: tuple[str, ...] = TRUNK_TAPS, heads: tuple[Tensor, ...] | None = None
    ) -> None:
        super().__init__()
        if heads is not None and len(heads) != len(taps):
            raise ValueError(f"there must be one head for each of {len(taps)} taps, got {len(heads)}")
        self.trunk = trunk
        self.taps = taps
        self.name = f"{trunk.name.upper()}-LPIPS" + ("" if heads is not None else " (unweighted)")
        for index, head in enumerate(heads or ()):
            self.register_buffer(f"head{index}", head.detach().reshape(1, -1, 1, 1).float(), persistent=False)
        self.is_weighted = heads is not None

    def embed(self, images: Float[Tensor, "N 3 H W"]) -> tuple[Tensor, ...]:
        """The maps of unit length of RGB pictures in [0, 255], to be compared; keep them for a fixed target."""
        maps = self.trunk(images, self.taps)
        return tuple(_unit(maps[tap]) for tap in self.taps)

    def compare(self, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Float[Tensor, " N"]:
        """The distances of pictures already embedded."""
        total: Tensor | float = 0.0
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            squares = (a - b).square()
            if self.is_weighted:
                head = self.get_buffer(f"head{index}")
                if head.shape[1] != squares.shape[1]:
                    widths = f"{squares.shape[1]} channels, got {head.shape[1]}"
                    raise ValueError(f"the head of {self.taps[index]} must have {widths}")
                squares = squares * head
            total = total + squares.sum(dim=1).mean(dim=(1, 2))
        return torch.as_tensor(total)

    def forward(self, first: Float[Tensor, "N 3 H W"], second: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
        """The distance of each pair of RGB pictures in [0, 255] of one size; 0 for equal ones; differentiable.

        The authors compare at 256 pixels and below: shrink larger pictures first.
        """
        both = self.embed(torch.cat([first, second]))
        count = len(first)
        return self.compare(tuple(maps[:count] for maps in both), tuple(maps[count:] for maps in both))


def _unit(maps: Tensor) -> Tensor:
    # The square root of exactly 0 has no derivative; positions without any response stay 0 and give no gradient.
    norm = maps.square().sum(dim=1, keepdim=True).clamp(min=_EPSILON**2).sqrt()
    return maps / (norm + _EPSILON)


def read_heads(path: Path) -> tuple[Tensor, ...]:
    """The linear heads in a file of the `lpips` package (`weights/v0.1/vgg.pth`), shallow to deep. Or ValueError."""
    state = read_state(path, "LPIPS heads")
    with fitting("LPIPS heads"):
        heads = tuple(state[f"lin{index}.model.1.weight"] for index in range(len(state)))
    if any(head.ndim != 4 or head.shape[0] != 1 or head.shape[2:] != (1, 1) for head in heads):
        raise ValueError(f"these are not LPIPS heads: {path.name} holds other shapes")
    return heads


def open_hed_lpips(weights: Path | None = None, heads: Path | None = None) -> PerceptualDistance:
    """HED-LPIPS: over HED's trunk with the VGG heads of that file or of the installed `lpips` package, else unweighted.

    The package is only read as a file, never imported. Raises ValueError as `open_hed` and `read_heads` do.
    """
    return over_trunk(open_hed(weights), heads)


def over_trunk(trunk: FeatureExtractor, heads: Path | None = None) -> PerceptualDistance:
    """The distance over a trunk that is open already, which has the taps of HED's; heads as for `open_hed_lpips`."""
    path = heads or _installed_heads()
    return PerceptualDistance(trunk, heads=read_heads(path) if path is not None else None)


def _installed_heads() -> Path | None:
    try:
        files = metadata.files("lpips") or []
    except metadata.PackageNotFoundError:
        return None
    found = [file for file in files if file.as_posix().endswith("v0.1/vgg.pth")]
    return Path(str(found[0].locate())) if found else None
