"""Images per second of the StyleGAN2 networks, ours and the textbook ones, side by side.

    python -m benchmarks.networks [--size small] [--batch 16] [--threads 2] [--seconds 50] [--no-record]

The two take turns and the fastest turn of each counts, so that a busy machine slows both alike; with one thread the
clock is that of the processor, which other programs disturb less. A training image costs one discriminator step on a
fake and on a real, one generator step, and a sixteenth of R1; no optimiser, no data, no augmentation.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks import record, textbook

from frugan.losses import adversarial, regularize
from frugan.metrics.cost import count_macs
from frugan.models import stylegan2

SIZES: dict[str, dict[str, Any]] = {
    "small": {"resolution": 64, "channel_base": 2048, "channel_max": 128},
    "medium": {"resolution": 128, "channel_base": 8192, "channel_max": 256},
}
R1_INTERVAL = 16


def steps(ours: bool, size: str, batch: int) -> dict[str, Callable[[], object]]:
    """One function for each kind of step, with the same weights and pictures for both."""
    settings = SIZES[size]
    width = settings["channel_max"]
    config = stylegan2.StyleGAN2Config(z_dim=width, w_dim=width, mapping_layers=2, **settings)
    judge = stylegan2.StyleGAN2DiscriminatorConfig(**settings)
    torch.manual_seed(0)
    generator: Any = (stylegan2.Generator if ours else textbook.Generator)(config)
    discriminator: Any = (stylegan2.Discriminator if ours else textbook.Discriminator)(judge)
    real = torch.randn(batch, 3, config.resolution, config.resolution)

    def fakes(count: int) -> torch.Tensor:
        noise = [torch.randn(count, 1, r, r) for r in config.layer_resolutions]
        images: torch.Tensor = generator(torch.randn(count, width), noise=noise)
        return images

    def sample(count: int) -> None:
        with torch.inference_mode():
            fakes(count)

    def generator_step() -> None:
        discriminator.requires_grad_(False)
        adversarial.generator_loss("logistic", discriminator(fakes(batch))).mean().backward()
        discriminator.requires_grad_(True)

    def discriminator_step() -> None:
        with torch.no_grad():
            fake = fakes(batch)
        adversarial.discriminator_loss("logistic", discriminator(real), discriminator(fake)).mean().backward()

    def r1_step() -> None:
        images = real.clone().requires_grad_()
        regularize.r1_penalty(discriminator(images), images).mean().backward()

    def path_length_step() -> None:
        half = batch // 2
        w = generator.mapping(torch.randn(half, width))
        images = generator.synthesis(w, [torch.randn(half, 1, r, r) for r in config.layer_resolutions])
        regularize.path_lengths(images, w, torch.randn_like(images)).square().mean().backward()

    return {
        "discriminator": discriminator_step,
        "generator": generator_step,
        "R1": r1_step,
        "path length": path_length_step,
        "sample": lambda: sample(batch),
        "sample one": lambda: sample(1),
    }


def measure(size: str, batch: int, seconds: float) -> dict[str, tuple[float, float]]:
    """The fastest time in seconds of each step: ours, textbook. Every step runs three times or more."""
    sides = (steps(True, size, batch), steps(False, size, batch))
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    best: dict[str, tuple[float, float]] = {}
    for name in sides[0]:
        times: tuple[list[float], list[float]] = ([], [])
        end = time.perf_counter() + seconds / len(sides[0])
        while len(times[1]) < 4 or time.perf_counter() < end:
            for side, found in zip(sides, times, strict=True):
                start = clock()
                side[name]()
                found.append(clock() - start)
        best[name] = (min(times[0][1:]), min(times[1][1:]))
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=50.0)
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    best = measure(options.size, options.batch, options.seconds)
    for name, (ours, plain) in best.items():
        print(f"{name:14} ours {ours * 1e3:8.1f} ms  textbook {plain * 1e3:8.1f} ms  ratio {plain / ours:.2f}")
    ours, plain = (best["discriminator"][i] + best["generator"][i] + best["R1"][i] / R1_INTERVAL for i in (0, 1))
    print(
        f"training images/s: ours {options.batch / ours:.1f}, textbook {options.batch / plain:.1f}, "
        f"ratio {plain / ours:.2f}; sampling ratio {best['sample'][1] / best['sample'][0]:.2f}"
    )
    if not options.no_record:
        record.append(_rows(best, (ours, plain), options.size, options.batch))


def _rows(
    best: dict[str, tuple[float, float]], training: tuple[float, float], size: str, batch: int
) -> list[record.Row]:
    macs = count_macs(steps(True, size, 1)["sample one"]).total
    clock = "processor time" if torch.get_num_threads() == 1 else ""
    rows = []
    for name, both in {**best, "training": training}.items():
        count = {"sample one": 1, "path length": batch // 2}.get(name, batch)
        for side, seconds in zip(("ours", "textbook"), both, strict=True):
            rows.append(
                record.Row(
                    name=f"{name} {side}",
                    size=size,
                    batch=count,
                    ms=1000 * seconds,
                    images_per_second=count / seconds,
                    macs=macs if name.startswith("sample") else None,
                    note=clock,
                )
            )
    return rows


if __name__ == "__main__":
    main()
