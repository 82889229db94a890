"""What class-conditional training costs beside the textbook way: D2D-CE's memory, and iterations of ReACGAN at 32 px.

    python -m benchmarks.conditional [--threads 1] [--width 24] [--batch 16] [--rounds 5] [--no-record]

The two trainings take turns and the fastest iteration of each counts; the clock is that of the processor. Ours is the
whole loop, samplers and statistics included; the other has its pictures at hand.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from benchmarks import record, textbook_classes
from torch import Tensor
from torch.nn import functional as F

from frugan.data.dataset import from_arrays
from frugan.losses import conditional
from frugan.metrics.measure import peak_memory
from frugan.models.biggan import BigGANConfig, BigGANDiscriminatorConfig
from frugan.models.heads import EmbeddingHead
from frugan.recipes import auto
from frugan.training import feed, loop
from frugan.training.ranks import Ranks
from frugan.training.recipe import AdamConfig, EmaConfig, Precision, TrainingConfig
from frugan.training.tasks.classes import ClassesConfig
from frugan.training.tasks.conditioning import D2DConfig

CLASSES, STEPS, RESOLUTION = 10, 5, 32
ADAM = AdamConfig(lr=2e-4, beta1=0.5, beta2=0.999, eps=1e-6)


def networks(width: int, attention: bool = True) -> tuple[BigGANConfig, BigGANDiscriminatorConfig]:
    """The CIFAR10 networks of ReACGAN, so many channels wide where they have 96."""
    generator = BigGANConfig(
        resolution=RESOLUTION, num_classes=CLASSES, z_dim=80, width=width, attention=(16,) if attention else ()
    )
    discriminator = BigGANDiscriminatorConfig(
        resolution=RESOLUTION,
        num_classes=CLASSES,
        width=width,
        attention=(16,) if attention else (),
        head=EmbeddingHead(dim=512),
    )
    return generator, discriminator


def loss_of(ours: bool, count: int, dim: int) -> Callable[[], None]:
    """A function that computes D2D-CE and its gradient once."""
    random = torch.Generator().manual_seed(0)
    embedding, proxies = (torch.randn(count, dim, generator=random).requires_grad_() for _ in range(2))
    classes = torch.randint(CLASSES, (count,), generator=random)
    labels = F.one_hot(classes, CLASSES).float()

    def run() -> None:
        if ours:
            found = conditional.similarities(embedding, proxies, labels)
            loss = conditional.d2d_ce(found, temperature=0.5, margin=0.98).mean()
        else:
            loss = textbook_classes.d2d_ce(embedding, proxies, classes, CLASSES, 0.5, 0.98)
        torch.autograd.grad(loss, (embedding, proxies))

    small = torch.randn(4, 4, requires_grad=True)  # what the first call of autograd takes is not the loss's
    (small @ small).logsumexp(dim=1).sum().backward()
    return run


def memory(rows: list[record.Row], largest: bool) -> None:
    """D2D-CE forward and backward: megabytes beside what was there before, and milliseconds."""
    # The new process that measures imports this module by its name, which is another one here.
    from benchmarks.conditional import loss_of

    for count, dim in ((128, 512), (256, 2048), (512, 2048)):
        for ours in (True, False) if largest or count * dim < 2**20 else (True,):
            found = peak_memory(loss_of, ours, count, dim)
            run, times = loss_of(ours, count, dim), []
            for _ in range(5 if ours or count * dim < 2**18 else 1):
                begin = time.process_time()
                run()
                times.append(1000 * (time.process_time() - begin))
            name = "d2d-ce" if ours else "d2d-ce textbook"
            extra = None if found is None else found.peak_mb - found.before_mb
            print(f"{name} N={count} d={dim}: {extra} MB, {min(times):.1f} ms", flush=True)
            rows.append(
                record.Row(
                    name=name,
                    size=f"N={count} d={dim}",
                    batch=count,
                    ms=min(times),
                    peak_mb=extra,
                    note="forward and backward, megabytes beside the inputs, processor time",
                )
            )


def our_training(width: int, batch: int, precision: Precision) -> loop.Loop:
    """ReACGAN on noise, by the loop that trains."""
    pictures = np.random.default_rng(0).integers(0, 256, (400, 3, RESOLUTION, RESOLUTION), dtype=np.uint8)
    data = {"images": from_arrays(pictures, [i % CLASSES for i in range(400)], [str(i) for i in range(CLASSES)])}
    generator, discriminator = networks(width)
    config = ClassesConfig(
        generator=generator, discriminator=discriminator, conditioning=D2DConfig(), discriminator_steps=STEPS
    )
    setting = TrainingConfig(
        batch=batch, total_images=10**9, ema=EmaConfig(fixed=0.9999, buffers=True), precision=precision
    )
    torch.manual_seed(0)
    ranks = Ranks(0, 1, torch.device("cpu"))
    feeds = {"images": feed.Feed(data["images"], 0, False, ranks.device)}
    optimisers = {"generator": ADAM, "discriminator": ADAM}
    return loop.Loop(config.build(data, batch), optimisers, setting, feeds, ranks, auto._Silent())


def their_training(width: int, batch: int) -> Callable[[], None]:
    """The same, the textbook way."""
    generator, discriminator = networks(width)
    torch.manual_seed(0)
    nets = textbook_classes.Generator(generator), textbook_classes.Discriminator(discriminator)
    for net in nets:
        for parameter in net.parameters():
            if parameter.ndim > 1:
                torch.nn.init.orthogonal_(parameter)
    training = textbook_classes.Training(*nets, steps=STEPS)
    images = torch.rand(400, 3, RESOLUTION, RESOLUTION) * 2 - 1
    classes = torch.arange(400) % CLASSES

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            chosen = torch.randint(400, (batch,))
            yield images[chosen], classes[chosen]

    feed_of = batches()
    return lambda: training.iterate(feed_of)


def iterations(width: int, batch: int, rounds: int, rows: list[record.Row], precisions: tuple[Precision, ...]) -> None:
    """Processor time of an iteration, the two in turn."""
    runs: dict[str, Callable[[], object]] = {"textbook": their_training(width, batch)}
    runs |= {precision: our_training(width, batch, precision).iterate for precision in precisions}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            begin = time.process_time()
            run()
            if turn:
                times[name].append(1000 * (time.process_time() - begin))
    for name, found in times.items():
        ratio = min(times["textbook"]) / min(found)
        speed = 1000 * batch * STEPS / min(found)
        print(f"ReACGAN {width} wide, {name}: {min(found):.0f} ms, {speed:.1f} images/s, {ratio:.2f}x", flush=True)
        rows.append(
            record.Row(
                name="reacgan iteration",
                size=f"{RESOLUTION} px, {width} wide, {name}",
                batch=batch,
                ms=min(found),
                median_ms=sorted(found)[len(found) // 2],
                images_per_second=speed,
                note=f"{ratio:.2f} times the textbook's speed, {STEPS} discriminator steps, processor time",
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--largest", action="store_true", help="the textbook's 12 GB too")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-record", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[record.Row] = []
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if args.bf16 else ("fp32",)
    iterations(args.width, args.batch, args.rounds, rows, precisions)
    if not args.no_memory:
        memory(rows, args.largest)
    if not args.no_record:
        record.append(rows)


if __name__ == "__main__":
    main()
