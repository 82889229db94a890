"""The way of a growing run, as the report's chart and the captions tell it."""

import json
from pathlib import Path

import pytest

from frugan.training.history import read_history
from frugan.training.report import write_progress_video, write_report
from frugan.training.timeline import caption, growth_chart, growth_level
from tests.training.test_report import Page, make_run

WAY = [(40, 4, 1.0), (80, 4, 1.0), (120, 8, 0.2), (160, 8, 0.6), (220, 8, 1.0), (300, 16, 0.5)]


def log(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def grown(path: Path) -> Path:
    return log(path, [{"images_seen": n, "progress": {"resolution": r, "alpha": a}} for n, r, a in WAY])


@pytest.mark.parametrize(
    ("images_seen", "told"),
    [
        *[(0, "4 px"), (40, "4 px"), (100, "4 px"), (120, "8 px, 20% in"), (140, "8 px, 40% in"), (220, "8 px")],
        *[(250, "8 px"), (300, "16 px, 50% in"), (10_000, "16 px, 50% in")],
    ],
)
def test_captions_tell_how_far_it_had_grown(tmp_path: Path, images_seen: int, told: str) -> None:
    assert caption(read_history(grown(tmp_path / "log.jsonl")), images_seen) == f" · {told}"


def test_levels_rise_from_size_to_size(tmp_path: Path) -> None:
    history = read_history(grown(tmp_path / "log.jsonl"))
    levels = [growth_level(history, n) for n in range(0, 320, 10)]
    assert levels == sorted(levels, key=float) and levels[0] == 2 and levels[-1] == pytest.approx(3.5)
    figure = growth_chart(history)
    for level in ("4 px", "8 px", "16 px"):
        assert f'text-anchor="end">{level}</text>' in figure
    assert "<output>16 px, 50% in</output>" in figure


@pytest.mark.parametrize(
    "progress", [None, {"resolution": 8}, {"resolution": 12, "alpha": 1.0}, {"resolution": 0, "alpha": 1.0}, {"p": 0.1}]
)
def test_a_run_that_does_not_grow_has_no_timeline(tmp_path: Path, progress: dict[str, float] | None) -> None:
    lines = [{"images_seen": n, **({} if progress is None else {"progress": progress})} for n in (10, 20)]
    history = read_history(log(tmp_path / "log.jsonl", lines))
    assert growth_chart(history) == "" and caption(history, 10) == "" and growth_level(history, 10) is None


def test_report_and_film_show_each_size(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    plain = Page(write_report(run)).text
    assert "Growth" not in plain
    without = write_progress_video(run).read_bytes()
    grown(run / "log.jsonl")
    page = Page(write_report(run))
    assert "Growth" in page.text and "Schedule: alpha" not in page.text
    captions = [link["data-caption"] for link in page.named("a") if "data-caption" in link]
    assert captions == [
        *("after 0 pictures · 4 px", "after 100 pictures · 4 px"),
        *("after 200 pictures · 8 px, 87% in", "after 300 pictures · 16 px, 50% in"),
    ]
    assert write_progress_video(run).read_bytes() != without
