"""GauGAN: its losses by hand, what is resumed and shared out, spectral norms, label maps, what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from frugan import checkpoint
from frugan.augment.diffaugment import DiffAugmentConfig
from frugan.data import from_arrays
from frugan.features.vgg import VGG19
from frugan.models.multiscale import MultiScaleConfig
from frugan.models.spade import SpadeTranslator
from frugan.training.door import Draw, Share, Stats, Step
from frugan.training.feed import LazyBatches, open_feeds
from frugan.training.tasks.semantic import PerceptualConfig, SemanticConfig, SemanticTask
from tests.training.rig import (
    ALONE,
    assert_close_tensors,
    assert_equal_tensors,
    assert_same_bits,
    make_loop,
    resume,
    run_alone,
    together,
)
from tests.training.tiny_tasks import label_maps, make, pictures, semantic_config


def start(config: SemanticConfig) -> tuple[SemanticTask, Step, LazyBatches]:
    data = dict(make("gaugan").data)
    torch.manual_seed(0)
    task = config.build(data, 4)
    step = Step(task.plan(0), 0, ALONE, Stats())
    return task, step, LazyBatches(open_feeds(data, 0, ALONE.device), 4, Share(4), 0)


def draw(name: str) -> Draw:
    return Draw((0, name), ALONE.device, Share(4))


def test_losses_are_those_of_the_paper() -> None:
    task, step, batches = start(semantic_config())
    generator, discriminator = task.plan(0).phases
    labels, target = task.generator.read(batches["source"].images), batches["target"].images
    with torch.no_grad():
        (terms,) = task.losses(generator, step, batches, draw("g"))
        fakes = task.generator(labels)
        of_fakes, of_reals = (task.discriminator(torch.cat([labels, image], dim=1)) for image in (fakes, target))
        wanted = torch.stack([-scale[-1].flatten(1).mean(1) for scale in of_fakes]).mean(0)
        torch.testing.assert_close(terms["loss"], wanted)
        matched = [
            (a - b).abs().flatten(1).mean(1)
            for ours, theirs in zip(of_fakes, of_reals, strict=True)
            for a, b in zip(ours[:-1], theirs[:-1], strict=True)
        ]
        torch.testing.assert_close(terms["feature_matching"], 10 * torch.stack(matched).sum(0) / 2)
        assert terms.keys() == {"loss", "feature_matching"}
        (terms,) = task.losses(discriminator, step, batches, draw("d"))
        pairs = zip(of_reals, of_fakes, strict=True)
        hinges = [((1 - real[-1]).relu() + (1 + fake[-1]).relu()).flatten(1).mean(1) for real, fake in pairs]
        torch.testing.assert_close(terms["loss"], torch.stack(hinges).mean(0))


def vgg_file(folder: Path) -> Path:
    """A file that looks like VGG19's weights."""
    widths = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256)}
    widths |= {index: (256, 256) for index in (12, 14, 16)} | {19: (256, 512)}
    widths |= {index: (512, 512) for index in (21, 23, 25, 28)}
    state = {}
    for index, (inputs, outputs) in widths.items():
        state[f"features.{index}.weight"] = torch.randn(outputs, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
        state[f"features.{index}.bias"] = torch.zeros(outputs)
    safetensors.torch.save_file(state, folder / "vgg19.safetensors")
    return folder / "vgg19.safetensors"


def test_a_perceptual_loss_where_weights_are_given(tmp_path: Path) -> None:
    task, step, batches = start(semantic_config(perceptual=PerceptualConfig(file=str(vgg_file(tmp_path)))))
    assert isinstance(task.frozen["vgg19"], VGG19) and task.config.notes == ()
    (terms,) = task.losses(task.plan(0).phases[0], step, batches, draw("g"))
    assert terms["perceptual"].shape == (4,) and (terms["perceptual"] > 0).all() and terms["perceptual"].requires_grad
    assert "no perceptual loss" in semantic_config().notes[0]


def test_the_discriminator_sees_map_and_picture_moved_alike() -> None:
    """Targets that are flat where the map is: colours change in the picture only, and both move together."""
    task, step, batches = start(semantic_config(augment=DiffAugmentConfig(policy="color,translation")))
    seen: list[torch.Tensor] = []
    task.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    list(task.losses(task.plan(0).phases[0], step, batches, draw("g")))
    fakes, reals = seen
    assert torch.equal(fakes[:, :4], reals[:, :4])  # the same move, for features are compared place by place
    assert set(reals[:, :4].unique().tolist()) == {0.0, 1.0}
    inside = reals[:, :3].sum(dim=1) == 1  # one label each, none where the move brought nothing in
    assert inside.any() and not inside.all()
    plain = task.generator.read(batches["source"].images)
    assert not torch.equal(plain, reals[:, :4])


def test_resume_is_bit_for_bit(tmp_path: Path) -> None:
    whole, first = make_loop(make("gaugan")), make_loop(make("gaugan"))
    for _ in range(3):
        whole.iterate()
    for _ in range(2):
        first.iterate()
    checkpoint.save(tmp_path / "000000001", *first.state())
    second = resume(make("gaugan"), tmp_path)
    second.iterate()
    assert_same_bits(second, whole)


@pytest.mark.usefixtures("unchecked")
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    """Statistics of batches are those of both. One iteration: batch normalisation magnifies rounding later.

    After one, the mean of squares is the square of the gradient, which the mean holds already.
    """
    together("tests.training.rig", str(tmp_path), "1", "gaugan")
    one, other = (safetensors.torch.load_file(tmp_path / f"gaugan.{rank}.safetensors") for rank in (0, 1))
    assert_equal_tensors(one, other)
    before, alone = run_alone("gaugan", 1)
    first, both = ({name: x for name, x in found.items() if "_sq" not in name} for found in (alone, one))
    assert_close_tensors(before, first, both)


def test_spectral_norms_follow_the_weights_and_are_folded_for_use() -> None:
    job = make("gaugan")
    loop = make_loop(job)
    assert isinstance(job.task, SemanticTask)
    before = job.task.generator.blocks["head"].conv0.u.clone()  # type: ignore[union-attr, operator]
    loop.iterate()
    assert not torch.equal(before, job.task.generator.blocks["head"].conv0.u)  # type: ignore[union-attr, arg-type]
    model = job.task.eval_model(loop.average.nets, 4)
    assert isinstance(model.generator, SpadeTranslator) and not model.generator.config.spectral
    averaged = loop.average.nets["generator"]
    assert isinstance(averaged, SpadeTranslator)
    source = torch.from_numpy(job.data["source"].images[:2])
    with torch.no_grad():
        wanted = averaged.translate(averaged.read(source))
        torch.testing.assert_close(model.generator.translate(model.generator.read(source)), wanted)


def test_fitting_takes_labels_edges_and_shape() -> None:
    blank = from_arrays(np.zeros((4, 3, 64, 128), dtype=np.uint8))
    fitted = semantic_config().fit({"source": label_maps(4, 64, 128, labels=5), "target": blank})
    assert (fitted.generator.num_labels, fitted.generator.has_edges, fitted.generator.size) == (5, True, (64, 128))
    assert fitted.discriminator.channels == 9


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: semantic_config(discriminator=MultiScaleConfig(channels=6)), "must be 7, label maps and picture"),
        (
            lambda: semantic_config().fit({"source": pictures(4, 64), "target": pictures(4, 64)}),
            "needs label maps as source, got pictures: use pix2pix",
        ),
        (
            lambda: semantic_config().fit({"source": label_maps(4, 40, 40), "target": pictures(4, 40)}),
            "multiples of 32 .* got 40x40",
        ),
        (lambda: PerceptualConfig(file="x", weight=-1.0), "weight must be at least 0, got -1.0"),
    ],
)
def test_what_cannot_be_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
