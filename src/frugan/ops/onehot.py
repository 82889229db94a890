"""Classes as rows of 0 and 1."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def one_hot(classes: Int64[Tensor, "*n"], count: int) -> Float[Tensor, "*n {count}"]:
    """A row for each class, float32, 1 at its place; a class outside [0, count) gets zeros.

    Nothing waits for the numbers, as torch's own function may.
    """
    return (classes[..., None] == torch.arange(count, device=classes.device)).float()
