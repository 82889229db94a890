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


def in_dtype(x: Float[Tensor, "N C H W"], dtype: torch.dtype) -> Float[Tensor, "N C H W"]:
    """Maps or weights in `dtype`; if it is another, in the layout that goes with it, as the gradient on its way back.

    On a GPU half precision is channels-last and float32 is not: mixed layouts cost every pass over the maps dearly.
    """
    if x.dtype == dtype:
        return x
    return _apply(_Cast, x, dtype) if has_own_derivatives() else _cast(x, dtype)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    layouts = {
        "cpu": torch.channels_last,
        "cuda": torch.channels_last if dtype.itemsize < 4 else torch.contiguous_format,
    }
    return x.to(dtype, memory_format=layouts.get(x.device.type, torch.preserve_format))


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype) -> Tensor:
        return _cast(x, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, torch.dtype], output: Tensor) -> None:
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return in_dtype(grad, ctx.dtype), None


def convolve(
    x: Float[Tensor, "N C_in H W"],
    weight: Float[Tensor, "C_out C_group rows columns"],
    bias: Float[Tensor, " C_out"] | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
) -> Float[Tensor, "N C_out H_out W_out"]:
    """What `torch.nn.functional.conv2d` gives; pairs are (rows, columns). Weights are cast to the dtype of the maps."""
    return _convolve(x, weight, bias, _two(stride), _two(padding), groups, False, (0, 0))


def convolve_transposed(
    x: Float[Tensor, "N C_in H W"],
    weight: Float[Tensor, "C_in C_group rows columns"],
    bias: Float[Tensor, " C_out"] | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
) -> Float[Tensor, "N C_out H_out W_out"]:
    """What `torch.nn.functional.conv_transpose2d` gives; otherwise as `convolve`."""
    return _convolve(x, weight, bias, _two(stride), _two(padding), groups, True, (0, 0))


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
    # Weights in the layout of the maps, or cuDNN would copy them each time it sees them.
    weight = in_dtype(weight, x.dtype)
    x = x.contiguous() if _is_depthwise_on_card(x, weight, groups) else preferred_layout(x)
    if has_own_derivatives():
        parcel: list[Tensor] = []
        link = None
        if weight.requires_grad:
            link = _apply(_WeightLink, weight, parcel, stride, padding, groups, transposed)
        return _apply(_Convolution, x, weight, bias, link, parcel, stride, padding, groups, transposed, extra)
    return _run(x, weight, bias, stride, padding, groups, transposed, extra)


def _apply(function: type[torch.autograd.Function], *args: Any) -> Tensor:
    result: Tensor = function.apply(*args)
    return result


def is_traced() -> bool:
    """Whether torch turns what runs into something else: a compiled or exported graph, or a function of torch.func."""
    transformed: bool = torch._C._are_functorch_transforms_active()
    return torch.compiler.is_compiling() or transformed


def is_drawing(x: Tensor) -> bool:
    """Whether all that will ever be wanted of these maps are pictures, drawn in float32 on a CPU: in inference mode.

    Then a quicker way may round otherwise. Not where torch traces, nor where a mode of its dispatcher looks on, such as
    one that counts multiplications.
    """
    if not torch.is_inference_mode_enabled() or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    return not is_traced() and torch._C._len_torch_dispatch_stack() == 0


def has_own_derivatives() -> bool:
    """Whether to use functions with derivatives of their own: not without gradients, nor where torch traces.

    A compiled graph is differentiated once only. torch.func would run them once for each of its levels, which the
    parcel between the two below does not survive.
    """
    return torch.is_grad_enabled() and not is_traced()


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
    if transposed and _is_depthwise_on_card(x, weight, groups):
        return _depthwise_transposed(x, weight, bias, stride, padding, extra)
    if transposed:
        return F.conv_transpose2d(x, weight, bias, stride, padding, extra, groups)
    return F.conv2d(x, weight, bias, stride, padding, 1, groups)


def _is_depthwise_on_card(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether torch has kernels of its own for this on a GPU, which want each channel in one piece.

    Channels-last, or as a transposed convolution, it would leave it to cuDNN's kernels for groups.
    """
    return x.device.type == "cuda" and groups > 1 and weight.shape[1] == 1 and weight.shape[0] == groups


def _depthwise_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    extra: tuple[int, int],
) -> Tensor:
    """The transposed depthwise convolution as what it is, the derivative of a depthwise one by its input."""
    size = [
        (x.shape[axis + 2] - 1) * stride[axis] - 2 * padding[axis] + weight.shape[axis + 2] + extra[axis]
        for axis in (0, 1)
    ]
    wide = x.new_empty(*x.shape[:2], *size)  # only its shape counts
    result = _gradient(x, wide, weight, stride, padding, x.shape[1], by_input=True)
    return result if bias is None else result + bias[:, None, None]


def _gradient(
    grad: Tensor,
    wide: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    groups: int,
    *,
    by_input: bool,
) -> Tensor:
    """The gradient of a convolution by its input `wide`, or by its weights, for that of its output."""
    wanted = (by_input, not by_input, False)
    gradients = torch.ops.aten.convolution_backward(
        grad, wide, weight, None, stride, padding, (1, 1), False, (0, 0), groups, wanted
    )
    result: Tensor = gradients[0 if by_input else 1]
    return result


class _Convolution(torch.autograd.Function):
    """y = conv(x, weight) + bias, or the transposed convolution; `extra` rows and columns fix the size of the latter.

    The gradient of the weights is left to `_WeightLink`, a node of its own. Autograd skips it where only the derivative
    by the input is asked for, as in gradient penalties; one node for both would compute both.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, link: Any, parcel: Any, *settings: Any) -> Tensor:
        return _run(x, weight, bias, *settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, _, ctx.parcel, *ctx.settings = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, groups, transposed, _ = ctx.settings
        for_x = for_bias = None
        if ctx.needs_input_grad[0]:
            # The derivative of one kind is the other kind with the same weights.
            rest = (0, 0) if transposed else _rest(x.shape, grad.shape, weight.shape, stride, padding)
            for_x = _convolve(grad, weight, None, stride, padding, groups, not transposed, rest)
        if ctx.needs_input_grad[2]:
            for_bias = grad.sum(dim=(0, 2, 3))
        if ctx.needs_input_grad[3]:
            ctx.parcel[:] = x, grad
        return for_x, None, for_bias, None, None, None, None, None, None, None


class _WeightLink(torch.autograd.Function):
    """A number that ties `_Convolution` to its weights; on the way back it turns the parcel into their gradient.

    Its value is nobody's, and no gradient of it is handed back: filling numbers costs a GPU as much as using them.
    """

    @staticmethod
    def forward(weight: Tensor, *settings: Any) -> Tensor:
        return weight.new_empty(())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight, ctx.parcel, *ctx.settings, ctx.transposed = inputs
        ctx.shape = weight.shape
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, _: None) -> tuple[Any, ...]:
        narrow = ctx.parcel.pop()
        wide = ctx.parcel.pop()
        if ctx.transposed:
            wide, narrow = narrow, wide
        return _apply(_WeightGradient, wide, narrow, ctx.shape, *ctx.settings), None, None, None, None, None


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
        weight = wide.new_empty(shape)  # only its shape counts
        return _gradient(narrow, wide, weight, stride, padding, groups, by_input=False)

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
