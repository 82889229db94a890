"""What an iteration of progressive growing costs at each resolution, and the loop's own share of it.

    python -m benchmarks.growing [--threads 1] [--iterations 16] [--rounds 3] [--no-record]

Sixteen iterations hold one of the lazy R1, as a training does. Times are processor time: with one thread they are what
a wall clock shows where nothing else runs.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterable

import torch
from benchmarks import record
from benchmarks.loop import Clock, a_loop

from frugan.recipes import progan
from frugan.training.recipe import Recipe
from frugan.training.tasks.grow import GrowConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """Of one resolution: processor milliseconds an iteration, images a second, the share that is not the step."""

    ms: float
    images_per_second: float
    overhead: float


def with_widths(recipe: Recipe, widths: tuple[int, ...]) -> Recipe:
    """The recipe with these channels at 4, 8, ... pixels."""
    task = recipe.task
    assert isinstance(task, GrowConfig)
    generator = dataclasses.replace(task.generator, widths=widths)
    discriminator = dataclasses.replace(task.discriminator, widths=widths)
    return dataclasses.replace(recipe, task=dataclasses.replace(task, generator=generator, discriminator=discriminator))


NETWORKS = {
    "progan-small": progan.small(64),
    "progan 64 wide": with_widths(progan.small(64), (64, 64, 64, 64, 32)),
}
"""The second ones are an eighth as wide as the article's."""


def speed(recipe: Recipe, resolution: int, iterations: int = 16) -> Speed:
    """Measure this resolution of the recipe when it has faded in and stands still; the first iteration is not counted.

    Raises ValueError where the recipe does not grow, or not to that resolution.
    """
    task = recipe.task
    if not isinstance(task, GrowConfig) or task.growth is None or resolution not in task.generator.resolutions:
        raise ValueError(f"{recipe.name} does not grow through {resolution} px: choose a recipe that does")
    images = task.growth.images(resolution)
    trained, clock = a_loop(recipe), Clock(time.process_time)
    trained.progress.images_seen = images
    trained.iterate()
    trained.progress.iteration = 0
    with clock.watching():
        for _ in range(iterations):
            trained.progress.images_seen = images
            trained.iterate()
    total, batch = sum(clock.spent.values()), trained.task.plan(images).batch
    return Speed(
        ms=1000 * total / iterations,
        images_per_second=batch * iterations / total,
        overhead=1 - clock.spent["step"] / total,
    )


def speeds(recipe: Recipe, resolutions: Iterable[int], iterations: int = 16, rounds: int = 3) -> dict[int, Speed]:
    """The fastest of several rounds for each resolution, in turn: on a busy machine all of them wait alike."""
    found: dict[int, Speed] = {}
    for resolution in list(resolutions) * rounds:
        now = speed(recipe, resolution, iterations)
        found[resolution] = min(now, found.get(resolution, now), key=lambda each: each.ms)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-record", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for name, recipe in NETWORKS.items():
        measured = speeds(recipe, recipe.task.generator.resolutions, args.iterations, args.rounds)
        for resolution, found in measured.items():
            print(
                f"{name} at {resolution} px: {found.ms:.1f} ms, {found.images_per_second:.1f} images/s, "
                f"loop overhead {found.overhead:.2%}",
                flush=True,
            )
            rows.append(
                record.Row(
                    name="growing iteration",
                    size=f"{name} {resolution} px",
                    batch=recipe.training.batch,
                    ms=found.ms,
                    images_per_second=found.images_per_second,
                    note=f"processor time, loop overhead {found.overhead:.2%}",
                )
            )
    if not args.no_record:
        record.append(rows)


if __name__ == "__main__":
    main()
