"""Label maps: numbers, palettes and colours read alike, edges of instances, sizes to the nearest pixel."""

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from frugan.data import DataConfig, DataError, PictureError
from frugan.data.label_sets import CITYSCAPES, COCO_STUFF
from frugan.data.maps import MapFile, MapRules, coloured, edges_of, prepare_map, read_numbers, read_rules, some_colours

COLOURS = ((10, 20, 30), (200, 0, 0), (0, 0, 255))
NAMED = MapRules(names=("sky", "house", "sea"), colours=COLOURS)
NUMBERS = np.array([[0, 1, 2], [2, 2, 0], [1, 1, 1]])


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def palette(numbers: np.ndarray, colours: Any = COLOURS) -> Image.Image:
    image = Image.fromarray(numbers.astype(np.uint8)).convert("P")
    image.putdata(numbers.flatten().tolist())
    image.putpalette([part for colour in colours for part in colour])
    return image


def settings(resolution: int = 6, **changes: Any) -> DataConfig:
    return DataConfig(resolution=resolution, kind="labels", upscale="allow", **changes)


@pytest.mark.parametrize("mode", ["grey", "16 bits", "palette", "shuffled palette", "colour", "colour and alpha"])
def test_every_way_to_write_a_map_gives_the_same_numbers(mode: str) -> None:
    drawn = Image.fromarray(np.array(COLOURS, dtype=np.uint8)[NUMBERS])
    order = np.array([2, 0, 1])  # number n lies at place order[n]
    images = {
        "grey": Image.fromarray(NUMBERS.astype(np.uint8)),
        "16 bits": Image.fromarray(NUMBERS.astype(np.uint16)),
        "palette": palette(NUMBERS),
        "shuffled palette": palette(order[NUMBERS], [COLOURS[place] for place in np.argsort(order)]),
        "colour": drawn,
        "colour and alpha": drawn.convert("RGBA"),
    }
    reading = read_numbers(images[mode], NAMED)
    assert np.array_equal(reading.numbers, NUMBERS) and reading.unknown == {}


def test_without_names_a_palette_and_grey_colours_are_numbers() -> None:
    assert np.array_equal(read_numbers(palette(NUMBERS), MapRules()).numbers, NUMBERS)
    grey = Image.fromarray(NUMBERS.astype(np.uint8)).convert("RGB")
    assert np.array_equal(read_numbers(grey, MapRules()).numbers, NUMBERS)
    with pytest.raises(DataError, match=r"a label map in colours needs classes\.json"):
        read_numbers(Image.new("RGB", (2, 2), (1, 2, 3)), MapRules())


def test_a_black_and_white_mask_is_read_by_its_colours() -> None:
    rules = MapRules(names=("no", "yes"), colours=((0, 0, 0), (255, 255, 255)))
    mask = Image.fromarray(np.array([[0, 255]], dtype=np.uint8))
    assert read_numbers(mask, rules).numbers.tolist() == [[0, 1]]


def test_an_unknown_colour_is_refused_with_file_colour_and_advice() -> None:
    drawn = np.array(COLOURS, dtype=np.uint8)[NUMBERS]
    drawn[0, 0], drawn[1, 2] = (1, 2, 3), (1, 2, 3)
    with pytest.raises(DataError, match=r"the label map b/7 has 2 pixels of the colour #010203.*classes\.json.*PNG"):
        prepare_map("b/7", MapFile(png(Image.fromarray(drawn)), None, NAMED), settings())


def test_a_number_above_the_names_is_refused() -> None:
    numbers = np.where(NUMBERS == 2, 7, NUMBERS).astype(np.uint8)
    with pytest.raises(DataError, match=r"x has 3 pixels of the label number 7: 3 labels are named \(0 to 2\)"):
        prepare_map("x", MapFile(png(Image.fromarray(numbers)), None, NAMED), settings())
    large = np.array([[0, 300]], dtype=np.uint16)
    with pytest.raises(DataError, match="label number 300: label numbers must be 0 to 255"):
        prepare_map("x", MapFile(png(Image.fromarray(large)), None, MapRules()), settings())


def test_edges_lie_on_both_sides_of_a_border() -> None:
    instances = np.zeros((5, 5), dtype=np.int64)
    instances[2, 2] = 7
    expected = np.zeros((5, 5), dtype=bool)
    expected[2, 1:4] = expected[1:4, 2] = True
    assert np.array_equal(edges_of(instances), expected)
    assert not edges_of(np.full((3, 4), 9)).any()


def test_maps_are_resized_to_the_nearest_pixel_and_edges_made_afterwards() -> None:
    numbers = np.array([[0, 2], [1, 2]], dtype=np.uint8)
    instances = np.array([[26000, 26000], [26000, 26001]], dtype=np.uint16)  # as Cityscapes has them
    file = MapFile(png(Image.fromarray(numbers)), png(Image.fromarray(instances)), NAMED)
    fitted = prepare_map("x", file, settings(8, edges=True))
    assert fitted.pixels.shape == (2, 8, 8) and fitted.size == (2, 2) and fitted.is_upscaled
    assert np.array_equal(fitted.pixels[0], numbers.repeat(4, 0).repeat(4, 1))
    assert np.array_equal(fitted.pixels[1], edges_of(instances.repeat(4, 0).repeat(4, 1).astype(np.int64)))
    small = prepare_map(
        "x", MapFile(png(Image.fromarray(numbers.repeat(20, 0).repeat(20, 1))), None, NAMED), settings()
    )
    assert set(np.unique(small.pixels)) == {0, 1, 2}


def test_a_map_that_is_not_square_is_cut_or_stretched() -> None:
    numbers = np.array([[0, 1, 2, 0]], dtype=np.uint8).repeat(2, 0)
    file = MapFile(png(Image.fromarray(numbers)), None, NAMED)
    assert prepare_map("x", file, settings(4)).pixels[0, 0].tolist() == [1, 1, 2, 2]
    wide = prepare_map("x", file, settings(4, fit="stretch", aspect=2.0)).pixels
    assert wide.shape == (1, 4, 8) and wide[0, 0].tolist() == [0, 0, 1, 1, 2, 2, 0, 0]


def test_an_instance_map_of_another_size_and_a_broken_map_are_refused() -> None:
    one, other = png(Image.new("L", (4, 4))), png(Image.new("L", (4, 6)))
    with pytest.raises(DataError, match="x: the instance map is 4 x 6, the label map 4 x 4"):
        prepare_map("x", MapFile(one, other, NAMED), settings(edges=True))
    with pytest.raises(PictureError, match="broken"):
        prepare_map("x", MapFile(png(Image.fromarray(np.eye(99, dtype=np.uint8)))[:-60], None, NAMED), settings())
    with pytest.raises(PictureError, match="less than half"):
        prepare_map("x", MapFile(one, None, NAMED), DataConfig(resolution=9, kind="labels"))


def test_classes_file() -> None:
    text = json.dumps({"class_names": ["a", "b"], "colours": [[0, 0, 0], [255, 1, 2]]}).encode()
    assert read_rules(text) == MapRules(names=("a", "b"), colours=((0, 0, 0), (255, 1, 2)))
    assert read_rules(b'{"class_names": ["a"], "colors": [[1, 2, 3]]}').colours == ((1, 2, 3),)
    assert read_rules(b'{"class_names": ["a"]}').colours == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "is not JSON"),
        (b"[]", "must hold"),
        (b'{"class_names": []}', "must hold"),
        (b'{"class_names": [1]}', "must hold"),
        (b'{"class_names": ["a"], "colours": [[1, 2, 3], [1, 2, 3]]}', "colours must be 1 times"),
        (b'{"class_names": ["a"], "colours": [[1, 2, 256]]}', "colours must be"),
        (json.dumps({"class_names": ["a"] * 257}).encode(), "at most 256 labels"),
    ],
)
def test_a_classes_file_that_cannot_be_used(text: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rules(text)


def test_the_labels_of_cityscapes_and_coco() -> None:
    assert len(CITYSCAPES.names) == len(CITYSCAPES.colours) == 35
    assert [CITYSCAPES.names[number] for number in (7, 23, 26, 33)] == ["road", "sky", "car", "bicycle"]
    assert len(COCO_STUFF.names) == len(COCO_STUFF.colours) == 183
    assert [COCO_STUFF.names[number] for number in (0, 90, 91, 181, 182)] == [
        *("person", "hair-brush", "banner", "wood", "don't care")
    ]
    numbered = {name: COCO_STUFF.names.index(name) + 1 for name in ("toothbrush", "sky-other", "tree")}
    assert numbered == {"toothbrush": 90, "sky-other": 157, "tree": 169}  # as the set numbers them, from 1
    found = read_numbers(Image.fromarray(np.array([[0, 255]], dtype=np.uint8)), COCO_STUFF)
    assert found.numbers.tolist() == [[0, 182]] and found.unknown == {}


def test_maps_in_colours() -> None:
    maps = torch.tensor([[[[0, 2]], [[0, 1]]]], dtype=torch.uint8)
    assert coloured(maps[:, :1], COLOURS)[0, :, 0].T.tolist() == [[10, 20, 30], [0, 0, 255]]
    assert coloured(maps, COLOURS)[0, :, 0].T.tolist() == [[10, 20, 30], [0, 0, 127]]
    assert len(set(some_colours(183))) == 183
