"""Pictures out: PNG files that carry facts, grids with titles, animations and videos.

Pictures come in as uint8 tensors (C, H, W) with one (grey), three (RGB) or four (RGBA) channels. Every file is written
beside its place and moved there when it is complete, so a finished name never holds half a file.
"""

import contextlib
import errno
import io
import math
import os
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from frugan.config import counted
from frugan.data.animation import WRITERS, write_mp4
from frugan.data.pictures import SHEET

T = TypeVar("T")
Colour = tuple[int, int, int]
Picture = UInt8[Tensor, "_ _ _"]  # (C, H, W); in sequences, whose members may differ in size
Pictures = UInt8[Tensor, "_ _ _ _"]  # (N, C, H, W)
WHITE: Colour = (255, 255, 255)

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_SMALL_SIDE = 32  # a picture up to this size is enlarged in a grid ...
_VIEW_SIDE = 64  # ... to about this one
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file grows larger than the disk or a limit allows",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the disk is read-only",
    errno.EISDIR: "a folder has that name",
    errno.ENOTDIR: "a part of its path is a file",
    errno.ENAMETOOLONG: "the name is too long",
}


class OutputError(OSError):
    """A picture or file could not be written: says which, why, and what to do."""


@contextlib.contextmanager
def explained(path: Path, advice: str = "") -> Iterator[None]:
    """Turns the operating system's refusals to write `path` in the block into an OutputError that says why."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise OutputError(f"cannot write {path}: {_REASONS[error.errno]}{advice}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file name to write to, beside `path`; it takes its place when the block ends well, else it is removed.

    Missing parent folders are made. Raises OutputError where the disk is full, read-only or not permitted.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def to_pillow(image: UInt8[Tensor, "C H W"]) -> Image.Image:
    """The picture as a Pillow image of mode L, RGB or RGBA. Raises ValueError for other channel counts."""
    if image.shape[0] not in _MODES or image.numel() == 0:
        raise ValueError(f"a picture needs 1, 3 or 4 channels and at least one pixel, got {tuple(image.shape)}")
    pixels = np.ascontiguousarray(image.detach().cpu().permute(1, 2, 0).numpy())
    return Image.fromarray(pixels[:, :, 0] if image.shape[0] == 1 else pixels)


def from_pillow(image: Image.Image) -> UInt8[Tensor, "C H W"]:
    """The Pillow image as a uint8 tensor: L stays grey, RGBA keeps its alpha, every other mode becomes RGB."""
    pixels = np.array(image if image.mode in _MODES.values() else image.convert("RGB"))
    return torch.from_numpy(pixels).reshape(image.height, image.width, -1).permute(2, 0, 1).contiguous()


def flatten(image: Image.Image, background: Colour = WHITE) -> Image.Image:
    """The Pillow image as RGB, laid over `background` where it is transparent."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    base = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(base, image).convert("RGB")


# ---- PNG ----------------------------------------------------------------------------------------------------------


def encode_png(image: UInt8[Tensor, "C H W"], metadata: Mapping[str, str], compress_level: int = 6) -> bytes:
    """The bytes of a PNG file with `metadata` in text chunks. Raises ValueError for a bad key or channel count."""
    info = PngImagePlugin.PngInfo()
    for key, value in metadata.items():
        if not 1 <= len(key) <= 79 or not key.isascii() or not key.isprintable():
            raise ValueError(f"a PNG metadata key is 1 to 79 plain letters, got {key!r}")
        info.add_itxt(key, value) if not value.isascii() else info.add_text(key, value)
    buffer = io.BytesIO()
    to_pillow(image).save(buffer, "PNG", pnginfo=info, compress_level=compress_level)
    return buffer.getvalue()


def save_png(path: Path, image: UInt8[Tensor, "C H W"], metadata: Mapping[str, str] | None = None) -> None:
    """Writes the picture as a PNG file with `metadata` in text chunks, keys such as `frugan:seed`, `frugan:model`.

    An existing file is replaced. Raises ValueError for a bad key or channel count, OutputError where it cannot write.
    """
    # Encoded in memory first: Pillow loses the reason when a write to the disk fails.
    data = encode_png(image, metadata or {})
    with replacing(path) as part:
        part.write_bytes(data)


def save_sheet(path: Path, image: UInt8[Tensor, "C H W"], metadata: Mapping[str, str] | None = None) -> None:
    """As `save_png`, marked as a sheet of pictures: it is no member of a set where its folder is read as one."""
    save_png(path, image, {**(metadata or {}), SHEET: "a sheet of pictures"})


def read_metadata(path: Path) -> dict[str, str]:
    """All text entries of a PNG file, as `save_png` wrote them. Raises ValueError where the file is not a PNG."""
    with Image.open(path) as image:
        if not isinstance(image, PngImagePlugin.PngImageFile):
            raise ValueError(f"only PNG files carry metadata, got {path} ({image.format})")
        return {key: str(value) for key, value in image.text.items()}


# ---- grids --------------------------------------------------------------------------------------------------------


def _columns(count: int) -> int:
    """The number of columns, up to three times the rows, that leaves the fewest places empty; near a square first."""

    def empty(columns: int) -> int:
        return math.ceil(count / columns) * columns - count

    square = math.ceil(math.sqrt(count))
    wide = [columns for columns in range(square, count + 1) if columns <= 3 * math.ceil(count / columns)]
    return min(wide or [square], key=empty)


def _scale(height: int, width: int, scale: int | None) -> int:
    if scale is not None and scale < 1:
        raise ValueError(f"scale must be 1 or more, got {scale}")
    side = max(height, width)
    return scale or (_VIEW_SIDE // side if side <= _SMALL_SIDE else 1)


def _gap(usual: int, gap: int | None) -> int:
    if gap is not None and gap < 0:
        raise ValueError(f"gap must be 0 or more, got {gap}")
    return usual if gap is None else gap


def grid(
    images: UInt8[Tensor, "N C H W"],
    columns: int | None = None,
    gap: int | None = None,
    background: Colour | None = None,
    scale: int | None = None,
) -> UInt8[Tensor, "C GH GW"]:
    """One picture that shows all `images` row by row, with the channels of the images.

    `columns`: None chooses a nearly square sheet with few empty places. `gap` in pixels, also around the sheet; None
    gives a 32nd of a picture, at least 2. `background`: None gives white, or transparent for RGBA. `scale` enlarges by
    whole pixels; None brings pictures of up to 32 pixels to about 64.
    Raises ValueError for no images, columns < 1, gap < 0 or scale < 1.
    """
    count, channels, height, width = images.shape
    if count == 0:
        raise ValueError("a grid needs at least one picture, got none")
    if columns is not None and columns < 1:
        raise ValueError(f"columns must be 1 or more, got {columns}")
    factor = _scale(height, width, scale)
    tiles = images.detach().cpu().repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    height, width = height * factor, width * factor
    columns = min(columns or _columns(count), count)
    rows = math.ceil(count / columns)
    space = _gap(max(2, height // 32, width // 32), gap)
    sheet = _blank(channels, rows * (height + space) + space, columns * (width + space) + space, background)
    for index, tile in enumerate(tiles):
        top = space + (index // columns) * (height + space)
        left = space + (index % columns) * (width + space)
        sheet[:, top : top + height, left : left + width] = tile
    return sheet


def _blank(channels: int, height: int, width: int, background: Colour | None) -> UInt8[Tensor, "C H W"]:
    red, green, blue = background or WHITE
    grey = round(0.299 * red + 0.587 * green + 0.114 * blue)
    fills = {1: [grey], 3: [red, green, blue], 4: [red, green, blue, 0 if background is None else 255]}
    if channels not in fills:
        raise ValueError(f"pictures need 1, 3 or 4 channels, got {channels}")
    return torch.tensor(fills[channels], dtype=torch.uint8).view(-1, 1, 1).repeat(1, height, width)


def labelled_grid(
    rows: Sequence[tuple[str, Pictures]],
    column_titles: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    gap: int | None = None,
    background: Colour = WHITE,
    scale: int | None = None,
) -> UInt8[Tensor, "3 GH GW"]:
    """One RGB picture with a titled row for each (title, pictures), such as a row per class, or per step of an edit.

    The title stands left of its row (an empty one takes no room), `column_titles` stand above the columns,
    `captions[row][column]` below the pictures; missing ones stay blank and long ones are cut with an ellipsis. Rows
    may differ in length and channels, not in picture size. RGBA is laid over `background`. `gap`, `scale`: see `grid`.
    Text uses Pillow's built-in font, which draws plain Latin letters only (accents are dropped).
    Raises ValueError for no pictures, different sizes, or more captions than pictures.
    """
    sheet = _Sheet(rows, column_titles, captions, gap, scale)
    canvas = Image.new("RGB", sheet.size, background)
    draw = ImageDraw.Draw(canvas)
    ink, pale = ("#202124", "#5f6368") if sum(background) > 382 else ("#f1f3f4", "#a8adb3")

    def write(x: int | float, y: int | float, text: str, anchor: str, fill: str) -> None:
        room = sheet.margin if anchor == "rm" else sheet.width
        draw.text((x, y), _cut(text, sheet.font, room), fill=fill, font=sheet.font, anchor=anchor)

    for column, title in enumerate(column_titles):
        write(sheet.place(0, column)[0] + sheet.width / 2, sheet.space, title, "ma", ink)
    for row, (title, images) in enumerate(rows):
        write(sheet.space + sheet.margin, sheet.place(row, 0)[1] + sheet.height / 2, title, "rm", ink)
        for column, image in enumerate(images):
            tile = flatten(to_pillow(image), background)
            canvas.paste(tile.resize((sheet.width, sheet.height), Image.Resampling.NEAREST), sheet.place(row, column))
        for column, text in enumerate(captions[row] if row < len(captions) else ()):
            x, y = sheet.place(row, column)
            write(x + sheet.width / 2, y + sheet.height + 2, text, "ma", pale)
    return from_pillow(canvas)


class _Sheet:
    """The measures of a labelled grid in pixels."""

    def __init__(
        self,
        rows: Sequence[tuple[str, Pictures]],
        column_titles: Sequence[str],
        captions: Sequence[Sequence[str]],
        gap: int | None,
        scale: int | None,
    ) -> None:
        sizes = {tuple(images.shape[2:]) for _, images in rows if len(images)}
        if len(sizes) != 1:
            raise ValueError(f"labelled pictures need one common size, got {sorted(sizes) or 'no pictures'}")
        lengths = [len(images) for _, images in rows]
        wanted = [len(texts) for texts in captions]
        spare = [len(column_titles) > max(lengths), len(wanted) > len(lengths)]
        if any(spare) or any(texts > length for texts, length in zip(wanted, lengths, strict=False)):
            raise ValueError(f"more titles or captions than pictures: {len(column_titles)} and {wanted} for {lengths}")
        height, width = sizes.pop()
        factor = _scale(height, width, scale)
        self.height, self.width = height * factor, width * factor
        self.space = _gap(max(4, self.height // 32, self.width // 32), gap)
        self.font = ImageFont.load_default(min(22, max(11, self.height // 9)))
        line = math.ceil(self.font.getbbox("Ágy")[3]) + 4
        titles = [self.font.getlength(_cut(title, self.font, 2.5 * self.width)) for title, _ in rows]
        self.margin = math.ceil(max(titles))
        self._left = self.margin + (2 * self.space if self.margin else self.space)
        self._top = self.space + (line if column_titles else 0)
        self._step = self.height + self.space + (line if captions else 0)
        self.size = self._left + max(lengths) * (self.width + self.space), self._top + len(rows) * self._step

    def place(self, row: int, column: int) -> tuple[int, int]:
        return self._left + column * (self.width + self.space), self._top + row * self._step


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int | float) -> str:
    # The built-in font has plain letters only: accents are dropped, what remains unknown shows as a box.
    bare = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    text = " ".join("".join(bare).split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


def titles(names: Sequence[str]) -> list[str]:
    """What rows of these names are called in a sheet: a name that the built-in font cannot draw has its number, such as
    #3, before what is left of it. `legend` says what these stand for.
    """
    found = []
    for number, name in enumerate(names):
        bare = [letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter)]
        plain = "".join(letter for letter in bare if letter.isascii()).strip()
        found.append(name if plain and all(map(str.isascii, bare)) else f"#{number} {plain}".strip())
    return found


def legend(names: Sequence[str], rows: Sequence[int], available: int | None = None) -> str:
    """What a sheet with a row for each of these classes leaves unsaid, empty where nothing: the names of those that
    `titles` gives numbers, and that the rows were chosen, by `even`, from so many `available` ones.
    """
    called, parts = titles(names), []
    if available is not None and available > len(rows):
        shown = f"{len(rows):,} of {counted(available, 'class')} {'is' if len(rows) == 1 else 'are'} shown"
        parts.append(f"{shown}, evenly chosen")
    hidden = [f"#{number} is {names[number]!r}" for number in rows if called[number] != names[number]]
    if hidden:
        parts.append(f"names that a picture cannot show have numbers: {', '.join(hidden)}")
    return "; ".join(parts)


def even(items: Sequence[T], most: int) -> list[T]:
    """All of them, or `most` of them evenly chosen from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[place * (len(items) - 1) // max(most - 1, 1)] for place in range(most)]


def side_by_side(
    pictures: Sequence[tuple[str, Picture]], background: Colour = WHITE, scale: int | None = None
) -> UInt8[Tensor, "3 GH GW"]:
    """One RGB picture with the (title, picture) pairs in one line, titles above: before and after."""
    if not pictures:
        raise ValueError("at least one picture is needed, got none")
    images = [from_pillow(flatten(to_pillow(image), background)) for _, image in pictures]
    if len({tuple(image.shape) for image in images}) > 1:
        raise ValueError(f"pictures side by side need one size, got {[tuple(image.shape[1:]) for image in images]}")
    titles = [title for title, _ in pictures]
    return labelled_grid([("", torch.stack(images))], column_titles=titles, background=background, scale=scale)


# ---- moving pictures ----------------------------------------------------------------------------------------------

Frames = Iterable[Picture]


def _checked(frames: Frames, rgb: bool) -> Iterator[Image.Image]:
    size = None
    for index, frame in enumerate(frames):
        image = to_pillow(frame)
        if size is not None and image.size != size:
            raise ValueError(f"all frames need one size: the first is {size}, frame {index} is {image.size}")
        size = image.size
        yield flatten(image) if rgb else image.convert("RGBA" if image.mode == "RGBA" else "RGB")
    if size is None:
        raise ValueError("a video needs at least one frame, got none")


def save_gif(path: Path, frames: Frames, seconds_per_frame: int | float, loop: bool = True) -> None:
    """Writes frames as an animation that browsers show: .gif, .webp or .png (animated PNG), by the suffix of `path`.

    `frames` may be an iterator: one frame at a time is held in memory. Equal neighbours become one longer frame. GIF
    has 256 colours a frame, hundredths of a second (at least 0.02) and no half-transparency (laid over white); the
    others keep full colour and alpha. `loop` plays for ever, else once.
    Raises ValueError for no frames, unequal sizes, a bad duration or suffix; OutputError where it cannot write.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"an animation is one of {', '.join(WRITERS)}, got {path.name!r}")
    if not 0.001 <= seconds_per_frame <= 30:
        raise ValueError(f"seconds_per_frame must be 0.001 to 30, got {seconds_per_frame}")
    with replacing(path) as part, part.open("w+b") as file:
        WRITERS[suffix](file, _checked(frames, rgb=suffix == ".gif"), seconds_per_frame, loop)


def save_video(path: Path, frames: Frames, fps: int | float) -> None:
    """Writes frames as a video by the suffix of `path`: .mp4 (H.264, plays everywhere), or .gif, .webp, .png for ever.

    .mp4 needs the extra `video`; odd sizes are padded to even ones. `frames` may be an iterator, see `save_gif`.
    Raises ImportError where `av` is missing, ValueError and OutputError as `save_gif`.
    """
    if not 0.04 <= fps <= 1000:
        raise ValueError(f"fps must be 0.04 to 1000, got {fps}")
    if path.suffix.lower() != ".mp4":
        save_gif(path, frames, 1 / fps)
        return
    with replacing(path) as part:
        write_mp4(part, _checked(frames, rgb=True), fps)
