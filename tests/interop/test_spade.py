"""Reading the authors' weights of GauGAN: what is refused, and with which words."""

import pytest
import torch
from safetensors.torch import load_file

from frugan.interop.imported import ImportProblem, build_network
from frugan.interop.spade import LabelMaps, from_authors, kind_of
from frugan.models.spade import SpadeConfig

MAPS = LabelMaps(num_upsampling="more", resolution=64, aspect=2.0)


@pytest.fixture
def generator(fixtures_dir):
    return load_file(fixtures_dir / "gc-sub-mobile-spade-a.state.safetensors")


@pytest.fixture
def discriminator(fixtures_dir):
    return load_file(fixtures_dir / "gc-multiscaled-a.state.safetensors")


def test_kinds(generator, discriminator):
    assert (kind_of(generator), kind_of(discriminator)) == ("spade", "multiscale")
    assert kind_of({"model.1.weight": torch.zeros(1)}) is None
    with pytest.raises(ImportProblem, match="no network of GauGAN is in it"):
        from_authors({"model.1.weight": torch.zeros(1)})


def test_the_prefix_of_several_gpus_and_lost_counters(discriminator):
    config, state = from_authors(discriminator)
    parallel = {f"module.{name}": tensor for name, tensor in discriminator.items()}
    again, same = from_authors(parallel | {"module.discriminator_0.num_batches_tracked": torch.zeros(())})
    assert again == config and same.keys() == state.keys()


def test_published_label_maps_need_no_words(generator):
    generator["fc.weight"] = torch.zeros(32, 36, 3, 3)
    config, _ = from_authors(generator)
    assert isinstance(config, SpadeConfig)
    assert (config.num_labels, config.num_upsampling, config.size) == (35, "more", (256, 512))


@pytest.mark.parametrize(
    ("change", "maps", "message"),
    [
        ({}, None, "7 label maps is not published"),
        ({"fc.weight": torch.zeros(3)}, MAPS, "convolution start .our name. is missing or has no four axes"),
        ({"fc.weight": torch.zeros(33, 7, 3, 3)}, MAPS, "width of start must be a multiple of 16, got 33"),
        ({"fc.bias": "text"}, MAPS, "fc.bias must be a tensor, got str"),
        ({}, LabelMaps(num_upsampling="most", resolution=128), "'most' does not fit the 7 blocks"),
        ({}, LabelMaps(num_upsampling="more", resolution=48), "must be multiples of 64"),
    ],
)
def test_refusals(generator, change, maps, message):
    with pytest.raises(ImportProblem, match=message):
        from_authors(generator | change, maps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"up_3.conv_9.weight": torch.zeros(1)}, "does not know: blocks.up3.conv_9.weight"),
        ({"up_3.conv_0.bias": torch.zeros(9)}, "up3.conv0.bias must have the shape"),
        ({"up_3.norm_0.mlp_shared.0.weight": torch.zeros(9, 7, 3, 3)}, "up3.norm0.shared.weight must have the shape"),
    ],
)
def test_what_building_finds(generator, change, message):
    config, state = from_authors(generator | change, MAPS)
    with pytest.raises(ImportProblem, match=message):
        build_network(config, state, {}, "the generator")


def test_a_discriminator_with_a_gap(discriminator):
    state = {name.replace("discriminator_1", "discriminator_900"): tensor for name, tensor in discriminator.items()}
    config, ours = from_authors(state)
    with pytest.raises(ImportProblem, match=r"does not know: scales\.900"):
        build_network(config, ours, {}, "the discriminator")
