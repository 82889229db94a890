"""Sets made from packages, with tiny packages made here: nothing is fetched."""

import base64
import dataclasses
import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugan.data import build as build_module
from frugan.data import packages as packages_module
from frugan.data import scenes as scenes_module
from frugan.data.build import BUILD_SETS, build
from frugan.data.cache import prepare
from frugan.data.demo import demo_base, read_index
from frugan.data.emoji_sets import merge_bases, read_openmoji
from frugan.data.packages import BuildError, DebianPackage, NpmPackage, content_digest
from frugan.data.pictures import DataConfig
from frugan.data.scenes import CLASSES, GROUND, SKY, Sprite, compose
from frugan.data.sources import BUILD_NOTES

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">'
    '<rect x="10" y="{y}" width="40" height="40" {style}/></svg>'
)
LINE = 'fill="none" stroke="#000" stroke-width="4"'

# code, group, sub-group, name, skin tone
TABLE = [
    ("1F600", "smileys-emotion", "face-smiling", "grinning face", ""),
    ("1F34E", "food-drink", "food-fruit", "red apple", ""),
    ("1F34B", "food-drink", "food-fruit", "lemon", ""),
    ("1F34C", "food-drink", "food-fruit", "banana / ripe", ""),
    ("1F44B", "people-body", "hand-fingers-open", "waving hand", ""),
    ("1F44B-1F3FB", "people-body", "hand-fingers-open", "waving hand: light skin tone", "1"),
    ("1F468-200D-1F52C", "people-body", "person-role", "man scientist", ""),
    ("1F469-200D-1F52C", "people-body", "person-role", "woman scientist", ""),
    ("0039-FE0F-20E3", "symbols", "keycap", "keycap: 9", ""),
    ("1F3FB", "component", "skin-tone", "light skin tone", ""),
    ("1F1F3-1F1F4", "flags", "country-flag", "flag: Norway", ""),
    ("E420", "extras-openmoji", "queer-symbols", "pride", ""),
]


def integrity(path: Path) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def pack(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def webp(colour: tuple[int, int, int], size: tuple[int, int] = (24, 24)) -> bytes:
    """A sprite: a block of one colour inside a clear border."""
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    picture.paste((*colour, 255), (4, 4, size[0] - 4, size[1] - 4))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def deb(files: dict[str, bytes], compression: str = "xz") -> bytes:
    """A Debian package: an ar archive of debian-binary, control.tar and data.tar."""
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": pack({"./control": b"odd"}, "w:xz"),
        f"data.tar.{compression}": pack(files, f"w:{compression}") if compression != "zst" else b"zst",
    }
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiny packages, which the sets are made to expect; nothing is installed and no tool is at hand."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "no-tools"))
    monkeypatch.setattr(packages_module, "_INSTALLED_ROOT", tmp_path / "nothing-installed")
    return folder


def put_npm(shelf: Path, package: NpmPackage, files: dict[str, bytes]) -> NpmPackage:
    archive = shelf / package.archive
    archive.write_bytes(pack({f"package/{name}": data for name, data in files.items()}))
    return dataclasses.replace(package, integrity=integrity(archive))


def expect(monkeypatch: pytest.MonkeyPatch, name: str, *packages: NpmPackage | DebianPackage) -> None:
    monkeypatch.setitem(BUILD_SETS, name, dataclasses.replace(BUILD_SETS[name], packages=packages, counts={}))


def openmoji_files() -> dict[str, bytes]:
    keys = ("hexcode", "group", "subgroups", "annotation", "skintone")
    files = {
        "data/openmoji.json": json.dumps([dict(zip(keys, row, strict=True)) for row in TABLE]).encode(),
        "LICENSE.txt": b"the terms of OpenMoji",
        "index.js": b"throw 'never run'",
    }
    for number, (code, *_) in enumerate(TABLE):
        # The two fruit first in the table share their line art: they must lie on one side.
        y = 5 if code in ("1F34E", "1F34B") else number + 8
        files[f"black/svg/{code}.svg"] = SVG.format(y=y, style=LINE).encode()
        files[f"color/svg/{code}.svg"] = SVG.format(y=y, style=f'fill="#{number + 1:02d}A0F0" stroke="#000"').encode()
    return files


@pytest.fixture
def openmoji(shelf: Path) -> NpmPackage:
    return put_npm(shelf, build_module.OPENMOJI, openmoji_files())


def sprite_codes() -> dict[str, list[str]]:
    """Five codes of different bases for every class of scenes."""
    found: dict[str, list[str]] = {}
    for kind in CLASSES:
        seen: dict[str, str] = {}
        for entry in read_index():
            is_left_out = entry.code in kind.without.split() or (kind.only and entry.code not in kind.only.split())
            if entry.subgroup == kind.subgroup and not is_left_out:
                seen.setdefault(entry.base, entry.code)
        found[kind.name] = list(seen.values())[:5]
    return found


def colour_of(class_id: int, number: int) -> tuple[int, int, int]:
    return (10 * class_id, 40 * number + 10, 200)


@pytest.fixture
def fluent(shelf: Path) -> NpmPackage:
    files = {"package.json": b"{}", "assets/1f44b-1f3fb.webp": webp((1, 2, 3))}
    for class_id, codes in enumerate(sprite_codes().values(), start=2):
        for number, code in enumerate(codes):
            files[f"assets/{code}.webp"] = webp(colour_of(class_id, number))
    for code in ("1f600", "1f44b", "1f468-200d-1f52c", "1f469-200d-1f52c", "0039-fe0f-20e3", "39-fe0f-20e3"):
        files[f"assets/{code}.webp"] = webp((250, 200, 0), (24, 26))
    return put_npm(shelf, build_module.FLUENT, files)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_clean(folder: Path) -> bool:
    """Whether nothing is left in the folder, hidden or not."""
    return not folder.exists() or not list(folder.iterdir())


# ---- line art and colour --------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(shelf: Path, openmoji: NpmPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    pytest.importorskip("resvg_py")
    expect(monkeypatch, "openmoji-pairs", openmoji)

    def make(name: str = "pairs", **settings: int) -> Path:
        return build("openmoji-pairs", tmp_path / "out" / name, packages=shelf, **settings).folder

    return make


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_pairs_have_the_same_names_and_no_flags(pairs: Callable[..., Path]) -> None:
    folder = pairs(size=32)
    sources = {part: names_in(folder / part / "source") for part in ("train", "test")}
    assert sources == {part: names_in(folder / part / "target") for part in ("train", "test")}
    assert not sources["train"] & sources["test"]
    assert sources["train"] | sources["test"] == {
        *("1f600_grinning-face.png", "1f34e_red-apple.png", "1f34b_lemon.png", "1f34c_banana-ripe.png"),
        *("1f44b_waving-hand.png", "39-20e3_keycap-9.png"),
        *("1f468-200d-1f52c_man-scientist.png", "1f469-200d-1f52c_woman-scientist.png"),
    }


def test_pairs_are_line_art_and_colour_on_white(pairs: Callable[..., Path]) -> None:
    folder = pairs(size=64)
    name = "1f600_grinning-face.png"
    part = "train" if (folder / "train" / "source" / name).exists() else "test"
    with Image.open(folder / part / "source" / name) as opened:
        assert (opened.mode, opened.size) == ("L", (64, 64))
        line_art = np.asarray(opened)
    with Image.open(folder / part / "target" / name) as opened:
        assert (opened.mode, opened.size) == ("RGB", (64, 64))
        colour = np.asarray(opened)
    assert line_art[0, 0] == 255 and line_art.min() == 0 and line_art[25, 25] == 255
    assert colour[0, 0].tolist() == [255, 255, 255]
    assert colour[25, 25].tolist() == [0x01, 0xA0, 0xF0]


def test_pairs_keep_variants_and_equal_drawings_together(pairs: Callable[..., Path]) -> None:
    on_both_sides = 0
    for seed in range(8):
        folder = pairs(str(seed), seed=seed, size=16)
        train, test = names_in(folder / "train" / "source"), names_in(folder / "test" / "source")
        for twins in (("1f34e_red", "1f34b_lemon"), ("1f468-200d-1f52c", "1f469-200d-1f52c")):
            sides = [any(name.startswith(twin) for name in train) for twin in twins]
            assert sides[0] == sides[1]
        on_both_sides += bool(train) and bool(test)
    assert on_both_sides, "no seed held anything out"


def test_pairs_state_their_terms(pairs: Callable[..., Path], openmoji: NpmPackage) -> None:
    folder = pairs()
    credits = (folder / "CREDITS.md").read_text()
    assert "CC BY-SA 4.0" in credits and "openmoji.org" in credits and openmoji.integrity in credits
    assert (folder / "LICENSE-openmoji.txt").read_text() == "the terms of OpenMoji"
    assert not list(folder.rglob("*.js"))


def test_pairs_need_resvg(shelf: Path, openmoji: NpmPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expect(monkeypatch, "openmoji-pairs", openmoji)
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    with pytest.raises(BuildError, match=r"resvg-py.*frugan\[data\]"):
        build("openmoji-pairs", tmp_path / "out" / "pairs", packages=shelf)
    assert is_clean(tmp_path / "out")


def test_a_broken_drawing_is_named(shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    broken = openmoji_files() | {"color/svg/1F600.svg": b"<svg"}
    expect(monkeypatch, "openmoji-pairs", put_npm(shelf, build_module.OPENMOJI, broken))
    with pytest.raises(BuildError, match=r"1F600\.svg' cannot be drawn"):
        build("openmoji-pairs", tmp_path / "out" / "pairs", packages=shelf)
    assert is_clean(tmp_path / "out")


def test_openmoji_is_read_without_skin_tones(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "openmoji.json").write_bytes(openmoji_files()["data/openmoji.json"])
    codes = [drawing.emoji.code for drawing in read_openmoji(tmp_path)]
    assert "1f44b" in codes and "1f44b-1f3fb" not in codes and "1f3fb" not in codes


def test_merge_bases_goes_through_others() -> None:
    merged = merge_bases(["a", "b", "b", "c", "d"], [b"1", b"1", b"2", b"2", b"3"])
    assert merged[0] == merged[1] == merged[2] == merged[3] != merged[4]


# ---- two domains ----------------------------------------------------------------------------------------------------


def test_domains_hide_the_pairing(
    shelf: Path, openmoji: NpmPackage, fluent: NpmPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("resvg_py")
    expect(monkeypatch, "openmoji-fluent", openmoji, fluent)
    built = build("openmoji-fluent", tmp_path / "domains", size=24, packages=shelf)
    folder = built.folder
    pairing = json.loads((folder / "pairing.json").read_text())
    rows = [*pairing["train"], *pairing["test"]]
    shared = {"1f600", "1f44b", "1f468-200d-1f52c", "1f469-200d-1f52c", "39-20e3", "1f34e", "1f34b", "1f34c"}
    assert {row["code"] for row in rows} == shared & {row["code"] for row in rows}
    assert built.counts["shared"] == len(rows) == len({row["code"] for row in rows}) >= 5
    for part in ("train", "test"):
        for domain, key in (("A", "a"), ("B", "b")):
            listed = sorted(row[key] for row in pairing[part])
            assert listed == [f"{part}{domain}/{number:05d}.png" for number in range(len(listed))]
            assert names_in(folder / f"{part}{domain}") == {Path(name).name for name in listed}
    with Image.open(folder / rows[0]["b"]) as picture:
        assert (picture.mode, picture.size) == ("RGB", (24, 24))
    assert any(Path(row["a"]).name != Path(row["b"]).name for row in rows)
    assert (folder / "LICENSE-fluent-emoji-3d.txt").read_text().startswith("MIT License")
    assert "Noto Emoji" in (folder / "CREDITS.md").read_text()


# ---- scenes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def scenes(shelf: Path, fluent: NpmPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    expect(monkeypatch, "emoji-scenes", fluent)

    def make(name: str, **settings: int) -> Path:
        return build("emoji-scenes", tmp_path / "out" / name, packages=shelf, **settings).folder

    return make


def read_map(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        assert opened.mode == "L"
        return np.asarray(opened)


def test_scenes_are_the_same_every_time_and_grow_at_the_end(scenes: Callable[..., Path]) -> None:
    few, again, more = scenes("a", scenes=2, size=64), scenes("b", scenes=2, size=64), scenes("c", scenes=12, size=64)
    assert tree(few) == tree(again)
    for name, data in tree(few).items():
        if name.endswith(".png"):
            assert (more / name).read_bytes() == data
    other = scenes("d", scenes=2, size=64, seed=1)
    name = "train/images/00000.png"
    assert (other / name).read_bytes() != (few / name).read_bytes()


def test_scene_files_belong_together(scenes: Callable[..., Path]) -> None:
    folder = scenes("a", scenes=20, size=48)
    expected = {"train": 20, "test": 2}
    for part, count in expected.items():
        listed = {f"{number:05d}.png" for number in range(count)}
        for role in ("images", "labels", "instances"):
            assert names_in(folder / part / role) == listed
    with Image.open(folder / "train" / "images" / "00000.png") as opened:
        assert (opened.mode, opened.size) == ("RGB", (48, 48))
    classes = json.loads((folder / "classes.json").read_text())
    assert classes["class_names"][:3] == ["sky", "ground", "weather"]
    assert len(classes["class_names"]) == len(classes["colours"]) == len(CLASSES) + 2
    labels = read_map(folder / "train" / "labels" / "00000.png")
    assert labels.max() < len(classes["class_names"])


def test_train_and_test_scenes_share_no_sprite(scenes: Callable[..., Path]) -> None:
    folder = scenes("a", scenes=60, size=48)
    shown: dict[str, set[tuple[int, ...]]] = {"train": set(), "test": set()}
    for part, colours in shown.items():
        for path in (folder / part / "images").iterdir():
            labels = read_map(folder / part / "labels" / path.name)
            with Image.open(path) as opened:
                pixels = np.asarray(opened)
            inside = pixels[labels >= 2]
            exact = {tuple(colour) for colour in inside.tolist() if colour[2] == 200}
            colours |= exact & {colour_of(kind, number) for kind in range(2, 10) for number in range(5)}
    assert len(shown["train"]) > 20 and len(shown["test"]) > 4
    assert not shown["train"] & shown["test"]
    assert len({colour[0] for colour in shown["test"]}) > 4  # several classes are seen in the test scenes


def flat_sprites() -> dict[int, list[Sprite]]:
    """One opaque block of one colour for each class."""
    return {
        class_id: [Sprite(class_id=class_id, pixels=Image.new("RGBA", (30, 20), (class_id, 255, 0, 255)), flip_ok=True)]
        for class_id in range(2, len(CLASSES) + 2)
    }


@pytest.mark.parametrize("seed", range(6))
def test_maps_are_exact(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes_module._Canvas, "_shade", lambda *_: None)
    scene = compose(flat_sprites(), 96, np.random.default_rng(seed))
    things = scene.instances > 0
    assert things.any()
    assert (scene.labels[things] >= 2).all() and np.isin(scene.labels[~things], (SKY, GROUND)).all()
    flat = (scene.image[..., 1] == 255) & (scene.image[..., 2] == 0)
    assert np.array_equal(flat, things)
    assert np.array_equal(scene.image[things][:, 0], scene.labels[things])
    for number in range(1, int(scene.instances.max()) + 1):
        assert len(np.unique(scene.labels[scene.instances == number])) == 1, "a thing is hidden or of two classes"
    assert (scene.labels[0][~things[0]] == SKY).all() and (scene.labels[-1][~things[-1]] == GROUND).all()


def test_a_sprite_is_labelled_where_it_is_at_least_half_solid() -> None:
    canvas = scenes_module._Canvas.blank(32, np.random.default_rng(0))
    before = canvas.labels.copy()
    pixels = np.full((4, 5, 4), 255, dtype=np.uint8)
    pixels[..., 3] = np.array([0, 127, 128, 254, 255])
    assert canvas._paste(Image.fromarray(pixels), 7, left=29, top=-1)  # cut by two edges of the picture
    expected = before.copy()
    expected[:3, 31] = 7
    assert np.array_equal(canvas.labels, expected)
    assert np.array_equal(canvas.instances, (expected == 7).astype(np.uint8))
    assert canvas.areas == canvas.seen == [3]


def test_shadows_change_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    shaded = compose(flat_sprites(), 96, np.random.default_rng(3))
    monkeypatch.setattr(scenes_module._Canvas, "_shade", lambda *_: None)
    bare = compose(flat_sprites(), 96, np.random.default_rng(3))
    assert np.array_equal(shaded.labels, bare.labels) and np.array_equal(shaded.instances, bare.instances)
    assert (shaded.image <= bare.image).all() and (shaded.image < bare.image).any()


def test_no_thing_is_hidden_for_the_most_part() -> None:
    draw = np.random.default_rng(0)
    canvas = scenes_module._Canvas.blank(64, draw)
    sprite = flat_sprites()[4][0]
    for depth in np.linspace(0, 1, 60).tolist():
        canvas.stand(sprite, 0.4, depth, draw)
    seen = np.bincount(canvas.instances.ravel())[1:]
    assert 4 < len(seen) < 60, "in so small a picture most must have been refused"
    assert seen.tolist() == canvas.seen
    assert (seen >= 0.35 * np.array(canvas.areas)).all() and (seen < np.array(canvas.areas)).any()


def test_class_without_enough_sprites_is_an_error(shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lonely = put_npm(shelf, build_module.FLUENT, {"assets/1f600.webp": webp((9, 9, 9))})
    expect(monkeypatch, "emoji-scenes", lonely)
    with pytest.raises(BuildError, match="'weather' needs two or more different sprites, the package has 0"):
        build("emoji-scenes", tmp_path / "out" / "scenes", packages=shelf)
    assert is_clean(tmp_path / "out")


# ---- Debian packages ------------------------------------------------------------------------------------------------


def idx(pixels: np.ndarray) -> bytes:
    head = struct.pack(">HBB", 0, 8, pixels.ndim) + struct.pack(f">{pixels.ndim}I", *pixels.shape)
    return gzip.compress(head + pixels.tobytes(), mtime=0)


def fashion_files() -> dict[str, bytes]:
    draw = np.random.default_rng(0)
    files = {}
    for head, count in (("train", 12), ("t10k", 4)):
        files[f"{head}-images-idx3-ubyte.gz"] = idx(draw.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        files[f"{head}-labels-idx1-ubyte.gz"] = idx((np.arange(count) % 10).astype(np.uint8))
    return files


def nebula_files() -> dict[str, bytes]:
    draw = np.random.default_rng(1)
    clear = np.zeros((16, 16, 4), dtype=np.uint8)
    clear[4:8, 4:8] = (200, 100, 50, 255)
    table = (
        '{"subTiles": [{"imageCredits": {"short": "A. Star"}, "imageUrl": "m1.png", "worldCoords": [[-.5,.25]]},'
        '{"imageCredits": {"Short": "B", "infoUrl": "https://example.org/b"}, "imageUrl": "m2.png"}]}'
    )
    return {
        "m1.png": png(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)),
        "m2.png": png(clear),
        "textures.json": table.encode(),
    }


def put_debian(shelf: Path, package: DebianPackage, files: dict[str, bytes], how: str, tmp_path: Path) -> DebianPackage:
    """The package on the shelf as a .deb, as loose files, or installed (`how`)."""
    plain = tmp_path / "plain"
    plain.mkdir()
    for name, data in files.items():
        (plain / name).write_bytes(data)
    inside = {f"./{package.folder}/{name}": data for name, data in files.items()}
    inside |= {f"./{package.copyright}": b"who made it", "./usr/bin/tool": b"never unpacked"}
    if how.startswith("deb"):
        (shelf / f"{package.name}_9.9_all.deb").write_bytes(deb(inside, how.partition(".")[2] or "xz"))
    elif how == "installed":
        for name, data in inside.items():
            path = packages_module._INSTALLED_ROOT / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    else:
        folder = shelf / package.name if how == "folder" else shelf
        folder.mkdir(exist_ok=True)
        for name, data in {**files, "copyright": b"who made it"}.items():
            (folder / name).write_bytes(data)
    return dataclasses.replace(package, digests=(("9.9", content_digest(plain, package.patterns)),))


@pytest.mark.parametrize("how", ["deb", "deb.gz", "folder", "loose", "installed"])
def test_fashion_from_every_place(how: str, shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = put_debian(shelf, build_module.FASHION, fashion_files(), how, tmp_path)
    expect(monkeypatch, "fashion-mnist", package)
    built = build("fashion-mnist", tmp_path / "out" / "fashion", packages=None if how == "installed" else shelf)
    assert built.is_new and built.counts == {"train": 12, "test": 4}
    assert names_in(built.folder) == {
        *("train.zip", "test.zip", "CREDITS.md", BUILD_NOTES, "LICENSE-dataset-fashion-mnist.txt"),
    }
    assert (built.folder / "LICENSE-dataset-fashion-mnist.txt").read_bytes() == b"who made it"


def test_fashion_can_be_prepared(shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = fashion_files()
    expect(monkeypatch, "fashion-mnist", put_debian(shelf, build_module.FASHION, files, "deb", tmp_path))
    folder = build("fashion-mnist", tmp_path / "fashion", packages=shelf).folder
    dataset = prepare(folder / "train.zip", DataConfig(resolution=28, channels=1))
    raw = gzip.decompress(files["train-images-idx3-ubyte.gz"])[16:]
    assert np.array_equal(dataset.images.reshape(12, 28, 28), np.frombuffer(raw, np.uint8).reshape(12, 28, 28))
    assert dataset.class_names[0] == "T-shirt or top" and dataset.class_names[9] == "ankle boot"
    assert dataset.labels is not None and dataset.labels.tolist() == [*range(10), 0, 1]


def test_nebulae_carry_their_credits(shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = nebula_files()
    expect(monkeypatch, "nebulae", put_debian(shelf, build_module.STELLARIUM, files, "deb", tmp_path))
    built = build("nebulae", tmp_path / "nebulae", packages=shelf)
    assert built.counts == {"images": 2, "credited": 2}
    assert (built.folder / "images" / "m1.png").read_bytes() == files["m1.png"]
    with Image.open(built.folder / "images" / "m2.png") as laid_on_black:
        assert laid_on_black.mode == "RGB"
        assert laid_on_black.getpixel((0, 0)) == (0, 0, 0) and laid_on_black.getpixel((5, 5)) == (200, 100, 50)
    credits = (built.folder / "CREDITS.md").read_text()
    assert "| m1.png | A. Star |" in credits and "| m2.png | B | https://example.org/b |" in credits
    assert "without CREDITS.md" in credits
    assert (built.folder / "LICENSE-stellarium-data.txt").read_bytes() == b"who made it"


def test_other_content_is_refused(shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = put_debian(shelf, build_module.STELLARIUM, nebula_files(), "folder", tmp_path)
    (shelf / "stellarium-data" / "m1.png").write_bytes(b"something else")
    expect(monkeypatch, "nebulae", package)
    with pytest.raises(BuildError, match=r"not those of a known version \(9\.9\).*must be sha256-.*got sha256-"):
        build("nebulae", tmp_path / "out" / "nebulae", packages=shelf)
    assert is_clean(tmp_path / "out")


def test_files_without_their_copyright_are_refused(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = put_debian(shelf, build_module.STELLARIUM, nebula_files(), "folder", tmp_path)
    (shelf / "stellarium-data" / "copyright").unlink()
    expect(monkeypatch, "nebulae", package)
    with pytest.raises(BuildError, match="cannot be built without its credits"):
        build("nebulae", tmp_path / "out" / "nebulae", packages=shelf)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "is not a Debian package"),
        (b"!<arch>\n", r"holds no data\.tar"),
        (deb({"./a": b"b"}, "zst"), "packed by zst.*dpkg-deb -x"),
        (deb(fashion_files())[:-2000], "cannot be unpacked"),
    ],
)
def test_broken_debs_are_named(
    content: bytes, message: str, shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (shelf / "dataset-fashion-mnist_1_all.deb").write_bytes(content)
    with pytest.raises(BuildError, match=message):
        build("fashion-mnist", tmp_path / "out" / "fashion", packages=shelf)
    assert is_clean(tmp_path / "out")


def test_content_digest_looks_into_gz(tmp_path: Path) -> None:
    for name, level in (("a", 1), ("b", 9)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x-ubyte.gz").write_bytes(gzip.compress(b"same" * 100, level))
    assert content_digest(tmp_path / "a", ("*-ubyte.gz",)) == content_digest(tmp_path / "b", ("*-ubyte.gz",))
    (tmp_path / "b" / "x-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(BuildError, match=r"x-ubyte\.gz' cannot be read"):
        content_digest(tmp_path / "b", ("*-ubyte.gz",))


# ---- packages that are not what they should be ----------------------------------------------------------------------


def test_corrupted_archive_is_refused(scenes: Callable[..., Path], shelf: Path, tmp_path: Path) -> None:
    archive = shelf / build_module.FLUENT.archive
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    with pytest.raises(
        BuildError, match=r"fluent-emoji-3d-1\.1\.0\.tgz' is not .*must be sha512-.*got sha512-.*npm pack"
    ):
        scenes("a")
    assert is_clean(tmp_path / "out")


@pytest.mark.parametrize("name", ["package/assets/../../../evil", "/etc/evil", "package/../../evil"])
def test_archive_that_points_outside_is_refused(
    name: str, shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = build_module.FLUENT
    (shelf / package.archive).write_bytes(pack({name: b"evil"}))
    expect(monkeypatch, "emoji-scenes", dataclasses.replace(package, integrity=integrity(shelf / package.archive)))
    with pytest.raises(BuildError, match="points outside"):
        build("emoji-scenes", tmp_path / "out" / "scenes", packages=shelf)
    assert is_clean(tmp_path / "out") and not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(
    kind: bytes, shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = build_module.FLUENT
    with tarfile.open(shelf / package.archive, "w:gz") as archive:
        info = tarfile.TarInfo("package/assets/1f600.webp")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    expect(monkeypatch, "emoji-scenes", dataclasses.replace(package, integrity=integrity(shelf / package.archive)))
    with pytest.raises(BuildError, match="a link or a device"):
        build("emoji-scenes", tmp_path / "out" / "scenes", packages=shelf)
    assert is_clean(tmp_path / "out")


def test_bomb_is_refused(scenes: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages_module, "_UNPACKED_LIMIT", 100)
    with pytest.raises(BuildError, match="more than 100 bytes"):
        scenes("a")
    assert is_clean(tmp_path / "out")


def test_wrong_counts_are_refused(
    shelf: Path, fluent: NpmPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changed = dataclasses.replace(BUILD_SETS["emoji-scenes"], packages=(fluent,), counts={"sprites": 175})
    monkeypatch.setitem(BUILD_SETS, "emoji-scenes", changed)
    with pytest.raises(BuildError, match="must have 175 sprites, its packages gave 40"):
        build("emoji-scenes", tmp_path / "out" / "scenes", scenes=1, size=16, packages=shelf)
    assert is_clean(tmp_path / "out")


def test_missing_package_says_how_to_get_it(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"openmoji-17\.0\.0\.tgz is not in .*npm pack openmoji@17\.0\.0"):
        build("openmoji-pairs", tmp_path / "out" / "pairs", packages=shelf)
    with pytest.raises(BuildError, match="apt-get download stellarium-data"):
        build("nebulae", tmp_path / "out" / "nebulae", packages=shelf)
    with pytest.raises(BuildError, match="packages must be a folder"):
        build("nebulae", tmp_path / "out" / "nebulae", packages=shelf / "absent")
    assert is_clean(tmp_path / "out")


# ---- npm and apt ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "tool"), [("openmoji-pairs", "npm"), ("nebulae", "apt-get")])
def test_missing_tool_says_what_to_do(name: str, tool: str, shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"'{tool}' is needed .*not installed.*packages="):
        build(name, tmp_path / "out" / name)
    assert is_clean(tmp_path / "out")


def make_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    (tools / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))


def test_npm_is_asked_for_one_version_and_runs_no_scripts(
    shelf: Path, fluent: NpmPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expect(monkeypatch, "emoji-scenes", fluent)
    script = f'echo "$@" > {tmp_path}/asked\ncp {shelf}/*.tgz .'
    make_tool(tmp_path, monkeypatch, "npm", script)
    built = build("emoji-scenes", tmp_path / "out" / "scenes", scenes=1, size=16)
    assert built.is_new
    assert (tmp_path / "asked").read_text().split() == ["pack", "--ignore-scripts", "@lobehub/fluent-emoji-3d@1.1.0"]


def test_apt_brings_a_deb(shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = put_debian(shelf, build_module.STELLARIUM, nebula_files(), "deb", tmp_path)
    expect(monkeypatch, "nebulae", package)
    make_tool(tmp_path, monkeypatch, "apt-get", f'echo "$@" > {tmp_path}/asked\ncp {shelf}/*.deb .')
    assert build("nebulae", tmp_path / "out" / "nebulae").counts["images"] == 2
    assert (tmp_path / "asked").read_text().split() == ["download", "stellarium-data"]


def test_failure_of_a_tool_is_told(monkeypatch: pytest.MonkeyPatch, shelf: Path, tmp_path: Path) -> None:
    make_tool(tmp_path, monkeypatch, "npm", "echo 'npm error ENOTFOUND registry' >&2\nexit 1")
    with pytest.raises(BuildError, match=r"`npm pack .* failed: npm error ENOTFOUND registry; is the network up\?"):
        build("openmoji-pairs", tmp_path / "out" / "pairs")
    assert is_clean(tmp_path / "out")


# ---- whole or not at all --------------------------------------------------------------------------------------------


def test_second_run_finds_the_set(scenes: Callable[..., Path], shelf: Path, tmp_path: Path) -> None:
    folder = scenes("a", scenes=2, size=16)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for archive in shelf.iterdir():
        archive.unlink()  # nothing is needed any more
    again = build("emoji-scenes", folder, scenes=2, size=16, packages=shelf)
    assert not again.is_new and again.folder == folder and again.counts["train"] == 2
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_settings_or_another_set_are_not_overwritten(scenes: Callable[..., Path], shelf: Path) -> None:
    folder = scenes("a", scenes=2, size=16)
    before = tree(folder)
    with pytest.raises(BuildError, match=r"holds 'emoji-scenes' with .*\"size\": 16.*not 'emoji-scenes' with .*32"):
        build("emoji-scenes", folder, scenes=2, size=32, packages=shelf)
    with pytest.raises(BuildError, match=r"holds 'emoji-scenes'.*not 'nebulae'"):
        build("nebulae", folder, packages=shelf)
    assert tree(folder) == before


def test_folder_of_something_else_is_left_alone(scenes: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "thesis.txt").write_text("mine")
    with pytest.raises(BuildError, match="is not empty and holds no set made here"):
        scenes("a")
    assert names_in(tmp_path / "out" / "a") == {"thesis.txt"}
    (tmp_path / "out" / "file").write_text("mine")
    with pytest.raises(BuildError, match="is not empty"):
        scenes("file")
    assert (tmp_path / "out" / "file").read_text() == "mine"


def test_empty_folder_and_remains_of_a_killed_build_are_used(scenes: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out" / "a").mkdir(parents=True)
    remains = tmp_path / "out" / ".a.building" / "set" / "train"
    remains.mkdir(parents=True)
    (remains / "old.png").write_bytes(b"old")
    folder = scenes("a", scenes=1, size=16)
    assert names_in(tmp_path / "out") == {"a"} and not list(folder.rglob("old.png"))


@pytest.mark.parametrize("moment", ["unpacking", "composing scenes"])
def test_interrupted_build_leaves_nothing(
    moment: str, shelf: Path, fluent: NpmPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expect(monkeypatch, "emoji-scenes", fluent)

    def stop(done: int, total: int, text: str) -> None:
        if text.startswith(moment) and done == min(1, total - 1) * (moment != "unpacking"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build("emoji-scenes", tmp_path / "out" / "scenes", scenes=5, size=16, progress=stop, packages=shelf)
    assert is_clean(tmp_path / "out")


def test_progress_reaches_the_end(
    shelf: Path, fluent: NpmPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expect(monkeypatch, "emoji-scenes", fluent)
    calls: list[tuple[int, int, str]] = []
    build(
        "emoji-scenes",
        tmp_path / "out" / "scenes",
        scenes=3,
        size=16,
        progress=lambda *call: calls.append(call),
        packages=shelf,
    )
    assert [call for call in calls if call[2] == "composing scenes"] == [
        (done, 4, "composing scenes") for done in range(1, 5)
    ]


# ---- asking wrongly -------------------------------------------------------------------------------------------------


def test_unknown_set_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'nebulae'"):
        build("nebula", tmp_path / "x")


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'nebulae' has no setting 'size' \(it has: none\)"):
        build("nebulae", tmp_path / "x", size=64)
    with pytest.raises(ValueError, match="size must be 16 to 1024, got 4"):
        build("emoji-scenes", tmp_path / "x", size=4)
    with pytest.raises(ValueError, match="scenes must be 1 to 60000, got 0"):
        build("emoji-scenes", tmp_path / "x", scenes=0)


def test_every_set_states_its_terms_and_pins_its_packages() -> None:
    for name, entry in BUILD_SETS.items():
        assert entry.licence and entry.credits and entry.description.endswith("."), name
        for package in entry.packages:
            assert package.checksum.startswith(("sha512-", "sha256-")) and len(package.checksum) > 60
    assert not BUILD_SETS["openmoji-pairs"].flip and not BUILD_SETS["openmoji-fluent"].flip


def test_mark_tells_what_was_built(scenes: Callable[..., Path], fluent: NpmPackage) -> None:
    mark = json.loads((scenes("a", scenes=1, size=16) / BUILD_NOTES).read_text())
    assert mark["set"] == "emoji-scenes" and mark["settings"] == {"size": 16, "scenes": 1, "seed": 0}
    assert mark["packages"] == {fluent.name: fluent.integrity} and mark["flip"] is True


def test_bundled_names_have_bases() -> None:
    assert demo_base("people-body/1f469-200d-1f52c_woman-scientist.webp") == "1f9d1-200d-1f52c"
    assert demo_base("elsewhere.png") == "elsewhere.png"


def test_zip_members_are_stored(shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expect(monkeypatch, "fashion-mnist", put_debian(shelf, build_module.FASHION, fashion_files(), "deb", tmp_path))
    folder = build("fashion-mnist", tmp_path / "fashion", packages=shelf).folder
    with zipfile.ZipFile(folder / "train.zip") as archive:
        assert archive.namelist()[0] == "00000/img00000000.png"
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
