"""Real pictures for the loop: windows of an endless order, shared out and split, and nothing read in vain."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugan.data import Dataset, from_arrays, to_uint8
from frugan.training.door import Share
from frugan.training.feed import Feed, LazyBatches, open_feeds
from tests.training.tiny_tasks import pictures

CPU = torch.device("cpu")


def test_windows_follow_one_another_and_shares_reassemble() -> None:
    feed = Feed(pictures(10, 4, classes=3), 0, True, CPU, position=7)
    long = feed.batch(16, Share(16))
    for window in range(4):
        whole = feed.batch(4, Share(4), window)
        assert torch.equal(whole.images, long.images[4 * window : 4 * window + 4])
        parts = [feed.batch(4, Share(4, offset, 2), window) for offset in range(2)]
        assert torch.equal(torch.stack([part.images for part in parts], dim=1).flatten(0, 1), whole.images)
    later = Feed(pictures(10, 4, classes=3), 0, True, CPU, position=11)
    assert torch.equal(later.batch(4, Share(4)).images, feed.batch(4, Share(4), 1).images)


def test_labels_belong_to_their_pictures() -> None:
    data = pictures(6, 4, classes=3)
    batch = Feed(data, 0, False, CPU).batch(9, Share(9))
    assert batch.labels is not None and data.labels is not None
    assert batch.labels.argmax(dim=1).tolist() == [int(data.labels[index]) for index in batch.indices]
    assert Feed(pictures(6, 4), 0, False, CPU).batch(2, Share(2)).labels is None


@given(count=st.integers(1, 7), batch=st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_every_epoch_shows_every_picture_once(count: int, batch: int) -> None:
    feed = Feed(pictures(count, 4), 3, False, CPU)
    seen = []
    while len(seen) < 2 * count:
        seen += feed.batch(batch, Share(batch)).indices.tolist()
        feed.position += batch
    for epoch in range(2):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_a_smaller_phase_takes_the_first_pictures_of_the_window() -> None:
    """Path length on half of the batch: the share is of fewer pictures, the window as wide as ever."""
    feed = Feed(pictures(32, 4), 0, False, CPU)
    whole = feed.batch(8, Share(8), 1).indices
    assert torch.equal(feed.batch(8, Share(4), 1).indices, whole[:4])


def test_a_stream_that_nobody_asks_for_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    batch = Dataset.batch

    def noting(self: Dataset, *rest: object) -> torch.Tensor:
        reads.append(1)
        return batch(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Dataset, "batch", noting)
    feeds = {name: Feed(pictures(4, 4), 0, False, CPU) for name in ("source", "target")}
    batches = LazyBatches(feeds, 2, Share(2), 0)
    assert list(batches) == ["source", "target"] and len(batches) == 2 and reads == []
    assert batches["source"] is batches["source"]
    assert len(reads) == 1
    with pytest.raises(KeyError):
        batches["nothing"]


# ---- several streams -------------------------------------------------------------------------------------------------


def picture_of_places(count: int = 6, side: int = 9, names: str = "") -> Dataset:
    """Pictures of which every pixel tells its picture, row and column."""
    number, row, column = np.meshgrid(np.arange(count), np.arange(side), np.arange(side), indexing="ij")
    images = np.stack([number, row, column], axis=1).astype(np.uint8)
    return from_arrays(images, names=[f"{names}{index}" for index in range(count)])


def raw(images: torch.Tensor) -> torch.Tensor:
    return images if images.dtype == torch.uint8 else to_uint8(images)


def test_streams_of_equal_names_share_order_flips_and_crops() -> None:
    source = dataclasses.replace(picture_of_places(), kind="labels", map_names=tuple("abcdefghi"), crop=5, flip=True)
    data = {"source": source, "target": dataclasses.replace(picture_of_places(), crop=5)}
    feeds = open_feeds(data, 0, CPU)
    seen = set()
    for window in range(20):
        one, other = (feeds[name].batch(6, Share(6), window).images for name in ("source", "target"))
        assert one.dtype == torch.uint8 and other.dtype == torch.float32 and one.shape == (6, 3, 5, 5)
        assert torch.equal(one, raw(other))
        seen |= {(int(place[1, 0, 0]), min(place[2, 0, 0].item(), place[2, 0, 4].item())) for place in one}
    assert seen == {(top, left) for top in range(5) for left in range(5)}  # every crop comes up


def test_crops_follow_from_the_position_and_are_shared_out() -> None:
    data = {"source": dataclasses.replace(picture_of_places(), crop=5)}
    whole = open_feeds(data, 3, CPU)["source"].batch(8, Share(8), 2).images
    parts = [open_feeds(data, 3, CPU)["source"].batch(8, Share(8, offset, 2), 2).images for offset in range(2)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole)
    later = Feed(data["source"], 3, True, CPU)
    assert not torch.equal(later.batch(6, Share(6), 0).images, later.batch(6, Share(6), 1).images)


def test_streams_of_other_names_go_their_own_ways() -> None:
    data = {"source": picture_of_places(12, names="A"), "target": picture_of_places(12, names="B")}
    feeds = open_feeds(data, 0, CPU)
    orders = [feeds[name].batch(12, Share(12)).indices.tolist() for name in data]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    alone = open_feeds({"target": data["target"]}, 0, CPU)["target"].batch(12, Share(12)).indices.tolist()
    assert alone == orders[1]  # whatever else there is


def test_pictures_alone_keep_the_order_of_the_seed() -> None:
    data = pictures(10, 4)
    feed = open_feeds({"images": data}, 5, CPU)["images"]
    assert torch.equal(feed.batch(20, Share(20)).images, Feed(data, 5, data.flip, CPU).batch(20, Share(20)).images)


def test_a_pair_is_mirrored_only_where_both_may_be() -> None:
    data = {"source": picture_of_places(), "target": dataclasses.replace(picture_of_places(), flip=False)}
    for feed in open_feeds(data, 0, CPU).values():
        columns = raw(feed.batch(12, Share(12)).images)[:, 2, 0]
        assert (columns[:, 0] == 0).all()
