"""CycleGAN: its losses by hand, the pool of earlier pictures, both directions, what it refuses."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from frugan import checkpoint
from frugan.models.patchgan import PatchConfig
from frugan.models.translator import ResnetConfig
from frugan.training.door import Draw, Share, Shared, Stats, Step
from frugan.training.feed import LazyBatches, open_feeds
from frugan.training.tasks.cycle import CycleConfig, CycleTask, Pool, shown
from tests.training.rig import ALONE, assert_equal_tensors, assert_same_bits, make_loop, resume, tensors_of
from tests.training.tiny_tasks import cycle_config, label_maps, make, pictures

DATA = {"source": pictures(8, 16), "target": pictures(9, 16, seed=1)}


def start(config: CycleConfig) -> tuple[CycleTask, Step, LazyBatches]:
    torch.manual_seed(0)
    task = config.build(DATA, 4)
    step = Step(task.plan(0), 0, ALONE, Stats())
    task.begin(step, Shared((0,)))
    return task, step, LazyBatches(open_feeds(DATA, 0, ALONE.device), 4, Share(4), 0)


def draw(name: str) -> Draw:
    return Draw((0, name), ALONE.device, Share(4))


def test_losses_are_those_of_the_paper() -> None:
    task, step, batches = start(cycle_config(cycle=10.0))
    nets, (generators, discriminators) = task.nets, task.plan(0).phases
    a, b = batches["source"].images, batches["target"].images
    with torch.no_grad():
        there, back = task.losses(generators, step, batches, draw("g"))
        fakes = nets["generator"](a)
        judged = nets["discriminator"](fakes)
        torch.testing.assert_close(there["generator_adversarial"], (judged - 1).square().flatten(1).mean(1))
        returned = (nets["reverse"](fakes) - a).abs().flatten(1).mean(1)
        torch.testing.assert_close(there["generator_cycle"], 10 * returned)
        same = (nets["generator"](b) - b).abs().flatten(1).mean(1)
        torch.testing.assert_close(there["generator_identity"], 5 * same)
        assert back.keys() == {"reverse_adversarial", "reverse_cycle", "reverse_identity"}
        own, other = task.losses(discriminators, step, batches, draw("d"))
        wanted = 0.5 * ((nets["discriminator"](b) - 1).square() + judged.square()).flatten(1).mean(1)
        torch.testing.assert_close(own["discriminator"], wanted)  # an empty pool shows what is new
        assert other.keys() == {"reverse_discriminator"}


def test_networks_train_in_two_steps() -> None:
    job = make("cyclegan")
    loop = make_loop(job)
    assert set(loop.optimisers) == {"generator", "discriminator"}
    before = {name: [p.clone() for p in net.parameters()] for name, net in job.task.nets.items()}
    loop.iterate()
    for name, net in job.task.nets.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[name], net.parameters(), strict=True)), name


def test_without_identity_there_is_none() -> None:
    task, step, batches = start(cycle_config(identity=None))
    there, _ = task.losses(task.plan(0).phases[0], step, batches, draw("g"))
    assert there.keys() == {"generator_adversarial", "generator_cycle"}


def test_the_pool_fills_and_then_gives_back_what_is_old() -> None:
    pool, number = Pool(5), 0
    fresh = old = 0
    for iteration in range(200):
        images = torch.arange(number, number + 2.0)[:, None, None, None].expand(2, 1, 2, 2)
        number += 2
        before = pool.pictures.clone()
        places = pool.decide(Shared((iteration,)), 2)
        seen = shown(images, places, before)
        for image, new, place in zip(seen, images, places.tolist(), strict=True):
            if 0 <= place < len(before):
                assert torch.equal(image, before[place])
                old += 1
            else:
                assert torch.equal(image, new)
                fresh += iteration > 2
        pool.take(images, places)
        assert len(pool.pictures) == min(number, 5)
        for place in range(len(before)):
            assert place in places.tolist() or torch.equal(pool.pictures[place], before[place])
    assert abs(old / (old + fresh) - 0.5) < 0.1
    assert pool.pictures.max() > 350  # old ones leave


def test_the_pool_of_the_task_holds_pictures_of_the_whole_batch() -> None:
    job = make("cyclegan", micro_batch=1)
    loop = make_loop(job)
    loop.iterate()
    state = job.task.state_dict()
    assert {name: len(pool) for name, pool in state.items()} == {"pool.generator": 4, "pool.reverse": 4}
    assert len({float(picture.sum()) for picture in state["pool.generator"]}) == 4
    loop.iterate()
    assert len(job.task.state_dict()["pool.reverse"]) == 6


def test_resume_is_bit_for_bit_with_a_pool_that_is_filling(tmp_path: Path) -> None:
    """Stopped with four of six pictures in each pool; forgotten, they lead elsewhere, for one is shown again."""
    whole, first = make_loop(make("cyclegan")), make_loop(make("cyclegan"))
    first.iterate()
    for _ in range(2):
        whole.iterate()
    checkpoint.save(tmp_path / "000000001", *first.state())
    found = next(checkpoint.newest_first(tmp_path, []))
    pools = {name: found.parts["task"][name] for name in ("pool.generator", "pool.reverse")}
    assert [len(pool) for pool in pools.values()] == [4, 4]
    second, forgetful = resume(make("cyclegan"), tmp_path), resume(make("cyclegan"), tmp_path)
    assert_equal_tensors(pools, {name: second.task.state_dict()[name] for name in pools})
    forgetful.task.load_state_dict({})
    second.iterate()
    forgetful.iterate()
    assert_same_bits(second, whole)
    judge = "net.reverse_discriminator/out.weight"
    assert not torch.equal(tensors_of(forgetful)[judge], tensors_of(whole)[judge])


def test_a_pool_of_none_shows_what_is_new() -> None:
    task, step, batches = start(cycle_config(pool_size=0))
    for phase in task.plan(0).phases:
        list(task.losses(phase, step, batches, draw(phase.name)))
    assert step.shared["generator"].places.tolist() == [-1] * 4
    task.end(step, {})
    assert task.state_dict() == {}


def test_pictures_lost_with_the_memory_are_painted_again() -> None:
    task, step, batches = start(cycle_config())
    own, _ = task.losses(task.plan(0).phases[1], step, batches, draw("d"))
    assert torch.isfinite(own["discriminator"]).all() and not step.cache["generator"].requires_grad


def test_the_model_knows_both_directions() -> None:
    job = make("cyclegan")
    loop = make_loop(job)
    model = job.task.eval_model(loop.average.nets, 0)
    assert model.generator is loop.average.nets["generator"] and model.reverse is loop.average.nets["reverse"]


def test_directions_may_differ_in_channels() -> None:
    config = cycle_config(identity=None)
    data = {"source": pictures(4, 16, 1), "target": pictures(4, 16, 3)}
    fitted = config.fit(data)
    nets: dict[str, Any] = fitted.build(data, 2).nets
    assert (nets["generator"].config.source_channels, nets["reverse"].config.channels) == (1, 1)
    assert (nets["discriminator"].config.channels, nets["reverse_discriminator"].config.channels) == (3, 1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cycle_config(discriminator=PatchConfig(channels=6)), "must be 3, those of the pictures, got 6"),
        (lambda: cycle_config(pool_size=-1), "pool_size must be at least 0, got -1"),
        (lambda: cycle_config(identity=-0.5), "identity must be at least 0, got -0.5"),
        (
            lambda: cycle_config().fit({"source": pictures(4, 16, 1), "target": pictures(4, 16, 3)}),
            "identity needs as many channels in the source as in the target, got 1 and 3",
        ),
        (
            lambda: cycle_config().fit({"source": label_maps(4, 16, 16), "target": pictures(4, 16)}),
            "use a gaugan recipe",
        ),
        (
            lambda: dataclasses.replace(cycle_config(), generator=ResnetConfig(channels=1)),
            "discriminator.channels must be 1",
        ),
    ],
)
def test_what_cannot_be_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
