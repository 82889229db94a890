"""Phases of a training recorded once and played again: on a GPU one launch instead of thousands.

A phase's losses and their gradients are, by the door's contract, a function of pictures, random numbers, what `begin`
shares, what is cached, and the networks. A recording keeps a tensor for each of these but the networks, which it reads
where they are. To play it, these tensors are filled, the recorded operations run, and gradients, statistics and cached
tensors are handed out. Random numbers are those of a phase that runs itself.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from frugan.training.door import Batch, Draw, PackedStats, Phase, Shared, Stats, Step

T = TypeVar("T")

WARM = 2
"""How often phases run before they are recorded: libraries have then chosen their kernels, constants are in place."""
MOST_RECORDINGS, MOST_KINDS = 4, 64
"""Recordings of one kind of work, by the choices on its way; kinds that are remembered."""


@runtime_checkable
class Graph(Protocol):
    """Operations of a device that are recorded while a block runs, and run when they are played."""

    def record(self) -> AbstractContextManager[object]:
        """The block. Raises RuntimeError for what cannot be recorded."""
        ...

    def play(self) -> None:
        """Run the operations on the tensors that they were recorded with."""
        ...


class CudaGraph:
    """A CUDA graph. Those of one pool share memory: one is played after the other, never two at once."""

    def __init__(self, pool: Any) -> None:
        self._graph, self._pool = torch.cuda.CUDAGraph(), pool

    @contextmanager
    def record(self) -> Iterator[None]:
        """The block; its operations do not run now."""
        with torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode="thread_local"):
            yield

    def play(self) -> None:
        """Run them in the current stream."""
        self._graph.replay()


def cuda_graphs() -> Callable[[], Graph]:
    """What makes CUDA graphs of one pool."""
    pool = torch.cuda.graph_pool_handle()
    return lambda: CudaGraph(pool)


@dataclass(frozen=True)
class Job:
    """One phase on one micro-batch."""

    phase: Phase
    micro: int
    draw: Draw
    batches: Mapping[str, Batch]


Run = Callable[[Step, Job], None]
"""Computes the losses of a job and adds their gradients up."""


class Replays:
    """What of a training has been recorded.

    `graph` makes an empty recording; `tell` hears why recording was given up, after which all work is done without.
    Work that hands tensors with gradients on to later phases is not recorded.
    """

    def __init__(self, graph: Callable[[], Graph], tell: Callable[[str], None]) -> None:
        self._graph, self._tell = graph, tell
        self._kinds: dict[Hashable, _Kind] = {}
        self._is_off = False

    @property
    def count(self) -> int:
        """How many recordings there are."""
        return sum(len(kind.recordings) for kind in self._kinds.values())

    def forget(self) -> None:
        """Drop all recordings: networks or what they work on have changed."""
        self._kinds.clear()

    def run(self, step: Step, jobs: Sequence[Job], parameters: Sequence[Tensor], run: Run) -> None:
        """Do the jobs by `run` or by a recording; all gradients go to `parameters`, which have none yet."""
        kind = None if self._is_off else self._kind(step, jobs)
        recording = None if kind is None else self._fitting(kind, step, jobs, parameters, run)
        if recording is None:
            for job in jobs:
                run(step, job)
        else:
            recording.play(step, jobs)

    def _kind(self, step: Step, jobs: Sequence[Job]) -> "_Kind | None":
        """What is known of such work; None where it cannot be recorded."""
        found = [*_leaves(step.shared), *_leaves(step.caches)]
        tensors = [leaf for _, leaf in found if _is_tensor(leaf)]
        if any(tensor.requires_grad or tensor.device.type != step.ranks.device.type for tensor in tensors):
            return None
        state = tuple((path, (leaf.shape, leaf.dtype) if _is_tensor(leaf) else leaf) for path, leaf in found)
        work = tuple((job.phase, job.micro, job.draw.share) for job in jobs)
        key = (work, step.plan.batch, step.dtype, state)
        try:
            kind = self._kinds.get(key)
        except TypeError:  # something that is shared is no plain value
            return None
        if kind is None:
            if len(self._kinds) >= MOST_KINDS:
                self._kinds = {key: kind for key, kind in self._kinds.items() if kind.recordings}
            kind = self._kinds[key] = _Kind()
        return kind

    def _fitting(
        self, kind: "_Kind", step: Step, jobs: Sequence[Job], parameters: Sequence[Tensor], run: Run
    ) -> "_Recording | None":
        """The recording that makes the choices these jobs would make, a new one where the kind is known well enough."""
        for recording in kind.recordings:
            if recording.fits(jobs):
                return recording
        kind.seen += 1
        if kind.seen <= WARM or not kind.is_recordable or len(kind.recordings) >= MOST_RECORDINGS:
            return None
        try:
            recording = _Recording(self._graph(), step, jobs, parameters, run)
        except RuntimeError as error:
            # Whatever is wrong with the work itself shows when it is done without.
            self._is_off = True
            self.forget()
            self._tell(f"phases run without being recorded: {error}")
            return None
        finally:
            for parameter in parameters:
                parameter.grad = None
        kind.is_recordable = recording.is_whole
        if not recording.is_whole:
            return None
        kind.recordings.append(recording)
        return recording


@dataclass
class _Kind:
    """Work of one kind: how often it came, and its recordings by the choices on its way."""

    seen: int = 0
    is_recordable: bool = True
    recordings: list["_Recording"] = field(default_factory=list)


class _Recording:
    """Recorded work with the tensors that it reads and those that it gives."""

    def __init__(self, graph: Graph, step: Step, jobs: Sequence[Job], parameters: Sequence[Tensor], run: Run) -> None:
        self._graph = graph
        self._inputs = _State(_copied(step.shared), _copied(step.caches))
        batches = [{name: job.batches[name] for name in job.batches} for job in jobs]
        self._tapes = [_Tape(job.draw, batch) for job, batch in zip(jobs, batches, strict=True)]
        within = Step(step.plan, step.images_seen, step.ranks, Stats(), step.dtype)
        within.shared = dict(self._inputs.shared)
        within.caches = {micro: dict(cache) for micro, cache in self._inputs.caches.items()}
        with graph.record():
            for job, tape in zip(jobs, self._tapes, strict=True):
                run(within, Job(job.phase, job.micro, tape, tape.batches))
            self._stats: PackedStats = within.stats.packed()
        self._caches = within.caches
        self._gradients = [(each, each.grad) for each in parameters if each.grad is not None]

    @property
    def is_whole(self) -> bool:
        """Whether nothing that it hands on leads back into it."""
        return not any(leaf.requires_grad for _, leaf in _leaves(self._caches) if _is_tensor(leaf))

    def fits(self, jobs: Sequence[Job]) -> bool:
        """Whether these jobs would make the same choices; the numbers of the host are read on the way."""
        return all(tape.read(job.draw.shared.again()) for tape, job in zip(self._tapes, jobs, strict=True))

    @torch.no_grad()
    def play(self, step: Step, jobs: Sequence[Job]) -> None:
        """Do the jobs, which `fits` was asked about last."""
        pairs = list(self._inputs.pairs(step))
        for tape, job in zip(self._tapes, jobs, strict=True):
            pairs += tape.filled(job)
        _copy(pairs)
        self._graph.play()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        step.stats.include(self._stats)
        step.caches = {micro: dict(cache) for micro, cache in self._caches.items()}


@dataclass(frozen=True)
class _State:
    """Copies of what was shared and cached before."""

    shared: dict[str, Any]
    caches: dict[int, dict[str, Any]]

    def pairs(self, step: Step) -> Iterator[tuple[Tensor, Tensor]]:
        """Each tensor with what it is to hold now."""
        for kept, now in ((self.shared, step.shared), (self.caches, step.caches)):
            for (_, old), (_, new) in zip(_leaves(kept), _leaves(now), strict=True):
                if _is_tensor(old):
                    yield old, new


class _Tape(Draw):
    """Gives a phase that is being recorded empty tensors for its draws, notes what they are, and which of its pictures
    it looks at.
    """

    def __init__(self, draw: Draw, batches: Mapping[str, Batch]) -> None:
        self.share, self.device = draw.share, draw.device
        self._now = draw.shared.again()
        self.shared = _Watched(self)
        self.batches = _Noted(batches)
        self._drawn: list[tuple[Callable[[Draw], Tensor], Tensor]] = []
        self._read: list[tuple[Callable[[Shared], Any], Tensor | None, Any]] = []

    def _placed(self, make: Callable[[Draw], Tensor], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        place = torch.empty((self.share.count, *shape), dtype=dtype, device=self.device)
        self._drawn.append((make, place))
        return place

    def normal(self, *shape: int) -> Tensor:
        """A place for such numbers."""
        return self._placed(lambda draw: draw.normal(*shape), shape, torch.get_default_dtype())

    def uniform(self, *shape: int) -> Tensor:
        """A place for such numbers."""
        return self._placed(lambda draw: draw.uniform(*shape), shape, torch.get_default_dtype())

    def integers(self, low: int, high: int, *shape: int) -> Int64[Tensor, "n ..."]:
        """A place for such numbers."""
        return self._placed(lambda draw: draw.integers(low, high, *shape), shape, torch.int64)

    def number(self, read: Callable[[Shared], float]) -> Float64[Tensor, ""]:
        """A place for it."""
        place = torch.empty((), dtype=torch.float64, device=self.device)
        self._read.append((read, place, read(self._now)))
        return place

    def decide(self, read: Callable[[Shared], T]) -> T:
        """The choice; the recording is one of it."""
        answer = read(self._now)
        self._read.append((read, None, answer))
        return answer

    def read(self, shared: Shared) -> bool:
        """Read the numbers of the host anew; whether all choices are as recorded."""
        for at, (read, place, before) in enumerate(self._read):
            answer = read(shared)
            if place is not None:
                self._read[at] = read, place, answer
            elif answer != before:
                return False
        return True

    def filled(self, job: Job) -> Iterator[tuple[Tensor, Tensor]]:
        """Write the numbers of the host into their places; every other place with what is to come into it."""
        for _, place, number in self._read:
            if place is not None:
                place.fill_(number)
        for make, place in self._drawn:
            yield place, make(job.draw)
        for name, kept in self.batches.used.items():
            new = job.batches[name]
            yield kept.images, new.images
            yield kept.indices, new.indices
            if kept.labels is not None and new.labels is not None:
                yield kept.labels, new.labels


class _Watched(Shared):
    """Choices of all ranks made outside `decide`: each is one that the recording is of."""

    def __init__(self, tape: _Tape) -> None:
        self._tape = tape

    def uniform(self) -> float:
        """One number in [0, 1)."""
        return self._tape.decide(lambda shared: shared.uniform())

    def integer(self, low: int, high: int) -> int:
        """One whole number in [low, high)."""
        return self._tape.decide(lambda shared: shared.integer(low, high))


class _Noted(Mapping[str, Batch]):
    """The batches, and those that were looked at."""

    def __init__(self, batches: Mapping[str, Batch]) -> None:
        self._all = batches
        self.used: dict[str, Batch] = {}

    def __getitem__(self, name: str) -> Batch:
        self.used[name] = self._all[name]
        return self.used[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, Tensor)


def _leaves(value: Any, path: tuple[Hashable, ...] = ()) -> Iterator[tuple[tuple[Hashable, ...], Any]]:
    """All plain values and tensors with where they are, in order."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _leaves(item, (*path, number))
    else:
        yield path, value


def _copied(value: Any) -> Any:
    """The same with tensors of its own."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_copied(item) for item in value]
        return items if isinstance(value, list) else type(value)(items) if type(value) is tuple else type(value)(*items)
    return value.clone() if isinstance(value, Tensor) else value


def _copy(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Write into the first of each pair what the second holds; all of one type at once."""
    by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for place, value in pairs:
        places, values = by_type.setdefault(place.dtype, ([], []))
        places.append(place)
        values.append(value)
    for places, values in by_type.values():
        torch._foreach_copy_(places, values)
