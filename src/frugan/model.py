"""One door to a trained thing: `frugan.load(path)` gives a `Model`, whatever its family and wherever it lies."""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from frugan import checkpoint as checkpoints
from frugan import models
from frugan.config import from_dict, suggest, to_dict
from frugan.data.dataset import to_uint8
from frugan.models.stylegan2 import Generator
from frugan.models.subnet import Subnet

Noise = Literal["const", "none", "random"]
BUNDLED = ("demo",)


@dataclass(frozen=True)
class Model:
    """A trained generator, its discriminator where it is known, and what is known about them.

    `info` holds plain facts: `images_seen`, `class_names`, `data`, `licence`, `recipe`, `scores`.
    """

    generator: Generator
    discriminator: nn.Module | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the generator's weights are."""
        return next(self.generator.parameters()).device

    @property
    def resolution(self) -> int:
        """Pixels per side of the pictures it makes."""
        return self.generator.config.resolution

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes; empty without labels."""
        names = tuple(str(name) for name in self.info.get("class_names") or ())
        return names or tuple(str(index) for index in range(self.generator.config.num_classes))

    @functools.cached_property
    def hash(self) -> str:
        """The first 12 hex digits of the SHA-256 over the generator's settings and weights."""
        digest = hashlib.sha256(repr(sorted(to_dict(self.generator.config).items())).encode())
        for name, tensor in sorted(self.generator.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def z(self, seeds: Sequence[int]) -> Float[Tensor, "N z_dim"]:
        """The latents of these seeds: row by row `numpy.random.RandomState(seed).randn(z_dim)`, as the authors draw
        them.
        """
        for seed in seeds:
            if not 0 <= seed < 2**32:
                raise ValueError(f"a seed must be in [0, {2**32 - 1}], got {seed}")
        rows = [np.random.RandomState(seed).randn(self.generator.config.z_dim) for seed in seeds]
        return torch.from_numpy(np.stack(rows)).float().to(self.device)

    def one_hot(self, classes: Sequence[int | str]) -> Float[Tensor, "N K"]:
        """One-hot labels from class numbers or names. Raises ValueError for a class that does not exist."""
        names = self.class_names
        if not names:
            raise ValueError("this model was trained without classes: leave the classes out")
        rows = torch.zeros(len(classes), len(names), device=self.device)
        for row, item in enumerate(classes):
            rows[row, _class_index(item, names)] = 1
        return rows

    def w(
        self,
        seeds: Sequence[int],
        *,
        classes: Sequence[int | str] | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
    ) -> Float[Tensor, "N num_ws w_dim"]:
        """The style vectors of these seeds, drawn towards the average by `psi` (1: not at all) in the first `cutoff`
        layers.

        A model with classes and no `classes` given takes the class `seed mod number of classes`.
        """
        with torch.inference_mode():
            w = self.generator.mapping(self.z(seeds), self._labels(seeds, classes))
            return self.generator.truncate(w, psi, cutoff)

    def _labels(self, seeds: Sequence[int], classes: Sequence[int | str] | None) -> Tensor | None:
        if classes is None and self.generator.config.num_classes:
            classes = [seed % self.generator.config.num_classes for seed in seeds]
        if classes is None:
            return None
        if len(classes) != len(seeds):
            raise ValueError(f"as many classes as seeds are needed ({len(seeds)}), got {len(classes)}")
        return self.one_hot(classes)

    def synthesize(
        self,
        w: Float[Tensor, "N num_ws w_dim"],
        *,
        noise: Literal["const", "none"] | Sequence[Tensor] = "const",
        subnet: Subnet | None = None,
    ) -> UInt8[Tensor, "N C H W"]:
        """The pictures of these style vectors."""
        with torch.inference_mode():
            noise_argument = noise if isinstance(noise, str) else list(noise)
            return to_uint8(self.generator.synthesis(w, noise=noise_argument, subnet=subnet))

    def sample(
        self,
        seeds: Iterable[int],
        *,
        classes: Sequence[int | str] | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise: Noise = "const",
        subnet: Subnet | None = None,
        batch: int = 16,
    ) -> UInt8[Tensor, "N C H W"]:
        """The pictures of these seeds; a seed gives the same picture at any batch size.

        `noise` is `const` (the stored maps), `none`, or `random` (its own maps for each seed). `psi` below 1 gives
        tamer, more typical pictures; 1 gives all the variety.
        """
        images = list(self.stream(seeds, classes, psi=psi, cutoff=cutoff, noise=noise, subnet=subnet, batch=batch))
        if not images:
            raise ValueError("at least one seed is needed, got none")
        return torch.cat(images)

    def stream(
        self,
        seeds: Iterable[int],
        classes: Sequence[int | str] | None = None,
        *,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise: Noise = "const",
        subnet: Subnet | None = None,
        batch: int = 16,
    ) -> Iterator[UInt8[Tensor, "n C H W"]]:
        """As `sample`, one batch at a time, for as many seeds as wanted."""
        seeds = list(seeds)
        for start in range(0, len(seeds), batch):
            chunk = seeds[start : start + batch]
            chosen = None if classes is None else classes[start : start + batch]
            w = self.w(chunk, classes=chosen, psi=psi, cutoff=cutoff)
            maps: Literal["const", "none"] | list[Tensor] = (
                self._noise_maps(chunk, subnet) if noise == "random" else noise
            )
            yield self.synthesize(w, noise=maps, subnet=subnet)

    def _noise_maps(self, seeds: Sequence[int], subnet: Subnet | None) -> list[Tensor]:
        maps: list[list[Tensor]] = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            maps.append([torch.randn(shape, generator=generator) for shape in self.generator.noise_shapes(subnet)])
        return [torch.stack(layer).to(self.device) for layer in zip(*maps, strict=True)]

    def walk(
        self,
        seeds: Sequence[int],
        *,
        frames_between: int = 24,
        psi: float = 1.0,
        classes: Sequence[int | str] | None = None,
        batch: int = 16,
    ) -> Iterator[UInt8[Tensor, "n C H W"]]:
        """Pictures along a closed, smooth path through the style vectors of these seeds.

        Between two seeds lie `frames_between` pictures, eased in and out (smoothstep), linear in w.
        """
        if len(seeds) < 2:
            raise ValueError(f"a walk needs at least two seeds, got {len(seeds)}")
        keys = self.w(seeds, classes=classes, psi=psi)
        steps = torch.linspace(0, 1, frames_between + 1, device=self.device)[:-1, None, None]
        ease = steps * steps * (3 - 2 * steps)
        ends = torch.roll(keys, -1, dims=0)
        path = torch.cat([torch.lerp(a[None], b[None], ease) for a, b in zip(keys, ends, strict=True)])
        for chunk in path.split(batch):
            yield self.synthesize(chunk)

    def to(self, device: torch.device | str) -> "Model":
        """The same model with its weights on another device."""
        self.generator.to(device)
        if self.discriminator is not None:
            self.discriminator.to(device)
        return self


def _class_index(item: int | str, names: tuple[str, ...]) -> int:
    if isinstance(item, int) or (item.isdigit() and item not in names):
        index = int(item)
        if not 0 <= index < len(names):
            raise ValueError(f"a class number must be in [0, {len(names) - 1}], got {index}")
        return index
    if item not in names:
        raise ValueError(f"this model has no class {item!r}{suggest(item, names)}")
    return names.index(item)


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
    if not isinstance(generator, Generator):
        raise checkpoints.CheckpointError(
            f"{folder} holds a {type(generator).__name__}, which this door cannot open yet"
        )
    return Model(generator, nets.get("discriminator"), info).to(device)


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
    kind = role["config"].get("kind")
    if kind not in models.KINDS:
        raise checkpoints.CheckpointError(f"{folder} holds a network of unknown kind {kind!r}: update frugan")
    settings = {key: value for key, value in role["config"].items() if key != "kind"}
    net = models.build(from_dict(models.KINDS[kind], settings))
    net.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    )
    return net.eval().requires_grad_(False)


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
            table[role] = {"part": part, "config": {"kind": kind, **to_dict(config)}}
    return table


def save(model: Model, folder: Path, *, half: bool = False, card: str | None = None) -> None:
    """Write generator and discriminator as one self-describing folder that `load` opens; `half` stores float16."""
    nets: dict[str, nn.Module] = {"generator": model.generator}
    if model.discriminator is not None:
        nets["discriminator"] = model.discriminator
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
