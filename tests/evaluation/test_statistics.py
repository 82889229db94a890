"""Scores of a model by other statistics of batches than its own."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from frugan.data.dataset import Dataset, from_arrays
from frugan.evaluation import EvaluationConfig, Evaluator
from frugan.evaluation.statistics import BatchStatistics, normalised_by
from frugan.model import Model
from frugan.models.biggan import BigGANConfig, BigGANGenerator
from frugan.models.standing import StandingStatistics, stand
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.ops.normalize import Pooling
from tests.tiny_extractor import TinyExtractor


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUGAN_CACHE", str(tmp_path / "cache"))


def make(resolution: int = 8, **info: object) -> Model:
    torch.manual_seed(0)
    config = BigGANConfig(resolution=resolution, num_classes=3, width=4, z_dim=12, shared_dim=4, blocks="resnet")
    return Model(BigGANGenerator(config).eval().requires_grad_(False), info=info)


@pytest.fixture
def model() -> Model:
    return make(class_names=["a", "b", "c"], statistics="running: for the test")


def reals(model: Model) -> Dataset:
    return from_arrays(model.sample(range(24)).numpy())


def evaluator(model: Model, count: int = 12, *metrics: str) -> Evaluator:
    config = EvaluationConfig(metrics=metrics or ("kid", "fid"), num_fake=count)
    return Evaluator(reals(model), TinyExtractor(), config)


def state(model: Model) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.generator.state_dict().items()}


def test_by_statistics_of_a_batch_pictures_are_those_of_training(model: Model) -> None:
    before, drawn = state(model), normalised_by(model, BatchStatistics(batch=4))
    parts = list(drawn.stream(range(8), psi=1.0, batch=4))
    assert isinstance(model.generator, BigGANGenerator)
    for start, part in zip((0, 4), parts, strict=True):
        seeds = range(start, start + 4)
        labels = model.one_hot([seed % 3 for seed in seeds])
        with torch.no_grad():
            expected = model.generator(model.z(seeds), labels, pooling=Pooling(momentum=0.0))
        assert (part.float() - (expected + 1) * 127.5).abs().max() <= 0.51
    assert not torch.equal(parts[1], drawn.sample(range(2, 10), batch=4)[2:6])  # other neighbours
    assert all(torch.equal(value, before[name]) for name, value in model.generator.state_dict().items())
    with pytest.raises(ValueError, match="4 pictures are drawn at once, got 3"):
        drawn.sample(range(3))
    with pytest.raises(ValueError, match="whole pictures only"):
        drawn.artist.pictures(torch.zeros(4, 16), alpha=0.5)
    assert drawn.artist.at_resolution(8).state_dict().keys() == drawn.generator.state_dict().keys()


def test_standing_statistics_are_made_anew_in_a_copy(model: Model) -> None:
    before, wanted = state(model), StandingStatistics(batches=2, batch=4)
    anew = normalised_by(model, wanted)
    assert all(torch.equal(value, before[name]) for name, value in model.generator.state_dict().items())
    assert anew.hash != model.hash and not torch.equal(anew.sample(range(4)), model.sample(range(4)))
    assert torch.equal(anew.sample(range(4)), anew.sample(range(4), batch=1))
    assert isinstance(model.generator, BigGANGenerator)
    stand(model.generator, wanted)
    assert anew.hash == dataclasses.replace(model).hash


def test_scores_say_by_which_statistics(model: Model) -> None:
    judge = evaluator(model)
    own = judge.score(model)
    assert "statistics running: for the test" in own.text()
    found = {"own": own.values["KID-tiny"]}
    for batch in (4, 6):
        scores = judge.score(normalised_by(model, BatchStatistics(batch=batch)))
        said = scores.protocol.statistics or ""
        assert said.startswith(f"batch: of each {batch} pictures drawn together") and "depends on those beside" in said
        assert model.hash in said and said in scores.text() and scores.as_dict()["protocol"]["statistics"] == said
        found[f"batch {batch}"] = scores.values["KID-tiny"]
    assert judge.score(normalised_by(model, BatchStatistics(batch=6))).values["KID-tiny"] == found["batch 6"]
    scores = judge.score(normalised_by(model, StandingStatistics(batches=1, batch=8)))
    assert "standing: of 1 batches of 8 pictures" in scores.text()
    found["standing"] = scores.values["KID-tiny"]
    assert len(set(found.values())) == 4  # nothing was taken from what is kept of another


def test_without_a_network_too() -> None:
    model = make(resolution=16)
    judge = Evaluator(reals(model), None, EvaluationConfig(metrics=("swd",), num_fake=12))
    own, other = judge.score(model), judge.score(normalised_by(model, BatchStatistics(batch=6)))
    assert own.protocol.statistics is None and "statistics" not in own.text()
    assert own.values != other.values


@pytest.mark.parametrize("metric", ["nn", "classes", "ppl-z-end"])
def test_single_pictures_have_no_statistics_of_a_batch(model: Model, metric: str) -> None:
    data = from_arrays(model.sample(range(24)).numpy(), [0, 1, 2] * 8, ["a", "b", "c"])
    judge = Evaluator(data, TinyExtractor(), EvaluationConfig(metrics=("kid", metric), num_fake=12))
    with pytest.raises(ValueError, match=f"{metric} is of single pictures"):
        judge.score(normalised_by(model, BatchStatistics(batch=4)))


def test_mistakes_say_what_is_allowed(model: Model) -> None:
    with pytest.raises(ValueError, match="whole batches: ask for 10 or 15 pictures, got 12"):
        evaluator(model).score(normalised_by(model, BatchStatistics(batch=5)))
    with pytest.raises(ValueError, match="whole batches: ask for 50 pictures, got 12"):
        evaluator(model).score(normalised_by(model, BatchStatistics()))
    with pytest.raises(ValueError, match="at least 2 pictures, got 1"):
        BatchStatistics(batch=1)
    size = {"resolution": 8, "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "mapping_layers": 2}
    with pytest.raises(ValueError, match="a stylegan2 model has no statistics of batches"):
        normalised_by(Model(Generator(StyleGAN2Config(**size)).eval()), BatchStatistics())
    with pytest.raises(ValueError, match="no statistics of batches"):  # it has other ones already
        normalised_by(normalised_by(model, BatchStatistics()), StandingStatistics())
