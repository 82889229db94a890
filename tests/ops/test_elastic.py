import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frugan.ops.elastic import (
    BatchNorm,
    Convolution,
    InstanceNorm,
    SeparableConvolution,
    TransposedConvolution,
    leading,
    norm_layer,
)
from tests import reference

F64 = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def randomised(layer):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer.double()


def test_leading_is_a_view_of_the_first_entries():
    x = torch.arange(60).reshape(3, 4, 5)
    assert torch.equal(leading(x, 2, None, 3), x[:2, :, :3])
    assert leading(x, 2).data_ptr() == x.data_ptr()
    assert leading(x, 3, 4) is x


@pytest.mark.parametrize("size", [0, 4, -1])
def test_leading_refuses_what_is_not_there(size):
    with pytest.raises(ValueError, match="axis 0 has 3 entries"):
        leading(torch.zeros(3), size)


# ---- layers: each against torch's own, whole and in its leading channels ------------------------------------------


@pytest.mark.parametrize("outputs", [1, 5, 9, None])
@pytest.mark.parametrize("inputs", [2, 6])
@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_convolution(inputs, outputs, reflect, bias):
    layer = randomised(Convolution(6, 12, 3, stride=2, padding=1, reflect=reflect, bias=bias))
    x = draw(2, inputs, 7, 5)
    mode = "reflect" if reflect else "constant"
    weight, shift = layer.weight[:outputs, :inputs], layer.bias[:outputs] if bias else None
    torch.testing.assert_close(layer(x, outputs), F.conv2d(F.pad(x, (1,) * 4, mode=mode), weight, shift, stride=2))


def test_depthwise_convolution_has_as_many_maps_as_it_is_given():
    layer = randomised(Convolution(6, 6, 3, padding=1, depthwise=True))
    x = draw(2, 4, 5, 6)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight[:4], layer.bias[:4], padding=1, groups=4))
    with pytest.raises(ValueError, match="as many outputs as inputs, got 5 and 6"):
        Convolution(6, 5, 3, depthwise=True)


@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(6, None), (4, 3)])
def test_transposed_convolution_doubles(kernel, bias, inputs, outputs):
    layer = randomised(TransposedConvolution(6, 5, kernel, bias=bias))
    x = draw(2, inputs, 4, 3)
    weight, shift = layer.weight[:inputs, :outputs], layer.bias[:outputs] if bias else None
    expected = F.conv_transpose2d(x, weight, shift, stride=2, padding=1, output_padding=1 if kernel == 3 else 0)
    assert expected.shape[2:] == (8, 6)
    torch.testing.assert_close(layer(x, outputs), expected)


@pytest.mark.parametrize(("inputs", "outputs"), [(6, None), (4, 3)])
def test_separable_convolution(inputs, outputs):
    layer = randomised(SeparableConvolution(6, 5, 3, padding=1, reflect=True))
    x = draw(2, inputs, 4, 6)
    deep, wide = layer.depthwise, layer.pointwise
    padded = F.pad(x, (1,) * 4, mode="reflect")
    each = F.instance_norm(F.conv2d(padded, deep.weight[:inputs], deep.bias[:inputs], groups=inputs))
    expected = F.conv2d(each, wide.weight[:outputs, :inputs], wide.bias[:outputs])
    torch.testing.assert_close(layer(x, outputs), expected)


def test_layers_refuse_maps_that_are_too_wide():
    with pytest.raises(ValueError, match="axis 1 has 2 entries"):
        Convolution(2, 3, 1)(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="axis 0 has 2 entries"):
        TransposedConvolution(2, 3, 3)(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="axis 0 has 3 entries"):
        Convolution(2, 3, 1)(torch.zeros(1, 2, 2, 2), 4)


# ---- normalisation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_is_torch_s_with_all_derivatives(layout):
    x = draw(3, 4, 5, 6).contiguous(memory_format=layout)
    got, expected = (reference.derivatives(norm, [x]) for norm in (InstanceNorm(), F.instance_norm))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_is_exact_far_from_zero(layout):
    x = (draw(1, 8, 32, 32) + 100).float().contiguous(memory_format=layout)
    torch.testing.assert_close(InstanceNorm()(x), F.instance_norm(x.double()).float(), atol=1e-4, rtol=0)


def test_instance_norm_refuses_single_pixels():
    with pytest.raises(ValueError, match="maps of one pixel"):
        InstanceNorm()(torch.zeros(4, 3, 1, 1))


@pytest.mark.parametrize("is_training", [True, False])
def test_batch_norm_of_the_leading_channels_is_that_of_a_network_which_has_only_those(is_training):
    wide, narrow = randomised(BatchNorm(6)), nn.BatchNorm2d(4).double()
    wide.running_mean.copy_(draw(6))
    wide.running_var.copy_(draw(6).exp())
    before = wide.running_mean.clone()
    state = {name: value[:4].clone() for name, value in wide.state_dict().items()}
    narrow.load_state_dict(state, strict=False)
    x = draw(3, 4, 5, 5)
    torch.testing.assert_close(wide.train(is_training)(x), narrow.train(is_training)(x))
    torch.testing.assert_close(wide.running_mean[:4], narrow.running_mean)
    torch.testing.assert_close(wide.running_var[:4], narrow.running_var)
    assert torch.equal(wide.running_mean[4:], before[4:])
    assert torch.equal(wide.running_mean[:4], before[:4]) != is_training


def test_how_layers_start():
    torch.manual_seed(0)
    convolution = Convolution(32, 64, 3)
    assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not convolution.bias.any()
    assert TransposedConvolution(64, 32, 3, std=1.0).weight.std().item() == pytest.approx(1, rel=0.02)
    norm = norm_layer("batch", 4096)
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.002)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not norm.bias.any()
    assert norm_layer(None, 4) is None
