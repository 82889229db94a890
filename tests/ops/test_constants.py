"""Constants are made once for each device and type, and can be used in training wherever they were first asked for."""

import torch
from torch import Tensor

from frugan.ops.constants import constant, row

CPU = torch.device("cpu")


def test_a_constant_is_made_once() -> None:
    made = []

    def make(count: int) -> Tensor:
        made.append(count)
        return torch.arange(count)

    first = constant(make, 3, device=CPU)
    assert first.tolist() == [0, 1, 2] and first.dtype == torch.int64
    assert constant(make, 3, device=CPU) is first
    assert constant(make, 4, device=CPU).tolist() == [0, 1, 2, 3]
    assert constant(make, 3, device=CPU, dtype=torch.float64).dtype == torch.float64
    assert made == [3, 4, 3]


def test_one_first_asked_for_without_gradients_serves_with_them() -> None:
    with torch.inference_mode():
        factors = constant(row, 1.5, 2.0, device=CPU)
    x = torch.ones(2, requires_grad=True)
    (x * factors).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.5, 2.0]
