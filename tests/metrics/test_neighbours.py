"""Precision, recall, density, coverage, nearest pictures: the authors' numbers, plain loops, known arrangements."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from frugan.metrics import neighbours
from frugan.metrics.neighbours import density_coverage, memorisation, nearest, precision_recall


def draw(count: int, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("name", ["main", "far", "same"])
def test_scores_are_those_of_the_authors(fixtures_dir: Path, name: str, k: int) -> None:
    folder = fixtures_dir / "studiogan"
    tensors = load_file(folder / "metric-prdc-a.io.safetensors")
    values = json.loads((folder / "metric-prdc-a.meta.json").read_text())["values"]
    fake, real = tensors[f"{name}.fake"], tensors[f"{name}.real"]
    wanted, also = values[f"{name}.k{k}.studiogan_prdc"], values[f"{name}.k{k}.torch_fidelity"]
    found, others = precision_recall(fake, real, k), density_coverage(fake, real, k)
    assert found.precision == pytest.approx(wanted["precision"], abs=1e-12)
    assert found.recall == pytest.approx(wanted["recall"], abs=1e-12)
    assert found.precision == pytest.approx(also["precision"], abs=1e-6)
    assert others.density == pytest.approx(wanted["density"], abs=1e-12)
    assert others.coverage == pytest.approx(wanted["coverage"], abs=1e-12)
    torch.testing.assert_close(
        nearest(real, real, k, leave_one_out=True)[0][:, -1], tensors[f"{name}.k{k}.real_radius"], rtol=1e-9, atol=1e-12
    )


def test_doubles_count_as_the_authors_count_them(fixtures_dir: Path) -> None:
    """With exact doubles there are ties: the rim belongs to precision and recall, not to density and coverage."""
    folder = fixtures_dir / "studiogan"
    tensors = load_file(folder / "metric-prdc-a.io.safetensors")
    values = json.loads((folder / "metric-prdc-a.meta.json").read_text())["values"]
    fake, real = tensors["duplicates.fake"], tensors["duplicates.real"]
    for k in (3, 5):
        wanted = values[f"duplicates.k{k}.torch_fidelity_float64"]
        found, others = precision_recall(fake, real, k), density_coverage(fake, real, k)
        assert found.precision == pytest.approx(wanted["precision"], abs=1e-6)
        assert found.recall == pytest.approx(wanted["recall"], abs=1e-6)
        authors = values[f"duplicates.k{k}.studiogan_prdc"]
        assert others.coverage == pytest.approx(authors["coverage"], abs=1e-12)
        assert others.density == pytest.approx(authors["density"], abs=1e-12)


@pytest.mark.parametrize("entries", [1, 40, 2**24])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK_ENTRIES", entries)
    queries, references = draw(13, seed=1), draw(17, seed=2)
    distances = torch.cdist(queries.double(), references.double(), compute_mode="donot_use_mm_for_euclid_dist")
    wanted = distances.topk(3, largest=False)
    found, indices = nearest(queries, references, 3)
    torch.testing.assert_close(found, wanted.values)
    assert torch.equal(indices, wanted.indices)
    scores = precision_recall(queries, references)
    rims = [torch.cdist(a.double(), a.double()).topk(4, largest=False).values[:, 3] for a in (queries, references)]
    assert scores.precision == float((distances <= rims[1]).any(1).double().mean())
    assert scores.recall == float((distances <= rims[0][:, None]).any(0).double().mean())


def test_the_nearest_other_one_leaves_itself_out_and_sees_doubles() -> None:
    rows = draw(9) * 1000
    distances, indices = nearest(rows, rows, 2, leave_one_out=True)
    assert not (indices == torch.arange(9)[:, None]).any() and bool((distances > 0).all())
    doubled = torch.cat([rows, rows[:1]])
    distances, indices = nearest(doubled, doubled, leave_one_out=True)
    assert distances[0] == distances[9] == 0 and indices[0] == 9 and indices[9] == 0


def test_precision_is_about_fakes_and_recall_about_reals() -> None:
    real = torch.cat([draw(60, seed=1), draw(60, seed=2) + 100])
    one_mode = draw(60, seed=3) * 0.5
    found = precision_recall(one_mode, real)
    assert found.precision > 0.9 and found.recall < 0.5
    swapped = precision_recall(real, one_mode)
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)
    outlier = torch.cat([draw(60, seed=1), torch.full((4, 6), 50.0) + draw(4, seed=5) * 20])
    far = draw(60, seed=7) * 0.1 + 40
    assert precision_recall(far, outlier).precision > 0.9  # one wide ball swallows everything
    assert density_coverage(far, outlier).coverage < 0.1


def test_memorisation_tells_copies_from_new_pictures() -> None:
    real = draw(80, 16, seed=1)
    copies = real[torch.arange(40) * 2] + 0.01 * draw(40, 16, seed=2)
    found = memorisation(copies, real)
    assert found.ratio < 0.05
    assert torch.equal(found.indices, torch.arange(40) * 2)
    assert found.ratio == pytest.approx(found.fake_median / found.real_median)
    fresh = memorisation(draw(200, 16, seed=3), real)
    assert 0.9 < fresh.ratio < 1.1
    assert memorisation(draw(5, 16, seed=4) + 30, real).ratio > 5
    assert memorisation(real, real).ratio == 0
    assert math.isnan(memorisation(copies, real.repeat(2, 1)).ratio)


@pytest.mark.parametrize(
    ("act", "part"),
    [
        (lambda: precision_recall(draw(3), draw(9)), "k = 3 needs at least 4 pictures on each side, got 3 and 9"),
        (lambda: density_coverage(draw(9), draw(5)), "k = 5 needs at least 6 pictures on each side, got 9 and 5"),
        (lambda: nearest(draw(9), draw(4), 5), "5 nearest"),
        (lambda: nearest(draw(4), draw(4), 4, leave_one_out=True), "4 nearest"),
        (lambda: nearest(draw(4), draw(5), 1, leave_one_out=True), "one set twice"),
        (lambda: memorisation(draw(4), draw(1)), "at least 2 training pictures, got 1"),
        (lambda: memorisation(draw(0), draw(4)), "got 0 and 4"),
    ],
)
def test_mistakes_say_what_is_allowed(act: object, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        act()  # type: ignore[operator]
