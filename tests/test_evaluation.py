"""Scores with their protocol: the same pictures each time, told apart from worse ones."""

import numpy as np
import pytest
import torch

from frugan.data.dataset import Dataset, from_arrays
from frugan.evaluation import PIXEL_SWD, quick_score
from frugan.model import Model
from frugan.models.stylegan2 import Generator, StyleGAN2Config


def make(num_classes: int = 0) -> Model:
    torch.manual_seed(0)
    size = {"resolution": 8, "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "mapping_layers": 2}
    return Model(Generator(StyleGAN2Config(num_classes=num_classes, **size)).eval())


def own_pictures(model: Model, count: int, seeds: int = 0) -> Dataset:
    return from_arrays(model.sample(range(seeds, seeds + count)).numpy())


def test_a_score_is_repeatable_and_leaves_the_random_state_alone() -> None:
    model = make()
    data = own_pictures(model, 20)
    before = torch.get_rng_state()
    first, second = quick_score(model, data, 12), quick_score(model, data, 12)
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)
    assert first.protocol["reals"] == first.protocol["fakes"] == 12
    assert quick_score(model, data, 99).protocol["reals"] == 20


def test_pictures_of_the_same_kind_score_better_than_others() -> None:
    model = make()
    noise = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), dtype=np.uint8)
    near = quick_score(model, own_pictures(model, 64), 64).scores[PIXEL_SWD]
    far = quick_score(model, from_arrays(noise), 64).scores[PIXEL_SWD]
    assert 0 < near < 0.5 * far
    assert quick_score(model, own_pictures(model, 64, seeds=10_000), 64).scores[PIXEL_SWD] == pytest.approx(0, abs=1e-6)


def test_spread_tells_a_collapse() -> None:
    model = make()
    data = own_pictures(model, 32)
    varied = quick_score(model, data, 32)
    with torch.no_grad():
        model.generator.mapping.fc0.weight.zero_()  # every latent gives the same w
    alike = quick_score(model, data, 32)
    assert alike.fake_spread < 1e-3 < varied.fake_spread
    assert alike.real_spread == varied.real_spread


def test_fakes_have_the_classes_of_the_reals(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(num_classes=3)
    images = np.zeros((7, 3, 8, 8), dtype=np.uint8)
    data = from_arrays(images, [2, 2, 0, 2, 2, 2, 2], ["a", "b", "c"])
    asked: list[int] = []
    sample = Model.sample

    def noting(self: Model, seeds: range, **keywords: object) -> torch.Tensor:
        asked.extend(keywords["classes"])  # type: ignore[call-overload]
        return sample(self, seeds, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "sample", noting)
    quick_score(model, data, 7)
    assert sorted(asked) == [0, 2, 2, 2, 2, 2, 2]
