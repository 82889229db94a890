"""The model itself: pictures from seeds, walks between them, and pictures from pictures."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from frugan.config import suggest, to_dict
from frugan.data.dataset import Dataset, to_uint8
from frugan.model.classes import TruncateTo, class_centre, draw_towards
from frugan.model.tiles import OVERLAP, translate_tiles, translate_whole
from frugan.models.generator import ImageGenerator, ImageTranslator
from frugan.models.stylegan2 import Generator
from frugan.models.subnet import Subnet
from frugan.ops.onehot import one_hot
from frugan.ops.wander import smooth_loop

Noise = Literal["const", "none", "random"]


@dataclass(frozen=True)
class Model:
    """A trained generator or translator, its discriminator where it is known, and what is known about them.

    `info` holds plain facts: `images_seen`, `class_names`, `data`, `licence`, `recipe`, `scores`, and `stage`
    (`resolution`, `alpha`) where a generator that grows has not grown up: it draws as far as it has grown, and the
    pixels are repeated up to the full size. `reverse` is the translator of the other direction, where there is one.
    `sources` are the pictures that seeds stand for in a translator, see `on`.
    """

    generator: ImageGenerator | ImageTranslator
    discriminator: nn.Module | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    reverse: ImageTranslator | None = None
    sources: Dataset | None = field(default=None, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the generator's weights are."""
        return next(self.generator.parameters()).device

    @property
    def family(self) -> str:
        """The kind of its generator, a name in `models.KINDS`."""
        return self.generator.family

    @property
    def is_translator(self) -> bool:
        """Whether it makes pictures of pictures, and not of seeds."""
        return isinstance(self.generator, ImageTranslator)

    @property
    def translator(self) -> ImageTranslator:
        """The generator, where it translates pictures. Raises ValueError naming the family where it draws them."""
        if not isinstance(self.generator, ImageTranslator):
            raise ValueError(
                f"a {self.family} model draws pictures from seeds, it does not translate any: use `frugan sample`"
            )
        return self.generator

    @property
    def artist(self) -> ImageGenerator:
        """The generator, where it draws from seeds. Raises ValueError naming the family where it translates."""
        if not isinstance(self.generator, ImageGenerator):
            raise ValueError(
                f"a {self.family} model translates pictures, it draws none from seeds: use `frugan translate`"
            )
        return self.generator

    @property
    def styles(self) -> Generator:
        """The generator, where it has styles (w). Raises ValueError naming the family where it has none."""
        if not isinstance(self.artist, Generator):
            raise ValueError(f"a {self.family} model has no styles (w); that needs a stylegan2 model")
        return self.artist

    @property
    def has_styles(self) -> bool:
        """Whether there is w, and with it truncation, subnets and noise maps."""
        return isinstance(self.generator, Generator)

    @property
    def resolution(self) -> int:
        """Pixels per side of the pictures it makes; of a translator, the height of the pictures it is `on`.

        Raises ValueError for a translator that is on none: it takes any size.
        """
        return self.artist.config.resolution if self.sources is None else self.sources.resolution

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Those that `sample` can be asked for, the lowest first; StyleGAN2 stops early in its `skip` form only."""
        return tuple(size for size in self.artist.config.resolutions if size <= self._stage[0])

    @property
    def is_grown(self) -> bool:
        """Whether all of its blocks draw at full strength: always, but for a generator in the middle of growing."""
        return self.is_translator or self._stage == (self.resolution, 1.0)

    @property
    def _stage(self) -> tuple[int, float]:
        """(pixels per side, share of the newest block): how far the generator has grown."""
        stage = self.info.get("stage") or {}
        return int(stage.get("resolution", self.resolution)), float(stage.get("alpha", 1.0))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes; empty without labels."""
        if self.is_translator:
            return ()
        names = tuple(str(name) for name in self.info.get("class_names") or ())
        return names or tuple(str(index) for index in range(self.artist.config.num_classes))

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
        _check_seeds(seeds)
        rows = [np.random.RandomState(seed).randn(self.artist.config.z_dim) for seed in seeds]
        return torch.from_numpy(np.stack(rows)).float().to(self.device)

    def one_hot(self, classes: Sequence[int | str]) -> Float[Tensor, "N K"]:
        """One-hot labels from class numbers or names. Raises ValueError for a class that does not exist."""
        names = self.class_names
        if not names:
            raise ValueError("this model was trained without classes: leave the classes out")
        numbers = torch.tensor([_class_index(item, names) for item in classes], dtype=torch.int64)
        return one_hot(numbers.to(self.device), len(names))

    def w(
        self,
        seeds: Sequence[int],
        *,
        classes: Sequence[int | str] | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        truncate_to: TruncateTo = "all",
    ) -> Float[Tensor, "N num_ws w_dim"]:
        """The style vectors of these seeds, drawn towards the average by `psi` (1: not at all) in the first `cutoff`
        layers.

        The average is that of all classes, or with `truncate_to` "class" that of each picture's own. A model with
        classes and no `classes` given takes the class `seed mod number of classes`. Raises ValueError for a family
        without styles, and for "class" without classes.
        """
        _ = self.styles
        return self._codes(self.z(seeds), self._labels(seeds, classes), psi, cutoff, truncate_to)

    def _codes(
        self, z: Tensor, labels: Tensor | None, psi: float, cutoff: int | None, truncate_to: TruncateTo
    ) -> Tensor:
        with torch.inference_mode():
            if truncate_to == "all":
                return self.artist.codes(z, labels, psi, cutoff)
            if labels is None:
                raise ValueError("this model was trained without classes: truncate to all, not to a class")
            w = self.styles.codes(z, labels)
            centres = torch.stack([self._centre(number) for number in labels.argmax(dim=1).tolist()])
            return w if psi == 1 else draw_towards(centres, w, psi, cutoff)

    @functools.cached_property
    def _centres(self) -> dict[int, Tensor]:
        """The averages of classes that were asked for so far."""
        return {}

    def _centre(self, number: int) -> Tensor:
        if number not in self._centres:
            self._centres[number] = class_centre(self.styles, self.one_hot([number]))
        return self._centres[number]

    def _labels(self, seeds: Sequence[int], classes: Sequence[int | str] | None) -> Tensor | None:
        if classes is None and self.artist.config.num_classes:
            classes = [seed % self.artist.config.num_classes for seed in seeds]
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
        """The pictures of these style vectors. Raises ValueError for a family without styles."""
        net = self.styles
        with torch.inference_mode():
            return to_uint8(net.pictures(w, noise=noise if isinstance(noise, str) else list(noise), subnet=subnet))

    def _draw(
        self,
        codes: Tensor,
        noise: Literal["const", "none"] | Sequence[Tensor],
        subnet: Subnet | None,
        resolution: int | None,
    ) -> UInt8[Tensor, "N C H W"]:
        grown, alpha = self._stage
        if resolution is not None and resolution not in self.resolutions:
            raise ValueError(f"this model draws at one of {self.resolutions} pixels per side, got {resolution}")
        is_young = resolution is None and grown < self.resolution
        size = grown if is_young else resolution
        with torch.inference_mode():
            images = self.artist.pictures(
                codes, noise=noise, subnet=subnet, resolution=size, alpha=alpha if size in (None, grown) else 1.0
            )
            if is_young:
                images = F.interpolate(images, size=self.resolution, mode="nearest")
            return to_uint8(images)

    def sample(
        self,
        seeds: Iterable[int],
        *,
        classes: Sequence[int | str] | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        truncate_to: TruncateTo = "all",
        noise: Noise = "const",
        subnet: Subnet | None = None,
        resolution: int | None = None,
        batch: int = 16,
    ) -> UInt8[Tensor, "N C H W"]:
        """The pictures of these seeds; a seed gives the same picture at any batch size.

        `noise` is `const` (the stored maps), `none`, or `random` (its own maps for each seed); all the same where there
        are no noise maps. `psi` below 1 gives tamer, more typical pictures, 1 all the variety; `truncate_to` is that of
        `w`. `resolution` stops early, at one of `resolutions`. A translator that is `on` a set gives for seed s the
        translation of that set's picture s mod its length. Raises ValueError for what the family does not have.
        """
        parts = self.stream(
            seeds,
            classes,
            psi=psi,
            cutoff=cutoff,
            truncate_to=truncate_to,
            noise=noise,
            subnet=subnet,
            resolution=resolution,
            batch=batch,
        )
        images = list(parts)
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
        truncate_to: TruncateTo = "all",
        noise: Noise = "const",
        subnet: Subnet | None = None,
        resolution: int | None = None,
        batch: int = 16,
    ) -> Iterator[UInt8[Tensor, "n C H W"]]:
        """As `sample`, one batch at a time, for as many seeds as wanted."""
        seeds = list(seeds)
        if self.sources is not None:
            if truncate_to != "all":
                raise ValueError(f"a {self.family} model has no classes to truncate to: leave truncate_to out")
            yield from self._translations(self.sources, seeds, classes, psi, cutoff, subnet, resolution, batch)
            return
        for start in range(0, len(seeds), batch):
            chunk = seeds[start : start + batch]
            chosen = None if classes is None else classes[start : start + batch]
            codes = self._codes(self.z(chunk), self._labels(chunk, chosen), psi, cutoff, truncate_to)
            maps: Literal["const", "none"] | list[Tensor] = (
                self._noise_maps(chunk, subnet, resolution) if noise == "random" else noise
            )
            yield self._draw(codes, maps, subnet, resolution)

    def _noise_maps(self, seeds: Sequence[int], subnet: Subnet | None, resolution: int | None) -> list[Tensor]:
        maps: list[list[Tensor]] = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            shapes = self.artist.noise_shapes(subnet, resolution)
            maps.append([torch.randn(shape, generator=generator) for shape in shapes])
        return [torch.stack(layer).to(self.device) for layer in zip(*maps, strict=True)]

    def walk(
        self,
        seeds: Sequence[int],
        *,
        frames_between: int = 24,
        psi: float = 1.0,
        truncate_to: TruncateTo = "all",
        classes: Sequence[int | str] | None = None,
        resolution: int | None = None,
        batch: int = 16,
    ) -> Iterator[UInt8[Tensor, "n C H W"]]:
        """Pictures along a closed, smooth path through these seeds.

        Between two seeds lie `frames_between` pictures, eased in and out (smoothstep): linear in w where there are
        styles, else on the hypersphere of latents.
        """
        if len(seeds) < 2:
            raise ValueError(f"a walk needs at least two seeds, got {len(seeds)}")
        keys = self._codes(self.z(seeds), self._labels(seeds, classes), psi, None, truncate_to)
        steps = torch.linspace(0, 1, frames_between + 1, device=self.device)[:-1]
        ease = steps * steps * (3 - 2 * steps)
        ends = torch.roll(keys, -1, dims=0)
        with torch.inference_mode():
            path = torch.cat([self.artist.between(a, b, ease) for a, b in zip(keys, ends, strict=True)])
        for chunk in path.split(batch):
            yield self._draw(chunk, "const", None, resolution)

    def wander(
        self,
        seeds: Sequence[int],
        *,
        frames: int,
        sigma: float | int,
        psi: float = 1.0,
        truncate_to: TruncateTo = "all",
        classes: Sequence[int | str] | None = None,
        resolution: int | None = None,
        batch: int = 16,
    ) -> Iterator[UInt8[Tensor, "K C H W"]]:
        """For each of `frames` moments a picture of every seed, each on a closed random walk of its own.

        A seed's latents are `numpy.random.RandomState(seed).randn(frames, z_dim)`, blurred over time by `sigma` frames
        and scaled back to unit variance: the walks of ProGAN's videos. There one scale serves the whole grid; here
        every walk has its own, so that a seed walks alike in any grid. Raises ValueError for no seeds, or a sigma above
        a quarter of the frames.
        """
        if not seeds:
            raise ValueError("at least one seed is needed, got none")
        _check_seeds(seeds)
        length = self.artist.config.z_dim
        draws = [torch.from_numpy(np.random.RandomState(seed).randn(frames, length)) for seed in seeds]
        path = torch.stack([smooth_loop(walk, sigma) for walk in draws], dim=1).float()
        labels = self._labels(seeds, classes)
        together = max(batch // len(seeds), 1)
        for part in path.split(together):
            z, own = part.flatten(0, 1).to(self.device), None if labels is None else labels.repeat(len(part), 1)
            codes = self._codes(z, own, psi, None, truncate_to)
            pictures = torch.cat([self._draw(chunk, "const", None, resolution) for chunk in codes.split(batch)])
            yield from pictures.unflatten(0, (len(part), len(seeds)))

    # -- translators --------------------------------------------------------------------------------------------------

    def translate(
        self,
        images: UInt8[Tensor, "N source_channels H W"],
        *,
        subnet: Subnet | None = None,
        batch: int = 16,
        tile: int | None = None,
        overlap: int = OVERLAP,
    ) -> UInt8[Tensor, "N channels H W"]:
        """The translation of each picture, or label map, of the same size as it.

        Any size will do: pictures are reflected up to what the network divides, and cut back. With `tile` larger ones
        are translated in squares of that side which overlap and are blended there: memory for one square is enough, but
        a network with instance normalisation sees each square by itself, so that brightness and contrast may differ
        from square to square. `batch` pictures, or squares, run at once.
        Raises ValueError for a model that draws from seeds, other channels than it reads, or a tile that does not fit.
        """
        net = self.translator
        wanted = net.config.source_channels
        if images.shape[1] != wanted:
            raise ValueError(f"this model translates pictures of {wanted} channels, got {images.shape[1]}")

        def run(chunk: Tensor) -> Tensor:
            with torch.inference_mode():
                return net.translate(net.read(chunk.to(self.device)), subnet=subnet)

        multiple = net.config.multiple
        if tile is not None and max(images.shape[2:]) > tile:
            return translate_tiles(run, images, multiple, tile, overlap, batch)
        parts = images.split(batch) if len(images) else [images]
        return torch.cat([translate_whole(run, part, multiple) for part in parts])

    def on(self, dataset: Dataset) -> "Model":
        """The same translator bound to a set: seed s stands for the set's picture s mod its length.

        Then `sample` and `stream` work as for a generator, and with them whatever scores or shows one. Raises
        ValueError for a model that draws from seeds, or a set of other channels than it reads.
        """
        wanted = self.translator.config.source_channels
        if dataset.channels != wanted:
            raise ValueError(f"this model translates pictures of {wanted} channels, the set has {dataset.channels}")
        return dataclasses.replace(self, sources=dataset)

    def reversed(self) -> "Model":
        """The model of the other direction, bound to no set. Raises ValueError where there is none (see CycleGAN)."""
        if self.reverse is None:
            raise ValueError(f"this {self.family} model has no other direction; one trained with cyclegan has")
        return dataclasses.replace(
            self, generator=self.reverse, reverse=self.translator, discriminator=None, sources=None
        )

    def _translations(
        self,
        sources: Dataset,
        seeds: Sequence[int],
        classes: Sequence[int | str] | None,
        psi: float,
        cutoff: int | None,
        subnet: Subnet | None,
        resolution: int | None,
        batch: int,
    ) -> Iterator[UInt8[Tensor, "n C H W"]]:
        given = {"classes": classes, "psi": None if psi == 1 else psi, "cutoff": cutoff, "resolution": resolution}
        wrong = [name for name, value in given.items() if value is not None]
        if wrong:
            raise ValueError(f"a {self.family} model knows no {wrong[0]}: leave it out")
        _check_seeds(seeds)
        for start in range(0, len(seeds), batch):
            rows = [seed % len(sources) for seed in seeds[start : start + batch]]
            yield self.translate(sources.batch(rows), subnet=subnet, batch=batch)

    def to(self, device: torch.device | str) -> "Model":
        """The same model with its weights on another device."""
        for net in (self.generator, self.discriminator, self.reverse):
            if net is not None:
                net.to(device)
        return self


def _check_seeds(seeds: Sequence[int]) -> None:
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise ValueError(f"a seed must be in [0, {2**32 - 1}], got {seed}")


def _class_index(item: int | str, names: tuple[str, ...]) -> int:
    if isinstance(item, int) or (item.isdigit() and item not in names):
        index = int(item)
        if not 0 <= index < len(names):
            raise ValueError(f"a class number must be in [0, {len(names) - 1}], got {index}")
        return index
    if item not in names:
        raise ValueError(f"this model has no class {item!r}{suggest(item, names, most=12)}")
    return names.index(item)
