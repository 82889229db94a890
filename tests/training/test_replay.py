"""Recorded phases give what phases that run themselves give, bit for bit."""

import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor

from frugan.augment import diffaugment
from frugan.training.door import Batch, Draw, Phase, Shared, Step
from frugan.training.loop import Loop, Verdict
from frugan.training.replay import MOST_IN_ALL, MOST_RECORDINGS, WARM, Replays
from tests.training import tiny_tasks
from tests.training.op_graph import OpGraph
from tests.training.rig import Keeper, assert_same_bits, make_loop
from tests.training.tiny_tasks import JOBS, Fragile, Job, make

HANDS_ON_GRADIENTS = ("translate", "pix2pix", "pix2pix-unet-ada")
NEVER_THE_SAME = ("cycle", "grow", "progan", "progan-labels-ada", "progan-least-squares")
"""Tasks of which something that all phases share, or the plan, is another number in each of these few iterations."""


@pytest.fixture(autouse=True)
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffaugment, "host_sees", lambda x: False)


class Recorder:
    """Makes recordings and keeps them, and what is told."""

    def __init__(self) -> None:
        self.graphs: list[OpGraph] = []
        self.told: list[str] = []

    def __call__(self) -> OpGraph:
        self.graphs.append(OpGraph())
        return self.graphs[-1]

    @property
    def plays(self) -> int:
        return sum(graph.plays for graph in self.graphs)


def recording_loop(job: Job) -> tuple[Loop, Recorder]:
    loop, recorder = make_loop(job), Recorder()
    loop.replays = Replays(lambda: recorder, recorder.told.append)
    return loop, recorder


@pytest.mark.parametrize("kind", JOBS)
def test_every_task_trains_as_it_does_without(kind: str) -> None:
    plain, (recorded, recorder) = make_loop(make(kind)), recording_loop(make(kind))
    for _ in range(WARM + 5):
        ours, theirs = recorded.iterate(), plain.iterate()
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-6)
    assert_same_bits(plain, recorded)
    assert recorder.told == []
    assert (recorder.plays == 0) == (kind in (*HANDS_ON_GRADIENTS, *NEVER_THE_SAME))


@pytest.mark.parametrize("kind", ["gan-ada", "reacgan"])
def test_micro_batches_are_recorded_together(kind: str) -> None:
    training = {"micro_batch": 4}
    plain, (recorded, recorder) = make_loop(make(kind, **training)), recording_loop(make(kind, **training))
    for _ in range(WARM + 3):
        recorded.iterate()
        plain.iterate()
    assert_same_bits(plain, recorded)
    assert recorder.plays > 0


def test_a_micro_batch_keeps_its_own_numbers_alone() -> None:
    loop, _ = recording_loop(make("gan-ada", micro_batch=2))
    for _ in range(WARM + 1):
        loop.iterate()
    assert loop.replays is not None
    recordings = [recording for kind in loop.replays._kinds.values() for recording in kind.recordings]
    places = [note.place for recording in recordings for tape in recording._tapes for note in tape._notes]
    drawn = [place for place in places if place is not None]
    assert drawn and all(place.untyped_storage().nbytes() == place.nbytes for place in drawn)


def test_what_cannot_be_recorded_runs_and_is_told_once() -> None:
    def trouble(phase: Phase, step: Step) -> float:
        return float(torch.ones(()))  # the host reads a number of the device

    job, other = make("fragile"), make("fragile")
    for task in (job.task, other.task):
        assert isinstance(task, Fragile)
        task.trouble = trouble
    plain, (recorded, recorder) = make_loop(other), recording_loop(job)
    for _ in range(WARM + 3):
        recorded.iterate()
        plain.iterate()
    assert_same_bits(plain, recorded)
    assert len(recorder.told) == 1 and "the host may read no number" in recorder.told[0]
    assert recorder.plays == 0


def test_an_error_of_the_task_is_raised_by_the_task() -> None:
    job = make("fragile")
    assert isinstance(job.task, Fragile)
    loop, _ = recording_loop(job)

    def trouble(phase: Phase, step: Step) -> float:
        if loop.progress.iteration >= WARM:
            raise RuntimeError("broken")
        return 1.0

    job.task.trouble = trouble
    for _ in range(WARM):
        loop.iterate()
    with pytest.raises(RuntimeError, match="broken"):
        loop.iterate()


class Chooser(Fragile):
    """Adds what it remembers to its loss, on a way that it chooses anew each time."""

    def __init__(self, choices: int) -> None:
        super().__init__()
        self.choices, self.strength = choices, 0.0

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Tensor]]:
        net, way = self.nets[phase.name], draw.decide(lambda shared: shared.integer(0, self.choices))
        inputs = batch["images"].images.mean(dim=(2, 3)) + way
        strength = draw.number(lambda shared: self.strength + shared.uniform()).float()
        yield {"loss": (net(inputs) * strength - draw.integers(0, 5, 1)).square().flatten()}

    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        self.strength += 1.0


def chooser(choices: int) -> Job:
    job = make("fragile")
    torch.manual_seed(1)
    task = Chooser(choices)
    return Job(task, job.data, job.optimisers, job.training)


@pytest.mark.parametrize("choices", [1, 2, MOST_RECORDINGS + 3])
def test_numbers_of_the_host_are_read_anew_and_choices_have_recordings_of_their_own(choices: int) -> None:
    plain, (recorded, recorder) = make_loop(chooser(choices)), recording_loop(chooser(choices))
    for _ in range(WARM + 10 * choices):
        recorded.iterate()
        plain.iterate()
    assert_same_bits(plain, recorded)
    assert recorder.told == []
    assert len(recorder.graphs) == 2 * min(choices, MOST_RECORDINGS)
    assert recorded.replays is not None and recorded.replays.count == len(recorder.graphs)


def test_recordings_are_dropped_when_the_architecture_changes() -> None:
    loop, recorder = recording_loop(make("fragile"))
    for _ in range(WARM + 1):
        loop.iterate()
    assert loop.replays is not None and loop.replays.count == 2
    loop.replays.forget()
    for _ in range(WARM + 1):
        loop.iterate()
    assert len(recorder.graphs) == 4


def test_what_makes_recordings_is_made_anew_when_they_are_dropped() -> None:
    loop, made = make_loop(make("fragile")), list[Recorder]()

    def graphs() -> Callable[[], OpGraph]:
        made.append(Recorder())
        return made[-1]

    loop.record(graphs)
    for _ in range(2):
        for _ in range(WARM + 1):
            loop.iterate()
        assert loop.replays is not None
        loop.replays.forget()
    assert [len(recorder.graphs) for recorder in made] == [2, 2]


def test_what_the_plan_says_is_part_of_what_a_recording_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_tasks, "FADE_IMAGES", 24)
    plain, (recorded, recorder) = make_loop(make("grow")), recording_loop(make("grow"))
    for _ in range(16):
        recorded.iterate()
        plain.iterate()
    assert_same_bits(plain, recorded)
    assert recorder.plays > 0


class Schedule(Fragile):
    """Shares another number in every third iteration."""

    def begin(self, step: Step, draw: Shared) -> None:
        step.shared["share"] = float(step.images_seen // (3 * step.plan.batch))


def test_recordings_of_what_is_over_do_not_gather() -> None:
    loop, recorder = recording_loop(dataclasses.replace(make("fragile"), task=Schedule()))
    for _ in range(3 * MOST_IN_ALL):
        loop.iterate()
        assert loop.replays is not None and loop.replays.count <= MOST_IN_ALL + 1
    assert len(recorder.graphs) > MOST_IN_ALL


def test_a_training_that_is_dropped_goes_with_its_recordings() -> None:
    keeper = Keeper()
    loop = make_loop(make("gan"), keeper)
    keeper.loop = None
    recorder = Recorder()
    loop.record(lambda: recorder)
    for _ in range(WARM + 1):
        loop.iterate()
    assert loop.replays is not None
    kinds = loop.replays._kinds.values()
    held = [weakref.ref(tape) for kind in kinds for recording in kind.recordings for tape in recording._tapes]
    assert held
    held.append(weakref.ref(loop.replays))
    del kinds
    gc.disable()
    try:
        del loop
        assert [reference() for reference in held] == [None] * len(held)
    finally:
        gc.enable()


class Full(Keeper):
    """Memory runs out at a snapshot while there are recordings, or always."""

    def __init__(self, *, always: bool) -> None:
        super().__init__()
        self.always = always

    def snapshot(self, loop: Loop) -> Verdict:
        if self.always or (loop.replays is not None and loop.replays.count):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().snapshot(loop)


def test_recordings_give_way_to_a_snapshot() -> None:
    keeper, recorder = Full(always=False), Recorder()
    due, end = 8 * (WARM + 2), 8 * (WARM + 4)
    loop = make_loop(make("fragile", total_images=end, snapshot_images=due), keeper)
    loop.record(lambda: recorder)
    assert loop.run() == "finished"
    assert keeper.snapshots == [0, due, end]
    assert keeper.events == [("replay", "phases run without being recorded: memory ran out")]
    assert recorder.plays == 4


def test_a_snapshot_that_does_not_fit_without_recordings_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        make_loop(make("fragile"), Full(always=True)).run()


def test_recordings_give_way_before_micro_batches_do() -> None:
    job, other = make("fragile"), make("fragile")
    assert isinstance(job.task, Fragile)
    plain, (recorded, recorder) = make_loop(other), recording_loop(job)

    def full(phase: Phase, step: Step) -> float:
        if recorded.progress.iteration == WARM + 2 and recorded.replays is not None and recorded.replays.count:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    job.task.trouble = full
    for iteration in range(WARM + 4):
        if iteration == WARM + 2:  # another batch is work of a kind that is not recorded yet
            for task in (job.task, other.task):
                assert isinstance(task, Fragile)
                task._plan = dataclasses.replace(task._plan, batch=4)
        recorded.iterate()
        plain.iterate()
    assert_same_bits(plain, recorded)
    assert recorder.told == ["phases run without being recorded: memory ran out"]
    assert recorded.progress.micro_batch is None
