"""Sliced distances and MS-SSIM: the authors' numbers, slow oracles in SciPy and plain loops, odd and small pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage, signal

from frugan.metrics.multiscale import (
    Descriptors,
    PyramidConfig,
    laplacian_pyramid,
    mean_similarity,
    multiscale_similarity,
    normalise,
    pixel_swd,
    pyramid_distances,
    sliced_distances,
    spread,
    unit_directions,
)

SMALL = PyramidConfig(patches=24, repeats=2, directions=40)


def random(*seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(*seed)


def noise(count: int, height: int = 32, width: int | None = None, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Pictures with detail at every scale."""
    rng = np.random.default_rng(seed)
    width = width or height
    total = np.zeros((count, channels, height, width))
    for side in (2, 5, 11, 40):
        coarse = rng.standard_normal((count, channels, side, side))
        rows, columns = np.arange(height) * side // height, np.arange(width) * side // width
        total += coarse[:, :, rows][..., columns]
    return torch.from_numpy((128 + 30 * total).clip(0, 255).astype(np.uint8))


def collect(images: torch.Tensor, seed: int, config: PyramidConfig = SMALL, batch: int = 7) -> Descriptors:
    found = Descriptors(len(images), tuple(images.shape[-2:]), config, random(seed), images.shape[1])
    for part in images.split(batch):
        found.add(part)
    return found


def swd(reals: torch.Tensor, fakes: torch.Tensor, config: PyramidConfig = SMALL) -> dict[int, float]:
    return pyramid_distances(collect(reals, 1, config), [collect(fakes, 2, config)], random(3))[0]


# ---- the authors' numbers -------------------------------------------------------------------------------------------


@pytest.fixture
def golden(fixtures_dir: Path) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    numbers = json.loads((fixtures_dir / "pgan_metrics.json").read_text())
    return load_file(fixtures_dir / "pgan_metrics.safetensors"), numbers


def test_the_pyramid_is_the_authors(golden: tuple[dict[str, torch.Tensor], dict[str, float]]) -> None:
    tensors, _ = golden
    levels = laplacian_pyramid(tensors["A"].float(), 3)
    for index, level in enumerate(levels):
        torch.testing.assert_close(level, tensors[f"lapA.{index}"], atol=5e-5, rtol=0)


def test_descriptors_and_their_distance_are_the_authors(
    golden: tuple[dict[str, torch.Tensor], dict[str, float]],
) -> None:
    tensors, numbers = golden
    a, b = (normalise(tensors[name].flatten(2)) for name in ("descA", "descB"))
    torch.testing.assert_close(a, tensors["descA_final"], atol=5e-6, rtol=0)
    torch.testing.assert_close(b, tensors["descB_final"], atol=5e-6, rtol=0)
    wanted = numbers["sliced_wasserstein_descA_descB_dirs"]
    assert sliced_distances(a, [b], tensors["dirs"])[0] == pytest.approx(wanted, rel=1e-6)


def test_the_whole_distance_is_the_authors_but_for_the_draws(
    golden: tuple[dict[str, torch.Tensor], dict[str, float]],
) -> None:
    """Their one draw of patches and directions lies among ten of ours: eight pictures leave much to chance."""
    tensors, numbers = golden
    wanted = numbers["SWDx1e3_reals_vs_fakes(random patches; +-few %)"]
    rounds = []
    for seed in range(10):
        sides = [collect(tensors[name], 3 * seed + turn, PyramidConfig()) for turn, name in enumerate("AB")]
        found = pyramid_distances(sides[0], sides[1:], random(3 * seed + 2))[0]
        rounds.append([found[64], found[32], found[16], np.mean(list(found.values()))])
    theirs = [wanted[f"SWDx1e3_{level}"] for level in ("64", "32", "16", "avg")]
    mean, deviation = np.mean(rounds, axis=0), np.std(rounds, axis=0)
    assert (deviation < 0.1 * mean).all()
    assert (np.abs(theirs - mean) < 3 * deviation).all()


def test_similarity_is_the_authors(golden: tuple[dict[str, torch.Tensor], dict[str, float]]) -> None:
    tensors, numbers = golden
    # Theirs is float32, ours float64.
    assert multiscale_similarity(tensors["A"], tensors["B"]).mean().item() == pytest.approx(
        numbers["msssim_AB_64"], rel=2e-5
    )
    assert mean_similarity([tensors["A"]])[0] == pytest.approx(numbers["msssim_A_pairs_64"], rel=2e-5)
    assert mean_similarity([tensors["A192"]])[0] == pytest.approx(numbers["msssim_A192_pairs"], rel=2e-5)


# ---- slow oracles ---------------------------------------------------------------------------------------------------

BINOMIAL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256


def slow_pyramid(image: np.ndarray, levels: int) -> list[np.ndarray]:
    found = []
    for _ in range(levels - 1):
        small = ndimage.convolve(image, BINOMIAL, mode="mirror")[::2, ::2]
        spaced = np.zeros_like(image)
        spaced[::2, ::2] = small
        found.append(image - ndimage.convolve(spaced, 4 * BINOMIAL, mode="mirror"))
        image = small
    return [*found, image]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 40), (37, 35)])
def test_the_pyramid_of_any_size_is_that_of_plain_convolutions(height: int, width: int) -> None:
    images = noise(2, height, width, channels=1).double()
    levels = laplacian_pyramid(images, 3)
    for index in range(2):
        for level, wanted in zip(levels, slow_pyramid(images[index, 0].numpy(), 3), strict=True):
            np.testing.assert_allclose(level[index, 0].numpy(), wanted, atol=1e-10)


def slow_distance(reals: torch.Tensor, fakes: torch.Tensor, config: PyramidConfig) -> dict[int, float]:
    """Patch by patch, direction by direction; only the draws are those of the code under test."""
    sizes = config.sizes(*reals.shape[-2:])
    sides: list[list[np.ndarray]] = []
    for seed, images in ((1, reals), (2, fakes)):
        draws, levels = random(seed), []
        pyramids = [[slow_pyramid(plane.double().numpy(), len(sizes)) for plane in image] for image in images]
        for level, (height, width) in enumerate(sizes):
            rows = torch.randint(height - 6, (len(images), config.patches), generator=draws).tolist()
            columns = torch.randint(width - 6, (len(images), config.patches), generator=draws).tolist()
            found = [
                np.stack([plane[level][row : row + 7, column : column + 7] for plane in pyramids[index]])
                for index in range(len(images))
                for row, column in zip(rows[index], columns[index], strict=True)
            ]
            whole = np.stack(found)
            mean, deviation = whole.mean(axis=(0, 2, 3), keepdims=True), whole.std(axis=(0, 2, 3), keepdims=True)
            levels.append(((whole - mean) / deviation).reshape(len(whole), -1))
        sides.append(levels)
    draws, result = random(3), {}
    for size, a, b in zip(sizes, sides[0], sides[1], strict=True):
        directions = unit_directions(a.shape[1], config.repeats * config.directions, draws).numpy()
        gaps = [np.abs(np.sort(a @ way) - np.sort(b @ way)).mean() for way in directions.T]
        result[min(size)] = 1000 * float(np.mean(gaps))
    return result


@pytest.mark.parametrize("side", [16, 20, 35])
def test_the_distance_is_that_of_plain_loops(side: int) -> None:
    reals, fakes = noise(9, side), noise(9, side, seed=1) // 2
    config = PyramidConfig(patches=10, repeats=1, directions=20)
    assert swd(reals, fakes, config) == pytest.approx(slow_distance(reals, fakes, config), rel=1e-5)


def slow_similarity(x: np.ndarray, y: np.ndarray) -> float:
    """MS-SSIM of one pair (H, W, C) by SciPy's convolutions."""
    product = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        size = min(11, *x.shape[:2])
        away = np.arange(size) - (size - 1) / 2
        window = np.exp(-(away[:, None] ** 2 + away**2) / (2 * (1.5 * size / 11) ** 2))[..., None]
        window /= window.sum()
        mean_x, mean_y, xx, yy, xy = (
            signal.convolve(part, window, mode="valid", method="direct") for part in (x, y, x * x, y * y, x * y)
        )
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        contrast = (2 * (xy - mean_x * mean_y) + c2) / (xx + yy - mean_x**2 - mean_y**2 + c2)
        whole = contrast * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        product *= max(float((whole if scale == 4 else contrast).mean()), 0.0) ** weight
        box = np.full((2, 2, 1), 0.25)
        x, y = (ndimage.convolve(part, box, mode="reflect")[::2, ::2] for part in (x, y))
    return product


@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 40), (33, 55)])
@pytest.mark.parametrize("channels", [1, 3])
def test_similarity_is_that_of_plain_convolutions(height: int, width: int, channels: int) -> None:
    x = noise(3, height, width, channels)
    y = ((x.int() + noise(3, height, width, channels, seed=1).int()) // 2).byte()
    wanted = [
        slow_similarity(*(part.permute(1, 2, 0).double().numpy() for part in pair)) for pair in zip(x, y, strict=True)
    ]
    assert max(wanted) > 0.05
    np.testing.assert_allclose(multiscale_similarity(x, y).numpy(), wanted, rtol=1e-9)


# ---- how they behave ------------------------------------------------------------------------------------------------


def test_batches_of_any_size_and_the_order_of_rounds_give_the_same() -> None:
    images = noise(10)
    whole = collect(images, 5, batch=10)
    for batch in (1, 3):
        parts = collect(images, 5, batch=batch)
        for level in range(len(whole.sides)):
            assert torch.equal(parts.normalised(level), whole.normalised(level))


def test_the_distance_tells_worse_pictures_from_as_good_ones_at_the_scale_that_is_wrong() -> None:
    reals, others = noise(64, 64), noise(64, 64, seed=1)
    blurred = torch.nn.functional.interpolate(others.float(), 32, mode="area")
    blurred = torch.nn.functional.interpolate(blurred, 64, mode="bilinear").round().byte()
    floor, found = pyramid_distances(collect(reals, 1), [collect(others, 2), collect(blurred, 2)], random(3))
    assert set(floor) == {64, 32, 16}
    assert found[64] > 1.3 * floor[64]
    assert found[32] < 1.1 * floor[32] and found[16] < 1.1 * floor[16]
    same = pyramid_distances(collect(reals, 1), [collect(reals, 1)], random(3))[0]
    assert max(same.values()) == 0


def test_brightness_and_contrast_of_the_whole_set_do_not_count() -> None:
    reals = noise(16, 16) // 2
    assert swd(reals, reals + 100) == pytest.approx(swd(reals, reals), rel=1e-4)


def test_grey_constant_and_small_pictures() -> None:
    assert set(swd(noise(4, 16, channels=1), noise(4, 16, channels=1, seed=1))) == {16}
    flat = torch.full((4, 3, 16, 16), 7, dtype=torch.uint8)
    assert swd(flat, flat) == {16: 0}
    assert set(swd(noise(2, 8), noise(2, 8))) == {8}
    assert set(swd(noise(2, 32, 50), noise(2, 32, 50))) == {32, 16}
    assert multiscale_similarity(flat, flat).tolist() == pytest.approx([1, 1, 1, 1])


def test_similarity_of_equal_pictures_is_one_and_falls_with_variety() -> None:
    images = noise(12, 32)
    assert multiscale_similarity(images, images).tolist() == pytest.approx([1.0] * 12)
    alike = torch.cat([images[:1].repeat(12, 1, 1, 1).int() + noise(12, 32, seed=3).int() // 20]).clamp(0, 255).byte()
    assert mean_similarity([alike])[0] > 2 * mean_similarity([images])[0]
    assert mean_similarity(images.split(4)) == pytest.approx(mean_similarity([images]))
    assert mean_similarity([images[:5]])[1] == 2


def test_the_sliced_distance_of_shifted_sets_is_the_shift() -> None:
    points = torch.randn(500, 3, generator=random(0))
    shift, directions = torch.tensor([2.0, 0, 0]), unit_directions(3, 50, random(1))
    assert torch.allclose(directions.norm(dim=0), torch.ones(50))
    found = sliced_distances(points, [points + shift, points[torch.randperm(500, generator=random(2))]], directions)
    assert found[0] == pytest.approx(2 * directions[0].abs().mean().item(), rel=1e-4)
    assert found[1] == pytest.approx(0, abs=1e-6)


def test_the_cheap_distance_and_the_spread() -> None:
    reals, fakes = noise(40), noise(40, seed=1)
    near, far = pixel_swd(reals, fakes, random(0)), pixel_swd(reals, fakes // 2, random(0))
    assert 0 < near < 0.5 * far and pixel_swd(reals, reals, random(0)) == 0
    assert spread(reals[:1].repeat(4, 1, 1, 1)) < 1e-6 < spread(reals)


@pytest.mark.parametrize(
    ("act", "part"),
    [
        (lambda: PyramidConfig(patches=0), "patches"),
        (lambda: PyramidConfig(patch_size=4), "odd"),
        (lambda: PyramidConfig(lowest=5), "lowest"),
        (lambda: Descriptors(2, (6, 9), SMALL, random(0)), "at least 7 px, got 6 x 9"),
        (lambda: Descriptors(0, (16, 16), SMALL, random(0)), "at least one picture"),
        (lambda: Descriptors(2, (16, 16), SMALL, random(0)).add(noise(3, 16)), "2 pictures of 16 x 16 px"),
        (lambda: Descriptors(2, (16, 16), SMALL, random(0)).add(noise(1, 32)), "got 1 of 32 x 32 px"),
        (lambda: Descriptors(2, (16, 16), SMALL, random(0)).normalised(0), "2 pictures were announced, got 0"),
        (lambda: swd(noise(3), noise(4)), "same shape"),
        (lambda: multiscale_similarity(noise(2, 15), noise(2, 15)), "at least 16 px"),
        (lambda: multiscale_similarity(noise(2, 16), noise(3, 16)), "pairs of one size"),
        (lambda: mean_similarity([noise(1)]), "at least one pair"),
    ],
)
def test_mistakes_say_what_is_allowed(act: object, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        act()  # type: ignore[operator]
