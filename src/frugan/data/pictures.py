"""One picture: from the bytes of a file to uint8 pixels of the wanted size, or the reason why not."""

import contextlib
import dataclasses
import functools
import io
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor, UnidentifiedImageError

Fit = Literal["crop", "pad", "letterbox", "stretch"]
Kind = Literal["picture", "labels"]
Half = Literal["left", "right"]
Labels = Literal["auto", "none", "folders", "file"]
Part = Literal["train", "test", "all"]

PIXEL_LIMIT = 178_956_970
"""Largest picture read, in pixels (about 13,377 x 13,377); larger ones are refused as decompression bombs."""
FILE_LIMIT = 256 * 1024 * 1024
"""Largest picture file read, in bytes."""

SHEET = "frugan:sheet"
"""The key in a PNG file that says: this is a sheet of pictures, no member of a set."""

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
_LANCZOS = Image.Resampling.LANCZOS
# A reduced JPEG keeps at least this many pixels per final pixel and axis, so that LANCZOS still does the last step.
_JPEG_GAP = 2
# Pictures over this many pixels are worked on one at a time: sixteen threads with a huge scan each fill the memory.
_LARGE = 40_000_000
_large_gate = threading.Lock()
# What Pillow's readers raise on broken files; anything else is a bug and must be seen.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, struct.error)
# EXIF orientation -> how to turn the stored picture, whether its axes are exchanged, mirrored (x, y after that).
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, False, True, False),
    3: (Image.Transpose.ROTATE_180, False, True, True),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, False, False, True),
    5: (Image.Transpose.TRANSPOSE, True, False, False),
    6: (Image.Transpose.ROTATE_270, True, True, False),
    7: (Image.Transpose.TRANSVERSE, True, True, True),
    8: (Image.Transpose.ROTATE_90, True, False, True),
}
_ORIENTATION = 0x0112


class DataError(ValueError):
    """A source that cannot become a set; says why and what to do."""


class PictureError(ValueError):
    """A picture that cannot be used; the text is the reason, fit to be shown beside the file's name."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How pictures become a set: size, channels, fit, background, labels, subset; and their part in a translation.

    `resolution`: height of the pictures, at least 4 (networks may ask for a power of two, the data room does not), and
    their width too unless `fit` is "stretch".
    `channels`: 3 = colour, transparency laid on `background`; 1 = grey (ITU-R 601), likewise; 4 = colour and alpha,
    kept (pictures without alpha become opaque).
    `fit`: how a picture that is not square becomes so.
      "crop": the centred square of the shorter side; the ends of the longer side are lost.
      "pad": the whole picture, centred; the rest is `background` (transparent with 4 channels). The bars differ from
        picture to picture, and a network learns them too.
      "letterbox": the centred part of shape `aspect` (width / height, 4:3 unless told), then bars to a square; all
        pictures have the same bars, so they can be cut from generated ones. For sets of one shape that is not square.
      "stretch": the whole picture, both sides changed to the size, `aspect` wide: the only fit that need not give a
        square. As the authors of pix2pix, CycleGAN and SPADE do (they by bicubic interpolation).
    Sizes are changed by LANCZOS (a picture of the right size is not touched); bars are laid after the change, so they
    have sharp edges.
    `background`: a colour name or #rrggbb.
    `upscale`: "twice" enlarges pictures smaller than the resolution (counted) up to twice, and leaves smaller ones out;
      "allow" enlarges any; "skip" leaves all of them out.
    `fast_jpeg`: decode large JPEGs at 1/2, 1/4 or 1/8 size where at least twice the final size is left: 8 times faster
    for photos of 12 megapixels; pixels differ by 0.2 to 0.4 levels of 255 on average, by 3 in photos and 5 in hard
    colours at most (measured). Off: always decode fully. Without effect below four times the resolution.
    `flip`: whether the sampler may mirror pictures; "auto" = yes, except for idx files (such as MNIST) and sets that
      say that they must not be.
    `labels`: "auto" = dataset.json if it has labels, else two or more sub-folders as classes; "folders" and "file" ask
    for one of them; "none" = unlabelled.
    `unlabelled`: "refuse" = an error where some pictures of a labelled set have no label; "skip" = these are left out.
    `part`: of sets that come in two parts (CIFAR, MNIST, Tiny-ImageNet, CUB-200-2011, pairs under train/ and test/).
    `limit`: a random choice of so many pictures, drawn from `seed` before reading: unreadable ones make it smaller.
    `role`: which side of a set for translation these are; "images" = a set of one kind (see `prepare_streams`).
    `pairing`: "paired" = every source has its target of the same name; "unpaired" = two domains.
    `reverse`: the two sides exchanged (from B to A). Label maps stay where they are asked for.
    `kind`: "labels" = maps of label numbers, resized to the nearest pixel and never mixed; with `edges` a second
    channel is 1 beside the borders of instances, else 0. `channels` means nothing to them.
    `crop`: training takes random squares of this side from the pictures of `resolution`, all else the centred ones.
    Raises: ValueError.
    """

    resolution: int
    channels: Literal[1, 3, 4] = 3
    fit: Fit = "crop"
    aspect: float = 4 / 3
    background: str = "white"
    upscale: Literal["twice", "allow", "skip"] = "twice"
    fast_jpeg: bool = True
    flip: Literal["auto", "on", "off"] = "auto"
    labels: Labels = "auto"
    unlabelled: Literal["refuse", "skip"] = "refuse"
    part: Part = "train"
    limit: int | None = None
    seed: int = 0
    role: Literal["images", "source", "target"] = "images"
    pairing: Literal["paired", "unpaired"] = "paired"
    reverse: bool = False
    kind: Kind = "picture"
    edges: bool = False
    crop: int | None = None

    def __post_init__(self) -> None:
        choices: dict[str, tuple[object, ...]] = {
            "channels": (1, 3, 4),
            "fit": get_args(Fit),
            "upscale": ("twice", "allow", "skip"),
            "flip": ("auto", "on", "off"),
            "labels": get_args(Labels),
            "unlabelled": ("refuse", "skip"),
            "part": get_args(Part),
            "role": ("images", "source", "target"),
            "pairing": ("paired", "unpaired"),
            "kind": get_args(Kind),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                shown = ", ".join(repr(choice) for choice in allowed)
                raise ValueError(f"{name} must be one of {shown}, got {getattr(self, name)!r}")
        if not 4 <= self.resolution <= 8192:
            raise ValueError(f"resolution must be 4 to 8192, got {self.resolution}")
        if not 0.1 <= self.aspect <= 10:
            raise ValueError(f"aspect (width / height) must be 0.1 to 10, got {self.aspect}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1 or None, got {self.limit}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be 0 to 2**63 - 1, got {self.seed}")
        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise ValueError(f"background must be a colour name or #rrggbb, got {self.background!r}") from None
        if self.crop is not None and not 4 <= self.crop <= min(self.size):
            raise ValueError(f"crop must be None or 4 to {min(self.size)} (the shorter side), got {self.crop}")
        self._check_maps()

    def _check_maps(self) -> None:
        if self.kind == "picture":
            if self.edges:
                raise ValueError("edges are those of label maps: kind must be 'labels', got 'picture'")
        elif self.fit not in ("crop", "stretch"):
            raise ValueError(f"fit must be 'crop' or 'stretch' for label maps (bars have no label), got {self.fit!r}")
        elif self.pairing == "unpaired":
            raise ValueError("pairing must be 'paired' for label maps, got 'unpaired'")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures as they are stored."""
        return self.inner_size if self.fit == "stretch" else (self.resolution, self.resolution)

    @property
    def inner_size(self) -> tuple[int, int]:
        """Width and height of the part that pictures fill: smaller than the stored size only with "letterbox"."""
        if self.fit == "stretch":
            return max(1, round(self.resolution * self.aspect)), self.resolution
        if self.fit != "letterbox":
            return self.resolution, self.resolution
        wide, high = min(1.0, self.aspect), min(1.0, 1 / self.aspect)
        return max(1, round(self.resolution * wide)), max(1, round(self.resolution * high))

    @property
    def stored_channels(self) -> int:
        """Channels of what is stored: those of a picture, or label numbers and edges."""
        if self.kind == "labels":
            return 2 if self.edges else 1
        return self.channels

    @property
    def fed_resolution(self) -> int:
        """Height of what networks are given: that of the random crops, where there are any."""
        return self.resolution if self.crop is None else self.crop

    def sized(self, resolution: int) -> "DataConfig":
        """The same settings with networks given this height; pictures keep their margin for random crops."""
        if self.crop is None:
            return dataclasses.replace(self, resolution=resolution)
        whole = round(self.resolution * resolution / self.crop)
        return dataclasses.replace(self, resolution=whole, crop=resolution)


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Area = tuple[int, int, int, int]
"""The same in whole pixels."""


class Decoded(NamedTuple):
    """A decoded picture, upright: `size` is its own, `area` is where it lies in `image`.

    The two differ for a JPEG decoded at reduced size, whose last pixels may reach over its edge.
    """

    image: Image.Image
    size: tuple[int, int]
    area: Box


class Fitted(NamedTuple):
    """A picture ready for the set, whether it had to be enlarged, and its own width and height."""

    pixels: UInt8[np.ndarray, "C H W"]
    is_upscaled: bool
    size: tuple[int, int]


@functools.cache
def _formats() -> tuple[str, ...]:
    # Named, so that no reader that runs a program (EPS) or fetches anything is ever tried; AVIF depends on the build.
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence for Pillow's warnings about odd files; reasons are told per picture. Enter it before starting threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def open_picture(data: bytes | np.ndarray) -> Image.Image:
    """The picture in a file's bytes, not yet decoded, or of pixels (uint8, (H, W[, 3])). Raises PictureError."""
    if isinstance(data, np.ndarray):
        return Image.fromarray(data)
    if not data:
        raise PictureError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        raise PictureError("not a picture in a format that can be read here") from None
    except Image.DecompressionBombError:
        raise PictureError(f"more than {PIXEL_LIMIT:,} pixels (a bomb?)") from None
    except (*_BROKEN, zlib.error) as error:
        raise PictureError(f"broken: {error}") from None
    if image.width * image.height > PIXEL_LIMIT:
        raise PictureError(f"{image.width} x {image.height} is more than {PIXEL_LIMIT:,} pixels (a bomb?)")
    return image


def open_member(data: bytes | np.ndarray) -> Image.Image:
    """As `open_picture`, of a member of a set: sheets that were drawn here are refused. Raises PictureError."""
    image = open_picture(data)
    if SHEET in image.info:
        raise PictureError("a sheet of pictures that frugan drew, not a picture of the set")
    return image


def room_for(image: Image.Image) -> AbstractContextManager[object]:
    """The block in which an opened picture may be decoded: one very large picture at a time."""
    return _large_gate if image.width * image.height > _LARGE else contextlib.nullcontext()


def decode_picture(image: Image.Image, shortest: int | None = None) -> Decoded:
    """The opened picture decoded, upright and with 8 bits a channel: mode L, RGB or RGBA. Raises PictureError.

    The first frame of an animation. Turned as its EXIF orientation says. Palettes, CMYK, YCbCr and one bit become L or
    RGB, any transparency RGBA. 16 bits are brought to 8 by their high byte (0..65535 -> 0..255), as Pillow does for
    colour; floats must be 0 to 1; 32-bit integers over 65535 have no known range and are refused. Colour profiles are
    not applied. With `shortest`, a JPEG may be decoded at 1/2, 1/4 or 1/8 size, its sides being at least that.
    """
    size = image.size
    area: Box = (0, 0, *size)
    with broken_is_told():
        if shortest is not None and image.format == "JPEG":
            drafted = image.draft(None, (shortest, shortest))
            area = area if drafted is None else drafted[1]
        image.load()
        orientation = _orientation(image)
        converted = _to_eight_bits(image)
    return _turn(Decoded(converted, size, area), orientation)


@contextlib.contextmanager
def broken_is_told() -> Iterator[None]:
    """What Pillow raises on a broken file as PictureError; DataError goes through."""
    try:
        yield
    except (PictureError, DataError):
        raise
    except Image.DecompressionBombError:
        raise PictureError(f"more than {PIXEL_LIMIT:,} pixels (a bomb?)") from None
    except (*_BROKEN, zlib.error) as error:
        raise PictureError(f"broken: {error}") from None


def _turn(decoded: Decoded, orientation: int) -> Decoded:
    if orientation not in _TURNS:
        return decoded
    turn, is_swapped, mirrors_x, mirrors_y = _TURNS[orientation]
    image, (_, _, width, height) = decoded.image.transpose(turn), decoded.area
    size = decoded.size[::-1] if is_swapped else decoded.size
    width, height = (height, width) if is_swapped else (width, height)
    left, top = image.width - width if mirrors_x else 0, image.height - height if mirrors_y else 0
    return Decoded(image, size, (left, top, left + width, top + height))


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (*_BROKEN, zlib.error):  # a broken note about the picture is no reason to lose the picture
        return 1
    return value if isinstance(value, int) else 1


def _to_eight_bits(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        return Image.fromarray(_scale_to_bytes(np.asarray(image)))
    if image.has_transparency_data:
        return image if mode == "RGBA" else image.convert("RGBA")
    if mode in ("L", "RGB"):
        return image
    return image.convert("L" if mode == "1" else "RGB")


def _scale_to_bytes(values: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    lowest, highest = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (lowest >= 0 and highest <= 1):
            raise PictureError(f"float pixels must be 0 to 1, these are {lowest:g} to {highest:g}")
        return np.round(values * 255).astype(np.uint8)
    if lowest < 0 or highest > 65535:
        raise PictureError(f"integer pixels must be 0 to 65535, these are {lowest} to {highest}")
    return (values >> 8).astype(np.uint8)


def fit_picture(decoded: Decoded, config: DataConfig) -> Fitted:
    """The decoded picture brought to the size and channels of `config`. Raises PictureError."""
    part, (wide, high) = placed(decoded.size, config)
    is_upscaled = check_enlarged(part, (wide, high), config)
    image, box = _cut(decoded, part)
    image = _set_channels(image, config)
    if image.size != (wide, high):
        image = image.resize((wide, high), _LANCZOS, box)
    if image.size != config.size:
        image = _set_on_square(image, config)
    pixels = np.asarray(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Fitted(np.ascontiguousarray(pixels), is_upscaled, decoded.size)


def placed(size: tuple[int, int], config: DataConfig) -> tuple[Area, tuple[int, int]]:
    """(the part of a picture of this size that is used, the width and height that it gets), as `config.fit` says."""
    whole = (0, 0, *size)
    if config.fit == "pad":
        scale = config.resolution / max(size)
        return whole, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    return whole if config.fit == "stretch" else _centre(size, *config.inner_size), config.inner_size


def check_enlarged(part: Area, wanted: tuple[int, int], config: DataConfig) -> bool:
    """Whether this part of a picture is smaller than wanted. Raises PictureError where `config.upscale` forbids it."""
    (width, height), (wide, high) = (part[2] - part[0], part[3] - part[1]), wanted
    is_upscaled = width < wide or height < high
    if is_upscaled and config.upscale == "skip":
        raise PictureError(f"{width} x {height} is smaller than {wide} x {high} (upscale is 'skip')")
    if config.upscale == "twice" and (2 * width < wide or 2 * height < high):
        sides = ("images",) if config.role == "images" else ("source", "target")  # pairs are enlarged together
        flags = " ".join(f"--set data.{side}.upscale=allow" for side in sides)
        raise PictureError(
            f"{width} x {height} is less than half of {wide} x {high}: ask for a smaller resolution, or set upscale to "
            f"'allow' (frugan train: {flags})"
        )
    return is_upscaled


def _centre(size: tuple[int, int], wide: int, high: int) -> Area:
    """The largest centred part of shape wide : high."""
    width = min(size[0], max(1, round(size[1] * wide / high)))
    height = min(size[1], max(1, round(size[0] * high / wide)))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def _cut(decoded: Decoded, part: Area) -> tuple[Image.Image, Box]:
    """A part of the picture, given in its own size: whole pixels, and the exact box in them."""
    image, (width, height), area = decoded
    scale_x, scale_y = (area[2] - area[0]) / width, (area[3] - area[1]) / height
    left, right = (area[0] + x * scale_x for x in (part[0], part[2]))
    top, bottom = (area[1] + y * scale_y for y in (part[1], part[3]))
    whole = (int(left), int(top), min(image.width, math.ceil(right)), min(image.height, math.ceil(bottom)))
    image = image if whole == (0, 0, *image.size) else image.crop(whole)
    left, top = left - whole[0], top - whole[1]
    right, bottom = min(right - whole[0], image.width), min(bottom - whole[1], image.height)
    return image, (left, top, right, bottom)


def _set_channels(image: Image.Image, config: DataConfig) -> Image.Image:
    if config.channels == 4:
        return image.convert("RGBA")
    if image.mode == "RGBA":
        # Laid on the background before resizing, so that colours hidden under transparency cannot bleed in.
        canvas = Image.new("RGBA", image.size, (*ImageColor.getrgb(config.background)[:3], 255))
        image = Image.alpha_composite(canvas, image)
    return image.convert("L" if config.channels == 1 else "RGB")


def _set_on_square(image: Image.Image, config: DataConfig) -> Image.Image:
    red, green, blue = ImageColor.getrgb(config.background)[:3]
    square = Image.new("RGBA", (config.resolution, config.resolution), (red, green, blue, 0)).convert(image.mode)
    square.paste(image, ((config.resolution - image.width) // 2, (config.resolution - image.height) // 2))
    return square


def prepare_picture(data: bytes | np.ndarray, config: DataConfig, half: Half | None = None) -> Fitted:
    """A picture's bytes or pixels -> its place in the set, by the rules of `DataConfig`. Raises PictureError.

    With `half`, that half of a file that holds two pictures side by side.
    """
    image = open_member(data)
    with room_for(image):
        shortest = _JPEG_GAP * config.resolution if config.fast_jpeg and half is None else None
        return fit_picture(half_of(decode_picture(image, shortest), half), config)


def half_of(decoded: Decoded, half: Half | None) -> Decoded:
    """One of the two pictures that lie side by side in this one, or with None itself.

    Raises PictureError unless it is exactly twice as wide as high.
    """
    if half is None:
        return decoded
    image = decoded.image.crop(half_area(decoded.size, half))
    return Decoded(image, image.size, (0, 0, *image.size))


def half_area(size: tuple[int, int], half: Half) -> Area:
    """Where one of two square pictures side by side lies. Raises PictureError unless the width is twice the height."""
    width, height = size
    if width != 2 * height:
        fault = "of odd width" if width % 2 else "not exactly twice as wide as high"
        raise PictureError(f"{width} x {height} is {fault}, so it does not hold two square pictures side by side")
    left = 0 if half == "left" else height
    return left, 0, left + height, height
