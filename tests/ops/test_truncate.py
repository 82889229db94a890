"""Normal numbers without their far ends, against drawing again and against the formula of the deviation."""

import math

import pytest
import torch

from frugan.ops.truncate import threshold, truncated_normal, uniform


def numbers(count=200_000):
    return torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("psi", [0.05, 0.28, 0.54, 0.88, 0.99])
def test_deviation_and_limit(psi):
    cut, limit = truncated_normal(numbers(), psi), threshold(psi)
    assert float(cut.abs().max()) <= limit
    assert float(cut.std()) == pytest.approx(psi, rel=0.01)


def test_the_same_distribution_as_drawing_again():
    z, limit = numbers(), threshold(0.54)
    again = z[z.abs() <= limit]
    shares = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    torch.testing.assert_close(
        torch.quantile(truncated_normal(z, 0.54), shares), torch.quantile(again, shares), atol=0.02, rtol=0
    )


def test_thresholds_of_the_article():
    assert [round(threshold(psi), 1) for psi in (0.88, 0.54, 0.284)] == [2.0, 1.0, 0.5]


def test_order_and_sign_are_kept():
    z = numbers(1000).sort().values
    cut = truncated_normal(z, 0.3)
    assert (cut.diff() >= 0).all()
    assert torch.equal(cut.sign(), z.sign())


def test_the_ends():
    z = torch.tensor([-9.0, -1.0, 0.0, 2.0, 9.0])
    assert truncated_normal(z, 1) is z
    assert not truncated_normal(z, 0).any()
    near = truncated_normal(z, 1 - 1e-9)
    torch.testing.assert_close(near[1:4], z[1:4], atol=1e-5, rtol=1e-5)
    assert truncated_normal(z, 0.5).isfinite().all()
    assert truncated_normal(z, 0.5).dtype == z.dtype


@pytest.mark.parametrize("psi", [-0.1, 1.1, math.nan])
def test_other_strengths_are_refused(psi):
    with pytest.raises(ValueError, match=r"psi must be in \[0, 1\]"):
        truncated_normal(torch.zeros(1), psi)


def test_shares_below():
    torch.testing.assert_close(uniform(torch.tensor([0.0, 40.0, -40.0])), torch.tensor([0.5, 1.0, 0.0]))
