"""Class-conditional losses against plain loops, their least values, half precision, and several processes."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from frugan.losses import conditional as losses
from tests.losses.group_worker import NAMES, gradients
from tests.training.rig import ALONE, together


def batch(count: int = 10, width: int = 5, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, the proxy of each one's class, one-hot labels; float64."""
    random = torch.Generator().manual_seed(count)
    label = torch.randint(classes, (count,), generator=random)
    table = torch.randn(classes, width, generator=random, dtype=torch.float64)
    return (
        torch.randn(count, width, generator=random, dtype=torch.float64),
        table[label],
        F.one_hot(label, classes).double(),
    )


def d2d_by_loops(embedding: Tensor, proxies: Tensor, labels: Tensor, t: float, m_p: float, m_n: float) -> Tensor:
    values = []
    for i in range(len(embedding)):
        a = min(float(F.cosine_similarity(embedding[i], proxies[i], dim=0)) - m_p, 0.0) / t
        total = math.exp(a)
        for j in range(len(embedding)):
            if not torch.equal(labels[i], labels[j]):
                b = max(float(F.cosine_similarity(embedding[i], embedding[j], dim=0)) - m_n, 0.0) / t
                total += math.exp(b)
        values.append(-a + math.log(total))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("t", "m_p", "m_n"), [(0.5, 0.98, None), (0.25, 0.9, None), (1.0, 0.7, 0.1), (0.25, 0.5, -0.5)]
)
def test_d2d_ce_is_its_formula(t: float, m_p: float, m_n: float | None) -> None:
    embedding, proxies, labels = batch()
    found = losses.similarities(embedding, proxies, labels)
    values = losses.d2d_ce(found, temperature=t, margin=m_p, negative_margin=m_n)
    wanted = d2d_by_loops(embedding, proxies, labels, t, m_p, 1 - m_p if m_n is None else m_n)
    torch.testing.assert_close(values, wanted)


def test_the_least_d2d_ce_is_the_log_of_one_and_the_number_of_negatives() -> None:
    """Embeddings on their proxies, proxies at right angles: every pair is beyond its margin, nothing pulls any more."""
    label = torch.tensor([0, 0, 0, 1, 1, 2])
    embedding = torch.eye(4)[label].requires_grad_()
    found = losses.similarities(embedding, torch.eye(4)[label], F.one_hot(label, 4).float())
    values = losses.d2d_ce(found, temperature=0.25, margin=0.95)
    torch.testing.assert_close(values, (1 + torch.tensor([3.0, 3.0, 3.0, 4.0, 4.0, 5.0])).log())
    (gradient,) = torch.autograd.grad(values.sum(), embedding)
    assert not gradient.any()
    worse = losses.similarities(embedding + 0.1, torch.eye(4)[label], F.one_hot(label, 4).float())
    assert (losses.d2d_ce(worse, temperature=0.25, margin=0.95) > values).all()


def test_images_of_the_same_class_do_not_repel() -> None:
    embedding, proxies, labels = batch(8, classes=2)
    embedding.requires_grad_()
    found = losses.similarities(embedding, proxies, labels)
    loss = losses.d2d_ce(found, temperature=0.5, margin=0.98, negative_margin=-1.0)
    (gradient,) = torch.autograd.grad(loss[0], embedding)
    others_of_the_class = (labels[0] == labels).all(dim=1)
    others_of_the_class[0] = False
    assert others_of_the_class.any()
    assert not gradient[others_of_the_class].any()
    assert gradient[~others_of_the_class].any(dim=1).all()


def test_one_picture_or_one_class_has_nothing_to_be_told_from() -> None:
    for count in (1, 4):
        embedding, proxies, _ = batch(count)
        labels = torch.eye(3)[:1].expand(count, 3)
        found = losses.similarities(embedding.requires_grad_(), proxies, labels)
        for form in ("exact", "released"):
            values = losses.d2d_ce(found, temperature=0.5, margin=0.98, form=form)  # type: ignore[arg-type]
            torch.testing.assert_close(values, torch.zeros(count, dtype=torch.float64))
            assert torch.autograd.grad(values.sum(), embedding, retain_graph=True)[0].isfinite().all()
        torch.testing.assert_close(
            losses.contrastive_2c(found, temperature=0.5), torch.zeros(count, dtype=torch.float64)
        )


def test_the_released_form_is_another_signal_where_embeddings_cluster() -> None:
    random = torch.Generator().manual_seed(0)
    label = torch.arange(12) % 4
    proxies = torch.eye(8)[label]
    embedding = (proxies + 0.05 * torch.randn(12, 8, generator=random)).requires_grad_()
    found = losses.similarities(embedding, proxies, F.one_hot(label, 4).float())
    exact, released = (
        torch.autograd.grad(
            losses.d2d_ce(found, temperature=0.25, margin=1.0, form=form).sum(),  # type: ignore[arg-type]
            embedding,
            retain_graph=True,
        )[0]
        for form in ("exact", "released")
    )
    assert released.norm() < 0.9 * exact.norm()


def test_2c_is_its_formula() -> None:
    embedding, proxies, labels = batch()
    values = losses.contrastive_2c(losses.similarities(embedding, proxies, labels), temperature=0.5)
    for i in range(len(embedding)):
        near = [math.exp(2 * float(F.cosine_similarity(embedding[i], each, dim=0))) for each in embedding]
        same = [j for j in range(len(near)) if j != i and torch.equal(labels[i], labels[j])]
        others = [j for j in range(len(near)) if j != i]
        own = math.exp(2 * float(F.cosine_similarity(embedding[i], proxies[i], dim=0)))
        wanted = -math.log((own + sum(near[j] for j in same)) / (own + sum(near[j] for j in others)))
        assert float(values[i]) == pytest.approx(wanted)


def test_multi_hinge_is_its_formula() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 0.0, 0.0], [-1.0, 4.0, 1.0]])
    labels = torch.eye(3)[[0, 1, 2]]
    torch.testing.assert_close(losses.multi_hinge(logits, labels), torch.tensor([0.5, 1.0, 4.0]))


def test_labels_with_fakes() -> None:
    labels = torch.eye(3)[[2, 0]]
    assert losses.with_fake_class(labels, are_fake=False).argmax(dim=1).tolist() == [2, 0]
    assert losses.with_fake_class(labels, are_fake=True).argmax(dim=1).tolist() == [3, 3]
    for are_fake in (False, True):
        assert losses.with_fake_class(labels, are_fake).sum(dim=1).tolist() == [1, 1]


def test_the_articles_gradient_of_the_cross_entropy_is_autograds() -> None:
    random = torch.Generator().manual_seed(1)
    features = torch.randn(9, 7, generator=random, dtype=torch.float64)
    weight = torch.randn(4, 7, generator=random, dtype=torch.float64).requires_grad_()
    labels = F.one_hot(torch.randint(4, (9,), generator=random), 4).double()
    logits = features @ weight.T
    (wanted,) = torch.autograd.grad(losses.class_loss(logits, labels).mean(), weight)
    torch.testing.assert_close(losses.classifier_gradients(features, logits, labels), wanted)
    # It is as long as the features are: the cause of the early collapse.
    longer = losses.classifier_gradients(10 * features, logits, labels)
    torch.testing.assert_close(longer.norm(), 10 * wanted.norm())


def test_how_many_pairs_are_active() -> None:
    embedding, proxies, labels = batch()
    found = losses.similarities(embedding, proxies, labels)
    positive, negative = losses.active_shares(found, margin=0.5)
    for i in range(len(embedding)):
        others = [j for j in range(len(embedding)) if not torch.equal(labels[i], labels[j])]
        beyond = [float(F.cosine_similarity(embedding[i], embedding[j], dim=0)) > 0.5 for j in others]
        assert float(negative[i]) == pytest.approx(sum(beyond) / len(beyond))
        assert float(positive[i]) == float(F.cosine_similarity(embedding[i], proxies[i], dim=0) < 0.5)
    assert 0 < float(negative.mean()) < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_half_precision_stays_finite_and_comes_out_in_float32(dtype: torch.dtype, scale: float) -> None:
    random = torch.Generator().manual_seed(2)
    embedding, proxies, logits = ((scale * torch.randn(6, 4, generator=random)).to(dtype) for _ in range(3))
    embedding.requires_grad_()
    logits.requires_grad_()
    labels = torch.eye(4)[[0, 1, 1, 2, 3, 0]]
    found = losses.similarities(embedding, proxies, labels)
    values = [
        losses.class_loss(logits, labels),
        losses.multi_hinge(logits, labels),
        losses.d2d_ce(found, temperature=0.05, margin=0.9),
        losses.d2d_ce(found, temperature=0.05, margin=0.9, form="released"),
        losses.contrastive_2c(found, temperature=0.05),
    ]
    for value in values:
        assert value.dtype == torch.float32
        assert value.isfinite().all()
    total = torch.stack(values).sum()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, (embedding, logits)))


def test_autocast_does_not_round_similarities() -> None:
    embedding, proxies, labels = (each.float() for each in batch())
    wanted = losses.similarities(embedding, proxies, labels).pairs
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(losses.similarities(embedding, proxies, labels).pairs, wanted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.multi_hinge(torch.zeros(2, 1), torch.ones(2, 1)), "at least 2 logits, got 1"),
        (lambda: losses.d2d_ce(losses.similarities(*batch()), temperature=0.0, margin=1.0), "above 0, got 0.0"),
        (lambda: losses.contrastive_2c(losses.similarities(*batch()), temperature=-1.0), "above 0, got -1.0"),
    ],
)
def test_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    together("tests.losses.group_worker", str(tmp_path))
    alone = gradients(ALONE, slice(None))
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        for name in NAMES:
            torch.testing.assert_close(found[name], alone[name][rank::2])
            # Feature matching is one number for all, which each process has: its sum over samples is counted alike.
            for part in range(2):
                torch.testing.assert_close(found[f"{name}.{part}"], alone[f"{name}.{part}"])
                assert found[f"{name}.{part}"].any() or (name, part) == ("matching", 1)
