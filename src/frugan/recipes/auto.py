"""Choosing a recipe: from the pictures, the device, the time one has and the model one starts from, with reasons."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Literal, cast

import numpy as np
import torch

from frugan.augment.diffaugment import DiffAugmentConfig
from frugan.data import DataConfig, PairAdvice, Recommendation
from frugan.data.dataset import Dataset, from_arrays
from frugan.model import Model
from frugan.models.stylegan2 import Generator
from frugan.models.stylegan2_discriminator import Discriminator
from frugan.recipes import stylegan2, translation
from frugan.training.feed import open_feeds
from frugan.training.loop import Loop, Verdict
from frugan.training.ranks import Ranks
from frugan.training.recipe import Recipe
from frugan.training.replay import WARM
from frugan.training.tasks.gan import GanConfig
from frugan.training.tasks.grow import GrowConfig
from frugan.training.tasks.semantic import SemanticConfig

Channels = Literal[1, 3, 4]
CPU_LARGEST, GPU_LARGEST = 64, 256
# Images below which a size gives only blobs from scratch (own experience at 64 px; the others by area of detail).
ENOUGH_IMAGES = {32: 60_000, 64: 150_000, 128: 600_000, 256: 2_000_000}
BUDGET_SHARE = 0.9
SMALL_TRANSLATORS = {"pix2pix": translation.pix2pix_small, "cyclegan": translation.cyclegan_small,
                     "gaugan": translation.gaugan_small}  # fmt: skip
TRANSLATORS = {"pix2pix": translation.pix2pix, "cyclegan": translation.cyclegan, "gaugan": translation.gaugan}


def choose(
    advice: Recommendation,
    device: torch.device,
    *,
    resolution: int | None = None,
    budget_seconds: float | None = None,
    parent: Model | None = None,
) -> Recipe:
    """A recipe for these pictures on this device; `reasons` tells why each choice was made.

    With `budget_seconds` the speed is measured here and now (some seconds), and size and length are planned from it.
    With `parent` the networks are the parent's, and training is short.
    """
    if parent is not None:
        recipe = _from_parent(parent)
    else:
        recipe = _from_scratch(advice, device, resolution, budget_seconds)
    recipe = _augmented(recipe, advice)
    if budget_seconds is not None:
        recipe = _planned(recipe, device, budget_seconds)
    return recipe


def choose_translator(
    advice: PairAdvice,
    device: torch.device,
    *,
    resolution: int | None = None,
    budget_seconds: float | None = None,
) -> Recipe:
    """A recipe for these pairs, domains or label maps on this device; `reasons` tells why each choice was made.

    With `budget_seconds` the speed is measured here and now (some seconds), and the length is planned from it.
    """
    is_cpu = device.type == "cpu"
    function = (SMALL_TRANSLATORS if is_cpu else TRANSLATORS)[advice.recipe]
    usual = function().data["target"].fed_resolution
    side = resolution or min(advice.resolution, usual)
    which = "small networks: the device is a CPU" if is_cpu else "the networks of the paper: the device is a GPU"
    what, size, *worries = advice.reasons
    if resolution is not None:
        size = f"{side} px: as asked"
    elif advice.resolution > usual:
        size = f"{side} px: the pictures allow {advice.resolution}, but more than {usual} takes too long on a CPU"
    recipe = dataclasses.replace(function(resolution=side), reasons=(what, size, which, *worries))
    if isinstance(recipe.task, SemanticConfig):
        source = dataclasses.replace(recipe.data["source"], edges=advice.edges)
        recipe = dataclasses.replace(recipe, data={**recipe.data, "source": source})
    if budget_seconds is not None:
        recipe = _planned(recipe, device, budget_seconds, advice.pictures)
    return recipe


def _from_parent(parent: Model) -> Recipe:
    base = stylegan2.few_shot(64)
    assert isinstance(base.task, GanConfig)
    if not isinstance(parent.generator, Generator):
        hint = {"biggan": ", such as reacgan-small", "progan": ", such as progan-small"}.get(parent.family, "")
        raise ValueError(f"going on from a {parent.family} model needs a recipe of its kind: choose --recipe{hint}")
    generator = parent.generator.config
    if isinstance(parent.discriminator, Discriminator):
        discriminator = parent.discriminator.config
        why = "networks and weights of the model it starts from, its discriminator too"
    else:
        discriminator = dataclasses.replace(
            base.task.discriminator,
            resolution=generator.resolution,
            channels=generator.channels,
            num_classes=generator.num_classes,
            widths=None,
        )
        why = "the generator of the model it starts from; its discriminator is not known, a new one learns"
    task = dataclasses.replace(base.task, generator=generator, discriminator=discriminator)
    images = dataclasses.replace(
        base.data["images"], resolution=generator.resolution, channels=cast(Channels, generator.channels)
    )
    reasons = (f"{generator.resolution} px: {why}",)
    return dataclasses.replace(base, task=task, data={"images": images}, reasons=reasons)


def _from_scratch(
    advice: Recommendation, device: torch.device, resolution: int | None, budget_seconds: float | None
) -> Recipe:
    is_cpu = device.type == "cpu"
    largest = CPU_LARGEST if is_cpu else GPU_LARGEST
    side, why = resolution or min(advice.resolution, largest), ""
    if resolution is not None:
        why = f"{side} px: as asked"
    elif advice.resolution > largest:
        place = "a CPU" if is_cpu else "one card"
        why = f"{side} px: the pictures allow {advice.resolution}, but more than {largest} takes too long on {place}"
    else:
        why = f"{side} px: {advice.reasons[0] if advice.reasons else 'the size of the pictures'}"
    if is_cpu and side <= 128:
        recipe = stylegan2.small(side)
        which = "small networks: the device is a CPU"
    else:
        recipe = stylegan2.auto_rules(side)
        which = "StyleGAN2-ADA's automatic rules: the device is a GPU or the size is large"
        training = dataclasses.replace(recipe.training, total_images=5_000_000, snapshot_images=20_000, hold_out=0.1)
        recipe = dataclasses.replace(recipe, training=training)
    images = dataclasses.replace(recipe.data["images"], resolution=side, channels=cast(Channels, advice.channels))
    return dataclasses.replace(recipe, data={"images": images}, reasons=(why, which))


def _augmented(recipe: Recipe, advice: Recommendation) -> Recipe:
    augment = DiffAugmentConfig(policy=advice.augmentation)
    why = next((reason for reason in advice.reasons if reason.startswith("DiffAugment")), advice.augmentation)
    task = dataclasses.replace(recipe.task, augment=augment)
    return dataclasses.replace(recipe, task=task, reasons=(*recipe.reasons, why))


def _planned(recipe: Recipe, device: torch.device, budget_seconds: float, epoch_images: int | None = None) -> Recipe:
    """The recipe with its length from the speed here; `epoch_images`: the pictures of an epoch, where known."""
    speed = measure_speed(recipe, device)
    total = _whole_batches(speed * budget_seconds * BUDGET_SHARE, recipe.training.batch)
    minutes = f"{BUDGET_SHARE:.0%} of {budget_seconds / 60:.0f} minutes"
    reasons = [f"{total:,} images: {speed:.1f} a second here, in {minutes}", *_little(recipe, total, epoch_images)]
    snapshot = min(recipe.training.snapshot_images, max(total // 10, 1))
    training = dataclasses.replace(recipe.training.lasting(total), snapshot_images=snapshot)
    return dataclasses.replace(recipe, training=training, reasons=(*recipe.reasons, *reasons))


def _little(recipe: Recipe, total: int, epoch_images: int | None) -> list[str]:
    """A warning where so many images are few."""
    if epoch_images is not None and recipe.training.epochs is not None:
        epochs = total / epoch_images
        if epochs >= recipe.training.epochs:
            return []
        return [f"that is {epochs:.1f} epochs, the recipe has {recipe.training.epochs}: expect coarser pictures"]
    side = next(iter(recipe.data.values())).resolution
    enough = ENOUGH_IMAGES.get(side, 0)
    if recipe.name == "few-shot" or total >= enough:
        return []
    return [f"that is little: from scratch {side} px needs about {enough:,}; expect coarse pictures"]


def _whole_batches(images: float, batch: int) -> int:
    return max(int(images) // batch, 1) * batch


def measure_speed(recipe: Recipe, device: torch.device, iterations: int = 3) -> float:
    """Images per second of this recipe on this device, lazy regularisers in their share, from a few steps on noise."""
    data = {name: _noise(recipe, config) for name, config in recipe.data.items()}
    config = recipe.task.fit(data) if "source" in data else recipe.task
    with torch.random.fork_rng(devices=[]):
        task = config.build(data, recipe.training.batch)
    ranks = Ranks(0, 1, device)
    loop = Loop(task, recipe.optimisers, recipe.training, open_feeds(data, 0, device), ranks, _Silent())
    loop.iterate()
    for _ in range(WARM if loop.replays is not None else 0):  # until all of this is played from recordings
        _seconds(loop, 0, 1)
        _seconds(loop, 1, iterations)
    full = _seconds(loop, 0, 1)  # iteration 0: every lazy regulariser is due
    main = _seconds(loop, 1, iterations)
    period = max(phase.every for phase in task.plan(0).phases)
    return recipe.training.batch / (main + max(full - main, 0.0) / period)


def _noise(recipe: Recipe, config: DataConfig) -> Dataset:
    """Pictures, or label maps, of noise as this stream would give them."""
    draw, task = np.random.Generator(np.random.Philox(0)), recipe.task
    side, count = config.fed_resolution, max(recipe.training.batch, 16)
    if isinstance(task, SemanticConfig) and config.kind == "labels":
        numbers = task.generator.num_labels
        maps = draw.integers(0, numbers, (count, 1 + config.edges, side, side), dtype=np.uint8)
        maps[:, 1:] %= 2
        names = tuple(str(number) for number in range(numbers))
        return dataclasses.replace(from_arrays(maps, flip=False), kind="labels", map_names=names)
    pixels = draw.integers(0, 256, (count, config.channels, side, side), dtype=np.uint8)
    classes = task.generator.num_classes if isinstance(task, GanConfig | GrowConfig) else 0
    labels = [index % classes for index in range(count)] if classes else None
    return from_arrays(pixels, labels, [str(index) for index in range(classes)] if classes else None, flip=False)


def _seconds(loop: Loop, iteration: int, count: int) -> float:
    times = []
    for number in range(count):
        loop.progress.iteration = iteration if iteration == 0 else 4 * number + iteration
        began = time.perf_counter()
        loop.iterate()
        if loop.ranks.device.type == "cuda":
            torch.cuda.synchronize(loop.ranks.device)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


class _Silent:
    """An observer that neither writes nor tells."""

    def status(self, loop: Loop, stats: Mapping[str, float], images_per_second: float) -> None:
        """Nothing."""

    def snapshot(self, loop: Loop) -> Verdict:
        """Nothing found."""
        return Verdict()

    def checkpoint(self, loop: Loop) -> None:
        """Nothing."""

    def event(self, loop: Loop, kind: str, text: str) -> None:
        """Nothing."""

    def stop_requested(self) -> bool:
        """Never."""
        return False

    def restore(self, loop: Loop, before: int) -> None:
        """Cannot: nothing was kept."""
        raise NotImplementedError("a measurement keeps no checkpoints")
