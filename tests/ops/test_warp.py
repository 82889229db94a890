"""Warping and filtering against the definitions spelt out, the wavelets against what makes them ones, gradients."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from frugan.ops import warp as module
from frugan.ops.warp import filter_each, octaves, warp


def pictures(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mirrored(row: list[float], place: int) -> float:
    """What stands at a place of a row mirrored at both ends: walk there, turning around at the ends."""
    position, step = 0, 1
    for _ in range(abs(place)):
        if len(row) == 1:
            break
        if not 0 <= position + step < len(row):
            step = -step
        position += step
    return row[position]


def plain(image: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """A warp of one map, sample by sample from the definition."""
    taps = [tap / math.sqrt(2) for tap in module._SYM6]
    height, width = image.shape
    rows = [[float(value) for value in row] for row in image]

    def pixel(y: int, x: int) -> float:
        return mirrored([mirrored(row, x) for row in rows], y)

    def doubled(y: int, x: int) -> float:
        sources = (range(math.ceil((place - 6) / 2), math.floor((place + 5) / 2) + 1) for place in (y, x))
        return sum(4 * taps[y - 2 * i + 5] * taps[x - 2 * j + 5] * pixel(i, j) for i, j in itertools.product(*sources))

    def looked_up(y: int, x: int) -> float:
        place = matrix @ torch.tensor([x / 2 - (width - 1) / 2, y / 2 - (height - 1) / 2]).double() + offset
        from_x, from_y = (2 * (float(place[axis]) + (size - 1) / 2) for axis, size in ((0, width), (1, height)))
        top, left = math.floor(from_y), math.floor(from_x)
        total = 0.0
        for row, column in itertools.product((top, top + 1), (left, left + 1)):
            total += (1 - abs(from_y - row)) * (1 - abs(from_x - column)) * doubled(row, column)
        return total

    result = torch.zeros(height, width, dtype=torch.float64)
    for y, x, a, b in itertools.product(range(height), range(width), range(12), range(12)):
        result[y, x] += taps[a] * taps[b] * looked_up(2 * y + a - 5, 2 * x + b - 5)
    return result


def turned(degrees: float, scale: float = 1.0) -> Tensor:
    angle = math.radians(degrees)
    rows = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return torch.tensor([rows], dtype=torch.float64) * scale


class TestWarp:
    @pytest.mark.parametrize("shape", [(3, 2), (1, 4), (1, 1)])
    def test_against_the_definition(self, shape: tuple[int, int]) -> None:
        image = pictures(1, 1, *shape)
        matrix, offset = turned(25.0, 1.7), torch.tensor([[0.4, -3.3]], dtype=torch.float64)
        expected = plain(image[0, 0], matrix[0], offset[0])
        torch.testing.assert_close(warp(image, matrix, offset)[0, 0], expected, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("shape", [(8, 8), (7, 12), (33, 5), (1, 9), (1, 1)])
    def test_shifts_by_whole_pixels_move_the_mirrored_image(self, shape: tuple[int, int]) -> None:
        image, unit = pictures(1, 2, *shape), torch.eye(2, dtype=torch.float64)[None]
        for right, down in ((0, 0), (2, -1), (-40, 23)):
            moved = warp(image, unit, torch.tensor([[right, down]], dtype=torch.float64))
            for y in range(shape[0]):
                for x in range(shape[1]):
                    rows = [mirrored(row.tolist(), x + right) for row in image[0, 0]]
                    assert float(moved[0, 0, y, x]) == pytest.approx(mirrored(rows, y + down), abs=1e-10)

    def test_directions(self) -> None:
        image = torch.zeros(1, 1, 9, 9)
        image[0, 0, 4, 7] = 1.0  # right of the centre
        for degrees, place in ((90.0, (1, 4)), (180.0, (4, 1)), (270.0, (7, 4))):
            # What is shown at p comes from R p: the picture turns by -R, which is counter-clockwise, as y points down.
            shown = warp(image, turned(degrees).float(), torch.zeros(1, 2))[0, 0]
            assert divmod(int(shown.argmax()), 9) == place

    def test_constant_images_stay_constant_wherever_they_go(self) -> None:
        image = torch.full((1, 3, 10, 6), 0.7)
        changed = warp(image, turned(31.0, 9.0).float(), torch.tensor([[100.0, -77.0]]))
        torch.testing.assert_close(changed, image, rtol=0, atol=1e-5)

    def test_images_do_not_see_each_other(self) -> None:
        images = pictures(3, 2, 6, 9)
        matrix = torch.cat([turned(10.0), turned(80.0, 0.3), turned(-45.0, 2.0)])
        offset = pictures(3, 2, seed=2)
        together = warp(images, matrix, offset)
        for i in range(3):
            alone = warp(images[i : i + 1], matrix[i : i + 1], offset[i : i + 1])
            torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-12)

    def test_first_and_second_derivatives(self) -> None:
        images = pictures(2, 1, 4, 3).requires_grad_()
        matrix, offset = torch.cat([turned(20.0), turned(200.0, 1.3)]), pictures(2, 2, seed=3)
        # Squared, for a linear map has no second derivative of its own.
        for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
            assert check(lambda x: warp(x, matrix, offset) ** 2, images, fast_mode=True)

    def test_any_memory_format(self) -> None:
        images = pictures(2, 3, 6, 6)
        matrix, offset = torch.cat([turned(20.0), turned(200.0)]), torch.zeros(2, 2, dtype=torch.float64)
        last = warp(images.contiguous(memory_format=torch.channels_last), matrix, offset)
        torch.testing.assert_close(last, warp(images, matrix, offset))


class TestWavelets:
    @pytest.mark.parametrize(("taps", "moments"), [(module._SYM6, 6), (module._SYM2, 2)])
    def test_they_are_orthogonal_with_vanishing_moments(self, taps: tuple[float, ...], moments: int) -> None:
        low = torch.tensor(taps, dtype=torch.float64)
        assert float(low.sum()) == pytest.approx(math.sqrt(2), abs=1e-10)
        for shift in range(0, len(taps), 2):
            product = float((low[shift:] * low[: len(taps) - shift]).sum())
            assert product == pytest.approx(float(shift == 0), abs=1e-10)
        places = torch.arange(len(taps), dtype=torch.float64)
        signs = 1 - 2 * (places % 2)
        for power in range(moments):
            assert float((signs * places**power * low).sum()) == pytest.approx(0, abs=1e-10 * 11.0**power)

    def test_octaves_share_the_frequencies(self) -> None:
        bank = octaves(4)
        assert bank.shape == (4, 43)
        torch.testing.assert_close(bank, bank.flip(1))
        middle = torch.zeros(43, dtype=torch.float64)
        middle[21] = 1
        torch.testing.assert_close(bank.sum(dim=0), middle, rtol=0, atol=1e-12)
        response = torch.fft.rfft(torch.nn.functional.pad(bank, (0, 512 - 43))).abs()
        edges = (0, 32, 64, 128, 257)
        for band, (first, last) in enumerate(itertools.pairwise(edges)):
            middle_of_band = response[:, (first + last) // 2]
            assert int(middle_of_band.argmax()) == band and float(middle_of_band[band]) > 0.5


class TestFilterEach:
    @pytest.mark.parametrize("shape", [(50, 44), (5, 9), (1, 3), (1, 1)])
    def test_against_loops(self, shape: tuple[int, int]) -> None:
        images, half = pictures(2, 1, *shape), pictures(2, 4, seed=5)
        taps = torch.cat([half, half[:, :3].flip(1)], dim=1)
        filtered = filter_each(images, taps)
        for image, own, ours in zip(images[:, 0], taps, filtered[:, 0], strict=True):
            across = torch.tensor(
                [
                    [sum(float(own[k]) * mirrored(row.tolist(), x + k - 3) for k in range(7)) for x in range(shape[1])]
                    for row in image
                ]
            )
            down = [
                [sum(float(own[k]) * mirrored(column.tolist(), y + k - 3) for k in range(7)) for y in range(shape[0])]
                for column in across.T
            ]
            torch.testing.assert_close(ours, torch.tensor(down, dtype=torch.float64).T, rtol=0, atol=1e-5)
