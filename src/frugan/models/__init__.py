"""The architectures: settings in, network out."""

from typing import Any

from torch import nn

from frugan.models import progan, stylegan2

KINDS: dict[str, type[Any]] = {
    "stylegan2": stylegan2.StyleGAN2Config,
    "stylegan2_discriminator": stylegan2.StyleGAN2DiscriminatorConfig,
    "progan": progan.ProGANConfig,
    "progan_discriminator": progan.ProGANDiscriminatorConfig,
}
"""The settings class of each kind of network, by the name that checkpoints store."""


def build(config: Any) -> nn.Module:
    """A new network for its settings, with weights drawn from torch's global generator."""
    match config:
        case stylegan2.StyleGAN2Config():
            return stylegan2.Generator(config)
        case stylegan2.StyleGAN2DiscriminatorConfig():
            return stylegan2.Discriminator(config)
        case progan.ProGANConfig():
            return progan.ProGANGenerator(config)
        case progan.ProGANDiscriminatorConfig():
            return progan.ProGANDiscriminator(config)
        case _:
            known = ", ".join(cls.__name__ for cls in KINDS.values())
            raise ValueError(f"settings of a network are needed ({known}), got {type(config).__name__}")
