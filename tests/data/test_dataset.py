"""Sets in memory: batches, labels, parts, splits, and the pair between stored and modelled pixels."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from frugan.data import Dataset, from_arrays, split, to_float, to_uint8


def numbered(count: int = 6, **options: Any) -> Dataset:
    """Pictures whose left half holds their number and whose right half is 100 + number."""
    images = np.zeros((count, 3, 4, 4), dtype=np.uint8)
    images += np.arange(count, dtype=np.uint8)[:, None, None, None]
    images[..., 2:] += 100
    return from_arrays(images, **options)


# ---- the pair ------------------------------------------------------------------------------------------------------


def test_all_256_values_come_back() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    floats = to_float(values)
    assert floats.dtype == torch.float32
    assert floats.min() == -1 and floats.max() == 1
    assert torch.equal(to_uint8(floats), values)
    assert torch.equal(to_uint8(floats.double()), values)


def test_rounding_and_clamping() -> None:
    step = 2 / 255
    values = torch.tensor([-1 + 0.49 * step, -1 + 0.51 * step, 5.0, -5.0, float("inf"), -float("inf"), float("nan")])
    assert to_uint8(values).tolist() == [0, 1, 255, 0, 255, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_in_single(dtype: torch.dtype) -> None:
    values = torch.linspace(-1.2, 1.2, 101, dtype=dtype)
    assert torch.equal(to_uint8(values), to_uint8(values.float()))


def test_conversion_changes_nothing_and_takes_gradients_off() -> None:
    stored = torch.tensor([7, 9], dtype=torch.uint8)
    seen = torch.tensor([0.3, -0.4], requires_grad=True)
    to_float(stored)
    converted = to_uint8(seen)
    assert stored.tolist() == [7, 9]
    assert torch.equal(seen.detach(), torch.tensor([0.3, -0.4]))
    assert not converted.requires_grad


# ---- batches -------------------------------------------------------------------------------------------------------


def test_batch_takes_and_mirrors() -> None:
    dataset = numbered()
    batch = dataset.batch([4, 1, 4], np.array([False, True, True]))
    assert batch.shape == (3, 3, 4, 4) and batch.dtype == torch.uint8
    assert batch[:, 0, 0, 0].tolist() == [4, 101, 104]
    assert batch[:, 0, 0, 3].tolist() == [104, 1, 4]


def test_a_batch_is_a_copy() -> None:
    dataset = numbered()
    dataset.batch([0]).fill_(99)
    assert dataset.images[0, 0, 0, 0] == 0


@pytest.mark.parametrize("indices", [[6], [-1], [0, 100]])
def test_indices_outside_are_refused(indices: list[int]) -> None:
    with pytest.raises(IndexError, match="indices must be 0 to 5"):
        numbered().batch(indices)


def test_one_hot() -> None:
    labelled = numbered(4, labels=[2, 0, 1, 2])
    rows = labelled.one_hot([0, 1, 3])
    assert rows is not None and rows.dtype == torch.float32
    assert rows.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert labelled.num_classes == 3 and labelled.class_names == ("0", "1", "2")
    assert numbered().one_hot([0]) is None and numbered().num_classes == 0


def test_facts() -> None:
    dataset = numbered()
    assert (len(dataset), dataset.resolution, dataset.channels) == (6, 4, 3)
    assert "array(" not in repr(dataset)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": [0, 1]}, "labels must be one per picture"),
        ({"labels": [0, 1, 2, 3, 4, 5], "class_names": ["a"]}, "labels must be 0 to 0"),
        ({"names": ["a"]}, "names must be one per picture"),
    ],
)
def test_sets_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        numbered(**options)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        numbered(0)
    with pytest.raises(ValueError, match="at least one picture"):
        numbered().take([])


def test_fingerprints_tell_sets_apart() -> None:
    prints = [
        numbered().fingerprint,
        numbered(5).fingerprint,
        numbered(labels=[0] * 6).fingerprint,
        numbered(labels=[0] * 6, class_names=["x"]).fingerprint,
        numbered(labels=[0, 0, 0, 0, 0, 1]).fingerprint,
        numbered().take([0, 1, 2, 3, 5]).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert numbered().fingerprint == prints[0]
    assert numbered(names=list("abcdef")).fingerprint == prints[0]


# ---- parts ---------------------------------------------------------------------------------------------------------


def test_a_part_of_a_part() -> None:
    part = numbered(labels=[0, 1, 0, 1, 0, 1]).take([5, 3, 1]).take([2, 0])
    assert part.images[:, 0, 0, 0].tolist() == [1, 5]
    assert part.batch([1])[0, 0, 0, 0] == 5
    assert part.names == ("000001", "000005")
    assert part.labels is not None and part.labels.tolist() == [1, 1]
    assert part.class_names == ("0", "1")


def test_variants_of_a_base_stay_on_one_side() -> None:
    names = [f"{base}/{variant}" for base in range(20) for variant in range(1 + base % 4)]
    dataset = numbered(len(names), names=names)
    kept, held = split(dataset, 0.25, groups=lambda name: name.split("/")[0])
    bases = [{name.split("/")[0] for name in part.names} for part in (kept, held)]
    assert not bases[0] & bases[1]
    assert sorted(kept.names + held.names) == sorted(names)
    assert 0.25 * len(names) <= len(held) <= 0.25 * len(names) + 4
    assert kept.names == tuple(name for name in names if name in set(kept.names))  # order is kept
    assert [int(held.images[i, 0, 0, 0]) for i in range(len(held))] == [names.index(name) for name in held.names]


def test_split_depends_on_names_and_seed_alone() -> None:
    first = split(numbered(), 0.5)[1].names
    assert split(numbered(), 0.5)[1].names == first
    assert split(numbered().take([5, 4, 3, 2, 1, 0]), 0.5)[1].names == first[::-1]
    assert len({split(numbered(), 0.5, seed=seed)[1].names for seed in range(10)}) > 1


def test_split_leaves_one_base_on_each_side() -> None:
    kept, held = split(numbered(2), 0.001)
    assert len(kept) == len(held) == 1
    kept, held = split(numbered(2), 0.999)
    assert len(kept) == len(held) == 1


@pytest.mark.parametrize("hold_out", [0.0, 1.0, -0.5])
def test_impossible_splits_are_refused(hold_out: float) -> None:
    with pytest.raises(ValueError, match="hold_out must be between 0 and 1"):
        split(numbered(), hold_out)


def test_a_single_base_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="at least two different bases"):
        split(numbered(), 0.5, groups=lambda name: "all")


# ---- for translation -------------------------------------------------------------------------------------------------


def test_sets_need_not_be_square() -> None:
    wide = from_arrays(np.zeros((2, 3, 4, 8), dtype=np.uint8))
    assert (wide.height, wide.width, wide.resolution, wide.margin) == (4, 8, 4, (0, 0))
    assert wide.batch([1]).shape == (1, 3, 4, 8)


def test_crops_are_centred_unless_told_otherwise() -> None:
    rows, columns = np.mgrid[:7, :9].astype(np.uint8)
    store = np.stack([rows, columns, rows])[None].repeat(3, 0)
    cut = replace(from_arrays(store), crop=4)
    assert (cut.height, cut.width, cut.resolution, cut.margin) == (4, 4, 4, (3, 5))
    assert cut.images.shape == (3, 3, 4, 4) and cut.images[0, :2, 0, 0].tolist() == [1, 2]
    assert np.array_equal(cut.batch([0, 2]).numpy(), cut.images[[0, 2]])
    assert np.array_equal(cut.take([1]).images, cut.images[1:2])
    told = cut.batch([0, 1], np.array([False, True]), np.array([[0, 5], [3, 0]]))
    assert told[:, :2, 0, 0].tolist() == [[0, 5], [3, 3]]  # the second is mirrored


def test_label_maps_have_names() -> None:
    maps = from_arrays(np.zeros((2, 1, 4, 4), dtype=np.uint8))
    named = replace(maps, kind="labels", map_names=("a", "b"))
    assert named.take([1]).map_names == ("a", "b") and named.batch([0]).dtype == torch.uint8
    with pytest.raises(ValueError, match="map_names are those of label maps"):
        replace(maps, kind="labels")
    with pytest.raises(ValueError, match="map_names are those of label maps"):
        replace(maps, map_names=("a",))
    with pytest.raises(ValueError, match=r"map_colours must be one a name \(2\), got 1"):
        replace(named, map_colours=((0, 0, 0),))
    with pytest.raises(ValueError, match="crop must be 1 to 4"):
        replace(maps, crop=5)
