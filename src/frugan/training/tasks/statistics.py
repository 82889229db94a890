"""Statistics of batch normalisation in training: noted in a step and moved at its end; which ones are given out; the
largest singular values of spectral layers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frugan.models.standing import StandingStatistics
from frugan.ops.spectral import Spectral
from frugan.training.door import Stats


@dataclass(frozen=True, kw_only=True)
class RunningStatistics:
    """Those that moved along in training, or their average over training (`EmaConfig.buffers`)."""

    @property
    def text(self) -> str:
        """In words."""
        return "running: as they moved along in training"

    def shrunk(self) -> "RunningStatistics":
        """The same."""
        return self


StatisticsConfig = StandingStatistics | RunningStatistics


_RUNNING = ("running_mean", "running_var")


def _running(network: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Where the running statistics are, by name: the layer and the buffer's name in it."""
    return {
        f"{path}.{name}": (module, name)
        for path, module in network.named_modules()
        for name, _ in module.named_buffers(recurse=False)
        if name in _RUNNING
    }


@contextmanager
def note_statistics(network: nn.Module, name: str, stats: Stats) -> Iterator[None]:
    """Within it the network must run once, with `Pooling(momentum=1)`: that batch's statistics are counted in.

    Others stand in for the running statistics meanwhile, which stay as they are: a step that is made again counts once,
    as its `stats` do.
    """
    places = _running(network)
    kept = {key: module.get_buffer(buffer) for key, (module, buffer) in places.items()}
    for key, (module, buffer) in places.items():
        setattr(module, buffer, kept[key].clone())
    try:
        yield
        for key, (module, buffer) in places.items():
            stats.add(f"{name} {key}", module.get_buffer(buffer)[None])
    finally:
        for key, (module, buffer) in places.items():
            setattr(module, buffer, kept[key])


@torch.no_grad()
def move_statistics(network: nn.Module, name: str, stats: Mapping[str, Tensor], momentum: float) -> None:
    """Move the running statistics by that share towards the mean of those noted, where there are any."""
    pairs = [
        (module.get_buffer(buffer), stats[f"{name} {key}"])
        for key, (module, buffer) in _running(network).items()
        if f"{name} {key}" in stats
    ]
    if pairs:
        torch._foreach_lerp_(
            [running for running, _ in pairs], [noted.to(running) for running, noted in pairs], momentum
        )


@torch.no_grad()
def largest_singular_value(network: nn.Module) -> Tensor | None:
    """The largest of the layers' first singular values, as u and v know them; None without spectral layers."""
    values = [
        torch.dot(layer.u, torch.mv(layer.matrix(), layer.v))
        for layer in network.modules()
        if isinstance(layer, Spectral)
    ]
    return torch.stack(values).max() if values else None
