"""Mirrored and shifted images against slow indexing."""

import torch

from frugan.augment import flipshift
from frugan.training.door import Draw, Share


def test_each_pixel_comes_from_where_the_draws_say() -> None:
    images = torch.randn(6, 2, 7, 5)
    draws = flipshift.FlipShift(
        torch.tensor([True, False, True, False, False, True]),
        torch.tensor([[0, 0], [1, 0], [-1, 1], [3, -2], [-3, 2], [0, 1]]),
    )
    moved = flipshift.apply(images, draws)

    def reflected(place: int, size: int) -> int:
        while not 0 <= place < size:
            place = -place if place < 0 else 2 * (size - 1) - place
        return place

    for n in range(6):
        for row in range(7):
            for column in range(5):
                y = reflected(row + int(draws.shifts[n, 0]), 7)
                x = reflected(column + int(draws.shifts[n, 1]), 5)
                x = 4 - x if draws.is_mirrored[n] else x
                assert torch.equal(moved[n, :, row, column], images[n, :, y, x])


def test_shifts_reach_an_eighth_of_each_side_and_half_are_mirrored() -> None:
    draws = flipshift.draw(Draw(("flip",), torch.device("cpu"), Share(4000)).uniform, 32, 16)
    assert set(draws.shifts[:, 0].tolist()) == set(range(-4, 5))
    assert set(draws.shifts[:, 1].tolist()) == set(range(-2, 3))
    assert abs(float(draws.is_mirrored.float().mean()) - 0.5) < 0.03


def test_a_single_pixel_stays() -> None:
    images = torch.randn(3, 1, 1, 1)
    assert torch.equal(flipshift.apply(images, flipshift.draw(lambda *shape: torch.rand(3, *shape), 1, 1)), images)
