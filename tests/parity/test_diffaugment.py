"""DiffAugment gives the published pixels and gradients for the published draws."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from frugan.augment.diffaugment import DiffAugmentConfig, diffaugment

Numbers = dict[str, Tensor]


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-5, atol: float = 2e-6) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def pair(rows: Tensor, columns: Tensor) -> Tensor:
    """Our draw (N, 2) from their two draws (N, 1, 1), of which `x` acts on rows and `y` on columns."""
    return torch.cat([rows.flatten(1), columns.flatten(1)], dim=1)


def compare(images: Tensor, policy: str, draws: Numbers, cotangent: Tensor, output: Tensor, gradient: Tensor) -> None:
    images = images.clone().requires_grad_()
    ours = diffaugment(images, DiffAugmentConfig(policy=policy), draws)
    close(ours, output)
    close(torch.autograd.grad(ours, images, cotangent)[0], gradient)


@pytest.mark.parametrize("size", ["20x20", "13x18"])
class TestDataEfficientGans:
    @pytest.fixture
    def numbers(self, fixtures_dir: Path) -> Numbers:
        return load_file(fixtures_dir / "diffaug-a.io.safetensors")

    def compare(self, numbers: Numbers, size: str, name: str, policy: str, draws: Numbers) -> None:
        output, gradient = numbers[f"{name}.{size}.y"], numbers[f"{name}.{size}.grad_x"]
        compare(numbers[f"x.{size}"], policy, draws, numbers[f"cotangent.{size}"], output, gradient)

    @pytest.mark.parametrize("name", ["brightness", "saturation", "contrast"])
    def test_color(self, numbers: Numbers, size: str, name: str) -> None:
        draw = numbers[f"rand_{name}.{size}.draw.u"].flatten()
        self.compare(numbers, size, f"rand_{name}", name, {name: draw})

    @pytest.mark.parametrize(("name", "draw"), [("translation", "translation"), ("cutout", "offset")])
    def test_geometry(self, numbers: Numbers, size: str, name: str, draw: str) -> None:
        theirs = [numbers[f"rand_{name}.{size}.draw.{draw}_{axis}"] for axis in "xy"]
        self.compare(numbers, size, f"rand_{name}", name, {name: pair(*theirs)})

    def test_full_policy(self, numbers: Numbers, size: str) -> None:
        policy = "color,translation,cutout"
        key = f"policy_color_translation_cutout.{size}.draw.rand_"
        draws = {name: numbers[f"{key}{name}.u"].flatten() for name in ("brightness", "saturation", "contrast")}
        draws["translation"] = pair(*(numbers[f"{key}translation.translation_{axis}"] for axis in "xy"))
        draws["cutout"] = pair(*(numbers[f"{key}cutout.offset_{axis}"] for axis in "xy"))
        self.compare(numbers, size, "policy_color_translation_cutout", policy, draws)


@pytest.mark.parametrize("policy", ["color", "translation", "cutout", "color,translation,cutout"])
def test_studiogan(fixtures_dir: Path, policy: str) -> None:
    numbers = load_file(fixtures_dir / "studiogan/augment-a.io.safetensors")
    key = f"diffaug_{policy.replace(',', '_')}"
    theirs = iter(numbers[f"{key}.draw{index}"] for index in range(7) if f"{key}.draw{index}" in numbers)
    draws = {}
    for name in DiffAugmentConfig(policy=policy).operations:
        draws[name] = pair(next(theirs), next(theirs)) if name in ("translation", "cutout") else next(theirs).flatten()
    assert next(theirs, None) is None
    compare(numbers["x"], policy, draws, numbers["cotangent"], numbers[f"{key}.out"], numbers[f"{key}.grad_x"])


@pytest.mark.parametrize("u", [0.03, 0.37, 0.81, 0.99])
@pytest.mark.parametrize("size", [32, 24])
def test_sketch_your_own_gan_upscale(fixtures_dir: Path, size: int, u: float) -> None:
    numbers = load_file(fixtures_dir / "gansketch-upscale-a.io.safetensors")
    draws = {"upscale": torch.full((2,), u, dtype=torch.float64)}
    ours = diffaugment(numbers[f"x.{size}"], DiffAugmentConfig(policy="upscale"), draws)
    # The authors' own float32 coordinates are off by 2e-6 from exact ones.
    close(ours, numbers[f"y.{size}.u{u}"], atol=5e-6)
