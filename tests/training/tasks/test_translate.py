"""pix2pix: its losses by hand and by the authors' numbers, the order of steps, augmentation, what it refuses."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from frugan import checkpoint
from frugan.augment.diffaugment import DiffAugmentConfig
from frugan.data import from_arrays
from frugan.model import Model
from frugan.models.patchgan import PatchConfig
from frugan.models.translator import ResnetConfig, UNetConfig
from frugan.training.door import Draw, Share, Stats, Step
from frugan.training.feed import LazyBatches, open_feeds
from frugan.training.tasks.patches import distance
from frugan.training.tasks.translate import PairedConfig, PairedTask
from tests.training.rig import ALONE, assert_same_bits, make_loop, resume
from tests.training.tiny_tasks import label_maps, make, paired_config, pictures, training_config


def task_and_step(config: PairedConfig | None = None) -> tuple[PairedTask, Step, dict[str, Tensor], LazyBatches]:
    """A fresh task, a step of it, and its batch."""
    torch.manual_seed(0)
    data = {"source": pictures(8, 16), "target": pictures(8, 16, seed=1)}
    task = (config or paired_config()).build(data, 4)
    step = Step(task.plan(0), 0, ALONE, Stats())
    batches = LazyBatches(open_feeds(data, 0, ALONE.device), 4, Share(4), 0)
    return task, step, {name: batch.images for name, batch in batches.items()}, batches


def draw(name: str) -> Draw:
    return Draw((0, name), ALONE.device, Share(4))


def test_losses_are_those_of_the_paper() -> None:
    config = paired_config(reconstruction=100.0)
    task, step, images, batches = task_and_step(config)
    first, second = task.plan(0).phases
    assert (first.name, first.through, second.name) == ("discriminator", ("generator",), "generator")
    with torch.no_grad():
        source, target = images["source"], images["target"]
        fakes = task.generator.translate(source)
        real, fake = (task.discriminator(torch.cat([source, image], dim=1)) for image in (target, fakes))
        (terms,) = task.losses(first, step, batches, draw("d"))
        wanted = 0.5 * ((1 - real).relu() + (1 + fake).relu()).flatten(1).mean(1)
        torch.testing.assert_close(terms["loss"], wanted)
        (terms,) = task.losses(second, step, batches, draw("g"))
        torch.testing.assert_close(terms["loss"], -fake.flatten(1).mean(1))
        torch.testing.assert_close(terms["reconstruction"], 100 * (fakes - target).abs().flatten(1).mean(1))


def test_pictures_are_made_once_and_made_again_where_memory_ran_out() -> None:
    task, step, _, batches = task_and_step()
    made = []
    task.generator.register_forward_hook(lambda *_: made.append(1))
    first, second = task.plan(0).phases
    list(task.losses(first, step, batches, draw("d")))
    list(task.losses(second, step, batches, draw("g")))
    assert len(made) == 1 and "fakes" not in step.cache
    list(task.losses(second, step, batches, draw("g")))
    assert len(made) == 2


def test_the_discriminator_sees_source_and_picture_moved_alike() -> None:
    """Sources that are their targets: what the discriminator sees is the same twice, and is not what was given."""
    torch.manual_seed(0)
    config = paired_config(augment=DiffAugmentConfig(policy="color,translation,cutout"))
    data = {"source": pictures(8, 16), "target": pictures(8, 16)}
    task = config.build(data, 4)
    _, step, _, _ = task_and_step(config)
    batches = LazyBatches(open_feeds(data, 0, ALONE.device), 4, Share(4), 0)
    seen: list[Tensor] = []
    task.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    list(task.losses(task.plan(0).phases[0], step, batches, draw("d")))
    _, reals = seen
    assert torch.equal(reals[:, :3], reals[:, 3:])
    assert not torch.allclose(reals[:, :3], batches["source"].images, atol=0.1)


@pytest.mark.parametrize("kind", ["pix2pix", "pix2pix-unet-ada"])
def test_resume_is_bit_for_bit(kind: str, tmp_path: Path) -> None:
    """Stopped after each of two iterations, with what an augmentation that adapts has counted."""
    whole, loop = make_loop(make(kind)), make_loop(make(kind))
    for iteration in range(2):
        whole.iterate()
        loop.iterate()
        checkpoint.save(tmp_path / f"{iteration:09d}", *loop.state())
        loop = resume(make(kind), tmp_path)
    whole.iterate()
    loop.iterate()
    assert_same_bits(loop, whole)


def test_it_learns_to_copy() -> None:
    """Sixty steps towards targets that are their sources, of one colour each, bring pictures closer."""
    torch.manual_seed(0)
    flat = from_arrays(pictures(8, 16).images[:, :, :1, :1].repeat(16, axis=2).repeat(16, axis=3))
    data = {"source": flat, "target": flat}
    setting = training_config(batch=4)
    job = make("pix2pix")
    config = paired_config(generator=ResnetConfig(width=8, num_blocks=0, norm=None), reconstruction=10.0)
    job = dataclasses.replace(job, task=config.build(data, 4), data=data, training=setting)
    loop = make_loop(job)
    losses = [float(loop.iterate()["generator/reconstruction"]) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("kind", ["pix2pix", "pix2pix-unet-ada"])
def test_the_model_translates_with_averaged_weights(kind: str) -> None:
    job = make(kind)
    loop = make_loop(job)
    loop.iterate()
    model = job.task.eval_model(loop.average.nets, 4)
    assert isinstance(model, Model) and model.is_translator
    source = torch.from_numpy(job.data["source"].images[:2])
    assert model.translate(source).shape == source.shape
    assert model.generator is loop.average.nets["generator"]


def test_distance_is_each_pairs_own() -> None:
    images = torch.zeros(2, 3, 4, 4)
    others = images + torch.tensor([0.5, 1.0])[:, None, None, None]
    assert distance(images, others.bfloat16()).tolist() == [0.5, 1.0]


def test_fitting_takes_channels_and_checks_sizes() -> None:
    config = paired_config()
    fitted = config.fit({"source": pictures(4, 16, 1), "target": pictures(4, 16, 3)})
    assert (fitted.generator.source_channels, fitted.generator.channels, fitted.discriminator.channels) == (1, 3, 4)
    unet = paired_config(generator=UNetConfig(width=4, num_downs=5))
    small = unet.shrink(8)
    assert isinstance(small.generator, UNetConfig) and small.generator.num_downs == 3


SIXTEEN = {"source": pictures(4, 16), "target": pictures(4, 16)}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: paired_config(discriminator=PatchConfig(channels=3)), "must be 6, source and picture together, got 3"),
        (lambda: paired_config(reconstruction=-1.0), "reconstruction must be at least 0, got -1.0"),
        (
            lambda: paired_config().fit(SIXTEEN | {"target": pictures(4, 8)}),
            "trained at one size, got source 16x16, target 8x8",
        ),
        (
            lambda: paired_config(generator=UNetConfig(num_downs=8)).fit(SIXTEEN),
            "multiples of 256 and at least 6 for these networks, got 16x16",
        ),
        (
            lambda: paired_config().fit(SIXTEEN | {"source": label_maps(4, 16, 16)}),
            "source set holds label maps .*use a gaugan recipe",
        ),
    ],
)
def test_what_cannot_be_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
