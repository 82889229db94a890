"""Images per second of the StyleGAN2 networks, ours and the textbook ones, side by side.

    python -m benchmarks.networks [--size small] [--batch 16] [--threads 2] [--seconds 40]

The two take turns and the fastest turn of each counts, so that a busy machine slows both alike. A training image costs
one discriminator step on a fake and a real, one generator step, and R1 every 16th step, without optimisers and data.
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import textbook
from frugan.models import stylegan2

SIZES = {
    "small": {"resolution": 64, "channel_base": 2048, "channel_max": 128},
    "medium": {"resolution": 128, "channel_base": 8192, "channel_max": 256},
}


def networks(size: str, ours: bool) -> tuple[nn.Module, nn.Module]:
    settings = SIZES[size]
    width = settings["channel_max"]
    config = stylegan2.StyleGAN2Config(z_dim=width, w_dim=width, mapping_layers=2, **settings)
    judge = stylegan2.StyleGAN2DiscriminatorConfig(**settings)
    torch.manual_seed(0)
    if ours:
        return stylegan2.Generator(config), stylegan2.Discriminator(judge)
    return textbook.Generator(config), textbook.Discriminator(judge)


def steps(generator: nn.Module, discriminator: nn.Module, batch: int, z_dim: int) -> dict[str, Callable[[], None]]:
    resolutions = [r for r in generator.synthesis.resolutions] if False else None
    raise NotImplementedError
