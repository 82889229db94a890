"""The two sides of a translation, however they lie: found, matched name for name, refused in words."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frugan.data import DataConfig, DataError, Dataset, open_source, prepare_streams
from frugan.data.cache import cache_folder
from frugan.data.layouts import is_empty_part
from frugan.training.held_out import hold_out

Draw = Callable[..., Image.Image]


def configs(resolution: int = 16, source: dict[str, Any] | None = None, **both: Any) -> dict[str, DataConfig]:
    return {
        "source": DataConfig(**({"resolution": resolution} | both | (source or {})), role="source"),
        "target": DataConfig(**({"resolution": resolution} | both), role="target"),
    }


MAPS: dict[str, Any] = {"kind": "labels", "edges": True}


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def folders(root: Path, picture: Draw, source: str, target: str, count: int = 4) -> Path:
    """`count` pairs: target n is source n upside down."""
    for number in range(count):
        image = picture(number, 20, 20)
        save(image, root / source / f"{number}.png")
        save(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), root / target / f"{number}.png")
    return root


def belong(found: dict[str, Dataset]) -> bool:
    """Whether every target is its source upside down, by the order that both sides have."""
    return bool(np.array_equal(found["source"].images[:, :, ::-1], found["target"].images))


# ---- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *[("source", "target"), ("input", "target"), ("input", "output"), ("A", "B"), ("trainA", "trainB")],
        *[("train/source", "train/target"), ("A/train", "B/train"), ("set/train_A", "set/train_B"), ("ink", "paint")],
    ],
)
def test_two_folders_are_paired_by_name(tmp_path: Path, picture: Draw, source: str, target: str) -> None:
    found = prepare_streams(folders(tmp_path, picture, source, target), configs(20))
    assert list(found) == ["source", "target"] and belong(found)
    assert found["source"].names == found["target"].names and len(found["source"]) == 4
    assert found["source"].facts.path == str(tmp_path / source)


def test_reverse_exchanges_the_sides(tmp_path: Path, picture: Draw) -> None:
    root = folders(tmp_path, picture, "A", "B")
    there, back = prepare_streams(root, configs(20)), prepare_streams(root, configs(20, reverse=True))
    assert np.array_equal(there["source"].images, back["target"].images)
    assert np.array_equal(there["target"].images, back["source"].images)


def test_endings_and_sub_folders_do_not_matter(tmp_path: Path, picture: Draw) -> None:
    for number in range(3):
        save(picture(number), tmp_path / f"source/day/{number}.jpg")
        save(picture(number), tmp_path / f"target/day/{number}.png")
    assert prepare_streams(tmp_path, configs())["target"].names == ("day/0", "day/1", "day/2")


def test_parts(tmp_path: Path, picture: Draw) -> None:
    folders(tmp_path, picture, "train/source", "train/target", 4)
    folders(tmp_path, picture, "test/source", "test/target", 2)
    counts = {part: len(prepare_streams(tmp_path, configs(part=part))["source"]) for part in ("train", "test", "all")}
    assert counts == {"train": 4, "test": 2, "all": 6}
    assert len(prepare_streams(tmp_path / "test", configs())["source"]) == 2


def test_a_small_part_of_two_domains(tmp_path: Path, picture: Draw) -> None:
    """The folders of the larger part do not count against it."""
    folders(tmp_path, picture, "trainA", "trainB", 12)
    folders(tmp_path, picture, "testA", "testB", 2)
    found = prepare_streams(tmp_path, configs(part="test", pairing="unpaired"))
    assert [len(dataset) for dataset in found.values()] == [2, 2]


def test_an_absent_part_is_refused(tmp_path: Path, picture: Draw) -> None:
    folders(tmp_path, picture, "trainA", "trainB")
    (tmp_path / "testA").mkdir()
    with pytest.raises(DataError, match="has no part 'test' with pictures in it, only train"):
        prepare_streams(tmp_path, configs(part="test"))


def side_by_side(root: Path, picture: Draw, count: int = 4, width: int = 40, height: int = 20) -> Path:
    for number in range(count):
        image = picture(number, height, height)
        both = Image.new("RGB", (width, height))
        both.paste(image, (0, 0))
        both.paste(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), (height, 0))
        save(both, root / f"{number}.png")
    return root


def test_two_pictures_in_one_file(tmp_path: Path, picture: Draw) -> None:
    side_by_side(tmp_path / "train", picture)
    found = prepare_streams(tmp_path, configs(20))
    assert belong(found) and len(found["source"]) == 4
    swapped = prepare_streams(tmp_path, configs(20, reverse=True))
    assert np.array_equal(swapped["source"].images, found["target"].images)
    apart = prepare_streams(tmp_path, configs(20, pairing="unpaired"))
    assert not set(apart["source"].names) & set(apart["target"].names)


def test_files_of_odd_width_are_refused(tmp_path: Path, picture: Draw) -> None:
    side_by_side(tmp_path, picture, width=41)
    with pytest.raises(DataError, match=r"a width such as 41 \(with a height of 20\) cannot be halved.*make it 40"):
        prepare_streams(tmp_path, configs())


def test_a_single_file_of_odd_width_is_left_out(tmp_path: Path, picture: Draw) -> None:
    side_by_side(tmp_path, picture, count=12)
    save(picture(99, 39, 20), tmp_path / "odd.png")
    found = prepare_streams(tmp_path, configs())
    assert len(found["source"]) == len(found["target"]) == 12
    assert any(name == "odd.png" and "39 x 20 is of odd width" in reason for name, reason in found["target"].skipped)


def test_an_archive_is_as_good_as_a_folder(tmp_path: Path, picture: Draw) -> None:
    root = folders(tmp_path / "set", picture, "source", "target")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))
    packed, plain = prepare_streams(tmp_path / "set.zip", configs(20)), prepare_streams(root, configs(20))
    assert belong(packed) and np.array_equal(packed["source"].images, plain["source"].images)


def test_unpaired_names_differ_so_that_orders_do(tmp_path: Path, picture: Draw) -> None:
    folders(tmp_path, picture, "trainA", "trainB")
    save(picture(9), tmp_path / "trainB/9.png")
    found = prepare_streams(tmp_path, configs(pairing="unpaired"))
    assert [len(dataset) for dataset in found.values()] == [4, 5]
    assert not set(found["source"].names) & set(found["target"].names)
    assert prepare_streams(tmp_path, configs(pairing="unpaired", reverse=True))["source"].names[0] == "trainB/0.png"


def test_a_stream_of_pictures_is_prepared_as_ever(folder: Path) -> None:
    found = prepare_streams(folder, {"images": DataConfig(resolution=16)})
    assert list(found) == ["images"] and len(found["images"]) == 8


# ---- label maps ------------------------------------------------------------------------------------------------------


def scenes(root: Path, picture: Draw, count: int = 3, instances: bool = True) -> Path:
    labels = np.arange(400).reshape(20, 20) // 134  # 0 to 2
    for number in range(count):
        save(picture(number, 20, 20), root / f"images/{number}.png")
        save(Image.fromarray(np.roll(labels, number, 1).astype(np.uint8)), root / f"labels/{number}.png")
        if instances:
            save(Image.fromarray((labels > 1).astype(np.uint16)), root / f"instances/{number}.png")
    names = {"class_names": ["sky", "house", "sea"], "colours": [[1, 1, 1], [2, 2, 2], [9, 9, 9]]}
    (root / "classes.json").write_text(json.dumps(names))
    return root


def test_label_maps_with_edges(tmp_path: Path, picture: Draw) -> None:
    found = prepare_streams(scenes(tmp_path, picture), configs(20, MAPS))
    source, target = found["source"], found["target"]
    assert source.kind == "labels" and source.map_names == ("sky", "house", "sea") and target.kind == "picture"
    assert source.map_colours == ((1, 1, 1), (2, 2, 2), (9, 9, 9))
    assert (source.channels, target.channels) == (2, 3) and source.names == target.names == ("0", "1", "2")
    assert set(np.unique(source.images[:, 0])) == {0, 1, 2} and set(np.unique(source.images[:, 1])) == {0, 1}
    plain = prepare_streams(tmp_path, configs(20, {"kind": "labels"}))["source"]
    assert plain.channels == 1 and np.array_equal(plain.images[:, 0], source.images[:, 0])
    backward = prepare_streams(tmp_path, configs(20, MAPS, reverse=True))
    assert backward["source"].kind == "labels"


def test_maps_without_names_are_numbered(tmp_path: Path, picture: Draw) -> None:
    scenes(tmp_path, picture)
    (tmp_path / "classes.json").unlink()
    assert prepare_streams(tmp_path, configs(20, MAPS))["source"].map_names == ("0", "1", "2")


def test_other_names_or_instances_are_prepared_anew(tmp_path: Path, picture: Draw) -> None:
    """The cache is keyed by all that a map is made from."""
    before = prepare_streams(scenes(tmp_path, picture), configs(20, MAPS))["source"]
    save(Image.fromarray(np.full((20, 20), 5, dtype=np.uint8)), tmp_path / "instances/0.png")
    after = prepare_streams(tmp_path, configs(20, MAPS))["source"]
    assert before.images[0, 1].any() and not after.images[0, 1].any() and before.fingerprint != after.fingerprint
    (tmp_path / "classes.json").write_text('{"class_names": ["a", "b", "c", "d"]}')
    renamed = prepare_streams(tmp_path, configs(20, MAPS))["source"]
    assert renamed.map_names == ("a", "b", "c", "d") and renamed.fingerprint != after.fingerprint


def test_maps_of_a_part_take_the_names_of_the_set(tmp_path: Path, picture: Draw) -> None:
    scenes(tmp_path / "train", picture)
    (tmp_path / "train/classes.json").rename(tmp_path / "classes.json")
    for place in (tmp_path, tmp_path / "train"):
        assert prepare_streams(place, configs(20, MAPS))["source"].map_names == ("sky", "house", "sea")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in (path for path in sorted(tmp_path.rglob("*.*")) if path.suffix != ".zip"):
            archive.write(path, path.relative_to(tmp_path))
    assert prepare_streams(tmp_path / "set.zip", configs(20, MAPS))["source"].map_names == ("sky", "house", "sea")


def test_cityscapes(tmp_path: Path, picture: Draw) -> None:
    for split, city, count in (("train", "ulm", 2), ("val", "bonn", 1)):
        for number in range(count):
            stem = f"{split}/{city}/{city}_{number:06d}_000019"
            save(picture(number, 40, 20), tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png")
            ids = np.full((20, 40), 26, dtype=np.uint8)
            save(Image.fromarray(ids), tmp_path / f"gtFine/{stem}_gtFine_labelIds.png")
            save(Image.fromarray(ids.astype(np.uint16) * 1000), tmp_path / f"gtFine/{stem}_gtFine_instanceIds.png")
            save(Image.fromarray(ids), tmp_path / f"gtFine/{stem}_gtFine_color.png")
    found = prepare_streams(tmp_path, configs(16, MAPS, fit="stretch", aspect=2.0))
    source, target = found["source"], found["target"]
    assert (len(source), source.height, source.width) == (2, 16, 32) and target.store.shape == (2, 3, 16, 32)
    assert source.map_names[26] == "car" and len(source.map_names) == 35 and (source.images[:, 0] == 26).all()
    assert source.names[0] == "ulm/ulm_000000_000019"
    assert len(prepare_streams(tmp_path, configs(16, MAPS, part="test"))["source"]) == 1


def test_coco_stuff(tmp_path: Path, picture: Draw) -> None:
    for split in ("train", "val"):
        save(picture(0, 30, 20), tmp_path / f"{split}_img/000007.jpg")
        save(Image.fromarray(np.full((20, 30), 255, dtype=np.uint8)), tmp_path / f"{split}_label/000007.png")
        save(Image.fromarray(np.zeros((20, 30), dtype=np.uint8)), tmp_path / f"{split}_inst/000007.png")
    source = prepare_streams(tmp_path, configs(16, MAPS))["source"]
    assert len(source.map_names) == 183 and (source.images[:, 0] == 182).all() and source.names == ("000007",)


def test_faults_of_label_maps_are_told(tmp_path: Path, picture: Draw) -> None:
    scenes(tmp_path, picture)
    with pytest.raises(DataError, match=r"has label maps .* they are for gaugan"):
        prepare_streams(tmp_path, configs())
    save(Image.new("RGB", (20, 20), (5, 6, 7)), tmp_path / "labels/1.png")
    with pytest.raises(DataError, match=r"the label map 1 has 400 pixels of the colour #050607: 3 labels are named"):
        prepare_streams(tmp_path, configs(20, MAPS))
    save(Image.new("L", (20, 20), 3), tmp_path / "labels/1.png")
    with pytest.raises(DataError, match="the label map 1 has 400 pixels of the label number 3"):
        prepare_streams(tmp_path, configs(20, MAPS))


def test_maps_without_instances(tmp_path: Path, picture: Draw) -> None:
    scenes(tmp_path, picture, instances=False)
    with pytest.raises(DataError, match=r"no instance maps.*--set data\.source\.edges=false"):
        prepare_streams(tmp_path, configs(20, MAPS))
    assert prepare_streams(tmp_path, configs(20, {"kind": "labels"}))["source"].channels == 1


def test_pairs_of_pictures_are_no_label_maps(tmp_path: Path, picture: Draw) -> None:
    folders(tmp_path, picture, "source", "target")
    with pytest.raises(DataError, match=r"has no label maps in labels/.*\(two folders, paired by name\).*use pix2pix"):
        prepare_streams(tmp_path, configs(20, MAPS))


def test_a_picture_without_its_instance_map_is_left_out(tmp_path: Path, picture: Draw) -> None:
    scenes(tmp_path, picture)
    (tmp_path / "instances/2.png").unlink()
    found = prepare_streams(tmp_path, configs(20, MAPS))
    assert found["target"].names == ("0", "1")
    assert any("no instance of the same name" in reason for _, reason in found["target"].skipped)


# ---- what cannot be used ---------------------------------------------------------------------------------------------


def test_unpaired_pictures_are_refused_where_pairs_are_needed(tmp_path: Path, picture: Draw, folder: Path) -> None:
    save(picture(0), tmp_path / "u/trainA/horse.png")
    save(picture(1), tmp_path / "u/trainB/zebra.png")
    with pytest.raises(DataError, match=r"'trainA' and 'trainB' .* are no pairs: no name is in both .*cyclegan"):
        prepare_streams(tmp_path / "u", configs())
    with pytest.raises(DataError, match=r"holds no pairs of pictures \(8 pictures\)\. They can be files with"):
        prepare_streams(folder, configs())
    with pytest.raises(DataError, match="holds no two domains"):
        prepare_streams(folder, configs(pairing="unpaired"))


def test_a_set_that_says_it_is_unpaired_is_believed(tmp_path: Path, picture: Draw) -> None:
    folders(tmp_path, picture, "trainA", "trainB")
    (tmp_path / "build.json").write_text('{"paired": false}')
    with pytest.raises(DataError, match="do not belong together, whatever their names"):
        prepare_streams(tmp_path, configs())
    assert len(prepare_streams(tmp_path, configs(pairing="unpaired"))["source"]) == 4


def test_sizes_that_differ_within_a_pair_are_refused(tmp_path: Path, picture: Draw) -> None:
    folders(tmp_path, picture, "source", "target")
    save(picture(7, 30, 20), tmp_path / "target/2.png")
    with pytest.raises(DataError, match=r"1 of 4 pairs have two sizes \(2: source 20 x 20, target 30 x 20\)"):
        prepare_streams(tmp_path, configs())
    with pytest.raises(DataError, match="1 of 4 pairs"):  # from the cache too
        prepare_streams(tmp_path, configs())


@pytest.mark.parametrize(("full", "empty"), [("source", "target"), ("trainB", "trainA"), ("labels", "images")])
def test_an_empty_side_is_refused(tmp_path: Path, picture: Draw, full: str, empty: str) -> None:
    save(picture(0), tmp_path / full / "0.png")
    (tmp_path / empty).mkdir()
    with pytest.raises(DataError, match=rf"1 pictures in '{full}', but none in a folder .*{empty}.* both sides"):
        prepare_streams(tmp_path, configs(pairing="unpaired" if "train" in full else "paired"))


def test_an_unreadable_picture_takes_its_partner_with_it(tmp_path: Path, picture: Draw) -> None:
    folders(tmp_path, picture, "source", "target")
    (tmp_path / "target/1.png").write_bytes(b"no picture")
    (tmp_path / "source/3.png").write_bytes(b"")
    save(picture(5), tmp_path / "source/5.png")
    found = prepare_streams(tmp_path, configs(20))
    assert found["source"].names == found["target"].names == ("0", "2") and belong(found)
    for dataset in found.values():
        skipped = dict(dataset.skipped)
        assert "(target; its pair is left out)" in skipped["1"] and "(source;" in skipped["3"]
        assert "no target of the same name" in skipped["source/5.png"]


def test_a_pair_is_left_out_once(tmp_path: Path, picture: Draw) -> None:
    """A broken file of two pictures, and a pair broken on both sides."""
    side_by_side(tmp_path / "halves", picture, count=12)
    (tmp_path / "halves/5.png").write_bytes(b"no picture")
    for dataset in prepare_streams(tmp_path / "halves", configs()).values():
        assert dataset.skipped == (("5.png", "not a picture in a format that can be read here"),)
        assert len(dataset) == 11
    folders(tmp_path / "two", picture, "source", "target")
    (tmp_path / "two/source/1.png").write_bytes(b"no picture")
    (tmp_path / "two/target/1.png").write_bytes(b"")
    ((name, reason),) = prepare_streams(tmp_path / "two", configs(20))["target"].skipped
    assert name == "1" and "(source; its pair is left out); the file is empty (target; its pair" in reason


@pytest.mark.parametrize("is_halves", [True, False])
def test_an_empty_part_is_named(tmp_path: Path, picture: Draw, is_halves: bool) -> None:
    if is_halves:
        side_by_side(tmp_path / "train", picture)
    else:
        folders(tmp_path / "train", picture, "source", "target")
    assert not is_empty_part(open_source(tmp_path, "none"), "test")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"has no part 'test' with pictures in it, only train$"):
        prepare_streams(tmp_path, configs(part="test"))
    opened = open_source(tmp_path, "none")
    assert is_empty_part(opened, "test") and not is_empty_part(opened, "train") and not is_empty_part(opened, "all")


def test_nothing_left_is_refused(tmp_path: Path, picture: Draw) -> None:
    folders(tmp_path, picture, "source", "target", 2)
    (tmp_path / "target/1.png").write_bytes(b"no picture")
    (tmp_path / "source/0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="no pair is left of which both sides can be used"):
        prepare_streams(tmp_path, configs())


def test_two_pictures_of_one_name_on_one_side(tmp_path: Path, picture: Draw) -> None:
    folders(tmp_path, picture, "source", "target", 2)
    save(picture(5, 20, 20), tmp_path / "source/1.jpg")
    found = prepare_streams(tmp_path, configs())
    assert len(found["source"]) == 2
    assert any("of the same name as" in reason for _, reason in found["source"].skipped)


def test_a_single_pair_grey_to_colour_with_alpha(tmp_path: Path, picture: Draw) -> None:
    save(picture(0, 20, 20, "L"), tmp_path / "source/0.png")
    save(Image.new("RGBA", (20, 20), (255, 0, 0, 0)), tmp_path / "target/0.png")
    found = prepare_streams(tmp_path, configs(20))
    assert {dataset.channels for dataset in found.values()} == {3} and (found["target"].images == 255).all()
    source = found["source"].images
    assert np.array_equal(source[:, 0], source[:, 1])
    kept = prepare_streams(tmp_path, configs(20, {"channels": 1}, channels=4))
    assert (kept["source"].channels, kept["target"].channels) == (1, 4)


def test_settings_of_the_sides_must_agree(tmp_path: Path, picture: Draw) -> None:
    root = folders(tmp_path, picture, "source", "target")
    with pytest.raises(ValueError, match=r"resolution must be the same for both sides, got data\.source\.resolution=8"):
        prepare_streams(root, configs(16, {"resolution": 8}))
    two = configs()
    with pytest.raises(ValueError, match="must be source and target"):
        prepare_streams(root, {"source": two["source"], "target": replace(two["target"], role="source")})


# ---- with the rest ---------------------------------------------------------------------------------------------------


def test_limits_keep_pairs_together(tmp_path: Path, picture: Draw) -> None:
    found = prepare_streams(folders(tmp_path, picture, "A", "B", 9), configs(20, limit=4, seed=3))
    assert len(found["source"]) == 4 and found["source"].names == found["target"].names and belong(found)


def test_pairs_are_held_out_together_and_domains_apart(tmp_path: Path, picture: Draw) -> None:
    folders(tmp_path, picture, "trainA", "trainB", 24)
    learned, held = hold_out(prepare_streams(tmp_path, configs(20)), 0.25)
    assert held["source"].names == held["target"].names and len(held["source"]) == 6
    assert learned["source"].names == learned["target"].names and belong(learned) and belong(held)
    apart = hold_out(prepare_streams(tmp_path, configs(20, pairing="unpaired")), 0.25).held
    numbers = [{name.partition("/")[2] for name in dataset.names} for dataset in apart.values()]
    assert list(map(len, numbers)) == [6, 6] and numbers[0] != numbers[1]


def test_a_second_start_reads_the_cache(tmp_path: Path, picture: Draw) -> None:
    root = folders(tmp_path, picture, "A", "B")
    first = prepare_streams(root, configs(20, crop=16))
    before = sorted((cache_folder() / "datasets").iterdir())
    again = prepare_streams(root, configs(20, reverse=True))
    assert sorted((cache_folder() / "datasets").iterdir()) == before and len(before) == 2
    assert first["source"].fingerprint == again["target"].fingerprint
    assert (first["source"].height, again["source"].height) == (16, 20)


def test_an_open_source_can_be_given(tmp_path: Path, picture: Draw) -> None:
    root = folders(tmp_path, picture, "A", "B")
    assert belong(prepare_streams(open_source(root, "none"), configs(20)))


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "test/source").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no usable picture in '.*test' \(it is empty\)"):
        prepare_streams(tmp_path / "test", configs())
