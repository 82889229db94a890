"""Recipes of image translation: pix2pix (arXiv:1611.07004), CycleGAN (arXiv:1703.10593), GauGAN (arXiv:1903.07291).

Settings of the named sets are those of GAN Compression's teachers (Li et al. 2020, arXiv:2003.08936, authors' code),
which the compression starts from. Lengths are epochs, as published: `total_images` counts them on the published set,
and with other pictures they follow their number. The learning rate stays for the first epochs and falls linearly to 0
over the others; the authors let it fall once an epoch, here it does so with every step. Weights are not averaged, as in
the papers. Scores are quoted as published: frugan has not repeated these runs. FID: lower is better.
"""

import dataclasses
from typing import Any

from frugan.data.pictures import DataConfig
from frugan.models.multiscale import MultiScaleConfig
from frugan.models.patchgan import PatchConfig
from frugan.models.spade import SpadeConfig, Upsampling
from frugan.models.translator import ResnetConfig, UNetConfig
from frugan.training.recipe import AdamConfig, EmaConfig, Recipe, Schedule, TrainingConfig
from frugan.training.tasks.cycle import CycleConfig
from frugan.training.tasks.semantic import SemanticConfig
from frugan.training.tasks.translate import PairedConfig

ADAM = AdamConfig(lr=0.0002, beta1=0.5, beta2=0.999)
SLOW, FAST = AdamConfig(lr=0.0001, beta1=0.0, beta2=0.9), AdamConfig(lr=0.0004, beta1=0.0, beta2=0.9)
"""GauGAN's two speeds, of generator and discriminator."""
NO_AVERAGE = EmaConfig(halflife_images=0.0, rampup=None)
SNAPSHOT_ITERATIONS = 20_000
"""How often the authors save and score."""


def _training(constant: int, decay: int, pictures: int, batch: int, **changes: Any) -> TrainingConfig:
    """Epochs over so many pictures, at the full learning rate and on its way down to 0."""
    lr = Schedule(base=1.0, final=0.0, start_images=constant * pictures, duration_images=decay * pictures)
    settings: dict[str, Any] = {
        "batch": batch,
        "total_images": (constant + decay) * pictures,
        "epochs": constant + decay,
        "lr": lr if decay else None,
        "ema": NO_AVERAGE,
        "snapshot_images": SNAPSHOT_ITERATIONS * batch,
    }
    return TrainingConfig(**(settings | changes))


def _streams(
    resolution: int, source: dict[str, Any] | None = None, jitter: int = 0, **both: Any
) -> dict[str, DataConfig]:
    """Source and target at one size: resized to it as they are, or to `jitter` pixels more and cut to it by chance."""
    size: dict[str, Any] = {"resolution": resolution + jitter, "fit": "stretch", "aspect": 1.0}
    size |= {"crop": resolution if jitter else None}
    return {
        "source": DataConfig(**(size | both | (source or {})), role="source"),
        "target": DataConfig(**(size | both), role="target"),
    }


def _jitter(resolution: int) -> int:
    """How much larger pictures are before a random crop: 286 for 256 pixels (Isola et al. 2017, appendix 6.2)."""
    return round(resolution * 30 / 256)


# ---- pix2pix --------------------------------------------------------------------------------------------------------


def _pix2pix(
    name: str,
    source: str,
    training: TrainingConfig,
    *,
    resolution: int = 256,
    width: int = 64,
    separable: bool = False,
    reverse: bool = False,
    reconstruction: float = 100.0,
) -> Recipe:
    """The shared form: ResNet of nine blocks, PatchGAN of 128, hinge, L1, Adam (.5, .999) at 0.0002 for both."""
    task = PairedConfig(
        generator=ResnetConfig(width=width, separable=separable, clamp_input=not separable),
        discriminator=PatchConfig(channels=6, width=128),
        reconstruction=reconstruction,
    )
    return Recipe(
        name=name,
        source=source,
        data=_streams(resolution, jitter=_jitter(resolution), reverse=reverse),
        task=task,
        optimisers={"generator": ADAM, "discriminator": ADAM},
        training=training,
    )


def pix2pix(resolution: int = 256) -> Recipe:
    """pix2pix for your own pairs: GAN Compression's networks and losses (edges to shoes), one pair a step.

    100 epochs and 100 more while the learning rate falls, as in the authors' code; 400 pairs (facades) are 80k images.
    """
    source = "arXiv:2003.08936, pix2pix teachers"
    return _pix2pix("pix2pix", source, _training(100, 100, 400, 1), resolution=resolution)


def pix2pix_unet(resolution: int = 256) -> Recipe:
    """The pix2pix paper's own form: U-Net with dropout, PatchGAN of 64, logistic loss, L1 times 100, one pair a step.

    200 epochs of 400 pairs (facades; Isola et al. 2017, appendix 6.2). Deviations: the statistics of batch
    normalisation, which in batches of one are those of each picture, are always that (instance normalisation); dropout
    acts in training alone; and the learning rate falls in the second half, as in the authors' later code.
    """
    base = _pix2pix("pix2pix-unet", "arXiv:1611.07004", _training(100, 100, 400, 1), resolution=resolution)
    downs = (resolution & -resolution).bit_length() - 1
    task = PairedConfig(
        generator=UNetConfig(num_downs=min(downs, 8), norm="instance"),
        discriminator=PatchConfig(channels=6, width=64),
        loss="logistic",
    )
    return dataclasses.replace(base, task=task)


def edges2shoes() -> Recipe:
    """Edges to shoes at 256 px, 47,977 pairs (resplit), batch 4, 5 + 15 epochs. FID 24.12 published (56.8 G MACs)."""
    source = "arXiv:2003.08936, edges2shoes-r, full teacher"
    return _pix2pix("pix2pix-edges2shoes", source, _training(5, 15, 47_977, 4))


def edges2shoes_mobile() -> Recipe:
    """The same with separable residual blocks, which is what gets distilled."""
    source = "arXiv:2003.08936, edges2shoes-r, mobile teacher"
    return _pix2pix("pix2pix-edges2shoes-mobile", source, _training(5, 15, 47_977, 4), separable=True)


def cityscapes() -> Recipe:
    """Coloured label maps to streets at 256 px (files with the photo first), 2,975 pairs, one a step, 100 + 150 epochs.

    FID 61.50, mIoU 42.06 published.
    """
    source = "arXiv:2003.08936, pix2pix Cityscapes, full teacher"
    return _pix2pix("pix2pix-cityscapes", source, _training(100, 150, 2_975, 1), reverse=True)


def cityscapes_mobile() -> Recipe:
    """The same with separable residual blocks and width 96."""
    source = "arXiv:2003.08936, pix2pix Cityscapes, mobile teacher"
    training = _training(100, 150, 2_975, 1)
    return _pix2pix("pix2pix-cityscapes-mobile", source, training, reverse=True, separable=True, width=96)


def map2sat() -> Recipe:
    """Maps to aerial photos at 256 px (files with the photo first), 1,096 pairs, one a step, L1 times 10.

    100 + 200 epochs. FID 47.91 published.
    """
    source = "arXiv:2003.08936, map2sat, full teacher"
    return _pix2pix("pix2pix-map2sat", source, _training(100, 200, 1_096, 1), reverse=True, reconstruction=10.0)


def map2sat_mobile() -> Recipe:
    """The same with separable residual blocks and width 96."""
    return _pix2pix(
        "pix2pix-map2sat-mobile",
        "arXiv:2003.08936, map2sat, mobile teacher",
        _training(100, 200, 1_096, 1),
        reverse=True,
        reconstruction=10.0,
        separable=True,
        width=96,
    )


# ---- CycleGAN -------------------------------------------------------------------------------------------------------


def cyclegan(resolution: int = 256) -> Recipe:
    """CycleGAN on horses and zebras (1,067 and 1,334 pictures), one of each a step, 100 + 100 epochs.

    286 px cut to 256. Least squares, cycle 10, identity half of it, a pool of 50 (Zhu et al. 2017, section 4 and
    appendix 7.2). An epoch is one of the larger set, as in the authors' code. FID 65.75 published (GAN Compression's
    teacher).
    """
    task = CycleConfig(generator=ResnetConfig(), discriminator=PatchConfig(channels=3, width=64))
    return Recipe(
        name="cyclegan",
        source="arXiv:1703.10593 and arXiv:2003.08936, horse2zebra, full teacher",
        data=_streams(resolution, jitter=_jitter(resolution), pairing="unpaired"),
        task=task,
        optimisers={"generator": ADAM, "discriminator": ADAM},
        training=_training(100, 100, 1_334, 1),
    )


def cyclegan_mobile() -> Recipe:
    """The same with separable residual blocks, which is what gets distilled."""
    base = cyclegan()
    task = CycleConfig(
        generator=ResnetConfig(separable=True, clamp_input=False), discriminator=PatchConfig(channels=3, width=64)
    )
    source = "arXiv:2003.08936, horse2zebra, mobile teacher"
    return dataclasses.replace(base, name="cyclegan-mobile", source=source, task=task)


# ---- GauGAN ---------------------------------------------------------------------------------------------------------


def _gaugan(
    name: str,
    source: str,
    training: TrainingConfig,
    data: dict[str, DataConfig],
    *,
    labels: int,
    resolution: int,
    aspect: float = 1.0,
    num_upsampling: Upsampling = "normal",
    width: int = 64,
    judge_width: int = 64,
    separable: bool = False,
) -> Recipe:
    """The shared form: SPADE and two scales of patches, both spectral, hinge, features 10, Adam (0, .9) at two speeds.

    Without the perceptual loss (10 in the paper), which needs a file of VGG19 weights: see `PerceptualConfig`.
    """
    generator = SpadeConfig(
        width=width,
        num_labels=labels,
        num_upsampling=num_upsampling,
        resolution=resolution,
        aspect=aspect,
        separable=separable,
    )
    channels = generator.map_channels + generator.channels
    task = SemanticConfig(generator=generator, discriminator=MultiScaleConfig(channels=channels, width=judge_width))
    return Recipe(
        name=name,
        source=source,
        data=data,
        task=task,
        optimisers={"generator": SLOW, "discriminator": FAST},
        training=training,
    )


MAPS: dict[str, Any] = {"kind": "labels", "edges": True}


def gaugan(resolution: int = 256) -> Recipe:
    """GauGAN for your own label maps, square: the networks for COCO-Stuff, batch 16, 50 + 50 epochs.

    Our choice of length, half of the paper's for Cityscapes; counted here on 5,000 pictures.
    """
    training = _training(50, 50, 5_000, 16)
    data = _streams(resolution, MAPS)
    return _gaugan("gaugan", "arXiv:1903.07291", training, data, labels=32, resolution=resolution)


def gaugan_cityscapes() -> Recipe:
    """GauGAN on Cityscapes at 512x256, 35 labels and edges, 2,975 pictures, batch 16, 100 + 100 epochs.

    FID 57.60, mIoU 61.04 published (GAN Compression's teacher; 93.0 M parameters, 281 G MACs). Eight GPUs there.
    """
    return _gaugan(
        "gaugan-cityscapes",
        "arXiv:1903.07291 and arXiv:2003.08936, Cityscapes, full teacher",
        _training(100, 100, 2_975, 16),
        _streams(256, MAPS, aspect=2.0),
        labels=35,
        resolution=256,
        aspect=2.0,
        num_upsampling="more",
    )


def gaugan_cityscapes_mobile() -> Recipe:
    """The same with separable convolutions in gamma and beta."""
    base = gaugan_cityscapes()
    assert isinstance(base.task, SemanticConfig)
    generator = dataclasses.replace(base.task.generator, separable=True)
    return dataclasses.replace(
        base,
        name="gaugan-cityscapes-mobile",
        source="arXiv:2003.08936, GauGAN Cityscapes, mobile teacher",
        task=dataclasses.replace(base.task, generator=generator),
    )


def gaugan_coco() -> Recipe:
    """GauGAN on COCO-Stuff at 256 px, 118,287 pictures, batch 32, 100 epochs at one learning rate.

    183 labels, one of them for don't care, and edges. Pictures are 286 px before a random crop, as in SPADE's code. FID
    21.38, mIoU 38.78 published (97.5 M parameters, 191 G MACs). Four GPUs there.
    """
    return _gaugan(
        "gaugan-coco",
        "arXiv:1903.07291 and arXiv:2003.08936, COCO-Stuff, full teacher",
        _training(100, 0, 118_287, 32),
        _streams(256, MAPS, jitter=_jitter(256)),
        labels=183,
        resolution=256,
    )


# ---- for a CPU ------------------------------------------------------------------------------------------------------


def pix2pix_small(resolution: int = 128) -> Recipe:
    """For a CPU: pix2pix at 128 px with six blocks of width 32, PatchGAN of 64, batch 4, 5 + 5 epochs.

    Our own numbers but for the losses; six blocks are CycleGAN's for 128 px. 2,000 pairs (line art to colour) are 20k
    images.
    """
    task = PairedConfig(generator=ResnetConfig(width=32, num_blocks=6), discriminator=PatchConfig(channels=6, width=64))
    return Recipe(
        name="pix2pix-small",
        source="our own, for two CPU cores",
        data=_streams(resolution, jitter=_jitter(resolution)),
        task=task,
        optimisers={"generator": ADAM, "discriminator": ADAM},
        training=_training(5, 5, 2_000, 4, snapshot_images=2_000, hold_out=0.05),
    )


def cyclegan_small(resolution: int = 64) -> Recipe:
    """For a CPU: CycleGAN at 64 px with six blocks of width 32, discriminators of two layers, batch 4, 5 + 5 epochs.

    Our own numbers but for the losses: at 64 px patches of 34 pixels (two layers) are to the picture what those of 70
    are at 128. 2,000 pictures in the larger set are 20k images.
    """
    task = CycleConfig(
        generator=ResnetConfig(width=32, num_blocks=6),
        discriminator=PatchConfig(channels=3, width=64, num_layers=2),
    )
    return Recipe(
        name="cyclegan-small",
        source="our own, for two CPU cores",
        data=_streams(resolution, jitter=_jitter(resolution), pairing="unpaired"),
        task=task,
        optimisers={"generator": ADAM, "discriminator": ADAM},
        training=_training(5, 5, 2_000, 4, snapshot_images=2_000, hold_out=0.05),
    )


def gaugan_small(resolution: int = 64) -> Recipe:
    """For a CPU: GauGAN at 64 px with width 16, a discriminator of 32, batch 4, 10 + 10 epochs of 1,000 scenes.

    Our own numbers but for the losses and learning rates.
    """
    return _gaugan(
        "gaugan-small",
        "our own, for two CPU cores",
        _training(10, 10, 1_000, 4, snapshot_images=2_000, hold_out=0.05),
        _streams(resolution, MAPS),
        labels=16,
        resolution=resolution,
        width=16,
        judge_width=32,
    )
