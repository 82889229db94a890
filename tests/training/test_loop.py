"""Time: what is skipped, rolled back, shrunk and stopped; precision, averages, learning rates."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from frugan.training.door import Phase, Step
from frugan.training.loop import MAX_SKIPPED_STEPS, Loop, TrainingError, resolve_precision
from frugan.training.optimise import Average, Optimiser
from frugan.training.ranks import Ranks
from frugan.training.recipe import AdamConfig, EmaConfig, Schedule
from tests.training.rig import (
    ALONE,
    Keeper,
    assert_close_tensors,
    assert_equal_tensors,
    assert_same_bits,
    make_loop,
    resume,
    run_alone,
    tensors_of,
)
from tests.training.tiny_tasks import Fragile, Job, make

Trouble = Callable[[Phase, Step], float]


def fragile(trouble: Trouble | None = None, **training: Any) -> tuple[Job, Fragile]:
    job = make("fragile", **training)
    assert isinstance(job.task, Fragile)
    if trouble is not None:
        job.task.trouble = trouble
    return job, job.task


def nan_in(name: str, *seen: int) -> Trouble:
    return lambda phase, step: math.nan if phase.name == name and step.images_seen in seen else 1.0


# -- steps that are not finite --------------------------------------------------------------------------------------


def test_a_step_that_is_not_finite_is_left_out() -> None:
    job, task = fragile(nan_in("first", 8))
    keeper = Keeper()
    loop = make_loop(job, keeper)
    loop.iterate()
    before = tensors_of(loop)
    loop.iterate()
    after = tensors_of(loop)
    changed = {name.split("/")[0] for name in before if not torch.equal(before[name], after[name])}
    own = {name for name in before if "first" in name and not torch.equal(before[name], after[name])}
    assert {"net.second", "adam.second"} <= changed
    assert all(name.startswith("ema.") for name in own)
    assert task.ends == [0]  # its numbers are not to be trusted
    assert keeper.events == [("skipped", "left out a step of first: its gradients are not finite")]
    loop.iterate()
    assert task.ends == [0, 16] and loop.progress.skipped == {}
    assert all(torch.isfinite(tensor).all() for tensor in tensors_of(loop).values())


@pytest.mark.parametrize("bad", ["first", "second"])
def test_many_in_a_row_lead_back_with_half_the_rate_and_other_numbers(bad: str, tmp_path: Path) -> None:
    """Also where the other optimiser's steps are all well."""
    job, task = fragile(total_images=8 * (MAX_SKIPPED_STEPS + 8), snapshot_images=16)
    keeper = Keeper(tmp_path)
    loop = make_loop(job, keeper)
    task.trouble = lambda phase, step: (
        math.nan if phase.name == bad and step.images_seen >= 40 and not loop.progress.rollbacks else 1.0
    )
    assert loop.run() == "finished"
    assert [kind for kind, _ in keeper.events] == ["skipped", "rollback"]
    assert f"{MAX_SKIPPED_STEPS} steps of {bad} in a row" in keeper.events[1][1]
    assert (loop.progress.rollbacks, loop.progress.lr_factor) == (1, 0.5)
    assert loop.progress.images_seen == job.training.total_images
    assert keeper.loop is loop and {g["lr"] for g in loop.optimisers[bad]._adam.param_groups} == {0.025}


def test_a_roll_back_restores_the_sound_snapshot_and_draws_anew(tmp_path: Path) -> None:
    job, _ = fragile(snapshot_images=16, total_images=32)
    keeper = Keeper(tmp_path)
    loop = make_loop(job, keeper)
    loop.run()
    loop.iterate()
    first_try = tensors_of(loop)
    loop.roll_back("a reason")
    assert loop.progress.images_seen == 32
    same = make_loop(fragile(snapshot_images=16, total_images=32)[0])
    for _ in range(4):
        same.iterate()
    assert_equal_tensors(tensors_of(loop), tensors_of(same))
    loop.iterate()
    assert not torch.equal(tensors_of(loop)["net.first/weight"], first_try["net.first/weight"])


def test_roll_backs_are_bounded(tmp_path: Path) -> None:
    job, _ = fragile(lambda phase, step: math.nan, total_images=10_000, snapshot_images=16, max_rollbacks=2)
    keeper = Keeper(tmp_path)
    loop = make_loop(job, keeper)
    with pytest.raises(TrainingError, match=r"not finite; gave up after 2 returns .* lower\s+learning rate"):
        loop.run()
    assert [kind for kind, _ in keeper.events].count("rollback") == 2


def test_a_roll_back_does_not_depend_on_when_checkpoints_were_written(tmp_path: Path) -> None:
    """A machine that saves often (or was interrupted) goes back to the same place as one that does not."""
    ends = []
    for seconds in (1e9, 0.0):
        job, _ = fragile(total_images=64, snapshot_images=24, checkpoint_seconds=seconds)
        keeper = Keeper(tmp_path / str(seconds))
        keeper.collapses = [48]
        loop = make_loop(job, keeper)
        assert loop.run() == "finished"
        assert keeper.events == [("rollback", "all alike: back at 24 images, half the speed")]
        assert keeper.snapshots == [0, 24, 48, 48, 64]
        ends.append(loop)
    assert_same_bits(*ends)


# -- memory -----------------------------------------------------------------------------------------------------------


def out_of_memory_once(error: Exception, name: str, at: int) -> Trouble:
    """In the second micro-batch of that phase."""
    calls: list[int] = []

    def trouble(phase: Phase, step: Step) -> float:
        if phase.name == name and step.images_seen == at:
            calls.append(1)
            if len(calls) == 2:
                raise error
        return 1.0

    return trouble


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("name", ["first", "second"])
def test_out_of_memory_halves_the_micro_batch_and_counts_nothing_twice(error: Exception, name: str) -> None:
    job, task = fragile(out_of_memory_once(error, name, 8), micro_batch=4)
    keeper = Keeper()
    loop = make_loop(job, keeper)
    start = tensors_of(loop)
    stats = [loop.iterate() for _ in range(3)]
    assert keeper.events == [("out_of_memory", "out of memory: 2 pictures at once from here on")]
    assert task.batches[-8:] == [2] * 8 and loop.progress.micro_batch == 2
    calm = make_loop(fragile()[0])
    wanted = [calm.iterate() for _ in range(3)]
    assert_close_tensors(start, tensors_of(calm), tensors_of(loop))
    for a, b in zip(stats, wanted, strict=True):
        assert {key: float(value) for key, value in a.items()} == pytest.approx(
            {key: float(value) for key, value in b.items()}, rel=1e-5
        )


def test_out_of_memory_in_a_group_counts_nothing_twice() -> None:
    """The second of two phases that step together fails after the first has left its gradients."""
    job = make("supernet")
    calls = []

    def fail_once(net: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls.append(1)
        if len(calls) == 2:  # the reals, in the discriminator's own phase
            raise torch.OutOfMemoryError("CUDA out of memory")

    job.task.nets["discriminator"].register_forward_pre_hook(fail_once)
    keeper = Keeper()
    loop = make_loop(job, keeper)
    start = tensors_of(loop)
    loop.iterate()
    assert [kind for kind, _ in keeper.events] == ["out_of_memory"]
    _, calm = run_alone("supernet", 1)
    assert_close_tensors(start, calm, tensors_of(loop))


def test_out_of_memory_with_one_picture_is_the_end() -> None:
    def always(phase: Phase, step: Step) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    keeper = Keeper()
    with pytest.raises(TrainingError, match="out of memory with 1 picture at once; try a smaller --resolution"):
        make_loop(fragile(always)[0], keeper).iterate()
    assert [text.split(":")[1].split()[0] for _, text in keeper.events] == ["4", "2", "1"]


def test_out_of_memory_in_one_of_several_processes_says_what_to_set() -> None:
    def always(phase: Phase, step: Step) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    loop = make_loop(fragile(always)[0], ranks=Ranks(0, 2, torch.device("cpu")))
    with pytest.raises(TrainingError, match=r"--set training.micro_batch=2 --force"):
        loop.iterate()


def test_other_errors_pass() -> None:
    def broken(phase: Phase, step: Step) -> float:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        make_loop(fragile(broken)[0]).iterate()


def test_a_smaller_micro_batch_set_by_the_user_holds_after_resuming(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.checkpoint(make_loop(fragile()[0], keeper))
    job, task = fragile(micro_batch=2)
    resume(job, tmp_path).iterate()
    assert task.batches == [2] * 8


@given(local=st.integers(1, 64), limit=st.integers(1, 64))
def test_micro_batches_are_equal_and_within_the_limit(local: int, limit: int) -> None:
    job, _ = fragile(micro_batch=limit)
    micros = make_loop(job)._num_micros(local)
    assert local % micros == 0
    assert local // micros <= limit
    smaller = [number for number in range(1, micros) if local % number == 0 and local // number <= limit]
    assert not smaller  # no more of them than needed


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    job = make("cycle")
    loop = make_loop(job, ranks=Ranks(0, 3, torch.device("cpu")))
    with pytest.raises(TrainingError, match=r"'generators' works on 4 pictures, which 3 processes cannot share"):
        loop.iterate()


# -- ends -------------------------------------------------------------------------------------------------------------


class Scoring(Keeper):
    """Finds the score of a snapshot in a list, as the journal does."""

    scores: tuple[float, ...] = ()

    def snapshot(self, loop: Loop) -> Any:
        score = self.scores[len(self.snapshots)]
        if loop.progress.best_score is None or score < loop.progress.best_score:
            loop.progress.best_score, loop.progress.best_images = score, loop.progress.images_seen
        return super().snapshot(loop)


def test_a_plateau_ends_the_training_and_a_longer_patience_goes_on(tmp_path: Path) -> None:
    job, _ = fragile(total_images=800, snapshot_images=16, plateau_images=40)
    keeper = Scoring(tmp_path)
    keeper.scores = (9.0, 8.0, 7.0, 7.5, 7.4, 7.3, 7.2)
    loop = make_loop(job, keeper)
    assert loop.run() == "plateau"
    assert keeper.snapshots == [0, 16, 32, 48, 64, 80]  # the best at 32, patience over at 72, seen at 80
    again = resume(fragile(total_images=800, snapshot_images=16, plateau_images=40)[0], tmp_path, Scoring(tmp_path))
    assert again.ended() == "plateau" and again.run() == "plateau" and again.progress.images_seen == 80
    longer = Scoring(tmp_path)
    longer.scores = (7.0,) * 4
    patient = resume(fragile(total_images=800, snapshot_images=16, plateau_images=100)[0], tmp_path, longer)
    assert patient.run() == "plateau" and patient.progress.images_seen == 144


def test_a_plateau_is_only_seen_at_snapshots(tmp_path: Path) -> None:
    """Resumed from a checkpoint between two, the run goes on to the next one, as it would have done uninterrupted."""
    settings = {"total_images": 800, "snapshot_images": 32, "plateau_images": 40}
    keeper = Scoring(tmp_path)
    keeper.scores = (1.0, 2.0, 2.0)
    keeper.stop_at = 48
    assert make_loop(fragile(**settings)[0], keeper).run() == "stopped"
    later = Scoring(tmp_path)
    later.scores = (2.0,)
    loop = resume(fragile(**settings)[0], tmp_path, later)
    assert loop.ended() is None
    assert loop.run() == "plateau" and loop.progress.images_seen == 64


@pytest.mark.parametrize("stop_at", [0, 8, 16, 24])
def test_stopped_and_resumed_is_as_if_never_stopped(stop_at: int, tmp_path: Path) -> None:
    settings = {"total_images": 40, "snapshot_images": 16}
    whole = Keeper()
    uninterrupted = make_loop(fragile(**settings)[0], whole)
    assert uninterrupted.run() == "finished"
    assert whole.snapshots == [0, 16, 32, 40]
    first, second = Keeper(tmp_path), Keeper(tmp_path)
    first.stop_at = stop_at
    assert make_loop(fragile(**settings)[0], first).run() == "stopped"
    loop = resume(fragile(**settings)[0], tmp_path, second)
    assert loop.run() == "finished"
    assert first.snapshots + second.snapshots == whole.snapshots
    assert_same_bits(loop, uninterrupted)


def test_a_stop_asked_for_in_the_last_iteration_finishes(tmp_path: Path) -> None:
    job, _ = fragile(total_images=16)
    keeper = Keeper(tmp_path)
    keeper.stop_at = 16
    assert make_loop(job, keeper).run() == "finished"
    assert keeper.snapshots == [0, 16]


def test_a_finished_run_can_be_extended(tmp_path: Path) -> None:
    make_loop(fragile(total_images=16)[0], Keeper(tmp_path)).run()
    same = resume(fragile(total_images=16)[0], tmp_path)
    assert same.ended() == "finished"
    longer = resume(fragile(total_images=40)[0], tmp_path)
    assert longer.ended() is None and longer.run() == "finished"
    whole = make_loop(fragile(total_images=40)[0])
    whole.run()
    assert_equal_tensors(tensors_of(longer), tensors_of(whole))


def test_nothing_to_do_is_finished_at_once() -> None:
    keeper = Keeper()
    loop = make_loop(fragile(total_images=0)[0], keeper)
    assert loop.run() == "finished" and loop.progress.iteration == 0 and keeper.snapshots == [0]


def test_status_lines_are_means_since_the_last_one() -> None:
    keeper = Keeper()
    loop = make_loop(fragile(total_images=24, status_seconds=1e9)[0], keeper)
    loop.run()
    again = make_loop(fragile(total_images=24)[0])
    wanted = [float(again.iterate()["first/loss"]) for _ in range(3)]
    assert len(keeper.stats) == 1
    assert keeper.stats[0]["first/loss"] == pytest.approx(sum(wanted) / 3)
    assert set(keeper.stats[0]) == {"first/loss", "first/more", "second/loss", "second/more"}


# -- precision and layout ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_stays_finite(precision: str) -> None:
    start, whole = run_alone("gan", 3)
    _, half = run_alone("gan", 3, precision=precision)
    assert all(torch.isfinite(tensor).all() for tensor in half.values())
    name = "net.generator/synthesis.b8.conv1.weight"
    moved, other = whole[name] - start[name], half[name] - start[name]
    assert not torch.equal(moved, other)
    assert torch.nn.functional.cosine_similarity(moved.flatten(), other.flatten(), dim=0) > 0.98


def test_channels_last_is_the_same_training(tmp_path: Path) -> None:
    """Through a resume too: torch's fused Adam mixes up moments that are laid out unlike their parameter."""
    start, contiguous = run_alone("gan", 4, channels_last=False)
    keeper = Keeper(tmp_path)
    first = make_loop(make("gan", channels_last=True), keeper)
    for _ in range(2):
        first.iterate()
    keeper.checkpoint(first)
    second = resume(make("gan", channels_last=True), tmp_path)
    weight = second.task.nets["generator"].get_parameter("synthesis.b8.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    for _ in range(2):
        second.iterate()
    assert_close_tensors(start, contiguous, tensors_of(second), tolerance=1e-4)


def test_what_auto_precision_means() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu, lambda: True) == "bf16"
    assert resolve_precision("auto", cpu, lambda: False) == "fp32"
    assert resolve_precision("fp16", cpu, lambda: True) == "fp16"


# -- rates and averages -----------------------------------------------------------------------------------------------


def test_the_learning_rate_follows_its_schedule() -> None:
    schedule = Schedule(base=1.0, final=0.0, duration_images=32)
    loop = make_loop(fragile(total_images=48, lr=schedule)[0])
    rates = []
    for _ in range(6):
        loop.iterate()
        rates += [group["lr"] for group in loop.optimisers["first"]._adam.param_groups]
    assert rates == pytest.approx([0.05 * share for share in (1, 0.75, 0.5, 0.25, 0, 0)])


def test_schedules() -> None:
    cosine = Schedule(base=2.0, final=1.0, duration_images=100, shape="cosine")
    assert [cosine.at(images) for images in (0, 50, 100, 999)] == pytest.approx([2, 1.5, 1, 1])
    assert cosine.at(25) == pytest.approx(1.5 + math.cos(math.pi / 4) / 2)
    assert Schedule(base=2.0, final=1.0, duration_images=0).at(0) == 1.0


@pytest.mark.parametrize("rampup", [None, 0.05])
def test_the_average_forgets_by_half_in_its_half_life(rampup: float | None) -> None:
    """Against a plain oracle, number by number."""
    net = nn.BatchNorm1d(1)
    average = Average(EmaConfig(halflife_images=100.0, rampup=rampup), {"net": net})
    oracle = 1.0
    for step in range(60):
        images_seen = 16 * step
        with torch.no_grad():
            net.weight.fill_(float(step % 7))
            net.running_mean.fill_(step)
        halflife = 100.0 if rampup is None else min(100.0, images_seen * rampup)
        kept = 0.0 if halflife == 0 else 0.5 ** (16 / halflife)
        oracle = kept * oracle + (1 - kept) * (step % 7)
        average.update(16, images_seen)
        assert average.nets["net"].get_parameter("weight").item() == pytest.approx(oracle, rel=1e-5, abs=1e-6)
        assert average.nets["net"].get_buffer("running_mean").item() == step
    assert EmaConfig(halflife_images=100.0, rampup=None).decay(100, 0) == 0.5
    assert not any(parameter.requires_grad for parameter in average.nets["net"].parameters())


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to train in net: every parameter is frozen"):
        Optimiser(AdamConfig(lr=0.1), {"net": nn.Linear(1, 1).requires_grad_(False)}, ALONE)


def test_moments_of_unknown_parameters_are_an_error() -> None:
    optimiser = Optimiser(AdamConfig(lr=0.1), {"net": nn.Linear(1, 1)}, ALONE)
    with pytest.raises(ValueError, match=r"moments for 'net.gone', which is not trained here"):
        optimiser.load_state_dict({"net.gone|exp_avg": torch.zeros(1)})


def test_adam_is_adam() -> None:
    """Against the paper's update, with the betas and the rate of lazy regularisation."""
    net = nn.Linear(1, 1, bias=False)
    start = net.weight.item()
    optimiser = Optimiser(AdamConfig(lr=0.1, beta1=0.5, beta2=0.9), {"net": net}, ALONE)
    optimiser.adjust(0.8, 0.8)
    b1, b2, m, v, x = 0.5**0.8, 0.9**0.8, 0.0, 0.0, start
    for step, gradient in enumerate([1.0, -2.0, 0.5], start=1):
        net.weight.grad = torch.full((1, 1), gradient)
        assert optimiser.step()
        optimiser.zero()
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        x -= 0.1 * 0.8 * (m / (1 - b1**step)) / (math.sqrt(v / (1 - b2**step)) + 1e-8)
    assert net.weight.item() == pytest.approx(x, rel=1e-5)


def test_seeds_give_different_trainings() -> None:
    _, a = run_alone("fragile", 1)
    _, b = run_alone("fragile", 1, seed=1)
    assert not torch.equal(a["net.first/weight"], b["net.first/weight"])
