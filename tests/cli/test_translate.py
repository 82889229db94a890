"""From pairs to translations on the command line: train, resume, translate, score; what does not fit is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TINY = (
    *("--recipe", "pix2pix-small", "--resolution", "32", "--images", "24", "--batch", "4"),
    *("--set", "task.generator.width=4", "--set", "task.generator.num_blocks=1", "--set", "task.discriminator.width=4"),
    *("--set", "task.discriminator.num_layers=1", "--set", "training.snapshot_images=12"),
    *("--set", "training.score_images=8", "--set", "training.hold_out=0", "--metrics", "none", "--device", "cpu"),
)


def write_pairs(folder: Path, count: int) -> None:
    draw = np.random.default_rng(count)
    for side in ("source", "target"):
        (folder / side).mkdir(parents=True)
    for index in range(count):
        grey = draw.integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(np.stack([grey] * 3, axis=-1)).save(folder / "source" / f"{index}.png")
        Image.fromarray(np.stack([grey, 255 - grey, grey], axis=-1)).save(folder / "target" / f"{index}.png")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "pairs" / "train", 8)
    write_pairs(tmp_path / "pairs" / "test", 4)
    return tmp_path / "pairs"


def test_from_pairs_to_translations(call, pairs: Path, tmp_path: Path) -> None:
    status, shown = call("train", "pairs", *TINY)
    assert status == 0 and "finished after 24 images" in shown, shown
    assert "frugan translate runs/pairs PICTURES translated --gallery" in shown and "paired-L1" in shown
    run = tmp_path / "runs" / "pairs"
    scores = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    scores = [line["scores"] for line in scores if "scores" in line]
    assert scores and all({"SWD-16px", "paired-L1"} <= set(line) and 0 <= line["paired-L1"] <= 1 for line in scores)
    page = (run / "report.html").read_text()
    assert "Translated" in page and "frugan translate" in page and "frugan sample" not in page
    assert (run / "grids" / "reals.png").is_file() and len(list((run / "grids").glob("fakes-*.png"))) >= 2
    status, shown = call("train", "pairs", *TINY)
    assert status == 0 and "`frugan translate runs/pairs PICTURES OUT` uses it" in shown

    words = ("translate", "runs/pairs", "pairs/test/source", "out", "--gallery", "--target", "pairs/test/target")
    status, shown = call(*words)
    assert status == 0 and "translated: 4 pictures" in shown and "paired-L1" in shown and "(4 pairs)" in shown, shown
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"gallery.html", *(f"{i}.png" for i in range(4))}
    status, shown = call(*words[:4], "--device", "cpu")
    assert status == 0 and "translated: 0 pictures, 4 were there" in shown

    status, shown = call("evaluate", "runs/pairs", "--metrics", "swd", "--device", "cpu", "--out", "scores")
    assert status == 0 and "paired-L1" in shown and "4 outputs with their targets" in shown, shown
    assert "learned from" not in shown
    found = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert found["protocol"]["pairs"] == 4 and found["spreads"]["paired-L1"] > 0
    status, shown = call("evaluate", "runs/pairs", "--metrics", "ppl-z-end", "--features", "hed")
    assert status == 2
    status, shown = call("info", "runs/pairs")
    assert status == 0 and "3 to 3 channels" in shown and "one direction" in shown
    status, shown = call("cost", "runs/pairs", "--repeats", "1")
    assert status == 0 and "32 px, 3 channels, one picture" in shown


def test_what_does_not_fit(call, pairs: Path, tmp_path: Path) -> None:
    status, shown = call("translate", "demo", "pairs/test/source", "out")
    assert status == 2 and "does not translate any: use `frugan sample`" in shown
    assert call("train", "pairs", *TINY)[0] == 0
    status, shown = call("sample", "runs/pairs")
    assert status == 2 and "use `frugan translate`" in shown
    status, shown = call("translate", "runs/pairs", "pairs/test/source", "out", "--reverse")
    assert status == 2 and "no other direction" in shown
    (tmp_path / "empty").mkdir()
    status, shown = call("translate", "runs/pairs", "empty", "out")
    assert status == 2 and "no usable picture" in shown
    status, shown = call("translate", "runs/pairs", "nowhere", "out")
    assert status == 2 and "there is no 'nowhere'" in shown
    for side in ("source", "target"):  # a part for tests without pictures
        for path in (pairs / "test" / side).iterdir():
            path.unlink()
    status, shown = call("translate", "runs/pairs", "pairs/test", "out")
    assert status == 2 and "pairs/test' (it is empty)" in shown
    assert not (tmp_path / "out").exists()
    status, shown = call("evaluate", "runs/pairs", "--metrics", "swd", "--device", "cpu", "--out", "scores")
    assert status == 2 and "no part 'test' with pictures in it, only train. Put pictures into its part" in shown
    assert not (tmp_path / "scores").exists()
    shutil.rmtree(pairs / "test")
    status, shown = call("evaluate", "runs/pairs", "--metrics", "swd", "--device", "cpu", "--out", "scores")
    assert status == 0 and "scored on all that is for training" in shown
    status, shown = call("translate", "runs/pairs", "pairs/train/source/0.png", "out")
    assert status == 0 and "translated: 1 picture, out" in shown
