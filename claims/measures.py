"""What several claims measure, and the small networks that they compare."""

import dataclasses
import functools
from pathlib import Path

import torch
from torch import Tensor

from claims.harness import Measures, Size
from frugan.data import DataConfig, Dataset, open_source, prepare
from frugan.data.dataset import split
from frugan.data.demo import demo_base, open_demo
from frugan.evaluation.pictures import BATCH, Pictures
from frugan.evaluation.pixels import PixelScores
from frugan.features import as_rgb, open_extractor
from frugan.metrics.distribution import kid_exact
from frugan.metrics.multiscale import PyramidConfig, pixel_features
from frugan.metrics.neighbours import memorisation
from frugan.model import Model
from frugan.recipes import stylegan2
from frugan.training.recipe import EmaConfig, Recipe

_BATCH = 50
FASHION = Path("runs/sets/fashion-mnist")
PATCHES = 32


def little(name: str, images: int, snapshot_images: int) -> Recipe:
    """The `small` recipe at 32 px with half its channels and batch 8: about 10,000 images in three minutes of a core.

    All checkpoints at snapshots are kept, none of the pictures held out, without augmentation.
    """
    base = stylegan2.small(32)
    widths = (128, 64, 48, 24)
    generator = dataclasses.replace(
        base.task.generator,
        widths=tuple(width for width in widths for _ in range(2)),
        z_dim=64,
        w_dim=64,
        mapping_layers=2,
    )
    discriminator = dataclasses.replace(base.task.discriminator, widths=widths)
    task = dataclasses.replace(base.task, generator=generator, discriminator=discriminator, augment=None)
    training = dataclasses.replace(
        base.training,
        batch=8,
        total_images=images,
        snapshot_images=snapshot_images,
        keep_checkpoints=1000,
        checkpoint_seconds=1e9,
        hold_out=0.0,
        score_images=200,
        ema=EmaConfig(halflife_images=1000.0, rampup=None),
    )
    return dataclasses.replace(base, name=name, source="claims", task=task, training=training)


def snapshots(recipe: Recipe, seed: int, images: int, snapshot_images: int) -> Recipe:
    """A paper's recipe with this seed and length, every snapshot's checkpoint kept."""
    training = dataclasses.replace(
        recipe.training,
        seed=seed,
        total_images=images,
        snapshot_images=snapshot_images,
        keep_checkpoints=1000,
        hold_out=0.0,
    )
    return dataclasses.replace(recipe, training=training)


@functools.cache
def _extractor() -> torch.nn.Module:
    return open_extractor("efficientnet_lite0")


def features(images: Tensor, size: Size) -> Tensor:
    """EfficientNet-Lite0's pooled features, (N, 1280); at the smoke size pixels at 16 px instead."""
    if size == "smoke":
        return pixel_features(images)
    extractor = _extractor()
    with torch.inference_mode():
        return torch.cat([extractor(as_rgb(part).float())["pool"] for part in images.split(_BATCH)])


def feature_name(size: Size) -> str:
    """What the features are called in names of scores."""
    return "pixels" if size == "smoke" else "efficientnet_lite0"


_known: dict[tuple[str, int, Size], Tensor] = {}


def real_features(dataset: Dataset, count: int, size: Size) -> Tensor:
    """The features of the first `count` pictures of a set in a fixed random order, computed once."""
    key = (dataset.fingerprint, count, size)
    if key not in _known:
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:count]
        _known[key] = features(dataset.batch(order.sort().values.numpy()), size)
    return _known[key]


def score(fake_images: Tensor, reference: Dataset, learned: Dataset, count: int, size: Size) -> Measures:
    """KID (times 1000) to a reference set, and how far fakes lie from the training set: below 1 they crowd it."""
    fake = features(fake_images, size)
    kid = kid_exact(fake, real_features(reference, count, size))
    near = memorisation(fake, real_features(learned, count, size))
    return {f"KID-{feature_name(size)} x1000": 1000 * kid.value, "nearest-neighbour ratio": near.ratio}


def samples(model: Model, count: int) -> Tensor:
    """The pictures that are measured: seeds 10000, 10001, ... at psi 1."""
    return model.sample(range(10_000, 10_000 + count), batch=_BATCH)


def fashion(size: Size) -> tuple[Dataset, Dataset]:
    """Fashion-MNIST in grey: pictures to learn from, and others of the same kind to be compared with.

    At the smoke size emoji. Raises FileNotFoundError where it has not been built.
    """
    if size == "smoke":
        whole = prepare(open_demo("emoji"), DataConfig(resolution=16, channels=1, labels="none"))
        return split(whole, 0.1, demo_base)
    if not (FASHION / "train.zip").is_file():
        raise FileNotFoundError(f"{FASHION} is missing: make it by `frugan data build fashion-mnist --out {FASHION}`")
    config = DataConfig(resolution=32, channels=1, labels="none")
    return prepare(open_source(FASHION / "train.zip"), config), prepare(open_source(FASHION / "test.zip"), config)


def pixel_scores(reference: Dataset, count: int) -> PixelScores:
    """SWD over the pyramid and MS-SSIM against `count` reals, by `PATCHES` patches a picture and level."""
    config = PyramidConfig(patches=PATCHES)
    return PixelScores(reference, min(count, len(reference)), config, 0, torch.device("cpu"), lambda *_: None)


def as_pictures(images: Tensor) -> Pictures:
    """Pictures that are at hand, as scores take them."""
    return Pictures(lambda: iter(images.split(BATCH)), len(images), None)
