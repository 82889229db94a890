"""Writing files in the layouts of other projects, for the tests: real pickles, made by Python's own pickler.

The NVIDIA pickles imitate their repositories' persistence format: every module is a call of
`torch_utils.persistence._reconstruct_persistent_obj` on a table with the class's source text and the module's state.
"""

import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SOURCE = "import os\nos.system('touch EXECUTED')\nclass Generator: pass\n"


class EasyDict(dict):
    pass


def _reconstruct_persistent_obj(meta):
    raise AssertionError("a test pickle was executed")


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"
_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Network:
    """Pickled as a network of the authors' TensorFlow code for ProGAN is: an object with a table as its state."""

    def __init__(self, function: str, settings: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
        self.state = {
            "version": 2,
            "name": function[0],
            "static_kwargs": dict(settings),
            "build_module_src": SOURCE,
            "build_func_name": function,
            "variables": list(variables.items()),
        }

    def __getstate__(self):
        return self.state


Network.__module__, Network.__qualname__ = "tfutil", "Network"


class Persistent:
    """Pickled as a module of NVIDIA's repositories is."""

    def __init__(self, class_name: str, state: dict[str, Any], source: str = SOURCE) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,), None


def dump(content: Any, monkeypatch: Any, protocol: int = 4) -> bytes:
    """The pickle of `content`, with the modules that its names need standing in for the time of writing."""
    table = {"dnnlib": {}, "dnnlib.util": {"EasyDict": EasyDict}, "torch_utils": {}}
    table["tfutil"] = {"Network": Network}
    table["torch_utils.persistence"] = {"_reconstruct_persistent_obj": _reconstruct_persistent_obj}
    with monkeypatch.context() as patch:
        for name, members in table.items():
            module = types.ModuleType(name)
            module.__dict__.update(members)
            patch.setitem(sys.modules, name, module)
        buffer = io.BytesIO()
        pickle.Pickler(buffer, protocol=protocol).dump(content)
    return buffer.getvalue()


def module(
    tensors: Mapping[str, Tensor],
    class_name: str,
    settings: Mapping[str, Any] | None = None,
    is_buffer: Callable[[str], bool] = lambda name: name.endswith(("resample_filter", "noise_const", "w_avg")),
) -> Persistent:
    """A tree of modules that holds these tensors, by dotted name."""
    own = {name: value for name, value in tensors.items() if "." not in name}
    children: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        head, _, rest = name.partition(".")
        if rest:
            children.setdefault(head, {})[rest] = value
    state: dict[str, Any] = {
        "training": False,
        "_parameters": OrderedDict(
            (name, nn.Parameter(value, requires_grad=False)) for name, value in own.items() if not is_buffer(name)
        ),
        "_buffers": {name: value for name, value in own.items() if is_buffer(name)},
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": {name: module(inner, f"Module_{name}", is_buffer=is_buffer) for name, inner in children.items()},
        "weight_gain": np.sqrt(np.float64(2)),  # a numpy scalar, as theirs have
        "conv_clamp": 256,
    }
    state["_parameters"]["absent"] = None
    if settings is not None:
        state["_init_args"], state["_init_kwargs"] = (), EasyDict(settings)
    return Persistent(class_name, state)


def nvidia(
    state: Mapping[str, Tensor], meta: Mapping[str, Any], monkeypatch: Any, protocol: int = 4, **extra: Any
) -> bytes:
    """The pickle of a snapshot: G, D, G_ema, augment_pipe, training_set_kwargs."""
    content: dict[str, Any] = {"training_set_kwargs": EasyDict(meta.get("training_set_kwargs") or {})}
    for role in ("G", "D", "augment_pipe", "G_ema"):
        if role in meta:
            weights = {k.removeprefix(f"{role}."): v for k, v in state.items() if k.startswith(f"{role}.")}
            content[role] = module(weights, meta[role]["class_name"], nested(meta[role]["init_kwargs"]))
    return dump({**content, **extra}, monkeypatch, protocol)


def nested(settings: Any) -> Any:
    return EasyDict((k, nested(v)) for k, v in settings.items()) if isinstance(settings, dict) else settings


def tiny_nvidia(monkeypatch: Any, protocol: int = 4, seed: int = 0, **changes: Any) -> bytes:
    """A snapshot of our own, in their format; `changes` go into the settings of the generator."""
    from frugan.models.stylegan2 import Generator, StyleGAN2Config
    from frugan.models.stylegan2_discriminator import Discriminator, StyleGAN2DiscriminatorConfig

    torch.manual_seed(seed)
    sizes = {"resolution": 8, "channel_base": 64, "channel_max": 8, "conv_clamp": 256.0}
    generator = Generator(StyleGAN2Config(z_dim=8, w_dim=8, mapping_layers=2, num_half_resolutions=0, **sizes))
    generator.mapping.w_avg.copy_(generator.mapping(torch.randn(64, 8)).mean(dim=(0, 1)))
    judge = Discriminator(StyleGAN2DiscriminatorConfig(**sizes))
    state = {f"{role}.{name}": value for role in ("G", "G_ema") for name, value in generator.state_dict().items()}
    state |= {f"D.{name}": value for name, value in judge.state_dict().items()}
    shared = {"c_dim": 0, "img_resolution": 8, "img_channels": 3}
    widths = {"channel_base": 64, "channel_max": 8, "num_fp16_res": 0, "conv_clamp": 256}
    settings = {"z_dim": 8, "w_dim": 8, **shared, "mapping_kwargs": {"num_layers": 2}, "synthesis_kwargs": widths}
    meta = {
        "G": {"class_name": "Generator", "init_kwargs": {**settings, **changes}},
        "G_ema": {"class_name": "Generator", "init_kwargs": {**settings, **changes}},
        "D": {"class_name": "Discriminator", "init_kwargs": {**shared, **widths, "epilogue_kwargs": {}}},
    }
    return nvidia(state, meta, monkeypatch, protocol)


def save(content: Any, path: Path, *, legacy: bool = False) -> Path:
    """A checkpoint as `torch.save` writes it."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path
