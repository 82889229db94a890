"""The endless order: every picture once an epoch, the position as the whole state."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugan.data import Sampler


@settings(max_examples=60, deadline=None)
@given(
    num_images=st.integers(1, 40),
    seed=st.integers(0, 2**63 - 1),
    counts=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    flip=st.booleans(),
    start=st.integers(0, 100),
)
def test_position_alone_is_the_state(num_images: int, seed: int, counts: list[int], flip: bool, start: int) -> None:
    whole, whole_flips = Sampler(num_images, seed, flip).indices(start, sum(counts))
    position, parts, flips = start, [], []
    for count in counts:
        part, mirrored = Sampler(num_images, seed, flip).indices(position, count)
        assert part.shape == mirrored.shape == (count,)
        parts.append(part)
        flips.append(mirrored)
        position += count
    assert (np.concatenate(parts) == whole).all()
    assert (np.concatenate(flips) == whole_flips).all()


@pytest.mark.parametrize("num_images", [1, 2, 7, 100])
def test_every_epoch_shows_every_picture_once(num_images: int) -> None:
    indices, flips = Sampler(num_images, 5).indices(0, 4 * num_images)
    epochs = indices.reshape(4, num_images)
    assert (np.sort(epochs, axis=1) == np.arange(num_images)).all()
    assert not flips.any()
    assert num_images < 7 or len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_two_epochs_show_each_picture_once_each_way() -> None:
    indices, flips = Sampler(200, 1, flip=True).indices(0, 800)
    for start in (0, 400):
        seen = {
            (int(index), bool(flip))
            for index, flip in zip(indices[start : start + 400], flips[start : start + 400], strict=True)
        }
        assert len(seen) == 400
    assert 60 < flips[:200].sum() < 140
    assert (flips[:200][np.argsort(indices[:200])] != flips[400:600][np.argsort(indices[400:600])]).any()


def test_seeds_differ() -> None:
    first, second = (Sampler(50, seed).indices(0, 50)[0] for seed in (0, 1))
    assert (first != second).any()


def test_the_order_is_frozen_for_all_versions() -> None:
    """If this changes, runs cannot be resumed across the change."""
    indices, flips = Sampler(10, 17, flip=True).indices(8, 14)
    assert indices.tolist() == [6, 9, 8, 9, 6, 4, 0, 3, 1, 5, 7, 2, 8, 6]
    assert flips.astype(int).tolist() == [0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 1]


def test_order_is_uniform_enough() -> None:
    """Chi-square of where picture 0 falls, over 4,000 epochs of 8 places: 7 degrees of freedom, 0.1 % at 24.3."""
    places = Sampler(8, 3).indices(0, 8 * 4000)[0].reshape(4000, 8).argmin(axis=1)
    counts = np.bincount(places, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 24.3


def test_what_is_handed_out_can_be_changed_without_harm() -> None:
    sampler = Sampler(5, 0, flip=True)
    indices, flips = sampler.indices(0, 5)
    kept, kept_flips = indices.copy(), flips.copy()
    indices[:], flips[:] = 0, True
    again, again_flips = sampler.indices(0, 5)
    assert (again == kept).all() and (again_flips == kept_flips).all()


@pytest.mark.parametrize(("position", "count"), [(-1, 4), (0, 0), (3, -2)])
def test_bad_positions_are_refused(position: int, count: int) -> None:
    with pytest.raises(ValueError, match=r"position must be >= 0 and count >= 1"):
        Sampler(4, 0).indices(position, count)


@pytest.mark.parametrize(("num_images", "seed"), [(0, 0), (-3, 0), (4, -1), (4, 2**63)])
def test_bad_samplers_are_refused(num_images: int, seed: int) -> None:
    with pytest.raises(ValueError, match=r"num_images must be|seed must be"):
        Sampler(num_images, seed)


def test_far_positions_and_large_sets_are_cheap() -> None:
    indices, _ = Sampler(1_000_000, 1).indices(10**12 + 999_990, 20)
    assert len(set(indices.tolist())) >= 19


# ---- crops -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(num_images=st.integers(1, 20), start=st.integers(0, 60), first=st.integers(1, 30), second=st.integers(1, 30))
def test_corners_follow_from_the_position(num_images: int, start: int, first: int, second: int) -> None:
    sampler, margin = Sampler(num_images, 7), (30, 4)
    whole = sampler.corners(start, first + second, margin)
    parts = [sampler.corners(start, first, margin), sampler.corners(start + first, second, margin)]
    assert (np.concatenate(parts) == whole).all() and whole.shape == (first + second, 2)
    assert (whole >= 0).all() and (whole <= margin).all()


def test_corners_are_even_and_change_with_the_epoch() -> None:
    corners = Sampler(3000, 1).corners(0, 3000, (4, 0))
    counts = np.bincount(corners[:, 0], minlength=5)
    assert len(counts) == 5 and counts.min() > 500 and not corners[:, 1].any()  # 600 expected, 22 the deviation
    assert (Sampler(3000, 1).corners(3000, 3000, (4, 0)) != corners).any()
