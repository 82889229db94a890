"""Models on disk: where they lie, how they are opened and written."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frugan import checkpoint as checkpoints
from frugan import models
from frugan.config import from_dict, to_dict
from frugan.model.door import Model
from frugan.models.generator import ImageGenerator, ImageTranslator

BUNDLED = ("demo",)


def load(path: Path | str, *, device: torch.device | str = "cpu") -> Model:
    """The trained model at `path`: `demo` (bundled), a run folder (its best checkpoint, else its newest), or one
    checkpoint.

    Raises CheckpointError (a ValueError) where there is none or it is damaged.
    """
    folder = find(path)
    info = checkpoints.read_info(folder)
    roles = info.get("models")
    if not isinstance(roles, dict) or "generator" not in roles:
        raise checkpoints.CheckpointError(
            f"{folder} holds no generator (it has: {', '.join(roles or {}) or 'nothing'})"
        )
    loaded = checkpoints.load(folder, {role["part"] for role in roles.values()})
    nets = {name: _restore(role, loaded.parts[role["part"]], folder) for name, role in roles.items()}
    generator = nets["generator"]
    if not isinstance(generator, ImageGenerator | ImageTranslator):
        raise checkpoints.CheckpointError(f"{folder} names a {type(generator).__name__} as its generator")
    reverse = nets.get("reverse")
    if reverse is not None and not isinstance(reverse, ImageTranslator):
        raise checkpoints.CheckpointError(f"{folder} names a {type(reverse).__name__} as the other direction")
    return Model(generator, nets.get("discriminator"), info, reverse).to(device)


def find(path: Path | str) -> Path:
    """The checkpoint folder that `load` opens for this path."""
    if str(path) in BUNDLED and not Path(path).exists():
        return Path(str(resources.files("frugan") / "assets" / "models" / str(path)))
    path = Path(path)
    if (path / checkpoints.INDEX).is_file():
        return path
    inside = path / "checkpoints"
    found = checkpoints.list_checkpoints(inside)
    if not found:
        what = "has no checkpoint yet" if inside.is_dir() else "is neither a run, a checkpoint, nor 'demo'"
        if path.is_file():
            what = f"is a file: `frugan import {path} --out FOLDER` makes a model of another project's checkpoint"
        raise checkpoints.CheckpointError(f"{path} {what}")
    problems: list[str] = []
    for candidate in [*_best(inside), *reversed(found)]:
        try:
            checkpoints.load(candidate)
        except checkpoints.CheckpointError as error:
            problems.append(str(error))
            continue
        return candidate
    raise checkpoints.CheckpointError(f"every checkpoint of {path} is damaged: " + "; ".join(problems))


def _best(folder: Path) -> list[Path]:
    newest = checkpoints.list_checkpoints(folder)[-1]
    try:
        best = checkpoints.read_info(newest).get("best")
    except checkpoints.CheckpointError:
        return []
    return [folder / str(best)] if best and (folder / str(best)).is_dir() else []


def _restore(role: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> nn.Module:
    # Once the kind stood among the settings, some of which have a kind of their own now.
    kind = role.get("kind", role["config"].get("kind"))
    if kind not in models.KINDS:
        raise checkpoints.CheckpointError(f"{folder} holds a network of unknown kind {kind!r}: update frugan")
    settings = {key: value for key, value in role["config"].items() if key != "kind" or "kind" in role}
    state = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    return models.restore(from_dict(models.KINDS[kind], settings), state).eval().requires_grad_(False)


def describe_nets(nets: Mapping[str, tuple[str, nn.Module]]) -> dict[str, dict[str, Any]]:
    """The `models` table of a checkpoint, from (role, network) by the name of the part that holds its weights.

    Networks that `models.build` cannot make again are left out: such a checkpoint resumes, but no Model is made from
    it.
    """
    table = {}
    for part, (role, net) in nets.items():
        config = getattr(net, "config", None)
        kind = next((name for name, cls in models.KINDS.items() if isinstance(config, cls)), None)
        if kind is not None:
            table[role] = {"part": part, "kind": kind, "config": to_dict(config)}
    return table


def save(model: Model, folder: Path, *, half: bool = False, card: str | None = None) -> None:
    """Write a model's networks as one self-describing folder that `load` opens; `half` stores float16."""
    roles = {"generator": model.generator, "discriminator": model.discriminator, "reverse": model.reverse}
    nets: dict[str, nn.Module] = {role: net for role, net in roles.items() if net is not None}
    parts = {
        name: {
            key: value.half() if half and value.is_floating_point() else value
            for key, value in net.state_dict().items()
        }
        for name, net in nets.items()
    }
    table = describe_nets({name: (name, net) for name, net in nets.items()})
    kept = {key: value for key, value in model.info.items() if key not in ("models", "best", "loop")}
    checkpoints.save(folder, {**kept, "models": table}, parts, card)
