"""The bundled emoji: counts, terms, labels, mirroring, and splits that keep variants together."""

import dataclasses
import io
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from frugan.data.cache import prepare
from frugan.data.dataset import from_arrays, split
from frugan.data.demo import DEMO_SETS, DemoPicture, demo_base, demo_folder, demo_pictures, open_demo, read_index
from frugan.data.emoji import base_code, code_points, has_skin_tone, place_of, read_emoji_test
from frugan.data.pictures import DataConfig, DataError, prepare_picture

GROUPS = (
    *("activities", "animals-nature", "flags", "food-drink", "objects", "people-body", "smileys-emotion", "symbols"),
    "travel-places",
)
WITHHELD = {"1f4ce", "1f3ae", "1f9d1-200d-1f4bb", "1f468-200d-1f4bb", "1f469-200d-1f4bb"}


@pytest.fixture(scope="module")
def pixels() -> dict[str, np.ndarray]:
    """Every bundled picture on white, 32 px, by file name; fails if one is not a 128 px WebP with alpha."""
    found = {}
    with zipfile.ZipFile(demo_folder() / "emoji.zip") as archive:
        for picture in read_index():
            with Image.open(io.BytesIO(archive.read(picture.file))) as opened:
                assert (opened.format, opened.size, opened.mode) == ("WEBP", (128, 128), "RGBA"), picture.file
                on_white = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened)
            found[picture.file] = np.asarray(on_white.convert("RGB").resize((32, 32)), dtype=np.float32)
    return found


def test_bundle_is_at_most_six_megabytes() -> None:
    assert sum(path.stat().st_size for path in demo_folder().iterdir()) <= 6_000_000


def test_bundle_states_its_terms() -> None:
    folder = demo_folder()
    assert "MIT License" in (folder / "LICENSE").read_text() and "Microsoft" in (folder / "LICENSE").read_text()
    assert "Apache License" in (folder / "LICENSE-APACHE-2.0").read_text()
    credits = (folder / "CREDITS.md").read_text()
    assert all(name in credits for name in ("Microsoft", "LobeHub", "Google", "Unicode", f"{len(read_index()):,}"))


def test_zip_and_index_hold_the_same_pictures() -> None:
    with zipfile.ZipFile(demo_folder() / "emoji.zip") as archive:
        members = archive.namelist()
    assert len(members) == len(set(members))
    assert sorted(members) == sorted([*(picture.file for picture in read_index()), "dataset.json"])


def test_pictures_can_be_read_and_differ(pixels: dict[str, np.ndarray]) -> None:
    assert len(pixels) == DEMO_SETS["emoji"].count
    assert all(picture.std() > 1 for file, picture in pixels.items() if "white" not in file and "fog" not in file)


def test_no_skin_tones_and_nothing_withheld() -> None:
    assert not [picture.file for picture in read_index() if has_skin_tone(code_points(picture.code))]
    assert not WITHHELD & {picture.code for picture in read_index()}


@pytest.mark.parametrize("name", DEMO_SETS)
def test_counts_are_as_stated(name: str) -> None:
    with open_demo(name) as source:
        assert len(source.names) == len(demo_pictures(name)) == DEMO_SETS[name].count


def test_faces_are_smileys_and_cats() -> None:
    kinds = Counter(picture.subgroup for picture in demo_pictures("faces"))
    assert kinds["cat-face"] == 9
    assert sum(count for kind, count in kinds.items() if kind.startswith("face-")) == 115
    assert {picture.group for picture in demo_pictures("faces")} == {"smileys-emotion"}


def test_labels_are_the_groups() -> None:
    with open_demo("emoji") as source:
        assert source.class_names == GROUPS
        assert source.labels is not None
        named = {name: source.class_names[label] for name, label in zip(source.names, source.labels, strict=True)}
    assert named == {picture.file: picture.group for picture in read_index()}
    assert all(file.startswith(f"{group}/") for file, group in named.items())


def test_kinds_are_the_sub_groups_with_enough_pictures() -> None:
    with open_demo("emoji-kinds") as source:
        assert source.labels is not None and len(source.class_names) == 31
        counts = Counter(source.class_names[label] for label in source.labels)
        assert min(counts.values()) == 20 and counts["country-flag"] == 245 and counts["animal-bird"] == 21
        named = {name: source.class_names[label] for name, label in zip(source.names, source.labels, strict=True)}
    known = {picture.file: picture.subgroup for picture in read_index()}
    assert all(known[name] == kind for name, kind in named.items())


def test_small_sets_have_no_labels() -> None:
    for name in ("faces", "animals"):
        with open_demo(name) as source:
            assert source.labels is None and source.class_names == ()


def test_labels_can_be_left_out() -> None:
    config = DataConfig(resolution=16, limit=20)
    assert prepare(open_demo("emoji"), config).num_classes > 1
    dataset = prepare(open_demo("emoji"), dataclasses.replace(config, labels="none"))
    assert dataset.labels is None and dataset.class_names == ()


def test_a_picture_comes_out_at_the_size_asked() -> None:
    with open_demo("faces") as source:
        data = source.load(source.names.index("smileys-emotion/1f600_grinning-face.webp"))
    pixels = prepare_picture(data, DataConfig(resolution=64)).pixels
    assert pixels.shape == (3, 64, 64)
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    red, green, blue = pixels[:, 32, 8].tolist()  # the yellow of the cheek
    assert red > 200 and green > 120 and blue < 120


@pytest.mark.parametrize("name", DEMO_SETS)
def test_sets_can_be_prepared(name: str) -> None:
    dataset = prepare(open_demo(name), DataConfig(resolution=32, limit=12))
    assert len(dataset) == 12 and dataset.images.shape[1:] == (3, 32, 32) and not dataset.skipped
    assert dataset.flip is DEMO_SETS[name].flip
    assert dataset.num_classes == {"emoji": 9, "emoji-kinds": 31}.get(name, 0)
    assert set(dataset.names) <= {picture.file for picture in demo_pictures(name)}


def test_unknown_set_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no bundled set 'cats'; there are emoji, emoji-kinds, faces, animals"):
        open_demo("cats")


# ---- mirroring ------------------------------------------------------------------------------------------------------


def by_code(code: str) -> DemoPicture:
    return next(picture for picture in read_index() if picture.code == code)


def test_sets_with_writing_and_flags_are_never_mirrored() -> None:
    for name, demo in DEMO_SETS.items():
        has_flags_or_text = any(picture.group in ("flags", "symbols") for picture in demo_pictures(name))
        assert demo.flip is not has_flags_or_text
        with open_demo(name) as source:
            assert source.has_glyphs is has_flags_or_text


def test_flags_and_writing_are_marked() -> None:
    assert not any(picture.flip_ok for picture in read_index() if picture.group in ("flags", "symbols"))
    for code in ("1f4af", "1f51f", "1f1f3-1f1f4", "1f554", "1f3e7", "1f3b5", "27a1", "1f634", "1f311"):
        assert not by_code(code).flip_ok, code
    for code in ("1f600", "1f40e", "1f34e", "1f697", "1f9d1-200d-1f33e"):
        assert by_code(code).flip_ok, code


# ---- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_split_never_parts_variants(seed: int, pixels: dict[str, np.ndarray]) -> None:
    names = list(pixels)
    dataset = from_arrays(np.zeros((len(names), 1, 4, 4), dtype=np.uint8), names=names)
    kept, held = split(dataset, 0.1, groups=demo_base, seed=seed)
    assert not {demo_base(name) for name in kept.names} & {demo_base(name) for name in held.names}
    assert 0.08 < len(held) / len(names) < 0.15
    # And nothing that looks the same to the eye lies on both sides, whatever the table of variants says.
    rows_kept = np.stack([pixels[name].ravel() for name in kept.names])
    rows_held = np.stack([pixels[name].ravel() for name in held.names])
    squares = (rows_kept**2).sum(1)[:, None] + (rows_held**2).sum(1)[None] - 2 * rows_kept @ rows_held.T
    nearest = np.sqrt(np.maximum(squares, 0) / rows_kept.shape[1])
    row, column = np.unravel_index(nearest.argmin(), nearest.shape)
    assert nearest.min() > 9, (kept.names[row], held.names[column])


def test_bases_join_what_unicode_parts() -> None:
    assert by_code("1f468-200d-1f52c").base == by_code("1f469-200d-1f52c").base == by_code("1f9d1-200d-1f52c").base
    assert by_code("1f3c4-200d-2640").base == by_code("1f3c4").base
    assert by_code("1f550").base == by_code("1f567").base
    assert by_code("1f499").base == by_code("2764").base
    assert len({picture.base for picture in read_index() if picture.subgroup == "family"}) == 1
    assert by_code("1f600").base != by_code("1f603").base


@pytest.mark.parametrize(
    ("code", "subgroup", "base"),
    [
        ("1f44b-1f3fb", "hand-fingers-open", "1f44b"),
        ("1f468-1f3fd-200d-2695-fe0f", "person-role", "1f9d1-200d-2695"),
        ("1f6b6-200d-2640-fe0f-200d-27a1-fe0f", "person-activity", "1f6b6"),
        ("1f469-200d-1f9b0", "person", "1f9d1"),
        ("0039-fe0f-20e3", "keycap", "20e3"),
        ("1f3f4-e0067-e0062-e0065-e006e-e0067-e007f", "subdivision-flag", "1f3f4-e0067-e0062-e0065-e006e-e0067"),
        ("1f600", "face-smiling", "1f600"),
    ],
)
def test_base_code(code: str, subgroup: str, base: str) -> None:
    assert base_code(code, subgroup) == base


def test_code_points_take_the_spellings_of_packages() -> None:
    assert code_points("1F3F4-e0067_e0062") == (0x1F3F4, 0xE0067, 0xE0062)
    assert code_points("39-fe0f-20e3") == code_points("0039-20E3")
    with pytest.raises(ValueError, match="hexadecimal"):
        code_points("not-a-code")


def test_place_is_fixed_and_even() -> None:
    places = [place_of(str(number), 0) for number in range(2000)]
    assert all(0 <= place < 1 for place in places)
    assert abs(np.mean(np.array(places) < 0.1) - 0.1) < 0.03
    assert places[7] == place_of("7", 0) != place_of("7", 1)


def test_read_emoji_test(tmp_path) -> None:
    path = tmp_path / "emoji-test.txt"
    path.write_text(
        "# group: Smileys & Emotion\n# subgroup: face-smiling\n"
        "1F600 ; fully-qualified # \U0001f600 E1.0 grinning face\n"
        "# group: Symbols\n# subgroup: keycap\n"
        "0023 FE0F 20E3 ; fully-qualified # #\ufe0f\u20e3 E0.6 keycap: #\n"
        "0023 20E3 ; unqualified # #\u20e3 E0.6 other\n",
        encoding="utf-8",
    )
    table = read_emoji_test(path)
    assert list(table) == ["1f600", "23-20e3"]
    assert table["1f600"].name == "grinning face" and table["1f600"].group == "smileys-emotion"
    assert table["23-20e3"].name == "keycap: #" and table["23-20e3"].subgroup == "keycap"
