"""Smooth closed paths: against SciPy's filter, and what makes them smooth, closed and normal."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from frugan.ops.wander import smooth_loop


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("steps", "sigma"), [(40, 3.0), (33, 1), (12, 3.0), (300, 0.3)])
def test_it_is_the_wrapped_gaussian_filter_at_unit_scale(steps: int, sigma: float) -> None:
    values = draws(steps, 2, 5)
    wanted = ndimage.gaussian_filter1d(values.numpy(), sigma, axis=0, mode="wrap", truncate=12)
    wanted /= np.sqrt((wanted**2).mean())
    np.testing.assert_allclose(smooth_loop(values, sigma).numpy(), wanted, atol=1e-9)


def test_the_path_is_smooth_closed_and_of_unit_scale() -> None:
    path = smooth_loop(draws(120, 64).float(), 8.0)
    assert path.dtype == torch.float32 and path.square().mean().item() == pytest.approx(1, abs=1e-5)
    steps = (torch.roll(path, -1, 0) - path).norm(dim=1)
    assert steps[-1] < 1.5 * steps.mean() and steps.max() < 2 * steps.min()
    assert steps.max() < 0.25 * path.norm(dim=1).mean()
    assert (path[0] - path[60]).norm() > 0.8 * path[0].norm()
    assert smooth_loop(draws(40), 2).shape == (40,)


@pytest.mark.parametrize("sigma", [0, -1.0, 10.5])
def test_a_blur_that_leaves_no_path_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="quarter of 40 steps"):
        smooth_loop(draws(40, 3), sigma)
