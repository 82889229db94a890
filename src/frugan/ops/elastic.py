"""Running the leading channels of a layer, as elastic generators do.

Source: AnyCost GAN (Lin et al. 2021), section 3.2.
"""

from torch import Tensor


def leading(tensor: Tensor, *sizes: int | None) -> Tensor:
    """A view of the leading entries of a tensor along its first axes; None keeps an axis whole.

    Raises ValueError where an axis is shorter than asked.
    """
    for axis, size in enumerate(sizes):
        if size is None or size == tensor.shape[axis]:
            continue
        if not 0 < size < tensor.shape[axis]:
            raise ValueError(f"axis {axis} has {tensor.shape[axis]} entries, of which 1 or more can lead; got {size}")
        tensor = tensor.narrow(axis, 0, size)
    return tensor
