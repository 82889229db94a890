"""Slow, plain oracles for the ops: loops over pixels and samples, in float64, written from the equations."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def upfirdn2d(x, fir, up=1, down=1, padding=0, flip_filter=False, gain=1.0):
    """The definition, pixel by pixel: put zeros in, pad or crop, convolve, keep every n-th."""
    up_x, up_y = (up, up) if isinstance(up, int) else up
    down_x, down_y = (down, down) if isinstance(down, int) else down
    left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
    x, fir = np.asarray(x.detach(), np.float64), np.asarray(fir.detach(), np.float64)
    kernel = np.outer(fir, fir) if fir.ndim == 1 else fir
    n, c, h, w = x.shape

    def pixel(i, j, row, column):
        """The upsampled, padded signal at a place."""
        row, column = row - top, column - left
        if row % up_y or column % up_x or not (0 <= row < h * up_y and 0 <= column < w * up_x):
            return 0.0
        return x[i, j, row // up_y, column // up_x]

    rows, columns = kernel.shape
    high = (h * up_y + top + bottom - rows) // down_y + 1
    wide = (w * up_x + left + right - columns) // down_x + 1
    out = np.zeros((n, c, high, wide))
    for i, j, r, s in np.ndindex(out.shape):
        for a, b in np.ndindex(rows, columns):
            tap = kernel[a, b] if flip_filter else kernel[rows - 1 - a, columns - 1 - b]
            out[i, j, r, s] += tap * gain * pixel(i, j, r * down_y + a, s * down_x + b)
    return torch.from_numpy(out)


def conv2d_resample(x, weight, fir, up=1, down=1, padding=0, flip_weight=True):
    """Upsample with zeros and the filter, convolve, filter and decimate; no shortcut. One sample's weights."""
    kernel = torch.outer(fir, fir) if fir.ndim == 1 else fir
    rows, columns = kernel.shape
    pads = np.array([padding] * 4)
    if up > 1:
        pads += [(columns + up - 1) // 2, (columns - up) // 2, (rows + up - 1) // 2, (rows - up) // 2]
    if down > 1:
        pads += [(columns - down + 1) // 2, (columns - down) // 2, (rows - down + 1) // 2, (rows - down) // 2]
    n, c, h, w = x.shape
    big = x.new_zeros(n, c, h * up, w * up)
    big[:, :, ::up, ::up] = x
    big = F.pad(big, pads.tolist())
    if up > 1 or down > 1:
        kernel = (kernel * up * up).flip([0, 1]).expand(c, 1, rows, columns)
        big = F.conv2d(big, kernel, groups=c)
    weight = weight if flip_weight else weight.flip([2, 3])
    return F.conv2d(big, weight)[:, :, ::down, ::down]


def modulated_conv2d(x, weight, styles, demodulate=True, fir=None, up=1, padding=0, flip_weight=True):
    """One sample at a time, with its weights written out."""
    images = []
    for features, style in zip(x, styles, strict=True):
        own = weight * style[None, :, None, None]
        if demodulate:
            own = torch.stack([kernel / torch.sqrt(kernel.square().sum() + 1e-8) for kernel in own])
        identity = x.new_ones(1) if fir is None else fir
        images.append(conv2d_resample(features[None], own, identity, up=up, padding=padding, flip_weight=flip_weight))
    return torch.cat(images)


def minibatch_stddev(x, group, features):
    """The deviation maps alone, group by group."""
    n, c, h, w = x.shape
    size = n if group is None else min(group, n)
    groups = n // size
    maps = x.new_zeros(n, features, h, w)
    for start, feature in itertools.product(range(groups), range(features)):
        members = list(range(start, n, groups))
        part = x[members][:, feature * c // features : (feature + 1) * c // features]
        deviation = torch.sqrt(part.var(dim=0, unbiased=False) + 1e-8).mean()
        maps[members, feature] = deviation
    return maps


def derivatives(function, inputs: list[Tensor], seed: int = 0) -> list[Tensor]:
    """Value, first derivatives, and second derivatives (of a random slope) of a function, for comparing two paths."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    value = function(*inputs)
    weights = torch.randn(value.shape, generator=generator, dtype=value.dtype).requires_grad_()
    first = torch.autograd.grad((value * weights).sum(), inputs, create_graph=True)
    slope = sum((grad * torch.randn(grad.shape, generator=generator, dtype=grad.dtype)).sum() for grad in first)
    second = torch.autograd.grad(slope, [weights, *inputs], allow_unused=True, materialize_grads=True)
    return [value.detach(), *(grad.detach() for grad in first), *second]
