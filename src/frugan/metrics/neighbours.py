"""What nearest neighbours among feature vectors tell: precision and recall, density and coverage, learning by heart.

Distances are Euclidean, in float64, in blocks of at most 2^24: no N x N matrix, on any machine. They come from
products, which is fast; where one is so near a rim that rounding would decide, it is taken again from the differences.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

_BLOCK_ENTRIES = 2**24
_ROUNDING = 1e-13  # of the squared lengths: about what a difference of squares may be off


@dataclass(frozen=True)
class PrecisionRecall:
    """The share of fakes within the reals' manifold, and of reals within the fakes'."""

    precision: float
    recall: float


@dataclass(frozen=True)
class DensityCoverage:
    """How deep in the reals' manifold fakes lie (may exceed 1), and the share of reals that have a fake near."""

    density: float
    coverage: float


@dataclass(frozen=True, eq=False)
class Memorisation:
    """How near fakes come to the training pictures, measured by how near those come to each other.

    `ratio`: the median distance of a fake to its nearest training picture over the median distance of a training
    picture to its nearest other one. Near 1: as different as the training pictures are from each other; well below
    1: copies. NaN where most training pictures have an exact double. `indices`: the nearest training picture of each
    fake, `distances` how far it is.
    """

    ratio: float
    indices: Int64[Tensor, " N"]
    distances: Float[Tensor, " N"]
    fake_median: float
    real_median: float


def _check(fake: Tensor, real: Tensor, least: int, what: str) -> None:
    if min(len(fake), len(real)) < least:
        raise ValueError(f"{what} needs at least {least} pictures on each side, got {len(fake)} and {len(real)}")


def _squared_blocks(
    queries: Float[Tensor, "N D"], references: Float[Tensor, "M D"]
) -> Iterator[tuple[slice, Float[Tensor, "B M"]]]:
    """(rows of the queries, their squared distances to all references), block by block.

    Both are seen from the references' mean: distances stay, and less is lost in the difference of squares.
    """
    centre = references.double().mean(dim=0)
    targets = references.double() - centre
    target_squares = targets.square().sum(dim=1)
    size = max(_BLOCK_ENTRIES // max(len(references), queries.shape[1]), 1)
    for start in range(0, len(queries), size):
        rows = slice(start, min(start + size, len(queries)))
        block = queries[rows].double() - centre
        squares = block.square().sum(dim=1, keepdim=True) + target_squares - 2 * block @ targets.T
        yield rows, squares.clamp_(min=0)


def nearest(
    queries: Float[Tensor, "N D"], references: Float[Tensor, "M D"], k: int = 1, *, leave_one_out: bool = False
) -> tuple[Float[Tensor, "N k"], Int64[Tensor, "N k"]]:
    """(distances, indices) of the `k` nearest references of each query, nearest first.

    With `leave_one_out` queries and references are the same set, and none is its own neighbour. The distances of the
    found ones are computed from the differences, so that exact copies have distance 0.
    Raises ValueError where there are fewer than `k` references.
    """
    if leave_one_out and len(queries) != len(references):
        raise ValueError(f"leave_one_out needs one set twice, got {len(queries)} and {len(references)} pictures")
    if not 1 <= k <= len(references) - leave_one_out:
        raise ValueError(f"{k} nearest neighbours need more than {len(references)} pictures to choose from")
    squares, indices = _nearest_squares(queries, references, k, leave_one_out)
    return squares.sqrt(), indices


def _nearest_squares(
    queries: Float[Tensor, "N D"], references: Float[Tensor, "M D"], k: int, leave_one_out: bool
) -> tuple[Float[Tensor, "N k"], Int64[Tensor, "N k"]]:
    distances, indices = [], []
    for rows, squares in _squared_blocks(queries, references):
        if leave_one_out:
            squares[torch.arange(len(squares)), torch.arange(rows.start, rows.stop)] = math.inf
        found = squares.topk(k, dim=1, largest=False).indices
        exact = torch.stack([_exact(queries[rows], references[column]) for column in found.T], dim=1)
        order = exact.argsort(dim=1, stable=True)
        distances.append(exact.gather(1, order))
        indices.append(found.gather(1, order))
    return torch.cat(distances), torch.cat(indices)


def _exact(a: Float[Tensor, "N D"], b: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    return (a.double() - b.double()).square().sum(dim=1)


def _rims(features: Float[Tensor, "N D"], k: int) -> Float[Tensor, " N"]:
    """The squared distance of each to its `k`-th nearest other one."""
    return _nearest_squares(features, features, k, leave_one_out=True)[0][:, -1]


def _settle(
    squares: Float[Tensor, "B M"], rim: Float[Tensor, "_ _"], block: Float[Tensor, "B D"], reals: Float[Tensor, "M D"]
) -> None:
    """Replace the squared distances that rounding could put on the wrong side of the rim by exact ones."""
    lengths = block.double().square().sum(dim=1).max() + reals.double().square().sum(dim=1).max()
    near = ((squares - rim).abs() <= _ROUNDING * lengths).nonzero()
    for part in near.split(max(_BLOCK_ENTRIES // block.shape[1], 1)):
        rows, columns = part.T
        squares[rows, columns] = _exact(block[rows], reals[columns])


def precision_recall(fake: Float[Tensor, "N D"], real: Float[Tensor, "M D"], k: int = 3) -> PrecisionRecall:
    """Precision and recall of Kynkäänniemi et al. 2019: a manifold is the union of balls to the k-th neighbour.

    A point on the rim is inside, as in the authors' code. Raises ValueError for k pictures or fewer on a side.
    """
    _check(fake, real, k + 1, f"precision and recall with k = {k}")
    real_rim, fake_rim = _rims(real, k), _rims(fake, k)
    precise = 0
    recalled: Bool[Tensor, " M"] = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, squares in _squared_blocks(fake, real):
        _settle(squares, real_rim[None], fake[rows], real)
        _settle(squares, fake_rim[rows, None], fake[rows], real)
        precise += int((squares <= real_rim).any(dim=1).sum())
        recalled |= (squares <= fake_rim[rows, None]).any(dim=0)
    return PrecisionRecall(precise / len(fake), float(recalled.double().mean()))


def density_coverage(fake: Float[Tensor, "N D"], real: Float[Tensor, "M D"], k: int = 5) -> DensityCoverage:
    """Density and coverage of Naeem et al. 2020. Unlike precision and recall they do not grow with one far outlier.

    A point on the rim is outside, as in the authors' code. Raises ValueError for k pictures or fewer on a side.
    """
    _check(fake, real, k + 1, f"density and coverage with k = {k}")
    rim = _rims(real, k)
    inside = 0
    closest = torch.full((len(real),), math.inf, dtype=torch.float64, device=real.device)
    for rows, squares in _squared_blocks(fake, real):
        _settle(squares, rim[None], fake[rows], real)
        inside += int((squares < rim).sum())
        closest = torch.minimum(closest, squares.amin(dim=0))
    return DensityCoverage(inside / (k * len(fake)), float((closest < rim).double().mean()))


def memorisation(fake: Float[Tensor, "N D"], real: Float[Tensor, "M D"]) -> Memorisation:
    """Whether fakes repeat training pictures, and which; see `Memorisation`. Raises ValueError below 2 reals."""
    _check(fake, real, 1, "memorisation")
    if len(real) < 2:
        raise ValueError(f"memorisation needs at least 2 training pictures, got {len(real)}")
    distances, indices = nearest(fake, real)
    among = nearest(real, real, leave_one_out=True)[0]
    fake_median, real_median = float(distances[:, 0].quantile(0.5)), float(among[:, 0].quantile(0.5))
    ratio = fake_median / real_median if real_median > 0 else math.nan
    return Memorisation(ratio, indices[:, 0], distances[:, 0], fake_median, real_median)
