"""Loops on the tiny tasks: an observer that keeps checkpoints on disk, runs to compare, and several processes.

Run as a program it is one process of several: `python -m tests.training.rig FOLDER ITERATIONS KIND...`.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from frugan import checkpoint
from frugan.training.feed import open_feeds
from frugan.training.loop import Loop, Verdict
from frugan.training.ranks import Ranks, close_ranks, open_ranks
from tests.training.tiny_tasks import Job, make

ROOT = Path(__file__).resolve().parents[2]
ALONE = Ranks(0, 1, torch.device("cpu"))
PATHS = (str(ROOT), str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, PATHS))}


class Keeper:
    """An observer that remembers what it is told and keeps checkpoints in a folder, where it is given one."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.events: list[tuple[str, str]] = []
        self.stats: list[Mapping[str, float]] = []
        self.snapshots: list[int] = []
        self.collapses: list[int] = []  # at the snapshot of so many images, once each
        self.stop_at: int | None = None
        self.loop: Loop | None = None

    def status(self, loop: Loop, stats: Mapping[str, float], images_per_second: float) -> None:
        self.stats.append(dict(stats))

    def snapshot(self, loop: Loop) -> Verdict:
        seen = loop.progress.images_seen
        self.snapshots.append(seen)
        if seen in self.collapses:
            self.collapses.remove(seen)
            return Verdict(collapsed="all alike")
        self.checkpoint(loop)
        return Verdict()

    def checkpoint(self, loop: Loop) -> None:
        if self.folder is not None:
            checkpoint.save(self.folder / f"{loop.progress.images_seen:09d}", *loop.state())

    def event(self, loop: Loop, kind: str, text: str) -> None:
        self.events.append((kind, text))

    def stop_requested(self) -> bool:
        return self.stop_at is not None and self.loop is not None and self.loop.progress.images_seen >= self.stop_at

    def restore(self, loop: Loop, before: int) -> None:
        assert self.folder is not None
        found = next(checkpoint.newest_first(self.folder, [], before))
        loop.load_state(found.info, found.parts)


def make_loop(job: Job, keeper: Keeper | None = None, ranks: Ranks = ALONE) -> Loop:
    """A loop at its beginning."""
    keeper = keeper or Keeper()
    seed = job.training.seed
    feeds = open_feeds(job.data, seed, ranks.device)
    keeper.loop = Loop(job.task, job.optimisers, job.training, feeds, ranks, keeper)
    return keeper.loop


def resume(job: Job, folder: Path, keeper: Keeper | None = None, ranks: Ranks = ALONE) -> Loop:
    """A loop of new objects that goes on from the newest checkpoint in the folder."""
    loop = make_loop(job, keeper, ranks)
    found = next(checkpoint.newest_first(folder, []))
    loop.load_state(found.info, found.parts)
    return loop


def tensors_of(loop: Loop) -> dict[str, Tensor]:
    """Every tensor of the loop's state, copied."""
    _, parts = loop.state()
    return {
        f"{part}/{name}": tensor.detach().clone().contiguous()
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


def facts_of(loop: Loop) -> dict[str, object]:
    """The plain state but for the time it took."""
    info, _ = loop.state()
    return {**info, "progress": {key: value for key, value in info["progress"].items() if key != "seconds"}}


def assert_same_bits(a: Loop, b: Loop) -> None:
    """Both loops are in the same state, bit for bit."""
    assert facts_of(a) == facts_of(b)
    assert_equal_tensors(tensors_of(a), tensors_of(b))


def assert_equal_tensors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different


def assert_close_tensors(
    start: Mapping[str, Tensor], wanted: Mapping[str, Tensor], got: Mapping[str, Tensor], tolerance: float = 2e-5
) -> None:
    """What changed since the start is the same, to a tolerance relative to the largest change of each tensor."""
    assert wanted.keys() == got.keys()
    changes = {name: _largest(want - start.get(name, torch.zeros_like(want))) for name, want in wanted.items()}
    typical = sorted(changes.values())[len(changes) // 2]
    assert typical > 0
    for name, want in wanted.items():
        # Neither changes below a weight's own rounding can be compared, nor sums in which large terms cancel.
        floor = 4 * torch.finfo(torch.float32).eps * _largest(want) + 1e-5 * typical
        assert _largest(want - got[name]) <= tolerance * changes[name] + floor, (name, changes[name], typical)


def _largest(values: Tensor) -> float:
    return float(values.abs().max())


def run_alone(kind: str, iterations: int, **training: object) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors before and after so many iterations of a fresh job."""
    loop = make_loop(make(kind, **training))
    start = tensors_of(loop)
    for _ in range(iterations):
        loop.iterate()
    return start, tensors_of(loop)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(module: str, *arguments: str, world: int = 2) -> None:
    """Run a module in several processes of one group, without torchrun; each must end well."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={
                **ENVIRONMENT,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output


def main() -> None:
    """One of several processes; each leaves `KIND.RANK.safetensors` in the folder."""
    folder, iterations, *kinds = sys.argv[1:]
    torch.set_num_threads(1)
    ranks = open_ranks("cpu")
    for kind in kinds:
        loop = make_loop(make(kind), ranks=ranks)
        for _ in range(int(iterations)):
            loop.iterate()
        safetensors.torch.save_file(tensors_of(loop), Path(folder) / f"{kind}.{ranks.rank}.safetensors")
    close_ranks()


if __name__ == "__main__":
    main()
