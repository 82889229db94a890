"""Scores that need no network, the sliced distance over the pyramid and MS-SSIM, each with what real pictures score."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from frugan.data.dataset import Dataset
from frugan.data.digests import Progress
from frugan.data.kept import keep, place_of, read_kept
from frugan.evaluation.looking import Watch
from frugan.evaluation.pictures import Pictures, of_dataset, shuffled
from frugan.features import as_rgb
from frugan.metrics.multiscale import Descriptors, PyramidConfig, mean_similarity, pyramid_distances

_FORMAT = 1  # raise it whenever the same pictures would give other scores
_DIRECTIONS, _REALS, _FAKES = range(3)

Found = dict[str, float]


class PixelScores:
    """Scores sets of generated pictures against one set of reals, on `device`.

    Whatever was asked before of the same pictures comes from the cache. No random state but its own is touched: all
    draws follow from `seed`.
    """

    def __init__(
        self, reals: Dataset, num_real: int, config: PyramidConfig, seed: int, device: torch.device, tell: Progress
    ) -> None:
        self._reals, self._num_real, self._config, self._seed = reals, num_real, config, seed
        self._device, self._tell = device, tell
        self._of_reals: dict[str, Found] = {}

    def pairs(self, fakes: Pictures | None = None) -> int:
        """Between how many pairs of the fakes, or of the reals, the similarity is taken."""
        return (self._num_real if fakes is None else fakes.count) // 2

    def compared(self, fakes: Pictures) -> int:
        """How many pictures of each side the sliced distance is of: as many as both have."""
        return min(self._num_real, fakes.count)

    def floor_pictures(self, fakes: Pictures) -> int:
        """As `compared`, for reals against other reals: no picture is on both sides, so half of a small set."""
        return min(self.compared(fakes), len(self._reals) // 2)

    def sliced(self, fakes: Pictures) -> tuple[Found, Found]:
        """(SWD-pyramid, the mean of its levels, and each level, by name; the same of reals against other reals).

        The second is the noise floor: what this many pictures score that come from the right distribution.
        """
        count, floor = self.compared(fakes), self.floor_pictures(fakes)
        found = self._distance(self._some(count), fakes, count, "looking at patches")
        known = f"sliced {floor}"
        if known not in self._of_reals:
            pair = self._some(floor), self._some(floor, start=floor)
            self._of_reals[known] = self._distance(*pair, floor, "looking at patches of real pictures")
        return found, self._of_reals[known]

    def similarity(self, fakes: Pictures) -> tuple[Found, Found]:
        """(MS-SSIM between pairs of generated pictures, the same of reals): lower is more varied."""
        found = self._pairwise(fakes, "comparing generated pictures with one another")
        if "similarity" not in self._of_reals:
            reals = self._some(self._num_real)
            self._of_reals["similarity"] = self._pairwise(reals, "comparing real pictures with one another")
        return found, self._of_reals["similarity"]

    def _some(self, count: int, start: int = 0) -> Pictures:
        return of_dataset(self._reals, shuffled(len(self._reals), count, self._seed, start))

    def _distance(self, reals: Pictures, fakes: Pictures, count: int, text: str) -> Found:
        def measure() -> Found:
            sides = self._descriptors(reals, count, _REALS, text), self._descriptors(fakes, count, _FAKES, text)
            found = pyramid_distances(sides[0], [sides[1]], self._draws(_DIRECTIONS), self._device)[0]
            mean = math.fsum(found.values()) / len(found)
            return {"SWD-pyramid": mean} | {f"SWD-pyramid-{side}": value for side, value in found.items()}

        keys = [reals.key, fakes.key]
        is_known = None not in keys
        settings = [dataclasses.asdict(self._config), count, self._seed]
        return _kept(["sliced", keys, settings] if is_known else None, measure)

    def _descriptors(self, pictures: Pictures, count: int, role: int, text: str) -> Descriptors:
        height, width = self._reals.height, self._reals.width
        found = Descriptors(count, (height, width), self._config, self._draws(role))
        watch = Watch(count, self._tell, text)
        for images in pictures.batches(count):
            found.add(as_rgb(images).to(self._device))
            watch.add(len(images))
        return found

    def _draws(self, role: int) -> torch.Generator:
        return torch.Generator().manual_seed(8 * self._seed + role)

    def _pairwise(self, pictures: Pictures, text: str) -> Found:
        def measure() -> Found:
            watch = Watch(pictures.count, self._tell, text)

            def watched() -> Iterator[Tensor]:
                for images in pictures.batches():
                    yield as_rgb(images).to(self._device)
                    watch.add(len(images))

            return {"MS-SSIM": mean_similarity(watched())[0]}

        return _kept(None if pictures.key is None else ["similarity", pictures.key], measure)


def _kept(key: list[object] | None, measure: Callable[[], Found]) -> Found:
    """Numbers from the cache, or measured now and put there."""
    path = place_of("scores", [_FORMAT, key])
    known = read_kept(path) if key is not None else None
    if known is not None:
        return {name: float(value) for name, value in known.items()}
    found = measure()
    if key is not None:
        keep(path, {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()})
    return found
