"""Real pictures for the loop: windows of an endless order, shared out and split, and nothing read in vain."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugan.data import Dataset
from frugan.training.door import Share
from frugan.training.feed import Feed, LazyBatches
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
