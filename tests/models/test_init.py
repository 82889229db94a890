import subprocess
import sys

import pytest
import torch

from frugan import models
from frugan.config import from_dict, to_dict
from frugan.models import patchgan, progan, stylegan2, stylegan2_discriminator, translator

CONFIGS = [
    stylegan2.StyleGAN2Config(resolution=8, channel_max=4, widths=(4, 3, 2, 4), conv_clamp=256.0),
    stylegan2_discriminator.StyleGAN2DiscriminatorConfig(resolution=8, channel_max=4, stddev_group=None),
    progan.ProGANConfig(resolution=8, widths=(4, 3), norm="batch", label_order="before", num_classes=2),
    progan.ProGANDiscriminatorConfig(resolution=8, channel_max=4, norm="layer", discrimination_kernels=3, stddev_at=8),
    translator.ResnetConfig(
        num_blocks=2, separable=True, widths=(1, 2, 3, 4, 5, 6, 7), norm="batch", clamp_input=False
    ),
    translator.UNetConfig(width=2, num_downs=3, norm=None, dropout=0.25, source_channels=1),
    patchgan.PatchConfig(kind="pixel", widths=(3, 2), norm="batch", channels=6),
    patchgan.PyramidConfig(width=2, num_layers=2, num_scales=2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_network_is_rebuilt_from_its_plain_settings(config):
    name = {cls: name for name, cls in models.KINDS.items()}[type(config)]
    again = from_dict(models.KINDS[name], to_dict(config))
    assert again == config
    torch.manual_seed(3)
    one = models.build(config).state_dict()
    torch.manual_seed(3)
    two = models.build(again).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_build_refuses_other_settings():
    with pytest.raises(ValueError, match=r"settings of a network are needed.*got dict"):
        models.build({"resolution": 8})


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_an_outline_has_the_names_and_shapes_and_draws_nothing(config):
    state = torch.random.get_rng_state()
    outline = models.outline(config).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {key: value.shape for key, value in outline.items()} == {
        key: value.shape for key, value in models.build(config).state_dict().items()
    }


def test_loading_the_bundled_model_leaves_the_compiler_out():
    """Random numbers on the meta device make torch import its compiler, which takes longer than all the rest."""
    code = "import sys, frugan; frugan.load('demo').sample([0]); assert 'torch._dynamo' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
