"""Rows of 0 and 1, as torch makes them."""

import pytest
import torch
import torch.nn.functional as F

from frugan.ops.onehot import one_hot


@pytest.mark.parametrize("shape", [(5,), (2, 3), (), (0,)])
def test_rows_are_torchs(shape: tuple[int, ...]) -> None:
    classes = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(0))
    rows = one_hot(classes, 4)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, F.one_hot(classes, 4).float())


def test_a_class_that_is_none_gets_zeros() -> None:
    assert one_hot(torch.tensor([-1, 2, 3]), 3).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
