"""Numbers that never change, made and copied to a device once.

A copy in each call makes a graphics card wait, and cannot be part of a recording of its operations.
"""

from collections.abc import Callable, Hashable
from functools import lru_cache

import torch
from torch import Tensor


def constant(
    make: Callable[..., Tensor], *args: Hashable, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """What `make(*args)` gives, wherever it makes it, there and in that dtype (None: its own). Not to be changed."""
    return _kept(make, args, device, dtype)


# More than a process needs: a recording does not hold on to what is dropped here.
@lru_cache(maxsize=512)
def _kept(
    make: Callable[..., Tensor], args: tuple[Hashable, ...], device: torch.device, dtype: torch.dtype | None
) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return make(*args).to(device=device, dtype=dtype)


def row(*numbers: float) -> Tensor:
    """These numbers, for `constant`."""
    return torch.tensor(numbers)
