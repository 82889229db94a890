"""By which statistics of batches a model is scored, where these are not its own.

What a run gives out normalises by statistics that lie in it, so that a seed is a picture at any batch size. Published
scores are sometimes by others: standing ones made anew, or those of the pictures that are drawn together. Such a model
is made here, for a score alone.
"""

import copy
import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from frugan.evaluation.protocol import CLASSES, PATHS
from frugan.model import Model
from frugan.models.biggan import BigGANConfig, BigGANGenerator
from frugan.models.generator import Borrowing, Noise
from frugan.models.standing import StandingStatistics, stand
from frugan.models.subnet import Subnet
from frugan.ops.normalize import Pooling

_OF_SINGLE = ("nn", CLASSES, *PATHS)


@dataclass(frozen=True, kw_only=True)
class BatchStatistics:
    """Those of the `batch` pictures that are drawn together, seed after seed: each depends on those beside it."""

    batch: int = 50

    def __post_init__(self) -> None:
        """Check the range."""
        if self.batch < 2:
            raise ValueError(f"statistics of a batch need at least 2 pictures, got {self.batch}")

    @property
    def text(self) -> str:
        """In words."""
        return f"batch: of each {self.batch} pictures drawn together, so that a picture depends on those beside it"


class Together(Borrowing):
    """A generator that draws `batch` pictures at once, by their own statistics, and no other number of them."""

    family: ClassVar[str] = BigGANGenerator.family
    config: BigGANConfig

    def __init__(self, generator: BigGANGenerator, batch: int) -> None:
        super().__init__()
        self.config, self.generator, self.batch = generator.config, generator, batch

    @property
    def lender(self) -> BigGANGenerator:
        """The generator."""
        return self.generator

    def pictures(
        self,
        codes: Float[Tensor, "N code"],
        *,
        noise: Noise = "const",
        subnet: Subnet | None = None,
        resolution: int | None = None,
        alpha: float | int = 1.0,
    ) -> Float[Tensor, "N channels H W"]:
        """Pictures by their own statistics. Raises ValueError for another number than `batch`, or another size."""
        if len(codes) != self.batch:
            raise ValueError(f"by statistics of a batch {self.batch} pictures are drawn at once, got {len(codes)}")
        if subnet is not None or alpha != 1 or resolution not in (None, self.config.resolution):
            raise ValueError(f"by statistics of a batch a {self.family} generator draws whole pictures only")
        return self.generator.draw(codes, pooling=Pooling(momentum=0.0))

    def at_resolution(self, resolution: int) -> "Together":
        """A copy of its own. Raises ValueError for another resolution than its own."""
        return Together(self.generator.at_resolution(resolution), self.batch)


def normalised_by(model: Model, statistics: StandingStatistics | BatchStatistics) -> Model:
    """A model of its own that draws by these statistics; `info["statistics"]` says which.

    Raises ValueError for a family without statistics of batches.
    """
    generator = model.generator
    if not isinstance(generator, BigGANGenerator):
        raise ValueError(f"a {model.family} model has no statistics of batches to choose: leave the statistics out")
    info = {**model.info, "statistics": f"{statistics.text}; for this score, of model {model.hash}"}
    if isinstance(statistics, BatchStatistics):
        return dataclasses.replace(model, generator=Together(generator, statistics.batch).eval(), info=info)
    anew = copy.deepcopy(generator)
    stand(anew, statistics)
    return dataclasses.replace(model, generator=anew, info=info)


def check_statistics(model: Model, metrics: tuple[str, ...], count: int) -> None:
    """Raise ValueError where a model draws whole batches only, and `count` is none or a score is of single pictures."""
    if not isinstance(model.generator, Together):
        return
    batch, single = model.generator.batch, [name for name in metrics if name in _OF_SINGLE]
    if single:
        raise ValueError(f"{single[0]} is of single pictures, which have no statistics of a batch: leave it out")
    if count % batch:
        near = " or ".join(f"{number * batch:,}" for number in (count // batch, count // batch + 1) if number)
        raise ValueError(f"statistics of {batch} pictures need whole batches: ask for {near} pictures, got {count:,}")
