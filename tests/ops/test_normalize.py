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


def statistics(channels):
    return draw(channels, seed=7), draw(channels, seed=8).square() + 0.5


def test_batch_norm_by_the_running_statistics():
    x, (mean, variance) = draw(3, 4, 5, 2), statistics(4)
    kept = mean.clone(), variance.clone()
    got = normalize.batch_norm(x, mean, variance, None)
    shape = (1, 4, 1, 1)
    torch.testing.assert_close(got, (x - mean.reshape(shape)) / (variance + 1e-5).sqrt().reshape(shape))
    assert torch.equal(mean, kept[0]) and torch.equal(variance, kept[1])


@pytest.mark.parametrize("gather", [None, lambda row: row], ids=["alone", "gathered"])
def test_batch_norm_by_the_batch(gather):
    x, (mean, variance) = draw(3, 4, 5, 2).float() * 3 + 1, [one.float() for one in statistics(4)]
    expected = torch.nn.BatchNorm2d(4, affine=False, momentum=0.3)
    expected.load_state_dict({"running_mean": mean, "running_var": variance, "num_batches_tracked": torch.tensor(0)})
    got = normalize.batch_norm(x, mean, variance, normalize.Pooling(gather=gather, momentum=0.3))
    torch.testing.assert_close(got, expected(x))
    torch.testing.assert_close(mean, expected.running_mean)
    torch.testing.assert_close(variance, expected.running_var)


def test_batch_norm_over_processes_is_that_of_the_whole_batch():
    """Parts of unequal size; the gradient, too, is that of the whole."""
    x = (draw(5, 4, 3, 2).float() * 3 + 100).requires_grad_()
    whole = normalize.batch_norm(x, *[one.float() for one in statistics(4)], normalize.Pooling())
    weights = draw(5, 4, 3, 2, seed=3).float()
    (expected,) = torch.autograd.grad((whole * weights).sum(), x)

    parts, rows = (x[:2], x[2:]), []
    kept = [[one.float() for one in statistics(4)] for _ in parts]
    for part, (mean, variance) in zip(parts, kept, strict=True):
        pooling = normalize.Pooling(gather=lambda row: rows.append(row) or row)
        normalize.batch_norm(part, mean.clone(), variance.clone(), pooling)
    both = normalize.Pooling(gather=lambda row: torch.cat(rows))
    halves = [normalize.batch_norm(part, *own, both) for part, own in zip(parts, kept, strict=True)]
    torch.testing.assert_close(torch.cat(halves), whole, atol=2e-5, rtol=1e-4)
    (grad,) = torch.autograd.grad((torch.cat(halves) * weights).sum(), x)
    torch.testing.assert_close(grad, expected, atol=2e-5, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


@pytest.mark.parametrize("gather", [None, lambda row: row], ids=["alone", "gathered"])
def test_batch_norm_by_the_batch_alone(gather):
    """As in a discriminator's phase: nothing moves."""
    x, (mean, variance) = draw(3, 4, 5, 2).float(), [one.float() for one in statistics(4)]
    kept = mean.clone(), variance.clone()
    got = normalize.batch_norm(x, mean, variance, normalize.Pooling(gather=gather, momentum=0))
    torch.testing.assert_close(got, torch.nn.BatchNorm2d(4, affine=False)(x))
    assert torch.equal(mean, kept[0]) and torch.equal(variance, kept[1])


def test_standing_statistics_are_those_of_all_batches_together():
    batches = [draw(n, 4, 3, 2, seed=n).float() * n + n for n in (5, 1, 8, 3)]
    (mean, variance), (other, spread) = [[one.float() for one in statistics(4)] for _ in range(2)]
    kept = mean.clone(), variance.clone()
    standing = normalize.Standing()
    pooling = normalize.Pooling(standing=standing)
    for batch in batches:
        got = normalize.batch_norm(batch, mean, variance, pooling)
        torch.testing.assert_close(got, torch.nn.BatchNorm2d(4, affine=False)(batch), atol=1e-5, rtol=1e-4)
        normalize.batch_norm(2 * batch, other, spread, pooling)  # another layer of the same network
    assert torch.equal(mean, kept[0]) and torch.equal(variance, kept[1])
    standing.store()
    everything = torch.cat(batches).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean.double(), everything.mean(dim=1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(variance.double(), everything.var(dim=1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other, 2 * mean)
    torch.testing.assert_close(spread, 4 * variance)


def test_standing_statistics_do_not_depend_on_the_division():
    x = draw(12, 4, 3, 2).float() + 10
    found = []
    for parts in (x.split(12), x.split([1, 7, 4])):
        mean, variance = torch.zeros(4), torch.ones(4)
        standing = normalize.Standing()
        for part in parts:
            normalize.batch_norm(part, mean, variance, normalize.Pooling(standing=standing))
        standing.store()
        found.append((mean, variance))
    torch.testing.assert_close(found[0], found[1])


def test_standing_statistics_of_nothing():
    with pytest.raises(ValueError, match="need a batch"):
        normalize.Standing().store()


@pytest.mark.parametrize("pooling", [None, normalize.Pooling()], ids=["running", "batch"])
@pytest.mark.parametrize("rows", [3, 1])
def test_conditional_batch_norm(pooling, rows):
    x, (mean, variance) = draw(3, 4, 5, 2), statistics(4)
    gain, shift = draw(rows, 4, seed=5), draw(rows, 4, seed=6)
    plain = normalize.batch_norm(x, mean.clone(), variance.clone(), pooling, 1e-4)
    got = normalize.conditional_batch_norm(x, mean, variance, gain, shift, pooling, 1e-4)
    torch.testing.assert_close(got, plain * gain[:, :, None, None] + shift[:, :, None, None])


def test_conditional_batch_norm_keeps_half_precision():
    x = draw(3, 4, 5, 2).bfloat16()
    mean, variance = torch.zeros(4), torch.ones(4)
    for pooling in (None, normalize.Pooling(), normalize.Pooling(gather=lambda row: row)):
        got = normalize.conditional_batch_norm(x, mean, variance, torch.ones(1, 4), torch.zeros(1, 4), pooling)
        assert got.dtype == torch.bfloat16
        assert got.isfinite().all()
    assert mean.dtype == torch.float32
