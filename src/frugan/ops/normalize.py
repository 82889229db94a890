"""Normalisation: pixel norm, the minibatch standard deviation, statistics of a batch over several processes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Gather = Callable[[Tensor], Tensor]


def pixel_norm(x: Float[Tensor, "N C *rest"], eps: float = 1e-8) -> Float[Tensor, "N C *rest"]:
    """The features divided by their root mean square over the channels. Source: Karras et al. 2018, section 4.2."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


def minibatch_stddev(
    x: Float[Tensor, "N C H W"], group: int | None = 4, features: int = 1
) -> Float[Tensor, "N C_out H W"]:
    """The maps with `features` constant maps appended: how much a group of samples differs, over C / features channels.

    The batch is dealt into M = N / G groups, sample n into group n mod M, with G = min(group, N), or all samples where
    `group` is None. Raises ValueError where G does not divide N or `features` does not divide C.
    Source: Karras et al. 2018, section 3; grouping and the 1e-8 under the root as in StyleGAN2-ADA.
    """
    n, c, h, w = x.shape
    size = n if group is None else min(group, n)
    if n % size:
        raise ValueError(f"the batch must be a multiple of the minibatch-stddev group {size}, got {n}")
    if c % features:
        raise ValueError(f"the channels must be a multiple of the stddev features {features}, got {c}")
    y = x.reshape(size, n // size, features, c // features, h, w)
    y = ((y - y.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt()
    y = y.mean(dim=[2, 3, 4])
    y = y.repeat(size, 1)[:, :, None, None].expand(n, features, h, w)
    return torch.cat([x, y], dim=1)


class Standing:
    """Statistics of all batches together: what the running ones become where nothing may be forgotten.

    Given to every call by its `Pooling`; `store` ends it. Each picture counts the same, whatever its batch's size; the
    variance is that of all pictures about the mean of all (Chan, Golub and LeVeque 1983). Brock et al. 2019 (BigGAN,
    section 2.1) call them standing statistics. StudioGAN's are an average in which the last batches prevail.
    """

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._sums: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def add(self, mean: Tensor, variance: Tensor, count: Tensor, now: Tensor, spread: Tensor) -> None:
        """Take in a batch of `count` values for each channel, of mean `now` and variance `spread` (without bias term).

        `mean` and `variance` are the layer's running statistics, by which it is known, and which do not change yet.
        """
        key = mean.data_ptr()
        before, old, squares = self._sums.get(key, (torch.zeros_like(count), torch.zeros_like(now), 0 * spread))
        total = before + count
        step = now - old
        squares = squares + spread * count + step.square() * (before * count / total)
        self._layers[key], self._sums[key] = (mean, variance), (total, old + step * (count / total), squares)

    @torch.no_grad()
    def store(self) -> None:
        """Make the running statistics those of all batches. Raises ValueError where there was none."""
        if not self._sums:
            raise ValueError("standing statistics need a batch through a network that normalises by batches, got none")
        for key, (mean, variance) in self._layers.items():
            count, value, squares = self._sums[key]
            mean.copy_(value)
            variance.copy_(squares / (count - 1).clamp(min=1))


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How statistics of a batch are taken and kept in training.

    `gather` gives the rows (n, K) of all processes (`Ranks.gather`), gradients included; None: this process alone.
    `momentum` is the share of this batch in the running statistics; 0 leaves them as they are, as the discriminator's
    phase does. With `standing` the batch goes there instead.
    """

    gather: Gather | None = None
    momentum: float = 0.1
    standing: Standing | None = None


def batch_norm(
    x: Float[Tensor, "N C *rest"],
    mean: Float[Tensor, " C"],
    variance: Float[Tensor, " C"],
    pooling: Pooling | None,
    eps: float = 1e-5,
) -> Float[Tensor, "N C *rest"]:
    """The maps with mean 0 and variance 1 in each channel: by the running statistics, or with `pooling` by the batch's.

    The batch's are those of all processes; the running `mean` and `variance` (without bias) then move towards them.
    Source: Ioffe and Szegedy 2015, algorithms 1 and 2.
    """
    if pooling is None:
        return F.batch_norm(x, mean, variance, eps=eps)
    if pooling.gather is None and pooling.standing is None:
        if not pooling.momentum:
            return F.batch_norm(x, None, None, training=True, eps=eps)
        return F.batch_norm(x, mean, variance, training=True, momentum=pooling.momentum, eps=eps)
    count, now, spread = _pooled(x, pooling.gather or _alone)
    with torch.no_grad():
        if pooling.standing is not None:
            pooling.standing.add(mean, variance, count, now, spread)
        elif pooling.momentum:
            mean.lerp_(now, pooling.momentum)
            variance.lerp_(spread * (count / (count - 1)), pooling.momentum)
    shape = (-1, *[1] * (x.ndim - 2))
    return (x - now.to(x.dtype).reshape(shape)) * (spread + eps).rsqrt().to(x.dtype).reshape(shape)


def conditional_batch_norm(
    x: Float[Tensor, "N C H W"],
    mean: Float[Tensor, " C"],
    variance: Float[Tensor, " C"],
    gain: Float[Tensor, "M C"],
    shift: Float[Tensor, "M C"],
    pooling: Pooling | None,
    eps: float = 1e-5,
) -> Float[Tensor, "N C H W"]:
    """`batch_norm`, then times `gain` plus `shift`, by sample (M = N) or for all (M = 1); in the dtype of `x`.

    Source: Dumoulin et al. 2017; de Vries et al. 2017.
    """
    if pooling is None:  # one pass over the maps instead of two
        gain = gain * (variance + eps).rsqrt()
        shift = shift - mean * gain
    else:
        x = batch_norm(x, mean, variance, pooling, eps)
    return torch.addcmul(shift.to(x.dtype)[:, :, None, None], x, gain.to(x.dtype)[:, :, None, None])


def _alone(rows: Tensor) -> Tensor:
    return rows


def _pooled(x: Tensor, gather: Gather) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and variance of all processes' maps, from those of each (Chan, Golub and LeVeque 1983)."""
    maps = x.transpose(0, 1).flatten(1).float()
    own = maps.mean(dim=1)
    squares = (maps - own[:, None]).square().sum(dim=1)
    rows = gather(torch.cat([own.new_full((1,), maps.shape[1]), own, squares])[None])
    counts, means, squares = rows.split([1, len(own), len(own)], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(dim=0) / total
    return total, mean, (squares + counts * (means - mean).square()).sum(dim=0) / total
