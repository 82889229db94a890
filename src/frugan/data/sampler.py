"""Which picture comes next: an endless shuffled order in which the position is the whole state."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt64

_FLIP_STREAM, _CROP_STREAM = 1 << 63, 1 << 62


@dataclass(frozen=True)
class Sampler:
    """An endless order over a set: every epoch shows every picture once, in an order of its own.

    Position p is picture p % num_images of epoch p // num_images: nothing else is remembered, so a run is resumed by
    its position, and ranks slice one global batch. With `flip`, about half of the pictures of an epoch are mirrored,
    and the next epoch mirrors the others: two epochs (an even one and the next) show each picture once each way.
    The order is fixed by (num_images, seed) for all versions of numpy: it sorts raw Philox output, whose stream numpy
    guarantees, and uses none of its distributions.
    """

    num_images: int
    seed: int
    flip: bool = False

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {self.num_images}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be 0 to 2**63 - 1, got {self.seed}")

    def indices(self, position: int, count: int) -> tuple[Int64[np.ndarray, " B"], Bool[np.ndarray, " B"]]:
        """The pictures at positions position .. position + count - 1, and which of them to mirror.

        May span epochs, also several of them. Raises: ValueError for a negative position or a count below 1.
        """
        if position < 0 or count < 1:
            raise ValueError(f"position must be >= 0 and count >= 1, got {position} and {count}")
        chosen, mirrored = [], []
        for epoch, order in self._epochs(position, count):
            chosen.append(order)
            if self.flip:
                mirrored.append(_first_flips(self.num_images, self.seed, epoch // 2)[order] ^ bool(epoch % 2))
            else:
                mirrored.append(np.zeros(len(order), dtype=bool))
        return np.concatenate(chosen), np.concatenate(mirrored)

    def corners(self, position: int, count: int, margin: tuple[int, int]) -> Int64[np.ndarray, "B 2"]:
        """Top and left of the random crops of the pictures that `indices` gives there, from 0 to `margin`.

        A picture has another one in every epoch; sets of the same margin share them, whatever their pictures.
        """
        found = []
        for epoch, order in self._epochs(position, count):
            drawn = _stream(self.seed, _CROP_STREAM | epoch, self.num_images)[order]
            halves = np.stack([drawn >> np.uint64(32), drawn & np.uint64(0xFFFFFFFF)], axis=1)
            found.append(halves * (np.array(margin, dtype=np.uint64) + np.uint64(1)) >> np.uint64(32))
        return np.concatenate(found).astype(np.int64)

    def _epochs(self, position: int, count: int) -> Iterator[tuple[int, Int64[np.ndarray, " n"]]]:
        """(epoch, pictures of it) for these positions."""
        end = position + count
        while position < end:
            epoch, start = divmod(position, self.num_images)
            stop = min(self.num_images, start + end - position)
            yield epoch, _epoch_order(self.num_images, self.seed, epoch)[start:stop]
            position += stop - start


def _stream(seed: int, stream: int, count: int) -> UInt64[np.ndarray, " N"]:
    raw: np.ndarray = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(count)
    return raw


@functools.lru_cache(maxsize=4)
def _epoch_order(num_images: int, seed: int, epoch: int) -> Int64[np.ndarray, " N"]:
    order = np.argsort(_stream(seed, epoch, num_images), kind="stable").astype(np.int64, copy=False)
    order.flags.writeable = False  # shared by the cache
    return order


@functools.lru_cache(maxsize=4)
def _first_flips(num_images: int, seed: int, pair: int) -> Bool[np.ndarray, " N"]:
    flips: np.ndarray = _stream(seed, _FLIP_STREAM | pair, num_images) >= np.uint64(1 << 63)
    flips.flags.writeable = False
    return flips
