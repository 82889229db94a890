"""Images per second of the StyleGAN2 networks, ours and the textbook ones, side by side.

    python -m benchmarks.networks [--size small] [--batch 16] [--threads 2] [--seconds 50] [--bf16] [--no-record]

The two take turns and the fastest turn of each counts, so that a busy machine slows both alike; with one thread the
clock is that of the processor, which other programs disturb less. A training image costs one discriminator step on a
fake and on a real, one generator step, and a sixteenth of R1; no optimiser, no data, no augmentation. With --bf16 ours
computes in bfloat16, the textbook networks in single precision all the same. Sampling is also timed for the same
network exported as ONNX, which is how a finished model is used; its noise maps are stored ones.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import record, textbook

from frugan.export import export
from frugan.losses import adversarial, regularize
from frugan.metrics.cost import count_macs
from frugan.model import Model
from frugan.models import stylegan2, stylegan2_discriminator
from frugan.runtime import Runtime

SIZES: dict[str, dict[str, Any]] = {
    "small": {"resolution": 64, "channel_base": 2048, "channel_max": 128},
    "medium": {"resolution": 128, "channel_base": 8192, "channel_max": 256},
}
R1_INTERVAL = 16
SIDES = ("ours", "textbook", "exported")


def generator_config(size: str) -> stylegan2.StyleGAN2Config:
    width = SIZES[size]["channel_max"]
    return stylegan2.StyleGAN2Config(z_dim=width, w_dim=width, mapping_layers=2, **SIZES[size])


def exported_steps(size: str, batch: int, folder: Path) -> dict[str, Callable[[], object]]:
    """Sampling by the torch-free runtime, from latents drawn anew each time as on the other sides."""
    torch.manual_seed(0)
    generator = stylegan2.Generator(generator_config(size)).eval().requires_grad_(False)
    file = export(Model(generator), folder / size, repeats=0).model
    runtime, draw = Runtime(file, threads=torch.get_num_threads()), np.random.default_rng(0)
    width = generator.config.z_dim
    return {
        "sample": lambda: runtime.run(draw.standard_normal((batch, width), np.float32)),
        "sample one": lambda: runtime.run(draw.standard_normal((1, width), np.float32)),
    }


def steps(ours: bool, size: str, batch: int, dtype: torch.dtype | None = None) -> dict[str, Callable[[], object]]:
    """One function for each kind of step, with the same weights and pictures for both; `dtype` is for ours alone."""
    kind = {"dtype": dtype} if ours else {}
    settings, config = SIZES[size], generator_config(size)
    width = config.z_dim
    judge = stylegan2_discriminator.StyleGAN2DiscriminatorConfig(**settings)
    torch.manual_seed(0)
    generator: Any = (stylegan2.Generator if ours else textbook.Generator)(config)
    discriminator: Any = (stylegan2_discriminator.Discriminator if ours else textbook.Discriminator)(judge)
    real = torch.randn(batch, 3, config.resolution, config.resolution)

    def fakes(count: int) -> torch.Tensor:
        noise = [torch.randn(count, 1, r, r) for r in config.layer_resolutions]
        images: torch.Tensor = generator(torch.randn(count, width), noise=noise, **kind)
        return images

    def sample(count: int) -> None:
        with torch.inference_mode():
            fakes(count)

    def generator_step() -> None:
        discriminator.requires_grad_(False)
        adversarial.generator_loss("logistic", discriminator(fakes(batch), **kind)).mean().backward()
        discriminator.requires_grad_(True)

    def discriminator_step() -> None:
        with torch.no_grad():
            fake = fakes(batch)
        verdicts = discriminator(real, **kind), discriminator(fake, **kind)
        adversarial.discriminator_loss("logistic", *verdicts).mean().backward()

    def r1_step() -> None:
        images = real.clone().requires_grad_()
        regularize.r1_penalty(discriminator(images, **kind), images).mean().backward()

    def path_length_step() -> None:
        half = batch // 2
        w = generator.mapping(torch.randn(half, width))
        images = generator.synthesis(w, [torch.randn(half, 1, r, r) for r in config.layer_resolutions], **kind)
        regularize.path_lengths(images, w, torch.randn_like(images)).square().mean().backward()

    return {
        "discriminator": discriminator_step,
        "generator": generator_step,
        "R1": r1_step,
        "path length": path_length_step,
        "sample": lambda: sample(batch),
        "sample one": lambda: sample(1),
    }


_REST = 0.05


def measure(
    size: str, batch: int, seconds: float, folder: Path, dtype: torch.dtype | None
) -> dict[str, tuple[float, ...]]:
    """The fastest time in seconds of each step: ours, textbook, and exported for sampling. Each runs three times or
    more.
    """
    sides = (steps(True, size, batch, dtype), steps(False, size, batch), exported_steps(size, batch, folder))
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    best: dict[str, tuple[float, ...]] = {}
    for name in sides[0]:
        calls = [side[name] for side in sides if name in side]
        times: list[list[float]] = [[] for _ in calls]
        end = time.perf_counter() + seconds / len(sides[0])
        while len(times[1]) < 4 or time.perf_counter() < end:
            for call, found in zip(calls, times, strict=True):
                if len(calls) > 2:  # the exported model's own threads go on spinning for a while
                    time.sleep(_REST)
                start = clock()
                call()
                found.append(clock() - start)
        best[name] = tuple(min(found[1:]) for found in times)
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=50.0)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        best = measure(
            options.size, options.batch, options.seconds, Path(folder), torch.bfloat16 if options.bf16 else None
        )
    for name, (ours, plain, *exported) in best.items():
        print(f"{name:14} ours {ours * 1e3:8.1f} ms  textbook {plain * 1e3:8.1f} ms  ratio {plain / ours:.2f}", end="")
        print("".join(f"  exported {took * 1e3:8.1f} ms  ratio {plain / took:.2f}" for took in exported))
    ours, plain = (best["discriminator"][i] + best["generator"][i] + best["R1"][i] / R1_INTERVAL for i in (0, 1))
    print(
        f"training images/s: ours {options.batch / ours:.1f}, textbook {options.batch / plain:.1f}, "
        f"ratio {plain / ours:.2f}; sampling ratio {best['sample'][1] / best['sample'][0]:.2f}"
    )
    if not options.no_record:
        record.append(_rows(best, (ours, plain), options.size, options.batch, options.bf16))


def _rows(
    best: dict[str, tuple[float, ...]], training: tuple[float, ...], size: str, batch: int, is_bf16: bool
) -> list[record.Row]:
    macs = count_macs(steps(True, size, 1)["sample one"]).total
    clock = "processor time" if torch.get_num_threads() == 1 else ""
    rows = []
    for name, both in {**best, "training": training}.items():
        count = {"sample one": 1, "path length": batch // 2}.get(name, batch)
        for side, seconds in zip(SIDES[: len(both)], both, strict=True):
            rows.append(
                record.Row(
                    name=f"{name} {side}",
                    size=size,
                    batch=count,
                    ms=1000 * seconds,
                    images_per_second=count / seconds,
                    macs=macs if name.startswith("sample") else None,
                    note="; ".join(part for part in (clock, "bf16" if is_bf16 and side == "ours" else "") if part),
                )
            )
    return rows


if __name__ == "__main__":
    main()
