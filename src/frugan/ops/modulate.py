"""Modulated convolution: a convolution whose weights every sample scales by a style of its own.

Weight of sample n: w' = W * s_n over the input channels; with demodulation, w' / sqrt(sum w'^2 + 1e-8) per output
channel. Source: StyleGAN2 (Karras et al. 2020), section 2.2. Two forms give the same numbers: `modulated_conv2d` scales
the features before and after one shared convolution, `modulated_conv2d_grouped` runs one convolution with a group for
each sample.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from frugan.ops import winograd
from frugan.ops.convolution import is_drawing
from frugan.ops.resample import Filter, conv2d_resample

EPS = 1e-8


def _half_safe(
    weight: Float[Tensor, "C_out C_in rows columns"], styles: Float[Tensor, "N C_in"]
) -> tuple[Tensor, Tensor]:
    """Weights and styles scaled to at most 1, so that float16 sums cannot overflow; demodulation undoes both.

    The scales are constants to autograd: what follows does not depend on them, so their gradient would be 0.
    """
    fan_in = weight[0].numel()
    peak = weight.detach().abs().amax(dim=[1, 2, 3], keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    top = styles.detach().abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(styles.dtype).tiny)
    return weight / peak * fan_in**-0.5, styles / top


def demodulation(
    weight: Float[Tensor, "C_out C_in rows columns"], styles: Float[Tensor, "N C_in"]
) -> Float[Tensor, "N C_out"]:
    """The factors 1 / sqrt(sum (W s)^2 + 1e-8) by sample and output channel."""
    # One matrix product over inputs and kernel places is quicker than summing the kernel places first.
    squares = styles.square()[:, :, None].expand(-1, -1, weight[0, 0].numel()).flatten(1)
    return (squares @ weight.square().flatten(1).t() + EPS).rsqrt()


def modulated_conv2d(
    x: Float[Tensor, "N C_in H W"],
    weight: Float[Tensor, "C_out C_in rows columns"],
    styles: Float[Tensor, "N C_in"],
    bias: Float[Tensor, " C_out"] | None = None,
    *,
    demodulate: bool = True,
    fir: Filter | None = None,
    up: int = 1,
    padding: int = 0,
    flip_weight: bool = True,
    gain: float | int = 1,
) -> Float[Tensor, "N C_out H_out W_out"]:
    """The features convolved with each sample's own weights, times `gain`, plus `bias`, in the dtype of `x`.

    Weights, styles and bias come in float32 and are cast on use. Runs as features * style, one convolution,
    * demodulation: no per-sample weights, and any batch size in an exported graph.
    """
    if demodulate and x.dtype == torch.float16:
        weight, styles = _half_safe(weight, styles)
    if bias is not None and up == 1 and flip_weight:
        drawn = _drawn(x, weight, styles, bias, demodulate, padding, gain)
        if drawn is not None:
            return drawn
    x = x * styles.to(x.dtype)[:, :, None, None]
    bias = None if bias is None else bias.to(x.dtype)
    if not demodulate:
        weight = weight if gain == 1 else weight * gain
        return conv2d_resample(x, weight, bias, fir=fir, up=up, padding=padding, flip_weight=flip_weight)
    scale = (demodulation(weight, styles) * gain).to(x.dtype)[:, :, None, None]
    x = conv2d_resample(x, weight, fir=fir, up=up, padding=padding, flip_weight=flip_weight)
    if bias is None:
        return x * scale
    # Without gradients in place: fresh memory costs as much as the sum.
    place = x if not torch.is_grad_enabled() else None
    return torch.addcmul(bias[:, None, None], x, scale, out=place)


def _drawn(
    x: Float[Tensor, "N C_in H W"],
    weight: Float[Tensor, "C_out C_in rows columns"],
    styles: Float[Tensor, "N C_in"],
    bias: Float[Tensor, " C_out"],
    demodulate: bool,
    padding: int,
    gain: float | int,
) -> Float[Tensor, "N C_out H_out W_out"] | None:
    """The same in a form that is quicker where pictures are drawn, if there is one."""
    if demodulate and winograd.suits(x, weight, padding):
        return winograd.convolve_scaled(x, weight, styles, demodulation(weight, styles) * gain, bias)
    if not demodulate and weight.shape[2:] == (1, 1) and padding == 0 and is_drawing(x):
        # One product for each sample reads the features once.
        result = torch.baddbmm(bias[:, None], weight.flatten(1) * (styles * gain)[:, None], x.flatten(2))
        return result.view(len(x), -1, *x.shape[2:])
    return None


def modulated_conv2d_grouped(
    x: Float[Tensor, "N C_in H W"],
    weight: Float[Tensor, "C_out C_in rows columns"],
    styles: Float[Tensor, "N C_in"],
    bias: Float[Tensor, " C_out"] | None = None,
    *,
    demodulate: bool = True,
    fir: Filter | None = None,
    up: int = 1,
    padding: int = 0,
    flip_weight: bool = True,
    gain: float | int = 1,
) -> Float[Tensor, "N C_out H_out W_out"]:
    """What `modulated_conv2d` gives, with the weights of every sample written out and a group for each."""
    if demodulate and x.dtype == torch.float16:
        weight, styles = _half_safe(weight, styles)
    n, _, h, w = x.shape
    c_out, c_in, rows, columns = weight.shape
    weights = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum(dim=[2, 3, 4], keepdim=True) + EPS).rsqrt()
    weights = (weights * gain).reshape(n * c_out, c_in, rows, columns).to(x.dtype)
    x = conv2d_resample(
        x.reshape(1, n * c_in, h, w), weights, fir=fir, up=up, padding=padding, groups=n, flip_weight=flip_weight
    )
    x = x.reshape(n, c_out, *x.shape[2:])
    return x if bias is None else x + bias.to(x.dtype)[:, None, None]
