"""StyleGAN2 checkpoints in rosinality's layout, read and written; AnyCost GAN and Sketch Your Own GAN share it.

Every weight of that layout has the numbers of ours in the same order, with axes of size one added: no kernel is flipped
and nothing is scaled. Facts: rosinality/stylegan2-pytorch, mit-han-lab/anycost-gan, PeterWang512/GANSketching.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frugan.checkpoint import replace_file
from frugan.inert import Constructor, Record
from frugan.interop import torch_file
from frugan.interop.imported import Foreign, ImportProblem, build_network
from frugan.model import Model
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.models.stylegan2_discriminator import Discriminator, StyleGAN2DiscriminatorConfig
from frugan.ops.resample import fir_filter

TAPS = (1.0, 3.0, 3.0, 1.0)
STYLES_FOR_AVERAGE = 4096
CHANNEL_TABLES = ((32768, 512), (16384, 512))
"""(channel_base, channel_max) of their channel multipliers 2 and 1."""

UNKNOWN_TERMS = "those of whoever trained these weights: ask them before you use or share pictures and models"
LICENCES = {
    "rosinality": (
        f"{UNKNOWN_TERMS}. Weights converted from NVIDIA's are for non-commercial research or evaluation only, and "
        "so is what you fine-tune or distil from them."
    ),
    "anycost": (
        "the AnyCost code is MIT; its published face weights were trained with NVIDIA's data and teacher, so take them "
        "as non-commercial, and what you fine-tune or distil from them as well. Otherwise: " + UNKNOWN_TERMS + "."
    ),
    "gansketching": (
        "the Sketch Your Own GAN code is MIT; its weights start from models of others, some of them NVIDIA's "
        "(non-commercial research or evaluation only), whose terms go on. Otherwise: " + UNKNOWN_TERMS + "."
    ),
}
NAMES = {
    "rosinality": "StyleGAN2, rosinality layout",
    "anycost": "StyleGAN2, AnyCost GAN",
    "gansketching": "StyleGAN2, Sketch Your Own GAN",
}
# Besides the networks: read by nobody here.
IGNORED = {"g", "g_optim", "d_optim", "args", "ada_aug_p", "epoch", "fid", "best_fid", "mean_path_length", "iter"}
ANYCOST_ONLY = {"epoch", "fid", "best_fid", "mean_path_length"}


def _unread(path: str, *arguments: Any) -> Record:
    return Record(path, arguments, None, [], {})


CONSTRUCTORS: dict[str, Constructor] = {
    name: functools.partial(_unread, name)
    for name in ("_codecs.encode", "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
}
"""What stands for numpy's numbers (scores, mostly) in a training checkpoint: they are passed over."""


@dataclass(frozen=True)
class Entry:
    """One weight: its name there and here, and how many axes of size one theirs has in front and behind."""

    theirs: str
    ours: str
    before: int = 0
    after: int = 0

    def to_ours(self, value: Tensor) -> Tensor:
        """Their tensor without the extra axes, unchanged where it has other axes than expected."""
        wrong = value.ndim < self.before + self.after or any(size != 1 for size in value.shape[: self.before])
        if wrong or any(size != 1 for size in value.shape[value.ndim - self.after :]):
            return value
        return value.reshape(value.shape[self.before : value.ndim - self.after])

    def to_theirs(self, value: Tensor) -> Tensor:
        """Our tensor with the extra axes."""
        return value.reshape((1,) * self.before + tuple(value.shape) + (1,) * self.after)


def generator_entries(num_mapping: int, num_resolutions: int) -> list[Entry]:
    """The weights of a generator; resolutions are counted from 4 up."""
    entries = [
        Entry(f"style.{index + 1}.{kind}", f"mapping.fc{index}.{kind}")
        for index in range(num_mapping)
        for kind in ("weight", "bias")
    ]
    entries.append(Entry("input.input", "synthesis.b4.const", before=1))
    for index in range(2 * num_resolutions - 1):
        theirs = "conv1" if index == 0 else f"convs.{index - 1}"
        ours = "synthesis.b4.conv1" if index == 0 else f"synthesis.b{4 << (index + 1) // 2}.conv{(index - 1) % 2}"
        entries += [
            *_modulated(theirs, ours),
            Entry(f"{theirs}.noise.weight", f"{ours}.noise_strength", before=1),
            Entry(f"{theirs}.activate.bias", f"{ours}.bias"),
            Entry(f"noises.noise_{index}", f"{ours}.noise_const", before=2),
        ]
    for index in range(num_resolutions):
        theirs = "to_rgb1" if index == 0 else f"to_rgbs.{index - 1}"
        ours = f"synthesis.b{4 << index}.torgb"
        entries += [*_modulated(theirs, ours), Entry(f"{theirs}.bias", f"{ours}.bias", before=1, after=2)]
    return entries


def _modulated(theirs: str, ours: str) -> list[Entry]:
    return [
        Entry(f"{theirs}.conv.weight", f"{ours}.weight", before=1),
        Entry(f"{theirs}.conv.modulation.weight", f"{ours}.affine.weight"),
        Entry(f"{theirs}.conv.modulation.bias", f"{ours}.affine.bias"),
    ]


def discriminator_entries(num_resolutions: int) -> list[Entry]:
    """The weights of a discriminator, the full resolution first."""
    top = 2 << num_resolutions
    pairs = [("convs.0.0.weight", f"b{top}.fromrgb.weight"), ("convs.0.1.bias", f"b{top}.fromrgb.bias")]
    for index in range(1, num_resolutions):
        theirs, ours = f"convs.{index}", f"b{top >> (index - 1)}"
        pairs += [
            (f"{theirs}.conv1.0.weight", f"{ours}.conv0.weight"),
            (f"{theirs}.conv1.1.bias", f"{ours}.conv0.bias"),
            (f"{theirs}.conv2.1.weight", f"{ours}.conv1.weight"),
            (f"{theirs}.conv2.2.bias", f"{ours}.conv1.bias"),
            (f"{theirs}.skip.1.weight", f"{ours}.skip.weight"),
        ]
    pairs += [("final_conv.0.weight", "b4.conv.weight"), ("final_conv.1.bias", "b4.conv.bias")]
    for theirs, ours in (("final_linear.0", "b4.fc"), ("final_linear.1", "b4.out")):
        pairs += [(f"{theirs}.{kind}", f"{ours}.{kind}") for kind in ("weight", "bias")]
    return [Entry(theirs, ours) for theirs, ours in pairs]


def generator_kernels(num_resolutions: int) -> list[str]:
    """The names of a generator's fixed filters (sum 4)."""
    steps = range(num_resolutions - 1)
    return [f"convs.{2 * k}.conv.blur.kernel" for k in steps] + [f"to_rgbs.{k}.upsample.kernel" for k in steps]


def discriminator_kernels(num_resolutions: int) -> list[str]:
    """The names of a discriminator's fixed filters (sum 1)."""
    return [f"convs.{k}.{name}.0.kernel" for k in range(1, num_resolutions) for name in ("conv2", "skip")]


def is_state_dict(content: Mapping[str, Any]) -> bool:
    """Whether this is the bare weights of a generator in this layout."""
    return isinstance(content.get("input.input"), Tensor) and isinstance(content.get("conv1.conv.weight"), Tensor)


def read(content: Mapping[str, Any]) -> Foreign:
    """The networks of a checkpoint: `g_ema`, else `g`, and `d`; or the bare weights of a generator.

    Raises ImportProblem where there is no generator, or a weight is missing, unknown or of a wrong shape.
    """
    notes: list[str] = []
    is_bare = is_state_dict(content)
    role = next((role for role in ("g_ema", "g") if role in content), None)
    if not is_bare and role is None:
        raise _nothing_here(content)
    state = _state(content if is_bare else content[role or ""], "the generator")
    if role == "g":
        notes.append("there is no averaged generator (g_ema): the trained one (g) was taken, it draws worse pictures")
    generator, more = read_generator(state, None if is_bare else content.get("latent_avg"))
    notes += more
    judge_state = None if is_bare else content.get("d")
    discriminator = None
    if judge_state is not None:
        discriminator, more = _read_judge(_state(judge_state, "the discriminator"), generator)
        notes += more
    if not is_bare:
        unknown = sorted(set(content) - IGNORED - {"g_ema", "d", "latent_avg"})
        notes += [f"left out, not known: {', '.join(unknown)}"] if unknown else []
    family = _family(content, state, is_bare)
    return Foreign(
        family=NAMES[family],
        licence=LICENCES[family],
        generator=generator,
        discriminator=discriminator,
        notes=tuple(notes),
        facts={},
    )


def _nothing_here(content: Mapping[str, Any]) -> ImportProblem:
    names = [str(name) for name in list(content)[:6]]
    hint = ""
    if "final_linear.0.weight" in content:
        hint = ": these are the weights of a discriminator alone, the file of the generator is needed"
    elif "state_dict" in content:
        hint = ": this looks like an encoder or another network"
    elif any("synthesis" in name for name in names):
        hint = ": its weights have NVIDIA's names, but only NVIDIA's own pickles hold the settings that are needed"
    return ImportProblem(f"no StyleGAN2 generator is in it (it holds {', '.join(names) or 'nothing'}){hint}")


def _family(content: Mapping[str, Any], state: Mapping[str, Tensor], is_bare: bool) -> str:
    if any(name.endswith("w_shift") for name in state):
        return "gansketching"
    if is_bare:
        return "rosinality"
    judge = content.get("d")
    has_blocks = isinstance(judge, Mapping) and any(str(name).startswith("blocks.") for name in judge)
    return "anycost" if has_blocks or ANYCOST_ONLY & set(content) else "rosinality"


def _state(value: Any, what: str) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        raise ImportProblem(f"{what} must be a table of weights, got {type(value).__name__}")
    # Trained on several GPUs without taking the wrapper off.
    state = {str(name).removeprefix("module."): tensor for name, tensor in value.items()}
    wrong = [name for name, tensor in state.items() if not isinstance(tensor, Tensor)]
    if wrong:
        raise ImportProblem(f"{what}: {wrong[0]} must be a tensor, got {type(state[wrong[0]]).__name__}")
    return state


def read_generator(state: Mapping[str, Tensor], latent_avg: Tensor | None = None) -> tuple[Generator, tuple[str, ...]]:
    """The generator of these weights, its settings read off their shapes, and notes on what was filled in.

    Without `latent_avg` the average style is that of 4,096 latents, as the authors' scripts take it. A `w_shift`
    (Sketch Your Own GAN) goes into the biases of the styled layers: the same pictures, with w counted from before
    the shift. Raises ImportProblem.
    """
    what = "the generator"
    count = sum(re.fullmatch(r"style\.\d+\.weight", name) is not None for name in state)
    resolutions = 1 + sum(re.fullmatch(r"to_rgbs\.\d+\.bias", name) is not None for name in state)
    entries = generator_entries(count, resolutions)
    kernels = {name: 4.0 for name in generator_kernels(resolutions)}
    tensors, rest = _rename(state, entries, kernels, what)
    notes: list[str] = []
    shift = rest.pop(f"style.{count + 1}.w_shift", None)
    if not any(name.startswith("noises.") for name in state):
        tensors |= _noise(resolutions)
        notes.append("the file has no noise maps (an early version of that code): maps drawn from seed 0 stand in")
    theirs = {entry.ours: entry.theirs for entry in entries}
    config = _generator_config(tensors, count, resolutions)
    average = torch.zeros(config.w_dim) if latent_avg is None else _average(latent_avg, config.w_dim)
    net = build_network(config, {**tensors, **rest, "mapping.w_avg": average}, theirs, what)
    if not isinstance(net, Generator):
        raise ImportProblem(f"{what} was expected, got {type(net).__name__}")
    if latent_avg is None:
        net.mapping.w_avg.copy_(_mean_style(net))
        notes.append(f"the average style is not in the file: it was taken over {STYLES_FOR_AVERAGE:,} latents")
    if shift is not None:
        _fold_shift(net, shift)
        notes.append("its shift of w was put into the biases of the styled layers: the pictures are the same")
    return net, tuple(notes)


def _rename(
    state: Mapping[str, Tensor], entries: list[Entry], kernels: Mapping[str, float], what: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights under our names, and the rest. Fixed filters are compared with ours and dropped."""
    known = {entry.theirs: entry for entry in entries}
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in kernels:
            expected = fir_filter(TAPS) * kernels[name]
            if value.shape != expected.shape or not torch.allclose(value.float(), expected, atol=1e-4):
                raise ImportProblem(f"{what}: {name} is another filter than [1, 3, 3, 1], which is not supported")
        elif name in known:
            tensors[known[name].ours] = known[name].to_ours(value)
        else:
            rest[name] = value
    return tensors, rest


def _noise(resolutions: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    maps = {}
    for entry in generator_entries(0, resolutions):
        if match := re.fullmatch(r"synthesis\.b(\d+)\.conv\d\.noise_const", entry.ours):
            maps[entry.ours] = torch.randn(int(match[1]), int(match[1]), generator=draw)
    return maps


def _axis(tensors: Mapping[str, Tensor], ours: str, axis: int) -> int:
    tensor = tensors.get(ours)
    if tensor is None:
        raise ImportProblem(f"the network lacks the weight that is {ours} here")
    if tensor.ndim <= axis:
        raise ImportProblem(f"the weight that is {ours} here has a wrong shape: {tuple(tensor.shape)}")
    return tensor.shape[axis]


def _generator_config(tensors: Mapping[str, Tensor], num_mapping: int, resolutions: int) -> StyleGAN2Config:
    layers = [entry.ours for entry in generator_entries(0, resolutions) if re.search(r"conv\d\.weight$", entry.ours)]
    widths = (_axis(tensors, "synthesis.b4.const", 0), *(_axis(tensors, layer, 0) for layer in layers))
    shape: dict[str, Any] = {
        "resolution": 2 << resolutions,
        "channels": _axis(tensors, "synthesis.b4.torgb.bias", 0),
        "z_dim": _axis(tensors, "mapping.fc0.weight", 1),
        "w_dim": _axis(tensors, "mapping.fc0.weight", 0),
        "mapping_layers": num_mapping,
        "num_half_resolutions": min(4, resolutions),
    }
    try:
        config = StyleGAN2Config(**shape, widths=widths)
        # A table of widths says how sub-networks shrink, explicit widths do not.
        top = (widths[-1] * config.resolution, max(widths))
        for base, most in (*CHANNEL_TABLES, top):
            table = StyleGAN2Config(**shape, channel_base=max(base, config.resolution), channel_max=most)
            if table.layer_widths == widths:
                return table
    except ValueError as error:
        raise ImportProblem(f"the generator is not supported: {error}") from None
    return config


def _average(latent_avg: Tensor, w_dim: int) -> Tensor:
    if not isinstance(latent_avg, Tensor) or latent_avg.numel() != w_dim:
        raise ImportProblem(f"latent_avg must be a tensor of {w_dim} numbers")
    return latent_avg.reshape(w_dim).float()


def _mean_style(generator: Generator) -> Tensor:
    z = torch.randn(STYLES_FOR_AVERAGE, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return generator.mapping.features(z, None).mean(dim=0)


@torch.no_grad()
def _fold_shift(generator: Generator, shift: Tensor) -> None:
    w_dim = generator.config.w_dim
    if shift.numel() != w_dim:
        raise ImportProblem(f"w_shift must hold {w_dim} numbers, got {shift.numel()}")
    moved = shift.reshape(1, w_dim).float()
    for name, module in generator.synthesis.named_modules():
        if name.endswith(".affine"):
            module.bias.copy_(module(moved)[0])


def _read_judge(state: Mapping[str, Tensor], generator: Generator) -> tuple[Discriminator | None, tuple[str, ...]]:
    if any(name.startswith("blocks.") for name in state):
        return None, ("its discriminator of several resolutions (AnyCost) was left out: no such network is here",)
    judge = read_discriminator(state)
    if judge.config.resolution != generator.config.resolution:
        return None, (f"its discriminator is for {judge.config.resolution} px and was left out",)
    return judge, ()


def read_discriminator(state: Mapping[str, Tensor]) -> Discriminator:
    """The discriminator of these weights, its settings read off their shapes. Raises ImportProblem."""
    what = "the discriminator"
    resolutions = 1 + sum(re.fullmatch(r"convs\.\d+\.conv1\.0\.weight", name) is not None for name in state)
    entries = discriminator_entries(resolutions)
    kernels = {name: 1.0 for name in discriminator_kernels(resolutions)}
    tensors, rest = _rename(state, entries, kernels, what)
    top = 2 << resolutions
    widths = [_axis(tensors, "b4.conv.weight", 0)]
    widths += [_axis(tensors, f"b{8 << index}.conv0.weight", 0) for index in range(resolutions - 1)]
    try:
        config = StyleGAN2DiscriminatorConfig(
            resolution=top,
            channels=_axis(tensors, f"b{top}.fromrgb.weight", 1),
            widths=tuple(widths),
            num_half_resolutions=min(4, resolutions),
        )
    except ValueError as error:
        raise ImportProblem(f"{what} is not supported: {error}") from None
    net = build_network(config, {**tensors, **rest}, {entry.ours: entry.theirs for entry in entries}, what)
    if not isinstance(net, Discriminator):
        raise ImportProblem(f"{what} was expected, got {type(net).__name__}")
    return net


def export_checkpoint(model: Model, path: Path) -> tuple[str, ...]:
    """Write generator and discriminator as a rosinality checkpoint (`g_ema`, `d`, `latent_avg`); notes on what differs.

    `torch.load(path, weights_only=True)` reads it, and so does `frugan import`. A discriminator that their class cannot
    hold is left out, with a note. Raises ValueError where their generator class cannot hold ours, OutputError (an
    OSError) where the file cannot be written.
    """
    generator = model.styles
    config = generator.config
    notes: list[str] = []
    _refuse_export(config)
    if config.conv_clamp is not None:
        notes.append(f"activations are limited to {config.conv_clamp:g} here and not there: a picture may differ")
    resolutions = len(config.resolutions)
    entries = generator_entries(config.mapping_layers, resolutions)
    state = _theirs(generator.state_dict(), entries, generator_kernels(resolutions), 4.0)
    content: dict[str, Any] = {"g_ema": state, "latent_avg": generator.mapping.w_avg}
    judge = model.discriminator
    reason = _no_judge(judge, config.resolution)
    if isinstance(judge, Discriminator) and reason is None:
        entries = discriminator_entries(resolutions)
        content["d"] = _theirs(judge.state_dict(), entries, discriminator_kernels(resolutions), 1.0)
    else:
        notes.append(f"without a discriminator: {reason}")
    if model.info.get("licence"):
        notes.append(f"the licence goes with the weights: {model.info['licence']}")
    multiplier = _multiplier(config)
    if multiplier is None:
        notes.append("its channels are not those of their table: change the table in their model.py before loading it")
    else:
        notes.append(
            f"load it there with size={config.resolution}, style_dim={config.w_dim}, n_mlp={config.mapping_layers}, "
            f"channel_multiplier={multiplier}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, torch_file.pack(content))
    return tuple(notes)


def _refuse_export(config: StyleGAN2Config) -> None:
    demands = {
        "architecture": (config.architecture, "skip"),
        "num_classes": (config.num_classes, 0),
        "channels": (config.channels, 3),
        "resample_filter": (config.resample_filter, TAPS),
        "mapping_lr_multiplier": (config.mapping_lr_multiplier, 0.01),
        "z_dim": (config.z_dim, config.w_dim),
    }
    for name, (value, demanded) in demands.items():
        if value != demanded:
            raise ValueError(f"rosinality's generator needs {name} = {demanded!r}, this model has {value!r}")


def _no_judge(judge: Any, resolution: int) -> str | None:
    """Why a discriminator cannot be written."""
    if not isinstance(judge, Discriminator):
        return "the model has none"
    config = judge.config
    if config.resolution != resolution:
        return f"it is for {config.resolution} px"
    if config.architecture != "resnet" or config.resample_filter != TAPS or config.channels != 3:
        return "theirs has a residual architecture, the filter [1, 3, 3, 1] and three channels"
    if config.num_classes or config.resolution == 4:
        return "theirs knows no classes and starts at 8 px"
    if (config.stddev_group, config.stddev_features) != (4, 1):
        return "theirs takes the deviation over groups of 4 and one feature"
    return None


def _theirs(state: Mapping[str, Tensor], entries: list[Entry], kernels: list[str], total: float) -> dict[str, Tensor]:
    fixed = fir_filter(TAPS) * total
    return {entry.theirs: entry.to_theirs(state[entry.ours]) for entry in entries} | dict.fromkeys(kernels, fixed)


def _multiplier(config: StyleGAN2Config) -> int | None:
    for (base, most), multiplier in zip(CHANNEL_TABLES, (2, 1), strict=True):
        if all(
            width == min(base // resolution, most) if resolution > 32 else width == most
            for width, resolution in zip(config.layer_widths, (4, *config.layer_resolutions), strict=True)
        ):
            return multiplier
    return None
