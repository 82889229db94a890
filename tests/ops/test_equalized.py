import math

import pytest
import torch
import torch.nn.functional as F

from frugan.ops import equalized
from frugan.ops.resample import Fir
from tests import reference

ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "lrelu": lambda x: torch.where(x > 0, x, 0.2 * x),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": lambda x: torch.where(x > 0, x, torch.expm1(x)),
    "selu": F.selu,
    "softplus": lambda x: torch.log1p(torch.exp(x)),
    "swish": lambda x: x * torch.sigmoid(x),
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 5, 3)], ids=str)
def test_bias_act_does_bias_activation_gain_clamp_in_this_order(name, shape):
    x, bias = draw(*shape), draw(4, seed=1)
    shifted = ACTIVATIONS[name](x + bias.reshape(-1, *[1] * (len(shape) - 2)))
    torch.testing.assert_close(equalized.bias_act(x, bias, name), shifted * equalized.GAINS[name])
    torch.testing.assert_close(equalized.bias_act(x, bias, name, gain=0.7, clamp=0.4), (shifted * 0.7).clamp(-0.4, 0.4))
    torch.testing.assert_close(equalized.bias_act(x, None, name, gain=-1), -ACTIVATIONS[name](x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_bias_act_is_differentiable_twice(name):
    x, bias = draw(2, 3, 2).requires_grad_(), draw(3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: equalized.bias_act(*a, name), (x, bias))
    assert torch.autograd.gradgradcheck(lambda *a: equalized.bias_act(*a, name), (x, bias))


def test_bias_act_leaves_its_input_alone():
    x = draw(2, 3, 2)
    before = x.clone()
    for gain in (1, 2.0):
        equalized.bias_act(x, activation="lrelu", gain=gain)
    assert torch.equal(x, before)


@pytest.mark.parametrize("activation", ["linear", "lrelu"])
@pytest.mark.parametrize("lr_multiplier", [1.0, 0.01])
def test_linear_scales_weights_and_bias_when_it_runs(activation, lr_multiplier):
    torch.manual_seed(0)
    layer = equalized.EqualizedLinear(6, 5, bias_init=1.0, lr_multiplier=lr_multiplier, activation=activation).double()
    torch.testing.assert_close(layer.bias * lr_multiplier, torch.ones(5, dtype=torch.float64))
    x = draw(3, 6)
    expected = x @ (layer.weight * lr_multiplier / math.sqrt(6)).t() + layer.bias * lr_multiplier
    expected = ACTIVATIONS[activation](expected) * equalized.GAINS[activation]
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x, 2), expected[:, :2])


def test_linear_weights_start_with_the_variance_adam_needs():
    torch.manual_seed(0)
    layer = equalized.EqualizedLinear(300, 300, lr_multiplier=0.01)
    assert 98 < float(layer.weight.detach().std()) < 102
    x = torch.randn(200, 300)
    assert float(layer(x).detach().std()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("activation", ["linear", "lrelu"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("resample", [{}, {"up": 2}, {"down": 2}], ids=str)
def test_conv_is_the_scaled_convolution(activation, kernel, resample):
    torch.manual_seed(0)
    fir = Fir([1.0, 3.0, 3.0, 1.0])
    layer = equalized.EqualizedConv2d(4, 5, kernel, fir=fir, activation=activation, clamp=1.5, **resample).double()
    torch.nn.init.normal_(layer.bias)
    x = draw(2, 4, 6, 6)
    weight = layer.weight / math.sqrt(4 * kernel**2)
    flip = "up" not in resample
    y = reference.conv2d_resample(x, weight, fir.kernel.double(), padding=kernel // 2, flip_weight=flip, **resample)
    y = ACTIVATIONS[activation](y + layer.bias[:, None, None]) * equalized.GAINS[activation]
    torch.testing.assert_close(layer(x), y.clamp(-1.5, 1.5))
    torch.testing.assert_close(layer(x, 0.5), (y * 0.5).clamp(-0.75, 0.75))
    torch.testing.assert_close(layer(x, num_out=2), y[:, :2].clamp(-1.5, 1.5))
    weight = layer.weight[:, :3] / math.sqrt(4 * kernel**2)
    y = reference.conv2d_resample(
        x[:, :3], weight, fir.kernel.double(), padding=kernel // 2, flip_weight=flip, **resample
    )
    y = ACTIVATIONS[activation](y + layer.bias[:, None, None]) * equalized.GAINS[activation]
    torch.testing.assert_close(layer(x[:, :3]), y.clamp(-1.5, 1.5))


@pytest.mark.parametrize("resample", [{}, {"up": 2}, {"down": 2}], ids=str)
def test_conv_is_differentiable_twice(resample):
    torch.manual_seed(0)
    fir = Fir([1.0, 3.0, 3.0, 1.0])
    layer = equalized.EqualizedConv2d(2, 1, 3, fir=fir, activation="lrelu", **resample).double()
    x = draw(1, 2, 3, 2).requires_grad_()

    def run(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    inputs = (x, layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_())
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def around(bound, dtype):
    """Every number of half precision, or those next to the bounds."""
    if dtype in (torch.float16, torch.bfloat16):
        x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
        return x[~x.isnan()]
    x = torch.tensor([bound, -bound, 0.0, 3 * bound, -3 * bound, math.inf], dtype=dtype)
    far = torch.full_like(x, math.inf)
    return torch.cat([x, x.nextafter(far), x.nextafter(-far)])


PAIRS = {
    "limited": (equalized.limited, lambda x, bound: x.clamp(-bound, bound)),
    "leaky": (
        lambda x, bound: equalized.leaky_limited_(x * 1, bound),
        lambda x, bound: torch.nn.functional.leaky_relu(x, 0.2).clamp(-bound, bound),
    ),
}
"""Ours, and what torch has for it."""


@pytest.mark.parametrize("bound", [256, 256 * math.sqrt(0.5), 0.3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", PAIRS)
def test_limits_are_torchs_with_their_derivatives(name, dtype, bound):
    x = around(bound, dtype)
    x = torch.cat([x, 5 * x]).requires_grad_()
    weight = torch.linspace(-1, 1, len(x)).to(dtype).requires_grad_()
    found = []
    for run in PAIRS[name]:
        y = run(x, bound)
        (first,) = torch.autograd.grad(y, x, weight, create_graph=True)
        (second,) = torch.autograd.grad(first, weight, torch.ones_like(first))
        found.append((y.detach(), first.detach(), second))
    for got, expected in zip(*found, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", PAIRS)
def test_limits_can_be_differentiated_twice_and_by_torch_func(name):
    ours, theirs = PAIRS[name]
    x = draw(2, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: ours(x.square() - x, 0.5), (x,))
    got, expected = (torch.func.grad(lambda x, run=run: run(x, 0.5).square().sum())(x) for run in (ours, theirs))
    torch.testing.assert_close(got, expected)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, 0.5), theirs(x, 0.5))


def test_without_a_bound_there_is_none():
    x = 1e9 * draw(2, 3)
    assert equalized.limited(x, None) is x
    torch.testing.assert_close(equalized.leaky_limited_(x.clone(), None), torch.nn.functional.leaky_relu(x, 0.2))


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_of_limits_take_the_layout_of_the_features(name):
    x = draw(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(PAIRS[name][0](x, 0.5), x, draw(2, 3, 4, 5))
    assert gradient.is_contiguous(memory_format=torch.channels_last)
