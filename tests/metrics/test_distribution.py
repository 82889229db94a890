"""Fréchet and kernel distances, Inception score: the authors' numbers, closed forms, and what must hold for any set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from frugan.metrics import distribution
from frugan.metrics.distribution import (
    Statistics,
    frechet_distance,
    frechet_distance_of,
    inception_score,
    kid_exact,
    kid_subsets,
)

Loaded = tuple[dict[str, Tensor], dict[str, Any]]


def load(folder: Path, name: str) -> Loaded:
    meta = json.loads((folder / "studiogan" / f"{name}.meta.json").read_text())
    return load_file(folder / "studiogan" / f"{name}.io.safetensors"), meta


def draw(count: int, width: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99)) / width**0.5
    return torch.randn(count, width, generator=generator) @ mix * scale + shift


# ---- the authors' numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["main", "same", "few", "halves"])
def test_fid_is_that_of_torch_fidelity_studiogan_and_clean_fid(fixtures_dir: Path, name: str) -> None:
    tensors, meta = load(fixtures_dir, "metric-fid-a")
    fake, real = tensors[f"{name}.fake"], tensors[f"{name}.real"]
    values = meta["values"][name]
    from_rows = frechet_distance_of(fake, real, ddof=1)
    from_statistics = frechet_distance(Statistics.of(fake), Statistics.of(real), ddof=1)
    # Where covariances are singular, the roots of eigenvalues near 0 leave the stored values about seven digits.
    digits = 1e-7 if name == "few" else 1e-10
    for found in (from_rows, from_statistics):
        assert found == pytest.approx(values["fid_eigh_check"], rel=digits, abs=1e-9)
        assert found == pytest.approx(values["fid_clean_fid"], rel=digits, abs=1e-9)
    assert from_rows == pytest.approx(from_statistics, rel=1e-10, abs=1e-9)
    assert from_rows == pytest.approx(values["fid_torch_fidelity"], rel=1e-6, abs=1e-9)
    covariance = Statistics.of(real).covariance(ddof=1)
    torch.testing.assert_close(covariance, tensors[f"{name}.real.sigma_studiogan_float64"], rtol=1e-12, atol=1e-14)


def test_kid_of_given_subsets_is_that_of_torch_fidelity(fixtures_dir: Path) -> None:
    tensors, meta = load(fixtures_dir, "metric-kid-a")
    wanted = meta["values"]["poly_default.float64"]
    found = kid_subsets(tensors["fake"], tensors["real"], subsets=7, subset_size=50, seed=meta["rng_seed"])
    assert found.value == pytest.approx(wanted["mean"], rel=1e-10)
    assert found.spread == pytest.approx(wanted["std"], rel=1e-10)
    x = tensors["fake"][tensors["subset_indices_fake_first_input"][0]]
    y = tensors["real"][tensors["subset_indices_real_second_input"][0]]
    whole = kid_subsets(x, y, subsets=3)
    assert whole.value == pytest.approx(meta["values"]["mmd2_on_first_subset"]["unbiased"], rel=1e-9)
    assert whole.spread == pytest.approx(0, abs=1e-12)
    assert kid_exact(x, y).value == pytest.approx(whole.value, rel=1e-12)


@pytest.mark.parametrize("splits", [1, 3, 10])
@pytest.mark.parametrize("seed", [None, 2020, 7])
def test_inception_score_is_that_of_torch_fidelity(fixtures_dir: Path, splits: int, seed: int | None) -> None:
    tensors, meta = load(fixtures_dir, "metric-is-a")
    key = f"torch_fidelity.splits{splits}.shuffle{seed is not None}.seed{seed or 2020}"
    order = None if seed is None else tensors[f"permutation.seed{seed}"]
    found = inception_score(tensors["logits"], splits, order)
    assert found.value == pytest.approx(meta["values"][key]["mean"], rel=1e-10)
    assert found.spread == pytest.approx(meta["values"][key]["std"], rel=1e-8, abs=1e-12)


# ---- Fréchet distance -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("counts", [(40, 60), (8, 60), (5, 6), (12, 12)])
def test_both_forms_agree_with_a_matrix_square_root(counts: tuple[int, int], ddof: int) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    fake, real = draw(counts[0], 12, 1, shift=0.3).double(), draw(counts[1], 12, 2, scale=1.4).double()
    s1, s2 = (np.cov(rows.numpy(), rowvar=False, ddof=ddof) for rows in (fake, real))
    root = linalg.sqrtm(s1 @ s2)
    gap = fake.mean(0) - real.mean(0)
    wanted = float(gap @ gap) + np.trace(s1) + np.trace(s2) - 2 * np.trace(root).real
    rank_deficient = min(counts) <= 12
    found = frechet_distance_of(fake, real, ddof)
    assert found == pytest.approx(wanted, rel=1e-5 if rank_deficient else 1e-9)
    assert found == pytest.approx(frechet_distance(Statistics.of(fake), Statistics.of(real), ddof), rel=1e-6)


def test_fid_of_gaussians_is_the_closed_form() -> None:
    """Covariances that commute: |m1 - m2|^2 + sum (s1 - s2)^2 over the common axes."""
    axes = torch.linalg.qr(draw(6, 6, 5).double()).Q
    one, two = torch.tensor([3.0, 1, 0.5, 0.1, 2, 0]).double(), torch.tensor([1.0, 1, 2, 0, 0.2, 0]).double()
    means = torch.zeros(6).double(), torch.full((6,), 0.25).double()
    a, b = (
        Statistics(10, mean, 10 * (axes * deviations**2) @ axes.T)
        for mean, deviations in zip(means, (one, two), strict=True)
    )
    wanted = float((means[1] ** 2).sum() + ((one - two) ** 2).sum())
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-12)


@given(
    parts=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    seed=st.integers(0, 1000),
    shift=st.sampled_from([0.0, 1.0, 1e4]),
)
@settings(max_examples=20, deadline=None)
def test_merged_statistics_are_those_of_the_union(parts: list[int], seed: int, shift: float) -> None:
    rows = draw(sum(parts), 5, seed, shift=shift).double()
    merged = None
    for part in rows.split(parts):
        found = Statistics.of(part)
        merged = found if merged is None else merged.merge(found)
    assert merged is not None and merged.count == len(rows)
    torch.testing.assert_close(merged.mean, rows.mean(dim=0), rtol=1e-13, atol=1e-13)
    centred = rows - rows.mean(dim=0)
    torch.testing.assert_close(merged.scatter, centred.T @ centred, rtol=1e-9, atol=1e-9)


def test_long_sets_are_seen_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, real = draw(37, 6, 1), draw(45, 6, 2, shift=0.2)
    scatter, exact = Statistics.of(fake).scatter, kid_exact(fake, real)
    subsets = kid_subsets(fake, real, subsets=5, subset_size=20)
    monkeypatch.setattr(distribution, "_BLOCK", 7)
    torch.testing.assert_close(Statistics.of(fake[:, :]).scatter, scatter)
    blocked = kid_exact(fake, real)
    assert blocked.value == pytest.approx(exact.value, rel=1e-10)
    assert blocked.spread == pytest.approx(exact.spread, rel=1e-8)
    assert kid_subsets(fake, real, subsets=5, subset_size=20).value == pytest.approx(subsets.value, rel=1e-10)


@given(count=st.integers(2, 40), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_fid_of_a_set_with_itself_is_zero_and_never_far_below(count: int, seed: int) -> None:
    rows = draw(count, 8, seed)
    assert frechet_distance_of(rows, rows) == pytest.approx(0, abs=1e-6)
    assert frechet_distance_of(rows, rows[torch.randperm(count)]) == pytest.approx(0, abs=1e-6)
    assert frechet_distance_of(rows, draw(9, 8, seed + 1)) > -1e-6


def test_a_shift_costs_its_square() -> None:
    rows = draw(50, 8).double()
    for a in (rows, rows[:5]):
        assert frechet_distance_of(a + 0.5, a) == pytest.approx(8 * 0.25, rel=1e-6)


# ---- kernel distance ------------------------------------------------------------------------------------------------


def plain_mmd(x: Tensor, y: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(kernel(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


def test_exact_kid_is_the_plain_double_sum_and_its_error_the_plain_jackknife() -> None:
    x, y = draw(7, 5, 1).double(), draw(6, 5, 2, shift=0.5).double()
    found = kid_exact(x, y)
    assert found.value == pytest.approx(plain_mmd(x, y), rel=1e-12)
    assert kid_exact(y, x).value == pytest.approx(found.value, rel=1e-12)
    variance = 0.0
    for first, second, both in ((x, y, plain_mmd), (y, x, lambda b, a: plain_mmd(a, b))):
        rest = [torch.cat([first[:i], first[i + 1 :]]) for i in range(len(first))]
        left_out = np.array([both(part, second) for part in rest])
        variance += (len(first) - 1) / len(first) * float(((left_out - left_out.mean()) ** 2).sum())
    assert found.spread == pytest.approx(variance**0.5, rel=1e-9)


def test_kid_of_two_halves_is_unbiased_around_zero_with_an_honest_error() -> None:
    """Over 40 pairs of halves the mean is within 3 of its standard errors of 0, also for few pictures."""
    found = [kid_exact(*draw(60, 16, seed).split(30)) for seed in range(40)]
    values = np.array([one.value for one in found])
    assert abs(values.mean()) < 3 * values.std() / 40**0.5
    errors = np.array([one.spread for one in found])
    assert values.std() < errors.mean() < 2.5 * values.std()
    other = [kid_exact(draw(30, 16, seed), draw(30, 16, seed + 500, shift=0.7)) for seed in range(40)]
    moved = np.array([one.value for one in other])
    assert moved.mean() > 5 * values.std()
    assert 0.6 < np.array([one.spread for one in other]).mean() / moved.std() < 1.6


def test_subsets_the_quick_and_the_plain_way_agree() -> None:
    """Few draws from large sets are computed one by one, many draws from small sets all at once."""
    fake, real = draw(50, 6, 1), draw(60, 6, 2, shift=0.3)
    few = kid_subsets(fake, real, subsets=4, subset_size=10, seed=3)
    random = np.random.RandomState(3)
    rows = [(random.choice(50, 10, replace=False), random.choice(60, 10, replace=False)) for _ in range(4)]

    def one(a: np.ndarray, b: np.ndarray) -> float:
        x, y = fake[a].double(), real[b].double()
        return plain_mmd(x, y)

    values = np.array([one(a, b) for a, b in rows])
    assert few.value == pytest.approx(values.mean(), rel=1e-10)
    assert few.spread == pytest.approx(values.std(), rel=1e-10)
    many = distribution._all_at_once(fake, real, [(torch.tensor(a), torch.tensor(b)) for a, b in rows], 10)
    np.testing.assert_allclose(many.numpy(), values, rtol=1e-10)


def test_a_seed_gives_the_same_subsets() -> None:
    fake, real = draw(50, 6, 1), draw(60, 6, 2)
    options = {"subsets": 5, "subset_size": 20}
    first = kid_subsets(fake, real, seed=1, **options)
    assert first == kid_subsets(fake, real, seed=1, **options) != kid_subsets(fake, real, seed=2, **options)
    before = torch.get_rng_state()
    kid_subsets(fake, real, **options)
    assert torch.equal(before, torch.get_rng_state())


# ---- Inception score and mistakes -----------------------------------------------------------------------------------


def test_inception_score_ends() -> None:
    certain = torch.eye(4).repeat(5, 1) * 1000
    assert inception_score(certain, 1).value == pytest.approx(4)
    assert inception_score(torch.zeros(20, 4), 1).value == pytest.approx(1)
    assert inception_score(certain[:1], 1).value == pytest.approx(1)


@pytest.mark.parametrize(
    ("act", "part"),
    [
        (lambda: Statistics.of(draw(3, 4)).merge(Statistics.of(draw(3, 5))), "width, got 4 and 5"),
        (lambda: Statistics.of(torch.zeros(0, 4)), "got none"),
        (lambda: frechet_distance_of(draw(1, 4), draw(3, 4), ddof=1), "at least 2 pictures"),
        (lambda: frechet_distance_of(draw(3, 4), draw(3, 4), ddof=2), "ddof must be 0"),
        (lambda: kid_exact(draw(2, 4), draw(9, 4)), "at least 3 pictures on each side, got 2 and 9"),
        (lambda: kid_subsets(draw(1, 4), draw(9, 4)), "at least 2 pictures on each side, got 1 and 9"),
        (lambda: kid_subsets(draw(9, 4), draw(9, 4), subset_size=1), "at least 2 pictures"),
        (lambda: inception_score(torch.zeros(9, 3), 10), "10 splits"),
    ],
)
def test_mistakes_say_what_is_allowed(act: Any, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        act()
