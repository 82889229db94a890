"""Feature networks: pictures to features at named taps, through one door.

`open_extractor(name)` reads a network's weights and gives it back ready and frozen; `EXTRACTORS` lists the names.
Every score names its extractor, its resizer and its fingerprint: scores of different extractors do not compare.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from frugan.config import suggest
from frugan.features.efficientnet import open_efficientnet_lite0
from frugan.features.extractor import CallableExtractor, FeatureExtractor, as_rgb, fingerprint_of
from frugan.features.hed import open_hed
from frugan.features.inception import open_inception_2015

__all__ = [
    "EXTRACTORS",
    "CallableExtractor",
    "FeatureExtractor",
    "as_rgb",
    "fingerprint_of",
    "open_extractor",
]

EXTRACTORS: dict[str, Callable[[Path | None], FeatureExtractor]] = {
    "efficientnet_lite0": open_efficientnet_lite0,
    "inception_2015": open_inception_2015,
    "hed": open_hed,
}


def open_extractor(name: str, weights: Path | None = None, device: torch.device | str = "cpu") -> FeatureExtractor:
    """The feature extractor of that name on that device, its weights read from `weights` or from where they belong.

    Nothing is downloaded. Raises ValueError for an unknown name, and where the weights are missing or are not the
    network's: the message says what to install or where to put the file.
    """
    if name not in EXTRACTORS:
        raise ValueError(f"no feature extractor is called '{name}'{suggest(name, EXTRACTORS)}")
    return EXTRACTORS[name](weights).to(device)
