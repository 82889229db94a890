"""What every reader of foreign checkpoints gives back, and the checks that all of them share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frugan import models
from frugan.config import suggest
from frugan.model import Model
from frugan.models.generator import ImageGenerator, ImageTranslator
from frugan.models.spade import SpadeConfig

MAX_PARAMETERS = 2_000_000_000
"""A network with more weights than this is refused before anything is allocated."""


class ImportProblem(ValueError):
    """A foreign checkpoint that cannot be read: says which, why, and what to do where something can be done."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A model that came from a foreign checkpoint.

    `family` names the layout, `licence` is what is known of the terms of such weights, `notes` say what was left out or
    filled in, `check` what the self-check measured.
    """

    model: Model
    family: str
    licence: str
    notes: tuple[str, ...]
    check: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """The networks found in a foreign checkpoint, before they are checked as a whole.

    `stage` is how far a generator that grows has grown (`resolution`, `alpha`), where it has not grown up.
    """

    family: str
    licence: str
    generator: ImageGenerator | ImageTranslator
    discriminator: nn.Module | None
    notes: tuple[str, ...]
    facts: Mapping[str, Any]
    reverse: ImageTranslator | None = None
    stage: Mapping[str, Any] | None = None


def build_network(config: Any, tensors: Mapping[str, Tensor], theirs: Mapping[str, str], what: str) -> nn.Module:
    """The network of these settings with these weights; names, shapes and types are checked before it is built.

    `tensors` has our names; `theirs` gives the name in the file for each, for the messages. torch's random state is
    left as it was. Raises ImportProblem where a weight is missing, unknown, of another shape or no
    floating-point number.
    """
    try:
        expected = {name: tuple(tensor.shape) for name, tensor in models.outline(config).state_dict().items()}
    except RuntimeError:  # sizes beyond 64 bits
        raise ImportProblem(f"{what} would have more than {MAX_PARAMETERS:,} weights") from None
    count = sum(torch.Size(shape).numel() for shape in expected.values())
    if count > MAX_PARAMETERS:
        raise ImportProblem(f"{what} would have {count:,} weights, more than {MAX_PARAMETERS:,}")
    unknown = [theirs.get(name, name) for name in tensors if name not in expected]
    if unknown:
        raise ImportProblem(f"{what} has a weight this layout does not know: {unknown[0]}{_more(unknown)}")
    missing = [theirs.get(name, name) for name in expected if name not in tensors]
    if missing:
        raise ImportProblem(f"{what} lacks the weight {missing[0]}{_more(missing)}")
    for name, shape in expected.items():
        tensor, label = tensors[name], theirs.get(name, name)
        if tuple(tensor.shape) != shape:
            raise ImportProblem(f"{what}: {label} must have the shape {shape}, got {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise ImportProblem(f"{what}: {label} must hold floating-point numbers, got {tensor.dtype}")
    # Copies: tensors of a file may lie in one memory, in any order of their axes.
    copies = {name: torch.empty(tensor.shape).copy_(tensor) for name, tensor in tensors.items()}
    net = models.restore(config, copies)
    return net.eval().requires_grad_(False)


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def refuse_settings(given: Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    """Raise ImportProblem for a setting that is not in `known`, or that differs from what `known` demands of it.

    The value ... in `known` allows everything.
    """
    for name, value in given.items():
        if name not in known:
            raise ImportProblem(f"{what} has the setting {name}, which is not supported{suggest(name, known)}")
        demanded = known[name]
        if demanded is not ... and value != demanded:
            raise ImportProblem(f"{what} has {name} = {value!r:.80}, only {demanded!r} is supported")


def self_check(model: Model) -> tuple[str, ...]:
    """What was measured, a line each: weights, average style where there is one, a picture; of translators a picture of
    each direction.

    Raises ImportProblem where a weight is not finite, or the picture is not finite or a single colour.
    """
    roles = {"generator": model.generator, "discriminator": model.discriminator, "reverse": model.reverse}
    lines = []
    for role, net in roles.items():
        if net is None:
            continue
        for name, tensor in net.state_dict().items():
            if not tensor.isfinite().all():
                raise ImportProblem(f"the {role}'s {name} holds numbers that are not finite: the file is damaged")
        lines.append(f"{role}: {sum(tensor.numel() for tensor in net.parameters()):,} weights, all finite")
    with torch.inference_mode():
        if model.is_translator:
            lines += [_check_translation(net) for net in (model.translator, model.reverse) if net is not None]
        else:
            lines += [*([_check_styles(model)] if model.has_styles else []), _check_picture(model)]
    return tuple(lines)


def _check_translation(net: ImageTranslator) -> str:
    """A random picture, or label map, translated."""
    config, draw = net.config, torch.Generator().manual_seed(0)
    side = max(config.multiple, 64)
    source = torch.randint(0, 256, (1, config.source_channels, side, side), generator=draw, dtype=torch.uint8)
    if isinstance(config, SpadeConfig):
        source = source % torch.tensor([config.num_labels, 2][: config.source_channels])[:, None, None]
    picture = net.translate(net.read(source.to(torch.uint8)))
    if picture.shape != (1, config.channels, side, side):
        raise ImportProblem(f"the translation of a picture of {side} px has the shape {tuple(picture.shape)}")
    return f"translation of random pixels, {side} px: {_check_values(picture, 'the translation of random pixels')}"


def _check_styles(model: Model) -> str:
    mapping = model.styles.mapping
    w = model.w(range(256))[:, 0]
    spread = w.std(dim=0).norm().item()
    distance = (w.mean(dim=0) - mapping.w_avg).norm().item()
    if not mapping.w_avg.any():
        raise ImportProblem("the average style w_avg is zero: this generator was never trained, or the file is damaged")
    ratio = distance / max(spread, 1e-12)
    warning = "" if ratio < 1 else "; MORE THAN ONE SPREAD: truncation (psi below 1) will look odd"
    return f"average style: {ratio:.2f} spreads away from the mean of 256 styles{warning}"


def _check_picture(model: Model) -> str:
    net = model.artist
    labels = model.one_hot([0]) if net.config.num_classes else None
    picture = net.pictures(net.codes(model.z([0]), labels))
    return f"picture of seed 0: {_check_values(picture, 'the picture of seed 0')}"


def _check_values(picture: Tensor, what: str) -> str:
    if not picture.isfinite().all():
        raise ImportProblem(f"{what} is not finite: wrong settings or damaged weights")
    deviation = picture.std().item()
    if deviation < 1e-4:
        raise ImportProblem(f"{what} is a single colour: wrong settings or damaged weights")
    outside = (picture.abs() > 1).float().mean().item()
    return f"mean {picture.mean().item():+.2f}, deviation {deviation:.2f}, {outside:.0%} beyond [-1, 1]"
