"""Renaming the authors' weights to ours, for the parity tests."""

import re

from torch import Tensor


def nvidia(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Ours are the names of the NVIDIA repositories, without the fixed filters."""
    return {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and not key.endswith("resample_filter")
    }


def rosinality_generator(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rosinality layout, which AnyCost and Sketch Your Own GAN share. There is no average w: zeros."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith(".kernel"):
            continue
        new, value = _generator_entry(key, value)
        renamed[new] = value
    width = state["style.1.weight"].shape[0]
    renamed["mapping.w_avg"] = state["style.1.bias"].new_zeros(width)
    return renamed


def _generator_entry(key: str, value: Tensor) -> tuple[str, Tensor]:
    if key == "input.input":
        return "synthesis.b4.const", value[0]
    if match := re.fullmatch(r"style\.(\d+)\.(weight|bias)", key):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}", value
    if match := re.fullmatch(r"noises\.noise_(\d+)", key):
        return f"synthesis.{_layer(int(match[1]))}.noise_const", value[0, 0]
    if match := re.fullmatch(r"(conv1|convs\.(\d+))\.(.+)", key):
        layer = _layer(0 if match[2] is None else int(match[2]) + 1)
        names = {
            "conv.weight": ("weight", lambda v: v[0]),
            "conv.modulation.weight": ("affine.weight", lambda v: v),
            "conv.modulation.bias": ("affine.bias", lambda v: v),
            "noise.weight": ("noise_strength", lambda v: v[0]),
            "activate.bias": ("bias", lambda v: v),
        }
    elif match := re.fullmatch(r"(to_rgb1|to_rgbs\.(\d+))\.(.+)", key):
        layer = f"b{4 if match[2] is None else 8 * 2 ** int(match[2])}.torgb"
        names = {
            "conv.weight": ("weight", lambda v: v[0]),
            "conv.modulation.weight": ("affine.weight", lambda v: v),
            "conv.modulation.bias": ("affine.bias", lambda v: v),
            "bias": ("bias", lambda v: v.flatten()),
        }
    else:
        raise ValueError(f"unknown weight {key}")
    name, change = names[match[3]]
    return f"synthesis.{layer}.{name}", change(value)


def _layer(index: int) -> str:
    """The n-th styled convolution, 4x4 conv1 first."""
    return "b4.conv1" if index == 0 else f"b{8 * 2 ** ((index - 1) // 2)}.conv{(index - 1) % 2}"


def rosinality_discriminator(state: dict[str, Tensor], resolution: int) -> dict[str, Tensor]:
    """The rosinality layout, which AnyCost's single-resolution discriminator shares."""
    layers = {"conv1.0": "conv0", "conv1.1": "conv0", "conv2.1": "conv1", "conv2.2": "conv1", "skip.1": "skip"}
    heads = {"final_conv.0": "conv", "final_conv.1": "conv", "final_linear.0": "fc", "final_linear.1": "out"}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith(".kernel"):
            continue
        stem, kind = key.rsplit(".", 1)
        if stem in heads:
            renamed[f"b4.{heads[stem]}.{kind}"] = value
        elif stem in ("convs.0.0", "convs.0.1"):
            renamed[f"b{resolution}.fromrgb.{kind}"] = value
        else:
            _, block, layer = stem.split(".", 2)
            renamed[f"b{resolution >> (int(block) - 1)}.{layers[layer]}.{kind}"] = value
    return renamed
