"""Recipes of StyleGAN2, StyleGAN2-ADA and DiffAugment.

Sources: Karras et al. 2020 (arXiv:1912.04958), Karras et al. 2020 (arXiv:2006.06676) and the authors' PyTorch settings;
Zhao et al. 2020 (arXiv:2006.10738). Learning rates are those before the correction for lazy regularisation, which
the task applies. Resolution, channels and classes follow the pictures.
"""

import dataclasses

from frugan.augment.ada import AdaConfig, AdaControllerConfig
from frugan.augment.diffaugment import DiffAugmentConfig
from frugan.data.pictures import DataConfig
from frugan.models.stylegan2 import StyleGAN2Config
from frugan.models.stylegan2_discriminator import StyleGAN2DiscriminatorConfig
from frugan.training.recipe import AdamConfig, EmaConfig, Recipe, TrainingConfig
from frugan.training.tasks.adversary import R1Config
from frugan.training.tasks.gan import GanConfig, PathLengthConfig

SMALL_WIDTHS = {4: 256, 8: 96, 16: 48, 32: 24, 64: 16, 128: 16}


def _recipe(
    name: str,
    source: str,
    *,
    resolution: int,
    batch: int,
    lr: float,
    r1_gamma: float,
    channel_base: int,
    total_images: int,
    ema_images: float,
    ema_rampup: float | None,
    mapping_layers: int,
    stddev_group: int = 4,
) -> Recipe:
    """The shared form: logistic loss, lazy R1 every 16, path length every 4, style mixing .9, Adam (0, .99)."""
    generator = StyleGAN2Config(
        resolution=resolution, channel_base=channel_base, mapping_layers=mapping_layers, conv_clamp=256.0
    )
    discriminator = StyleGAN2DiscriminatorConfig(
        resolution=resolution, channel_base=channel_base, stddev_group=stddev_group, conv_clamp=256.0
    )
    task = GanConfig(
        generator=generator,
        discriminator=discriminator,
        r1=R1Config(gamma=r1_gamma),
        path_length=PathLengthConfig(),
    )
    adam = AdamConfig(lr=lr)
    return Recipe(
        name=name,
        source=source,
        data={"images": DataConfig(resolution=resolution)},
        task=task,
        optimisers={"generator": adam, "discriminator": adam},
        training=TrainingConfig(
            batch=batch,
            total_images=total_images,
            ema=EmaConfig(halflife_images=ema_images, rampup=ema_rampup),
            snapshot_images=50_000,
        ),
    )


def _gan(recipe: Recipe) -> GanConfig:
    assert isinstance(recipe.task, GanConfig)
    return recipe.task


def config_f() -> Recipe:
    """StyleGAN2 config F as the ADA code runs it (`stylegan2`): FFHQ 1024 in the paper, FID 2.84; 8 GPUs there."""
    return _recipe(
        "stylegan2",
        "arXiv:1912.04958 config F; settings of the ADA code's 'stylegan2'",
        resolution=1024,
        batch=32,
        lr=0.002,
        r1_gamma=10.0,
        channel_base=32768,
        total_images=25_000_000,
        ema_images=10_000,
        ema_rampup=None,
        mapping_layers=8,
    )


def paper256() -> Recipe:
    """StyleGAN2-ADA `paper256`: 25M images, batch 64, half the channels, gamma 1."""
    return _recipe(
        "stylegan2-256",
        "arXiv:2006.06676, 'paper256'",
        resolution=256,
        batch=64,
        lr=0.0025,
        r1_gamma=1.0,
        channel_base=16384,
        total_images=25_000_000,
        ema_images=20_000,
        ema_rampup=None,
        mapping_layers=8,
        stddev_group=8,
    )


def paper512() -> Recipe:
    """StyleGAN2-ADA `paper512`: 25M images, batch 64, gamma 0.5."""
    return _recipe(
        "stylegan2-512",
        "arXiv:2006.06676, 'paper512'",
        resolution=512,
        batch=64,
        lr=0.0025,
        r1_gamma=0.5,
        channel_base=32768,
        total_images=25_000_000,
        ema_images=20_000,
        ema_rampup=None,
        mapping_layers=8,
        stddev_group=8,
    )


def paper1024() -> Recipe:
    """StyleGAN2-ADA `paper1024`: 25M images, batch 32, gamma 2."""
    return _recipe(
        "stylegan2-1024",
        "arXiv:2006.06676, 'paper1024'",
        resolution=1024,
        batch=32,
        lr=0.002,
        r1_gamma=2.0,
        channel_base=32768,
        total_images=25_000_000,
        ema_images=10_000,
        ema_rampup=None,
        mapping_layers=8,
    )


def cifar() -> Recipe:
    """StyleGAN2-ADA `cifar` without ADA: 100M images, batch 64, no path length, no mixing, plain discriminator."""
    base = _recipe(
        "stylegan2-cifar",
        "arXiv:2006.06676, 'cifar'",
        resolution=32,
        batch=64,
        lr=0.0025,
        r1_gamma=0.01,
        channel_base=32768,
        total_images=100_000_000,
        ema_images=500_000,
        ema_rampup=0.05,
        mapping_layers=2,
        stddev_group=32,
    )
    discriminator = dataclasses.replace(_gan(base).discriminator, architecture="orig")
    task = dataclasses.replace(_gan(base), path_length=None, style_mixing=0.0, discriminator=discriminator)
    return dataclasses.replace(base, task=task)


def auto_rules(resolution: int = 256) -> Recipe:
    """StyleGAN2-ADA's `auto` rules for one device: batch, channels, learning rate, gamma and EMA from the resolution.

    B = max(min(floor(4096 / R), 32), 1), gamma = 0.0002 R^2 / B, EMA half-life 10 B / 32 thousand images, mapping of
    two layers, half the channels below 512 px. Published cost: 21 s per 1000 images at 256 px on one V100.
    """
    batch = max(min(4096 // resolution, 32), 1)
    return _recipe(
        "stylegan2-auto",
        "arXiv:2006.06676, 'auto' for one device",
        resolution=resolution,
        batch=batch,
        lr=0.002 if resolution >= 1024 else 0.0025,
        r1_gamma=0.0002 * resolution**2 / batch,
        channel_base=32768 if resolution >= 512 else 16384,
        total_images=25_000_000,
        ema_images=10_000 * batch / 32,
        ema_rampup=0.05,
        mapping_layers=2,
        stddev_group=min(batch, 4),
    )


def relativistic() -> Recipe:
    """The `auto` rules with R3GAN's loss: relativistic pairing with R1 and R2 in every step (Huang et al. 2024).

    The networks stay StyleGAN2's; beta1 0 as there. No published number for this combination.
    """
    base = auto_rules()
    r1 = R1Config(gamma=2.0, gamma_fake=2.0, every=1)
    task = dataclasses.replace(_gan(base), loss="relativistic", r1=r1, path_length=None)
    return dataclasses.replace(base, name="stylegan2-relativistic", source="arXiv:2501.05441, loss only", task=task)


def _ada(base: Recipe, name: str, source: str, ramp_images: int = 500_000) -> Recipe:
    """With ADA as the paper has it: the set bgc, target 0.6, p from 0."""
    augment = AdaConfig(controller=AdaControllerConfig(target=0.6, every=4, ramp_images=ramp_images))
    return dataclasses.replace(base, name=name, source=source, task=dataclasses.replace(_gan(base), augment=augment))


def ada_auto(resolution: int = 256) -> Recipe:
    """StyleGAN2-ADA as its code runs by default: the `auto` rules with ADA. Helps below about 30,000 pictures.

    Published cost: 22 to 24 s per 1000 images at 256 px on one V100.
    """
    return _ada(auto_rules(resolution), "stylegan2-ada", "arXiv:2006.06676, 'auto' with ADA")


def ada256() -> Recipe:
    """StyleGAN2-ADA `paper256` with ADA. FFHQ at 256 px with 1k pictures: FID 21.29 there."""
    return _ada(paper256(), "stylegan2-ada-256", "arXiv:2006.06676, 'paper256' with ADA")


def ada_cifar() -> Recipe:
    """StyleGAN2-ADA `cifar` with ADA. CIFAR-10 with classes: FID 2.42 there, 5.59 without ADA."""
    return _ada(cifar(), "stylegan2-ada-cifar", "arXiv:2006.06676, 'cifar' with ADA")


def ada_transfer(resolution: int = 256) -> Recipe:
    """StyleGAN2-ADA going on from a trained model: p moves five times as fast, the average has no warm-up.

    5M images, as StyleGAN3's authors took for MetFaces from FFHQ at 1024 px.
    """
    base = ada_auto(resolution)
    training = dataclasses.replace(
        base.training, total_images=5_000_000, ema=dataclasses.replace(base.training.ema, rampup=None)
    )
    base = dataclasses.replace(base, training=training)
    return _ada(base, "stylegan2-ada-transfer", "arXiv:2006.06676, transfer learning", ramp_images=100_000)


def _diffaugment(base: Recipe, name: str, source: str, policy: str) -> Recipe:
    """As the DiffAugment authors train: R1 in every step, no path length."""
    r1 = dataclasses.replace(_gan(base).r1 or R1Config(gamma=10.0), every=1)
    task = dataclasses.replace(_gan(base), r1=r1, path_length=None, augment=DiffAugmentConfig(policy=policy))
    return dataclasses.replace(base, name=name, source=source, task=task)


def diffaugment_100_shot() -> Recipe:
    """DiffAugment on 100 pictures at 256 px: 300k images, batch 16, gamma 10. Obama FID 46.87, panda 12.06 there."""
    base = _recipe(
        "",
        "",
        resolution=256,
        batch=16,
        lr=0.002,
        r1_gamma=10.0,
        channel_base=16384,
        total_images=300_000,
        ema_images=10_000,
        ema_rampup=None,
        mapping_layers=8,
    )
    base = dataclasses.replace(base, training=dataclasses.replace(base.training, snapshot_images=10_000))
    source = "arXiv:2006.10738, low-shot generation"
    recipe = _diffaugment(base, "diffaugment-100-shot", source, "color,translation,cutout")
    return dataclasses.replace(recipe, data={"images": DataConfig(resolution=256, flip="on")})


def diffaugment_cifar() -> Recipe:
    """DiffAugment on CIFAR with 10 or 20 % of the data: 25M images, batch 32, gamma 0.1. C10 10 %: FID 14.50 there."""
    base = _recipe(
        "",
        "",
        resolution=32,
        batch=32,
        lr=0.002,
        r1_gamma=0.1,
        channel_base=2048,
        total_images=25_000_000,
        ema_images=1_000_000,
        ema_rampup=None,
        mapping_layers=8,
    )
    source = "arXiv:2006.10738, CIFAR with StyleGAN2"
    return _diffaugment(base, "diffaugment-cifar", source, "color,translation,cutout")


def diffaugment_256() -> Recipe:
    """DiffAugment on 1k to 30k pictures at 256 px: 25M images, batch 32, gamma 1. FFHQ 1k: FID 25.66 there."""
    base = _recipe(
        "",
        "",
        resolution=256,
        batch=32,
        lr=0.002,
        r1_gamma=1.0,
        channel_base=8192,
        total_images=25_000_000,
        ema_images=10_000,
        ema_rampup=None,
        mapping_layers=8,
    )
    return _diffaugment(base, "diffaugment-256", "arXiv:2006.10738, FFHQ and LSUN", "color,translation,cutout")


def small(resolution: int = 64) -> Recipe:
    """For a CPU: about 1.2M + 2.1M parameters at 64 px, DiffAugment, lazy R1, batch 16. The bundled model's networks.

    Our own numbers: widths that keep the work per resolution even, gamma by the `auto` rule, no path length (a quarter
    of the time), EMA half-life 10k images.
    """
    resolutions = [r for r in (4, 8, 16, 32, 64, 128) if r <= resolution]
    if resolution not in SMALL_WIDTHS:
        raise ValueError(f"the small recipe is for 8, 16, 32, 64 or 128 px, got {resolution}")
    widths = [SMALL_WIDTHS[r] for r in resolutions]
    generator = StyleGAN2Config(
        resolution=resolution,
        z_dim=128,
        w_dim=128,
        channel_base=1024,
        channel_max=256,
        widths=tuple(width for width in widths for _ in range(2)),
        mapping_layers=4,
        num_half_resolutions=4,
    )
    discriminator = StyleGAN2DiscriminatorConfig(
        resolution=resolution, channel_base=1024, channel_max=256, widths=tuple(widths)
    )
    task = GanConfig(
        generator=generator,
        discriminator=discriminator,
        r1=R1Config(gamma=0.05 * (resolution / 64) ** 2),
        augment=DiffAugmentConfig(),
    )
    adam = AdamConfig(lr=0.0025)
    return Recipe(
        name="small",
        source="our own, for two CPU cores",
        data={"images": DataConfig(resolution=resolution)},
        task=task,
        optimisers={"generator": adam, "discriminator": adam},
        training=TrainingConfig(
            batch=16,
            total_images=300_000,
            ema=EmaConfig(halflife_images=10_000),
            snapshot_images=10_000,
            channels_last=True,
            hold_out=0.1,
        ),
    )


def few_shot(resolution: int = 64) -> Recipe:
    """Going on from a trained model with few pictures: everything trains, DiffAugment, batch 8 for many small steps.

    Our own numbers (see docs/LOG.md); with `--set task.freeze_discriminator=N` it is Freeze-D, with
    `--set task.train=scale_shift` scale and shift only.
    """
    base = small(resolution)
    return dataclasses.replace(
        base,
        name="few-shot",
        source="our own, on TransferGAN + DiffAugment (arXiv:2006.10738, table 4)",
        training=dataclasses.replace(
            base.training,
            batch=8,
            total_images=20_000,
            snapshot_images=2_000,
            ema=EmaConfig(halflife_images=1_000, rampup=None),
        ),
    )
