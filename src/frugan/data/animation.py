"""The byte layouts of animations: GIF, animated PNG, animated WebP and MP4, written one frame at a time.

Stills are encoded by Pillow and strung together here: Pillow's own animation writers keep every frame in memory.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image


def _timed(
    images: Iterable[Image.Image], seconds: int | float, ticks_per_second: int, shortest: int
) -> Iterator[tuple[Image.Image, int]]:
    """The images with their durations in whole ticks that add up without drift; equal neighbours are joined."""
    held: Image.Image | None = None
    start, now = 0, 0.0
    longest = 30 * ticks_per_second  # with another 30 seconds of the last frame still under the 65 of animated PNG
    for image in images:
        if held is not None and (image.tobytes() != held.tobytes() or round(now * ticks_per_second) - start > longest):
            end = max(start + shortest, round(now * ticks_per_second))
            yield held, end - start
            start, held = end, image
        held = image if held is None else held
        now += seconds
    if held is not None:
        yield held, max(shortest, round(now * ticks_per_second) - start)


def _write_gif(file: BinaryIO, images: Iterable[Image.Image], seconds: int | float, loop: bool) -> None:
    for index, (image, hundredths) in enumerate(_timed(images, seconds, 100, 2)):
        still = io.BytesIO()
        # Octree with dithering: 20 times faster than Pillow's usual median cut, and smoother to the eye.
        palette = image.quantize(256, Image.Quantize.FASTOCTREE)
        image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(still, "GIF")
        data = still.getvalue()
        table = 13 + 3 * (2 << (data[10] & 7))
        body = table
        while data[body] == 0x21:  # an extension: label, then blocks up to an empty one
            body += 2
            while data[body]:
                body += 1 + data[body]
            body += 1
        if index == 0:
            file.write(b"GIF89a" + struct.pack("<HHBBB", *image.size, 0x70, 0, 0))
            file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00" if loop else b"")
        file.write(b"\x21\xf9\x04\x04" + struct.pack("<HBB", hundredths, 0, 0))
        local_table = 0x80 | (data[10] & 7)
        file.write(data[body : body + 9] + bytes([local_table | data[body + 9] & 0x40]) + data[13:table])
        file.write(data[body + 10 : -1])
    file.write(b"\x3b")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _write_apng(file: BinaryIO, images: Iterable[Image.Image], seconds: int | float, loop: bool) -> None:
    sequence, count = 0, 0
    for count, (image, milliseconds) in enumerate(_timed(images, seconds, 1000, 1), start=1):
        still = io.BytesIO()
        image.save(still, "PNG")
        data, place = still.getvalue(), 8
        if count == 1:  # signature, header, and room for the number of frames
            file.write(data[:33] + _chunk(b"acTL", bytes(8)))
        control = struct.pack(">IIIIIHHBB", sequence, *image.size, 0, 0, milliseconds, 1000, 0, 0)
        file.write(_chunk(b"fcTL", control))
        sequence += 1
        while place < len(data):
            (length,) = struct.unpack_from(">I", data, place)
            kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
            if kind == b"IDAT" and count == 1:
                file.write(_chunk(b"IDAT", body))
            elif kind == b"IDAT":
                file.write(_chunk(b"fdAT", struct.pack(">I", sequence) + body))
                sequence += 1
            place += 12 + length
    file.write(_chunk(b"IEND", b""))
    file.seek(33)
    file.write(_chunk(b"acTL", struct.pack(">II", count, 0 if loop else 1)))


def _write_webp(file: BinaryIO, images: Iterable[Image.Image], seconds: int | float, loop: bool) -> None:
    def three(number: int) -> bytes:
        return number.to_bytes(3, "little")

    for index, (image, milliseconds) in enumerate(_timed(images, seconds, 1000, 1)):
        still = io.BytesIO()
        image.save(still, "WEBP", quality=90)
        data, place, body = still.getvalue(), 12, b""
        while place < len(data):
            (length,) = struct.unpack_from("<I", data, place + 4)
            end = place + 8 + length + length % 2
            if data[place : place + 4] in (b"ALPH", b"VP8 ", b"VP8L"):
                body += data[place:end]
            place = end
        size = three(image.width - 1) + three(image.height - 1)
        if index == 0:
            animated = 0x12 if image.mode == "RGBA" else 0x02
            file.write(b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<II", 10, animated) + size)
            file.write(b"ANIM" + struct.pack("<IIH", 6, 0, 0 if loop else 1))
        frame = bytes(6) + size + three(milliseconds) + b"\x02" + body
        file.write(b"ANMF" + struct.pack("<I", len(frame)) + frame)
    end = file.tell()
    file.seek(4)
    file.write(struct.pack("<I", end - 8))


def write_mp4(path: Path, images: Iterable[Image.Image], fps: int | float) -> None:
    """Writes RGB images of one size as H.264 video; odd sizes are padded. Raises ImportError where `av` is missing."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "MP4 needs the package av: pip install 'frugan[video]' (or write .gif, .webp or .png)"
        ) from error
    with av.open(str(path), "w", format="mp4", container_options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        # 1 is BT.709 (limited range): said and used, as players guess by the size where nothing is said.
        codec.colorspace = codec.color_range = codec.color_primaries = codec.color_trc = 1
        stream.options = {"crf": "17", "preset": "medium"}
        for index, image in enumerate(images):
            # yuv420p needs even sizes: the last row and column are repeated.
            pixels = np.pad(np.asarray(image), ((0, image.height % 2), (0, image.width % 2), (0, 0)), mode="edge")
            if index == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())


WRITERS: dict[str, Callable[[BinaryIO, Iterable[Image.Image], int | float, bool], None]] = {
    ".gif": _write_gif,
    ".webp": _write_webp,
    ".png": _write_apng,
}
