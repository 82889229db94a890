"""Networks of CycleGAN, pix2pix, GAN Compression and PhotoSketch: their weights under our names.

A file holds the bare weights of one network. Facts: junyanz/pytorch-CycleGAN-and-pix2pix, mit-han-lab/gan-compression,
mtli/PhotoSketch. All settings are read off the names and shapes; `tests/parity/test_translator.py` holds the networks
to the authors' numbers.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from frugan.interop.imported import ImportProblem
from frugan.models.patchgan import PatchConfig, PyramidConfig
from frugan.models.translator import ResnetConfig, UNetConfig
from frugan.ops.elastic import Norm

Kind = Literal["resnet", "unet", "layers", "pixel", "pyramid"]
AnyConfig = ResnetConfig | UNetConfig | PatchConfig | PyramidConfig
_MARKS: dict[Kind, tuple[str, int | None]] = {
    "resnet": ("model.1.weight", 7),
    "unet": ("model.model.0.weight", 4),
    "layers": ("model.0.weight", 4),
    "pixel": ("net.0.weight", 1),
    "pyramid": ("cnns.0.0.conv.weight", 4),
}
"""The weight that only a network of this kind has, and its kernel."""
_PARALLEL = "module."


def kind_of(content: Mapping[str, Any]) -> Kind | None:
    """Which network these are the weights of; None where it is none of those known here."""
    state = _bare(content)
    for kind, (name, kernel) in _MARKS.items():
        weight = state.get(name)
        if isinstance(weight, Tensor) and weight.ndim == 4 and weight.shape[2] == kernel:
            return kind
    return None


def from_authors(content: Mapping[str, Any]) -> tuple[AnyConfig, dict[str, Tensor]]:
    """The settings of a network for its weights under the authors' names, and the weights under ours.

    Dropout, which leaves no trace in the weights, is off. Sources are limited to [-1, 1], which changes nothing for
    pictures: CycleGAN, PhotoSketch and the mobile ResNet of GAN Compression do not. Statistics that old files keep for
    instance normalisation are left out: the networks never used them. Raises ImportProblem where the network is not
    known, or a weight is missing, unknown or no tensor of the right number of axes.
    """
    kind = kind_of(content)
    if kind is None:
        known = ", ".join(name for name, _ in _MARKS.values())
        raise ImportProblem(f"no translator or patch discriminator is in it: one of {known} should be there")
    taken = _Taken(_bare(content))
    match kind:
        case "resnet":
            config: AnyConfig = _resnet(taken)
        case "unet":
            config = _unet(taken)
        case "pyramid":
            config = _pyramid(taken)
        case "layers" | "pixel":
            config = _patches(taken, kind)
    taken.check_all_used()
    return config, taken.ours


def _bare(content: Mapping[str, Any]) -> dict[str, Any]:
    """The weights without the prefix that training on several GPUs may have left."""
    return {name.removeprefix(_PARALLEL): value for name, value in content.items()}


class _Taken:
    """Weights on their way from the authors' names to ours."""

    def __init__(self, theirs: Mapping[str, Any]) -> None:
        self.theirs = theirs
        self.ours: dict[str, Tensor] = {}
        self._used: set[str] = set()

    def get(self, name: str, axes: int) -> Tensor:
        value = self.theirs.get(name)
        if not isinstance(value, Tensor) or value.ndim != axes:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            problem = f"has {got}" if name in self.theirs else "is missing"
            raise ImportProblem(f"{name} {problem}: a tensor with {axes} axes is needed")
        self._used.add(name)
        return value

    def conv(self, theirs: str, ours: str, *, bias: bool = True) -> Tensor:
        """The weight of a convolution, which is taken over with its bias, of zeros where theirs has none."""
        weight = self.get(f"{theirs}.weight", 4)
        self.ours[f"{ours}.weight"] = weight
        if bias:
            self.bias(theirs, ours, weight.shape[0])
        return weight

    def bias(self, theirs: str, ours: str, count: int) -> None:
        has_bias = f"{theirs}.bias" in self.theirs
        self.ours[f"{ours}.bias"] = self.get(f"{theirs}.bias", 1) if has_bias else torch.zeros(count)

    def norm(self, theirs: str, ours: str, norm: Norm | None) -> None:
        """What a normalisation learned and keeps; left out where nothing is used of it."""
        for name in ("weight", "bias", "running_mean", "running_var"):
            if norm == "batch":
                self.ours[f"{ours}.{name}"] = self.get(f"{theirs}.{name}", 1)
            elif name.startswith("running"):
                self._used.add(f"{theirs}.{name}")
        self._used.add(f"{theirs}.num_batches_tracked")

    def norm_kind(self, conv: str, norm: str) -> Norm | None:
        """Which normalisation a network has, told by that of one layer and the bias of the convolution before it."""
        if f"{norm}.weight" in self.theirs:
            return "batch"
        return "instance" if f"{conv}.bias" in self.theirs else None

    def check_all_used(self) -> None:
        unknown = [name for name in self.theirs if name not in self._used]
        if unknown:
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise ImportProblem(f"a weight that this layout does not know: {unknown[0]}{more}")


def _resnet(taken: _Taken) -> ResnetConfig:
    norm = taken.norm_kind("model.1", "model.2")
    found = {int(match[1]) for name in taken.theirs if (match := re.match(r"model\.(\d+)\.conv_block\.", name))}
    count = len(found)
    if found != set(range(10, 10 + count)):
        raise ImportProblem(f"the residual blocks must be model.10, model.11, ..., got {sorted(found)}")
    # The second convolution comes after the dropout where there is one, be it of rate 0.
    second = next((index for index in (6, 5) if _has_conv(taken, f"model.10.conv_block.{index}")), 6)
    is_separable = "model.10.conv_block.1.conv.0.weight" in taken.theirs

    def layer(theirs: str, after: str, ours: str) -> Tensor:
        taken.norm(after, f"{ours}.norm", norm)
        if not is_separable or ".conv_block." not in theirs:
            return taken.conv(theirs, f"{ours}.conv", bias=norm != "batch")
        taken.norm(f"{theirs}.conv.1", f"{ours}.conv.norm", "instance")
        taken.conv(f"{theirs}.conv.0", f"{ours}.conv.depthwise")
        return taken.conv(f"{theirs}.conv.2", f"{ours}.conv.pointwise")

    stem, down1, trunk = (
        layer(f"model.{index}", f"model.{index + 1}", ours) for index, ours in ((1, "stem"), (4, "down1"), (7, "down2"))
    )
    inner = []
    for block in range(count):
        theirs, ours = f"model.{10 + block}.conv_block", f"blocks.{block}"
        inner.append(layer(f"{theirs}.1", f"{theirs}.2", f"{ours}.conv1").shape[0])
        layer(f"{theirs}.{second}", f"{theirs}.{second + 1}", f"{ours}.conv2")
    ups = []
    for index, ours in ((10 + count, "up1"), (13 + count, "up2")):
        taken.norm(f"model.{index + 1}", f"{ours}.norm", norm)
        weight = taken.conv(f"model.{index}", f"{ours}.conv", bias=False)
        if norm != "batch":
            taken.bias(f"model.{index}", f"{ours}.conv", weight.shape[1])
        ups.append(weight.shape[1])
    out = taken.conv(f"model.{17 + count}", "out")
    widths = (stem.shape[0], down1.shape[0], trunk.shape[0], *inner, *ups)
    config = ResnetConfig(
        width=widths[0],
        source_channels=stem.shape[1],
        channels=out.shape[0],
        num_blocks=count,
        separable=is_separable,
        norm=norm,
        widths=widths,
    )
    return config.without_list()


def _has_conv(taken: _Taken, name: str) -> bool:
    """Whether a dense or separable convolution has this name; a normalisation's weight has one axis."""
    weight = taken.theirs.get(f"{name}.weight", taken.theirs.get(f"{name}.conv.0.weight"))
    return isinstance(weight, Tensor) and weight.ndim == 4


def _unet(taken: _Taken) -> UNetConfig:
    levels = ["model.model"]
    while f"{levels[-1]}.{'1' if len(levels) == 1 else '3'}.model.1.weight" in taken.theirs:
        levels.append(f"{levels[-1]}.{'1' if len(levels) == 1 else '3'}.model")
    if len(levels) < 2:
        raise ImportProblem("model.model.1.model.1.weight is missing: a U-Net has at least two levels")
    norm = taken.norm_kind("model.model.0", f"{levels[-1]}.4")
    bias, last = norm != "batch", len(levels) - 1
    downs: list[int] = []
    for index, level in enumerate(levels):
        weight = taken.conv(f"{level}.{1 if index else 0}", f"downs.{index}.conv", bias=bias)
        downs.append(weight.shape[0])
        if 0 < index < last:
            taken.norm(f"{level}.2", f"downs.{index}.norm", norm)
    ups: list[int] = []
    for index in range(last, -1, -1):
        ours = f"ups.{last - index}" if index else "out"
        place = 3 if index in (0, last) else 5
        theirs = f"{levels[index]}.{place}"
        weight = taken.get(f"{theirs}.weight", 4)
        if index < last:  # the maps of the way down come first
            taken.ours[f"{ours}.skip.weight"], weight = weight[: downs[index]], weight[downs[index] :]
        taken.ours[f"{ours}.below.weight"] = weight
        ups.append(weight.shape[1])
        if bias or not index:
            taken.bias(theirs, f"{ours}.below", weight.shape[1])
        if index:
            taken.norm(f"{levels[index]}.{place + 1}", f"{ours}.norm", norm)
    first = taken.get("model.model.0.weight", 4)
    config = UNetConfig(
        width=downs[0],
        source_channels=first.shape[1],
        channels=ups.pop(),
        num_downs=len(levels),
        norm=norm,
        dropout=0.0,
        widths=(*downs, *ups),
    )
    return config.without_list()


def _patches(taken: _Taken, kind: Literal["layers", "pixel"]) -> PatchConfig:
    stem = "model" if kind == "layers" else "net"
    norm = taken.norm_kind(f"{stem}.2", f"{stem}.3")
    places = [
        int(match[1])
        for name, value in taken.theirs.items()
        if isinstance(value, Tensor) and value.ndim == 4 and (match := re.fullmatch(stem + r"\.(\d+)\.weight", name))
    ]
    *hidden, last = sorted(places)
    widths = []
    for index, place in enumerate(hidden):
        ours = f"layers.{index}"
        weight = taken.conv(f"{stem}.{place}", f"{ours}.conv", bias=not index or norm != "batch")
        widths.append(weight.shape[0])
        if index:
            taken.norm(f"{stem}.{place + 1}", f"{ours}.norm", norm)
    taken.conv(f"{stem}.{last}", "out")
    config = PatchConfig(
        kind=kind,
        channels=taken.get(f"{stem}.0.weight", 4).shape[1],
        width=widths[0],
        num_layers=len(hidden) - 1 if kind == "layers" else 3,
        norm=norm,
        widths=tuple(widths),
    )
    return config.without_list()


def _pyramid(taken: _Taken) -> PyramidConfig:
    places = [match for name in taken.theirs if (match := re.match(r"cnns\.(\d+)\.(\d+)\.", name))]
    num_scales, num_layers = (max(int(match[group]) for match in places) + add for group, add in ((1, 1), (2, 0)))
    for scale in range(num_scales):
        for index in range(num_layers):
            taken.conv(f"cnns.{scale}.{index}.conv", f"scales.{scale}.{index}.conv")
        taken.conv(f"cnns.{scale}.{num_layers}", f"scales.{scale}.{num_layers}")
    width, channels = taken.get("cnns.0.0.conv.weight", 4).shape[:2]
    return PyramidConfig(channels=channels, width=width, num_layers=num_layers, num_scales=num_scales)
