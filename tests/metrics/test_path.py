"""Path lengths: known for linear worlds, by the authors' percentiles, same noise on both ends of a step."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from frugan.metrics.path import PathConfig, path_lengths, slerp, trimmed_mean


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def square(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).square().flatten(1).sum(dim=1)


def mapping(z: Tensor) -> Tensor:
    return z[:, None].repeat(1, 2, 1)


def flat(w: Tensor) -> Tensor:
    """A picture of 1 x 1 pixels that is linear in w."""
    return w.mean(dim=1)[:, :3, None, None].contiguous()


@pytest.mark.parametrize("sampling", ["full", "end"])
def test_in_a_linear_world_the_length_is_the_squared_distance(sampling: str) -> None:
    z = draw(5, 4, seed=1), draw(5, 4, seed=2)
    config = PathConfig(space="w", sampling=sampling, epsilon=1e-2)  # type: ignore[arg-type]
    found = path_lengths(mapping, flat, square, z, torch.rand(5).double(), config)
    wanted = ((z[1] - z[0])[:, :3] * 127.5).square().sum(dim=1)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_on_the_sphere_the_length_is_the_squared_angle() -> None:
    z = draw(6, 3, seed=3), draw(6, 3, seed=4)
    cosine = torch.nn.functional.cosine_similarity(*z)
    config = PathConfig(space="z", sampling="full", epsilon=1e-2)
    found = path_lengths(mapping, flat, square, z, torch.rand(6).double(), config)
    torch.testing.assert_close(found, (cosine.acos() * 127.5).square(), rtol=1e-3, atol=1e-3)


def test_slerp_starts_and_ends_at_the_ends_and_keeps_to_the_sphere() -> None:
    a, b = draw(7, 5, seed=1), draw(7, 5, seed=2)
    unit = [rows / rows.norm(dim=1, keepdim=True) for rows in (a, b)]
    zero = torch.zeros(7, 1).double()
    torch.testing.assert_close(slerp(a, b, zero), unit[0])
    torch.testing.assert_close(slerp(a, b, zero + 1), unit[1])
    torch.testing.assert_close(slerp(a, b, zero + 0.3).norm(dim=1), torch.ones(7).double())
    torch.testing.assert_close(slerp(a, a, zero + 0.3), unit[0])


@pytest.mark.parametrize(("channels", "side", "seen"), [(1, 8, 8), (3, 512, 256), (4, 300, 300), (3, 1024, 256)])
def test_pictures_are_seen_in_three_channels_and_at_most_256_pixels(channels: int, side: int, seen: int) -> None:
    shapes: list[tuple[int, ...]] = []

    def synthesis(w: Tensor) -> Tensor:
        return torch.ones(len(w), channels, side, side) * 0.5

    def distance(a: Tensor, b: Tensor) -> Tensor:
        shapes.append(tuple(a.shape))
        assert torch.allclose(a, torch.full_like(a, 1.5 * 127.5 if channels < 4 else 0.75 * 1.5 * 127.5 + 0.25 * 255))
        return torch.zeros(len(a))

    path_lengths(mapping, synthesis, distance, (draw(2, 4).float(), draw(2, 4).float()), torch.zeros(2), PathConfig())
    assert shapes == [(2, 3, seen, seen)]


def test_the_trim_is_that_of_the_authors() -> None:
    lengths = draw(333).exp()
    values = lengths.numpy()
    low, high = np.percentile(values, 1, method="lower"), np.percentile(values, 99, method="higher")
    wanted = values[(values >= low) & (values <= high)].mean()
    assert trimmed_mean(lengths) == pytest.approx(float(wanted), rel=1e-12)
    assert trimmed_mean(torch.tensor([2.0])) == 2
    assert not math.isclose(trimmed_mean(lengths), float(values.mean()))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="epsilon"):
        PathConfig(epsilon=0.0)
    with pytest.raises(ValueError, match="none"):
        trimmed_mean(torch.zeros(0))
