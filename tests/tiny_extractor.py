"""A feature extractor without weights from anywhere: averaged pixels, and class scores by a fixed matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from frugan.features import FeatureExtractor


class TinyExtractor(FeatureExtractor):
    """Pictures averaged to 2 x 2 pixels: 12 features, 5 class scores. Counts the pictures it was shown."""

    def __init__(self, name: str = "tiny", taps: Sequence[str] = ("pool", "logits"), fingerprint: str = "0") -> None:
        super().__init__(name=name, resizer="none", num_features=12, taps=tuple(taps), fingerprint=fingerprint)
        weight = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
        self.weight = torch.nn.Parameter(weight)
        self.seen = 0
        self.freeze()

    def _features(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        self.seen += len(images)
        pool = torch.nn.functional.adaptive_avg_pool2d(images / 64, 2).flatten(1)
        return {"pool": pool, "logits": pool @ self.weight}
