"""Real pictures for the loop: each stream a sampler whose whole state is one position."""

import zlib
from collections.abc import Iterator, Mapping

import torch

from frugan.data.dataset import Dataset, to_float
from frugan.data.sampler import Sampler
from frugan.training.door import Batch, Share


class Feed:
    """One stream of pictures: windows of one global batch along the sampler's endless order, from `position` on."""

    def __init__(self, dataset: Dataset, seed: int, flip: bool, device: torch.device, position: int = 0) -> None:
        self.dataset = dataset
        self.position = position
        self._sampler = Sampler(len(dataset), seed, flip)
        self._device = device

    def batch(self, size: int, share: Share, window: int = 0) -> Batch:
        """This share of the `window`-th window of `size` pictures from the position on.

        Pictures are float in [-1, 1], label maps uint8 as they are stored.
        """
        start = self.position + window * size
        indices, flips = self._sampler.indices(start, size)
        indices, flips = indices[share.slice], flips[share.slice]
        corners = None
        if self.dataset.crop is not None:
            corners = self._sampler.corners(start, size, self.dataset.margin)[share.slice]
        images = self.dataset.batch(indices, flips, corners).to(self._device, non_blocking=True)
        labels = self.dataset.one_hot(indices)
        if labels is not None:
            labels = labels.to(self._device, non_blocking=True)
        is_map = self.dataset.kind == "labels"
        places = torch.from_numpy(indices).to(self._device, non_blocking=True)
        return Batch(images if is_map else to_float(images), labels, places)


def open_feeds(data: Mapping[str, Dataset], seed: int, device: torch.device) -> dict[str, Feed]:
    """A feed for each stream; pictures of the same names go together: in one order, with the same flips and crops.

    All others have orders of their own, by the seed and the name of the stream (the first of those that go together);
    the stream `images` has that of the seed itself. Pictures are mirrored only where all that go together may be.
    """
    feeds = {}
    for name, dataset in data.items():
        partners = [other for other in data if data[other].names == dataset.names]
        flip = all(data[other].flip for other in partners)
        feeds[name] = Feed(dataset, _own_seed(seed, min(partners)), flip, device)
    return feeds


def _own_seed(seed: int, stream: str) -> int:
    return seed if stream == "images" else seed ^ zlib.crc32(stream.encode())


class LazyBatches(Mapping[str, Batch]):
    """The batches of all streams for one phase and micro-batch; a stream that is not asked for costs nothing."""

    def __init__(self, feeds: Mapping[str, Feed], size: int, share: Share, window: int) -> None:
        self._feeds, self._size, self._share, self._window = feeds, size, share, window
        self._ready: dict[str, Batch] = {}

    def __getitem__(self, name: str) -> Batch:
        """The batch of one stream."""
        if name not in self._ready:
            self._ready[name] = self._feeds[name].batch(self._size, self._share, self._window)
        return self._ready[name]

    def __iter__(self) -> Iterator[str]:
        """The names of the streams."""
        return iter(self._feeds)

    def __len__(self) -> int:
        """How many streams there are."""
        return len(self._feeds)
