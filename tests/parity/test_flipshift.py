"""Mirrored and shifted images are those of the authors' code at the same draws, and so are the points of DRAGAN."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from frugan.augment.flipshift import FlipShift, apply
from frugan.losses.regularize import around, batch_deviation
from tests.parity.test_losses import close


def test_consistency_augmentation(fixtures_dir: Path) -> None:
    numbers = load_file(fixtures_dir / "studiogan/augment-a.io.safetensors")
    images = numbers["x"].requires_grad_()
    shifts = torch.cat([numbers["cr.draw1"], numbers["cr.draw2"]], dim=1).flatten(1)
    moved = apply(images, FlipShift(numbers["cr.draw0"].flatten() < 0.5, shifts))
    assert torch.equal(moved, numbers["cr.out"])
    (gradient,) = torch.autograd.grad((moved * numbers["cotangent"]).sum(), images)
    close(gradient, numbers["cr.grad_x"])


def test_dragan_points(fixtures_dir: Path) -> None:
    numbers = load_file(fixtures_dir / "studiogan/loss-gradpen-a.io.safetensors")
    real = numbers["real"]
    points = around(real, batch_deviation(real), numbers["dragan.alpha"].flatten(), numbers["dragan.noise"])
    close(points, numbers["dragan.points"])
    assert points.is_leaf and points.requires_grad
