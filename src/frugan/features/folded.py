"""Convolutions with their batch norm folded in, laid out for speed, for networks that are only ever run."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional


class Pointwise(nn.Linear):
    """A 1 x 1 convolution as one matrix product over channels-last maps.

    Torch has no fast path for it on one CPU thread and few pictures.
    """

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = functional.linear(input.permute(0, 2, 3, 1), self.weight, self.bias)
        return product.permute(0, 3, 1, 2)

    def take(self, weight: Tensor, bias: Tensor) -> None:
        """Takes the weights of a 1 x 1 convolution."""
        self.load_state_dict({"weight": weight[:, :, 0, 0], "bias": bias})


class Convolution(nn.Conv2d):
    """A convolution over channels-last maps."""

    def take(self, weight: Tensor, bias: Tensor) -> None:
        """Takes the weights in their published shape."""
        self.load_state_dict({"weight": weight.contiguous(memory_format=torch.channels_last), "bias": bias})


def fold(weight: Tensor, norm: Mapping[str, Tensor], epsilon: float) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals a convolution without bias followed by its batch norm.

    `norm` has weight, bias, running_mean and running_var. Computed in float64, given back in float32.
    """
    scale = norm["weight"].double() / (norm["running_var"].double() + epsilon).sqrt()
    bias = norm["bias"].double() - norm["running_mean"].double() * scale
    return (weight.double() * scale[:, None, None, None]).float(), bias.float()


NORM = ("weight", "bias", "running_mean", "running_var")
