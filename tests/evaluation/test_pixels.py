"""Scores that need no network, through the evaluator: what is compared, what real pictures score, what is kept."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from frugan.config import from_dict, to_dict
from frugan.data.dataset import Dataset, from_arrays
from frugan.evaluation import EvaluationConfig, Evaluator, Scores
from frugan.evaluation.pictures import Pictures
from frugan.metrics.multiscale import PyramidConfig, mean_similarity
from frugan.model import Model
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from tests.tiny_extractor import TinyExtractor

QUICK = PyramidConfig(patches=12, repeats=1, directions=24)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRUGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(num_classes: int = 0) -> Model:
    torch.manual_seed(0)
    size = {"resolution": 32, "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "mapping_layers": 2}
    return Model(Generator(StyleGAN2Config(num_classes=num_classes, **size)).eval())


def own_pictures(model: Model, count: int, seeds: int = 0) -> Dataset:
    return from_arrays(model.sample(range(seeds, seeds + count)).numpy())


def noise(count: int, seed: int = 0, channels: int = 3) -> Dataset:
    return from_arrays(np.random.default_rng(seed).integers(0, 256, (count, channels, 32, 32), dtype=np.uint8))


def config(*metrics: str, **settings: object) -> EvaluationConfig:
    known = {"num_fake": 24, "pyramid": QUICK} | settings
    return EvaluationConfig(metrics=metrics or ("swd", "ms-ssim"), **known)  # type: ignore[arg-type]


def score(reals: Dataset, fakes: Model | Dataset, *metrics: str, **settings: object) -> Scores:
    return Evaluator(reals, None, config(*metrics, **settings)).score(fakes)


def test_scores_come_with_their_protocol_and_what_reals_score() -> None:
    model = make()
    scores = score(own_pictures(model, 60), model)
    levels = {"SWD-pyramid-32", "SWD-pyramid-16"}
    assert set(scores.values) == set(scores.of_reals) == {"SWD-pyramid", "MS-SSIM", *levels}
    mean = math.fsum(scores.values[name] for name in levels) / 2
    assert scores.values["SWD-pyramid"] == pytest.approx(mean)
    known = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
    assert known["protocol"]["extractor"] is None
    pixels = known["protocol"]["pixels"]
    assert pixels["pyramid"] == dataclasses.asdict(QUICK)
    assert (pixels["pictures"], pixels["floor_pictures"], pixels["descriptors"]) == (24, 24, 24 * 12)
    assert (pixels["pairs"], pixels["real_pairs"]) == (12, 30)
    shown = scores.text()
    for part in ("12 patches of 7 x 7 px in each = 288 a level", "1 x 24 directions", "12 of generated, 30 of real"):
        assert part in shown
    assert shown.count("(reals ") == 4 and "features" not in shown


def test_pictures_of_the_same_kind_come_near_the_floor_and_others_do_not() -> None:
    model = make()
    reals = own_pictures(model, 64)
    near, far = score(reals, own_pictures(model, 32, 900), num_fake=None), score(reals, noise(32), num_fake=None)
    name = "SWD-pyramid"
    assert near.of_reals == far.of_reals
    assert 0 < near.values[name] < 1.3 * near.of_reals[name]
    assert far.values[name] > 1.7 * far.of_reals[name]
    assert near.values["MS-SSIM"] == pytest.approx(near.of_reals["MS-SSIM"], abs=0.1)


def test_similarity_is_that_of_the_pictures_in_their_random_order() -> None:
    fakes = own_pictures(make(), 9)
    found = score(fakes, fakes, "ms-ssim", num_fake=None)
    order = np.random.Generator(np.random.Philox(0)).permutation(9)
    assert found.values["MS-SSIM"] == pytest.approx(mean_similarity([torch.from_numpy(fakes.images[order])])[0])
    assert found.values == found.of_reals


def test_a_small_set_has_halves_for_its_floor() -> None:
    scores = score(noise(11), noise(30, seed=1), "swd", num_fake=None)
    assert scores.protocol.pixels is not None
    assert (scores.protocol.pixels.pictures, scores.protocol.pixels.floor_pictures) == (11, 5)
    assert "5 pictures a side, none on both" in scores.text()


class Counted(Model):
    """Counts what it draws."""

    drawn = 0

    def stream(self, seeds, *words, **names):  # type: ignore[no-untyped-def]
        for part in super().stream(seeds, *words, **names):
            Counted.drawn += len(part)
            yield part


def test_pictures_are_drawn_once_and_scores_kept_by_content(cache: Path) -> None:
    data = noise(30)
    asked = config("swd", "ms-ssim", "kid")
    Counted.drawn = 0
    scores = Evaluator(data, TinyExtractor(), asked).score(Counted(make().generator))
    assert Counted.drawn == 24
    assert len(list((cache / "scores").iterdir())) == 4
    again = Evaluator(data, TinyExtractor(), asked).score(Counted(make().generator))
    assert Counted.drawn == 24
    assert (again.values, again.of_reals) == (scores.values, scores.of_reals)
    for changed in ({"seed": 1}, {"psi": 0.5}, {"num_fake": 22}, {"pyramid": PyramidConfig(patches=13)}):
        Counted.drawn = 0
        other = Evaluator(data, None, config("swd", **changed)).score(Counted(make().generator))
        assert Counted.drawn > 0 and other.values["SWD-pyramid"] != scores.values["SWD-pyramid"], changed


def test_nothing_is_kept_of_a_model_that_trains_on(cache: Path) -> None:
    model = make()
    evaluator = Evaluator(noise(30), None, config())
    first = evaluator.score(model, is_lasting=False)
    with torch.no_grad():
        model.generator.mapping.fc0.weight.mul_(0.1)
    second = evaluator.score(model, is_lasting=False)
    assert first.values != second.values and first.of_reals == second.of_reals
    assert len(list((cache / "scores").iterdir())) == 2


def test_grey_pictures_classes_and_the_random_state() -> None:
    assert score(noise(20, channels=1), noise(24, seed=1, channels=1)).values["SWD-pyramid"] > 0
    model = make(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    labelled = from_arrays(noise(30).images, [2] * 30, ["a", "b", "c"])
    assert score(labelled, model).values["SWD-pyramid"] != score(noise(30), model).values["SWD-pyramid"]
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


def test_held_pictures_are_those_drawn() -> None:
    passes = []

    def draw():  # type: ignore[no-untyped-def]
        passes.append(0)
        return iter(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).split(4))

    held = Pictures(draw, 10, None, is_held=True)
    for count, wanted in ((6, 6), (None, 10), (None, 10), (7, 7)):
        assert torch.cat(list(held.batches(count))).flatten().tolist() == list(range(wanted))
    assert len(passes) == 2
    loose = Pictures(draw, 10, None)
    assert [len(list(loose.batches())), len(list(loose.batches()))] == [3, 3] and len(passes) == 4


def test_settings_survive_a_recipe_and_say_whether_a_network_is_needed() -> None:
    asked = config("swd")
    assert from_dict(EvaluationConfig, to_dict(asked)) == asked
    old = {key: value for key, value in to_dict(asked).items() if key != "pyramid"}
    assert from_dict(EvaluationConfig, old).pyramid == PyramidConfig()
    assert not asked.needs_features and config("swd", "kid").needs_features


@pytest.mark.parametrize(
    ("act", "part"),
    [
        (lambda: Evaluator(noise(9), None, config("kid")), "a feature network is needed"),
        (lambda: Evaluator(noise(1), None, config("swd")), "swd needs at least 2 real pictures, got 1"),
        (lambda: config("ms-ssim", num_fake=1), "ms-ssim needs at least 2 generated pictures, got 1"),
        (
            lambda: Evaluator(from_arrays(np.zeros((9, 3, 8, 8), np.uint8)), None, config("ms-ssim")),
            "at least 16 px, got 8 px",
        ),
        (lambda: Evaluator(from_arrays(np.zeros((9, 3, 4, 4), np.uint8)), None, config("swd")), "at least 7 px"),
    ],
)
def test_mistakes_say_what_is_allowed(act: object, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        act()  # type: ignore[operator]
