"""GauGAN's networks, SPADE generator and multi-scale discriminator: the authors' weights under our names.

A file holds the bare weights of one network. Facts: NVlabs/SPADE, mit-han-lab/gan-compression (dense as trained or
folded, mobile, supernet, exported).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from frugan.interop.imported import ImportProblem
from frugan.models.multiscale import MultiScaleConfig
from frugan.models.spade import SpadeConfig, Upsampling

Kind = Literal["spade", "multiscale"]
_MARKS: dict[Kind, str] = {
    "spade": "head_0.norm_0.mlp_shared.0.weight",
    "multiscale": "discriminator_0.model0.0.weight",
}
"""The weight that only a network of this kind has."""
_PARALLEL = "module."
_UNUSED = "num_batches_tracked"
_SPECTRAL = (("weight_orig", "weight"), ("weight_u", "u"), ("weight_v", "v"))
_LAYERS = {"fc": "start", "head_0": "head", "G_middle_0": "middle0", "G_middle_1": "middle1", "conv_img": "out"}
_PARTS = {
    "conv_0": "conv0",
    "conv_1": "conv1",
    "conv_s": "skip",
    "norm_0": "norm0",
    "norm_1": "norm1",
    "norm_s": "norm_skip",
    "mlp_shared": "shared",
    "mlp_gamma": "gamma",
    "mlp_beta": "beta",
}


@dataclass(frozen=True, kw_only=True)
class LabelMaps:
    """What the weights of a generator do not tell: how often it doubles, the pictures' height and their aspect, and
    whether the last map is that of the edges.
    """

    num_upsampling: Upsampling
    resolution: int
    aspect: float = 1.0
    has_edges: bool = True


PUBLISHED = {
    36: LabelMaps(num_upsampling="more", resolution=256, aspect=2.0),
    184: LabelMaps(num_upsampling="normal", resolution=256),
}
"""The label maps of the published generators, by the number of their maps: Cityscapes and COCO-Stuff."""


def kind_of(content: Mapping[str, Any]) -> Kind | None:
    """Which network these are the weights of; None where it is none of those known here."""
    state = _bare(content)
    return next((kind for kind, name in _MARKS.items() if isinstance(state.get(name), Tensor)), None)


def from_authors(
    content: Mapping[str, Any], maps: LabelMaps | None = None
) -> tuple[SpadeConfig | MultiScaleConfig, dict[str, Tensor]]:
    """The settings of a network for its weights under the authors' names, and the weights under ours.

    For a generator `maps` tells what its weights do not; None: what the published ones with as many maps have.
    Running statistics that are wider than their layer, as the authors export them, are cut to it. Names that this
    layout does not know are left as they are. Raises ImportProblem where the network is not known, lacks a weight that
    tells a setting, or has settings that do not fit.
    """
    kind = kind_of(content)
    if kind is None:
        raise ImportProblem(f"no network of GauGAN is in it: one of {', '.join(_MARKS.values())} should be there")
    state = {name: value for name, value in _bare(content).items() if not name.endswith(_UNUSED)}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ImportProblem(f"{name} must be a tensor, got {type(value).__name__}")
    if kind == "multiscale":
        ours = {_discriminator_name(name): value for name, value in state.items()}
        return _discriminator(ours), ours
    ours = {_generator_name(name): value for name, value in state.items()}
    for name, value in ours.items():
        if "running_" in name:
            ours[name] = value.flatten()[: _outputs(ours, f"{name.rpartition('.')[0]}.gamma")]
    return _generator(ours, maps), ours


def _bare(content: Mapping[str, Any]) -> dict[str, Any]:
    """The weights without the prefix that training on several GPUs may have left."""
    return {str(name).removeprefix(_PARALLEL): value for name, value in content.items()}


def _generator_name(theirs: str) -> str:
    layer, *parts = _plain(theirs).split(".")
    if layer in ("fc", "conv_img"):
        return ".".join([_LAYERS[layer], *parts])
    layer = _LAYERS.get(layer, re.sub(r"^up_(\d)$", r"up\1", layer))
    name = ".".join(["blocks", layer, *(_PARTS.get(part, part) for part in parts)])
    name = name.replace(".param_free_norm.", ".").replace(".shared.0.", ".shared.")
    return name.replace("a.conv.0.", "a.depthwise.").replace("a.conv.2.", "a.pointwise.")


def _discriminator_name(theirs: str) -> str:
    return re.sub(r"^discriminator_(\d+)\.model(\d+)(?:\.0)+\.", r"scales.\1.convs.\2.", _plain(theirs))


def _plain(name: str) -> str:
    """The name with what torch's spectral normalisation keeps under our names."""
    for theirs, ours in _SPECTRAL:
        name = name.removesuffix(theirs) + ours if name.endswith(f".{theirs}") else name
    return name


def _weight(ours: Mapping[str, Any], name: str) -> Tensor:
    weight = ours.get(f"{name}.weight")
    if not isinstance(weight, Tensor) or weight.ndim != 4:
        raise ImportProblem(f"the convolution {name} (our name) is missing or has no four axes")
    return weight


def _outputs(ours: Mapping[str, Any], name: str) -> int:
    """How many maps a convolution gives, which may be separable."""
    return _weight(ours, f"{name}.pointwise" if f"{name}.pointwise.weight" in ours else name).shape[0]


def _generator(ours: Mapping[str, Any], maps: LabelMaps | None) -> SpadeConfig:
    start, out = _weight(ours, "start"), _weight(ours, "out")
    if maps is None and start.shape[1] not in PUBLISHED:
        known = " and ".join(str(count) for count in PUBLISHED)
        raise ImportProblem(
            f"a generator of {start.shape[1]} label maps is not published (those have {known}): its weights do not "
            "tell its size and how often it doubles"
        )
    maps = maps or PUBLISHED[start.shape[1]]
    names = ["head", "middle0", "middle1", "up0", "up1", "up2", "up3"]
    if "blocks.up4.conv0.weight" in ours:
        names.append("up4")
    if ("up4" in names) != (maps.num_upsampling == "most"):
        raise ImportProblem(f"num_upsampling {maps.num_upsampling!r} does not fit the {len(names)} blocks in it")
    blocks = [_weight(ours, f"blocks.{name}.conv0") for name in names]
    widths = (start.shape[0], *(block.shape[0] for block in blocks))
    try:
        config = SpadeConfig(
            width=widths[7],
            num_labels=start.shape[1] - maps.has_edges,
            has_edges=maps.has_edges,
            channels=out.shape[0],
            num_upsampling=maps.num_upsampling,
            resolution=maps.resolution,
            aspect=maps.aspect,
            separable="blocks.head.norm0.gamma.depthwise.weight" in ours,
            spectral="blocks.head.conv0.u" in ours,
            widths=widths,
        )
    except ValueError as problem:
        raise ImportProblem(f"the generator's settings do not fit: {problem}") from problem
    return config.without_list()


def _discriminator(ours: dict[str, Any]) -> MultiScaleConfig:
    found = [match for name in ours if (match := re.match(r"scales\.(\d+)\.convs\.(\d+)\.weight$", name))]
    num_scales = len({match[1] for match in found})
    last = len({match[2] for match in found}) - 1
    for name in [name for name in ours if f".convs.{last}." in name]:
        ours[name.replace(f".convs.{last}.", ".out.")] = ours.pop(name)
    first = _weight(ours, "scales.0.convs.0")
    try:
        return MultiScaleConfig(
            channels=first.shape[1],
            width=first.shape[0],
            num_layers=last,
            num_scales=num_scales,
            norm="scales.0.convs.1.bias" not in ours,
            spectral="scales.0.convs.1.u" in ours,
        )
    except ValueError as problem:
        raise ImportProblem(f"the discriminator's settings do not fit: {problem}") from problem
