"""Scores of translators: outputs against the targets as a set, and each against its own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from frugan.data.dataset import Dataset, from_arrays
from frugan.evaluation import PAIRED_L1, PIXEL_SWD, EvaluationConfig, Evaluator, quick_score
from frugan.metrics.paired import feature_distances, mean_of, pixel_distances
from frugan.model import Model
from frugan.models.translator import ResnetConfig, ResnetTranslator
from tests.tiny_extractor import TinyExtractor


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FRUGAN_CACHE", str(tmp_path / "cache"))


def translator() -> Model:
    torch.manual_seed(0)
    return Model(ResnetTranslator(ResnetConfig(width=4, num_blocks=0)).eval())


def pictures(count: int, seed: int, names: str = "p", height: int = 16) -> Dataset:
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (count, 3, height, 16), dtype=np.uint8)
    return from_arrays(images, names=[f"{names}{index}" for index in range(count)])


def test_distances_of_pairs() -> None:
    black, white = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    assert pixel_distances(black, white).tolist() == [1, 1] and pixel_distances(white, white).tolist() == [0, 0]
    with pytest.raises(ValueError, match="one shape"):
        pixel_distances(black, white[:, :1])
    assert feature_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])).tolist() == [5]
    found = mean_of(torch.tensor([1.0, 2.0, 6.0]))
    assert found.value == pytest.approx(3) and found.spread == pytest.approx(7**0.5 / 3**0.5)


@pytest.mark.parametrize("height", [16, 24])
@pytest.mark.parametrize(("num_fake", "num_real"), [(None, None), (5, None), (6, 4)])
def test_pairs_are_held_against_their_own_targets(num_fake: int | None, num_real: int | None, height: int) -> None:
    model, sources, extractor = translator(), pictures(9, 0, height=height), TinyExtractor()
    outputs = model.on(sources).sample(range(9))
    shifted = (outputs.int() + 51).clamp(max=255).to(torch.uint8)
    targets = from_arrays(shifted.numpy(), names=list(sources.names))
    config = EvaluationConfig(metrics=("fid", "swd"), features="tiny", num_fake=num_fake, num_real=num_real)
    scores = Evaluator(targets, extractor, config).score(model.on(sources))
    each = pixel_distances(outputs, shifted)
    assert each.min() <= scores.values[PAIRED_L1] <= each.max() and scores.values["paired-tiny"] > 0
    assert scores.spreads["paired-tiny"] >= 0 and {"FD-tiny", "SWD-pyramid"} <= set(scores.values)
    if num_fake is None:
        assert scores.values[PAIRED_L1] == pytest.approx(each.mean().item())
        assert scores.protocol.pairs == 9 and scores.protocol.num_fake == 9 and scores.protocol.seeds is None
    assert "outputs with their targets" in scores.text() and f"model {model.hash} on" in scores.text()
    seen = extractor.seen
    again = Evaluator(targets, extractor, config).score(model.on(sources))
    assert extractor.seen == seen and again.values == scores.values  # from the cache
    perfect = Evaluator(
        from_arrays(outputs.numpy(), names=list(sources.names)), None, EvaluationConfig(metrics=("swd",))
    )
    assert perfect.score(model.on(sources)).values[PAIRED_L1] == 0


def test_two_domains_have_no_pairs() -> None:
    model, sources, targets = translator(), pictures(6, 0), pictures(5, 1, "q")
    scores = Evaluator(targets, TinyExtractor(), EvaluationConfig(metrics=("fid",), features="tiny")).score(
        model.on(sources)
    )
    assert scores.protocol.pairs is None and not any("paired" in name for name in scores.values)
    assert set(quick_score(model.on(sources), targets, 10).scores) == {PIXEL_SWD}


def test_the_quick_score_takes_the_same_pairs() -> None:
    model, sources = translator(), pictures(7, 0)
    targets = from_arrays(model.on(sources).sample(range(7)).numpy(), names=list(sources.names))
    for count in (3, 100):
        found = quick_score(model.on(sources), targets, count)
        assert found.scores[PAIRED_L1] == 0 and found.scores[PIXEL_SWD] == 0
        assert found.nearest_neighbour_ratio is None  # to come near a target is no copying


def test_path_lengths_need_latents() -> None:
    config = EvaluationConfig(metrics=("ppl-z-end",), features="tiny", num_fake=4)
    sources = pictures(6, 0)
    with pytest.raises(ValueError, match="path lengths need latents, which a resnet_translator model has not"):
        Evaluator(pictures(6, 1), TinyExtractor(), config).score(translator().on(sources))
