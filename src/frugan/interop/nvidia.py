"""StyleGAN2 in the pickles of NVIDIA's StyleGAN2-ADA-PyTorch and StyleGAN3 repositories, read without running them.

Such a file holds, for every network, the source text of its class (which the authors' loader executes), the arguments
it was made with and its state. Here the text is skipped: the arguments become our settings, the tensors our weights,
whose names are the authors'.
"""

import io
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frugan.inert import (
    TORCH_CONSTRUCTORS,
    TORCH_VALUES,
    Constructor,
    InertError,
    InertPickle,
    Record,
    Storage,
    read_legacy,
)
from frugan.interop.imported import Foreign, ImportProblem, build_network, refuse_settings
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.models.stylegan2_discriminator import Discriminator, StyleGAN2DiscriminatorConfig
from frugan.ops.resample import fir_filter

LICENCE = (
    "NVIDIA's own weights, and what is fine-tuned or distilled from them: NVIDIA Source Code License, for research or "
    "evaluation only, not commercially; it must be passed on. Weights that others trained with NVIDIA's code: their "
    "terms, ask them; that code's licence may bind them too."
)
FAMILIES = {True: "StyleGAN2 (StyleGAN2-ADA-PyTorch pickle)", False: "StyleGAN2 (StyleGAN3 repository pickle)"}
TENSORFLOW = (
    "this is a TensorFlow pickle of StyleGAN or StyleGAN2, which is not read: convert it to a PyTorch pickle with the "
    "authors' legacy.py first"
)
MAX_MAPPING_LAYERS = 100
_RECONSTRUCT = "torch_utils.persistence._reconstruct_persistent_obj"

# Settings that are read, with ... ; the others must have the value that follows.
_MAPPING = {
    **{"num_layers": ..., "lr_multiplier": ..., "w_avg_beta": ..., "activation": "lrelu"},
    **{"embed_features": None, "layer_features": None},
}
_SYNTHESIS = {
    **{"channel_base": ..., "channel_max": ..., "num_fp16_res": ..., "conv_clamp": ..., "architecture": ...},
    **{"resample_filter": ..., "fused_modconv_default": ..., "use_noise": True, "activation": "lrelu"},
}
_GENERATOR = dict.fromkeys(("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs"), ...)
_DISCRIMINATOR = {
    **dict.fromkeys(("c_dim", "img_resolution", "img_channels", "channel_base", "channel_max", "num_fp16_res"), ...),
    **dict.fromkeys(("conv_clamp", "architecture", "cmap_dim", "block_kwargs", "mapping_kwargs"), ...),
    "epilogue_kwargs": ...,
}
_BLOCK = {"activation": "lrelu", "resample_filter": ..., "freeze_layers": ...}
_EPILOGUE = {"mbstd_group_size": ..., "mbstd_num_channels": ..., "activation": "lrelu"}


class Persistent(Record):
    """A network as such a pickle keeps it: `path` is its class, `state` its attributes."""


@dataclass
class _Budget:
    """Bytes that may still be made from a file's own; a small file cannot ask for the same megabytes ever again."""

    left: int

    def take(self, data: Any, kind: type[str] | type[bytes]) -> Any:
        if not isinstance(data, kind):
            raise InertError(f"{kind.__name__} needed, got {type(data).__name__}")
        self.left -= len(data)
        if self.left < 0:
            raise InertError("the tensors of this file claim more than its size")
        return data


def constructors(size_bytes: int) -> dict[str, Constructor]:
    """What stands for the names in such a pickle of `size_bytes`; all others become inert records."""
    storages, texts = _Budget(size_bytes), _Budget(size_bytes)

    def storage(data: Any) -> Storage:
        value = read_legacy(io.BytesIO(storages.take(data, bytes)), len(data))
        if not isinstance(value, Storage):
            raise InertError("a storage was expected inside a tensor")
        return value

    def encode(text: Any, encoding: Any = "latin1") -> bytes:
        if encoding != "latin1":
            raise InertError(f"bytes must be written as latin1, got {encoding!r:.40}")
        return bytes(texts.take(text, str).encode("latin1"))

    return {
        **TORCH_CONSTRUCTORS,
        "torch._utils._rebuild_parameter_with_state": TORCH_CONSTRUCTORS["torch._utils._rebuild_parameter"],
        "torch.storage._load_from_bytes": storage,
        "_codecs.encode": encode,
        "dnnlib.util.EasyDict": _easy_dict,
        "builtins.set": _names,
        "__builtin__.set": _names,
        _RECONSTRUCT: _persistent,
    }


def _easy_dict(*arguments: Any) -> dict[Any, Any]:
    if arguments:
        raise InertError("a table of settings must start empty")
    return {}


def _names(items: Any = ()) -> set[str]:
    if not isinstance(items, list | tuple) or any(not isinstance(item, str) for item in items):
        raise InertError("a set must hold names")
    return set(items)


def _persistent(meta: Any) -> Persistent:
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise InertError("a network must be described by its class and state")
    return Persistent(meta["class_name"], (), meta.get("state"), [], {})


def unpickle(path: Path) -> Any:
    """What a pickle holds: plain data, tensors, `Persistent` networks and inert records. Raises InertError."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return InertPickle(constructors(size), values=TORCH_VALUES, records=True).load(mapped)


def read(content: Any) -> Foreign:
    """The averaged generator and the discriminator of an unpickled file.

    Raises ImportProblem for other pickles (TensorFlow, StyleGAN3 and R3GAN networks) and settings that are not
    supported.
    """
    record = _generator_record(content)
    generator, is_ada = _read_generator(record)
    notes: list[str] = []
    discriminator = None
    if isinstance(content.get("D"), Persistent):
        try:
            discriminator = _read_discriminator(content["D"], is_ada)
        except ImportProblem as problem:
            notes.append(f"its discriminator was left out: {problem}")
    if content.get("augment_pipe") is not None:
        notes.append("its augmentation pipe was left out")
    return Foreign(
        family=FAMILIES[is_ada],
        licence=LICENCE,
        generator=generator,
        discriminator=discriminator,
        notes=tuple(notes),
        facts={"training_set": _plain(content.get("training_set_kwargs"))},
    )


def _generator_record(content: Any) -> Persistent:
    if isinstance(content, tuple | list) and any(isinstance(item, Record) for item in content):
        raise ImportProblem(TENSORFLOW)
    if isinstance(content, Record) and "tfutil" in content.path + "tflib":
        raise ImportProblem(TENSORFLOW)
    if not isinstance(content, dict) or "G_ema" not in content:
        held = f"a table with {', '.join(map(str, list(content)[:6]))}" if isinstance(content, dict) else _kind(content)
        raise ImportProblem(f"no StyleGAN2 pickle: it must be a table with G_ema, got {held}")
    record = content["G_ema"]
    if isinstance(record, Record) and not isinstance(record, Persistent):
        raise ImportProblem(f"G_ema is a {record.path[:80]}, only StyleGAN2 networks of NVIDIA's repositories are read")
    if not isinstance(record, Persistent):
        raise ImportProblem(f"G_ema must be a network, got {_kind(record)}")
    return record


def _kind(value: Any) -> str:
    return f"an object of {value.path[:80]}" if isinstance(value, Record) else f"a {type(value).__name__}"


def _plain(settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {}
    return {str(name): value for name, value in settings.items() if isinstance(value, str | int | float | bool)}


def tensors_of(record: Any) -> dict[str, Tensor]:
    """The parameters and saved buffers of a network and all networks in it, by dotted name. Raises ImportProblem."""
    return dict(_walk(record, ""))


def _walk(record: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    state = _attributes(record, prefix)
    unsaved = state.get("_non_persistent_buffers_set")
    for table in ("_parameters", "_buffers"):
        for name, value in _table(state, table, prefix).items():
            if value is None or (table == "_buffers" and isinstance(unsaved, set) and name in unsaved):
                continue
            if not isinstance(value, Tensor):
                raise ImportProblem(f"{prefix}{name} must be a tensor, got {_kind(value)}")
            yield f"{prefix}{name}", value
    for name, child in _table(state, "_modules", prefix).items():
        if child is not None:
            yield from _walk(child, f"{prefix}{name}.")


def _attributes(record: Any, prefix: str) -> dict[Any, Any]:
    if not isinstance(record, Persistent) or not isinstance(record.state, dict):
        raise ImportProblem(f"{prefix.rstrip('.') or 'the network'} must be a network, got {_kind(record)}")
    return record.state


def _table(state: Mapping[Any, Any], name: str, prefix: str) -> Mapping[Any, Any]:
    table = state.get(name, {})
    if not isinstance(table, dict):
        raise ImportProblem(f"{prefix}{name} must be a table, got {_kind(table)}")
    return table


def _init_kwargs(record: Persistent, what: str) -> dict[Any, Any]:
    state = _attributes(record, "")
    if state.get("_init_args"):
        raise ImportProblem(f"{what} was made with arguments without names, which are not supported")
    settings = state.get("_init_kwargs")
    if not isinstance(settings, dict):
        raise ImportProblem(f"{what} does not say with which settings it was made")
    return settings


def _read_generator(record: Persistent) -> tuple[Generator, bool]:
    settings = _init_kwargs(record, "the generator")
    children = _table(_attributes(record, ""), "_modules", "")
    synthesis = children.get("synthesis")
    if isinstance(synthesis, Persistent) and "input" in _table(_attributes(synthesis, ""), "_modules", ""):
        raise ImportProblem("this is a StyleGAN3 generator; only StyleGAN2 generators are read so far")
    return read_generator(settings, tensors_of(record)), "synthesis_kwargs" in settings


def read_generator(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Generator:
    """The generator of these constructor settings and weights, under the authors' names for both.

    Settings of synthesis inside `synthesis_kwargs` mean StyleGAN2-ADA-PyTorch, beside the others the StyleGAN3
    repository; what is not given differs between them. Raises ImportProblem.
    """
    what = "the generator"
    is_ada = "synthesis_kwargs" in settings
    if is_ada:
        own, synthesis = settings, _sub(settings, "synthesis_kwargs")
        refuse_settings(own, {**_GENERATOR, "synthesis_kwargs": ...}, what)
        refuse_settings(synthesis, _SYNTHESIS, what)
    else:
        own = synthesis = settings
        refuse_settings(own, {**_GENERATOR, **_SYNTHESIS}, what)
    mapping = _mapping(own, own.get("w_dim"), what)
    config = _config(
        StyleGAN2Config,
        what,
        **_shared(own, synthesis, synthesis, mapping, is_ada),
        z_dim=_whole(own, "z_dim"),
        w_dim=_whole(own, "w_dim"),
        architecture=synthesis.get("architecture", "skip"),
    )
    net = build_network(config, _without_filters(tensors, config.resample_filter), {}, what)
    if not isinstance(net, Generator):
        raise ImportProblem(f"{what} was expected, got {type(net).__name__}")
    return net


def _read_discriminator(record: Persistent, is_ada: bool) -> Discriminator:
    return read_discriminator(_init_kwargs(record, "the discriminator"), tensors_of(record), is_ada)


def read_discriminator(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], is_ada: bool) -> Discriminator:
    """The discriminator of these constructor settings and weights; `is_ada` says whose defaults hold.

    Raises ImportProblem.
    """
    what = "the discriminator"
    block, epilogue = _sub(settings, "block_kwargs"), _sub(settings, "epilogue_kwargs")
    refuse_settings(settings, _DISCRIMINATOR, what)
    refuse_settings(block, _BLOCK, f"{what}'s blocks")
    refuse_settings(epilogue, _EPILOGUE, f"{what}'s last block")
    # Without classes there is no mapping, whatever its settings.
    mapping = _mapping(settings, settings.get("cmap_dim"), what) if settings.get("c_dim") else {}
    group = epilogue.get("mbstd_group_size", 4)
    config = _config(
        StyleGAN2DiscriminatorConfig,
        what,
        **_shared(settings, settings, block, mapping, is_ada),
        architecture=settings.get("architecture", "resnet"),
        stddev_group=None if group is None else _whole(epilogue, "mbstd_group_size", 4),
        stddev_features=_whole(epilogue, "mbstd_num_channels", 1),
    )
    if settings.get("cmap_dim") not in (None, config.width(4)) and config.num_classes:
        raise ImportProblem(f"{what} has cmap_dim = {settings['cmap_dim']!r}, only {config.width(4)} is supported")
    net = build_network(config, _without_filters(tensors, config.resample_filter), {}, what)
    if not isinstance(net, Discriminator):
        raise ImportProblem(f"{what} was expected, got {type(net).__name__}")
    return net


def _mapping(settings: Mapping[str, Any], width: Any, what: str) -> Mapping[str, Any]:
    """The settings of the mapping; widths of its layers that are the width of its output may be spelt out."""
    table = {
        name: value
        for name, value in _sub(settings, "mapping_kwargs").items()
        if name not in ("embed_features", "layer_features") or value != width
    }
    refuse_settings(table, _MAPPING, f"{what}'s mapping")
    return table


def _shared(
    own: Mapping[str, Any],
    layers: Mapping[str, Any],
    filters: Mapping[str, Any],
    mapping: Mapping[str, Any],
    is_ada: bool,
) -> dict[str, Any]:
    """The settings that generator and discriminator have in common."""
    is_clamped = layers.get("conv_clamp", None if is_ada else 256) is not None
    depth = _whole(mapping, "num_layers", 8)
    if depth > MAX_MAPPING_LAYERS:
        raise ImportProblem(f"a mapping of {depth} layers, more than {MAX_MAPPING_LAYERS}, is not supported")
    return {
        "resolution": _whole(own, "img_resolution"),
        "channels": _whole(own, "img_channels"),
        "num_classes": _whole(own, "c_dim"),
        "channel_base": _whole(layers, "channel_base", 32768),
        "channel_max": _whole(layers, "channel_max", 512),
        "num_half_resolutions": _whole(layers, "num_fp16_res", 0 if is_ada else 4),
        "conv_clamp": _number(layers, "conv_clamp", 256.0) if is_clamped else None,
        "resample_filter": _taps(filters),
        "mapping_layers": depth,
        "mapping_lr_multiplier": _number(mapping, "lr_multiplier", 0.01),
    }


def _config(cls: type[Any], what: str, **settings: Any) -> Any:
    try:
        return cls(**settings)
    except ValueError as error:
        raise ImportProblem(f"{what} is not supported: {error}") from None


def _sub(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = settings.get(name, {})
    if not isinstance(table, Mapping):
        raise ImportProblem(f"{name} must be a table of settings, got {_kind(table)}")
    return table


def _whole(settings: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**31:
        raise ImportProblem(f"{name} must be a whole number, got {'nothing' if value is None else _kind(value)}")
    return value


def _number(settings: Mapping[str, Any], name: str, default: float | int) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ImportProblem(f"{name} must be a number, got {_kind(value)}")
    return float(value)


def _taps(settings: Mapping[str, Any]) -> tuple[float, ...]:
    taps = settings.get("resample_filter", (1, 3, 3, 1))
    is_list = isinstance(taps, list | tuple) and 1 <= len(taps) <= 64
    if not is_list or any(isinstance(tap, bool) or not isinstance(tap, int | float) for tap in taps):
        raise ImportProblem("resample_filter must be a list of numbers")
    return tuple(float(tap) for tap in taps)


def _without_filters(tensors: Mapping[str, Tensor], taps: tuple[float, ...]) -> dict[str, Tensor]:
    """The weights without the fixed filters, which must be those of the settings (or change nothing)."""
    expected = fir_filter(taps)
    kept = {}
    for name, value in tensors.items():
        if not name.endswith("resample_filter"):
            kept[name] = value
        elif value.numel() > 1 and (
            value.shape != expected.shape or not torch.allclose(value.float(), expected, atol=1e-5)
        ):
            raise ImportProblem(f"{name} is not the filter of the settings, {taps}")
    return kept
