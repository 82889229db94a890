"""The processes of one training: which one this is, sums over all of them, gathering with gradients.

Started by `torchrun` there are several, otherwise one. Sample n of a global batch lives on rank n mod world: so the
strided groups of the minibatch standard deviation fall together on one rank, and one process and several agree.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together: `rank` in [0, world), and the device it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum_(self, values: Tensor) -> Tensor:
        """`values` summed in place over all ranks."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, values: Float[Tensor, "n ..."]) -> Float[Tensor, "N ..."]:
        """The values of all ranks in the order of the global batch; the gradient flows back to every rank's part."""
        if self.world == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.world)]
        gathered: Tensor = _Gather.apply(values, self.rank, parts)  # type: ignore[no-untyped-call]
        return gathered

    def broadcast(self, value: str) -> str:
        """The text that rank 0 has, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums, over ranks, the gradients that each rank has for this rank's part."""

    @staticmethod
    def forward(ctx, values, rank, parts):  # type: ignore[no-untyped-def]
        ctx.rank, ctx.world = rank, len(parts)
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad.unflatten(0, (-1, ctx.world))[:, ctx.rank], None, None


def open_ranks(device: str = "auto") -> Ranks:
    """Join the processes that `torchrun` started, or be the only one.

    `device` is `auto` (a CUDA card where there is one), `cpu`, `cuda` or `cuda:N`.
    """
    world, rank, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device must be one this machine has (cpu), got {device!r}: no CUDA card was found")
    chosen = torch.device(f"cuda:{local}" if kind == "cuda" else kind)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world > 1 and not dist.is_initialized():
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=_meeting_place(rank, world), rank=rank, world_size=world)
    return Ranks(rank, world, chosen)


def _meeting_place(rank: int, world: int) -> Store:
    """The store through which the processes find each other, without what a killed try of them left in it.

    After a restart torchrun's agent lends the same store again (pytorch issue 135712), and processes would wait for
    ever at the addresses of the dead. On several machines the count of restarts is not the same for all: there,
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 makes torchrun open a new store each time.
    """
    store, _, _ = next(rendezvous("env://", rank, world))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store  # type: ignore[no-any-return]
    return PrefixStore(f"frugan-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


_ENVIRONMENT = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))


def close_ranks() -> None:
    """Leave the group of processes, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
