"""Standing statistics of a trained generator: those of many batches of its pictures together."""

import dataclasses
from dataclasses import dataclass

import torch

from frugan.models.biggan import BigGANGenerator
from frugan.ops.keyed import seeded
from frugan.ops.normalize import Pooling, Standing
from frugan.ops.onehot import one_hot


@dataclass(frozen=True, kw_only=True)
class StandingStatistics:
    """Those of `batches` batches of `batch` pictures of random latents and classes, all together (`Standing`).

    The numbers drawn are always the same.
    """

    batches: int = 16
    batch: int = 64

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, low in (("batches", 1), ("batch", 2)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")

    @property
    def text(self) -> str:
        """In words."""
        return f"standing: of {self.batches} batches of {self.batch} pictures of random latents and classes together"

    def shrunk(self) -> "StandingStatistics":
        """The same for a training of seconds."""
        return dataclasses.replace(self, batches=min(self.batches, 2), batch=min(self.batch, 8))


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
            labels = one_hot(torch.randint(count, (config.batch,), generator=random), count).to(parameter)
        generator(z.to(parameter), labels, pooling=Pooling(standing=standing))
    standing.store()
