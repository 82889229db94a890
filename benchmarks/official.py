"""Training beside the authors' StyleGAN2 (the StyleGAN3 or StyleGAN2-ADA-PyTorch repository), same card, same settings.

    python -m benchmarks.official --repository FOLDER [--resolution 256] [--batch 16] [--iterations 32] [--p 0.3]

FOLDER is a checkout of theirs; it is imported, never copied. Both sides train the `auto` settings of one device (R1
every 16, path length every 4, style mixing .9, ADA bgc at a fixed p) on the same noise; whole periods of 16 iterations
are timed after one for warming up, in turns. On a GPU their compiled operators are built first (they need a compiler).
"""

import argparse
import copy
import dataclasses
import importlib
import importlib.util
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import record

from frugan.augment.ada import AdaConfig
from frugan.data.dataset import from_arrays
from frugan.recipes import auto, stylegan2
from frugan.training.feed import Feed
from frugan.training.loop import Loop
from frugan.training.ranks import Ranks
from frugan.training.recipe import Recipe

PERIOD = 16


def settings(resolution: int, batch: int, p: float, precision: str, compiled: bool, channels: int) -> Recipe:
    base = stylegan2.auto_rules(resolution)
    half = 0 if precision == "fp32" else 4
    task = dataclasses.replace(
        base.task,
        generator=dataclasses.replace(base.task.generator, num_half_resolutions=half, channel_max=channels),
        discriminator=dataclasses.replace(base.task.discriminator, num_half_resolutions=half, channel_max=channels),
        augment=AdaConfig(p=p, controller=None) if p > 0 else None,
        compile=compiled,
    )
    training = dataclasses.replace(base.training, batch=batch, precision=precision)
    return dataclasses.replace(base, task=task, training=training)


def ours(recipe: Recipe, pictures: np.ndarray, device: torch.device) -> Callable[[], None]:
    data = {"images": from_arrays(pictures)}
    torch.manual_seed(0)
    task = recipe.task.build(data, recipe.training.batch)
    feeds = {"images": Feed(data["images"], 0, True, device)}
    loop = Loop(task, recipe.optimisers, recipe.training, feeds, Ranks(0, 1, device), auto._Silent())

    def period() -> None:
        for _ in range(PERIOD):
            loop.iterate()

    return period


class Theirs:
    """The same iteration through their networks, loss and augmentation, in the order of their training."""

    def __init__(self, repository: Path, recipe: Recipe, pictures: np.ndarray, device: torch.device) -> None:
        open_repository(repository)
        self.is_newer = (repository / "training" / "networks_stylegan2.py").is_file()
        self.recipe, self.pictures, self.device = recipe, pictures, device
        torch.manual_seed(0)
        generator, discriminator = (net.train().requires_grad_(False).to(device) for net in self.networks())
        self.generator, self.average = generator, copy.deepcopy(generator).eval()
        self.loss = self.make_loss(generator, discriminator)
        r1, path = recipe.task.r1, recipe.task.path_length
        assert r1 is not None and path is not None
        self.phases = []
        for letter, net, every in (("G", generator, path.every), ("D", discriminator, r1.every)):
            lazy = every / (every + 1)
            lr = recipe.optimisers["generator"].lr * lazy
            adam = torch.optim.Adam(net.parameters(), lr=lr, betas=(0.0, 0.99**lazy), eps=1e-8)
            self.phases += [(f"{letter}main", net, adam, 1), (f"{letter}reg", net, adam, every)]
        self.place = np.random.default_rng(0)

    def networks(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        networks = importlib.import_module("training.networks_stylegan2" if self.is_newer else "training.networks")
        config = self.recipe.task.generator
        shape: dict[str, Any] = {"c_dim": 0, "img_resolution": self.pictures.shape[-1], "img_channels": 3}
        width = {"channel_base": config.channel_base, "channel_max": config.channel_max}
        half = {"num_fp16_res": config.num_half_resolutions, "conv_clamp": 256}
        inner = {**width, **half} if self.is_newer else {"synthesis_kwargs": {**width, **half}}
        mapping = {"num_layers": config.mapping_layers}
        generator = networks.Generator(z_dim=512, w_dim=512, mapping_kwargs=mapping, **shape, **inner)
        epilogue = {"mbstd_group_size": self.recipe.task.discriminator.stddev_group}
        return generator, networks.Discriminator(**shape, **width, **half, epilogue_kwargs=epilogue)

    def make_loss(self, generator: Any, discriminator: Any) -> Any:
        losses, augment = (importlib.import_module(f"training.{name}") for name in ("loss", "augment"))
        pipe, chance = None, getattr(self.recipe.task.augment, "p", 0.0)
        if chance > 0:
            moves = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")
            colors = ("brightness", "contrast", "lumaflip", "hue", "saturation")
            pipe = augment.AugmentPipe(**dict.fromkeys((*moves, *colors), 1)).to(self.device)
            pipe.p.fill_(chance)
        r1, path = self.recipe.task.r1, self.recipe.task.path_length
        assert r1 is not None and path is not None
        shared = {"augment_pipe": pipe, "r1_gamma": r1.gamma, "style_mixing_prob": 0.9, "pl_weight": path.weight}
        if self.is_newer:
            return losses.StyleGAN2Loss(self.device, generator, discriminator, **shared)
        parts = {"G_mapping": generator.mapping, "G_synthesis": generator.synthesis, "D": discriminator}
        return losses.StyleGAN2Loss(self.device, **parts, **shared)

    def iterate(self, number: int) -> None:
        batch = self.recipe.training.batch
        chosen = torch.from_numpy(self.pictures[self.place.integers(0, len(self.pictures), batch)])
        no_labels = torch.empty(batch, 0, device=self.device)
        shared: dict[str, Any] = {"real_c": no_labels, "gen_c": no_labels}
        shared["real_img"] = chosen.to(self.device).float() / 127.5 - 1
        shared |= {"cur_nimg": 0} if self.is_newer else {"sync": True}
        for name, net, adam, every in self.phases:
            if number % every:
                continue
            adam.zero_grad(set_to_none=True)
            net.requires_grad_(True)
            z = torch.randn(batch, 512, device=self.device)
            self.loss.accumulate_gradients(phase=name, gen_z=z, gain=every, **shared)
            net.requires_grad_(False)
            for parameter in net.parameters():
                if parameter.grad is not None:
                    torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
            adam.step()
        with torch.no_grad():
            for kept, now in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                kept.lerp_(now, 0.001)

    def period(self) -> None:
        for number in range(PERIOD):
            self.iterate(number)


def open_repository(repository: Path) -> None:
    """Make their modules importable; a part of setuptools that is gone by now is given back to them."""
    sys.path.insert(0, str(repository))
    if importlib.util.find_spec("pkg_resources") is None:
        stand_in = types.ModuleType("pkg_resources")
        stand_in.parse_version = importlib.import_module("packaging.version").parse  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = stand_in


def timed(period: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    period()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=64)
    parser.add_argument("--p", type=float, default=0.3)
    parser.add_argument("--channels", type=int, default=512, help="at most so many: fewer for a try on a CPU")
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile")
    parser.add_argument("--no-record", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = "fp16" if device.type == "cuda" else "fp32"
    recipe = settings(args.resolution, args.batch, args.p, precision, args.compile, args.channels)
    pictures = np.random.default_rng(0).integers(0, 256, (256, 3, args.resolution, args.resolution), dtype=np.uint8)
    sides = {
        "theirs": lambda: Theirs(args.repository, recipe, pictures, device).period,
        "ours": lambda: ours(recipe, pictures, device),
    }
    found: dict[str, list[float]] = {}
    peaks: dict[str, float | None] = {}
    for name, build in sides.items():  # one after the other: memory is measured too
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        period = build()
        timed(period, device)
        found[name] = [timed(period, device) for _ in range(max(args.iterations // PERIOD, 1))]
        peaks[name] = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
        kimg = min(found[name]) * 1000 / (PERIOD * args.batch)
        memory = "" if peaks[name] is None else f", {peaks[name]:.0f} MiB at most"
        print(f"{name:7} {kimg:.2f} s for 1000 images{memory}", flush=True)
        del period
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(f"ours is {min(found['theirs']) / min(found['ours']):.2f} times as fast")
    if not args.no_record:
        rows = [
            record.Row(
                name=f"training, {name}",
                size=f"auto {args.resolution}",
                batch=args.batch,
                ms=1000 * min(times) / PERIOD,
                median_ms=1000 * float(np.median(times)) / PERIOD,
                images_per_second=PERIOD * args.batch / min(times),
                peak_mb=peaks[name],
                note=f"{precision}, ADA p {args.p}, {device.type}"
                + (", compiled" if args.compile and name == "ours" else ""),
            )
            for name, times in found.items()
        ]
        record.append(rows)


if __name__ == "__main__":
    main()
