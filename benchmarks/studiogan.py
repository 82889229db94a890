"""Training beside PyTorch-StudioGAN: ReACGAN on CIFAR10's sizes, same card, same settings, mixed precision off and on.

    python -m benchmarks.studiogan --repository FOLDER [--batch 128] [--width 96] [--iterations 20] [--no-record]

FOLDER is a checkout of theirs; it is imported, never copied. Their side is their own worker with its networks, losses,
optimisers, averages and order, set by their CIFAR10/ReACGAN.yaml; ours is the recipe `reacgan-cifar` by the loop. Both
train on noise at hand: iterations of five steps of the discriminator and one of the generator are timed one by one,
after some for warming up. Convolutions are tried out first and compute in TF32 where torch lets them, as there. Their
mixed precision is fp16 with a scaler, ours bf16. A side that fails is told and left out.
"""

import argparse
import dataclasses
import importlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import beside, record
from torch import Tensor, nn

from frugan.data.dataset import from_arrays
from frugan.recipes import auto, conditional
from frugan.training.feed import Feed
from frugan.training.loop import Loop
from frugan.training.ranks import Ranks
from frugan.training.recipe import Precision
from frugan.training.tasks.classes import ClassesConfig

CLASSES, RESOLUTION, STEPS = 10, 32, 5
UNUSED = (
    *("torchvision", "tqdm", "wandb", "kornia", "seaborn", "h5py", "sklearn", "scipy", "matplotlib", "requests"),
    *("pandas", "PIL"),
)
"""What their modules import for scores, logs and pictures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What both sides train on, and how large."""

    pictures: np.ndarray
    labels: np.ndarray
    batch: int
    width: int
    device: torch.device


class Noise:
    """Their data loader: pictures and labels for all steps of an iteration, on the device already."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.place = setting, np.random.default_rng(0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        setting = self.setting
        while True:
            chosen = self.place.integers(0, len(setting.pictures), setting.batch * STEPS)
            pictures = torch.from_numpy(setting.pictures[chosen]).to(setting.device)
            yield pictures.float() / 127.5 - 1, torch.from_numpy(setting.labels[chosen]).to(setting.device)


def theirs(repository: Path, setting: Setting, mixed: bool) -> Callable[[], None]:
    """An iteration of their worker."""
    settings = importlib.import_module("config").Configurations(str(repository / "src/configs/CIFAR10/ReACGAN.yaml"))
    settings.MODEL.g_conv_dim = settings.MODEL.d_conv_dim = setting.width
    settings.OPTIMIZATION.batch_size, settings.OPTIMIZATION.world_size = setting.batch, 1
    off = ("distributed_data_parallel", "batch_statistics", "standing_statistics", "synchronized_bn", "empty_cache")
    settings.update_cfgs(dict.fromkeys((*off, "langevin_sampling"), False))
    settings.update_cfgs({"mixed_precision": mixed, "train": True, "freezeD": -1})
    if settings.OPTIMIZATION.d_updates_per_step != STEPS or not settings.OPTIMIZATION.d_first:
        raise ValueError(f"{STEPS} steps of the discriminator must come first in their settings")
    parts = ("DATA", "OPTIMIZATION", "MODEL", "STYLEGAN", "MODULES", "RUN")
    torch.manual_seed(0)
    nets = importlib.import_module("models.model").load_generator_discriminator(
        **{part: getattr(settings, part) for part in parts}, device=setting.device, logger=None
    )
    names = ("Gen", "Gen_mapping", "Gen_synthesis", "Dis", "Gen_ema", "Gen_ema_mapping", "Gen_ema_synthesis", "ema")
    named = dict(zip(names, nets, strict=True))
    tell("theirs", named["Gen"], named["Dis"])
    settings.define_optimizer(named["Gen"], named["Dis"])
    nothing = (
        *("eval_model", "eval_dataloader", "mu", "sigma", "real_feats", "logger", "aa_p", "best_fid", "num_eval"),
        *("best_ckpt_path", "lecam_emas", "loss_list_dict", "metric_dict_during_train"),
    )
    # Only the worker of rank 0 keeps logs.
    ranks = {"global_rank": 1, "local_rank": setting.device, "run_name": "noise", "best_step": 0}
    data = {"train_dataloader": Noise(setting)}
    build = importlib.import_module("worker").WORKER
    worker: Any = build(cfgs=settings, **named, **dict.fromkeys(nothing), **ranks, **data)
    worker.cond_loss.master_rank = setting.device
    worker.prepare_train_iter(epoch_counter=0)
    step = iter(range(10**9))

    def iterate() -> None:
        number = next(step)
        worker.train_discriminator(current_step=number)
        worker.train_generator(current_step=number)

    return iterate


def ours(setting: Setting, precision: Precision) -> Callable[[], object]:
    """An iteration of the loop."""
    recipe = conditional.reacgan_cifar()
    assert isinstance(recipe.task, ClassesConfig) and recipe.task.discriminator_steps == STEPS
    config = recipe.task.sized(RESOLUTION, width=setting.width)
    names = [str(number) for number in range(CLASSES)]
    data = {"images": from_arrays(setting.pictures, setting.labels.tolist(), names)}
    training = dataclasses.replace(recipe.training, batch=setting.batch, precision=precision)
    torch.manual_seed(0)
    task = config.build(data, setting.batch)
    tell("ours", task.generator, task.discriminator)
    feeds = {"images": Feed(data["images"], 0, True, setting.device)}
    loop = Loop(task, recipe.optimisers, training, feeds, Ranks(0, 1, setting.device), auto._Silent())
    return loop.iterate


def tell(name: str, *nets: nn.Module) -> None:
    """How many numbers are trained: the same on both sides."""
    counts = [sum(parameter.numel() for parameter in net.parameters()) for net in nets]
    print(f"{name:7} {counts[0]} parameters in the generator, {counts[1]} in the discriminator", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=96, help="of both networks: less for a try on a CPU")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--warm", type=int, default=4, help="iterations before them")
    parser.add_argument("--only", choices=("theirs", "ours"), help="one side alone")
    parser.add_argument("--no-record", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    warnings.filterwarnings("ignore", category=FutureWarning)  # their names of torch's parts
    beside.open_folder(args.repository / "src", UNUSED)
    place = np.random.default_rng(0)
    pictures = place.integers(0, 256, (4096, 3, RESOLUTION, RESOLUTION), dtype=np.uint8)
    labels = place.integers(0, CLASSES, len(pictures))
    setting = Setting(pictures=pictures, labels=labels, batch=args.batch, width=args.width, device=device)
    sides: dict[str, Callable[[], Callable[[], object]]] = {
        "theirs, fp32": lambda: theirs(args.repository, setting, mixed=False),
        "ours, fp32": lambda: ours(setting, "fp32"),
        "ours, bf16": lambda: ours(setting, "bf16"),
        "theirs, mixed": lambda: theirs(args.repository, setting, mixed=True),
    }
    sides = {name: build for name, build in sides.items() if args.only is None or name.startswith(args.only)}
    tf32 = ", TF32 convolutions" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else ""
    fastest: dict[str, float] = {}
    for name, build in sides.items():
        try:
            found = beside.measure(build, device, args.warm, args.iterations)
        except RuntimeError as error:
            print(f"{name} failed: {error}", flush=True)
            continue
        fastest[name] = min(found.seconds)
        row = found.row(
            name=f"reacgan training, {name}",
            size=f"{RESOLUTION} px, {args.width} wide",
            batch=args.batch,
            images=STEPS * args.batch,
            note=f"{STEPS} discriminator steps, {beside.card(device)}{tf32}",
        )
        memory = "" if row.peak_mb is None else f", {row.peak_mb:.0f} MiB at most"
        middle = f"{row.ms:.1f} ms (median {row.median_ms:.1f})"
        print(f"{name}: {row.images_per_second:.0f} images/s, {middle}{memory}", flush=True)
        if not args.no_record:
            record.append([row])
    for one, other in (("theirs, fp32", "ours, fp32"), ("theirs, mixed", "ours, bf16")):
        if one in fastest and other in fastest:
            print(f"{other} is {fastest[one] / fastest[other]:.2f} times as fast as {one}")
    if len(fastest) < len(sides):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
