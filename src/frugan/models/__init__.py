"""The architectures: settings in, network out."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from frugan.models import biggan, multiscale, patchgan, progan, spade, stylegan2, stylegan2_discriminator, translator

KINDS: dict[str, type[Any]] = {
    "stylegan2": stylegan2.StyleGAN2Config,
    "stylegan2_discriminator": stylegan2_discriminator.StyleGAN2DiscriminatorConfig,
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
    stylegan2_discriminator.StyleGAN2DiscriminatorConfig: stylegan2_discriminator.Discriminator,
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


class _NothingDrawn(TorchFunctionMode):
    """Leaves out normal draws, divisions by one number and outer products. On the meta device they mean nothing but a
    shape, and the first of them makes torch import its compiler (two seconds).
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.randn:
            return torch.empty(*args, **(kwargs or {}))
        if function is torch.outer:
            return torch.empty(len(args[0]), len(args[1]))
        is_by_one = function is Tensor.div and (not isinstance(args[1], Tensor) or args[1].ndim == 0)
        if function is Tensor.normal_ or is_by_one:
            return args[0]
        return function(*args, **(kwargs or {}))


def outline(config: Any) -> nn.Module:
    """The network of these settings without weights, all of it on the meta device; torch's random state stays as it is.

    Raises ValueError for unknown settings.
    """
    with torch.device("meta"), _NothingDrawn():
        return build(config)


def restore(config: Any, state: Mapping[str, Tensor]) -> nn.Module:
    """The network of these settings with these weights, which it takes over without a copy where it can.

    Nothing is drawn for weights that are given anyway: orthogonal ones take seconds. torch's random state is left as it
    was. Raises ValueError for unknown settings, RuntimeError for weights that do not fit.
    """
    net = outline(config)
    net.load_state_dict(state, assign=True)
    if any(buffer.is_meta for buffer in net.buffers()):  # constants that are not stored
        with torch.random.fork_rng(devices=[]):
            net = build(config)
        net.load_state_dict(state)
    return net
