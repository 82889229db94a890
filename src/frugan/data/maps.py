"""Label maps: which label each pixel has, whatever way the file writes it, and where one instance ends."""

import colorsys
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from PIL import Image
from torch import Tensor

from frugan.data.pictures import (
    Area,
    DataConfig,
    DataError,
    Fitted,
    Half,
    broken_is_told,
    check_enlarged,
    half_area,
    open_picture,
    placed,
    room_for,
)

CLASS_FILE = "classes.json"
"""Beside label maps: {"class_names": [...], "colours": [[red, green, blue], ...]}, one for each label number."""
Colour = tuple[int, int, int]

_NEAREST = Image.Resampling.NEAREST
_MOST_LABELS = 256
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class MapRules:
    """How the label maps of a set are read.

    `names`: of the label numbers in order; () = they are numbers, as many as the maps hold. `colours`: one a name, or
    (). `replaced`: (number in the file, label number that it stands for).
    """

    names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    replaced: tuple[tuple[int, int], ...] = ()


class Reading(NamedTuple):
    """The label number of each pixel (-1: unknown), and how many pixels have which unknown colour or number."""

    numbers: Int64[np.ndarray, "H W"]
    unknown: dict[str, int]


def read_rules(text: bytes) -> MapRules:
    """The content of classes.json. Raises DataError where it cannot be used."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{CLASS_FILE} is not JSON: {error}") from None
    names = content.get("class_names") if isinstance(content, Mapping) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f'{CLASS_FILE} must hold {{"class_names": [...]}} with a text for each label number')
    if len(names) > _MOST_LABELS:
        raise DataError(f"{CLASS_FILE}: at most {_MOST_LABELS} labels can be kept, got {len(names)}")
    colours = content.get("colours", content.get("colors", []))
    if not isinstance(colours, list) or not all(map(_is_colour, colours)) or len(colours) not in (0, len(names)):
        raise DataError(f"{CLASS_FILE}: colours must be {len(names)} times [red, green, blue] of 0 to 255, or none")
    return MapRules(names=tuple(names), colours=tuple((red, green, blue) for red, green, blue in colours))


def _is_colour(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    return all(isinstance(part, int) and not isinstance(part, bool) and 0 <= part <= 255 for part in value)


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_numbers(image: Image.Image, rules: MapRules) -> Reading:
    """The labels in a decoded file: numbers in grey, places in a palette, or colours that `rules` names.

    A palette whose colours are all named is read by them, any other by its places; so are grey values: as numbers, or
    as colours where numbers do not fit. Raises DataError for colours without names.
    """
    if image.mode in ("RGB", "RGBA"):
        numbers = _of_colours(image, rules)
    else:
        numbers = _raw(image)
        if image.mode == "P" and rules.colours:
            numbers = _of_palette(image, numbers, rules)
        elif rules.colours and numbers.max() >= len(rules.names):
            numbers = _of_greys(numbers, rules)
    for found, meant in rules.replaced:
        numbers = np.where(numbers == found, meant, numbers)
    is_unknown = (numbers < 0) | (numbers >= (len(rules.names) or _MOST_LABELS))
    return Reading(np.where(is_unknown, -1, numbers), _unknown(numbers[is_unknown]))


def _raw(image: Image.Image) -> Int64[np.ndarray, "H W"]:
    """Grey values of any depth, places in a palette, or colours as one number each."""
    if image.mode in ("RGB", "RGBA"):
        return _codes(np.asarray(image.convert("RGB")))
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        image = image.convert("L")
    return np.asarray(image).astype(np.int64)


def _codes(colours: np.ndarray) -> Int64[np.ndarray, "..."]:
    codes: Int64[np.ndarray, "..."] = np.asarray(colours).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return codes


def _numbers_of(codes: Int64[np.ndarray, "..."], rules: MapRules) -> Int64[np.ndarray, "..."]:
    """The number of the first label of each colour; -1 - colour where there is none."""
    known, first = np.unique(_codes(np.array(rules.colours)), return_index=True)
    places = np.searchsorted(known, codes).clip(max=len(known) - 1)
    return np.where(known[places] == codes, first[places], -1 - codes)


def _of_colours(image: Image.Image, rules: MapRules) -> Int64[np.ndarray, "H W"]:
    codes = _raw(image)
    if rules.colours:
        return _numbers_of(codes, rules)
    values = codes & 255
    if (values * 0x010101 != codes).any():
        raise DataError(
            f'a label map in colours needs {CLASS_FILE} beside the maps, {{"class_names": [...], "colours": [[red, '
            "green, blue], ...]}, or write the label numbers as grey"
        )
    return values


def _of_palette(image: Image.Image, places: Int64[np.ndarray, "H W"], rules: MapRules) -> Int64[np.ndarray, "H W"]:
    palette = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    used = np.unique(places)
    if used[-1] >= len(palette):
        return places
    numbers = _numbers_of(_codes(palette), rules)
    return numbers[places] if (numbers[used] >= 0).all() else places


def _of_greys(values: Int64[np.ndarray, "H W"], rules: MapRules) -> Int64[np.ndarray, "H W"]:
    numbers = _numbers_of(values * 0x010101, rules)
    return numbers if (numbers >= 0).all() else values


def _unknown(numbers: Int64[np.ndarray, " n"]) -> dict[str, int]:
    found, counts = np.unique(numbers, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {_words(int(found[place])): int(counts[place]) for place in order}


def _words(number: int) -> str:
    return f"the label number {number}" if number >= 0 else f"the colour #{-1 - number:06x}"


def edges_of(instances: Int64[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Where a pixel's left, right, upper or lower neighbour belongs to another instance (SPADE, arXiv:1903.07291)."""
    edges = np.zeros(instances.shape, dtype=bool)
    across, down = instances[:, 1:] != instances[:, :-1], instances[1:] != instances[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges


# ---- preparing -------------------------------------------------------------------------------------------------------


class MapFile(NamedTuple):
    """What a label map is made from: its bytes or pixels, those of its instance map if there is one, and its rules."""

    labels: bytes | np.ndarray
    instances: bytes | np.ndarray | None
    rules: MapRules
    half: Half | None = None


def prepare_map(name: str, file: MapFile, config: DataConfig) -> Fitted:
    """A label map at the size of `config`, to the nearest pixel; with `config.edges` those of instances beside it.

    Edges are those of the resized instance map, as with the authors (whose random crop comes before; here after).
    Raises PictureError where a file cannot be used, DataError where the set is at fault: labels that are not known,
    sizes that differ.
    """
    numbers, size = load_numbers(name, file)
    part, wanted = placed(size, config)
    is_upscaled = check_enlarged(part, wanted, config)
    channels = [_resized(numbers, part, wanted).astype(np.uint8)]
    if config.edges:
        assert file.instances is not None
        instances = _load(file.instances, file.half)[0]
        if instances.shape != numbers.shape:
            shown = f"{instances.shape[1]} x {instances.shape[0]}, the label map {size[0]} x {size[1]}"
            raise DataError(f"{name}: the instance map is {shown}: they must be of one size")
        channels.append(edges_of(_resized(instances, part, wanted)).astype(np.uint8))
    return Fitted(np.stack(channels), is_upscaled, size)


def load_numbers(name: str, file: MapFile) -> tuple[Int64[np.ndarray, "H W"], tuple[int, int]]:
    """The labels in a file, and its width and height.

    Raises PictureError where it cannot be read, DataError for labels that are not known.
    """
    reading, size = load_reading(file)
    if reading.unknown:
        shown = [f"{count:,} pixels of {what}" for what, count in list(reading.unknown.items())[:_SHOWN]]
        more = f" and {len(reading.unknown) - _SHOWN} more" if len(reading.unknown) > _SHOWN else ""
        raise DataError(f"the label map {name} has {', '.join(shown)}{more}: {_what_to_do(file.rules)}")
    return reading.numbers, size


def _what_to_do(rules: MapRules) -> str:
    if not rules.names:
        return f"label numbers must be 0 to {_MOST_LABELS - 1}"
    known = f"{len(rules.names)} labels are named (0 to {len(rules.names) - 1})"
    mixed = "JPEG and smooth resizing mix colours, so keep maps as PNG and resize them to the nearest pixel"
    return f"{known}; name it in {CLASS_FILE}, or mend the map ({mixed})"


def load_reading(file: MapFile) -> tuple[Reading, tuple[int, int]]:
    """The labels in a file, unknown ones counted, and its width and height. Raises PictureError, DataError."""
    opened = open_picture(file.labels)
    with room_for(opened), broken_is_told():
        opened.load()
        image = _half(opened, file.half)
        return read_numbers(image, file.rules), image.size


def _load(data: bytes | np.ndarray, half: Half | None) -> tuple[Int64[np.ndarray, "H W"], tuple[int, int]]:
    opened = open_picture(data)
    with room_for(opened), broken_is_told():
        opened.load()
        image = _half(opened, half)
        return _raw(image), image.size


def _half(image: Image.Image, half: Half | None) -> Image.Image:
    return image if half is None else image.crop(half_area(image.size, half))


def _resized(values: Int64[np.ndarray, "H W"], part: Area, wanted: tuple[int, int]) -> Int64[np.ndarray, "h w"]:
    left, top, right, bottom = part
    cut = values[top:bottom, left:right]
    if cut.shape == wanted[::-1]:
        return cut
    image = Image.fromarray(cut.astype(np.int32)).resize(wanted, _NEAREST)
    return np.asarray(image).astype(np.int64)


# ---- showing ---------------------------------------------------------------------------------------------------------


def some_colours(count: int) -> tuple[Colour, ...]:
    """So many colours that can be told apart, for labels that have none."""
    turns = [(number * 0.61803398875) % 1 for number in range(count)]
    shades = [0.95 - 0.3 * (number % 3) / 2 for number in range(count)]
    found = [colorsys.hsv_to_rgb(turn, 0.75, shade) for turn, shade in zip(turns, shades, strict=True)]
    return tuple((round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in found)


def coloured(maps: UInt8[Tensor, "N C H W"], colours: Sequence[Colour]) -> UInt8[Tensor, "N 3 H W"]:
    """Label maps as a person sees them: each label in its colour, edges of instances dark."""
    table = torch.tensor(colours, dtype=torch.uint8)
    pictures = table[maps[:, 0].long()].permute(0, 3, 1, 2)
    return pictures if maps.shape[1] == 1 else torch.where(maps[:, 1:] > 0, pictures // 2, pictures)
