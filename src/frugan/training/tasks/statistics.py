"""Statistics of batch normalisation in training: noted in a step, moved at its end, and made anew for a trained
generator; the largest singular values of spectral layers.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frugan.models.biggan import BigGANGenerator
from frugan.ops.normalize import Pooling, Standing
from frugan.ops.spectral import Spectral
from frugan.training.door import Stats, seeded
from frugan.training.tasks.terms import at_least


@dataclass(frozen=True, kw_only=True)
class StandingStatistics:
    """Those of `batches` batches of `batch` pictures of random latents and classes, all together (`Standing`).

    The numbers drawn are always the same.
    """

    batches: int = 16
    batch: int = 64

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, batches=1, batch=2)

    @property
    def text(self) -> str:
        """In words."""
        return f"standing: of {self.batches} batches of {self.batch} pictures of random latents and classes together"

    def shrunk(self) -> "StandingStatistics":
        """The same for a training of seconds."""
        return dataclasses.replace(self, batches=min(self.batches, 2), batch=min(self.batch, 8))


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
    for key, (module, buffer) in _running(network).items():
        noted, running = stats.get(f"{name} {key}"), module.get_buffer(buffer)
        if noted is not None:
            running.lerp_(noted.to(running), momentum)


@torch.no_grad()
def stand(generator: BigGANGenerator, config: StandingStatistics) -> None:
    """Give a generator its standing statistics."""
    standing = Standing()
    parameter = next(generator.parameters())
    count = generator.config.num_classes
    for number in range(config.batches):
        random = seeded(torch.device("cpu"), "standing", number)
        z = torch.randn(config.batch, generator.config.z_dim, generator=random)
        labels = None
        if count:
            chosen = torch.randint(count, (config.batch,), generator=random)
            labels = nn.functional.one_hot(chosen, count).to(parameter)
        generator(z.to(parameter), labels, pooling=Pooling(standing=standing))
    standing.store()


@torch.no_grad()
def largest_singular_value(network: nn.Module) -> Tensor | None:
    """The largest of the layers' first singular values, as u and v know them; None without spectral layers."""
    values = [
        torch.dot(layer.u, torch.mv(layer.matrix(), layer.v))
        for layer in network.modules()
        if isinstance(layer, Spectral)
    ]
    return torch.stack(values).max() if values else None
