"""Path lengths of a model: how much its pictures change along small steps between latents."""

import torch
from jaxtyping import Float
from torch import Tensor

from frugan.data.digests import Progress
from frugan.evaluation.looking import device_of
from frugan.evaluation.pictures import BATCH
from frugan.evaluation.protocol import PATHS
from frugan.features import FeatureExtractor
from frugan.features.hed import TRUNK_TAPS
from frugan.features.lpips import over_trunk
from frugan.metrics.path import Distance, PathConfig, path_lengths, trimmed_mean
from frugan.model import Model


def check_paths(model: Model, metrics: tuple[str, ...]) -> None:
    """Raise ValueError for w paths of a model without styles, and for paths of one that is still growing or that draws
    nothing from latents.
    """
    for config in (PATHS[name] for name in metrics if name in PATHS):
        if model.is_translator:
            raise ValueError(f"path lengths need latents, which a {model.family} model has not: leave them out")
        if config.space == "w" and not model.has_styles:
            raise ValueError(f"a {model.family} model has no styles (w): ask for ppl-z-end or ppl-z-full")
        if not model.is_grown:
            raise ValueError("path lengths need a model that has grown up")


class PathScores:
    """Path lengths as this network sees them: HED-LPIPS with HED, else the squared distance of features.

    `distance_name` says which. Both are squares of a norm, as the published lengths need.
    """

    def __init__(self, extractor: FeatureExtractor, seed: int, tell: Progress) -> None:
        self._seed, self._tell = seed, tell
        device = device_of(extractor)
        if set(TRUNK_TAPS) <= set(extractor.taps):
            perceptual = over_trunk(extractor).to(device)
            self.distance_name = perceptual.name
        else:
            perceptual = None
            self.distance_name = f"squared distance of {extractor.name} features"

        def distance(a: Float[Tensor, "N 3 H W"], b: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
            if perceptual is not None:
                seen: Tensor = perceptual(a.to(device), b.to(device))
                return seen.cpu()
            first, second = extractor(torch.cat([a, b]).to(device))["pool"].double().chunk(2)
            apart: Tensor = (first - second).square().sum(dim=1).cpu()
            return apart

        self._distance: Distance = distance

    def lengths(self, model: Model, metrics: tuple[str, ...], count: int) -> dict[str, float]:
        """Each path length that `metrics` names, over `count` pairs of latents. Raises ValueError as `check_paths`."""
        check_paths(model, metrics)
        found = {}
        for config in (PATHS[name] for name in metrics if name in PATHS):
            found[f"PPL-{config.space}-{config.sampling}"] = trimmed_mean(self._walk(model, count, config))
        return found

    def _walk(self, model: Model, count: int, config: PathConfig) -> Float[Tensor, " N"]:
        generator = torch.Generator().manual_seed(self._seed)
        net, size = model.artist, model.artist.config
        parts = []
        with torch.inference_mode():
            for start in range(0, count, BATCH):
                rows = min(BATCH, count - start)
                z = [torch.randn(rows, size.z_dim, generator=generator).to(model.device) for _ in range(2)]
                position = torch.rand(rows, generator=generator).to(model.device)
                maps = [torch.randn(rows, *shape, generator=generator).to(model.device) for shape in net.noise_shapes()]
                names = [(start + row) % size.num_classes for row in range(rows)] if size.num_classes else None
                labels = None if names is None else model.one_hot(names)
                parts.append(
                    path_lengths(
                        lambda latents, labels=labels: net.codes(latents, labels),  # type: ignore[misc]
                        lambda codes, maps=maps: net.pictures(codes, noise=maps or "const"),  # type: ignore[misc]
                        self._distance,
                        (z[0], z[1]),
                        position,
                        config,
                    )
                )
                self._tell(start + rows, count, "walking short steps")
        return torch.cat(parts).clone()
