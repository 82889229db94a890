"""Pictures kept aside and what the discriminator gives away about them."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from frugan.data.dataset import Dataset, to_float
from frugan.model import Model
from frugan.models.stylegan2 import Generator
from frugan.training.held_out import FEWEST_PICTURES, MOST_HELD, hold_out, overfitting
from frugan.training.run import Start, train
from tests.training.tiny_runs import final_weights, tiny_recipe
from tests.training.tiny_tasks import gan_config, pictures


def test_a_share_is_kept_aside_and_nothing_is_in_both() -> None:
    data = {"images": pictures(40, 4)}
    learned, held = hold_out(data, 0.1)
    assert (len(learned["images"]), len(held["images"])) == (36, 4)
    assert set(learned["images"].names).isdisjoint(held["images"].names)


def test_streams_with_the_same_names_lose_the_same_pictures() -> None:
    source, target = pictures(40, 4, seed=1), pictures(40, 4, seed=2)
    _, held = hold_out({"source": source, "target": target}, 0.2)
    assert held["source"].names == held["target"].names


@pytest.mark.parametrize(("count", "share"), [(FEWEST_PICTURES - 1, 0.5), (100, 0.0)])
def test_small_sets_and_share_zero_stay_whole(count: int, share: float) -> None:
    data = {"images": pictures(count, 4)}
    learned, held = hold_out(data, share)
    assert learned["images"] is data["images"] and held == {}


def test_large_sets_lose_a_bounded_number() -> None:
    _, held = hold_out({"images": pictures(6000, 4)}, 0.5)
    assert len(held["images"]) == MOST_HELD


class Memory(nn.Module):
    """A discriminator that knows a set by heart: 1 for its pictures, -1 for all others."""

    def __init__(self, known: Dataset) -> None:
        super().__init__()
        self.known = {picture.tobytes() for picture in to_float(torch.from_numpy(known.images)).numpy()}

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return torch.tensor([1.0 if image.numpy().tobytes() in self.known else -1.0 for image in images])


def test_learning_by_heart_has_r_v_one_and_knowing_all_reals_has_r_v_zero() -> None:
    whole = pictures(40, 4)
    learned, held = hold_out({"images": whole}, 0.2)
    generator = Generator(gan_config(4).generator).eval()
    by_heart = Model(generator, Memory(learned["images"]))
    found = overfitting(by_heart, learned["images"], held["images"], 4)
    assert found == {
        "training_logits": 1.0,
        "held_out_logits": -1.0,
        "generated_logits": -1.0,
        "overfitting_r_v": 1.0,
    }
    fair = Model(generator, Memory(whole))
    assert overfitting(fair, learned["images"], held["images"], 4)["overfitting_r_v"] == 0.0
    blind = Model(generator, Memory(pictures(2, 4, seed=9)))
    assert "overfitting_r_v" not in overfitting(blind, learned["images"], held["images"], 4)
    assert overfitting(Model(generator, None), learned["images"], held["images"], 4) == {}


def test_a_run_learns_from_the_rest_only_and_says_how_it_overfits(tmp_path: Path) -> None:
    data = {"images": pictures(24, 4)}
    recipe = tiny_recipe(hold_out=0.25)
    train(tmp_path / "run", recipe, data, Start(device="cpu"))
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["data"]["count"] == 24 and facts["data"]["held_out"] == 6
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all("overfitting_r_v" in line["stats"] for line in lines if "scores" in line)
    assert "kept aside" in (tmp_path / "run" / "report.html").read_text()

    learned, _ = hold_out(data, 0.25)
    train(tmp_path / "rest", dataclasses.replace(recipe, training=tiny_recipe().training), learned, Start(device="cpu"))
    parts, others = final_weights(tmp_path / "run"), final_weights(tmp_path / "rest")
    assert parts.keys() == others.keys() and "ema.generator" in parts
    for name, tensors in parts.items():
        assert all(torch.equal(tensor, others[name][key]) for key, tensor in tensors.items())
