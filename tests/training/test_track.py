"""What a tracker gets."""

from pathlib import Path
from typing import Any

import pytest

from frugan.training.run import Start, train
from frugan.training.track import TensorBoard, together
from tests.training.tiny_runs import tiny_data, tiny_recipe

pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(item.step, item.value) for item in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_the_numbers_of_the_log_through_a_stop_and_a_restart(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    for total in (8, 16):
        tell = together(told.append, TensorBoard(tmp_path / "board"))
        train(tmp_path / "run", tiny_recipe(total_images=total), tiny_data(), Start(device="cpu", tell=tell))
    found = scalars(tmp_path / "board")
    wanted = {line["images_seen"]: line["scores"]["SWD-16px"] for line in told if "scores" in line}
    assert dict(found["scores/SWD-16px"]) == pytest.approx(wanted)
    wanted = {line["images_seen"]: line["losses"]["generator/loss"] for line in told if "losses" in line}
    assert dict(found["losses/generator/loss"]) == pytest.approx(wanted)
    assert [step for step, _ in found["speed/memory_mb"]] == sorted({step for step, _ in found["speed/memory_mb"]})


def test_what_lies_beyond_the_point_of_return_is_void(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path)
    for step in (0, 8, 16):
        first({"images_seen": step, "scores": {"x": float(step)}})
    second = TensorBoard(tmp_path)
    second({"event": "resumed", "images_seen": 8, "text": "going on from 8 images"})
    second({"images_seen": 16, "scores": {"x": 160.0}})
    assert scalars(tmp_path)["scores/x"] == [(0, 0.0), (8, 8.0), (16, 160.0)]
