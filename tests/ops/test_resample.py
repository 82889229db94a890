import pytest
import torch

from frugan.ops import resample
from tests import reference

F64 = torch.float64
FIRS = {
    "1331": torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8,
    "121": torch.tensor([1.0, 2.0, 1.0]) / 4,
    "asymmetric": torch.tensor([0.5, -0.2, 0.4, 0.1, 0.2]),
    "one tap": torch.tensor([1.0]),
    "plane": torch.arange(12.0).reshape(4, 3) / 66,
}
CASES = [
    {},
    {"padding": (2, 1, 1, 3)},
    {"up": 2, "padding": (2, 1, 2, 1), "gain": 4},
    {"up": 2, "padding": (1, 1, 1, 1), "flip_filter": True},
    {"down": 2, "padding": (1, 1, 1, 1)},
    {"down": 2, "padding": (2, 0, 1, 2), "flip_filter": True, "gain": 0.5},
    {"up": (2, 1), "down": (1, 2), "padding": (3, 2, 1, 4), "flip_filter": True},
    {"up": (1, 3), "padding": (3, 2, 1, 4)},
    {"up": 2, "down": 2, "padding": (-1, 3, 2, -2)},
    {"up": 2, "down": 3, "padding": (4, 4, 4, 4)},
    {"padding": (-1, 0, 0, -1)},
    {"up": 2, "padding": (-2, 1, 0, -1)},
]


def draw(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", FIRS)
def test_both_paths_follow_the_definition(name, case):
    fir = FIRS[name].to(F64)
    x = draw(2, 3, 7, 6)
    expected = reference.upfirdn2d(x, fir, **case)
    torch.testing.assert_close(resample.upfirdn2d(x, fir, **case), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(resample.upfirdn2d_reference(x, fir, **case), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ["1331", "plane"])
@pytest.mark.parametrize("size", [(5, 4), (7, 9), (1, 1)], ids=str)
def test_derivatives_of_both_paths_agree(name, case, size):
    fir = FIRS[name].to(F64)
    x = draw(1, 2, *size)
    try:
        expected = reference.derivatives(lambda x: resample.upfirdn2d_reference(x, fir, **case), [x])
    except RuntimeError:
        with pytest.raises(ValueError, match="does not fit"):
            resample.upfirdn2d(x, fir, **case)
        return
    got = reference.derivatives(lambda x: resample.upfirdn2d(x, fir, **case), [x])
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["1331", "121", "asymmetric", "plane"])
@pytest.mark.parametrize("size", [(4, 6), (5, 3)], ids=str)
def test_up_down_and_filter_paddings(name, size):
    fir = FIRS[name].to(F64)
    rows, columns = (len(fir), len(fir)) if fir.ndim == 1 else fir.shape
    x = draw(1, 2, *size)
    up = [(columns + 1) // 2, (columns - 2) // 2, (rows + 1) // 2, (rows - 2) // 2]
    down = [(columns - 1) // 2, (columns - 2) // 2, (rows - 1) // 2, (rows - 2) // 2]
    same = [columns // 2, (columns - 1) // 2, rows // 2, (rows - 1) // 2]
    for got, expected in (
        (resample.upsample2d(x, fir), reference.upfirdn2d(x, fir, up=2, padding=up, gain=4)),
        (resample.downsample2d(x, fir), reference.upfirdn2d(x, fir, down=2, padding=down)),
        (resample.filter2d(x, fir), reference.upfirdn2d(x, fir, padding=same)),
    ):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_upsampling_keeps_a_constant():
    fir = resample.fir_filter([1.0, 3.0, 3.0, 1.0])
    inside = resample.upsample2d(torch.ones(1, 1, 6, 6), fir)[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inside, torch.ones(1, 1, 8, 8))
    torch.testing.assert_close(fir.sum(), torch.tensor(1.0))


CONVS = [
    {"up": up, "down": down, "padding": padding, "flip_weight": flip}
    for up, down in ((1, 1), (2, 1), (1, 2))
    for padding in (0, 1)
    for flip in (True, False)
]


@pytest.mark.parametrize("case", CONVS, ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", ["1331", "121", "plane"])
def test_conv2d_resample_equals_filter_then_convolution(name, kernel, case):
    fir = FIRS[name].to(F64)
    weight = draw(4, 3, kernel, kernel, seed=1)
    for size in ((6, 6), (7, 5)):
        x = draw(2, 3, *size)
        got = reference.derivatives(lambda *a: resample.conv2d_resample(*a, fir=fir, **case), [x, weight])
        expected = reference.derivatives(lambda *a: reference.conv2d_resample(*a, fir, **case), [x, weight])
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv2d_resample_bias_and_groups(case):
    fir = FIRS["1331"].to(F64)
    x, weight, bias = draw(2, 6, 6, 6), draw(4, 3, 3, 3, seed=1), draw(4, seed=2)
    got = resample.conv2d_resample(x, weight, bias, fir=fir, groups=2, **case)
    parts = zip(x.chunk(2, dim=1), weight.chunk(2), strict=True)
    halves = [reference.conv2d_resample(part, kernels, fir, **case) for part, kernels in parts]
    expected = torch.cat(halves, dim=1) + bias[:, None, None]
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("case", CONVS[2:4] + CONVS[6:8] + CONVS[10:12], ids=str)
def test_conv2d_resample_is_differentiable_twice(case):
    fir = FIRS["1331"].to(F64)
    x, weight = draw(1, 2, 3, 2).requires_grad_(), draw(1, 2, 3, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: resample.conv2d_resample(*a, fir=fir, **case), (x, weight))
    assert torch.autograd.gradgradcheck(lambda *a: resample.conv2d_resample(*a, fir=fir, **case), (x, weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_half_precision_and_layout_stay(dtype, layout):
    fir = FIRS["1331"]
    x, weight = draw(2, 8, 6, 6, dtype=torch.float32).to(memory_format=layout), draw(8, 8, 3, 3, dtype=torch.float32)
    for case in CONVS[2:4] + CONVS[6:8] + CONVS[10:12]:
        expected = resample.conv2d_resample(x, weight, fir=fir, **case)
        got = resample.conv2d_resample(x.to(dtype), weight.to(dtype), fir=fir, **case)
        assert got.dtype == dtype
        torch.testing.assert_close(got.float(), expected, atol=0.3, rtol=0.02)


def test_errors_say_what():
    x, fir = torch.zeros(1, 1, 4, 4), FIRS["1331"]
    with pytest.raises(ValueError, match="does not fit"):
        resample.upfirdn2d(x, fir, padding=-1)
    with pytest.raises(ValueError, match="up must be at least 1, got 0"):
        resample.upfirdn2d(x, fir, up=0)
    with pytest.raises(ValueError, match="either up or down"):
        resample.conv2d_resample(x, torch.zeros(1, 1, 3, 3), fir=fir, up=2, down=2)
    with pytest.raises(ValueError, match="needs a filter"):
        resample.conv2d_resample(x, torch.zeros(1, 1, 3, 3), up=2)
    for taps in ([], [1.0, -1.0]):
        with pytest.raises(ValueError, match="at least one tap"):
            resample.fir_filter(taps)


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1)], ids=str)
def test_a_convolution_merged_with_nearest_up_is_both(size):
    x, weight, bias = draw(2, 3, *size), draw(4, 3, 3, 3, seed=1), draw(4, seed=2)

    def plain(x, weight, bias):
        large = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return torch.nn.functional.conv2d(large, weight, bias, padding=1)

    got = reference.derivatives(resample.conv2d_nearest_up, [x, weight, bias])
    torch.testing.assert_close(got, reference.derivatives(plain, [x, weight, bias]), atol=1e-11, rtol=0)
    box = resample.fir_filter([1.0, 1.0]).to(F64)
    slow = resample.conv2d_resample(x, weight, bias, fir=box, up=2, padding=1)
    torch.testing.assert_close(resample.conv2d_nearest_up(x, weight, bias), slow, atol=1e-12, rtol=0)
    torch.testing.assert_close(resample.nearest_up2d(x), resample.upsample2d(x, box), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (2, 2)], ids=str)
def test_a_convolution_merged_with_average_down_is_both(size):
    x, weight, bias = draw(2, 3, *size), draw(4, 3, 3, 3, seed=1), draw(4, seed=2)

    def plain(x, weight, bias):
        y = torch.nn.functional.conv2d(x, weight, bias, padding=1)
        y = y[:, :, : y.shape[2] // 2 * 2, : y.shape[3] // 2 * 2]
        return (y[:, :, ::2, ::2] + y[:, :, 1::2, ::2] + y[:, :, ::2, 1::2] + y[:, :, 1::2, 1::2]) / 4

    got = reference.derivatives(resample.conv2d_average_down, [x, weight, bias])
    torch.testing.assert_close(got, reference.derivatives(plain, [x, weight, bias]), atol=1e-11, rtol=0)
    box = resample.fir_filter([1.0, 1.0]).to(F64)
    torch.testing.assert_close(resample.average_down2d(x), resample.downsample2d(x, box), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("merged", [resample.conv2d_nearest_up, resample.conv2d_average_down])
def test_merged_convolutions_take_float32_weights_for_half_precision_maps(merged, dtype):
    x, weight = draw(2, 8, 6, 6, dtype=torch.float32), draw(8, 8, 3, 3, dtype=torch.float32)
    got = merged(x.to(dtype), weight)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), merged(x, weight), atol=0.3, rtol=0.02)
