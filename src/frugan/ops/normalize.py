"""Normalisation: pixel norm and the minibatch standard deviation."""

import torch
from jaxtyping import Float
from torch import Tensor


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
