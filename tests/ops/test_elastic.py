import pytest
import torch

from frugan.ops.elastic import leading


def test_leading_is_a_view_of_the_first_entries():
    x = torch.arange(60).reshape(3, 4, 5)
    assert torch.equal(leading(x, 2, None, 3), x[:2, :, :3])
    assert leading(x, 2).data_ptr() == x.data_ptr()
    assert leading(x, 3, 4) is x


@pytest.mark.parametrize("size", [0, 4, -1])
def test_leading_refuses_what_is_not_there(size):
    with pytest.raises(ValueError, match="axis 0 has 3 entries"):
        leading(torch.zeros(3), size)
