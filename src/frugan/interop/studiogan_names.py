"""The names of PyTorch-StudioGAN's weights, and ours for them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from frugan.interop.imported import ImportProblem
from frugan.models.ladder import Blocks

Content = Mapping[str, Any]
State = dict[str, Tensor]

_PARALLEL = "module."
_UNUSED = "num_batches_tracked"
_DEPTH = 2
BOTTOM = 4
_TOPS = {
    "linear0": "start",
    "shared": "classes",
    "info_mix_linear": "codes_layer",
    "info_proj_linear": "codes_layer",
    "bn4": "norm",
    "conv2d5": "out",
    "conv4": "out",
    "input_conv": "stem",
    "conv1": "end",
    "bn1": "norm",
    "linear1": "head.out",
    "info_discrete_linear": "head.codes.discrete",
    "info_conti_mu_linear": "head.codes.mean",
    "info_conti_var_linear": "head.codes.log_variance",
}
_ATTENTION = {
    "conv1x1_theta": "query",
    "conv1x1_phi": "key",
    "conv1x1_g": "value",
    "conv1x1_attn": "out",
    "sigma": "strength",
}
_RESIDUAL = {
    "bn0": "norm_skip",
    "bn1": "norm1",
    "bn2": "norm2",
    "conv2d0": "skip",
    "conv2d1": "conv1",
    "conv2d2": "conv2",
}
_DEEP = {
    "conv2d0": "skip",
    **{f"bn{index + 1}": f"norms.{index}" for index in range(4)},
    **{f"conv2d{index + 1}": f"convs.{index}" for index in range(4)},
}
_PLAIN_UP = {"deconv0": "conv", "bn0": "norm"}
_PLAIN_DOWN = {"conv0": "conv1", "conv1": "conv2", "bn0": "norm1", "bn1": "norm2"}
_SUFFIXES = {
    "weight_orig": "weight",
    "weight_u": "u",
    "weight_v": "v",
    "parametrizations.weight.original": "weight",
    "parametrizations.weight.0._u": "u",
    "parametrizations.weight.0._v": "v",
}


def bare(content: Content) -> dict[str, Any]:
    """The weights by name, without the table around them or the prefix that several GPUs may have left."""
    inner = content.get("state_dict")
    state = inner if isinstance(inner, Mapping) else content
    return {str(name).removeprefix(_PARALLEL): value for name, value in state.items()}


def _has(state: Mapping[str, Any], layer: str) -> bool:
    """Whether a layer of this name has a weight, normalised or not."""
    ends = ("weight", "weight_orig", "parametrizations.weight.original")
    return any(isinstance(state.get(f"{layer}.{end}"), Tensor) for end in ends)


def _has_blocks(state: Mapping[str, Any]) -> bool:
    return any(re.match(r"blocks\.0\.0\.(conv|deconv)", name) for name in state)


def is_generator(state: Mapping[str, Any]) -> bool:
    """Whether these are a generator's weights."""
    return _has(state, "linear0") and _has_blocks(state)


def is_discriminator(state: Mapping[str, Any]) -> bool:
    """Whether these are a discriminator's weights."""
    return _has(state, "linear1") and _has_blocks(state) and not _has(state, "linear0")


@dataclass(frozen=True)
class Named:
    """One network's weights under our names; `theirs` has their name of each."""

    state: State
    theirs: dict[str, str]
    blocks: Blocks
    places: tuple[int, ...]
    """Those of the blocks."""
    attentions: tuple[int, ...]
    """How many blocks come before each attention."""

    @property
    def each(self) -> int:
        """How many blocks a step has."""
        return _DEPTH if self.blocks in ("deep", "deep_legacy") else 1

    @property
    def num_steps(self) -> int:
        """How many steps there are. Raises ImportProblem where a block is left over."""
        if len(self.places) % self.each:
            raise ImportProblem(f"BigGAN-deep is read with two blocks for each size, got {len(self.places)} in all")
        return len(self.places) // self.each

    def shape(self, name: str) -> tuple[int, ...]:
        """That of a weight. Raises ImportProblem where there is none."""
        if name not in self.state or self.state[name].ndim < 2:
            raise ImportProblem(f"it lacks the weight {self.theirs.get(name, name)}")
        return tuple(self.state[name].shape)

    def outputs(self) -> tuple[int, ...]:
        """Those of each block."""
        if self.blocks == "deep_conv" and "start.weight" in self.state:
            return tuple(self.shape(f"stages.{place}.conv.weight")[1] for place in self.places)
        last = "convs.3" if self.each > 1 else "conv2"
        return tuple(self.shape(f"stages.{place}.{last}.weight")[0] for place in self.places)

    def first_norm(self) -> str:
        """The name of a generator's first normalisation."""
        return f"stages.0.{'norm' if self.blocks == 'deep_conv' else 'norms.0' if self.each > 1 else 'norm1'}"

    def norm(self) -> Literal["spectral", "batch"] | None:
        """How a discriminator is normalised."""
        if "head.out.u" in self.state:
            return "spectral"
        return "batch" if any(name.endswith("running_mean") for name in self.state) else None

    def attention(self, resolutions: Sequence[int]) -> tuple[int, ...]:
        """The resolutions with attention, from those after each step. Raises ImportProblem for any other place."""
        found = []
        for before in self.attentions:
            step = before // self.each
            if before % self.each or not step or resolutions.index(resolutions[step - 1]) != step - 1:
                raise ImportProblem(f"there is attention after {before} blocks, where no size begins")
            found.append(resolutions[step - 1])
        return tuple(found)


def named(state: Mapping[str, Any], generates: bool) -> Named:
    """A generator's or discriminator's weights under our names; names that are not known stay.

    Raises ImportProblem where one is no tensor, or blocks are missing.
    """
    blocks = _blocks(state)
    ours: State = {}
    theirs: dict[str, str] = {}
    for name, value in state.items():
        if name.endswith(_UNUSED):
            continue
        if not isinstance(value, Tensor):
            raise ImportProblem(f"{name} must be a tensor, got {type(value).__name__}")
        new = _renamed(name, blocks, generates)
        ours[new], theirs[new] = value, name
    indices = sorted({int(match[1]) for name in ours if (match := re.match(r"stages\.(\d+)\.", name))})
    attention = [index for index in indices if f"stages.{index}.strength" in ours]
    if indices != list(range(len(indices))):
        raise ImportProblem(f"the blocks must be blocks.0, blocks.1, ..., got {indices}")
    places = tuple(index for index in indices if index not in attention)
    before = tuple(place - earlier for earlier, place in enumerate(attention))
    return Named(ours, theirs, blocks, places, before)


def _blocks(state: Mapping[str, Any]) -> Blocks:
    if not any(name.startswith("blocks.0.0.conv2d") for name in state):
        return "deep_conv"
    if not _has(state, "blocks.0.0.conv2d4"):
        return "resnet"
    skips = [re.sub(r"\.[^.]*$", "", name) for name in state if re.search(r"\.conv2d0\.weight(_orig)?$", name)]
    if not skips:
        return "deep_legacy"
    made, read = _rows(state, skips[0])
    wanted = _rows(state, skips[0].replace("conv2d0", "conv2d4"))[0]
    return "deep_legacy" if made == wanted - read and wanted != read else "deep"


def _rows(state: Mapping[str, Any], layer: str) -> tuple[int, int]:
    """Outputs and inputs of a layer."""
    value = state.get(f"{layer}.weight_orig", state.get(f"{layer}.weight"))
    if not isinstance(value, Tensor) or value.ndim < 2:
        raise ImportProblem(f"{layer} has no weight")
    return value.shape[0], value.shape[1]


def _renamed(name: str, blocks: Blocks, generates: bool) -> str:
    """Our name of a weight; of one that is not known, theirs."""
    match = re.fullmatch(r"blocks\.(\d+)\.0\.(\w+)(\..+)?", name)
    if match is None:
        layer, _, rest = name.partition(".")
        return f"{_TOPS.get(layer, layer)}.{_suffix(rest)}" if rest else name
    if match[2] in _ATTENTION:
        return f"stages.{match[1]}.{_ATTENTION[match[2]]}" + (f".{_suffix(match[3][1:])}" if match[3] else "")
    table = {
        "resnet": _RESIDUAL,
        "deep": _DEEP,
        "deep_legacy": _DEEP,
        "deep_conv": _PLAIN_UP if generates else _PLAIN_DOWN,
    }[blocks]
    if match[2] not in table or match[3] is None:
        return name
    layer = table[match[2]]
    if not generates and blocks == "resnet" and match[1] == "0" and layer == "norm1":
        layer = "norm2"  # nothing is normalised before the first block's first convolution
    return f"stages.{match[1]}.{layer}.{_suffix(match[3][1:])}"


def _suffix(rest: str) -> str:
    """The end of a name. In a conditional normalisation, the shift is a layer that is called bias."""
    rest = re.sub(r"^bn\.", "", rest)
    rest = re.sub(r"^bias\.", "shift.", rest)
    for theirs, ours in _SUFFIXES.items():
        if rest == theirs or rest.endswith(f".{theirs}"):
            return rest.removesuffix(theirs) + ours
    return rest
