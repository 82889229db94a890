"""Recorded phases give what phases that run themselves give, bit for bit."""

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from frugan.augment import diffaugment

from frugan.training.door import Batch, Draw, Phase, Shared, Step
from frugan.training.replay import WARM, Replays
from tests.training.op_graph import OpGraph
from tests.training.rig import assert_same_bits, make_loop
from tests.training.tiny_tasks import JOBS, Fragile, make

KINDS = tuple(JOBS)
NOT_RECORDED = ("translate", "pix2pix", "pix2pix-unet-ada", "cycle", "cyclegan")


def recorded(kind: str, **training: object) -> tuple[object, list[OpGraph], list[str]]:
    return None, [], []


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_trains_as_it_does_without(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffaugment, "host_sees", lambda x: False)
    graphs: list[OpGraph] = []
    told: list[str] = []

    def graph() -> OpGraph:
        graphs.append(OpGraph())
        return graphs[-1]

    plain, played = make_loop(make(kind)), make_loop(make(kind))
    played.replays = Replays(graph, told.append)
    for _ in range(WARM + 7):
        ours, theirs = played.iterate(), plain.iterate()
        assert ours.keys() == theirs.keys()
    print(kind, len(graphs), [g.plays for g in graphs], [len(g.calls) for g in graphs], told)
    assert_same_bits(plain, played)
