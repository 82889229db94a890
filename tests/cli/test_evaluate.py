"""`frugan evaluate` as a user types it, with a tiny feature network in the place of the real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frugan import features
from frugan.data.pictures import SHEET
from frugan.data.write import read_metadata
from frugan.features import inception
from frugan.model import Model, save
from frugan.models.biggan import BigGANConfig, BigGANGenerator
from frugan.training import scores as training_scores
from tests.tiny_extractor import TinyExtractor

TINY = (
    *("--recipe", "small", "--resolution", "8", "--images", "24", "--batch", "4"),
    *("--set", "task.generator.widths=[8, 8, 8, 8]", "--set", "task.discriminator.widths=[8, 8]"),
    *("--set", "training.snapshot_images=12", "--set", "training.score_images=8"),
)


@pytest.fixture
def call(call, monkeypatch: pytest.MonkeyPatch):
    """The command line, which also knows a network named tiny."""
    real = features.open_extractor

    def open_tiny(name: str, weights: Path | None = None, device: torch.device | str = "cpu") -> object:
        return TinyExtractor() if name == "tiny" else real(name, weights, device)

    monkeypatch.setattr(features, "open_extractor", open_tiny)
    monkeypatch.setattr(training_scores, "open_extractor", open_tiny)
    return call


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir()
    noise = np.random.default_rng(seed)
    for index in range(count):
        Image.fromarray(noise.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{index:02d}.png")
    return folder


def scores_in(folder: Path) -> dict[str, float]:
    return json.loads((folder / "scores.json").read_text())["scores"]


def test_a_run_is_scored_against_its_own_pictures(call, tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 12)
    status, shown = call("train", "photos", *TINY, "--metrics", "kid", "--set", "training.evaluation.features=tiny")
    assert status == 0, shown
    assert "KID-tiny" in (tmp_path / "runs" / "photos" / "log.jsonl").read_text()
    command = ("evaluate", "runs/photos", "--features", "tiny", "-n", "20", "--metrics", "kid,fid,pr,nn")
    status, shown = call(*command)
    assert status == 0, shown
    assert "KID-tiny" in shown and "12 of 12 pictures at 8 px" in shown and "seeds 10000-10019" in shown
    place = tmp_path / "evaluation" / "photos"
    saved = json.loads((place / "scores.json").read_text())
    assert saved["protocol"]["extractor"] == "tiny" and saved["protocol"]["num_real"] == 12
    facts = read_metadata(place / "neighbours.png")
    assert facts["frugan:extractor"] == "tiny" and set(facts) == {"frugan:extractor", SHEET}
    assert call(*command, "--data", "photos", "--out", "again")[0] == 0
    assert scores_in(tmp_path / "again") == saved["scores"]
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    status, shown = call(*command)
    assert status == 2 and "no longer at" in shown and "--data" in shown
    assert call(*command, "--data", "elsewhere")[0] == 0
    status, shown = call(*command, "--data", "elsewhere", "--resolution", "16")
    assert status == 2 and "draws at 8 px" in shown


def test_a_folder_is_scored_against_a_folder(call, tmp_path: Path) -> None:
    pictures(tmp_path / "made", 9, seed=1)
    pictures(tmp_path / "photos", 12)
    status, shown = call("evaluate", "made", "--data", "photos", "--features", "tiny", "--metrics", "kid,fid,pr,dc,nn")
    assert status == 0, shown
    assert "9 pictures: made" in shown and "at 20 px" in shown
    found = scores_in(tmp_path / "evaluation" / "made")
    assert found["FD-tiny"] > 0 and "Coverage-tiny" in found
    assert call("evaluate", "photos", "--data", "photos", "--features", "tiny", "--metrics", "fid")[0] == 0
    assert scores_in(tmp_path / "evaluation" / "photos")["FD-tiny"] == pytest.approx(0, abs=1e-6)
    status, shown = call("evaluate", "made", "--data", "photos", "--features", "tiny", "--resolution", "8", "-n", "5")
    assert status == 0 and "5 pictures: made" in shown and "at 8 px" in shown


def test_a_sheet_among_the_pictures_is_left_out(call, tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 12)
    assert call("sample", "demo", "-n", "9", "--resolution", "16", "--out", "drawn")[0] == 0
    assert SHEET in read_metadata(tmp_path / "drawn" / "grid.png")
    assert SHEET not in read_metadata(tmp_path / "drawn" / "seed00000.png")
    command = ("--data", "photos", "--features", "tiny", "--metrics", "kid")
    status, shown = call("evaluate", "drawn", *command)
    assert status == 0, shown
    assert "9 pictures: drawn" in shown and "at 16 px" in shown
    assert "left out 1 of 10" in shown and "grid.png: a sheet of pictures that frugan drew" in shown
    status, shown = call("train", "drawn", *TINY, "--dry-run")
    assert status == 0 and "left out 1 of 10" in shown
    status, shown = call("data", "inspect", "drawn")
    assert status == 0 and "9 pictures" in shown and "a sheet of pictures" in shown


def test_of_mixed_sizes_the_commonest_counts(call, tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 12)
    pictures(tmp_path / "made", 9, seed=1)
    Image.new("RGB", (64, 64)).save(tmp_path / "made" / "00.png")
    Image.new("RGB", (64, 32)).save(tmp_path / "made" / "01.png")
    (tmp_path / "made" / "02.png").write_text("words")
    status, shown = call("evaluate", "made", "--data", "photos", "--features", "tiny", "--metrics", "kid")
    assert status == 0, shown
    assert "8 pictures: made" in shown and "at 20 px" in shown and "left out 1 of 9" in shown


def test_weights_are_fetched_only_when_asked(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "photos", 12)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    asked = []

    def refuse(url: str, timeout: float) -> object:
        asked.append(url)
        raise OSError("no network here")

    monkeypatch.setattr(inception.urllib.request, "urlopen", refuse)
    command = ("evaluate", "photos", "--data", "photos", "--metrics", "kid")
    status, shown = call(*command, "--features", "inception_2015")
    assert status == 2 and "--download-weights" in shown and not asked
    status, shown = call(*command, "--features", "inception_2015", "--download-weights")
    assert status == 2 and "could not be fetched: no network here" in shown and len(asked) == 1
    status, shown = call(*command, "--features", "tiny", "--download-weights")
    assert status == 2 and "is for --features inception_2015, got tiny" in shown
    status, shown = call(*command, "--features", "inception_2015", "--download-weights", "--weights", "x.pth")
    assert status == 2 and "not both" in shown and len(asked) == 1
    monkeypatch.setattr(inception, "download_inception_2015", lambda *, consent: Path("fetched.pth"))
    status, shown = call(*command, "--features", "inception_2015", "--download-weights")
    assert status == 2 and "fetched.pth" in shown, "what was fetched is what is opened"


def test_a_model_is_scored_by_other_statistics_of_batches(call, tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 12)
    config = BigGANConfig(resolution=8, width=4, z_dim=8, shared_dim=None, blocks="resnet")
    save(Model(BigGANGenerator(config).eval(), info={"statistics": "running: as here"}), tmp_path / "model")
    assert "statistics  running: as here" in call("info", "model")[1]
    command = ("evaluate", "model", "--data", "photos", "--features", "tiny", "--metrics", "kid", "-n", "12")
    found, words = (
        [],
        {None: "running: as here", "standing": "standing: of 16 batches of 64", "batch:6": "batch: of each 6 pictures"},
    )
    for kind, said in words.items():
        status, shown = call(*command, *(("--statistics", kind) if kind else ()), "--out", f"by-{kind}")
        assert status == 0, shown
        assert f"\nstatistics {said}" in shown
        found.append(scores_in(tmp_path / f"by-{kind}")["KID-tiny"])
    assert len(set(found)) == 3
    for kind, said in (
        ("batch", "ask for 50 pictures, got 12"),
        ("batch:", "--statistics must be standing, batch, or such as batch:64, got 'batch:'"),
        ("running", "--statistics must be standing, batch, or such as batch:64, got 'running'"),
    ):
        status, shown = call(*command, "--statistics", kind)
        assert status == 2 and said in shown, shown


def classes(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    folder.mkdir()
    for number, (name, count) in enumerate(counts.items()):
        pictures(folder / name, count, seed + number)
    return folder


def test_a_folder_is_scored_against_a_folder_class_by_class(call, tmp_path: Path) -> None:
    classes(tmp_path / "photos", {"ant": 7, "bee": 6, "猫": 3})
    classes(tmp_path / "made", {"bee": 5, "ant": 8, "猫": 2}, seed=9)
    command = ("evaluate", "made", "--data", "photos", "--features", "tiny", "--metrics")
    status, shown = call(*command, "classes")
    assert status == 0, shown
    saved = json.loads((tmp_path / "evaluation" / "made" / "scores.json").read_text())
    assert saved["scores"]["intra-FD-tiny"] > 0
    rows = {row["name"]: row for row in saved["by_class"]["classes"]}
    assert {name: (row["num_fake"], row["num_real"]) for name, row in rows.items()} == {
        **{"ant": (8, 7), "bee": (5, 6), "猫": (2, 3)}
    }
    assert rows["bee"]["values"]["Precision"] is not None and rows["猫"]["values"]["Precision"] is None
    assert not (tmp_path / "evaluation" / "made" / "neighbours-by-class.png").exists()
    status, shown = call("evaluate", "photos", "--data", "photos", "--features", "tiny", "--metrics", "classes")
    assert status == 0 and scores_in(tmp_path / "evaluation" / "photos")["intra-FD-tiny"] == pytest.approx(0, abs=1e-6)
    status, shown = call(*command, "classes,nn")
    assert status == 0, shown
    place = tmp_path / "evaluation" / "made" / "neighbours-by-class.png"
    assert read_metadata(place)["frugan:extractor"] == "tiny"
    assert "neighbours-by-class.png (names that a picture cannot show have numbers: #2 is '猫')" in shown
    with Image.open(place) as sheet, Image.open(place.with_name("neighbours.png")) as mixed:
        assert sheet.height < mixed.height, "three rows, not sixteen"


def test_folders_with_other_classes_are_refused(call, tmp_path: Path) -> None:
    classes(tmp_path / "photos", {"ant": 6, "bee": 6})
    classes(tmp_path / "other", {"ant": 6, "bees": 6, "wasp": 6})
    pictures(tmp_path / "plain", 6)
    command = ("--features", "tiny", "--metrics", "kid,classes")
    status, shown = call("evaluate", "other", "--data", "photos", *command)
    assert status == 2 and "no real pictures have 'bees', 'wasp', and no generated pictures have 'bee'." in shown
    status, shown = call("evaluate", "plain", "--data", "photos", *command)
    assert status == 2 and "need generated pictures with classes: a sub-folder for each" in shown
    status, shown = call("evaluate", "photos", "--data", "plain", *command)
    assert status == 2 and "need real pictures with classes: a sub-folder for each" in shown
    (tmp_path / "photos" / "loose.png").write_bytes((tmp_path / "plain" / "00.png").read_bytes())
    status, shown = call("evaluate", "other", "--data", "photos", *command)
    assert status == 2 and "need real pictures with classes" in shown and "beside the sub-folders" in shown
    assert call("evaluate", "other", "--data", "photos", "--features", "tiny", "--metrics", "kid")[0] == 0


def test_a_model_is_scored_class_by_class_with_a_sheet(call, tmp_path: Path) -> None:
    classes(tmp_path / "labelled", {"ant": 6, "bee": 6})
    assert call("train", "labelled", *TINY)[0] == 0
    command = ("evaluate", "runs/labelled", "--data", "labelled", "--features", "tiny", "--metrics", "classes,nn")
    status, shown = call(*command, "-n", "24", "--out", "here")
    assert status == 0, shown
    assert "24 generated, seeds 10000-10023 against 12 real pictures, each class by itself" in shown
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        *("scores.json", "neighbours.png", "neighbours-by-class.png")
    }


def test_the_bundled_model_knows_its_set(call, tmp_path: Path) -> None:
    command = ("evaluate", "demo", "--features", "tiny", "-n", "8", "--reals", "30", "--metrics", "kid,ppl")
    status, shown = call(*command, "--psi", "0.5")
    assert status == 0, shown
    assert "30 of 1,866 pictures at 64 px: demo:emoji" in shown and "psi 0.5" in shown and "PPL-w-end-tiny" in shown


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("evaluate", "nowhere", "--data", "photos"), "nowhere"),
        (("evaluate", "photos"), "--data is needed"),
        (("evaluate", "photos", "--data", "photos", "--statistics", "batch"), "these are pictures: leave it out"),
        (("evaluate", "photos", "--data", "nowhere"), "nowhere"),
        (("evaluate", "photos", "--data", "photos", "--metrics", "kit"), "did you mean 'kid'"),
        (("evaluate", "photos", "--data", "photos", "--metrics", ","), "at least one metric"),
        (("evaluate", "photos", "--data", "photos", "-n", "50"), "50 generated pictures were asked for"),
        (("evaluate", "photos", "--data", "photos", "--reals", "50"), "50 real pictures were asked for"),
        (("evaluate", "photos", "--data", "photos", "--metrics", "dc"), "at least 6 real pictures, got 5"),
        (("evaluate", "photos", "--data", "photos", "--metrics", "ppl"), "on a model"),
        (("evaluate", "photos", "--data", "photos", "--features", "inseption"), "inception_2015"),
        (("evaluate", "photos", "--data", "photos", "--features", "inception_2015", "--weights", "x.pth"), "x.pth"),
        (("evaluate", "demo", "--data", "demo:face"), "faces"),
        (("evaluate", "empty", "--data", "photos"), "empty"),
    ],
)
def test_mistakes_get_one_clear_line(call, tmp_path: Path, words: tuple[str, ...], part: str) -> None:
    pictures(tmp_path / "photos", 5)
    (tmp_path / "empty").mkdir()
    if "--features" not in words:
        words = (*words, "--features", "tiny")
    status, shown = call(*words)
    assert status == 2, shown
    assert part in shown and "Traceback" not in shown
