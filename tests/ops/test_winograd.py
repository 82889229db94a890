import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from frugan.ops import winograd

SHAPES = {
    "one tile": (1, 1, 1, 4, 4),
    "odd channels": (3, 5, 7, 8, 12),
    "pictures left over": (11, 8, 9, 16, 16),
    "rows left over": (2, 64, 3, 20, 16),
    "more channels than a block": (2, 600, 1, 8, 8),
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given(n, c_in, c_out, height, width):
    weight = draw(c_out, c_in, 3, 3, seed=1) / (9 * c_in) ** 0.5
    return draw(n, c_in, height, width), weight, draw(n, c_in, seed=2), draw(n, c_out, seed=3), draw(c_out, seed=4)


def exactly(x, weight, before, after, bias):
    x, weight, before, after, bias = (t.double() for t in (x, weight, before, after, bias))
    result = F.conv2d(x * before[:, :, None, None], weight, padding=1)
    return result * after[:, :, None, None] + bias[:, None, None]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_is_the_convolution(monkeypatch, shape, layout):
    monkeypatch.setattr(winograd, "_BLOCK", 1024)
    x, *rest = given(*shape)
    got = winograd.convolve_scaled(x.contiguous(memory_format=layout), *rest)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got.double(), exactly(x, *rest), atol=5e-5, rtol=0)


def test_leading_channels_of_wider_weights_do():
    x, weight, *rest = given(2, 3, 4, 8, 8)
    wider = F.pad(weight, (0, 0, 0, 0, 0, 2, 0, 3))[:4, :3]
    torch.testing.assert_close(winograd.convolve_scaled(x, wider, *rest), winograd.convolve_scaled(x, weight, *rest))


def test_it_multiplies_a_quarter_as_often():
    x, *rest = given(2, 64, 64, 16, 16)
    with FlopCounterMode(display=False) as counter:
        winograd.convolve_scaled(x, *rest)
    kernels, transforms = 36 * 9 * 64 * 64, 2 * 16 * 64 * (36 * 6 * 2 + 24 * 6 + 16 * 6)
    assert counter.get_total_flops() == 2 * (2 * 256 * 9 * 64 * 64 // 4 + kernels + transforms)


@pytest.mark.parametrize("height, width", [(6, 8), (8, 7)])
def test_only_whole_tiles(height, width):
    with pytest.raises(ValueError, match=f"multiples of 4, got {height} and {width}"):
        winograd.convolve_scaled(*given(1, 2, 2, height, width))


def test_when_it_suits():
    x, weight, *_ = given(1, 64, 64, 16, 16)
    assert not winograd.suits(x, weight, 1)
    with torch.no_grad():
        assert not winograd.suits(x, weight, 1)
    with torch.inference_mode():
        assert winograd.suits(x, weight, 1)
        assert winograd.suits(x[:, :, :8, :8].repeat(4, 1, 1, 1), weight, 1)
        for other, kernel, padding in (
            (x, weight, 0),
            (x.double(), weight.double(), 1),
            (x.bfloat16(), weight, 1),
            (x.to("meta"), weight, 1),
            (x[:, :, :15], weight, 1),
            (x[:, :, :8, :8], weight, 1),
            (x[:, :63], weight[:, :63], 1),
            (x, weight[:63], 1),
            (x, weight.repeat(2, 1, 1, 1), 1),
            (x, F.pad(weight, (1, 1, 1, 1)), 1),
        ):
            assert not winograd.suits(other, kernel, padding), (other.shape, kernel.shape, padding)
        with FlopCounterMode(display=False):
            assert not winograd.suits(x, weight, 1)
