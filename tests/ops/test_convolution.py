import itertools

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from frugan.ops import convolution
from tests import reference

CASES = [
    {"stride": stride, "padding": padding, "groups": groups}
    for stride, padding, groups in itertools.product((1, 2, (2, 1)), (0, 1, (0, 2)), (1, 2))
]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("size", [(6, 5), (7, 8)], ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (2, 4)], ids=str)
def test_values_and_derivatives_are_those_of_torch(case, size, kernel):
    x, bias = draw(2, 4, *size), draw(6, seed=2)
    weight = draw(6, 4 // case["groups"], *kernel, seed=1)
    got = reference.derivatives(lambda *a: convolution.convolve(*a, **case), [x, weight, bias])
    torch.testing.assert_close(got, reference.derivatives(lambda *a: F.conv2d(*a, **case), [x, weight, bias]))
    weight = draw(4, 3, *kernel, seed=1)
    got = reference.derivatives(lambda *a: convolution.convolve_transposed(*a, **case), [x, weight])
    torch.testing.assert_close(got, reference.derivatives(lambda *a: F.conv_transpose2d(*a, **case), [x, weight]))


@pytest.mark.parametrize("function", [convolution.convolve, convolution.convolve_transposed], ids=lambda f: f.__name__)
def test_third_derivative(function):
    """A penalty on a gradient penalty: every node must itself be differentiable."""

    def third(run):
        x, weight = draw(1, 2, 4, 5).requires_grad_(), draw(2, 2, 3, 3, seed=1).requires_grad_()
        value = run(x, weight, stride=2, padding=1).pow(3).sum()
        for _ in range(3):
            grads = torch.autograd.grad(value, [x, weight], create_graph=True)
            value = sum(grad.pow(2).sum() for grad in grads)
        return grads

    other = F.conv2d if function is convolution.convolve else F.conv_transpose2d
    torch.testing.assert_close(third(function), third(other))


def test_function_transforms():
    x, weight = draw(1, 2, 4, 4), draw(2, 2, 3, 3, seed=1)

    def penalty(run, weight):
        slope = torch.func.grad(lambda x: run(x, weight).pow(3).sum())(x)
        return slope.square().sum()

    got = torch.func.grad(lambda weight: penalty(convolution.convolve, weight))(weight)
    torch.testing.assert_close(got, torch.func.grad(lambda weight: penalty(F.conv2d, weight))(weight))


def test_gradient_of_the_input_alone_skips_that_of_the_weights(monkeypatch):
    calls = []
    plain = convolution._WeightGradient.apply
    monkeypatch.setattr(convolution._WeightGradient, "apply", lambda *args: calls.append(args) or plain(*args))
    x, weight = draw(1, 2, 6, 6).requires_grad_(), draw(2, 2, 3, 3).requires_grad_()
    y = convolution.convolve(convolution.convolve(x, weight), weight).sum()
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    assert not calls
    slope.square().sum().backward()
    assert len(calls) == 2
    assert weight.grad is not None


def test_backward_twice_over_a_kept_graph():
    x, weight = draw(1, 2, 4, 4).requires_grad_(), draw(2, 2, 3, 3).requires_grad_()
    y = convolution.convolve(x, weight).pow(2).sum()
    first = torch.autograd.grad(y, [x, weight], retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(y, [x, weight], retain_graph=True), first)
    torch.testing.assert_close(torch.autograd.grad(y, [weight])[0], first[1])


@pytest.mark.parametrize("stride, padding", [*itertools.product((1, 2, (2, 1)), (0, 1, (0, 2)))])
@pytest.mark.parametrize("size", [(6, 5), (7, 8)], ids=str)
def test_depthwise_as_on_a_card(monkeypatch, stride, padding, size):
    monkeypatch.setattr(convolution, "_is_depthwise_on_card", lambda x, weight, groups: weight.shape[1] == 1)
    x, weight, bias = draw(2, 3, *size), draw(3, 1, 4, 4, seed=1), draw(3, seed=2)
    case = {"stride": stride, "padding": padding, "groups": 3}
    for ours, theirs in ((convolution.convolve, F.conv2d), (convolution.convolve_transposed, F.conv_transpose2d)):
        got = reference.derivatives(lambda *a, run=ours: run(*a, **case), [x, weight, bias])
        wanted = reference.derivatives(lambda *a, run=theirs: run(*a, **case), [x, weight, bias])
        torch.testing.assert_close(got, wanted)


def test_the_cpu_runs_channels_last():
    x, weight = draw(2, 4, 6, 6), draw(4, 4, 3, 3)
    for run in (convolution.convolve, convolution.convolve_transposed):
        assert run(x, weight).is_contiguous(memory_format=torch.channels_last)


def test_another_dtype_comes_in_its_layout_and_so_does_its_gradient():
    x = draw(2, 3, 4, 5).requires_grad_()
    y = convolution.in_dtype(x, torch.bfloat16)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    value = convolution.in_dtype(y, torch.float64).pow(3).sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    assert first.dtype == torch.float64 and first.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(first, 3 * x.square(), rtol=0.02, atol=0)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * x, rtol=0.02, atol=0)
    assert convolution.in_dtype(x, x.dtype) is x
    with torch.no_grad():
        assert convolution.in_dtype(x, torch.float32).is_contiguous(memory_format=torch.channels_last)


def test_on_a_card_float32_is_not_channels_last():
    with FakeTensorMode():
        x = torch.empty(2, 3, 4, 5, device="cuda")
        half = convolution.in_dtype(x, torch.float16)
        assert half.is_contiguous(memory_format=torch.channels_last)
        assert convolution.in_dtype(half, torch.float32).is_contiguous()


@pytest.mark.parametrize("run, plain", [("convolve", F.conv2d), ("convolve_transposed", F.conv_transpose2d)])
def test_weights_follow_the_maps(monkeypatch, run, plain):
    seen = []
    inner = convolution._run
    monkeypatch.setattr(convolution, "_run", lambda x, weight, *rest: seen.append(weight) or inner(x, weight, *rest))
    x, weight = draw(2, 4, 6, 6).bfloat16(), draw(4, 4, 3, 3, seed=1).float().requires_grad_()
    y = getattr(convolution, run)(x, weight)
    assert y.dtype == torch.bfloat16
    assert [kernel.dtype for kernel in seen] == [torch.bfloat16]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in seen)
    torch.testing.assert_close(y.float(), plain(x.float(), weight), atol=0.1, rtol=0.02)
    (got,) = torch.autograd.grad(y.float().sum(), weight)
    (expected,) = torch.autograd.grad(plain(x.float(), weight).sum(), weight)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=0.2, rtol=0.02)
