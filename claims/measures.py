"""What several claims measure, and the small networks that they compare."""

import dataclasses
import functools
from pathlib import Path

import torch
from torch import Tensor

from claims.harness import DEVICE, ERROR, Measures, Size
from frugan.data import DataConfig, Dataset, from_arrays, open_source, prepare, prepare_streams
from frugan.data.dataset import split
from frugan.data.demo import demo_base, open_demo
from frugan.data.pictures import Labels
from frugan.evaluation.pictures import BATCH, Pictures
from frugan.evaluation.pixels import PixelScores
from frugan.features import as_rgb, open_extractor
from frugan.metrics.distribution import Estimate, kid_exact
from frugan.metrics.multiscale import PyramidConfig, pixel_features
from frugan.metrics.neighbours import memorisation, nearest
from frugan.metrics.paired import feature_distances, mean_of, pixel_distances
from frugan.model import Model
from frugan.recipes import stylegan2
from frugan.training.recipe import EmaConfig, Recipe, tiny
from frugan.training.run import fit

_BATCH = 50
FASHION = Path("runs/sets/fashion-mnist")
FASHION_PARTS: dict[Size, tuple[int, int]] = {"gpu": (30_000, 5_000)}
"""So many of its pictures to learn from and to compare with; elsewhere all."""
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
    return open_extractor("efficientnet_lite0").to(DEVICE)


def features(images: Tensor, size: Size) -> Tensor:
    """EfficientNet-Lite0's pooled features, (N, 1280); at the smoke size pixels at 16 px instead."""
    if size == "smoke":
        return pixel_features(images)
    extractor = _extractor()
    with torch.inference_mode():
        return torch.cat([extractor(as_rgb(part.to(DEVICE)).float())["pool"].cpu() for part in images.split(_BATCH)])


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
    return model.sample(range(10_000, 10_000 + count), batch=_BATCH).cpu()


def fashion(size: Size, *, resolution: int = 32, with_labels: bool = False) -> tuple[Dataset, Dataset]:
    """Fashion-MNIST in grey: pictures to learn from, and others of the same kind to be compared with.

    At the smoke size emoji at 16 px. Raises FileNotFoundError where it has not been built.
    """
    labels: Labels = "auto" if with_labels else "none"
    if size == "smoke":
        whole = prepare(open_demo("emoji"), DataConfig(resolution=16, channels=1, labels=labels))
        return split(whole, 0.1, demo_base)
    if not (FASHION / "train.zip").is_file():
        raise FileNotFoundError(f"{FASHION} is missing: make it by `frugan data build fashion-mnist --out {FASHION}`")
    config = DataConfig(resolution=resolution, channels=1, labels=labels)
    limits = zip(("train", "test"), FASHION_PARTS.get(size, (None, None)), strict=True)
    learned, others = (
        prepare(open_source(FASHION / f"{part}.zip"), dataclasses.replace(config, limit=limit))
        for part, limit in limits
    )
    return learned, others


def pixel_scores(reference: Dataset, count: int) -> PixelScores:
    """SWD over the pyramid and MS-SSIM against `count` reals, by `PATCHES` patches a picture and level."""
    config = PyramidConfig(patches=PATCHES)
    return PixelScores(reference, min(count, len(reference)), config, 0, torch.device("cpu"), lambda *_: None)


def as_pictures(images: Tensor) -> Pictures:
    """Pictures that are at hand, as scores take them."""
    return Pictures(lambda: iter(images.split(BATCH)), len(images), None)


# ---- translations ----------------------------------------------------------------------------------------------------


def translation(
    recipe: Recipe, place: Path, size: Size, test_side: int
) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
    """The two sides of a set to learn from, and those of its test part, whole pictures at `test_side` pixels.

    At the smoke size emoji at 16 px in grey and in colour. Raises FileNotFoundError where the set has not been built.
    """
    if size == "smoke":
        return _grey_and_colour()
    if not place.is_dir():
        raise FileNotFoundError(f"{place} is missing: make it by `frugan data build`, see the protocol")
    whole = {
        name: dataclasses.replace(config, part="test", resolution=test_side, crop=None)
        for name, config in recipe.data.items()
    }
    return prepare_streams(place, recipe.data), prepare_streams(place, whole)


def _grey_and_colour() -> tuple[dict[str, Dataset], dict[str, Dataset]]:
    colour = prepare(open_demo("emoji"), DataConfig(resolution=16, labels="none")).images[:48]
    grey = colour.mean(axis=1, keepdims=True).astype(colour.dtype).repeat(3, axis=1)
    sides = {"source": from_arrays(grey, flip=False), "target": from_arrays(colour, flip=False)}
    return tuple({name: side.take(rows) for name, side in sides.items()} for rows in (range(32), range(32, 48)))  # type: ignore[return-value]


def lasting(recipe: Recipe, data: dict[str, Dataset], size: Size, images: int, snapshot_images: int) -> Recipe:
    """The recipe for these pictures and so many images, its learning rate falling at the same shares of them."""
    fitted = fit(tiny(recipe) if size == "smoke" else recipe, data)
    if size == "smoke":
        return snapshots(fitted, 0, fitted.training.total_images, fitted.training.snapshot_images)
    training = dataclasses.replace(fitted.training.lasting(images), score_images=200, checkpoint_seconds=1e9)
    return snapshots(dataclasses.replace(fitted, training=training), 0, images, snapshot_images)


def paired_scores(made: Tensor, wanted: Tensor, size: Size) -> Measures:
    """How near pictures come to those that should have come out: features, pixels, KID (times 1000), with errors.

    And the share whose nearest picture among all that are wanted, by features, is its own.
    """
    name, ours, theirs = feature_name(size), features(made, size), features(wanted, size)
    kid = kid_exact(ours, theirs)
    own = nearest(ours, theirs)[1][:, 0] == torch.arange(len(ours))
    return {
        **_with_error(f"paired {name} distance", mean_of(feature_distances(ours, theirs))),
        **_with_error(f"KID-{name} x1000", Estimate(value=1000 * kid.value, spread=1000 * kid.spread)),
        **_with_error("paired L1", mean_of(pixel_distances(made, wanted))),
        **_with_error("nearest is its own, %", mean_of(100 * own.double())),
    }


def _with_error(name: str, found: Estimate) -> Measures:
    return {name: found.value, name + ERROR: found.spread}


def of_baseline(found: Measures, baseline: str) -> Measures:
    """Measures of something that no training made, named after it."""
    return {
        f"{name.removesuffix(ERROR)} of {baseline}{ERROR if name.endswith(ERROR) else ''}": value
        for name, value in found.items()
    }


def clearly_below(found: Measures, aside: Measures, name: str, baseline: str) -> bool:
    """Whether a measure is below the baseline's by more than two standard errors of the difference."""
    other = f"{name} of {baseline}"
    error = (found[name + ERROR] ** 2 + aside[other + ERROR] ** 2) ** 0.5
    return found[name] < aside[other] - 2 * error
