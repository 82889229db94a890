"""Folders through a translator: names, kinds of pictures, going on, what cannot be read; label maps; the gallery."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frugan.data.maps import edges_of
from frugan.data.pictures import DataError
from frugan.data.write import from_pillow, read_metadata
from frugan.model import Model
from frugan.models.spade import SpadeConfig, SpadeTranslator
from frugan.models.translator import ResnetConfig, ResnetTranslator
from frugan.translation import Options, Result, compare, translate_folder, write_gallery
from frugan.translation.folder import open_pictures, open_sources, output_names, read_picture
from tests.tiny_extractor import TinyExtractor


def make(source_channels: int = 3, channels: int = 3, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    config = ResnetConfig(width=4, num_blocks=0, source_channels=source_channels, channels=channels)
    return Model(ResnetTranslator(config).eval())


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(noise(20, 17, 3)).save(folder / "a.png")
    Image.fromarray(noise(20, 17)).save(folder / "a.bmp")
    Image.fromarray(noise(9, 5, 4)).save(folder / "sub" / "b.png")
    turned = Image.fromarray(noise(12, 30, 3))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.png", exif=exif)
    (folder / "broken.jpg").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("hello")
    return folder


def go(model: Model, folder: Path, out: Path, **options: object) -> Result:
    with open_sources(folder, model) as source:
        return translate_folder(model, source, out, Options(**options))  # type: ignore[arg-type]


def test_names_kinds_and_sizes(photos: Path, tmp_path: Path) -> None:
    model, out = make(), tmp_path / "out"
    result = go(model, photos, out)
    assert [item.output.relative_to(out).as_posix() for item in result.items] == [
        "a.bmp.png",
        "a.png.png",
        "sub/b.png",
        "turned.png",
    ]
    assert result.num_new == 4 and result.skipped[0][0] == "broken.jpg"
    sizes = [picture(item.output).size for item in result.items]
    assert sizes == [(17, 20), (17, 20), (5, 9), (12, 30)]
    colour = torch.from_numpy(noise(20, 17, 3)).permute(2, 0, 1)[None]
    assert torch.equal(from_pillow(picture(out / "a.png.png")), model.translate(colour)[0])
    grey = torch.from_numpy(noise(20, 17)).expand(1, 3, -1, -1)
    assert torch.equal(from_pillow(picture(out / "a.bmp.png")), model.translate(grey)[0])
    facts = read_metadata(out / "sub" / "b.png")
    assert facts["frugan:model"] == model.hash and facts["frugan:source"] == "sub/b.png"


def test_a_transparent_picture_lies_on_the_background(photos: Path, tmp_path: Path) -> None:
    model = make(1, 1)
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(photos / "clear.png")
    for colour, value in (("white", 255), ("black", 0)):
        go(model, photos, tmp_path / colour, background=colour)
        expected = model.translate(torch.full((1, 1, 8, 8), value, dtype=torch.uint8))[0]
        assert torch.equal(from_pillow(picture(tmp_path / colour / "clear.png")), expected)


def test_it_goes_on_where_it_stopped(photos: Path, tmp_path: Path) -> None:
    model, out = make(), tmp_path / "out"
    go(model, photos, out)
    (out / "sub" / "b.png").unlink()
    kept = (out / "turned.png").stat().st_mtime_ns
    steps: list[tuple[int, int, str]] = []
    with open_pictures(photos) as source:
        result = translate_folder(model, source, out, Options(), lambda *step: steps.append(step))
    assert result.num_new == 1 and len(result.items) == 4 and steps[-1][:2] == (4, 4)
    assert (out / "turned.png").stat().st_mtime_ns == kept
    assert go(model, photos, out, overwrite=True).num_new == 4
    for options in ({"size": 16}, {"tile": 16}):
        with pytest.raises(ValueError, match="in another way: use --overwrite"):
            go(model, photos, out, **options)
    with pytest.raises(ValueError, match="by another model"):
        go(make(seed=1), photos, out)
    assert go(make(seed=1), photos, out, overwrite=True).num_new == 4


def test_nothing_of_the_users_is_overwritten(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not go into it"):
        go(make(), photos, photos)
    with pytest.raises(ValueError, match="must not go into it"):
        go(make(), photos, photos / "out")
    (tmp_path / "out").mkdir()
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "out" / "turned.png")
    with pytest.raises(ValueError, match=r"turned\.png is there already and is no translation"):
        go(make(), photos, tmp_path / "out")


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_size_and_batch(photos: Path, tmp_path: Path, batch: int) -> None:
    result = go(make(), photos, tmp_path / "out", size=8, batch=batch)
    assert [picture(item.output).size for item in result.items] == [(8, 9), (8, 9), (8, 14), (8, 20)]
    with pytest.raises(ValueError, match="batch must be at least 1"):
        Options(batch=0)


def test_a_single_picture_and_nothing_at_all(photos: Path, tmp_path: Path) -> None:
    result = go(make(), photos / "a.png", tmp_path / "out")
    assert [item.output for item in result.items] == [tmp_path / "out" / "a.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no usable picture .*it is empty"):
        go(make(), tmp_path / "empty", tmp_path / "other")
    (tmp_path / "empty" / "bad.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no usable picture .*bad\.png"):
        go(make(), tmp_path / "empty", tmp_path / "other")
    assert output_names(("a/x.png", "b/x.png", "b/x.jpg")) == ["a/x.png", "b/x.png.png", "b/x.jpg.png"]


@pytest.mark.parametrize(("shape", "channels"), [((1, 1, 3), 3), ((5, 4), 1)])
def test_pixels_are_a_copy(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    Image.fromarray(noise(*shape)).save(tmp_path / "x.png")
    pixels = read_picture((tmp_path / "x.png").read_bytes(), channels, Options())
    assert pixels.shape == (channels, *shape[:2]) and pixels.flags.writeable


# ---- label maps ---------------------------------------------------------------------------------------------------


def spade(has_edges: bool = True) -> Model:
    torch.manual_seed(0)
    return Model(SpadeTranslator(SpadeConfig(width=4, num_labels=3, resolution=32, has_edges=has_edges)).eval())


def label_maps(folder: Path, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, (count, 30, 40), dtype=np.uint8)
    instances = draw.integers(0, 5, (count, 30, 40), dtype=np.uint8)
    for name, maps in (("labels", labels), ("instances", instances)):
        (folder / name).mkdir(parents=True)
        for index, picture in enumerate(maps):
            Image.fromarray(picture).save(folder / name / f"{index}.png")
    return labels, instances


def test_label_maps_with_instances(tmp_path: Path) -> None:
    model = spade()
    labels, instances = label_maps(tmp_path / "in")
    result = go(model, tmp_path / "in", tmp_path / "out")
    assert [item.name for item in result.items] == ["0.png", "1.png"]
    source = np.stack([labels[1], edges_of(instances[1].astype(np.int64)).astype(np.uint8)])
    expected = model.translate(torch.from_numpy(source)[None])[0]
    assert torch.equal(from_pillow(picture(tmp_path / "out" / "1.png")), expected)
    with open_sources(tmp_path / "in", model) as opened:
        page = write_gallery(tmp_path / "out" / "gallery.html", result, opened, {})
    assert page.read_text().count("<img") == 4


def test_label_maps_alone(tmp_path: Path) -> None:
    label_maps(tmp_path / "in")
    Image.fromarray(np.full((30, 40), 7, np.uint8)).save(tmp_path / "in" / "labels" / "9.png")
    result = go(spade(has_edges=False), tmp_path / "in" / "labels", tmp_path / "out")
    assert len(result.items) == 2
    assert result.skipped == (("9.png", "it has the label number 7; the model knows 0 to 2"),)
    with pytest.raises(DataError, match="no instance maps"):
        go(spade(), tmp_path / "in" / "labels", tmp_path / "other")


# ---- targets and the page -----------------------------------------------------------------------------------------


def test_targets_and_gallery(photos: Path, tmp_path: Path) -> None:
    model, out, wanted = make(), tmp_path / "out", tmp_path / "targets"
    result = go(model, photos, out)
    (wanted / "sub").mkdir(parents=True)
    picture(out / "turned.png").save(wanted / "turned.bmp")  # equal
    inverted = 255 - np.asarray(picture(out / "sub" / "b.png"))
    Image.fromarray(inverted).resize((10, 18)).save(wanted / "sub" / "b.png")  # of another size
    with open_pictures(photos) as source, open_pictures(wanted) as targets:
        compared = compare(result, targets, TinyExtractor())
        page = write_gallery(out / "gallery.html", result, source, {"title": "<b>"}, targets, compared).read_text()
    assert compared.apart[result.items[3].index] == 0 and compared.num_resized == 1
    other = compared.apart[result.items[2].index]
    assert 0 < other < 1 and compared.scores["paired-L1"].value == pytest.approx(other / 2)
    assert compared.scores["paired-L1"].spread == pytest.approx(other / 2)
    assert set(compared.scores) == {"paired-L1", "paired-tiny"}
    assert [name for name, _ in compared.left_out] == ["a.bmp", "a.png"]
    assert page.count("<img") == 4 * 2 + 2 and "<h1>&lt;b&gt;</h1>" in page
    assert 'href="sub/b.png"' in page and 'href="../in/turned.png"' in page and "broken.jpg" in page
    assert not re.search(r"(src|href)=\"(https?:|/)", page)
    (wanted / "sub" / "b.png").unlink()
    (wanted / "turned.bmp").rename(wanted / "other.bmp")
    with open_pictures(wanted) as targets, pytest.raises(ValueError, match="no translation has a target"):
        compare(result, targets)
