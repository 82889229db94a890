"""A folder of pictures becomes a folder of their translations, under the same names; what is finished is kept."""

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageColor
from torch import Tensor

from frugan.data import write
from frugan.data.digests import Progress
from frugan.data.layouts import find_layout, rules_beside
from frugan.data.maps import MapFile, MapRules, coloured, load_numbers, prepare_map, some_colours
from frugan.data.pictures import (
    PIXEL_LIMIT,
    DataConfig,
    DataError,
    PictureError,
    decode_picture,
    open_picture,
    room_for,
)
from frugan.data.sources import SUFFIXES, Source, no_pictures, open_source, read_all
from frugan.model import Model
from frugan.model.tiles import OVERLAP
from frugan.models.spade import SpadeConfig

_MODEL, _HOW, _SOURCE = "frugan:model", "frugan:translation", "frugan:source"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How pictures are brought in and run.

    `size`: their shorter side is brought to so many pixels first (None: they stay as large as they are). `tile`,
    `overlap`: larger ones run in squares, see `Model.translate`. `batch`: so many neighbours of one size at once.
    `background`: what transparent pictures are laid on. `overwrite`: translate again what is there already.
    """

    size: int | None = None
    tile: int | None = None
    overlap: int = OVERLAP
    batch: int = 8
    background: str = "white"
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("size", "tile", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def mark(self) -> str:
        """What decides how a translation looks, beside model and source."""
        tiling = (self.tile, self.overlap) if self.tile is not None else None
        return json.dumps({"size": self.size, "tile": tiling, "background": self.background})


@dataclass(frozen=True, kw_only=True)
class Translated:
    """A picture and its translation: `index` is the picture's place in the source, `name` its name there."""

    index: int
    name: str
    output: Path


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a folder: all translations in order, how many are new, (name, reason) of pictures left out."""

    items: tuple[Translated, ...]
    num_new: int
    skipped: tuple[tuple[str, str], ...]


def translate_folder(
    model: Model, source: Source, out: Path, options: Options = Options(), progress: Progress | None = None
) -> Result:
    """Write the translation of every picture of `source` to the folder `out`, as PNG files under the same names.

    Sub-folders are kept; where two files differ in their ending only, that stays in the name. Called again it goes on:
    what this very model made already, with these options, is left as it is. Pictures that cannot be read are left out.
    Raises DataError for a source without a usable picture; ValueError for a model that translates no pictures, or where
    `out` holds files of such names from elsewhere and they may not be overwritten; OutputError where it cannot write.
    """
    model.translator  # noqa: B018 - refuses a model that draws from seeds before anything is read
    if not source.names:
        raise no_pictures(source, source.skipped)
    _refuse_place(source, out)
    tell = progress or (lambda done, total, text: None)
    places = [out / name for name in output_names(source.names)]
    facts = {_MODEL: model.hash, _HOW: options.mark}
    todo = [index for index, place in enumerate(places) if options.overwrite or not _is_done(place, facts)]
    skipped: dict[int, str] = {}
    done = len(places) - len(todo)
    for indices, images in _batches(source.take(todo), model, options, skipped):
        made = model.translate(images, batch=options.batch, tile=options.tile, overlap=options.overlap).cpu()
        for position, image in zip(indices, made, strict=True):
            index = todo[position]
            write.save_png(places[index], image, {**facts, _SOURCE: source.names[index]})
        done += len(indices)
        tell(done, len(places) - len(skipped), "translating")
    reasons = [(source.names[todo[position]], reason) for position, reason in sorted(skipped.items())]
    lost = {todo[position] for position in skipped}
    if len(lost) == len(places):
        raise no_pictures(source, reasons)
    items = [
        Translated(index=index, name=name, output=places[index])
        for index, name in enumerate(source.names)
        if index not in lost
    ]
    return Result(items=tuple(items), num_new=len(todo) - len(lost), skipped=(*source.skipped, *reasons))


def open_sources(path: Path, model: Model) -> Source:
    """What a model can translate at `path`: the pictures of a folder or zip, a single one, or label maps.

    Label maps lie as in a set that it learns from, with or without the pictures: in labels/, beside them their
    instances/; or all of a folder are label maps. Raises DataError where there is no such thing.
    """
    config = model.translator.config
    if isinstance(config, SpadeConfig):
        opened = open_source(path, "none", "all")
        return _label_maps(opened, config.has_edges)
    return open_pictures(path)


def open_pictures(path: Path) -> Source:
    """The pictures of a folder or zip, or a single picture file. Raises DataError where there is no such thing."""
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return Source(path=path, kind="file", names=(path.name,), load=lambda index: path.read_bytes(), files=(path,))
    return open_source(path, "none", "all")


def _label_maps(opened: Source, has_edges: bool) -> Source:
    layout = find_layout(opened, "all", "paired", is_asked=False)
    if layout is not None and layout.has_maps:
        found = layout.source
    else:
        labels, instances = (_in_folder(opened, names) for names in (("labels", "label"), ("instances", "instance")))
        chosen = labels or {name: index for index, name in enumerate(opened.names)}
        shared = [name for name in chosen if not instances or name in instances]
        found = dataclasses.replace(
            opened.take([chosen[name] for name in shared]),
            maps=rules_beside(opened),
            instances=opened.take([instances[name] for name in shared]) if instances else None,
        )
        found = dataclasses.replace(found, names=tuple(shared))
    if has_edges and found.instances is None and found.names:
        raise DataError(
            f"{str(opened.path)!r} has no instance maps, whose edges this model was trained with: put label maps into "
            "labels/ and those of instances, under the same names, into instances/"
        )
    return found if has_edges else dataclasses.replace(found, instances=None)


def _in_folder(opened: Source, folders: tuple[str, ...]) -> dict[str, int]:
    """The places of the files in folders of these names, by their names without that folder."""
    found = {}
    for index, name in enumerate(opened.names):
        parts = name.split("/")
        places = [place for place, part in enumerate(parts[:-1]) if part.lower() in folders]
        if places:
            found["/".join(parts[: places[-1]] + parts[places[-1] + 1 :])] = index
    return found


def output_names(names: tuple[str, ...]) -> list[str]:
    """The name of each translation: the source's, its ending replaced by .png, or kept where that tells two apart."""
    bare = [str(PurePosixPath(name).with_suffix("")) for name in names]
    shared = Counter(bare)
    return [f"{name if shared[stem] > 1 else stem}.png" for name, stem in zip(names, bare, strict=True)]


def _refuse_place(source: Source, out: Path) -> None:
    inside = source.path if source.path.is_dir() else source.path.parent
    here, there = inside.resolve(), out.resolve()
    if here == there or (source.path.is_dir() and here in there.parents):
        raise ValueError(f"translations of {source.path} must not go into it: give another folder than {out}")


def _is_done(place: Path, facts: dict[str, str]) -> bool:
    """Whether it was made with these facts. Raises ValueError where something else has that name."""
    if not place.exists():
        return False
    found: Mapping[Any, Any] = {}
    # Only the head of the file is read; what cannot be read is not ours.
    with contextlib.suppress(OSError, SyntaxError, ValueError), Image.open(place) as image:
        found = image.info
    if all(found.get(key) == value for key, value in facts.items()):
        return True
    what = "was made by another model or in another way" if _MODEL in found else "is no translation"
    raise ValueError(f"{place} is there already and {what}: use --overwrite to replace it, or another folder")


# ---- reading ------------------------------------------------------------------------------------------------------


def _batches(
    source: Source, model: Model, options: Options, skipped: dict[int, str]
) -> Iterator[tuple[list[int], UInt8[Tensor, "N C H W"]]]:
    """(places in the source, pictures) of neighbours of one size; the reasons of unreadable ones go into `skipped`."""
    config = model.translator.config

    def work(index: int, data: bytes | np.ndarray) -> UInt8[np.ndarray, "C H W"]:
        if isinstance(config, SpadeConfig):
            return _read_map(source, index, data, config, options.size)
        return read_picture(data, config.source_channels, options)

    indices: list[int] = []
    waiting: list[np.ndarray] = []
    with contextlib.closing(read_all(source, work)) as stream:
        for index, picture in enumerate(stream):
            if isinstance(picture, PictureError):
                skipped[index] = str(picture)
                continue
            if waiting and (len(waiting) == options.batch or waiting[0].shape != picture.shape):
                yield indices, torch.from_numpy(np.stack(waiting))
                indices, waiting = [], []
            indices.append(index)
            waiting.append(picture)
    if waiting:
        yield indices, torch.from_numpy(np.stack(waiting))


def read_picture(data: bytes | np.ndarray, channels: int, options: Options) -> UInt8[np.ndarray, "C H W"]:
    """The pixels of a picture file, upright, in so many channels, its shorter side as the options want it.

    Raises PictureError.
    """
    with open_picture(data) as opened, room_for(opened):
        image = decode_picture(opened).image
        if channels == 4:
            image = image.convert("RGBA")
        else:
            colour = ImageColor.getrgb(options.background)
            image = write.flatten(image, (colour[0], colour[1], colour[2]))
            image = image.convert("L") if channels == 1 else image
        if options.size is not None:
            image = _resized(image, options.size)
    pixels = np.asarray(image)
    # A copy even where the order is right already (grey, 1 x 1): Pillow's own memory must not be written to.
    return np.array(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), order="C")


def _read_map(
    source: Source, index: int, data: bytes | np.ndarray, net: SpadeConfig, shorter: int | None
) -> UInt8[np.ndarray, "C H W"]:
    """The label numbers in a file, and the edges of instances where the network takes them."""
    name = source.names[index]
    instances = None if source.instances is None else source.instances.load(index)
    file = MapFile(data, instances, source.maps or MapRules(), source.half)
    try:
        _, (width, height) = load_numbers(name, file)
        scale = 1.0 if shorter is None else shorter / min(width, height)
        config = DataConfig(
            resolution=max(round(height * scale), 1),
            aspect=width / height,
            kind="labels",
            edges=net.has_edges,
            fit="stretch",
            upscale="allow",
        )
        found = prepare_map(name, file, config).pixels
    except (DataError, ValueError) as error:
        raise PictureError(str(error)) from None
    if found[0].max() >= net.num_labels:
        raise PictureError(f"it has the label number {found[0].max()}; the model knows 0 to {net.num_labels - 1}")
    return found


def view(source: Source, index: int) -> Image.Image:
    """A picture of a source as a person sees it: a label map in colours. Raises PictureError."""
    data = source.load(index)
    if source.maps is None:
        return write.to_pillow(torch.from_numpy(read_picture(data, 3, Options())))
    try:
        numbers, _ = load_numbers(source.names[index], MapFile(data, None, source.maps, source.half))
    except DataError as error:
        raise PictureError(str(error)) from None
    maps = torch.from_numpy(numbers.astype(np.uint8))[None, None]
    colours = source.maps.colours or some_colours(max(len(source.maps.names), int(maps.max()) + 1))
    return write.to_pillow(coloured(maps, colours)[0])


def _resized(image: Image.Image, shorter: int) -> Image.Image:
    scale = shorter / min(image.size)
    wide, high = (max(round(side * scale), 1) for side in image.size)
    if wide * high > PIXEL_LIMIT:
        raise PictureError(f"{wide} x {high} would be more than {PIXEL_LIMIT:,} pixels")
    return image if image.size == (wide, high) else image.resize((wide, high), Image.Resampling.LANCZOS)
