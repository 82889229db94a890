"""The architectures: settings in, network out."""

from collections.abc import Callable
from typing import Any

from torch import nn

from frugan.models import biggan, multiscale, patchgan, progan, spade, stylegan2, translator

KINDS: dict[str, type[Any]] = {
    "stylegan2": stylegan2.StyleGAN2Config,
    "stylegan2_discriminator": stylegan2.StyleGAN2DiscriminatorConfig,
    "progan": progan.ProGANConfig,
    "progan_discriminator": progan.ProGANDiscriminatorConfig,
    "resnet_translator": translator.ResnetConfig,
    "unet_translator": translator.UNetConfig,
    "patch_discriminator": patchgan.PatchConfig,
    "pyramid_discriminator": patchgan.PyramidConfig,
    "spade": spade.SpadeConfig,
    "multiscale_discriminator": multiscale.MultiScaleConfig,
    "biggan": biggan.BigGANConfig,
    "biggan_discriminator": biggan.BigGANDiscriminatorConfig,
}
"""The settings class of each kind of network, by the name that checkpoints store."""


_NETWORKS: dict[type[Any], Callable[[Any], nn.Module]] = {
    stylegan2.StyleGAN2Config: stylegan2.Generator,
    stylegan2.StyleGAN2DiscriminatorConfig: stylegan2.Discriminator,
    progan.ProGANConfig: progan.ProGANGenerator,
    progan.ProGANDiscriminatorConfig: progan.ProGANDiscriminator,
    translator.ResnetConfig: translator.ResnetTranslator,
    translator.UNetConfig: translator.UNetTranslator,
    patchgan.PatchConfig: patchgan.PatchDiscriminator,
    patchgan.PyramidConfig: patchgan.PyramidDiscriminator,
    spade.SpadeConfig: spade.SpadeTranslator,
    multiscale.MultiScaleConfig: multiscale.MultiScaleDiscriminator,
    biggan.BigGANConfig: biggan.BigGANGenerator,
    biggan.BigGANDiscriminatorConfig: biggan.BigGANDiscriminator,
}


def build(config: Any) -> nn.Module:
    """A new network for its settings, with weights drawn from torch's global generator."""
    if type(config) not in _NETWORKS:
        known = ", ".join(cls.__name__ for cls in KINDS.values())
        raise ValueError(f"settings of a network are needed ({known}), got {type(config).__name__}")
    return _NETWORKS[type(config)](config)
