"""The door holds: growth, two streams, a supernet, one forward for two phases, resumed, shared out and split up."""

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugan import checkpoint
from frugan.training.door import Draw, Phase, Plan, Share, Shared, Stats, Step
from frugan.training.tasks.gan import GanTask, PathLengthConfig
from tests.training.rig import (
    ALONE,
    assert_close_tensors,
    assert_equal_tensors,
    assert_same_bits,
    make_loop,
    resume,
    run_alone,
    tensors_of,
)
from tests.training.rig import together as run_together
from tests.training.tiny_tasks import KINDS, STAGES, Cycle, Grow, Supernet, Translate, make

ITERATIONS = 4


@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_bit_for_bit(kind: str, tmp_path: Path) -> None:
    whole = make_loop(make(kind))
    for _ in range(ITERATIONS):
        whole.iterate()
    for stop in (0, 1, 2) if kind == "gan" else (3,):  # lazy phases run every second iteration
        folder = tmp_path / str(stop)
        first = make_loop(make(kind))
        for _ in range(stop):
            first.iterate()
        checkpoint.save(folder / "000000001", *first.state())
        second = resume(make(kind), folder)
        for _ in range(ITERATIONS - stop):
            second.iterate()
        assert_same_bits(second, whole)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    run_together("tests.training.rig", str(folder), str(ITERATIONS), *KINDS)
    return folder


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_agree_with_one(kind: str, together: Path) -> None:
    first, second = (safetensors.torch.load_file(together / f"{kind}.{rank}.safetensors") for rank in (0, 1))
    assert_equal_tensors(first, second)
    start, alone = run_alone(kind, ITERATIONS)
    assert_close_tensors(start, alone, first)


# The groups of the minibatch standard deviation need so many pictures at once; the generator's path-length mean is that
# of a micro-batch (see below).
SPLITS = {
    **{"gan-relativistic": 4, "gan-wgan": 4, "grow": 2, "progan": 4, "cycle": 1, "supernet": 4, "translate": 1},
    **{"pix2pix": 1, "pix2pix-unet-ada": 2, "cyclegan": 2},
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", SPLITS)
def test_gradient_accumulation_changes_nothing(kind: str) -> None:
    start, whole = run_alone(kind, ITERATIONS)
    _, split = run_alone(kind, ITERATIONS, micro_batch=SPLITS[kind])
    assert_close_tensors(start, whole, split)


@pytest.mark.usefixtures("unchecked")
def test_gradient_accumulation_with_every_regulariser() -> None:
    """With a path-length mean that stands still; a moving one is that of the micro-batch, as in the authors' code."""
    states = []
    for micro_batch in (None, 4):
        job = make("gan", micro_batch=micro_batch)
        assert isinstance(job.task, GanTask)
        path_length = PathLengthConfig(every=2, decay=1.0)
        job.task.config = dataclasses.replace(job.task.config, path_length=path_length)
        job.task.load_state_dict({"path_mean": torch.tensor(0.3), "logit_means": torch.zeros(2)})
        loop = make_loop(job)
        states.append(tensors_of(loop))
        for _ in range(ITERATIONS):
            loop.iterate()
        states.append(tensors_of(loop))
    assert_close_tensors(states[0], states[1], states[3])


def test_growth_follows_the_images_seen() -> None:
    job = make("grow")
    loop = make_loop(job)
    assert isinstance(job.task, Grow)
    seen = {}
    moments = []
    while loop.progress.images_seen < 32:
        at = loop.progress.images_seen
        loop.iterate()
        seen[at] = job.task.seen[-1]
        steps = {float(value) for name, value in loop.optimisers["generator"].state_dict().items() if "|step" in name}
        moments.append(max(steps))
    assert seen == {
        0: (8, 1.0, 4),
        8: (8, 1.0, 4),
        16: (4, 0.0, 8),
        20: (4, 0.5, 8),
        24: (4, 0.0, 16),
        28: (4, 0.5, 16),
    }
    assert moments == [1, 2, 1, 2, 1, 2]  # Adam begins anew with each stage
    assert {group["lr"] for group in loop.optimisers["generator"]._adam.param_groups} == {0.05 * STAGES[2].lr_scale}


def test_the_pool_holds_fakes_of_the_whole_batch() -> None:
    job = make("cycle", micro_batch=1)
    assert isinstance(job.task, Cycle)
    loop = make_loop(job)
    loop.iterate()
    assert job.task.filled == 4
    assert len({float(image.sum()) for image in job.task.pool["source"][:4]}) == 4
    loop.iterate()
    assert job.task.filled == 6


def test_one_subnet_for_all_micro_batches_and_one_forward_for_both_phases() -> None:
    job = make("supernet", micro_batch=4)
    assert isinstance(job.task, Supernet)
    loop = make_loop(job)
    for _ in range(6):
        loop.iterate()
    used = job.task.used
    assert len(used) == 12 and used[::2] == used[1::2] and len(set(used)) > 1
    assert job.task.forwards == 6 * 2 * 3  # the sandwich's three, and none for the discriminator


def test_step_with_steps_both_from_the_same_old_weights() -> None:
    """By hand: the student's gradient with the old discriminator, the discriminator's with the student's old fakes."""
    job = make("supernet")
    assert isinstance(job.task, Supernet)
    loop = make_loop(job)
    before = {name: parameter.clone() for name, parameter in job.task.discriminator.named_parameters()}
    judged = []
    job.task.discriminator.register_forward_pre_hook(
        lambda net, _: judged.append(
            all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())
        )
    )
    loop.iterate()
    assert judged == [True, True, True]
    assert not torch.equal(job.task.discriminator.b4.out.weight, before["b4.out.weight"])


def test_a_phase_goes_back_through_what_another_painted() -> None:
    job = make("translate")
    assert isinstance(job.task, Translate)
    loop = make_loop(job)
    painter = {name: tensor.clone() for name, tensor in job.task.nets["painter"].state_dict().items()}
    loop.iterate()
    assert job.task.forwards == 1
    assert not torch.equal(job.task.nets["painter"].state_dict()["0.weight"], painter["0.weight"])


def test_groups_of_phases() -> None:
    a = Phase(name="a", nets=("x",), optimiser="x", step_with="c")
    b, c, d = (Phase(name=name, nets=("x",), optimiser="x") for name in "bcd")
    groups = Plan(phases=(a, b, c, d), batch=1).groups()
    assert [[phase.name for phase in group] for group in groups] == [["a", "b", "c"], ["d"]]
    with pytest.raises(ValueError, match="step_with must name a later phase, got 'c'"):
        Plan(phases=(b, c, a), batch=1).groups()


@given(total=st.integers(1, 24), world=st.integers(1, 4), micros=st.integers(1, 4), seed=st.integers(0, 2**40))
@settings(deadline=None, max_examples=30)
def test_slices_of_a_draw_reassemble_into_the_global_draw(total: int, world: int, micros: int, seed: int) -> None:
    key, device = (seed, 3, "phase", 0), torch.device("cpu")
    whole = Draw(key, device, Share(total))
    wanted = [whole.normal(3), whole.uniform(), whole.integers(0, 100, 2)]
    got = [torch.full_like(values, -1) for values in wanted]
    count = 0
    for rank in range(world):
        for micro in range(micros):
            share = Share(total, rank + world * micro, world * micros)
            draw = Draw(key, device, share)
            for values, part in zip(got, (draw.normal(3), draw.uniform(), draw.integers(0, 100, 2)), strict=True):
                assert len(part) == share.count
                values[share.slice] = part
            count += share.count
    assert count == total
    for a, b in zip(wanted, got, strict=True):
        assert torch.equal(a, b)


def test_draws_are_independent_and_repeatable() -> None:
    cpu = torch.device("cpu")
    draws = [Draw((0, 0, iteration, phase), cpu, Share(64)) for iteration in (0, 1) for phase in ("a", "b")]
    numbers = [draw.normal(16) for draw in draws] + [draws[0].normal(16), draws[0].normal(16)]
    flat = torch.stack(numbers).flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert correlation.abs().max() < 0.12  # 1024 numbers each: about four standard errors
    assert torch.equal(Draw((0, 0, 0, "a"), cpu, Share(64)).normal(16), numbers[0])


def test_shared_choices_do_not_depend_on_the_share() -> None:
    cpu = torch.device("cpu")
    values = [Draw((1, "x"), cpu, Share(8, offset, 4)).shared.uniform() for offset in range(4)]
    assert len(set(values)) == 1 and 0 <= values[0] < 1
    shared = Shared((5,))
    chosen = [shared.integer(2, 5) for _ in range(60)]
    assert set(chosen) == {2, 3, 4}
    assert {shared.choice("ab") for _ in range(20)} == {"a", "b"}


def test_stats_are_means_over_rows_and_a_copy_stands_alone() -> None:
    stats = Stats()
    stats.add("a", torch.tensor([1.0, 2.0]))
    copy = stats.copy()
    stats.add("a", torch.tensor([6.0]))
    stats.add("rows", torch.arange(6.0).reshape(2, 3))
    means = stats.reduce(ALONE)
    assert means["a"] == 3 and torch.equal(means["rows"], torch.tensor([1.5, 2.5, 3.5]))
    assert stats.reduce(ALONE) == {}
    assert copy.reduce(ALONE) == {"a": torch.tensor(1.5)}


def test_collect_puts_micro_batches_back_in_order() -> None:
    step = Step(Plan(phases=(), batch=6), 0, ALONE, Stats())
    rows = torch.arange(12.0).reshape(6, 2)
    for step.micro in range(3):
        step.cache["x"] = rows[step.micro :: 3]
    assert torch.equal(step.collect("x"), rows)
