"""The claims run, at their smallest size, and go on where they stopped; how rows become numbers."""

import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the claims draw their curves with matplotlib, which is not installed")

from claims.__main__ import CLAIMS
from claims.harness import Row, at_end, best, run_claim


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_writes_its_page_and_goes_on_where_it_stopped(name: str, tmp_path: Path) -> None:
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
