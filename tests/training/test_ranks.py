"""Several processes: sums, gathering, and a meeting place without the leavings of the dead (more in test_door)."""

import pytest
import torch
import torch.distributed as dist

from frugan.training import ranks as ranks_module
from frugan.training.ranks import close_ranks, open_ranks
from tests.training.rig import ALONE, free_port


def test_one_process_is_alone() -> None:
    values = torch.arange(3.0, requires_grad=True)
    assert ALONE.gather(values) is values and ALONE.is_first
    assert torch.equal(ALONE.sum_(torch.ones(2)), torch.ones(2))
    assert ALONE.broadcast("word") == "word"
    ALONE.barrier()
    close_ranks()


def test_a_card_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert open_ranks("auto").device == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device must be one this machine has \(cpu\), got 'cuda:1'"):
        open_ranks("cuda:1")


def test_a_restarted_process_does_not_see_what_a_dead_one_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's agent lends the same store again, with the addresses of the dead in it."""
    port = free_port()
    agent = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    seen = []
    for restarts in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        store = ranks_module._meeting_place(0, 1)
        seen.append(store.check(["address"]))
        store.set("address", "here")
        assert store.check(["address"])
    assert seen == [False, False]
    assert not dist.is_initialized()
    del agent
