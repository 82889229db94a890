"""The log of a run, read back: supersession, torn lines, best scores."""

import json
from pathlib import Path

import pytest

from frugan.training.history import Series, read_facts, read_history, sample_grids, spread


def write_log(path: Path, lines: list[dict[str, object]], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return path


def status(images_seen: int, loss: float, **more: object) -> dict[str, object]:
    return {"images_seen": images_seen, "seconds": images_seen / 10, "losses": {"d": loss}} | more


def test_reads_series_events_and_totals(tmp_path: Path) -> None:
    lines = [
        status(10, 1.0, images_per_second=3.5, stats={"real_sign": 0.5}, progress={"resolution": 8, "phase": "fade"}),
        {"event": "resumed", "images_seen": 10, "text": "again"},
        status(20, 0.5, scores={"KID": 0.1}),
    ]
    history = read_history(write_log(tmp_path / "log.jsonl", lines))
    assert history.series["losses"]["d"] == Series([10.0, 20.0], [1.0, 0.5])
    assert history.group("speed")["images_per_second"].y == [3.5]
    assert history.group("progress").keys() == {"resolution"} and history.group("nothing") == {}
    assert (history.images_seen, history.seconds, history.lines, history.unreadable_lines) == (20, 2.0, 3, 0)
    assert [(event.kind, event.images_seen, event.text) for event in history.events] == [("resumed", 10, "again")]


def test_a_repeated_stretch_takes_the_place_of_the_first_try(tmp_path: Path) -> None:
    lines = [status(10, 1.0), status(20, 9.0), status(30, 9.0), {"event": "rollback", "images_seen": 10, "text": ""}]
    history = read_history(write_log(tmp_path / "log.jsonl", [*lines, status(15, 2.0), status(20, 3.0)]))
    assert history.series["losses"]["d"] == Series([10.0, 15.0, 20.0], [1.0, 2.0, 3.0])
    assert history.images_seen == 20


def test_two_lines_at_one_place_complete_each_other(tmp_path: Path) -> None:
    lines = [status(10, 1.0), {"images_seen": 10, "scores": {"FID": 5.0}}]
    history = read_history(write_log(tmp_path / "log.jsonl", lines))
    assert history.series["losses"]["d"].y == [1.0] and history.series["scores"]["FID"].y == [5.0]


def test_torn_and_foreign_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    tail = '[1]\n"text"\n{"losses": {"d": 3}}\n\n{"images_seen": 30, "losses": {"d": '
    history = read_history(write_log(tmp_path / "log.jsonl", [status(10, 1.0)], tail))
    assert (history.images_seen, history.unreadable_lines) == (10, 4)
    (tmp_path / "log.jsonl").write_bytes(
        b"\xff\xfe\n" + b"[" * 100_000 + b"\n" + b'{"images_seen": 1' + b"0" * 5000 + b"}"
    )
    assert read_history(tmp_path / "log.jsonl").unreadable_lines == 3
    assert read_history(tmp_path / "absent.jsonl").lines == 0


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null", '"0.5"', "true", "[1]", "1" + "0" * 400])
def test_values_that_are_no_numbers_are_left_out(tmp_path: Path, value: str) -> None:
    path = write_log(tmp_path / "log.jsonl", [], f'{{"images_seen": 5, "losses": {{"d": {value}, "g": 1}}}}\n')
    assert read_history(path).series["losses"].keys() == {"g"}


@pytest.mark.parametrize(("kind", "ended"), [("finished", "finished"), ("stopped", "stopped"), ("rollback", None)])
def test_how_it_ended_is_the_last_word(tmp_path: Path, kind: str, ended: str | None) -> None:
    event: dict[str, object] = {"event": kind, "images_seen": 10, "text": ""}
    assert read_history(write_log(tmp_path / "a", [status(10, 1.0), event])).ended == ended
    resumed: dict[str, object] = {"event": "resumed", "images_seen": 10, "text": ""}
    assert read_history(write_log(tmp_path / "c", [status(10, 1.0), event, resumed])).ended == ended
    assert read_history(write_log(tmp_path / "b", [status(10, 1.0), event, status(20, 1.0)])).ended is None


def test_best_scores_know_their_direction_and_put_kid_first(tmp_path: Path) -> None:
    scores = [{"FID": 9.0, "KID-1k": 0.2, "precision": 0.1}, {"FID": 5.0, "KID-1k": 0.1, "precision": 0.4}]
    lines = [status(10 * index, 1.0, scores=score) for index, score in enumerate([*scores, scores[0]], start=1)]
    kid, *rest = read_history(write_log(tmp_path / "a", lines)).best_scores()
    assert (kid.name, kid.value, kid.images_seen, kid.last) == ("KID-1k", 0.1, 20, 0.2)
    assert kid.loss_since == pytest.approx(1.0)
    precision = next(best for best in rest if best.name == "precision")
    assert (precision.value, precision.images_seen) == (0.4, 20) and precision.loss_since == pytest.approx(0.75)


def test_buckets_keep_mean_and_extremes() -> None:
    series = Series(list(map(float, range(10))), [0.0, 2.0] * 5)
    assert series.buckets(5) == [(2 * index + 0.5, 1.0, 0.0, 2.0) for index in range(5)]
    assert series.buckets(100) == [(x, y, y, y) for x, y in zip(series.x, series.y, strict=True)]
    assert len(series.buckets(3)) == 3 and Series().buckets(5) == []


def test_facts_of_broken_files_are_empty(tmp_path: Path) -> None:
    for index, text in enumerate(['{"a": 1}', '{"a": ', "[1]", ""]):
        (tmp_path / f"{index}.json").write_text(text)
    assert [read_facts(tmp_path / f"{index}.json") for index in range(5)] == [{"a": 1}, {}, {}, {}, {}]
    assert read_facts(tmp_path) == {}


def test_sample_grids_come_in_the_order_of_training(tmp_path: Path) -> None:
    (tmp_path / "grids").mkdir()
    for name in ("fakes-000000100.png", "fakes-000000020.png", "fakes-x.png", "reals.png", "fakes-1.png.part"):
        (tmp_path / "grids" / name).touch()
    assert [seen for seen, _ in sample_grids(tmp_path)] == [20, 100]
    assert sample_grids(tmp_path / "absent") == []


def test_spread_keeps_both_ends_and_is_denser_at_the_start() -> None:
    assert spread(5, 24) == [0, 1, 2, 3, 4] and spread(0, 24) == []
    assert all(len(spread(count, 24)) == 24 for count in range(24, 100))
    chosen = spread(1000, 24)
    assert chosen[0] == 0 and chosen[-1] == 999 and len(chosen) == 24
    assert chosen[5] - chosen[4] < chosen[20] - chosen[19]
