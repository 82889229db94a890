"""Tiny-ImageNet and CUB-200-2011 as they were published, in small: parts, names of classes, tables with holes."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frugan.data.cache import prepare
from frugan.data.inspection import inspect
from frugan.data.pair_inspection import inspect_pairs
from frugan.data.pictures import DataConfig, DataError
from frugan.data.sources import open_source

WORDS = "n01443537\tgoldfish, Carassius auratus\nn02012849\tcrane\nn03126707\tcrane\nn09999999\tnever used\n"
BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")


@pytest.fixture
def tiny(tmp_path: Path, picture: Any) -> Path:
    """Three classes of two pictures, two labelled pictures to test with and one without labels."""
    root = tmp_path / "tiny-imagenet-200"
    for place, word in enumerate(("n01443537", "n02012849", "n03126707")):
        folder = root / "train" / word / "images"
        folder.mkdir(parents=True)
        for index in range(2):
            picture(2 * place + index, 64, 64).save(folder / f"{word}_{index}.JPEG")
        (root / "train" / word / f"{word}_boxes.txt").write_text(f"{word}_0.JPEG\t0\t0\t10\t10\n")
    for part, count in (("val", 2), ("test", 1)):
        (root / part / "images").mkdir(parents=True)
        for index in range(count):
            picture(10 + index, 64, 64).save(root / part / "images" / f"{part}_{index}.JPEG")
    (root / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn03126707\t0\t0\t9\t9\nval_1.JPEG\tn01443537\t0\t0\t9\t9\n"
    )
    (root / "words.txt").write_text(WORDS)
    (root / "wnids.txt").write_text("n03126707\nn01443537\nn02012849\n")
    return root


@pytest.fixture
def birds(tmp_path: Path, picture: Any) -> Path:
    """Two pictures of each of three birds; the second of each is to test with."""
    root = tmp_path / "CUB_200_2011"
    paths = [f"{bird}/{bird[4:]}_{index}.jpg" for bird in BIRDS for index in range(2)]
    for seed, path in enumerate(paths):
        (root / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        picture(seed, 80, 60).save(root / "images" / path)
    tables = {
        "images": [f"{number} {path}" for number, path in enumerate(paths, start=1)],
        "image_class_labels": [f"{number} {(number + 1) // 2}" for number in range(1, 7)],
        "train_test_split": [f"{number} {number % 2}" for number in range(1, 7)],
        "classes": [f"{number} {bird}" for number, bird in enumerate(BIRDS, start=1)],
        "bounding_boxes": [f"{number} 60.0 27.0 325.0 304.0" for number in range(1, 7)],
    }
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def packed(root: Path) -> Path:
    """The folder in a zip, under its own name, as such sets are handed out."""
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.*")):
            archive.write(file, file.relative_to(root.parent))
    return path


@pytest.mark.parametrize("is_zip", [False, True])
def test_tiny_imagenet(tiny: Path, is_zip: bool) -> None:
    path = packed(tiny) if is_zip else tiny
    with open_source(path) as source:
        assert source.class_names == ("goldfish", "crane (n02012849)", "crane (n03126707)")
        assert source.labels == (0, 0, 1, 1, 2, 2) and not source.skipped
        assert all("train/" in name for name in source.names)
        assert "read as Tiny-ImageNet, part 'train'" in source.notes
        assert any("3 pictures of other parts" in note for note in source.notes)
    with open_source(path, part="test") as source:
        assert source.labels == (2, 0) and [name[-10:] for name in source.names] == ["val_0.JPEG", "val_1.JPEG"]
        assert len(source.class_names) == 3
    with open_source(path, part="all") as source:
        assert len(source.names) == 8
    with open_source(path, labels="none") as source:
        assert source.labels is None and len(source.names) == 9


def test_tiny_imagenet_becomes_a_set(tiny: Path) -> None:
    dataset = prepare(tiny, DataConfig(resolution=16))
    assert dataset.class_names[0] == "goldfish" and dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    (tiny / "words.txt").unlink()
    assert prepare(tiny, DataConfig(resolution=16)).class_names == ("n01443537", "n02012849", "n03126707")


def test_it_is_inspected_as_a_labelled_set(tiny: Path, birds: Path) -> None:
    assert inspect_pairs(tiny) is None and inspect_pairs(birds) is None
    report = inspect(tiny)
    assert report.classes == {"crane (n02012849)": 2, "crane (n03126707)": 2, "goldfish": 2}
    assert "Tiny-ImageNet" in report.text()
    assert inspect(birds).classes == {"Black footed Albatross": 1, "Laysan Albatross": 1, "Sooty Albatross": 1}


def test_a_picture_without_annotation_is_refused_unless_asked(tiny: Path) -> None:
    (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn03126707\t0\t0\t9\t9\n")
    wanted = DataConfig(resolution=16, part="test")
    with pytest.raises(DataError, match=r"1 of 2 pictures .* has no label \(val/images/val_1.JPEG\).*unlabelled=skip"):
        prepare(tiny, wanted)
    dataset = prepare(tiny, DataConfig(resolution=16, part="test", unlabelled="skip"))
    assert dataset.names == ("val/images/val_0.JPEG",)
    assert dataset.skipped == (("val/images/val_1.JPEG", "no label in the tables of Tiny-ImageNet"),)


def test_a_broken_table_is_named_with_its_line(tiny: Path) -> None:
    (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn03126707\nval_1.JPEG\n")
    with pytest.raises(DataError, match=r"val_annotations.txt, line 2: 2 entries"):
        open_source(tiny, part="test")
    (tiny / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataError, match=r"needs val/val_annotations.txt"):
        open_source(tiny, part="test")


@pytest.mark.parametrize("is_zip", [False, True])
def test_birds(birds: Path, is_zip: bool) -> None:
    path = packed(birds) if is_zip else birds
    with open_source(path) as source:
        assert source.class_names == ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross")
        assert source.labels == (0, 1, 2) and all(name.endswith("_0.jpg") for name in source.names)
    with open_source(path, part="test") as source:
        assert source.labels == (0, 1, 2) and all(name.endswith("_1.jpg") for name in source.names)
    with open_source(path, part="all") as source:
        assert source.labels == (0, 0, 1, 1, 2, 2)


def test_birds_without_their_tables_are_classes_by_folder(birds: Path) -> None:
    (birds / "images.txt").unlink()
    with open_source(birds) as source:
        assert source.class_names == BIRDS and len(source.names) == 6


def test_a_bird_of_an_unknown_class_is_refused(birds: Path) -> None:
    (birds / "image_class_labels.txt").write_text("1 9\n")
    with pytest.raises(DataError, match=r"gives '001.Black.*' the class '9', which classes.txt lacks"):
        open_source(birds)


def test_pixels_are_those_of_the_files(birds: Path) -> None:
    train = prepare(birds, DataConfig(resolution=16))
    whole = prepare(birds, DataConfig(resolution=16, part="all"))
    assert np.array_equal(train.images, whole.images[::2])
