"""The claims run, at their smallest size, and go on where they stopped; how rows become numbers."""

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib", reason="the claims draw their curves with matplotlib, which is not installed")

from claims import growing, labelled, progan_parts, reacgan, stacked
from claims.__main__ import CLAIMS, main
from claims.harness import ERROR, Row, _aside_table, _seconds, _table, _Watch, at_end, best, run_claim, within
from claims.measures import clearly_below, of_baseline, paired_scores


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_writes_its_page_and_goes_on_where_it_stopped(name: str, tmp_path: Path) -> None:
    if name == progan_parts.CLAIM.name:
        pytest.importorskip("sklearn", reason="the stacked digits are scikit-learn's, which is not installed")
    work, results = tmp_path / "work", tmp_path / "results"
    said: list[str] = []
    finding = run_claim(CLAIMS[name], "smoke", work, results, said.append)
    assert finding.verdict == "not decided"
    arms = {trial.arm for trial in CLAIMS[name].trials("smoke")}
    page = (results / f"{name}-smoke.md").read_text()
    assert all(f"| {arm} |" in page for arm in arms) and CLAIMS[name].source in page
    facts = json.loads((results / f"{name}-smoke.json").read_text())
    assert {row["arm"] for row in facts["rows"]} == arms
    for picture in (f"{name}-smoke.png", f"{name}-smoke-samples.png"):
        assert (results / picture).stat().st_size > 1000
    again: list[str] = []
    run_claim(CLAIMS[name], "smoke", work, results, again.append)
    assert not any(" at " in line and ": KID" in line for line in again), "nothing is measured twice"
    assert json.loads((results / f"{name}-smoke.json").read_text())["rows"] == facts["rows"]


def rows(*found: tuple[str, int, int, float]) -> list[Row]:
    return [Row(arm=arm, seed=seed, images_seen=seen, measures={"x": value}) for arm, seed, seen, value in found]


def test_arms_are_compared_after_the_images_that_all_have_seen() -> None:
    table = rows(("a", 0, 10, 5.0), ("a", 0, 20, 4.0), ("a", 1, 10, 7.0), ("b", 0, 10, 1.0), ("b", 0, 20, 9.0))
    assert at_end(table, "a", "x") == [5.0, 7.0] and at_end(table, "b", "x") == [1.0]
    assert best(table, "a", "x") == [4.0, 7.0] and best(table, "b", "x") == [1.0]


def timed(*found: tuple[str, int, float, float]) -> list[Row]:
    return [
        Row(arm=arm, seed=seed, images_seen=int(100 * seconds), seconds=seconds, measures={"x": value})
        for arm, seed, seconds, value in found
    ]


def test_arms_are_compared_up_to_the_time_that_all_trainings_reached() -> None:
    table = timed(("a", 0, 10, 5.0), ("a", 0, 30, 4.0), ("b", 0, 5, 9.0), ("b", 0, 20, 2.0), ("b", 0, 25, 1.0))
    assert at_end(table, "a", "x", "seconds") == [5.0] and at_end(table, "b", "x", "seconds") == [1.0]
    assert [row.seconds for row in within(table, "seconds")] == [10, 5, 20, 25]


def test_the_time_to_a_target_lies_between_two_measurements() -> None:
    table = timed(("a", 0, 10, 8.0), ("a", 0, 20, 4.0), ("a", 0, 30, 6.0), ("a", 1, 10, 3.0), ("a", 2, 10, 7.0))
    assert growing.reached(table, "a", "x", 5.0) == [17.5, 10.0, float("inf")]


def test_time_is_that_of_each_stage_at_its_own_pace(tmp_path: Path) -> None:
    recipe = growing.small(16)  # 2,000 images at 4 px, as many while 8 px fade in, 2,000 at 8 px and so on
    pace = {"4 px": (100.0, 1.0), "8 px fading in": (100.0, 2.0), "8 px": (50.0, 1.0)}
    assert _seconds(recipe, 1600, pace) == pytest.approx(16.0)
    assert _seconds(recipe, 4000, pace) == pytest.approx(20 + 40, rel=0.01)
    assert _seconds(recipe, 1600, {}) == 0.0
    assert _seconds(recipe, 3200, {"16 px": (10.0, 1.0)}) == pytest.approx(320.0)  # the only pace known


def test_a_watch_counts_between_two_lines_of_one_stage_only(tmp_path: Path) -> None:
    def line(seen: int, resolution: int, alpha: float) -> dict[str, object]:
        progress = {"resolution": resolution, "alpha": alpha}
        return {"images_seen": seen, "images_per_second": 1.0, "progress": progress}

    told: list[dict[str, object]] = []
    watch = _Watch(tmp_path / "pace.json", told.append)
    for part in (line(0, 4, 1.0), line(16, 4, 1.0), {"scores": {}, "images_seen": 16}, line(32, 4, 1.0)):
        watch.tell(part)
    for part in (line(48, 4, 1.0), line(64, 8, 0.5), line(96, 8, 0.75)):
        watch.tell(part)
    sums = json.loads((tmp_path / "pace.json").read_text())
    assert {stage: images for stage, (images, _) in sums.items()} == {"4 px": 32, "8 px fading in": 32}
    assert len(told) == 7 and all(seconds >= 0 for _, seconds in sums.values())
    again = _Watch(tmp_path / "pace.json", told.append)
    for part in (line(96, 8, 0.75), line(128, 8, 0.9)):
        again.tell(part)
    assert json.loads((tmp_path / "pace.json").read_text())["8 px fading in"][0] == 64


def test_stacked_digits_are_read_back_mode_by_mode() -> None:
    pytest.importorskip("sklearn", reason="the stacked digits are scikit-learn's, which is not installed")
    reals = stacked.stacked(2000, 16)
    assert reals.images.shape == (2000, 3, 16, 16) and not reals.flip
    assert stacked.classifier(16)[1] > 0.95
    found = stacked.recovered(reals.batch(range(2000)))
    assert 800 < found["modes"] <= 1000 and 0 < found["KL of modes"] < 0.5
    one = stacked.recovered(reals.batch([7] * 100))
    assert one["modes"] == 1 and one["KL of modes"] == pytest.approx(math.log(1000))


def test_errors_over_pictures_stand_behind_their_values() -> None:
    found = {"x": 4.0, f"x{ERROR}": 0.25}
    one = [Row(arm="a", seed=0, images_seen=10, measures=found)]
    assert "| arm | seeds | x |" in _table(growing.CLAIM, one) and "| a | 1 | 4 ± 0.25 |" in _table(growing.CLAIM, one)
    assert "standard error over pictures" in _table(growing.CLAIM, one)
    two = [*one, Row(arm="a", seed=1, images_seen=10, measures={"x": 6.0, f"x{ERROR}": 0.25})]
    assert "| a | 2 | 5 ± 1.4 |" in _table(growing.CLAIM, two)
    aside = of_baseline(found, "nothing done")
    assert "| x of nothing done | 4 ± 0.25 |" in _aside_table(aside) and ERROR not in _aside_table(aside)
    assert not clearly_below({"x": 3.4, f"x{ERROR}": 0.25}, aside, "x", "nothing done")
    assert clearly_below({"x": 3.2, f"x{ERROR}": 0.25}, aside, "x", "nothing done")


def test_pictures_are_held_against_those_that_should_have_come_out() -> None:
    wanted = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    same = paired_scores(wanted, wanted, "smoke")
    assert same["paired L1"] == same["paired pixels distance"] == 0 and same["nearest is its own, %"] == 100
    others = paired_scores(wanted.roll(1, dims=0), wanted, "smoke")
    assert others["nearest is its own, %"] == 0 and others["paired L1"] > 0.2 and others[f"paired L1{ERROR}"] > 0
    assert others["KID-pixels x1000"] == pytest.approx(same["KID-pixels x1000"])


def test_an_arm_without_a_measure_has_a_dash() -> None:
    both = [*rows(("a", 0, 10, 5.0)), Row(arm="b", seed=0, images_seen=10, measures={"x": 1.0, "y": 2.0})]
    assert at_end(both, "a", "y") == [] and at_end(both, "b", "y") == [2.0]
    table = _table(growing.CLAIM, both)
    assert "| arm | seeds | x | y |" in table and "| a | 1 | 5 | – |" in table and "| b | 1 | 1 | 2 |" in table


def test_a_slope_is_that_of_the_line_through_an_arm() -> None:
    table = rows(("a", 0, 10_000, 5.0), ("a", 0, 20_000, 7.0), ("a", 0, 30_000, 9.0), ("b", 0, 10_000, 1.0))
    assert reacgan.slope(table, "a", "x") == pytest.approx(2.0) and reacgan.slope(table, "b", "x") == 0.0


def test_classes_are_read_off_pictures() -> None:
    learned, _ = labelled.CLOTHES.sets("smoke")
    assert learned.num_classes == 9 and learned.labels is not None
    wanted = torch.from_numpy(learned.labels[:40])
    found = labelled.classes(learned.batch(range(40)), wanted, "smoke", labelled.CLOTHES)
    read = found[labelled.ACCURACY]
    assert 0 <= read <= 100 and 1 <= found["IS by the reader"] <= 9
    one = labelled.classes(learned.batch([3] * 40), wanted, "smoke", labelled.CLOTHES)
    assert one["IS by the reader"] == pytest.approx(1.0)


def test_one_trial_is_trained_alone_and_the_rest_by_the_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> None:
        places = ("--work", str(tmp_path / "work"), "--results", str(tmp_path / "results"))
        monkeypatch.setattr("sys.argv", ["claims", *arguments, *places])
        main()

    run("reacgan-kinds", "--size", "smoke", "--trial", "projection-seed0")
    assert [path.name for path in (tmp_path / "work" / "reacgan-kinds" / "smoke").iterdir()] == ["projection-seed0"]
    assert not (tmp_path / "results").exists() and "at " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("reacgan-kinds", "--size", "smoke", "--trial", "projection")
    assert "the trials ACGAN-seed0, projection-seed0, " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("growing", "--size", "gpu")
    assert "growing has the sizes smoke, cpu, full, not gpu" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if "gpu" in claim.sizes])
def test_a_size_for_a_card_says_what_it_does(name: str) -> None:
    """Without its sets, which are built aside: the words alone."""
    page = CLAIMS[name].protocol("gpu")
    assert "{" not in page and ("128 px" in page if name == "pix2pix" else "at 32 px" in page)
