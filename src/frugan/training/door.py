"""The door between the loop, which owns time, and a task, which owns meaning.

A task says what is trained (`nets`), when (`plan`) and with which losses; it never sees a device count, a file or a
clock. The loop asks it, per iteration: `plan`, `begin`, then for each due phase and micro-batch `losses`, then `end`.

Randomness is a function of (seed, iteration, phase, repeat, number of the draw): nothing needs to be saved to resume,
and because every draw is made for the global batch and sliced, one process and several see the same numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from frugan.model import Model
from frugan.ops.keyed import seeded
from frugan.training.ranks import Ranks

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One backward pass with one optimiser step.

    `nets` are trained by it and `optimiser` names the optimiser that holds them. It runs in every `every`-th iteration,
    `repeats` times in a row with new pictures and new draws each time. With `step_with` set to the name of a later
    phase its gradients are computed now and its optimiser steps together with that phase's: both then see the same
    weights. `fraction` is the share of the batch it works on; `fresh` asks for new real pictures instead of those of
    the phase before. `through` names nets that this phase does not train, but whose graph a later phase needs, because
    it goes back through tensors that this one puts into the cache.
    """

    name: str
    nets: tuple[str, ...]
    optimiser: str
    every: int = 1
    repeats: int = 1
    step_with: str | None = None
    fraction: float = 1.0
    fresh: bool = False
    through: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What holds for one iteration: a pure function of the images seen so far.

    `batch` is the global batch. For an optimiser of that name, `lr_scale` multiplies its learning rate and
    `beta_power` is the exponent on its betas (lazy regularisation, schedules). Adam's moments restart whenever
    `reset_moments` differs from the iteration before, and no snapshot of then competes with those of now.
    `snapshot_images` is the time between two snapshots where it is
    not the recipe's. `progress` is shown and logged.
    """

    phases: tuple[Phase, ...]
    batch: int
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    beta_power: Mapping[str, float] = field(default_factory=dict)
    reset_moments: int = 0
    snapshot_images: int | None = None
    progress: Mapping[str, float] = field(default_factory=dict)

    def groups(self) -> list[tuple[Phase, ...]]:
        """The phases in order, those that step together in one tuple."""
        groups: list[list[Phase]] = []
        waiting: str | None = None
        for phase in self.phases:
            if waiting is None:
                groups.append([])
            groups[-1].append(phase)
            waiting = phase.step_with or (None if waiting == phase.name else waiting)
        if waiting is not None:
            raise ValueError(f"step_with must name a later phase, got {waiting!r}")
        return [tuple(group) for group in groups]


@dataclass(frozen=True)
class Share:
    """Which samples of a global batch this rank and micro-batch work on: `offset`, `offset + stride`, ..."""

    total: int
    offset: int = 0
    stride: int = 1

    @property
    def slice(self) -> slice:
        """The indices into anything made for the global batch."""
        return slice(self.offset, self.total, self.stride)

    @property
    def count(self) -> int:
        """How many samples that is."""
        return len(range(self.offset, self.total, self.stride))


class Draw:
    """Random numbers for one phase: `normal(3)` gives this rank's and micro-batch's rows of (global batch, 3)."""

    def __init__(self, key: tuple[int | str, ...], device: torch.device, share: Share) -> None:
        self.share, self.device = share, device
        self.shared = Shared((*key, "shared"))
        self._key, self._count = key, 0

    def _next(self) -> torch.Generator:
        self._count += 1
        return seeded(self.device, *self._key, self._count)

    def normal(self, *shape: int) -> Tensor:
        """(n, *shape) independent standard normal numbers."""
        full = torch.randn((self.share.total, *shape), generator=self._next(), device=self.device)
        return full[self.share.slice]

    def uniform(self, *shape: int) -> Tensor:
        """(n, *shape) independent numbers in [0, 1)."""
        full = torch.rand((self.share.total, *shape), generator=self._next(), device=self.device)
        return full[self.share.slice]

    def integers(self, low: int, high: int, *shape: int) -> Int64[Tensor, "n ..."]:
        """(n, *shape) independent whole numbers in [low, high)."""
        full = torch.randint(low, high, (self.share.total, *shape), generator=self._next(), device=self.device)
        return full[self.share.slice]

    def number(self, read: "Callable[[Shared], float]") -> Float64[Tensor, ""]:
        """A number that the host knows, on the device, equal on all ranks; of `self.shared` or what the task remembers.

        `read` is called anew whenever the phase runs, also where its operations are played from a recording: it may
        look at nothing that belongs to this iteration.
        """
        return torch.full((), read(self.shared), dtype=torch.float64, device=self.device)

    def decide(self, read: "Callable[[Shared], T]") -> T:
        """A choice that the course of the phase depends on; `read` as above. Each answer is recorded on its own."""
        return read(self.shared)


class Shared:
    """Random choices that are equal on all ranks and micro-batches (a subnet, a resolution, a mixing layer)."""

    def __init__(self, key: tuple[int | str, ...]) -> None:
        self._key, self._count = key, 0

    def _next(self) -> torch.Generator:
        self._count += 1
        return seeded(torch.device("cpu"), *self._key, self._count)

    def again(self) -> "Shared":
        """The same choices from the first on."""
        return Shared(self._key)

    def uniform(self) -> float:
        """One number in [0, 1)."""
        return float(torch.rand((), generator=self._next(), dtype=torch.float64))

    def integer(self, low: int, high: int) -> int:
        """One whole number in [low, high)."""
        return int(torch.randint(low, high, (), generator=self._next()))

    def choice(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.integer(0, len(items))]


@dataclass(frozen=True)
class Batch:
    """Real pictures: `images` in [-1, 1], or label maps as stored (uint8), `labels` one-hot or None, `indices` into the
    set.
    """

    images: Float[Tensor, "n C H W"] | UInt8[Tensor, "n C H W"]
    labels: Float[Tensor, "n K"] | None
    indices: Int64[Tensor, " n"]


class Stats:
    """Means over the global batch of whatever a task reports; summed on the device, reduced over ranks once an
    iteration. All ranks count the same rows, as they share every batch equally.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, values: Float[Tensor, "n ..."]) -> None:
        """Count in the rows of `values` (n, ...); the mean over rows comes back from `reduce`."""
        rows = values.detach().float()
        total = rows.sum(dim=0)
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts.get(name, 0) + len(rows)

    def reduce(self, ranks: Ranks) -> dict[str, Tensor]:
        """The means over all ranks, and an empty record again."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        shapes = [self._sums[name].shape for name in names]
        flat = ranks.sum_(torch.cat([self._sums[name].flatten() for name in names]))
        parts = flat.split([shape.numel() for shape in shapes])
        means = torch._foreach_div(parts, [float(self._counts[name] * ranks.world) for name in names])
        self._sums, self._counts = {}, {}
        return {name: mean.reshape(shape) for name, mean, shape in zip(names, means, shapes, strict=True)}

    def copy(self) -> "Stats":
        """The same record, on its own from here on."""
        other = Stats()
        other._sums, other._counts = dict(self._sums), dict(self._counts)
        return other

    def packed(self) -> "PackedStats":
        """All sums in one tensor."""
        sums = list(self._sums.values())
        flat = torch.cat([each.flatten() for each in sums]) if sums else None
        return PackedStats(flat, {name: (each.shape, self._counts[name]) for name, each in self._sums.items()})

    def include(self, packed: "PackedStats") -> None:
        """Count in what another record holds, as it is now."""
        if packed.flat is None:
            return
        parts = packed.flat.clone().split([shape.numel() for shape, _ in packed.rows.values()])
        for (name, (shape, count)), part in zip(packed.rows.items(), parts, strict=True):
            total = part.view(shape)
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._counts[name] = self._counts.get(name, 0) + count


@dataclass(frozen=True)
class PackedStats:
    """Sums side by side, and of each name the shape and how many rows it counts."""

    flat: Float[Tensor, " numbers"] | None
    rows: Mapping[str, tuple[torch.Size, int]]


@dataclass
class Step:
    """One iteration as a task sees it.

    `shared` is what `begin` decided for all ranks; `cache` keeps tensors between the phases of this iteration,
    separately for each micro-batch; `dtype` is the compute type of main phases (None: float32). `phase` is for a task
    to note which one runs. After running out of memory the caches are empty and the micro-batches smaller: a phase
    makes again what it does not find.
    """

    plan: Plan
    images_seen: int
    ranks: Ranks
    stats: Stats
    dtype: torch.dtype | None = None
    shared: dict[str, Any] = field(default_factory=dict)
    caches: dict[int, dict[str, Any]] = field(default_factory=dict)
    micro: int = 0
    phase: str = ""

    @property
    def cache(self) -> dict[str, Any]:
        """What this micro-batch keeps."""
        return self.caches.setdefault(self.micro, {})

    def collect(self, name: str) -> Float[Tensor, "N ..."]:
        """What all ranks and micro-batches have cached under `name`, in the order of the global batch; for `end`."""
        rows = [cache[name] for _, cache in sorted(self.caches.items()) if name in cache]
        return self.ranks.gather(torch.stack(rows, dim=1).flatten(0, 1).contiguous())


@runtime_checkable
class Task(Protocol):
    """What is trained and why.

    `nets` are the networks that phases train, `frozen` those that only help, `ema` the names of nets that are averaged.
    """

    nets: dict[str, nn.Module]
    frozen: dict[str, nn.Module]
    ema: tuple[str, ...]

    def plan(self, images_seen: int) -> Plan:
        """What holds at this point of the training. The plan for 0 names every optimiser and all nets it steps."""
        ...

    def begin(self, step: Step, draw: Shared) -> None:
        """Decide what all ranks and micro-batches share in this iteration (into `step.shared`)."""
        ...

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Float[Tensor, "..."]]]:
        """Yield named losses, (n,) per sample or () for the whole; they are summed, and each yield is one backward
        pass.

        It may run again for the same pictures (out of memory), so it changes nothing but `step.cache` and
        `step.stats`; what the task remembers moves in `end`. On a GPU it need not run at all: its operations may be
        played from a recording of an earlier iteration (see `replay`). All that differs from one iteration to the next
        must then come from `batch`, `draw`, `step.shared`, the plan's `batch` and `progress`, and the nets; numbers
        that the task remembers by `draw.number`, choices by `draw.decide`.
        """
        ...

    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Use the means over the global batch: path-length mean, average latent, augmentation strength.

        It is left out in an iteration of which a step was skipped, as its numbers may not be finite.
        """
        ...

    def eval_model(self, ema: Mapping[str, nn.Module], images_seen: int) -> Model:
        """The trained thing as its users will meet it, after so many images."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything beside the nets that the next iteration depends on."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        ...


@dataclass(frozen=True)
class Published:
    """What a task gives out: networks to store beside those that the training goes on with, by role, such as
    `generator`, and plain facts about them for whoever opens the run.
    """

    nets: Mapping[str, nn.Module]
    info: Mapping[str, str]


@runtime_checkable
class Publisher(Protocol):
    """A task whose trained thing is made anew from what it trains: whoever opens a run is given that.

    `eval_model` gives the model of what is published; who needs both makes it once and asks `as_model`.
    """

    def published(self, ema: Mapping[str, nn.Module]) -> Published:
        """What to give out, made of the averages."""
        ...

    def as_model(self, published: Published) -> Model:
        """The model of it, as `eval_model` gives it."""
        ...
