"""Training beside the authors' StyleGAN2 (the StyleGAN3 or StyleGAN2-ADA-PyTorch repository), same card, same settings.

    python -m benchmarks.official --repository FOLDER [--resolution 256] [--batch 16] [--iterations 64] [--p 0.3]

FOLDER is a checkout of theirs; it is imported, never copied. Both sides train the `auto` settings of one device (R1
every 16, path length every 4, style mixing .9, ADA bgc at a fixed p) on the same noise, convolutions tried out first
and without TF32, as there; whole periods of 16 iterations are timed, after one for warming up and as many more as ours
takes to record all phases. On a GPU their compiled operators are built first; where that fails their slow ones are
taken, and the row says so.
"""

import argparse
import copy
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import beside, record

from frugan.augment.ada import AdaConfig
from frugan.data.dataset import from_arrays
from frugan.recipes import auto, stylegan2
from frugan.training.feed import Feed
from frugan.training.loop import Loop
from frugan.training.ranks import Ranks
from frugan.training.recipe import Recipe
from frugan.training.replay import WARM

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
        beside.open_folder(repository, unused=("requests",))
        self.is_newer = (repository / "training" / "networks_stylegan2.py").is_file()
        self.recipe, self.pictures, self.device = recipe, pictures, device
        self.note = self.operators()
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

    def operators(self) -> str:
        """Switch their operators on, build the compiled ones; what the row says of it."""
        ops = "torch_utils.ops"
        for name in ("conv2d_gradfix", "grid_sample_gradfix"):
            importlib.import_module(f"{ops}.{name}").enabled = True  # type: ignore[attr-defined]
        if self.device.type != "cuda":
            return ", their slow operators"
        modules: list[Any] = [importlib.import_module(f"{ops}.{name}") for name in ("bias_act", "upfirdn2d")]
        try:
            if all(module._init() for module in modules):
                return ""
        except (RuntimeError, OSError, ImportError) as error:
            print(f"their operators do not build, the slow ones are taken: {str(error)[-2000:]}", flush=True)
        for module in modules:
            module._init = lambda: False
        return ", their slow operators: the compiled ones do not build here"

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
        latents = torch.randn(len(self.phases) * batch, 512, device=self.device).split(batch)
        for (name, net, adam, every), z in zip(self.phases, latents, strict=True):
            if number % every:
                continue
            adam.zero_grad(set_to_none=True)
            net.requires_grad_(True)
            self.loss.accumulate_gradients(phase=name, gen_z=z, gain=every, **shared)
            net.requires_grad_(False)
            gradients = {each: each.grad for each in net.parameters() if each.grad is not None}
            flat = torch.cat([gradient.flatten() for gradient in gradients.values()])
            torch.nan_to_num(flat, nan=0, posinf=1e5, neginf=-1e5, out=flat)
            parts = flat.split([each.numel() for each in gradients])
            for parameter, part in zip(gradients, parts, strict=True):
                parameter.grad = part.reshape(parameter.shape)
            adam.step()
        with torch.no_grad():
            for kept, now in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                kept.copy_(now.lerp(kept, 0.999))
            for copied, newest in zip(self.average.buffers(), self.generator.buffers(), strict=True):
                copied.copy_(newest)

    def period(self) -> None:
        for number in range(PERIOD):
            self.iterate(number)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=64)
    parser.add_argument("--p", type=float, default=0.3)
    parser.add_argument("--channels", type=int, default=512, help="at most so many: fewer for a try on a CPU")
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile")
    parser.add_argument("--only", choices=("theirs", "ours"), help="one side alone")
    parser.add_argument("--no-record", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = "fp16" if device.type == "cuda" else "fp32"
    recipe = settings(args.resolution, args.batch, args.p, precision, args.compile, args.channels)
    pictures = np.random.default_rng(0).integers(0, 256, (256, 3, args.resolution, args.resolution), dtype=np.uint8)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    notes = {"theirs": "", "ours": ", compiled" if args.compile else ""}

    def theirs() -> Callable[[], None]:
        side = Theirs(args.repository, recipe, pictures, device)
        notes["theirs"] = side.note
        return side.period

    found: dict[str, beside.Measured] = {}
    sides = {"theirs": theirs, "ours": lambda: ours(recipe, pictures, device)}
    for name in sides if args.only is None else (args.only,):
        build = sides[name]
        warm = 1 if name == "theirs" or device.type == "cpu" else WARM + 2
        found[name] = beside.measure(build, device, warm, max(args.iterations // PERIOD, 1))
        row = found[name].row(
            name=f"training, {name}",
            size=f"auto {args.resolution}",
            batch=args.batch,
            images=PERIOD * args.batch,
            iterations=PERIOD,
            note=f"{precision}, ADA p {args.p}, {beside.card(device)}{notes[name]}",
        )
        memory = "" if row.peak_mb is None else f", {row.peak_mb:.0f} MiB at most"
        print(f"{name:7} {row.images_per_second:.1f} images/s, {row.ms:.1f} ms{memory}{notes[name]}", flush=True)
        if not args.no_record:
            record.append([row])
    if args.only is None:
        print(f"ours is {min(found['theirs'].seconds) / min(found['ours'].seconds):.2f} times as fast")


if __name__ == "__main__":
    main()
