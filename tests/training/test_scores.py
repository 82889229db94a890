"""Scores at snapshots: taken within their share of the time, ranking the snapshots, never touching the training."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from frugan.evaluation import PIXEL_SWD, EvaluationConfig
from frugan.training import scores as scores_module
from frugan.training.folder import RunError
from frugan.training.loop import Progress
from frugan.training.recipe import tiny
from frugan.training.run import Start, train
from frugan.training.scores import SnapshotScores
from tests.tiny_extractor import TinyExtractor
from tests.training.tiny_runs import final_weights, tiny_data, tiny_recipe

KID = EvaluationConfig(metrics=("kid",), features="tiny", num_fake=4)


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[TinyExtractor]:
    """Every extractor that was opened."""
    found: list[TinyExtractor] = []

    def open_tiny(name: str, weights: Path | None = None, device: torch.device | str = "cpu") -> TinyExtractor:
        if name != "tiny":
            raise ValueError(f"no weights for {name}")
        torch.rand(3)  # as the first weights of a network would be drawn
        found.append(TinyExtractor())
        return found[-1]

    monkeypatch.setattr(scores_module, "open_extractor", open_tiny)
    monkeypatch.setenv("FRUGAN_CACHE", str(tmp_path / "cache"))
    return found


def go(run: Path, tell: Any = None, **training: Any) -> str:
    settings = {"evaluation": KID, "evaluation_share": 1e9} | training
    start = Start(device="cpu", tell=tell or (lambda line: None))
    return train(run, tiny_recipe(**settings), tiny_data(), start).reason


def scored(run: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["images_seen"]: line["scores"] for line in lines if "scores" in line}


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = final_weights(a), final_weights(b)
    for part, tensors in first.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, second[part][name]), (part, name)


def state(run: Path) -> dict[str, Any]:
    newest = max((run / "checkpoints").iterdir())
    info = json.loads((newest / "checkpoint.json").read_text())["info"]
    return {**info["loop"]["progress"], "scores": info["scores"]}


def test_scores_do_not_change_what_is_learned(tmp_path: Path, opened: list[TinyExtractor]) -> None:
    assert go(tmp_path / "with") == "finished"
    assert go(tmp_path / "without", evaluation=None) == "finished"
    assert len(opened) == 1 and opened[0].seen == 6 + 3 * 4
    assert_same_weights(tmp_path / "with", tmp_path / "without")
    for found in scored(tmp_path / "with").values():
        assert set(found) == {PIXEL_SWD, "KID-tiny", "KID-subsets-tiny"}
    assert all(set(found) == {PIXEL_SWD} for found in scored(tmp_path / "without").values())
    assert state(tmp_path / "with")["evaluation_seconds"] > 0 == state(tmp_path / "without")["evaluation_seconds"]


def test_stopped_and_started_again_gives_the_same_scores_and_weights(tmp_path: Path) -> None:
    go(tmp_path / "whole")
    assert go(tmp_path / "parts", total_images=8) == "finished"
    assert go(tmp_path / "parts") == "finished"
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert scored(tmp_path / "whole") == scored(tmp_path / "parts")
    ends = [state(tmp_path / name) for name in ("whole", "parts")]
    for end in ends:
        del end["seconds"], end["evaluation_seconds"]
    assert ends[0] == ends[1]


def test_the_best_snapshot_is_that_of_the_best_kid(tmp_path: Path) -> None:
    go(tmp_path / "run")
    kids = {seen: found["KID-tiny"] for seen, found in scored(tmp_path / "run").items()}
    best = state(tmp_path / "run")
    assert best["best_metric"] == "KID-tiny"
    assert best["best_score"] in kids.values() and int(best["best"]) in kids
    assert all(kids[int(best["best"])] - kid <= 0.0101 * abs(kids[int(best["best"])]) for kid in kids.values())


def test_scores_can_be_switched_on_and_off_in_a_run(tmp_path: Path) -> None:
    go(tmp_path / "run", evaluation=None, total_images=8)
    assert state(tmp_path / "run")["best_metric"] == PIXEL_SWD
    go(tmp_path / "run", total_images=16)
    assert state(tmp_path / "run")["best_metric"] == "KID-tiny"
    go(tmp_path / "run", evaluation=None, total_images=24)
    assert state(tmp_path / "run")["best_metric"] == PIXEL_SWD
    with pytest.raises(RunError, match=r"training\.batch"):
        go(tmp_path / "run", batch=2)


def test_a_negligible_share_leaves_the_first_and_the_last(tmp_path: Path) -> None:
    go(tmp_path / "run", evaluation_share=1e-9, total_images=32)
    found = scored(tmp_path / "run")
    assert [seen for seen in found if "KID-tiny" in found[seen]] == [0, 32]
    assert state(tmp_path / "run")["best_metric"] == "KID-tiny"
    patient = tmp_path / "patient"  # stops by its score, so the score is always taken
    go(patient, evaluation_share=1e-9, total_images=32, plateau_images=1000)
    assert all("KID-tiny" in one for one in scored(patient).values())


@pytest.mark.parametrize(
    ("seconds", "spent", "wanted"),
    [(0.0, 0.0, True), (100.0, 60.0, False), (110.0, 10.0, True), (109.0, 10.0, False), (660.0, 60.0, True)],
)
def test_the_share_is_that_of_the_time_spent_on_training(seconds: float, spent: float, wanted: bool) -> None:
    training = tiny_recipe(evaluation=KID, evaluation_share=0.1).training
    watched = SnapshotScores(training, tiny_data()["images"], torch.device("cpu"))
    assert watched.is_due(Progress(images_seen=8, seconds=seconds, evaluation_seconds=spent)) is wanted
    assert watched.is_due(Progress(images_seen=16, seconds=seconds, evaluation_seconds=spent))
    off = SnapshotScores(dataclasses.replace(training, evaluation=None), tiny_data()["images"], torch.device("cpu"))
    assert not off.is_due(Progress(images_seen=16)) and off.name == PIXEL_SWD


def test_the_leading_score_is_kid_then_the_frechet_distance() -> None:
    for metrics, name in ((("fid", "kid"), "KID-tiny"), (("pr", "fid"), "FD-tiny"), (("pr",), PIXEL_SWD)):
        config = dataclasses.replace(KID, metrics=metrics)
        training = tiny_recipe(evaluation=config).training
        assert SnapshotScores(training, tiny_data()["images"], torch.device("cpu")).name == name


def test_what_cannot_be_scored_is_said_before_anything_is_made(tmp_path: Path) -> None:
    for config, part in (
        (dataclasses.replace(KID, features="other"), "no weights for other"),
        (dataclasses.replace(KID, metrics=("is",), num_fake=10), "is needs at least 10 real pictures, got 6"),
    ):
        with pytest.raises(ValueError, match=part):
            go(tmp_path / "run", evaluation=config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="evaluation_share"):
        go(tmp_path / "run", evaluation_share=0.0)


def test_progress_is_told_and_a_shrunk_recipe_scores_few(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    go(tmp_path / "run", tell=told.append)
    working = [line for line in told if "working" in line]
    assert {line["images_seen"] for line in working} == {0, 8, 16}
    assert all(line["done"] <= line["total"] for line in working)
    recipe = tiny_recipe(evaluation=dataclasses.replace(KID, num_fake=2000))
    found = tiny(recipe).training.evaluation
    assert found is not None and found.num_fake == 16
