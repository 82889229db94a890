"""Up- and down-sampling of feature maps by finite impulse response (FIR) filters, and convolutions that resample.

Two paths give the same numbers: `upfirdn2d_reference` spells out the definition (insert zeros, pad, filter, keep every
n-th pixel); everything else runs without inserted zeros, as depthwise convolutions, or in half precision on a card as
the products of `ops.banded`. All can be differentiated twice.

A filter is a tensor of taps: one axis (H = W, applied along both axes) or two axes (rows, columns); or a `Fir`, known
to be separable. It is a *true convolution* kernel: the first tap meets the latest pixel. `flip_filter=True` gives
correlation instead.
Source: StyleGAN2 (Karras et al. 2020), section 4 and appendix B; paddings as in the authors' PyTorch code.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frugan.ops import banded
from frugan.ops.convolution import convolve, convolve_transposed

Taps = Float[Tensor, " taps"] | Float[Tensor, "fir_rows fir_columns"]
Pair = int | tuple[int, int]
Padding = int | tuple[int, int] | tuple[int, int, int, int]


SEPARABLE_FROM = 8
"""Filters of this many taps or more run as two passes over the maps, shorter ones as one plane of weights."""


def fir_filter(taps: Sequence[float]) -> Taps:
    """The filter that has these taps along both axes, scaled to sum 1, in the form that runs fastest.

    Raises ValueError for no taps or a sum of 0.
    """
    total = sum(taps)
    if not taps or total == 0:
        raise ValueError(f"a filter needs at least one tap and a sum other than 0, got {tuple(taps)}")
    values = torch.tensor([tap / total for tap in taps], dtype=torch.float64)
    return (values if len(taps) >= SEPARABLE_FROM else torch.outer(values, values)).float()


class Fir(nn.Module):
    """The filter that has these taps along both axes, scaled to sum 1; a module so that it moves with its network.

    `kernel` is the tensor `fir_filter` gives, which is not saved; `taps` are the same numbers where the host sees them.
    Raises what `fir_filter` raises.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("kernel", fir_filter(taps), persistent=False)
        total = sum(taps)
        self.taps = tuple(tap / total for tap in taps)


Filter = Taps | Fir


def _pair(value: Pair, name: str, low: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if min(pair) < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    return pair


def _four(padding: Padding) -> tuple[int, int, int, int]:
    if isinstance(padding, int):
        return padding, padding, padding, padding
    if len(padding) == 2:
        return padding[0], padding[0], padding[1], padding[1]
    return padding


def _kernel_size(fir: Filter) -> tuple[int, int]:
    fir = fir.kernel if isinstance(fir, Fir) else fir
    return (fir.shape[0], fir.shape[0]) if fir.ndim == 1 else (fir.shape[0], fir.shape[1])


def upfirdn2d_reference(
    x: Float[Tensor, "N C H W"],
    fir: Taps,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float | int = 1,
) -> Float[Tensor, "N C H_out W_out"]:
    """What `upfirdn2d` gives, by its definition; slow. The oracle of the fast path."""
    up_x, up_y = _pair(up, "up", 1)
    down_x, down_y = _pair(down, "down", 1)
    left, right, top, bottom = _four(padding)
    n, c, h, w = x.shape
    x = x.reshape(n, c, h, 1, w, 1)
    x = F.pad(x, [0, up_x - 1, 0, 0, 0, up_y - 1]).reshape(n, c, h * up_y, w * up_x)
    x = F.pad(x, [left, right, top, bottom])
    kernel = (torch.outer(fir, fir) if fir.ndim == 1 else fir) * gain
    kernel = kernel if flip_filter else kernel.flip([0, 1])
    x = F.conv2d(x, kernel.to(x.dtype).expand(c, 1, -1, -1), groups=c)
    return x[:, :, ::down_y, ::down_x]


def upfirdn2d(
    x: Float[Tensor, "N C H W"],
    fir: Filter,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float | int = 1,
) -> Float[Tensor, "N C H_out W_out"]:
    """The maps with `up - 1` zeros put after each pixel, padded, filtered, and every `down`-th pixel kept.

    `up` and `down` are one number or (x, y). `padding` is one number, (x, y) or (left, right, top, bottom), counted in
    upsampled pixels; negative numbers crop. H_out = (H * up + top + bottom - rows) // down + 1. Raises ValueError where
    nothing would be left.
    """
    up_x, up_y = _pair(up, "up", 1)
    down_x, down_y = _pair(down, "down", 1)
    left, right, top, bottom = _four(padding)
    rows, columns = _kernel_size(fir)
    if x.shape[2] * up_y + top + bottom < rows or x.shape[3] * up_x + left + right < columns:
        raise ValueError(f"a {rows}x{columns} filter does not fit into {tuple(x.shape[2:])} padded by {padding}")
    if isinstance(fir, Fir) and banded.suits(x, (up_x, up_y)):
        taps = tuple(tap * gain**0.5 for tap in (fir.taps if flip_filter else fir.taps[::-1]))
        across = banded.Band(taps, up_x, down_x, left, right)
        return banded.correlate(x, across, banded.Band(taps, up_y, down_y, top, bottom))
    kernel = (fir.kernel if isinstance(fir, Fir) else fir).to(x.dtype)
    kernel = kernel if flip_filter else kernel.flip(list(range(kernel.ndim)))
    if kernel.ndim == 2:
        kernel = kernel if gain == 1 else kernel * gain
        return _correlate(x, kernel, (up_x, up_y), (down_x, down_y), (left, right, top, bottom))
    kernel = kernel * gain**0.5
    x = _correlate(x, kernel[None, :], (up_x, 1), (down_x, 1), (left, right, 0, 0))
    return _correlate(x, kernel[:, None], (1, up_y), (1, down_y), (0, 0, top, bottom))


def _correlate(
    x: Float[Tensor, "N C H W"],
    kernel: Float[Tensor, "rows columns"],
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
) -> Float[Tensor, "N C H_out W_out"]:
    """Correlation of the upsampled, padded maps with `kernel`; `up` and `down` are (x, y)."""
    channels = x.shape[1]
    rows, columns = kernel.shape
    left, right, top, bottom = padding
    if up == (1, 1):
        symmetric = left == right >= 0 and top == bottom >= 0
        x = x if symmetric else F.pad(x, padding)
        weight = kernel.expand(channels, 1, rows, columns)
        return convolve(x, weight, stride=down[::-1], padding=(top, left) if symmetric else 0, groups=channels)
    # The transposed convolution gives the full convolution; the wanted window starts at rows - 1 - top and ends after
    # H * up + bottom.
    weight = kernel.flip([0, 1]).expand(channels, 1, rows, columns)
    window = [left - columns + 1, right + up[0] - columns, top - rows + 1, bottom + up[1] - rows]
    crop = (window[2], window[0])
    if window[0] == window[1] <= 0 and window[2] == window[3] <= 0:
        x = convolve_transposed(x, weight, stride=up[::-1], padding=(-crop[0], -crop[1]), groups=channels)
    else:
        x = F.pad(convolve_transposed(x, weight, stride=up[::-1], groups=channels), window)
    return x if down == (1, 1) else x[:, :, :: down[1], :: down[0]]


def upsample2d(
    x: Float[Tensor, "N C H W"], fir: Filter, *, up: int = 2, gain: float | int = 1
) -> Float[Tensor, "N C H_up W_up"]:
    """The maps `up` times as large; a constant map keeps its value (inside)."""
    rows, columns = _kernel_size(fir)
    padding = ((columns + up - 1) // 2, (columns - up) // 2, (rows + up - 1) // 2, (rows - up) // 2)
    return upfirdn2d(x, fir, up=up, padding=padding, gain=gain * up * up)


def downsample2d(
    x: Float[Tensor, "N C H W"], fir: Filter, *, down: int = 2, gain: float | int = 1
) -> Float[Tensor, "N C H_down W_down"]:
    """The maps `down` times as small."""
    rows, columns = _kernel_size(fir)
    padding = ((columns - down + 1) // 2, (columns - down) // 2, (rows - down + 1) // 2, (rows - down) // 2)
    return upfirdn2d(x, fir, down=down, padding=padding, gain=gain)


def filter2d(x: Float[Tensor, "N C H W"], fir: Filter, *, gain: float | int = 1) -> Float[Tensor, "N C H W"]:
    """The filtered maps, of the same size."""
    rows, columns = _kernel_size(fir)
    return upfirdn2d(x, fir, padding=(columns // 2, (columns - 1) // 2, rows // 2, (rows - 1) // 2), gain=gain)


def conv2d_resample(
    x: Float[Tensor, "N C H W"],
    weight: Float[Tensor, "C_out C_in rows columns"],
    bias: Float[Tensor, " C_out"] | None = None,
    *,
    fir: Filter | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    groups: int = 1,
    flip_weight: bool = True,
) -> Float[Tensor, "N C_out H_out W_out"]:
    """The maps convolved with `weight`, and made `up` times as large before or `down` times as small after.

    `padding` is that of the convolution at the larger size. `flip_weight=True` means correlation (what torch calls a
    convolution), False a true convolution. `fir` is needed where `up` or `down` is not 1; only one of the two may be.
    """
    if up > 1 and down > 1:
        raise ValueError(f"either up or down can be above 1, got up={up} and down={down}")
    if (up > 1 or down > 1) and fir is None:
        raise ValueError(f"resampling needs a filter, got fir=None with up={up} and down={down}")
    if up == 1 and not flip_weight:
        weight = weight.flip([2, 3])
    if fir is None or up == down:
        return convolve(x, weight, bias, padding=padding, groups=groups)
    rows, columns = _kernel_size(fir)
    if down > 1:
        pads = [(columns - down + 1) // 2, (columns - down) // 2, (rows - down + 1) // 2, (rows - down) // 2]
        left, right, top, bottom = (padding + pad for pad in pads)
        if weight.shape[2:] == (1, 1):
            x = upfirdn2d(x, fir, down=down, padding=(left, right, top, bottom))
            return convolve(x, weight, bias, groups=groups)
        x = upfirdn2d(x, fir, padding=(left, right, top, bottom))
        return convolve(x, weight, bias, stride=down, groups=groups)
    pads = [(columns + up - 1) // 2, (columns - up) // 2, (rows + up - 1) // 2, (rows - up) // 2]
    left, right, top, bottom = (padding + pad for pad in pads)
    if weight.shape[2:] == (1, 1):
        x = convolve(x, weight, groups=groups)
        x = upfirdn2d(x, fir, up=up, padding=(left, right, top, bottom), gain=up * up)
    else:
        x = _transposed(x, weight.flip([2, 3]) if flip_weight else weight, up, groups)
        less = [size - 1 for size in weight.shape[2:]]
        window = (left - less[1], right - less[1] + up - 1, top - less[0], bottom - less[0] + up - 1)
        x = upfirdn2d(x, fir, padding=window, gain=up * up)
    return x if bias is None else x + bias[None, :, None, None]


def nearest_up2d(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H_up W_up"]:
    """The maps with each pixel as a square of 2x2."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def average_down2d(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H_down W_down"]:
    """The means of each square of 2x2 pixels."""
    return F.avg_pool2d(x, 2)


def conv2d_nearest_up(
    x: Float[Tensor, "N C_in H W"], weight: Float[Tensor, "C_out C_in 3 3"], bias: Float[Tensor, " C_out"] | None = None
) -> Float[Tensor, "N C_out H_up W_up"]:
    """`nearest_up2d`, then a padded 3x3 correlation, as one transposed convolution with 16 products instead of 36.

    The weights may come in float32 for maps of half precision: they are cast after they are combined.
    Source: Karras et al. 2018 (ProGAN), the authors' "fused scale". Equal at the borders, too.
    """
    kernel = _combined(weight.flip([2, 3]), 4.0)
    return convolve_transposed(x, kernel.transpose(0, 1), bias, stride=2, padding=1)


def conv2d_average_down(
    x: Float[Tensor, "N C_in H W"], weight: Float[Tensor, "C_out C_in 3 3"], bias: Float[Tensor, " C_out"] | None = None
) -> Float[Tensor, "N C_out H_down W_down"]:
    """A padded 3x3 correlation, then `average_down2d`, as one convolution of stride 2 with 16 products instead of 36.

    As `conv2d_nearest_up` otherwise.
    """
    return convolve(x, _combined(weight, 1.0), bias, stride=2, padding=1)


def _combined(weight: Float[Tensor, "C_out C_in 3 3"], gain: float) -> Float[Tensor, "C_out C_in 4 4"]:
    """The mean of the four copies of the kernel, moved by 0 or 1 along each axis, times `gain`."""
    one_each = torch.eye(9, device=weight.device, dtype=weight.dtype).view(9, 1, 3, 3)
    moved = F.avg_pool2d(one_each, 2, stride=1, padding=1).flatten(1)
    kernel: Tensor = weight.flatten(2) @ (moved * gain)
    return kernel.view(*weight.shape[:2], 4, 4)


def _transposed(
    x: Float[Tensor, "N C H W"], weight: Float[Tensor, "C_out C_in rows columns"], stride: int, groups: int
) -> Float[Tensor, "N C_out H_out W_out"]:
    """The full convolution of the maps, after zeros are put between their pixels."""
    c_out, c_in, rows, columns = weight.shape
    if groups == 1:
        return convolve_transposed(x, weight.transpose(0, 1), stride=stride)
    weight = weight.reshape(groups, c_out // groups, c_in, rows, columns).transpose(1, 2)
    return convolve_transposed(x, weight.reshape(groups * c_in, -1, rows, columns), stride=stride, groups=groups)
