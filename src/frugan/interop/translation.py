"""Models that translate, from the files of CycleGAN, pix2pix, GAN Compression and GauGAN: one network or a folder full.

Which network a file holds is told by its content. Only which of two generators goes from A to B no weight tells: there
the order of the file names decides, as theirs have it (`..._net_G_A`, `..._net_G_B`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from frugan.interop import spade, translators
from frugan.interop.imported import Foreign, ImportProblem, build_network
from frugan.models.generator import ImageTranslator
from frugan.models.patchgan import PatchDiscriminator, PyramidDiscriminator
from frugan.models.spade import SpadeTranslator

Content = Mapping[str, Any]

_UNKNOWN = "those of whoever trained these weights: ask them before you use or share pictures and models"
LICENCES = {
    "pix2pix": f"{_UNKNOWN}. The code of CycleGAN, pix2pix and GAN Compression is BSD; the sets they learned from have "
    "terms of their own.",
    "gaugan": f"{_UNKNOWN}. The code and the published weights of GauGAN (SPADE) are NVIDIA's, under CC BY-NC-SA 4.0: "
    "not commercially, and so is what you fine-tune or distil from them.",
}
_NAMES = {
    "resnet_translator": "ResNet translator (CycleGAN, pix2pix, GAN Compression)",
    "unet_translator": "U-Net translator (pix2pix)",
    "spade": "SPADE translator (GauGAN, GAN Compression)",
}


def holds(content: Content) -> bool:
    """Whether these are the weights of a network that is read here."""
    return spade.kind_of(content) is not None or translators.kind_of(content) is not None


def read(files: Sequence[tuple[str, Content]]) -> Foreign:
    """The networks in these files, each (name, weights): a generator, or two of a CycleGAN; and what judges them.

    Raises ImportProblem where there is no generator or there are more than two, or a weight does not fit.
    """
    nets = [(name, _network(name, content)) for name, content in sorted(files, key=lambda file: file[0])]
    generators = [(name, net) for name, net in nets if isinstance(net, ImageTranslator)]
    judges = [(name, net) for name, net in nets if not isinstance(net, ImageTranslator)]
    if not generators:
        raise ImportProblem(f"only discriminators are in it ({_names(judges)}): the generator's file is needed too")
    if len(generators) > 2:
        raise ImportProblem(f"it holds {len(generators)} generators ({_names(generators)}): give the file of one")
    (name, generator), *others = generators
    notes = []
    if others:
        notes.append(f"{name} is taken for one direction, {others[0][0]} for the other (--reverse), by their names")
    judge, note = _judge(generator, judges)
    family = "gaugan" if isinstance(generator, SpadeTranslator) else "pix2pix"
    return Foreign(
        family=_NAMES.get(generator.family, generator.family),
        licence=LICENCES[family],
        generator=generator,
        discriminator=judge,
        notes=(*notes, *note),
        facts={"files": [name for name, _ in nets]},
        reverse=others[0][1] if others else None,
    )


def _names(nets: Sequence[tuple[str, nn.Module]]) -> str:
    return ", ".join(name for name, _ in nets)


def _network(name: str, content: Content) -> nn.Module:
    reader = spade if spade.kind_of(content) is not None else translators
    try:
        config, state = reader.from_authors(content)
    except ImportProblem as problem:
        raise ImportProblem(f"{name}: {problem}") from problem
    return build_network(config, state, {}, name)


def _judge(
    generator: ImageTranslator, judges: Sequence[tuple[str, nn.Module]]
) -> tuple[nn.Module | None, tuple[str, ...]]:
    """The discriminator that fits the generator, the first by name; and what to say about others."""
    if not judges:
        return None, ("without a discriminator: training cannot go on as it was",)
    config = generator.config
    alone, both = config.channels, config.source_channels + config.channels
    fitting = []
    for name, net in judges:
        if not isinstance(net, PatchDiscriminator | PyramidDiscriminator) or net.config.channels in (alone, both):
            fitting.append((name, net))
    if not fitting:
        return None, (f"{_names(judges)} judges pictures of other channels and was left out",)
    left = [name for name, _ in judges if name != fitting[0][0]]
    return fitting[0][1], (f"{', '.join(left)} was left out",) if left else ()
