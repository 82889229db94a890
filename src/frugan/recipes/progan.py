"""Recipes of ProGAN (Karras et al. 2018, arXiv:1710.10196): the paper's runs, its ablation, and one for a CPU.

Settings are those of the authors' paper code. Channels and classes follow the pictures; with classes the discriminator
learns to tell them apart (AC-GAN). Scores are quoted as published: frugan has not repeated these runs. SWD is times
1000, the mean over levels.
"""

import dataclasses

from frugan.augment.diffaugment import DiffAugmentConfig
from frugan.data.pictures import DataConfig
from frugan.models.progan import ProGANConfig, ProGANDiscriminatorConfig
from frugan.training.recipe import AdamConfig, EmaConfig, Recipe, TrainingConfig
from frugan.training.tasks.adversary import R1Config, WganGpConfig
from frugan.training.tasks.grow import GrowConfig, GrowthConfig

PAPER_BATCHES = {"256": 14, "512": 6, "1024": 3}
ONE_GPU_BATCHES = {"4": 128, "8": 128, "16": 128, "32": 64, "64": 32, "128": 16, "256": 8, "512": 4}
TICKS = {
    str(2**power): images for power, images in zip(range(2, 11), (160, 140, 120, 100, 80, 60, 40, 20, 10), strict=True)
}
SNAPSHOTS = {key: 1000 * images for key, images in TICKS.items()}
"""The authors' ticks: pictures between two grids."""

SMALL_WIDTHS = {4: 96, 8: 64, 16: 48, 32: 32, 64: 16, 128: 16}


def _paper(
    name: str,
    source: str,
    *,
    resolution: int,
    total_images: int,
    channel_base: int = 8192,
    channel_max: int = 512,
    z_dim: int = 512,
    phase_images: int = 800_000,
    target: float = 1.0,
    rampup_images: int = 40_000,
) -> Recipe:
    """The shared form: WGAN-GP with drift, Adam (0, .99) at 0.001, batch 16, weights averaged by .999 a step."""
    generator = ProGANConfig(resolution=resolution, channel_base=channel_base, channel_max=channel_max, z_dim=z_dim)
    discriminator = ProGANDiscriminatorConfig(resolution=resolution, channel_base=channel_base, channel_max=channel_max)
    task = GrowConfig(
        generator=generator,
        discriminator=discriminator,
        growth=GrowthConfig(stable_images=phase_images, fade_images=phase_images),
        gradient_penalty=WganGpConfig(target=target),
        rampup_images=rampup_images,
        batches=PAPER_BATCHES,
        snapshots=SNAPSHOTS,
    )
    adam = AdamConfig(lr=0.001)
    return Recipe(
        name=name,
        source=source,
        data={"images": DataConfig(resolution=resolution)},
        task=task,
        optimisers={"generator": adam, "discriminator": adam},
        training=TrainingConfig(
            batch=16, total_images=total_images, ema=EmaConfig(fixed=0.999), snapshot_images=40_000
        ),
    )


def _grown(recipe: Recipe) -> GrowConfig:
    assert isinstance(recipe.task, GrowConfig)
    return recipe.task


def progan(resolution: int | None = None) -> Recipe:
    """ProGAN for one GPU at the pictures' own size (256 where nobody says): the authors' later one-GPU settings.

    Batches from 128 at 4 px to 4 at 512 px and above, 600k images a phase, 12M in all. Published cost: two weeks on one
    V100 for CelebA-HQ at 1024 px. For a CPU there is `progan-small`.
    """
    side = resolution or 256
    base = _paper(
        "progan",
        "arXiv:1710.10196, the authors' later preset for one GPU",
        resolution=side,
        total_images=12_000_000,
        phase_images=600_000,
    )
    task = dataclasses.replace(
        _grown(base),
        discriminator=dataclasses.replace(_grown(base).discriminator, stddev_group=4),
        batches=ONE_GPU_BATCHES,
        lr_scales={"1024": 1.5},
    )
    return dataclasses.replace(base, task=task, training=dataclasses.replace(base.training, batch=4))


def celeba_hq() -> Recipe:
    """The paper's CelebA-HQ at 1024 px: 800k images a phase, 19M in all. FID 7.30 there, 7.79 when re-measured.

    Four days on eight V100 there; 96 hours on one P100 for the first 6.4M images.
    """
    source = "arXiv:1710.10196, CelebA-HQ"
    return _paper("progan-celeba-hq", source, resolution=1024, total_images=19_000_000)


def lsun() -> Recipe:
    """The paper's LSUN at 256 px: 800k images a phase, 20M in all. The authors did not mirror bedrooms and dogs."""
    return _paper("progan-lsun", "arXiv:1710.10196, LSUN", resolution=256, total_images=20_000_000)


def cifar() -> Recipe:
    """The paper's CIFAR-10: narrow networks, 400k images a phase, 20M in all, gradient target 750, no ramp-up.

    Inception score 8.80 without labels there (the best run).
    """
    return _paper(
        "progan-cifar",
        "arXiv:1710.10196, CIFAR-10",
        resolution=32,
        total_images=20_000_000,
        channel_base=4096,
        channel_max=128,
        z_dim=128,
        phase_images=400_000,
        target=750.0,
        rampup_images=0,
    )


# ---- the ablation ---------------------------------------------------------------------------------------------------


def _row(letter: str, what: str) -> Recipe:
    """Row g of table 1, 128 px with narrow networks and 10M images; the others change it."""
    return _paper(
        f"progan-ablation-{letter}",
        f"arXiv:1710.10196, table 1 ({letter.removesuffix('-star')}{'*' if '-' in letter else ''}): {what}",
        resolution=128,
        total_images=10_000_000,
        channel_base=2048,
        rampup_images=0,
    )


def _changed(
    recipe: Recipe,
    *,
    generator: dict[str, object] | None = None,
    discriminator: dict[str, object] | None = None,
    lr: float | None = None,
) -> Recipe:
    task = _grown(recipe)
    task = dataclasses.replace(
        task,
        generator=dataclasses.replace(task.generator, **(generator or {})),  # type: ignore[arg-type]
        discriminator=dataclasses.replace(task.discriminator, **(discriminator or {})),  # type: ignore[arg-type]
    )
    optimisers = recipe.optimisers
    if lr is not None:
        optimisers = {name: dataclasses.replace(adam, lr=lr) for name, adam in optimisers.items()}
    return dataclasses.replace(recipe, task=task, optimisers=optimisers)


def _gulrajani(letter: str, what: str, batch: int) -> Recipe:
    """Rows a to c: the networks and settings of Gulrajani et al. 2017, five steps of the discriminator to one."""
    recipe = _changed(
        _row(letter, what),
        generator={
            **{"equalized": False, "z_dim": 128, "latent": "normal"},
            **{"activation": "relu", "norm": "batch", "tanh": True},
        },
        discriminator={"equalized": False, "norm": "layer", "stddev_features": 0},
    )
    task = dataclasses.replace(_grown(recipe), gradient_penalty=WganGpConfig(drift=0.0), discriminator_steps=5)
    adam = AdamConfig(lr=0.0001, beta2=0.9)
    training = dataclasses.replace(
        recipe.training, batch=batch, ema=EmaConfig(fixed=round(0.999 ** (5 * batch / 16), 6))
    )
    return dataclasses.replace(
        recipe, task=task, optimisers={"generator": adam, "discriminator": adam}, training=training
    )


def ablation_a() -> Recipe:
    """Table 1 (a), the baseline of Gulrajani et al. 2017 without growing. SWD 9.28 on CelebA, 11.25 on bedrooms."""
    recipe = _gulrajani("a", "WGAN-GP without growing", 64)
    return dataclasses.replace(recipe, task=dataclasses.replace(_grown(recipe), growth=None))


def ablation_b() -> Recipe:
    """Table 1 (b), a with growing. SWD 4.28 on CelebA, 7.60 on bedrooms."""
    return _gulrajani("b", "growing", 64)


def ablation_c() -> Recipe:
    """Table 1 (c), b with batches of 16 instead of 64. SWD 46.23 on CelebA, 49.52 on bedrooms."""
    return _gulrajani("c", "small batches", 16)


def ablation_d() -> Recipe:
    """Table 1 (d), revised settings: no batch and layer norm, one step each. SWD 8.07 on CelebA, 6.54 on bedrooms."""
    return _changed(
        _row("d", "revised settings"),
        generator={"equalized": False, "norm": None},
        discriminator={"equalized": False, "stddev_features": 0},
        lr=0.0001,
    )


def ablation_e_star() -> Recipe:
    """Table 1 (e*), d with minibatch discrimination. SWD 9.84 on CelebA, 8.43 on bedrooms."""
    return _changed(
        _row("e-star", "minibatch discrimination"),
        generator={"equalized": False, "norm": None},
        discriminator={"equalized": False, "stddev_features": 0, "discrimination_kernels": 100},
        lr=0.0001,
    )


def ablation_e() -> Recipe:
    """Table 1 (e), d with the minibatch standard deviation. SWD 7.04 on CelebA, 6.48 on bedrooms."""
    return _changed(
        _row("e", "minibatch deviation"),
        generator={"equalized": False, "norm": None},
        discriminator={"equalized": False},
        lr=0.0001,
    )


def ablation_f() -> Recipe:
    """Table 1 (f), e with equalised learning rates, at 0.001. SWD 4.39 on CelebA, 4.02 on bedrooms."""
    return _changed(_row("f", "equalised learning rate"), generator={"norm": None})


def ablation_g() -> Recipe:
    """Table 1 (g), f with pixel norm. SWD 3.56 on CelebA, 4.01 on bedrooms."""
    return _row("g", "pixel norm")


def ablation_h() -> Recipe:
    """Table 1 (h), g with full networks to convergence. SWD 2.96 on CelebA, 3.31 on bedrooms.

    The length is our choice, that of LSUN at 256 px.
    """
    recipe = _row("h", "converged")
    recipe = _changed(recipe, generator={"channel_base": 8192}, discriminator={"channel_base": 8192})
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, total_images=20_000_000))


# ---- for a CPU ------------------------------------------------------------------------------------------------------


def small(resolution: int = 64) -> Recipe:
    """For a CPU: grows from 4 px to 32 or 64 with narrow networks, logistic loss with lazy R1, DiffAugment.

    Our own numbers: 8k images a phase, 90k in all; batches of 8 from 32 px on, where steps count for more than images;
    weights averaged by half-life as in `small`. Widths are small at low resolutions, so that early stages are
    quick: with those of `small` 8 px was only three times as fast as 64 px (docs/LOG.md).
    """
    if resolution not in SMALL_WIDTHS:
        raise ValueError(f"the small recipe is for 8, 16, 32, 64 or 128 px, got {resolution}")
    widths = tuple(width for side, width in SMALL_WIDTHS.items() if side <= resolution)
    task = GrowConfig(
        generator=ProGANConfig(resolution=resolution, z_dim=128, widths=widths),
        discriminator=ProGANDiscriminatorConfig(resolution=resolution, widths=widths, stddev_group=4),
        growth=GrowthConfig(stable_images=8_000, fade_images=8_000),
        loss="logistic",
        r1=R1Config(gamma=0.05 * (resolution / 64) ** 2),
        augment=DiffAugmentConfig(),
        rampup_images=0,
        batches={"32": 8, "64": 8, "128": 8},
        snapshots={"4": 4_000, "8": 4_000, "16": 4_000},
    )
    adam = AdamConfig(lr=0.002)
    return Recipe(
        name="progan-small",
        source="our own, for two CPU cores",
        data={"images": DataConfig(resolution=resolution)},
        task=task,
        optimisers={"generator": adam, "discriminator": adam},
        training=TrainingConfig(
            batch=16,
            total_images=90_000,
            ema=EmaConfig(halflife_images=4_000),
            snapshot_images=8_000,
            channels_last=True,
            hold_out=0.1,
        ),
    )
