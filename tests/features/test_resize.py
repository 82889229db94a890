"""Resizers against the authors' numbers and against Pillow."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from frugan.features.resize import RULES, resize

PILLOW = {
    "bicubic-antialias": Image.Resampling.BICUBIC,
    "bilinear-antialias": Image.Resampling.BILINEAR,
    "lanczos-antialias": Image.Resampling.LANCZOS,
}
SMALL = {  # name in the parity data -> rule, greatest error in units of 255
    "cleanfid_PIL_bicubic": ("bicubic-antialias", 1e-4),
    "cleanfid_PIL_bilinear": ("bilinear-antialias", 1e-4),
    "cleanfid_PIL_lanczos": ("lanczos-antialias", 1e-4),
    "cleanfid_PyTorch_bilinear": ("bilinear", 0.0),
    "tf1_alignFalse_slow": ("tf1-bilinear", 0.0),
    "tf1_alignFalse_fast": ("tf1-bilinear", 2e-3),  # their faster form rounds in another order
}


def chw(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)[None].float()


def pillow(images: Tensor, height: int, width: int, filter: Image.Resampling) -> Tensor:
    planes = [Image.fromarray(plane.numpy()) for plane in images.reshape(-1, *images.shape[2:])]
    done = [torch.from_numpy(np.array(plane.resize((width, height), filter))) for plane in planes]
    return torch.stack(done).reshape(*images.shape[:2], height, width).clamp(0, 255)


@pytest.mark.parametrize("method", SMALL)
def test_small_pictures_equal_the_authors(fixtures_dir: Path, method: str) -> None:
    rule, tolerance = SMALL[method]
    data = load_file(fixtures_dir / "studiogan" / "resize-small-a.io.safetensors")
    cases = [name for name in data if f".{method}_to_" in name and not name.endswith("quantized")]
    assert len(cases) >= 9
    for name in cases:
        expected = data[name]
        got = resize(chw(data["image." + name.split(".")[0]]), expected.shape[0], expected.shape[1], rule)
        torch.testing.assert_close(got, chw(expected), rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", ["small", "large"])
def test_299_equals_the_authors(fixtures_dir: Path, size: str) -> None:
    folder = fixtures_dir / "studiogan"
    data = load_file(folder / f"resize299-{size}-a.io.safetensors")
    rules = (
        ("clean", "bicubic-antialias", 1e-4),
        ("legacy_pytorch", "bilinear", 0),
        ("tf1_bilinear", "tf1-bilinear", 0),
    )
    for name, rule, tolerance in rules:
        got = resize(chw(data["image"]), 299, 299, rule)[0].permute(1, 2, 0)
        torch.testing.assert_close(got[::6], data[f"{name}.rows_every_6"], rtol=0, atol=tolerance)
        sums = got.double().sum(dim=(0, 2))
        torch.testing.assert_close(sums, data[f"{name}.col_sums"], rtol=0, atol=tolerance * 900)
    whole = load_file(folder / f"resize299-{size}-cleanfull-a.io.safetensors")
    got = resize(chw(whole["image"]), 299, 299, "bicubic-antialias")
    torch.testing.assert_close(got, chw(whole["clean"]), rtol=0, atol=1e-4)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.sampled_from(sorted(PILLOW)))
@settings(max_examples=60, deadline=None)
def test_antialiasing_equals_pillow(height: int, width: int, to_height: int, to_width: int, rule: str) -> None:
    images = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(height * 71 + width)) * 255
    got = resize(images, to_height, to_width, rule)
    torch.testing.assert_close(got, pillow(images, to_height, to_width, PILLOW[rule]), rtol=0, atol=2e-4)


def test_large_pictures_equal_pillow() -> None:
    images = torch.rand(1, 3, 517, 1024) * 255
    expected = pillow(images, 224, 224, Image.Resampling.BICUBIC)
    torch.testing.assert_close(resize(images, 224, 224, "bicubic-antialias"), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_keeps_flat_colours_and_fitting_pictures(rule: str) -> None:
    images = torch.rand(2, 3, 9, 7) * 300  # also outside the range: pictures that fit come back as given
    assert resize(images, 9, 7, rule) is images
    for colour in (0.0, 17.0, 255.0):
        got = resize(torch.full((1, 1, 5, 6), colour), 13, 3, rule)
        torch.testing.assert_close(got, torch.full((1, 1, 13, 3), colour), rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(3, 4), (11, 9)])
def test_every_rule_is_differentiable(rule: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = (torch.rand(1, 2, 6, 7) * 100 + 60).requires_grad_()
    direction = torch.randn(1, 2, *size)
    (gradient,) = torch.autograd.grad((resize(images, *size, rule) * direction).sum(), images)
    step = torch.randn_like(images)
    with torch.no_grad():  # linear inside the range: the derivative is the difference
        difference = ((resize(images + step, *size, rule) - resize(images, *size, rule)) * direction).sum()
    torch.testing.assert_close((gradient * step).sum(), difference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_what_is_kept_from_inference_serves_training(rule: str) -> None:
    with torch.inference_mode():
        resize(torch.rand(1, 1, 19, 23), 5, 31, rule)
    images = torch.rand(1, 1, 19, 23, requires_grad=True)
    resize(images, 5, 31, rule).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_results_are_clipped_and_errors_are_told() -> None:
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 255
    got = resize(edge, 32, 32, "bicubic-antialias")
    assert got.min() == 0 and got.max() == 255
    with pytest.raises(ValueError, match="did you mean 'bilinear'"):
        resize(edge, 4, 4, "bilinera")
    with pytest.raises(ValueError, match="at least 1, got 0 x 4"):
        resize(edge, 0, 4, "bilinear")
