"""Half-precision features stay in one layout, whatever is differentiated: mixed ones cost a card several times more."""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from frugan.losses.regularize import path_length_penalty, path_lengths, r1_penalty
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.models.stylegan2_discriminator import Discriminator, StyleGAN2DiscriminatorConfig
from frugan.ops import banded

SIZE = {"resolution": 32, "channel_base": 512, "channel_max": 16, "conv_clamp": 256.0, "num_half_resolutions": 2}


class Layouts(TorchDispatchMode):
    """Notes the operations on feature maps of half precision, and those with maps that are not channels-last."""

    def __init__(self):
        super().__init__()
        self.count, self.strays = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        maps = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor) and is_map(x)]
        if maps and not func.is_view:
            self.count += 1
            if not all(x.is_contiguous(memory_format=torch.channels_last) for x in maps):
                self.strays.append((str(func), sys._getframe(1).f_code.co_name, [(x.shape, x.stride()) for x in maps]))
        return result


def is_map(x):
    """Features of at least 16 x 16 pixels; numbers that are only repeated are as good in any layout."""
    is_spread = x.ndim == 4 and min(x.shape[2:]) >= 15 and x.shape[1] > 3 and 0 not in x.stride()
    return is_spread and x.dtype == torch.bfloat16


@pytest.fixture
def layouts(monkeypatch):
    monkeypatch.setattr(banded, "suits", lambda x, up: x.dtype == torch.bfloat16)
    return Layouts()


@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_the_generator_keeps_one_layout(layouts, architecture):
    torch.manual_seed(0)
    config = StyleGAN2Config(z_dim=8, w_dim=8, mapping_layers=1, architecture=architecture, **SIZE)
    net = Generator(config)
    with layouts:
        w = net.mapping(torch.randn(2, 8), None)
        images = net.synthesis(w, dtype=torch.bfloat16)
        lengths = path_lengths(images, w, torch.randn(*images.shape))
        path_length_penalty(lengths, torch.ones(())).sum().backward()
    assert layouts.count > 80
    assert layouts.strays == []


@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_the_discriminator_keeps_one_layout(layouts, architecture):
    torch.manual_seed(0)
    net = Discriminator(StyleGAN2DiscriminatorConfig(architecture=architecture, **SIZE))
    images = torch.randn(4, 3, 32, 32).requires_grad_()
    with layouts:
        logits = net(images, dtype=torch.bfloat16)
        (r1_penalty(logits, images).sum() + logits.sum()).backward()
    assert layouts.count > 80
    assert layouts.strays == []
