"""The first losses of every recipe, tiny: a refactor may not move them (`--update-golden` accepts a change).

The numbers hold to 1e-5 on the instruction set they were made with. Others round differently, and Adam's first steps,
of the size of the learning rate whatever the gradient, magnify that: measured up to 1.2e-3 between AVX2 and SSE.
"""

import json
from pathlib import Path

import pytest
import torch

from frugan.recipes import RECIPES
from frugan.recipes.auto import _Silent
from frugan.training.feed import open_feeds
from frugan.training.loop import Loop
from frugan.training.ranks import Ranks
from frugan.training.recipe import tiny
from frugan.training.run import fit
from tests.training.tiny_tasks import noise_for

GOLDEN = Path(__file__).parents[1] / "golden"
ITERATIONS = 5


def losses(name: str) -> list[dict[str, float]]:
    small = tiny(RECIPES[name]())
    data = noise_for(small)
    recipe = fit(small, data)
    torch.manual_seed(0)
    task = recipe.task.build(data, recipe.training.batch)
    ranks = Ranks(0, 1, torch.device("cpu"))
    loop = Loop(
        task,
        recipe.optimisers,
        recipe.training,
        open_feeds(data, 0, ranks.device),
        ranks,
        _Silent(),
    )
    found = []
    for _ in range(ITERATIONS):
        stats = loop.iterate()
        found.append({key: float(value) for key, value in sorted(stats.items()) if "/" in key})
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_first_losses(name: str, pytestconfig: pytest.Config) -> None:
    path = GOLDEN / f"{name}.json"
    found, instructions = losses(name), torch.backends.cpu.get_cpu_capability()
    if pytestconfig.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"instructions": instructions, "losses": found}, indent=1) + "\n")
    golden = json.loads(path.read_text())
    tolerance = 1e-5 if golden["instructions"] == instructions else 5e-3
    assert len(found) == len(golden["losses"])
    for ours, stored in zip(found, golden["losses"], strict=True):
        assert ours.keys() == stored.keys()
        for key, value in ours.items():
            assert value == pytest.approx(stored[key], rel=tolerance, abs=1e-6), key
