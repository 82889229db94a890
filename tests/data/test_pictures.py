"""One picture: kinds of files, sizes, fits, and what is said of bad ones."""

import io
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frugan.config import from_dict, to_dict
from frugan.data import pictures
from frugan.data.pictures import (
    DataConfig,
    Decoded,
    PictureError,
    decode_picture,
    fit_picture,
    open_picture,
    prepare_picture,
)


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def prepared(data: bytes | np.ndarray, **settings: Any) -> np.ndarray:
    return prepare_picture(data, DataConfig(**({"resolution": 16} | settings))).pixels


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that says it has this size and holds nearly nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resolution": 3}, "resolution must be 4 to 8192, got 3"),
        ({"channels": 2}, "channels must be one of 1, 3, 4, got 2"),
        ({"fit": "squash"}, "fit must be one of 'crop', 'pad', 'letterbox', 'stretch', got 'squash'"),
        ({"background": "blurple"}, "background must be a colour name"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"role": "left"}, "role must be one of 'images', 'source', 'target', got 'left'"),
        ({"pairing": "both"}, "pairing must be one of 'paired', 'unpaired', got 'both'"),
        ({"kind": "ids"}, "kind must be one of 'picture', 'labels', got 'ids'"),
        ({"edges": True}, "kind must be 'labels', got 'picture'"),
        ({"kind": "labels", "fit": "pad"}, "fit must be 'crop' or 'stretch' for label maps"),
        ({"kind": "labels", "pairing": "unpaired"}, "pairing must be 'paired' for label maps"),
        ({"crop": 65}, "crop must be None or 4 to 16"),
        ({"crop": 12, "fit": "stretch", "aspect": 0.5}, "crop must be None or 4 to 8"),
        ({"aspect": 0.0}, "aspect"),
        ({"seed": -1}, "seed must be 0"),
        ({"flip": "yes"}, "flip must be one of 'auto', 'on', 'off'"),
    ],
)
def test_bad_settings_are_refused_in_words(settings: dict[str, Any], words: str) -> None:
    config = DataConfig(resolution=16)
    for name, value in settings.items():
        object.__setattr__(config, name, value)  # past the checker of the tests, which users do not run
    with pytest.raises(ValueError, match=words):
        config.__post_init__()


def test_settings_survive_their_plain_form() -> None:
    config = DataConfig(
        resolution=64, channels=4, fit="letterbox", aspect=1.5, background="#123456", limit=5, flip="off"
    )
    assert from_dict(DataConfig, to_dict(config)) == config


# ---- kinds of files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG", "TGA"])
def test_every_format_is_read(picture: Any, form: str) -> None:
    original = picture(1, 16, 16)
    options = {"lossless": True} if form == "WEBP" else {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    pixels = prepared(encode(original, form, **options))
    expected = np.asarray(original).transpose(2, 0, 1).astype(int)
    tolerance = {"JPEG": 5, "GIF": 30}.get(form, 0)  # JPEG rounds, GIF has 256 colours
    assert pixels.shape == (3, 16, 16)
    assert np.abs(pixels - expected).max() <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_mode_becomes_the_channels_asked_for(picture: Any, mode: str, channels: int) -> None:
    image = picture(2, 30, 20).convert(mode)
    form = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    pixels = prepared(encode(image, form), channels=channels)
    assert pixels.shape == (channels, 16, 16)
    assert pixels.dtype == np.uint8
    assert channels != 4 or (pixels[3] == 255).all()


def test_cmyk_jpeg_is_not_inverted(picture: Any) -> None:
    original = picture(3, 32, 32)
    pixels = prepared(encode(original.convert("CMYK"), "JPEG", quality=98), resolution=32)
    assert np.abs(pixels.transpose(1, 2, 0).astype(int) - np.asarray(original)).mean() < 6


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 16 * 16).astype(np.uint16).reshape(16, 16)
    for form in ("PNG", "TIFF"):
        assert (prepared(encode(Image.fromarray(ramp), form), channels=1)[0] == ramp >> 8).all()


def test_sixteen_bit_colour_is_scaled_the_same_way() -> None:
    ramp = np.linspace(0, 65535, 16 * 16).astype(">u2").reshape(16, 16)
    rows = np.repeat(ramp[:, :, None], 3, axis=2)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    assert (prepared(data) == (ramp >> 8)).all()


def test_float_pictures_of_zero_to_one_are_scaled_and_others_refused() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert (prepared(encode(Image.fromarray(ramp), "TIFF"), channels=1)[0] == np.round(ramp * 255)).all()
    with pytest.raises(PictureError, match="float pixels must be 0 to 1"):
        prepared(encode(Image.fromarray(ramp * 9), "TIFF"))
    broken = ramp.copy()
    broken[0, 0] = np.nan
    with pytest.raises(PictureError, match="float pixels must be 0 to 1"):
        prepared(encode(Image.fromarray(broken), "TIFF"))


def test_integers_of_32_bits_have_no_range_and_are_refused() -> None:
    values = np.full((16, 16), 1_000_000, dtype=np.int32)
    with pytest.raises(PictureError, match="integer pixels must be 0 to 65535"):
        prepared(encode(Image.fromarray(values), "TIFF"))


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (prepared(data)[0] == 255).all()
    assert (prepared(data)[2] == 0).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_as_exif_says(form: str, orientation: int) -> None:
    stored = Image.new("RGB", (32, 16), "white")
    stored.paste("black", (0, 0, 16, 8))  # the upper left quarter, as stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_picture(open_picture(encode(stored, form, exif=exif))).image
    expected_size = (32, 16) if orientation <= 4 else (16, 32)
    corner = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}[orientation]
    grey = np.asarray(image.convert("L"))
    height, width = grey.shape
    quarters = {
        (x, y): grey[y * height // 2 :, x * width // 2 :][3 : height // 4, 3 : width // 4]
        for x in (0, 1)
        for y in (0, 1)
    }
    assert image.size == expected_size
    assert {place for place, part in quarters.items() if part.mean() < 60} == {corner}


def test_a_broken_exif_block_does_not_lose_the_picture(picture: Any) -> None:
    data = encode(picture(0, 16, 16), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff junk")
    with pictures.quiet_pillow():
        assert prepared(data).shape == (3, 16, 16)


# ---- transparency --------------------------------------------------------------------------------------------------


def half_transparent() -> Image.Image:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 255))
    image.paste((0, 255, 0, 0), (0, 0, 8, 16))  # green hidden under full transparency
    return image


def test_transparency_is_laid_on_the_background() -> None:
    pixels = prepared(encode(half_transparent()), background="#0000ff")
    assert (pixels[:, :, :8] == np.array([0, 0, 255])[:, None, None]).all()
    assert (pixels[:, :, 8:] == np.array([255, 0, 0])[:, None, None]).all()


def test_hidden_colours_do_not_bleed_when_the_size_changes() -> None:
    pixels = prepared(encode(half_transparent()), resolution=5, background="#0000ff")
    assert (pixels[1] == 0).all()  # no green anywhere


def test_alpha_is_kept_with_four_channels_and_becomes_grey_with_one() -> None:
    kept = prepared(encode(half_transparent()), channels=4)
    assert (kept[3, :, :8] == 0).all() and (kept[3, :, 8:] == 255).all()
    grey = prepared(encode(half_transparent()), channels=1, background="white")
    assert (grey[0, :, :8] == 255).all() and (grey[0, :, 8:] == 76).all()  # 0.299 * 255


def test_palette_transparency_counts() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 255, 0, 255, 0, 0])
    image.paste(0, (0, 0, 8, 16))
    data = encode(image, "PNG", transparency=0)
    assert (prepared(data, background="white")[:, :, :8] == 255).all()


# ---- size and shape ------------------------------------------------------------------------------------------------


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert (prepared(encode(Image.fromarray(noise))) == noise.transpose(2, 0, 1)).all()
    assert (prepared(noise) == noise.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("size", [(48, 16), (16, 48), (47, 16), (16, 33)])
def test_crop_takes_the_centre(size: tuple[int, int]) -> None:
    width, height = size
    numbers = np.arange(max(size), dtype=np.uint8)
    line = np.broadcast_to(numbers if width > height else numbers[:, None], (height, width))
    pixels = prepared(np.ascontiguousarray(line), channels=1)[0]
    start = (max(size) - 16) // 2
    assert (pixels == (numbers[start : start + 16] if width > height else numbers[start : start + 16, None])).all()


def test_crop_equals_crop_then_lanczos(picture: Any) -> None:
    image = picture(5, 90, 61)
    left = (90 - 61) // 2
    expected = image.crop((left, 0, left + 61, 61)).resize((16, 16), Image.Resampling.LANCZOS)
    assert (prepared(encode(image)) == np.asarray(expected).transpose(2, 0, 1)).all()


def test_pad_keeps_all_and_fills_with_the_background() -> None:
    pixels = prepared(encode(Image.new("RGB", (64, 32), "red")), fit="pad", background="#0000ff")
    assert (pixels[:, 4:12] == np.array([255, 0, 0])[:, None, None]).all()
    assert (pixels[:, :4] == np.array([0, 0, 255])[:, None, None]).all()
    assert (pixels[:, 12:] == np.array([0, 0, 255])[:, None, None]).all()


def test_pad_is_transparent_with_four_channels() -> None:
    pixels = prepared(encode(Image.new("RGB", (32, 64), "red")), fit="pad", channels=4)
    assert (pixels[3, :, :4] == 0).all() and (pixels[3, :, 4:12] == 255).all() and (pixels[3, :, 12:] == 0).all()


def test_pad_of_an_extreme_shape_keeps_a_line() -> None:
    pixels = prepared(encode(Image.new("RGB", (2000, 3), "red")), fit="pad", background="black")
    assert (pixels[0].max(axis=1) > 200).sum() == 1


@pytest.mark.parametrize(("aspect", "size"), [(4 / 3, (16, 12)), (2.0, (16, 8)), (0.5, (8, 16)), (1.0, (16, 16))])
def test_letterbox_gives_all_pictures_the_same_bars(aspect: float, size: tuple[int, int]) -> None:
    for shape in ((100, 100), (200, 50), (50, 200)):
        pixels = prepared(encode(Image.new("RGB", shape, "red")), fit="letterbox", aspect=aspect, background="blue")
        inside = pixels[0] == 255
        columns, rows = inside.any(axis=0).sum(), inside.any(axis=1).sum()
        assert (columns, rows) == size
        assert (inside == inside[::-1, ::-1]).all()


def test_small_pictures_are_enlarged_or_skipped(picture: Any) -> None:
    small = encode(picture(0, 7, 40))
    fitted = prepare_picture(small, DataConfig(resolution=16, upscale="allow"))
    assert fitted.is_upscaled and fitted.pixels.shape == (3, 16, 16)
    assert not prepare_picture(encode(picture(0, 16, 40)), DataConfig(resolution=16)).is_upscaled
    with pytest.raises(PictureError, match="7 x 7 is smaller than 16 x 16"):
        prepare_picture(small, DataConfig(resolution=16, upscale="skip"))
    assert prepare_picture(encode(picture(0, 8, 40)), DataConfig(resolution=16)).is_upscaled
    with pytest.raises(PictureError, match=r"7 x 7 is less than half of 16 x 16.*: --set data.images.upscale=allow\)"):
        prepare_picture(small, DataConfig(resolution=16))
    with pytest.raises(PictureError, match=r"--set data.source.upscale=allow --set data.target.upscale=allow"):
        prepare_picture(small, DataConfig(resolution=16, role="target"))


def test_one_pixel_is_a_picture_too() -> None:
    one = encode(Image.new("RGB", (1, 1), (9, 8, 7)))
    assert (prepared(one, upscale="allow") == np.array([9, 8, 7])[:, None, None]).all()


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("fit", ["crop", "pad", "letterbox"])
@pytest.mark.parametrize("size", [(400, 320), (403, 301), (299, 411)])
def test_fast_jpeg_is_close_for_odd_sizes_and_turned_pictures(
    picture: Any, size: tuple[int, int], fit: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(4, *size), "JPEG", quality=92, exif=exif)
    difference = np.abs(prepared(data, fit=fit).astype(int) - prepared(data, fit=fit, fast_jpeg=False))
    # A reduced decode averages where LANCZOS does not; a quarter of a pixel of displacement would give 12.
    assert 0 < difference.max() <= 6
    assert difference.mean() < 0.6


def test_fast_jpeg_leaves_small_pictures_alone(picture: Any) -> None:
    small = encode(picture(4, 60, 63), "JPEG")
    assert (prepared(small) == prepared(small, fast_jpeg=False)).all()


# ---- bad files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"dear diary", "not a picture in a format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture in a format"),
        (png_header_only(20_000, 20_000), "bomb"),
        (png_header_only(14_000, 14_000), "bomb"),
        (png_header_only(64, 64), "broken"),
    ],
)
def test_bad_files_are_refused_with_a_reason(data: bytes, words: str) -> None:
    with pictures.quiet_pillow(), pytest.raises(PictureError, match=words):
        prepared(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_files_cut_short_are_refused(picture: Any, form: str, part: float) -> None:
    data = encode(picture(1, 200, 200), form)
    with pictures.quiet_pillow(), pytest.raises(PictureError):
        prepared(data[: int(len(data) * part)])


def test_no_random_bytes_make_anything_but_a_picture_error(picture: Any) -> None:
    """Files damaged at random places are read or refused, never anything else."""
    draws = np.random.default_rng(0)
    outcomes = set()
    with pictures.quiet_pillow():
        for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
            data = encode(picture(1, 24, 24), form)
            for _ in range(40):
                damaged = bytearray(data)
                for place in draws.integers(0, len(data), 6):
                    damaged[place] = int(draws.integers(0, 256))
                try:
                    outcomes.add(prepared(bytes(damaged)).shape)
                except PictureError as error:
                    outcomes.add(str(error)[:6])
    assert {(3, 16, 16), "broken"} <= outcomes


def test_large_pictures_wait_for_each_other(picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_LARGE", 10)
    assert prepared(encode(picture(0, 50, 50))).shape == (3, 16, 16)
    assert not pictures._large_gate.locked()


def test_fit_counts_as_pixels_of_their_own(picture: Any) -> None:
    image = picture(0, 16, 16)
    pixels = fit_picture(Decoded(image, image.size, (0, 0, 16, 16)), DataConfig(resolution=16)).pixels
    assert pixels.flags["C_CONTIGUOUS"]


# ---- for translation -------------------------------------------------------------------------------------------------


def test_sizes_of_stretched_pictures_and_crops() -> None:
    wide = DataConfig(resolution=16, fit="stretch", aspect=2.0)
    assert (wide.size, wide.inner_size, wide.fed_resolution, wide.stored_channels) == ((32, 16), (32, 16), 16, 3)
    assert (DataConfig(resolution=16).size, DataConfig(resolution=16, fit="letterbox").size) == ((16, 16), (16, 16))
    maps = DataConfig(resolution=16, kind="labels")
    assert (maps.stored_channels, replace(maps, edges=True).stored_channels) == (1, 2)


def test_another_size_keeps_the_margin_of_the_crops() -> None:
    config = DataConfig(resolution=286, crop=256)
    small = config.sized(64)
    assert (small.resolution, small.crop, small.fed_resolution) == (72, 64, 64)
    assert config.sized(256) == config and DataConfig(resolution=32).sized(64).resolution == 64


def test_stretched_pictures_lose_nothing(picture: Any) -> None:
    image = picture(3, 60, 20)
    pixels = prepared(encode(image, "PNG"), fit="stretch", aspect=1.5)
    expected = np.asarray(image.resize((24, 16), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    assert pixels.shape == (3, 16, 24) and np.array_equal(pixels, expected)


def test_halves_never_mix(picture: Any) -> None:
    """However large the JPEG: nothing of the one picture may come into the other."""
    both = Image.new("RGB", (1024, 512), "red")
    both.paste("blue", (512, 0, 1024, 512))
    data = encode(both, "JPEG", quality=95)
    for half, channel in (("left", 0), ("right", 2)):
        pixels = prepare_picture(data, DataConfig(resolution=16), half).pixels  # type: ignore[arg-type]
        assert pixels[channel].min() > 250 and np.delete(pixels, channel, 0).max() < 5
    whole = encode(both.transpose(Image.Transpose.ROTATE_90), "PNG")
    with pytest.raises(PictureError, match="512 x 1024 is not exactly twice as wide as high"):
        prepare_picture(whole, DataConfig(resolution=16), "left")
