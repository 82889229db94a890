"""The tasks of translation give the losses of the published code, for the same networks and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from frugan.interop import spade, translators
from frugan.training.door import Batch, Draw, Share, Shared, Stats, Step
from frugan.training.tasks.cycle import CycleConfig
from frugan.training.tasks.semantic import SemanticConfig
from frugan.training.tasks.translate import PairedConfig
from tests.training.rig import ALONE


def part(state: Mapping[str, Tensor], role: str) -> dict[str, Tensor]:
    """The weights of one network, under the authors' names."""
    return {key.removeprefix(f"{role}/"): value for key, value in state.items() if key.startswith(f"{role}/")}


def read(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return load_file(folder / f"{name}.state.safetensors"), load_file(folder / f"{name}.io.safetensors")


def losses(task: Any, source: Tensor, target: Tensor) -> dict[str, float]:
    """The mean of each term of each phase."""
    count = len(source)
    indices = torch.arange(count)
    batch = {"source": Batch(source, None, indices), "target": Batch(target, None, indices)}
    step = Step(task.plan(0), 0, ALONE, Stats())
    task.begin(step, Shared((0,)))
    found = {}
    for phase in step.plan.phases:
        draw = Draw((0, phase.name), ALONE.device, Share(count))
        for terms in task.losses(phase, step, batch, draw):
            found |= {f"{phase.name}/{name}": float(term.mean().detach()) for name, term in terms.items()}
    return found


def near(value: Tensor) -> Any:
    return pytest.approx(float(value), rel=1e-5, abs=1e-6)


def fill(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    net.load_state_dict(dict(state))


def test_pix2pix(fixtures_dir: Path) -> None:
    state, data = read(fixtures_dir, "gc-distill-aligned-a")
    (generator, weights), (judge, judged) = (translators.from_authors(part(state, role)) for role in ("student", "D"))
    task = PairedConfig(generator=generator, discriminator=judge).build({}, 2)
    fill(task.generator, weights)
    fill(task.discriminator, judged)
    found = losses(task, data["real_A"], data["real_B"])
    assert found["discriminator/loss"] == near(data["loss_D"])
    assert found["generator/loss"] == near(data["loss_G_gan"])
    assert found["generator/reconstruction"] == near(data["loss_G_recon"])


def test_cyclegan(fixtures_dir: Path) -> None:
    """One direction: least squares on pictures alone, the discriminator's halved."""
    state, data = read(fixtures_dir, "gc-distill-unaligned-a")
    (generator, weights), (judge, judged) = (translators.from_authors(part(state, role)) for role in ("student", "D"))
    task = CycleConfig(generator=generator, discriminator=judge).build({}, 2)
    fill(task.nets["generator"], weights)
    fill(task.nets["discriminator"], judged)
    found = losses(task, data["real_A"], data["real_B"])
    assert found["discriminators/discriminator"] == near(data["loss_D"])
    assert found["generators/generator_adversarial"] == near(data["loss_G_gan"])


def test_gaugan(fixtures_dir: Path) -> None:
    """Hinge over two scales, not halved, and feature matching; by running statistics."""
    state, data = read(fixtures_dir, "gc-distill-spade-a")
    maps = data["semantics_uint8"]
    labels = torch.cat([maps[:, :-1].argmax(dim=1, keepdim=True).to(torch.uint8), maps[:, -1:]], dim=1)
    layout = spade.LabelMaps(num_upsampling="more", resolution=64, aspect=2.0)
    generator, weights = spade.from_authors(part(state, "student"), layout)
    judge, judged = spade.from_authors(part(state, "D"))
    task = SemanticConfig(generator=generator, discriminator=judge).build({}, 2)
    fill(task.generator, weights)
    fill(task.discriminator, judged)
    task.generator.eval()
    assert torch.equal(task.generator.read(labels), maps.float())
    found = losses(task, labels, data["real_B"])
    assert found["generator/loss"] == near(data["eval.G_gan"])
    assert found["generator/feature_matching"] == near(data["eval.G_feat"])
    assert found["discriminator/loss"] == near(data["eval.loss_D"])
