"""Convolutions that run in the layout their device likes, and whose second derivative costs no more than the first.

torch computes the second derivative of a convolution by one whose kernel is as large as the picture, also with respect
to weights that are constant. Here every derivative is again one of three operations, all of them quick: convolution,
transposed convolution, gradient of the weights. Values and all derivatives are those of torch's own functions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def preferred_layout(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    """The same maps, stored channels-last where that is faster: on the CPU, and in half precision on a GPU."""
    if x.device.type == "cpu" or (x.device.type == "cuda" and x.dtype != torch.float32):
        return x.contiguous(memory_format=torch.channels_last)
    return x


def convolve(
    x: Float[Tensor, "N C_in H W"],
    weight: Float[Tensor, "C_out C_group rows columns"],
    bias: Float[Tensor, " C_out"] | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
) -> Float[Tensor, "N C_out H_out W_out"]:
    """What `torch.nn.functional.conv2d` gives; pairs are (rows, columns)."""
    return _convolve(x, weight, bias, _two(stride), _two(padding), groups, False, (0, 0))


def convolve_transposed(
    x: Float[Tensor, "N C_in H W"],
    weight: Float[Tensor, "C_in C_group rows columns"],
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
) -> Float[Tensor, "N C_out H_out W_out"]:
    """What `torch.nn.functional.conv_transpose2d` gives; pairs are (rows, columns)."""
    return _convolve(x, weight, None, _two(stride), _two(padding), groups, True, (0, 0))


def _two(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    groups: int,
    transposed: bool,
    extra: tuple[int, int],
) -> Tensor:
    x = preferred_layout(x)
    # A compiled graph is differentiated once only, and without gradients there is nothing to speed up.
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        result: Tensor = _Convolution.apply(x, weight, bias, stride, padding, groups, transposed, extra)
        return result
    return _run(x, weight, bias, stride, padding, groups, transposed, extra)


def _run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    groups: int,
    transposed: bool,
    extra: tuple[int, int],
) -> Tensor:
    if transposed:
        return F.conv_transpose2d(x, weight, bias, stride, padding, extra, groups)
    return F.conv2d(x, weight, bias, stride, padding, 1, groups)


class _Convolution(torch.autograd.Function):
    """y = conv(x, weight) + bias, or the transposed convolution; `extra` rows and columns fix the size of the latter."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return _run(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, *ctx.settings = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, groups, transposed, _ = ctx.settings
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            # The derivative of one kind is the other kind with the same weights.
            rest = (0, 0) if transposed else _rest(x.shape, grad.shape, weight.shape, stride, padding)
            for_x = _convolve(grad, weight, None, stride, padding, groups, not transposed, rest)
        if ctx.needs_input_grad[1]:
            wide, narrow = (grad, x) if transposed else (x, grad)
            for_weight = _WeightGradient.apply(wide, narrow, weight.shape, stride, padding, groups)
        if ctx.needs_input_grad[2]:
            for_bias = grad.sum(dim=(0, 2, 3))
        return for_x, for_weight, for_bias, None, None, None, None, None


def _rest(
    wide: torch.Size, narrow: torch.Size, weight: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, int]:
    """The rows and columns of the larger maps that no step of the kernel reached."""
    rows, columns = (
        wide[axis + 2] + 2 * padding[axis] - (narrow[axis + 2] - 1) * stride[axis] - weight[axis + 2] for axis in (0, 1)
    )
    return rows, columns


class _WeightGradient(torch.autograd.Function):
    """The gradient of a convolution's weights, for its input `wide` and the gradient `narrow` of its output."""

    @staticmethod
    def forward(
        wide: Tensor,
        narrow: Tensor,
        shape: torch.Size,
        stride: tuple[int, int],
        padding: tuple[int, int],
        groups: int,
    ) -> Tensor:
        weight = wide.new_empty(1).expand(shape)
        gradients = torch.ops.aten.convolution_backward(
            narrow, wide, weight, None, stride, padding, (1, 1), False, (0, 0), groups, (False, True, False)
        )
        result: Tensor = gradients[1]
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        wide, narrow, _, *ctx.settings = inputs
        ctx.save_for_backward(wide, narrow)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        wide, narrow = ctx.saved_tensors
        stride, padding, groups = ctx.settings
        for_wide = for_narrow = None
        if ctx.needs_input_grad[0]:
            rest = _rest(wide.shape, narrow.shape, grad.shape, stride, padding)
            for_wide = _convolve(narrow, grad, None, stride, padding, groups, True, rest)
        if ctx.needs_input_grad[1]:
            for_narrow = _convolve(wide, grad, None, stride, padding, groups, False, (0, 0))
        return for_wide, for_narrow, None, None, None, None
