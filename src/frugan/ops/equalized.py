"""Layers with equalised learning rate, and the step after them: bias, activation, gain, clamp.

A layer stores weights of unit variance and scales them when it runs, so that Adam moves every layer at the same pace.
Source: Karras et al. 2018 (ProGAN), section 4.1; gains and activations as in StyleGAN2-ADA.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frugan.ops.convolution import has_own_derivatives
from frugan.ops.elastic import leading
from frugan.ops.resample import Fir, conv2d_resample

Activation = Literal["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"]
SLOPE = 0.2
GAINS: dict[Activation, float] = {
    "linear": 1.0,
    "relu": math.sqrt(2),
    "lrelu": math.sqrt(2),
    "tanh": 1.0,
    "sigmoid": 1.0,
    "elu": 1.0,
    "selu": 1.0,
    "softplus": 1.0,
    "swish": math.sqrt(2),
}
"""The gain that follows each activation where none is given."""


def _activate(x: Tensor, activation: Activation, slope: float) -> Tensor:
    match activation:
        case "linear":
            return x
        case "relu":
            return F.relu(x)
        case "lrelu":
            return F.leaky_relu(x, slope)
        case "swish":
            return x * torch.sigmoid(x)
        case "softplus":
            return F.softplus(x)
        case "elu":
            return F.elu(x)
        case "selu":
            return F.selu(x)
        case "tanh":
            return torch.tanh(x)
        case "sigmoid":
            return torch.sigmoid(x)


def bias_act(
    x: Float[Tensor, "N C *rest"],
    bias: Float[Tensor, " C"] | None = None,
    activation: Activation = "linear",
    *,
    slope: float = SLOPE,
    gain: float | int | None = None,
    clamp: float | int | None = None,
) -> Float[Tensor, "N C *rest"]:
    """The features plus a bias per channel, through the activation, times `gain`, limited to +-`clamp`.

    `gain=None` takes the activation's own gain. `slope` is that of the leaky ReLU below 0.
    """
    gain = GAINS[activation] if gain is None else gain
    if activation in ("linear", "relu", "lrelu") and gain > 0:
        # These three let a positive gain through, so gain and bias take one pass over the features.
        if bias is not None:
            x = torch.add(_per_channel(bias, x) * gain, x, alpha=gain)
        elif gain != 1:
            x = x * gain
        x = _activate(x, activation, slope)
    else:
        x = x if bias is None else x + _per_channel(bias, x)
        x = _activate(x, activation, slope) * gain
    return limited(x, clamp)


def limited(x: Float[Tensor, "*shape"], bound: float | int | None) -> Float[Tensor, "*shape"]:
    """The numbers in [-bound, bound], or as they are; values and derivatives are `torch.clamp`'s, save at NaN.

    Going back takes one pass instead of torch's two comparisons, their conjunction and a choice.
    """
    if bound is None:
        return x
    return _limit(x, None, bound) if has_own_derivatives() else x.clamp(-bound, bound)


def leaky_limited_(x: Float[Tensor, "*shape"], bound: float | int | None) -> Float[Tensor, "*shape"]:
    """`limited` leaky ReLU, which takes the memory of `x`: for features that are nobody else's, and not needed again.

    The second derivative, too, is spared what torch spends on it: zeros, and their addition.
    """
    if bound is None or not has_own_derivatives():
        return limited(F.leaky_relu_(x, SLOPE), bound)
    return _limit(x, SLOPE, bound)


class _Limited(torch.autograd.Function):
    """`x` through leaky ReLU where there is a `slope`, in place, then into the bounds.

    Both derivatives follow from what stands between the two.
    """

    @staticmethod
    def forward(x: Tensor, slope: float | None, bound: float) -> Tensor:
        return (x if slope is None else F.leaky_relu_(x, slope)).clamp(-bound, bound)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float | None, float], output: Tensor) -> None:
        x, ctx.slope, ctx.bound = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x = ctx.saved_tensors[0].detach()
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            grad = grad.contiguous(memory_format=torch.channels_last)  # mixed layouts would be slow, here and after
        # This operator lets nothing through at its bounds, where clamp does: so they are the next numbers beyond.
        step = torch.finfo(x.dtype).eps * 2.0 ** (math.frexp(ctx.bound)[1] - 1)
        beyond = (round(ctx.bound / step) + 1) * step
        grad = torch.ops.aten.hardtanh_backward(grad, x, -beyond, beyond)
        if ctx.slope is not None:
            grad = torch.ops.aten.leaky_relu_backward(grad, x, ctx.slope, True)
        return grad, None, None


_limit: Callable[[Tensor, float | None, float], Tensor] = _Limited.apply


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).reshape(1, -1, *[1] * (like.ndim - 2))


class EqualizedLinear(nn.Module):
    """A linear layer with weights of variance 1/`lr_multiplier`^2 that runs as W * lr_multiplier / sqrt(inputs).

    The bias starts at `bias_init` and is stored divided by `lr_multiplier`. With `num_out` only the leading outputs are
    computed.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias_init: float = 0.0,
        lr_multiplier: float = 1.0,
        activation: Activation = "linear",
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias_init / lr_multiplier))
        self.lr_multiplier = lr_multiplier
        self.activation = activation

    def forward(self, x: Float[Tensor, "N inputs"], num_out: int | None = None) -> Float[Tensor, "N outputs"]:
        """The activated outputs, all or the first `num_out`, in the dtype of `x`."""
        weight, bias = leading(self.weight, num_out).to(x.dtype), leading(self.bias, num_out).to(x.dtype)
        gain = self.lr_multiplier / math.sqrt(self.weight.shape[1])
        x = torch.addmm(bias, x, weight.t(), beta=self.lr_multiplier, alpha=gain)
        return bias_act(x, activation=self.activation)


class EqualizedConv2d(nn.Module):
    """A convolution with weights of variance 1 that runs as W / sqrt(fan-in), with bias, activation and resampling.

    Odd square kernels, padded so that only `up` and `down` change the size. Down-sampling and plain layers correlate,
    up-sampling layers convolve (the authors' convention; checkpoints depend on it).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        fir: Fir,
        bias: bool = True,
        activation: Literal["linear", "lrelu"] = "linear",
        up: int = 1,
        down: int = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.fir = fir
        self.activation: Literal["linear", "lrelu"] = activation
        self.up = up
        self.down = down
        self.clamp = clamp

    def forward(
        self, x: Float[Tensor, "N C H W"], gain: float | int = 1, num_out: int | None = None
    ) -> Float[Tensor, "N C_out H_out W_out"]:
        """The activated features times `gain`, which the clamp follows; the first `num_out` channels, or all.

        Fewer input channels than the layer has use the leading part of the weights.
        """
        weight = leading(self.weight, num_out, x.shape[1])
        bias = None if self.bias is None else leading(self.bias, num_out)
        clamp = None if self.clamp is None else self.clamp * gain
        # Linear and leaky ReLU let a positive gain through: put into the weights, it costs no pass over the features.
        total = gain * GAINS[self.activation]
        weight = weight * (total / math.sqrt(self.weight[0].numel()))
        x = conv2d_resample(
            x,
            weight,
            None if bias is None else (bias * total).to(x.dtype),
            fir=self.fir,
            up=self.up,
            down=self.down,
            padding=self.weight.shape[2] // 2,
            flip_weight=self.up == 1,
        )
        return leaky_limited_(x, clamp) if self.activation == "lrelu" else limited(x, clamp)
