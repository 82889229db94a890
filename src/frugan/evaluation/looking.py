"""Features of pictures by one network, kept in the user's cache by content."""

import time

import torch
from torch import Tensor

from frugan.data.digests import Progress
from frugan.data.kept import keep, place_of, read_kept
from frugan.evaluation.pictures import BATCH, Pictures
from frugan.features import FeatureExtractor, as_rgb

Features = dict[str, Tensor]
_FORMAT = 1  # raise it whenever the same pictures and extractor would give other features


def features_of(
    pictures: Pictures, extractor: FeatureExtractor, taps: tuple[str, ...], tell: Progress, text: str
) -> Features:
    """The features of these pictures at those taps, on the CPU: from the cache, or looked at now and put there.

    An extractor whose weights are not known by a digest cannot be found again: nothing is kept of it.
    """
    key = pictures.key if extractor.fingerprint != "unknown" else None
    path = place_of("features", [_FORMAT, key, extractor.name, extractor.resizer, extractor.fingerprint, taps])
    found = read_kept(path) if key is not None else None
    if found is None:
        found = _extract(pictures, extractor, taps, tell, text)
        if key is not None:
            keep(path, found)
    return found


def _extract(
    pictures: Pictures, extractor: FeatureExtractor, taps: tuple[str, ...], tell: Progress, text: str
) -> Features:
    device = device_of(extractor)
    # Larger blocks of memory than four pictures need are given back to the system and cleared each time: twice the
    # work (measured with EfficientNet-Lite0).
    most = 4 if device.type == "cpu" else BATCH
    rows: dict[str, list[Tensor]] = {tap: [] for tap in taps}
    watch = Watch(pictures.count, tell, text)
    with torch.inference_mode():
        for images in (small for part in pictures.batches() for small in part.split(most)):
            seen = extractor(as_rgb(images).to(device).float(), taps)
            for tap in taps:
                rows[tap].append(seen[tap].float().cpu())
            watch.add(len(images))
    # Outside of inference mode, so that what is kept is an ordinary tensor.
    return {tap: torch.cat(blocks).clone() for tap, blocks in rows.items()}


def device_of(extractor: FeatureExtractor) -> torch.device:
    """Where the network's weights are."""
    return next((parameter.device for parameter in extractor.parameters()), torch.device("cpu"))


class Watch:
    """Tells how far a long look has come, and about how long it still takes."""

    def __init__(self, total: int, tell: Progress, text: str) -> None:
        self._total, self._tell, self._text = total, tell, text
        self._done, self._began = 0, time.monotonic()

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        about = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
        text = f"{self._text} (about {about} left)" if self._done < self._total else self._text
        self._tell(self._done, self._total, text)
