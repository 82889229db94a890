"""CycleGAN: two translators learn from two sets without pairs, each undoing what the other does."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from frugan.augment import AugmentConfig
from frugan.data.dataset import Dataset
from frugan.model import Model
from frugan.models.patchgan import PatchConfig, PatchDiscriminator
from frugan.training.door import Batch, Draw, Phase, Plan, Shared, Step
from frugan.training.tasks.augmenter import at_work
from frugan.training.tasks.patches import HALF, PatchAdversary, PatchLoss, check_size, computing, distance, pictures
from frugan.training.tasks.terms import at_least
from frugan.training.tasks.translate import (
    TranslatorConfig,
    build_translator,
    small_judge,
    small_translator,
    translator_in,
)


@dataclass(frozen=True, kw_only=True)
class CycleConfig:
    """What is trained against what, and how (Zhu et al. 2017).

    `generator` goes from source to target and `discriminator` judges what it paints; the other direction has networks
    of the same settings, for the other channels. `cycle` is the weight of the way there and back (L1, pixels in
    [-1, 1]). `identity`, as a share of it, that of leaving alone what is of the wanted kind already; None: off.
    Discriminators see, every other time, an earlier picture from a pool of `pool_size`; 0: never. `augment`: wherever
    they look (off in the paper).
    """

    generator: TranslatorConfig
    discriminator: PatchConfig
    loss: PatchLoss = "least_squares"
    adversarial: float = 1.0
    cycle: float = 10.0
    identity: float | None = 0.5
    pool_size: int = 50
    augment: AugmentConfig | None = None

    def __post_init__(self) -> None:
        """Check that the networks fit each other."""
        at_least(self, adversarial=0, cycle=0, pool_size=0)
        generator, discriminator = self.generator, self.discriminator
        if discriminator.channels != generator.channels:
            raise ValueError(
                f"discriminator.channels must be {generator.channels}, those of the pictures, "
                f"got {discriminator.channels}"
            )
        if self.identity is None:
            return
        at_least(self, identity=0)
        if generator.source_channels != generator.channels:
            raise ValueError(
                f"identity needs as many channels in the source as in the target, got {generator.source_channels} and "
                f"{generator.channels}: set task.identity=null, or prepare both alike"
            )

    def fit(self, data: Mapping[str, Dataset]) -> "CycleConfig":
        """The same method for pictures of these channels. Raises ValueError for data it cannot learn from."""
        source, target = pictures(data, "source"), pictures(data, "target")
        check_size(data, self.generator.multiple, self.discriminator.smallest)
        return dataclasses.replace(
            self,
            generator=dataclasses.replace(self.generator, source_channels=source.channels, channels=target.channels),
            discriminator=dataclasses.replace(self.discriminator, channels=target.channels),
        )

    def shrink(self, resolution: int) -> "CycleConfig":
        """The same method with networks for seconds on a CPU and a pool of a few pictures."""
        return dataclasses.replace(
            self,
            generator=small_translator(self.generator, resolution),
            discriminator=small_judge(self.discriminator),
            pool_size=min(self.pool_size, 6),
            augment=at_work(self.augment),
        )

    def build(self, data: Mapping[str, Dataset], batch: int) -> "CycleTask":
        """The task on these pictures; the networks are initialised from torch's global generator."""
        return CycleTask(self, batch)


class Direction(NamedTuple):
    """One way of the cycle, by the names of networks and streams."""

    translator: str
    back: str
    judge: str
    source: str
    target: str


THERE = Direction("generator", "reverse", "discriminator", "source", "target")
BACK = Direction("reverse", "generator", "reverse_discriminator", "target", "source")


class Kept(NamedTuple):
    """What a pool holds, and the place that each picture of the global batch goes to."""

    pictures: Tensor
    places: Tensor


class Pool:
    """Pictures that were painted earlier, the same ones on all ranks.

    Until it is full it takes every new picture and shows it as well. From then on each new picture is, by equal
    chances, shown itself, or takes the place of an old one that is shown instead. Deviation for batches of more than
    one picture: shown is what was there before the batch.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.pictures = torch.zeros(0)

    def decide(self, draw: Shared, batch: int) -> Tensor:
        """The place that each picture of the global batch goes to, and -1 for those that do not: (batch,) int64."""
        places = []
        for number in range(len(self.pictures), len(self.pictures) + batch):
            changes, place = draw.uniform() < 0.5, draw.integer(0, max(self.size, 1))
            places.append(number if number < self.size else place if changes and self.size else -1)
        return torch.tensor(places)

    def take(self, images: Float[Tensor, "N C H W"], places: Tensor) -> None:
        """Put the pictures of the global batch where they go."""
        count, numbers = len(self.pictures), places.tolist()
        if max(numbers) >= count:
            fresh = images.new_zeros(max(numbers) + 1 - count, *images.shape[1:])
            self.pictures = torch.cat([self.pictures.to(images).reshape(count, *images.shape[1:]), fresh])
        for image, place in zip(images, numbers, strict=True):
            if place >= 0:
                self.pictures[place] = image


def shown(
    images: Float[Tensor, "n C H W"], places: Int64[Tensor, " n"], old: Float[Tensor, "kept ..."]
) -> Float[Tensor, "n C H W"]:
    """What the discriminator sees of new pictures that go to these places of a pool: the old ones there, or the new."""
    if not len(old):
        return images
    is_old = (places >= 0) & (places < len(old))
    return torch.where(is_old[:, None, None, None], old.to(images)[places.clamp(0, len(old) - 1)], images)


class CycleTask(PatchAdversary):
    """Trains `generator` (source to target), `reverse` (back), `discriminator` (of the target's kind) and
    `reverse_discriminator` (of the source's kind) on the streams `source` and `target`.

    As in the authors' code both translators step together, then both discriminators.
    """

    ema: tuple[str, ...] = ("generator", "reverse")

    def __init__(self, config: CycleConfig, batch: int) -> None:
        super().__init__(config)
        self.config = config
        generator, judge = config.generator, config.discriminator
        reverse = dataclasses.replace(generator, source_channels=generator.channels, channels=generator.source_channels)
        self.nets: dict[str, nn.Module] = {
            "generator": build_translator(generator),
            "reverse": build_translator(reverse),
            "discriminator": PatchDiscriminator(judge),
            "reverse_discriminator": PatchDiscriminator(dataclasses.replace(judge, channels=generator.source_channels)),
        }
        self.frozen: dict[str, nn.Module] = {}
        self._pools = {way.translator: Pool(config.pool_size) for way in (THERE, BACK)}
        phases = (
            Phase(name="generators", nets=("generator", "reverse"), optimiser="generator"),
            Phase(name="discriminators", nets=("discriminator", "reverse_discriminator"), optimiser="discriminator"),
        )
        self._plan = Plan(phases=phases, batch=batch)

    def plan(self, images_seen: int) -> Plan:
        """The same at all times."""
        return self._plan

    def begin(self, step: Step, draw: Shared) -> None:
        """What is in the pools, and where this iteration's pictures go in them."""
        for name, pool in self._pools.items():
            pool.pictures = pool.pictures.to(step.ranks.device)
            places = pool.decide(draw, step.plan.batch).to(step.ranks.device, non_blocking=True)
            step.shared[name] = Kept(pool.pictures, places)

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Float[Tensor, "..."]]]:
        """The losses of one phase, each sample's own, one direction after the other."""
        for way in (THERE, BACK):
            source, target = batch[way.source].images, batch[way.target].images
            if phase.name == "generators":
                yield self._translator_losses(way, step, draw, source, target)
            else:
                yield self._judge_losses(way, step, draw, source, target)

    def _translator_losses(
        self, way: Direction, step: Step, draw: Draw, source: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        config, name = self.config, way.translator
        fakes = self._paint(way.translator, source, step, draw)
        step.cache[name] = fakes.detach()
        opinion = self.judge(self.nets[way.judge], (fakes,), "g_fake", step, draw)
        returned = self._paint(way.back, fakes, step, draw)
        terms = {
            f"{name}_adversarial": config.adversarial * self.convince(opinion),
            f"{name}_cycle": config.cycle * distance(returned, source),
        }
        if config.identity:
            same = self._paint(way.translator, target, step, draw)
            terms[f"{name}_identity"] = config.cycle * config.identity * distance(same, target)
        return terms

    def _judge_losses(
        self, way: Direction, step: Step, draw: Draw, source: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        if way.translator not in step.cache:  # memory ran out since they were painted
            with torch.no_grad():
                step.cache[way.translator] = self._paint(way.translator, source, step, draw)
        kept: Kept = step.shared[way.translator]
        seen = shown(step.cache[way.translator], kept.places[draw.share.slice], kept.pictures)
        of_reals = self.judge(self.nets[way.judge], (target,), "d_real", step, draw)
        of_fakes = self.judge(self.nets[way.judge], (seen,), "d_fake", step, draw)
        return {way.judge: HALF * self.tell_apart(step, of_reals, of_fakes, draw)}

    def _paint(self, name: str, source: Tensor, step: Step, draw: Draw) -> Tensor:
        with computing(step):
            painted: Tensor = self.nets[name](source, draw=draw.uniform)
        return painted.float()

    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Put the pictures of the whole batch into the pools, and move ADA's probability."""
        super().end(step, stats)
        for name, pool in self._pools.items():
            if pool.size:
                pool.take(step.collect(name), step.shared[name].places)

    def eval_model(self, ema: Mapping[str, nn.Module], images_seen: int) -> Model:
        """Both averaged translators with the discriminator of the target's kind as it is."""
        reverse = translator_in(ema, "reverse")
        return Model(translator_in(ema, "generator"), self.nets["discriminator"], reverse=reverse)

    def state_dict(self) -> dict[str, Tensor]:
        """The pools, and where ADA stands."""
        pools = {f"pool.{name}": pool.pictures for name, pool in self._pools.items() if len(pool.pictures)}
        return pools | super().state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        super().load_state_dict(state)
        for name, pool in self._pools.items():
            pool.pictures = state.get(f"pool.{name}", torch.zeros(0)).cpu().clone()
