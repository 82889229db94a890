"""What is said about a run in words."""

import json
import os
import shlex
from pathlib import Path

import pytest

from frugan.training.summary import duration, hints, memory, next_commands, read_run, verdict


def run_folder(folder: Path, lines: list[dict[str, object]], total: int = 1000) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.json").write_text(json.dumps({"training": {"total_images": total}}))
    return folder


def status(images_seen: int, **more: object) -> dict[str, object]:
    return {"images_seen": images_seen, "seconds": 130.0} | more


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (45, "45 s"), (125, "2 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min"), (273_600, "3 d 4 h")],
)
def test_durations(seconds: int | float, text: str) -> None:
    assert duration(seconds) == text


def test_verdict_of_a_finished_run_names_time_pictures_and_best_score(tmp_path: Path) -> None:
    lines = [status(500, scores={"KID-200": 0.25}), status(1000, scores={"KID-200": 0.5})]
    run = read_run(run_folder(tmp_path, [*lines, {"event": "finished", "images_seen": 1000, "text": ""}]))
    assert run.state == "finished"
    assert verdict(run) == "Finished after 2 min: 1,000 pictures shown. Best KID-200: 0.25, reached at 500."


@pytest.mark.parametrize("kind", ["stopped", "plateau", "failed"])
def test_verdict_says_how_it_ended(tmp_path: Path, kind: str) -> None:
    run = read_run(run_folder(tmp_path, [status(500), {"event": kind, "images_seen": 500, "text": ""}]))
    assert run.state == kind and verdict(run).endswith("500 pictures shown of 1,000 planned.")


def test_a_log_untouched_for_long_means_interrupted(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, [status(500)])
    assert read_run(folder).state == "in progress" and verdict(read_run(folder)).startswith("In progress for 2 min")
    os.utime(folder / "log.jsonl", (1e9, 1e9))
    assert read_run(folder).state == "interrupted" and verdict(read_run(folder)).startswith("Interrupted after")


def test_an_empty_folder_is_not_begun_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    run = read_run(tmp_path)
    assert run.state == "not begun" and verdict(run).startswith("Nothing") and hints(run) == []
    assert run.name == tmp_path.name and run.data == {} and run.total_images is None
    with pytest.raises(FileNotFoundError, match="no run folder"):
        read_run(tmp_path / "absent")


def test_hints_speak_of_learning_by_heart_worse_scores_and_returns(tmp_path: Path) -> None:
    lines = [
        status(10 * index, stats={"real_sign": 0.97}, scores={"KID": 0.1 + 0.01 * index}) for index in range(1, 30)
    ]
    lines.append({"event": "rollback", "images_seen": 290, "text": "collapsed"})
    heart, worse, back = hints(read_run(run_folder(tmp_path, lines)))
    assert "by heart" in heart and "at 10 pictures" in worse and "1 time:" in back
    healthy = [status(10 * index, stats={"real_sign": 0.5}, scores={"KID": 1 / index}) for index in range(1, 30)]
    assert hints(read_run(run_folder(tmp_path, healthy))) == []


def test_next_commands_can_be_pasted() -> None:
    run = Path("/tmp/it's; rm -rf $HOME/x")
    made = ["frugan", "train", "my pictures", "--out", str(run), "--images", "360k"]
    found = dict(next_commands(run, made, "finished"))
    assert shlex.split(found["Make pictures"]) == ["frugan", "sample", str(run), "-n", "64"]
    assert shlex.split(found["Train longer"]) == [*made[:-2], "--images", "+200k"]
    assert shlex.split(next_commands(run, made, "stopped")[0][1]) == made
    assert "Should it stop" in next_commands(run, made, "in progress")[0][0]


@pytest.mark.parametrize("command", ["frugan train a --images=5k", "frugan train a --images 5k", "frugan train a"])
def test_train_longer_replaces_the_number_of_images(command: str) -> None:
    assert dict(next_commands(Path("r"), command, "finished"))["Train longer"] == "frugan train a --images +200k"


def test_odd_commands_do_no_harm() -> None:
    assert len(next_commands(Path("r"), None, "finished")) == 4
    assert next_commands(Path("r"), None, "not begun") == []
    assert next_commands(Path("r"), "frugan train 'open", "stopped")[0][1] == "frugan train ''\"'\"'open'"


@pytest.mark.parametrize(
    ("stats", "words"),
    [
        ({"nearest_neighbour_ratio_16px": 0.1}, ["0.10 times", "copies are likely"]),
        ({"nearest_neighbour_ratio_16px": 1.1}, ["1.10 times", "no sign of copies"]),
        ({"overfitting_r_v": 0.9}, ["90%", "by heart"]),
        ({"overfitting_r_v": 0.1}, ["10%", "does not just learn by heart"]),
        ({"real_sign": 0.1}, []),
    ],
)
def test_memory_says_whether_it_copies(tmp_path: Path, stats: dict[str, float], words: list[str]) -> None:
    text = memory(read_run(run_folder(tmp_path, [status(500, stats=stats)])))
    assert all(word in text for word in words) and bool(text) == bool(words)


def test_a_set_of_which_nothing_was_kept_aside_says_so(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, [status(500)])
    for held_out, is_said in ((0, True), (3, False)):
        (folder / "run.json").write_text(json.dumps({"data": {"held_out": held_out}}))
        assert ("No pictures were kept aside" in memory(read_run(folder))) is is_said
