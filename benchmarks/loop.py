"""The share of an iteration that is not the step: samplers, statistics, bookkeeping.

    python -m benchmarks.loop [--threads 2] [--iterations 12] [--no-record]

The step is what any training needs: forward and backward passes, Adam, the moving average. All else is the loop's own.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmarks import record

from frugan.data.dataset import from_arrays
from frugan.recipes import auto, stylegan2
from frugan.training import feed, loop, optimise
from frugan.training.door import Stats
from frugan.training.ranks import Ranks
from frugan.training.recipe import Recipe

PARTS = (
    ("real pictures", feed.Feed, "batch"),
    ("statistics", Stats, "add"),
    ("statistics", Stats, "reduce"),
    ("step", optimise.Optimiser, "step"),
    ("step", optimise.Average, "update"),
    ("step", loop.Loop, "_backward"),
    ("bookkeeping", loop.Loop, "iterate"),
)


class Clock:
    """Sums the time spent in functions, without what other timed functions inside them take."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.spent: dict[str, float] = {}
        self._now = now
        self._inside: list[float] = []

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = self._now()
            self._inside.append(0.0)
            result = function(*args, **kwargs)
            whole = self._now() - began
            inner = self._inside.pop()
            if self._inside:
                self._inside[-1] += whole
            self.spent[name] = self.spent.get(name, 0.0) + whole - inner
            return result

        return call

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While this is open, the parts of an iteration are timed."""
        with contextlib.ExitStack() as stack:
            for name, owner, function in PARTS:
                timed = self.timed(name, getattr(owner, function))
                stack.enter_context(mock.patch.object(owner, function, timed))
            yield


def a_loop(recipe: Recipe) -> loop.Loop:
    """A training of this recipe on 124 pictures of noise."""
    side, channels = recipe.task.generator.resolution, recipe.task.generator.channels
    pictures = np.random.default_rng(0).integers(0, 256, (124, channels, side, side), dtype=np.uint8)
    data = {"images": from_arrays(pictures)}
    torch.manual_seed(0)
    task = recipe.task.build(data, recipe.training.batch)
    ranks = Ranks(0, 1, torch.device("cpu"))
    feeds = {"images": feed.Feed(data["images"], 0, False, ranks.device)}
    return loop.Loop(task, recipe.optimisers, recipe.training, feeds, ranks, auto._Silent())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--no-record", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = stylegan2.small(64)
    trained, clock = a_loop(recipe), Clock()
    trained.iterate()
    with clock.watching():
        for _ in range(args.iterations):
            trained.iterate()
    total = sum(clock.spent.values())
    for name, seconds in sorted(clock.spent.items(), key=lambda item: -item[1]):
        print(f"{name:<14} {seconds / total:7.2%}  {1000 * seconds / args.iterations:8.2f} ms an iteration")
    overhead = 1 - clock.spent["step"] / total
    print(f"{'loop overhead':<14} {overhead:7.2%}")
    if not args.no_record:
        batch = recipe.training.batch
        row = record.Row(
            name="iteration",
            size="small 64 px",
            batch=batch,
            ms=1000 * total / args.iterations,
            images_per_second=batch * args.iterations / total,
            note=f"loop overhead {overhead:.2%}",
        )
        record.append([row])


if __name__ == "__main__":
    main()
