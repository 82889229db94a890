import pytest
import torch

from frugan.ops import normalize
from tests import reference


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 5), (2, 5, 3, 4)], ids=str)
def test_pixel_norm_leaves_unit_mean_square(shape):
    x = draw(*shape) * 7
    y = normalize.pixel_norm(x)
    torch.testing.assert_close(y.square().mean(dim=1), torch.ones_like(y[:, 0]))
    torch.testing.assert_close(y / y[:, :1], x / x[:, :1])


@pytest.mark.parametrize(
    ("batch", "group", "features"), [(8, 4, 1), (8, 8, 1), (8, 4, 2), (6, 3, 3), (4, 2, 6), (1, 4, 1)]
)
def test_stddev_deals_samples_into_strided_groups(batch, group, features):
    x = draw(batch, 6, 4, 3)
    got = normalize.minibatch_stddev(x, group, features)
    assert torch.equal(got[:, :6], x)
    torch.testing.assert_close(got[:, 6:], reference.minibatch_stddev(x, group, features))
    torch.testing.assert_close(
        normalize.minibatch_stddev(x, None, features), normalize.minibatch_stddev(x, batch, features)
    )


def test_stddev_clips_the_group_to_the_batch_and_refuses_a_rest():
    x = draw(3, 4, 2, 2)
    torch.testing.assert_close(normalize.minibatch_stddev(x, 8), normalize.minibatch_stddev(x, None))
    with pytest.raises(ValueError, match="multiple of the minibatch-stddev group 2, got 3"):
        normalize.minibatch_stddev(x, 2)
    with pytest.raises(ValueError, match="multiple of the stddev features 3, got 4"):
        normalize.minibatch_stddev(x, 3, 3)


def test_stddev_is_differentiable_twice():
    x = draw(4, 2, 2, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: normalize.minibatch_stddev(x, 2), (x,))
    assert torch.autograd.gradgradcheck(lambda x: normalize.minibatch_stddev(x, 2), (x,))


def test_stddev_of_equal_samples_has_finite_derivatives():
    x = torch.ones(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(normalize.minibatch_stddev(x, 4).sum(), x, create_graph=True)
    grad.square().sum().backward()
    assert torch.isfinite(x.grad).all()
