"""The traced graph: plain operations only. What it computes: test_package."""

import pytest
import torch
from torch import nn

from frugan.export.graph import ExportedGenerator, inputs_of, trace
from frugan.models.stylegan2 import Generator, StyleGAN2Config


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    config = StyleGAN2Config(
        resolution=8, channel_base=32, channel_max=6, z_dim=5, w_dim=4, mapping_layers=1, num_classes=2
    )
    generator = Generator(config)
    generator.mapping.w_avg.normal_()
    for layer in generator.synthesis.layers():
        nn.init.constant_(layer.noise_strength, 0.3)
    return generator


def test_the_graph_holds_plain_operations_and_convolutions_without_groups(generator: Generator) -> None:
    was_training = generator.training
    program = trace(generator)
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    targets = [node.target for node in calls]
    # An autograd function of our own would come as a higher-order operator, a layout hint as a copy.
    assert all(isinstance(target, torch._ops.OpOverload) or "getitem" in str(target) for target in targets)
    assert not [target for target in targets if "backward" in str(target) or "autograd" in str(target)]
    places = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    assert len({str(places[name].shape[0]) for name in ("z", "w_shift", "labels")}) == 1
    assert isinstance(places["z"].shape[0], torch.SymInt)
    assert generator.training is was_training
    assert all(parameter.requires_grad for parameter in generator.parameters())


def test_inputs_mean_what_they_say(generator: Generator) -> None:
    graph = ExportedGenerator(generator)
    inputs = inputs_of(generator, 3)
    with torch.no_grad():
        labels = inputs["labels"]
        images, w = graph(**inputs)
        assert torch.allclose(images, generator(inputs["z"], labels), atol=1e-5)
        psi = torch.tensor([0.5, 0.5, 1, 1])
        tamed, _ = graph(**{**inputs, "psi": psi})
        assert torch.allclose(tamed, generator(inputs["z"], labels, psi=0.5, cutoff=2), atol=1e-5)
        quiet, _ = graph(**{**inputs, "noise_strength": torch.tensor(0.0)})
        assert torch.allclose(quiet, generator(inputs["z"], labels, noise="none"), atol=1e-5)
        assert not torch.allclose(quiet, images, atol=1e-3)
        shift = torch.randn_like(w)
        moved, other = graph(**{**inputs, "w_shift": shift})
        assert torch.allclose(other, w + shift)
        assert torch.allclose(moved, generator.synthesis(w + shift), atol=1e-5)
