"""Phases of a training recorded once and played again: on a GPU one launch instead of thousands.

A phase's losses and their gradients are, by the door's contract, a function of pictures, random numbers, what `begin`
shares, what is cached, and the networks. A recording keeps a tensor for each of these but the networks, which it reads
where they are. To play it, these tensors are filled, the recorded operations run, and gradients, statistics and cached
tensors are handed out. Random numbers are those of a phase that runs itself.
"""

import weakref
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
"""At which time phases are rehearsed: by the next one libraries have chosen their kernels, constants are in place."""
MOST_RECORDINGS, MOST_KINDS, MOST_IN_ALL = 8, 64, 32
"""Recordings of one kind of work, by the choices on its way; kinds that are remembered; recordings of all kinds."""


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

    def __init__(self, pool: Any, stream: torch.cuda.Stream) -> None:
        self._graph, self._pool, self._stream = torch.cuda.CUDAGraph(), pool, stream

    @contextmanager
    def record(self) -> Iterator[None]:
        """The block; its operations do not run now."""
        with torch.cuda.graph(self._graph, self._pool, self._stream, capture_error_mode="thread_local"):
            yield

    def play(self) -> None:
        """Run them in the current stream."""
        self._graph.replay()


def cuda_graphs() -> Callable[[], Graph]:
    """What makes CUDA graphs of one pool, recorded on a stream of their own.

    They go together: torch takes what cuBLAS works in from all graphs of a stream when one of them goes (pytorch issue
    193402), and refuses a pool whose graphs are all gone.
    """
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
    return lambda: CudaGraph(pool, stream)


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

    `graphs` gives what makes empty recordings, anew for those after `forget`; `tell` hears why recording was given up,
    after which all work is done without. Work that hands tensors with gradients on to later phases is not recorded.
    """

    def __init__(self, graphs: Callable[[], Callable[[], Graph]], tell: Callable[[str], None]) -> None:
        self._graphs, self._tell = graphs, tell
        self._graph: Callable[[], Graph] | None = None
        self._kinds: dict[Hashable, _Kind] = {}
        self._is_off = False

    @property
    def count(self) -> int:
        """How many recordings there are."""
        return sum(len(kind.recordings) for kind in self._kinds.values())

    def give_up(self, reason: str) -> None:
        """Record nothing from here on, and drop what there is, with its memory."""
        self._is_off = True
        self.forget()
        self._tell(f"phases run without being recorded: {reason}")

    def forget(self) -> None:
        """Drop all recordings: networks or what they work on have changed."""
        self._kinds.clear()
        self._graph = None

    def run(self, step: Step, jobs: Sequence[Job], parameters: Sequence[Tensor], run: Run) -> None:
        """Do the jobs by `run` or by a recording; all gradients go to `parameters`, which have none yet."""
        kind = None if self._is_off else self._kind(step, jobs)
        fitting = None if kind is None else next((each for each in kind.recordings if each.fits(jobs)), None)
        if fitting is not None and self._ready(fitting, step, jobs, parameters, run):
            fitting.play(step, jobs)
        elif kind is not None and fitting is None and kind.may_rehearse:
            kind.add(_Recording(step, jobs, run))
        else:
            for job in jobs:
                run(step, job)

    def _ready(
        self, recording: "_Recording", step: Step, jobs: Sequence[Job], parameters: Sequence[Tensor], run: Run
    ) -> bool:
        """Whether it is there to be played, recorded now where it has only been rehearsed."""
        try:
            if not recording.is_recorded:
                self._graph = self._graph or self._graphs()
                recording.record(self._graph(), step, jobs, parameters, run)
        except RuntimeError as error:
            # Whatever is wrong with the work itself shows when it is done without.
            self.give_up(str(error))
            return False
        finally:
            for parameter in parameters:
                parameter.grad = None
        return True

    def _kind(self, step: Step, jobs: Sequence[Job]) -> "_Kind | None":
        """What is known of such work; None where it cannot be recorded."""
        found = [*_leaves(step.shared), *_leaves(step.caches)]
        tensors = [leaf for _, leaf in found if _is_tensor(leaf)]
        if any(tensor.requires_grad or tensor.device.type != step.ranks.device.type for tensor in tensors):
            return None
        state = tuple((path, (leaf.shape, leaf.dtype) if _is_tensor(leaf) else leaf) for path, leaf in found)
        work = tuple((job.phase, job.micro, job.draw.share) for job in jobs)
        key = (work, step.plan.batch, tuple(step.plan.progress.items()), step.dtype, state)
        try:
            kind = self._kinds.get(key)
        except TypeError:  # something that is shared is no plain value
            return None
        if kind is None:
            if self.count >= MOST_IN_ALL:  # some are of what is over, such as an earlier share of a schedule
                self.forget()
            if len(self._kinds) >= MOST_KINDS:
                self._kinds = {key: kind for key, kind in self._kinds.items() if kind.recordings}
            kind = self._kinds[key] = _Kind()
        return kind


@dataclass
class _Kind:
    """Work of one kind: how often it came, and its recordings by the choices on its way."""

    seen: int = 0
    hands_on_gradients: bool = False
    recordings: list["_Recording"] = field(default_factory=list)

    @property
    def may_rehearse(self) -> bool:
        """Whether another recording should be begun; asked once for each time that there was none."""
        self.seen += 1
        return self.seen >= WARM and not self.hands_on_gradients and len(self.recordings) < MOST_RECORDINGS

    def add(self, recording: "_Recording") -> None:
        """Keep a recording that was rehearsed, if it can be made."""
        self.hands_on_gradients = not recording.is_whole
        if recording.is_whole:
            self.recordings.append(recording)


class _Recording:
    """Work with the tensors that it reads and those that it gives: first rehearsed, then recorded, then played.

    The rehearsal does the work, and keeps the tensors that it drew and looked at: the recording reads these. None may
    be made while it is recorded, when memory is given out that earlier operations of the recording use, too.
    """

    def __init__(self, step: Step, jobs: Sequence[Job], run: Run) -> None:
        self._inputs = _State(_copied(step.shared), _copied(step.caches))
        self._tapes = [_Tape(job) for job in jobs]
        for job, tape in zip(jobs, self._tapes, strict=True):
            run(step, Job(job.phase, job.micro, tape, tape.batches))
        # What is handed on must not lead back into the work.
        self.is_whole = not any(leaf.requires_grad for _, leaf in _leaves(step.caches) if _is_tensor(leaf))
        self._graph: Graph | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether it can be played."""
        return self._graph is not None

    def record(self, graph: Graph, step: Step, jobs: Sequence[Job], parameters: Sequence[Tensor], run: Run) -> None:
        """Record the work, without doing it. Raises RuntimeError for what cannot be recorded."""
        within = Step(step.plan, step.images_seen, step.ranks, Stats(), step.dtype)
        within.shared = dict(self._inputs.shared)
        within.caches = {micro: dict(cache) for micro, cache in self._inputs.caches.items()}
        for tape in self._tapes:
            tape.rewind()
        with graph.record():
            for job, tape in zip(jobs, self._tapes, strict=True):
                run(within, Job(job.phase, job.micro, tape, tape.batches))
            self._stats: PackedStats = within.stats.packed()
        self._caches = within.caches
        self._gradients = [(each, each.grad) for each in parameters if each.grad is not None]
        self._graph = graph

    def fits(self, jobs: Sequence[Job]) -> bool:
        """Whether these jobs would make the same choices; the numbers of the host are read on the way."""
        return all(tape.read(job.draw.shared.again()) for tape, job in zip(self._tapes, jobs, strict=True))

    @torch.no_grad()
    def play(self, step: Step, jobs: Sequence[Job]) -> None:
        """Do the jobs, which `fits` was asked about last."""
        _copy(self._inputs.pairs(step))
        for tape, job in zip(self._tapes, jobs, strict=True):
            _copy(tape.filled(job))
        assert self._graph is not None
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


@dataclass(frozen=True)
class _Drawn:
    """Numbers of the device: how they are drawn, and where they are."""

    make: Callable[[Draw], Tensor]
    place: Tensor


@dataclass
class _Read:
    """A number of the host with its place on the device, or a choice, which has none."""

    read: Callable[[Shared], Any]
    answer: Any
    place: Tensor | None


N = TypeVar("N", _Drawn, _Read)


class _Tape(Draw):
    """Draws for a phase that is rehearsed, which it keeps, then gives the same tensors to the recording, in order; and
    notes which pictures the phase looks at.
    """

    def __init__(self, job: Job) -> None:
        self.share, self.device = job.draw.share, job.draw.device
        self.shared = _Watched(self)
        self.batches = _Noted(job.batches)
        self._draw: Draw | None = job.draw
        self._notes: list[_Drawn | _Read] = []
        self._at = 0

    def rewind(self) -> None:
        """Give from the first on what was drawn."""
        self._draw, self._at = None, 0

    def _noted(self, kind: type[N], make: Callable[[Draw], N]) -> N:
        if self._draw is not None:
            note = make(self._draw)
            self._notes.append(note)
            return note
        found = self._notes[self._at] if self._at < len(self._notes) else None
        self._at += 1
        if not isinstance(found, kind):
            raise RuntimeError("the phase draws other numbers than when it was rehearsed")
        return found

    def _drawn(self, make: Callable[[Draw], Tensor]) -> Tensor:
        # A copy: what is drawn is a part of the numbers for the whole batch, which would be kept for each micro-batch.
        return self._noted(_Drawn, lambda draw: _Drawn(make, make(draw).clone())).place

    def normal(self, *shape: int) -> Tensor:
        """Such numbers, or the place for them."""
        return self._drawn(lambda draw: draw.normal(*shape))

    def uniform(self, *shape: int) -> Tensor:
        """Such numbers, or the place for them."""
        return self._drawn(lambda draw: draw.uniform(*shape))

    def integers(self, low: int, high: int, *shape: int) -> Int64[Tensor, "n ..."]:
        """Such numbers, or the place for them."""
        return self._drawn(lambda draw: draw.integers(low, high, *shape))

    def number(self, read: Callable[[Shared], float]) -> Float64[Tensor, ""]:
        """The number, or the place for it."""

        def make(draw: Draw) -> _Read:
            answer = read(draw.shared)
            return _Read(read, answer, torch.full((), answer, dtype=torch.float64, device=self.device))

        place = self._noted(_Read, make).place
        assert place is not None
        return place

    def decide(self, read: Callable[[Shared], T]) -> T:
        """The choice; the recording is one of it."""
        answer: T = self._noted(_Read, lambda draw: _Read(read, read(draw.shared), None)).answer
        return answer

    def read(self, shared: Shared) -> bool:
        """Read the numbers of the host anew; whether all choices are as they were."""
        for note in self._notes:
            if isinstance(note, _Read):
                answer = note.read(shared)
                if note.place is None and answer != note.answer:
                    return False
                note.answer = answer
        return True

    def filled(self, job: Job) -> Iterator[tuple[Tensor, Tensor]]:
        """Write the numbers of the host into their places; every other place with what is to come into it."""
        for note in self._notes:
            if isinstance(note, _Drawn):
                yield note.place, note.make(job.draw)
            elif note.place is not None:
                note.place.fill_(note.answer)
        for name, kept in self.batches.used.items():
            new = job.batches[name]
            yield kept.images, new.images
            yield kept.indices, new.indices
            if kept.labels is not None and new.labels is not None:
                yield kept.labels, new.labels


class _Watched(Shared):
    """Choices of all ranks made outside `decide`: each is one that the recording is of."""

    def __init__(self, tape: _Tape) -> None:
        self._tape: _Tape = weakref.proxy(tape)  # which has this: both go with their tensors when they are dropped

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
