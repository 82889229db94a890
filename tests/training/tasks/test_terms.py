"""The terms that may stand beside any adversarial loss: what they compare, choose and replace."""

from collections.abc import Callable

import pytest
import torch

from frugan.augment.ada import AdaControllerConfig
from frugan.models.heads import CodeGuess, Verdict
from frugan.training.door import Draw, Share
from frugan.training.tasks.augmenter import Deceiver
from frugan.training.tasks.terms import (
    ApaConfig,
    ConsistencyConfig,
    LatentConsistencyConfig,
    TermsConfig,
    TopKConfig,
    best,
    disagreement,
    slices,
)


def verdict(*logits: float, **more: torch.Tensor) -> Verdict:
    return Verdict(torch.tensor(logits), torch.zeros(len(logits), 2), **more)


def test_disagreement_counts_what_both_say() -> None:
    one, other = verdict(1.0, 2.0, classes=torch.eye(2)), verdict(0.0, 4.0, classes=torch.zeros(2, 2))
    assert disagreement(one, other).tolist() == [1 + 0.5, 4 + 0.5]
    assert disagreement(one, verdict(0.0, 4.0)).tolist() == [1, 4]


def test_the_best_are_those_with_the_highest_logits() -> None:
    values, logits = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.3, 0.9, 0.1, 0.8])
    chosen = best(values, logits, 0.5)
    assert chosen.tolist() == [0.0, 4.0, 0.0, 8.0]
    assert float(chosen.mean()) == (2 + 4) / 2
    assert torch.equal(best(values, logits, 1.0), values)
    assert best(values, logits, 0.0).count_nonzero() == 1


def test_a_verdict_is_divided_with_all_that_it_holds() -> None:
    codes = CodeGuess(None, torch.arange(3.0)[:, None], torch.ones(3, 1))
    whole = verdict(1.0, 2.0, 3.0, embedding=torch.eye(3))._replace(codes=codes)
    first, rest = slices(whole, 1)
    assert first.logits.tolist() == [1] and rest.logits.tolist() == [2, 3]
    assert first.embedding is not None and rest.embedding is not None and first.proxies is None
    assert torch.equal(torch.cat([first.embedding, rest.embedding]), torch.eye(3))
    assert rest.codes is not None and rest.codes.mean is not None and rest.codes.discrete is None
    assert rest.codes.mean.flatten().tolist() == [1, 2]


def test_deceived_with_fakes_and_their_labels_as_often_as_the_controller_says() -> None:
    deceiver = Deceiver(ApaConfig(p=0.25, controller=AdaControllerConfig(every=1, ramp_images=100)))
    draw = Draw(("apa",), torch.device("cpu"), Share(2000))
    reals, fakes = torch.zeros(2000, 1, 1, 1), torch.ones(2000, 1, 1, 1)
    real_labels, labels = torch.eye(2)[:1].expand(2000, 2), torch.eye(2)[1:].expand(2000, 2)
    shown, told = deceiver(reals, real_labels, fakes, labels, draw)
    assert told is not None and torch.equal(shown.flatten(), told[:, 1])
    assert abs(float(shown.mean()) - 0.25) < 0.03
    deceiver.end({"real_sign": torch.tensor(1.0)}, 10)  # surely known: more of them
    again = Deceiver(ApaConfig())
    again.load_state_dict(deceiver.state_dict())
    shown, _ = again(reals, None, fakes, None, draw)
    assert abs(float(shown.mean()) - 0.35) < 0.03


def test_nobody_is_deceived_without_settings() -> None:
    reals = torch.zeros(2, 1, 1, 1)
    shown, told = Deceiver(None)(reals, None, reals + 1, None, Draw(("x",), torch.device("cpu"), Share(2)))
    assert shown is reals and told is None and Deceiver(None).state_dict() == {}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConsistencyConfig(reals=-1.0), "reals must be at least 0, got -1.0"),
        (lambda: LatentConsistencyConfig(sigma=-0.1), "sigma must be at least 0, got -0.1"),
        (lambda: TermsConfig(feature_matching=-1.0), "feature_matching must be at least 0, got -1.0"),
        (lambda: ApaConfig(p=1.5), r"p must be in \[0, 1\], got 1.5"),
        (lambda: TopKConfig(every_images=0), "every_images must be at least 1, got 0"),
    ],
)
def test_errors(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
