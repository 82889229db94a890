import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from frugan.ops import banded, constants, resample
from tests import reference

F64 = torch.float64
TAPS = {
    "1331": (1.0, 3.0, 3.0, 1.0),
    "asymmetric": (0.5, -0.2, 0.4, 0.1, 0.2),
    "one tap": (1.0,),
    "wavelet": tuple(0.3 - 0.04 * number + (number % 3) * 0.1 for number in range(12)),
}
CASES = [
    {"padding": 8},
    {"padding": (7, 6, 6, 9), "flip_filter": True},
    {"up": 2, "padding": (7, 6, 7, 6), "gain": 4},
    {"down": 2, "padding": (7, 6, 5, 9), "gain": 0.5, "flip_filter": True},
    {"up": (2, 1), "down": (1, 2), "padding": (3, 2, 8, 4)},
    {"up": (1, 2), "down": (2, 1), "padding": (9, 2, -1, 4)},
    {"up": 2, "down": 3, "padding": (4, 4, 5, 4)},
    {"up": 2, "down": 2, "padding": (-1, 3, 2, -2)},
    {"up": 3, "padding": (-2, -1, 0, -1)},
]


@pytest.fixture
def by_products(monkeypatch):
    """As on a card: every separable filter runs as products, and is counted."""
    runs = []
    run = banded.correlate
    monkeypatch.setattr(banded, "suits", lambda x, up: True)
    monkeypatch.setattr(banded, "correlate", lambda *given: runs.append(1) or run(*given))
    return runs


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def exact(taps):
    """The filter and its plane, both in float64."""
    values = torch.tensor(taps, dtype=F64) / sum(taps)
    return resample.Fir(taps), torch.outer(values, values)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", TAPS)
@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (1, 1, 7, 11)], ids=str)
def test_products_follow_the_definition_with_their_derivatives(by_products, name, case, shape):
    fir, plane = exact(TAPS[name])
    x = draw(*shape)
    got = reference.derivatives(lambda x: resample.upfirdn2d(x, fir, **case), [x])
    expected = reference.derivatives(lambda x: resample.upfirdn2d_reference(x, plane, **case), [x])
    assert by_products
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_resampling_convolutions_by_products(by_products, kernel, up, down):
    fir, plane = exact(TAPS["1331"])
    x, weight = draw(2, 3, 7, 6), draw(4, 3, kernel, kernel, seed=1)
    case = {"up": up, "down": down, "padding": kernel // 2, "flip_weight": up == 1}
    got = reference.derivatives(lambda *a: resample.conv2d_resample(*a, fir=fir, **case), [x, weight])
    expected = reference.derivatives(lambda *a: reference.conv2d_resample(*a, plane, **case), [x, weight])
    assert bool(by_products) == (up != down)
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype, bound", [(torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)])
@pytest.mark.parametrize("change", [resample.upsample2d, resample.downsample2d, resample.filter2d])
def test_products_in_half_precision(by_products, change, dtype, bound):
    x = draw(2, 8, 17, 16)
    fir, plane = exact(TAPS["1331"])
    got = change(x.to(dtype), fir)
    assert got.dtype == dtype
    torch.testing.assert_close(got.to(F64), change(x, plane), atol=bound, rtol=bound)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(6, 6), (3, 9), (9, 3)], ids=str)
def test_maps_and_their_gradients_stay_channels_last(by_products, layout, size):
    fir = resample.Fir(TAPS["1331"])
    x = draw(2, 4, *size).to(memory_format=layout).requires_grad_()
    for change in (resample.upsample2d, resample.downsample2d):
        y = change(x, fir)
        assert y.is_contiguous(memory_format=torch.channels_last)
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_the_cheaper_axis_comes_first(monkeypatch):
    order = []
    for name in ("_rows", "_columns"):
        run = getattr(banded, name)
        monkeypatch.setattr(banded, name, lambda x, band, name=name, run=run: order.append(name) or run(x, band))
    same, half = (banded.Band((1.0,), 1, down, 0, 0) for down in (1, 2))
    banded.correlate(draw(1, 2, 8, 8), half, same)
    banded.correlate(draw(1, 2, 8, 8), same, half)
    assert order == ["_rows", "_columns", "_columns", "_rows"]


def test_a_matrix_is_made_once_and_serves_both_with_and_without_gradients():
    band = banded.Band((0.25, 0.75), 1, 1, 1, 0)
    with torch.inference_mode():
        banded.correlate(draw(1, 2, 5, 5), band, band)
    before = constants._kept.cache_info()
    x = draw(1, 2, 5, 5).requires_grad_()
    banded.correlate(x, band, band).sum().backward()
    after = constants._kept.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 2)


def test_nothing_is_kept_of_what_torch_traces(by_products):
    fir = resample.Fir(TAPS["1331"])
    x = draw(1, 2, 13, 13)
    before = constants._kept.cache_info()
    gradient = torch.func.grad(lambda x: resample.upsample2d(x, fir).square().sum())(x)
    program = torch.export.export(Upsample(fir), (x,))
    assert constants._kept.cache_info() == before
    y = x.clone().requires_grad_()
    resample.upsample2d(y, fir).square().sum().backward()
    torch.testing.assert_close(gradient, y.grad)
    torch.testing.assert_close(program.module()(x), resample.upsample2d(x, fir))


class Upsample(torch.nn.Module):
    def __init__(self, fir):
        super().__init__()
        self.fir = fir

    def forward(self, x):
        return resample.upsample2d(x, self.fir)


@pytest.mark.parametrize("rows, columns", [*itertools.product((16, 17), repeat=2)])
def test_matrices_are_stored_along_an_axis_of_eights(rows, columns):
    matrix = banded._made(banded.Band((1.0, 1.0), 1, 1, 0, rows - columns + 1), columns, torch.device("cpu"), F64)
    assert matrix.shape == (rows, columns)
    assert matrix.stride(0 if rows % 8 == 0 and columns % 8 else 1) == 1


def test_products_are_for_half_precision_on_a_card():
    def at(device, dtype, size):
        with FakeTensorMode():
            return banded.suits(torch.empty(1, 1, size, 4, dtype=dtype, device=device), (1, 2))

    assert at("cuda", torch.float16, 4) and at("cuda", torch.bfloat16, banded.WIDEST // 2)
    assert not at("cuda", torch.float32, 4) and not at("cpu", torch.float16, 4)
    assert not at("cuda", torch.float16, banded.WIDEST // 2 + 1)


def test_a_filter_moves_with_its_network_and_is_not_saved():
    fir = resample.Fir([2, 6, 6, 2])
    assert fir.taps == (0.125, 0.375, 0.375, 0.125)
    assert not fir.state_dict() and fir.to(F64).kernel.dtype == F64
    assert torch.equal(fir.kernel.float(), resample.fir_filter([1.0, 3.0, 3.0, 1.0]))
    with pytest.raises(ValueError, match="at least one tap"):
        resample.Fir([])


@pytest.mark.parametrize("taps", TAPS.values(), ids=TAPS)
@pytest.mark.parametrize("up", [2, (1, 2)], ids=str)
def test_small_pictures_are_drawn_by_products(monkeypatch, taps, up):
    runs = []
    run = banded.correlate
    monkeypatch.setattr(banded, "correlate", lambda *given: runs.append(1) or run(*given))
    fir, x = resample.Fir(taps), draw(2, 3, 9, 7).float()
    case = {"up": up, "padding": (7, 6, 8, 9), "gain": 4}
    expected = resample.upfirdn2d(x, fir, **case)
    assert not runs
    with torch.inference_mode():
        got = resample.upfirdn2d(x, fir, **case)
        resample.upfirdn2d(x, fir.kernel, **case)
    assert runs == [1]
    torch.testing.assert_close(got, expected)


def test_which_pictures_are_small():
    with torch.inference_mode():
        assert banded.suits(torch.empty(2, 4, 64, 32), (2, 2))
        for x in (torch.empty(1, 5, 8, 8), torch.empty(1, 3, 65, 8), torch.empty(1, 3, 8, 8, dtype=F64)):
            assert not banded.suits(x, (2, 2))
    assert not banded.suits(torch.empty(1, 3, 8, 8), (2, 2))
