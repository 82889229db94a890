"""Whole trainings in a second or less, here or by `python -m tests.training.tiny_runs FOLDER TOTAL`."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from frugan import checkpoint
from frugan.data import Dataset
from frugan.data.pictures import DataConfig
from frugan.evaluation import PIXEL_SWD, Evaluation
from frugan.training import run as run_module
from frugan.training.recipe import AdamConfig, EmaConfig, Recipe, TrainingConfig
from frugan.training.run import Start, train
from frugan.training.tasks.adversary import R1Config
from frugan.training.tasks.gan import GanConfig
from tests.training.tiny_tasks import gan_config, pictures


def tiny_recipe(task: GanConfig | None = None, **training: Any) -> Recipe:
    """A 4 px training with lazy R1: a snapshot each 8 images, a checkpoint in every iteration of 4."""
    base: dict[str, Any] = {
        "batch": 4,
        "total_images": 16,
        "snapshot_images": 8,
        "checkpoint_seconds": 0.0,
        "status_seconds": 0.0,
        "precision": "fp32",
        "ema": EmaConfig(halflife_images=50.0),
        "grid_columns": 2,
        "grid_rows": 1,
        "score_images": 4,
    }
    chosen = task or gan_config(4, r1=R1Config(gamma=1.0, every=2))
    adam = AdamConfig(lr=0.002)
    return Recipe(
        name="tiny",
        source="made up",
        data={"images": DataConfig(resolution=chosen.generator.resolution)},
        task=chosen,
        optimisers={"generator": adam, "discriminator": adam},
        training=TrainingConfig(**(base | training)),
    )


def tiny_data(seed: int = 0) -> dict[str, Dataset]:
    """Six pictures."""
    return {"images": pictures(6, 4, seed=seed)}


def final_weights(run: Path) -> checkpoint.Parts:
    """Everything in the newest checkpoint of a run."""
    return checkpoint.load(checkpoint.list_checkpoints(run / "checkpoints")[-1]).parts


def assert_same_end(a: Path, b: Path) -> None:
    """Two runs ended at the same point in the same state, bit for bit."""
    first, second = (checkpoint.list_checkpoints(run / "checkpoints")[-1] for run in (a, b))
    assert first.name == second.name
    parts, others = final_weights(a), final_weights(b)
    assert parts.keys() == others.keys()
    for part, tensors in parts.items():
        assert tensors.keys() == others[part].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, others[part][name]), (part, name)
    states = [checkpoint.read_info(path)["loop"] for path in (first, second)]
    for state in states:
        del state["progress"]["seconds"]
    assert states[0] == states[1]


def main() -> None:
    """Train, saying every line of the log."""
    torch.set_num_threads(1)
    folder, total = sys.argv[1:]

    def tell(line: dict[str, Any]) -> None:
        print(line.get("event", ""), line.get("images_seen"), flush=True)

    outcome = train(
        Path(folder),
        tiny_recipe(total_images=int(total)),
        tiny_data(),
        Start(device="cpu", tell=tell),
    )
    print(f"outcome: {outcome.reason}", flush=True)


def spreads(monkeypatch: pytest.MonkeyPatch, values: dict[int, list[tuple[float, float]]]) -> None:
    """Let the n-th evaluation after so many images find (score, spread of the fakes)."""
    calls: list[int] = []
    seen: list[int] = []
    look = run_module.Journal._look

    def noting(self: Any, loop: Any, published: Any) -> dict[str, float]:
        seen.append(loop.progress.images_seen)
        return look(self, loop, published)

    def score(*_: Any, **__: Any) -> Evaluation:
        calls.append(seen[-1])
        score, spread = values[seen[-1]][min(calls.count(seen[-1]), len(values[seen[-1]])) - 1]
        return Evaluation(
            scores={PIXEL_SWD: score}, protocol={}, fake_spread=spread, real_spread=0.2, nearest_neighbour_ratio=None
        )

    monkeypatch.setattr(run_module.Journal, "_look", noting)
    monkeypatch.setattr(run_module, "quick_score", score)


if __name__ == "__main__":
    main()
