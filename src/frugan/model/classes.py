"""What a model does class by class: the average styles of one, and classes as often as a set had them."""

import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from frugan.models.stylegan2 import Generator

TruncateTo = Literal["all", "class"]
"""Towards the one average that training kept over all classes, or towards the average of the picture's own class."""

LATENTS = 4096
_CHUNK = 1024


def class_centre(net: Generator, label: Float[Tensor, "1 num_classes"]) -> Float[Tensor, " w_dim"]:
    """The mean w of a class over `LATENTS` latents: always the same ones, for every class."""
    device, total = label.device, torch.zeros(net.config.w_dim, dtype=torch.float64, device=label.device)
    with torch.inference_mode():
        for z in _latents(net.config.z_dim).split(_CHUNK):
            w = net.codes(z.to(device), label.expand(len(z), -1))[:, 0]
            total += w.double().sum(dim=0)
    return (total / LATENTS).float()


@functools.lru_cache(maxsize=4)
def _latents(z_dim: int) -> Float[Tensor, "N z_dim"]:
    return torch.from_numpy(np.random.RandomState(0).randn(LATENTS, z_dim)).float()


def draw_towards(
    centres: Float[Tensor, "N w_dim"], w: Float[Tensor, "N num_ws w_dim"], psi: float | int, cutoff: int | None
) -> Float[Tensor, "N num_ws w_dim"]:
    """centre + psi (w - centre), each row towards its own centre, in all layers or the first `cutoff`."""
    moved = centres[:, None].lerp(w, psi)
    return moved if cutoff is None else torch.cat([moved[:, :cutoff], w[:, cutoff:]], dim=1)


def classes_as_in(counts: Sequence[int], seeds: Sequence[int]) -> list[int]:
    """A class for each seed, drawn as often as `counts` says; a seed has the same class wherever it stands.

    Raises ValueError where there is nothing to draw from.
    """
    if not any(counts):
        raise ValueError("classes cannot be drawn as often as in a set that has no pictures of them")
    ends = np.cumsum(np.asarray(counts, dtype=np.float64)) / sum(counts)
    places = [np.random.Generator(np.random.Philox(key=np.array([seed, 1], np.uint64))).random() for seed in seeds]
    return [int(place) for place in np.searchsorted(ends, places, side="right")]
