"""Spectral normalisation against torch's and against singular values."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from frugan.ops.spectral import (
    SpectralConvolution,
    SpectralEmbedding,
    SpectralLinear,
    SpectralTransposedConvolution,
    folded_state,
    iterate_together,
    kernels,
    kernels_together,
    power_iterate,
    settle,
    settle_exactly,
    using,
)


def made(inputs=5, outputs=7, kernel=3):
    torch.manual_seed(0)
    return SpectralConvolution(inputs, outputs, kernel, padding=1)


def theirs_of(layer):
    """torch's own, with the same weight and vectors."""
    conv = nn.utils.spectral_norm(nn.Conv2d(*layer.weight.shape[1::-1], layer.weight.shape[2], padding=1)).to(
        layer.weight
    )
    state = {"weight_orig": layer.weight, "weight_u": layer.u, "weight_v": layer.v, "bias": layer.bias}
    conv.load_state_dict({name: tensor.detach().clone() for name, tensor in state.items()})
    return conv


def test_one_iteration_before_a_call_is_what_torch_does():
    layer, x = made().double(), torch.randn(2, 5, 6, 6).double()
    conv = theirs_of(layer).train()
    for _ in range(2):
        power_iterate(layer)
        ours, theirs = layer(x), conv(x)
        torch.testing.assert_close(ours, theirs)
        ours.square().sum().backward()
        theirs.square().sum().backward()
    torch.testing.assert_close(layer.u, conv.weight_u)
    torch.testing.assert_close(layer.v, conv.weight_v)
    torch.testing.assert_close(layer.weight.grad, conv.weight_orig.grad)


def test_calls_change_nothing():
    layer, x = made().train(), torch.randn(2, 5, 6, 6)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    first, second = layer(x), layer(x)
    assert torch.equal(first, second)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    torch.testing.assert_close(theirs_of(layer).eval()(x), first)


def test_an_iteration_between_call_and_derivative():
    layer, x = made(), torch.randn(2, 5, 6, 6)
    y = layer(x).square().sum()
    power_iterate(layer)
    y.backward()
    other = made()
    other(x).square().sum().backward()
    assert torch.equal(layer.weight.grad, other.weight.grad)


@torch.no_grad()
def test_iterations_find_the_largest_singular_value():
    network = nn.Sequential(made(), nn.ReLU(), made(7, 4))
    for module in (network[0], network[2]):
        module.weight.normal_()
    power_iterate(network, 200)
    for module in (network[0], network[2]):
        assert float(torch.linalg.matrix_norm(module.kernel().flatten(1), 2)) == pytest.approx(1, abs=1e-4)
    before = network[0].u.clone()
    settle(network)
    torch.testing.assert_close(network[0].u, before, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_leading_channels_are_those_of_the_whole_quotient():
    layer, x = made(), torch.randn(2, 3, 6, 6)
    expected = torch.conv2d(x, layer.kernel()[:4, :3], layer.bias[:4], padding=1)
    assert torch.equal(layer(x, 4), expected)


@torch.no_grad()
def test_folded_state():
    layer = made()
    network = nn.Sequential(layer, nn.Conv2d(7, 1, 1))
    state = folded_state(network)
    assert set(state) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert torch.equal(state["0.weight"], layer.kernel())
    assert set(folded_state(layer)) == {"weight", "bias"}
    assert torch.equal(network.state_dict()["0.weight"], layer.weight)


@torch.no_grad()
def test_layers_of_one_shape_together():
    torch.manual_seed(1)
    layers = [SpectralConvolution(5, 7, 3), SpectralConvolution(5, 7, 3, padding=1), SpectralConvolution(5, 7, 3)]
    alone = copy.deepcopy(layers)
    before = layers[0].u.clone()
    iterate_together(layers, 3)
    assert not torch.equal(layers[0].u, before)
    for ours, other in zip(layers, alone, strict=True):
        other.iterate(3)
        torch.testing.assert_close(ours.u, other.u)
        torch.testing.assert_close(ours.v, other.v)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SpectralConvolution(5, 7, 3),
        lambda: SpectralTransposedConvolution(5, 7, 4),
        lambda: SpectralLinear(5, 7),
        lambda: SpectralEmbedding(7, 5),
    ],
)
def test_kernels_of_one_shape_together(build):
    torch.manual_seed(3)
    layers = [build().double() for _ in range(3)]
    others = copy.deepcopy(layers)
    found = kernels_together(layers)
    sum(kernel.sin().sum() for kernel in found).backward()
    for layer, other, kernel in zip(layers, others, found, strict=True):
        torch.testing.assert_close(kernel, other.weight / (other.matrix() * torch.outer(other.u, other.v)).sum())
        other.kernel().sin().sum().backward()
        torch.testing.assert_close(layer.weight.grad, other.weight.grad)


def test_kernels_at_hand_are_used_with_their_gradients():
    network, x = nn.Sequential(made(), nn.ReLU(), made(7, 4)), torch.randn(2, 5, 6, 6)
    other = copy.deepcopy(network)
    found = kernels(network)
    assert set(found) == {network[0], network[2]}
    with using(found):
        assert network[0].kernel() is found[network[0]]
        assert network[0].kernel() is not copy.deepcopy(network[0]).kernel()
        first, second = network(x), network(2 * x)
    assert network[0].kernel() is not found[network[0]]
    assert torch.equal(first, other(x)) and torch.equal(second, other(2 * x))
    (first + second).square().sum().backward()
    (other(x) + other(2 * x)).square().sum().backward()
    torch.testing.assert_close(network[0].weight.grad, other[0].weight.grad)


def test_kernels_at_hand_are_left_after_an_error_and_belong_to_one_thread():
    outside, inside = made(), made()
    with pytest.raises(RuntimeError), using(kernels(outside)), using(kernels(inside)):
        assert outside.kernel() is outside.kernel() and inside.kernel() is inside.kernel()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(inside.kernel).result() is not inside.kernel()
        raise RuntimeError
    assert outside.kernel() is not outside.kernel()


def test_a_compiled_layer_makes_its_own_kernel(monkeypatch):
    layer = made()
    found = kernels(layer)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with using(found):
        assert layer.kernel() is not found[layer] and torch.equal(layer.kernel(), found[layer])


def torchs(layer, plain):
    """torch's own spectral norm of a layer, with the same weight and vectors."""
    conv = nn.utils.spectral_norm(plain, eps=1e-6)
    state = {"weight_orig": layer.weight, "weight_u": layer.u, "weight_v": layer.v}
    conv.load_state_dict({name: tensor.detach().clone() for name, tensor in state.items()})
    return conv.train()


@pytest.mark.parametrize("kind", ["linear", "transposed", "embedding"])
def test_other_layers_are_torchs(kind):
    torch.manual_seed(2)
    match kind:
        case "linear":
            layer, plain = SpectralLinear(5, 7, bias=False, eps=1e-6), nn.Linear(5, 7, bias=False)
            x = y = torch.randn(3, 5)
        case "transposed":
            layer = SpectralTransposedConvolution(5, 7, 4, bias=False, eps=1e-6)
            plain = nn.ConvTranspose2d(5, 7, 4, stride=2, padding=1, bias=False)
            x = y = torch.randn(2, 5, 4, 4)
        case "embedding":
            layer, plain = SpectralEmbedding(7, 5, eps=1e-6), nn.Embedding(7, 5)
            y = torch.tensor([3, 0, 6])
            x = nn.functional.one_hot(y, 7).float()
    theirs = torchs(layer, plain)
    for _ in range(2):
        power_iterate(layer)
        torch.testing.assert_close(layer(x), theirs(y))
    torch.testing.assert_close(layer.u, theirs.weight_u)
    torch.testing.assert_close(layer.v, theirs.weight_v)


@torch.no_grad()
def test_the_least_length():
    """A weight of zeros: vectors are divided by eps, not by nothing."""
    layer = SpectralLinear(3, 2, eps=1e-6)
    layer.weight.zero_()
    power_iterate(layer)
    assert layer.u.isfinite().all()


def test_networks_without_numbers_are_left_alone():
    with torch.device("meta"):
        layer = SpectralLinear(3, 2)
    power_iterate(layer)
    assert kernels(layer) == {}


@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (5, 7)])
@torch.no_grad()
def test_exact_vectors(rows, columns):
    layer = SpectralLinear(columns, rows)
    layer.u.mul_(3)  # as an average's, of another length
    settle_exactly(layer)
    assert float(torch.linalg.matrix_norm(layer.kernel(), 2)) == pytest.approx(1, abs=1e-6)
    assert float(layer.u.norm()) == pytest.approx(1) and float(layer.v.norm()) == pytest.approx(1)
