"""Recipes of class-conditional GANs: ReACGAN, those it is compared with, and their small forms for a CPU.

Sources: Kang et al. 2021, "Rebooting ACGAN" (arXiv:2111.01118), and the settings its authors published with
PyTorch-StudioGAN; BigGAN (arXiv:1809.11096); ContraGAN (arXiv:2006.12681). `total_images` counts real pictures: the
authors' generator steps times the batch times the discriminator's steps. Scores are quoted as published (features of
the TensorFlow Inception, standing statistics): frugan has not repeated these runs. Resolution, channels and classes
follow the pictures; where a resolution differs, the published widths of that size are taken.

Deviations, in all of them: spectral norms follow the weights once an iteration; an average of the weights is kept by
iterations, as there, also while it only copies them.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from frugan.augment.ada import AdaConfig, AdaControllerConfig
from frugan.augment.diffaugment import DiffAugmentConfig
from frugan.data.pictures import DataConfig
from frugan.models.biggan import BigGANConfig, BigGANDiscriminatorConfig
from frugan.models.heads import ClassifierHead, EmbeddingHead, HeadConfig, MultiHingeHead, ProjectionHead
from frugan.training.recipe import AdamConfig, EmaConfig, Recipe, TrainingConfig
from frugan.training.tasks.adversary import LeCamConfig, WganGpConfig
from frugan.training.tasks.classes import ClassesConfig
from frugan.training.tasks.conditioning import (
    ConditioningConfig,
    ContrastiveConfig,
    CrossEntropyConfig,
    D2DConfig,
    MultiHingeConfig,
)
from frugan.training.tasks.terms import ConsistencyConfig, TermsConfig

EMA_DECAY = 0.9999
SCORED_STEPS = 2000
"""How often the authors score, in steps of the generator."""
REACGAN = "arXiv:2111.01118"


def _adam(lr: float, beta1: float = 0.0, beta2: float = 0.999) -> AdamConfig:
    return AdamConfig(lr=lr, beta1=beta1, beta2=beta2, eps=1e-6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Steps:
    """A training as the authors count it: `generator` steps, before `ema_start` of which nothing is averaged."""

    generator: int
    batch: int
    discriminator: int = 1
    ema_start: int = 0
    accumulate: int = 1

    @property
    def each(self) -> int:
        """The real pictures of one step of the generator."""
        return self.batch * self.accumulate * self.discriminator

    def training(self, **changes: Any) -> TrainingConfig:
        """As settings. Where gradients are accumulated, `micro_batch` keeps the relations within each part."""
        ema = EmaConfig(fixed=EMA_DECAY, rampup=None, start_images=self.ema_start * self.each, buffers=True)
        settings: dict[str, Any] = {
            "batch": self.batch * self.accumulate,
            "micro_batch": self.batch if self.accumulate > 1 else None,
            "total_images": self.generator * self.each,
            "snapshot_images": SCORED_STEPS * self.each,
            "ema": ema,
        }
        return TrainingConfig(**(settings | changes))


def _ladder(
    name: str,
    source: str,
    steps: _Steps,
    adams: tuple[AdamConfig, AdamConfig],
    *,
    resolution: int,
    num_classes: int,
    width: int,
    z_dim: int,
    attention: tuple[int, ...],
    head: HeadConfig | None,
    conditioning: ConditioningConfig | None = None,
    generator: dict[str, Any] | None = None,
    discriminator: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
) -> Recipe:
    """The shared form: hinge loss, spectral norms in both networks, classes drawn uniformly, mirrored pictures."""
    both: dict[str, Any] = {"resolution": resolution, "num_classes": num_classes if head else 0, "width": width}
    both["attention"] = attention
    settings = ClassesConfig(
        generator=BigGANConfig(**(both | {"z_dim": z_dim} | (generator or {}))),
        discriminator=BigGANDiscriminatorConfig(**(both | {"head": head} | (discriminator or {}))),
        conditioning=conditioning,
        discriminator_steps=steps.discriminator,
        **(task or {}),
    )
    labels = {} if head else {"labels": "none"}
    return Recipe(
        name=name,
        source=source,
        data={"images": DataConfig(resolution=resolution, **labels)},  # type: ignore[arg-type]
        task=settings,
        optimisers={"generator": adams[0], "discriminator": adams[1]},
        training=steps.training(),
    )


def changed(recipe: Recipe, name: str, task: Mapping[str, Any], images: float = 1.0) -> Recipe:
    """A variant: these other settings of the task, `images` times as long."""
    total = round(recipe.training.total_images * images)
    return dataclasses.replace(
        recipe,
        name=name,
        task=dataclasses.replace(recipe.task, **task),
        training=dataclasses.replace(recipe.training, total_images=total),
    )


# ---- CIFAR: 32 px, 10 or 100 classes --------------------------------------------------------------------------------

_CIFAR_LR = 0.0002 * math.sqrt(2)
_CIFAR_STEPS = _Steps(generator=100_000, batch=128, discriminator=5, ema_start=1_000)


def _cifar(
    name: str, source: str, head: HeadConfig | None, conditioning: ConditioningConfig | None, **more: Any
) -> Recipe:
    """BigGAN at 32 px: five steps of the discriminator, Adam (.5, .999) at 0.0002 sqrt(2) for both, batch 128."""
    adam = _adam(_CIFAR_LR, beta1=0.5)
    settings: dict[str, Any] = {"width": 96, "z_dim": 80, "attention": (16,)}
    return _ladder(
        name,
        source,
        more.pop("steps", _CIFAR_STEPS),
        (adam, adam),
        resolution=32,
        num_classes=10,
        head=head,
        conditioning=conditioning,
        **(settings | more),
    )


def reacgan_cifar() -> Recipe:
    """ReACGAN on CIFAR10 or CIFAR100. CIFAR10: FID 3.87, recall .62 published, 26 hours on a TITAN RTX."""
    d2d = D2DConfig(weight=0.5, temperature=0.5, margin=0.98)
    return _cifar("reacgan-cifar", f"{REACGAN}, CIFAR10 and CIFAR100", EmbeddingHead(dim=512), d2d)


def reacgan_cifar_diffaugment() -> Recipe:
    """The same with DiffAugment, twice as long. CIFAR10: FID 2.64 published, 49 hours on a TITAN RTX."""
    return changed(reacgan_cifar(), "reacgan-cifar-diffaugment", {"augment": DiffAugmentConfig()}, images=2)


def reacgan_cifar_cr() -> Recipe:
    """The same with consistency regularisation of weight 10. CIFAR10: FID 7.18 published, against 10,000 pictures."""
    terms = TermsConfig(consistency=ConsistencyConfig(reals=10.0))
    return changed(reacgan_cifar(), "reacgan-cifar-cr", {"terms": terms})


def reacgan_cifar_ada() -> Recipe:
    """The same with ADA (bgc, target .7), the logistic loss and no mirroring, four times as long."""
    controller = AdaControllerConfig(target=0.7, every=4, ramp_images=500_000)
    ada = AdaConfig(controller=controller)
    recipe = changed(reacgan_cifar(), "reacgan-cifar-ada", {"augment": ada, "loss": "logistic"}, images=4)
    images = dataclasses.replace(recipe.data["images"], flip="off")
    return dataclasses.replace(recipe, data={"images": images})


def reacgan_cifar_lecam() -> Recipe:
    """The same with LeCam regularisation of weight .3 from step 1,000 on, twice as long."""
    lecam = LeCamConfig(weight=0.3, decay=0.99, start_images=1_000 * _CIFAR_STEPS.each)
    return changed(reacgan_cifar(), "reacgan-cifar-lecam", {"lecam": lecam}, images=2)


def reacgan_cifar_deep() -> Recipe:
    """ReACGAN on BigGAN-deep in its published form, width 128, z of 128 numbers that goes everywhere."""
    return _cifar(
        "reacgan-cifar-deep",
        f"{REACGAN}, CIFAR10, BigGAN-deep",
        EmbeddingHead(dim=512),
        D2DConfig(weight=0.5, temperature=0.5, margin=0.98),
        width=128,
        z_dim=128,
        generator={"blocks": "deep_legacy", "latent": "everywhere"},
        discriminator={"blocks": "deep_legacy"},
    )


def biggan_cifar() -> Recipe:
    """BigGAN (projection) on CIFAR10, batch 64, Adam at 0.0002. FID 4.16, recall .65 published by StudioGAN."""
    steps = dataclasses.replace(_CIFAR_STEPS, batch=64)
    recipe = _cifar("biggan-cifar", "arXiv:1809.11096, StudioGAN's CIFAR10", ProjectionHead(), None, steps=steps)
    return _at_rate(recipe, 0.0002)


def contragan_cifar() -> Recipe:
    """ContraGAN (2C, temperature 1) on CIFAR10, batch 64, Adam at 0.0002. FID 6.01 published by StudioGAN."""
    source, two_c = "arXiv:2006.12681, StudioGAN's CIFAR10", ContrastiveConfig(weight=1.0, temperature=1.0)
    steps = dataclasses.replace(_CIFAR_STEPS, batch=64)
    return _at_rate(_cifar("contragan-cifar", source, EmbeddingHead(dim=512), two_c, steps=steps), 0.0002)


def mhgan_cifar() -> Recipe:
    """MHGAN (multi-hinge of weight .05, feature matching of 1) on CIFAR10, batch 64. FID 3.95 by StudioGAN."""
    steps = dataclasses.replace(_CIFAR_STEPS, batch=64)
    recipe = _cifar(
        "mhgan-cifar",
        "arXiv:1912.04216, StudioGAN's CIFAR10",
        MultiHingeHead(),
        MultiHingeConfig(weight=0.05),
        steps=steps,
        task={"terms": TermsConfig(feature_matching=1.0)},
    )
    return _at_rate(recipe, 0.0002)


def _at_rate(recipe: Recipe, lr: float) -> Recipe:
    adams = {name: dataclasses.replace(adam, lr=lr) for name, adam in recipe.optimisers.items()}
    return dataclasses.replace(recipe, optimisers=adams)


def _resnet(
    name: str, source: str, head: HeadConfig | None, conditioning: ConditioningConfig | None, **more: Any
) -> Recipe:
    """SNGAN's residual networks at 32 px: width 64, z of 128 numbers into the first layer, one-hot classes, no average.

    Batch 64, five steps of the discriminator, Adam (.5, .999) at 0.0002.
    """
    generator = {"latent": "first", "shared_dim": None, "spectral": False}
    settings: dict[str, Any] = {"width": 64, "z_dim": 128, "attention": (), "generator": generator}
    steps = _Steps(generator=100_000, batch=64, discriminator=5)
    recipe = _cifar(name, source, head, conditioning, steps=steps, **(settings | more))
    plain = dataclasses.replace(recipe.training, ema=EmaConfig(halflife_images=0.0, rampup=None))
    return dataclasses.replace(_at_rate(recipe, 0.0002), training=plain)


def acgan_cifar() -> Recipe:
    """ACGAN on SNGAN's networks, the case that ReACGAN mends. CIFAR10: FID 33.39 at its best, then it collapses."""
    batch_norm = {"norm": "batch"}
    source = "arXiv:1610.09585, StudioGAN's ACGAN-Mod on CIFAR10"
    return _resnet("acgan-cifar", source, ClassifierHead(), CrossEntropyConfig(weight=1.0), discriminator=batch_norm)


def sngan_cifar() -> Recipe:
    """SNGAN with projection on CIFAR10. FID 9.01 published by StudioGAN."""
    return _resnet("sngan-cifar", "arXiv:1802.05957, StudioGAN's CIFAR10", ProjectionHead(), None)


def sagan_cifar() -> Recipe:
    """SAGAN on CIFAR10: attention at 16 px, spectral norms in the generator too. FID 10.35 published by StudioGAN."""
    generator = {"latent": "first", "shared_dim": None, "spectral": True}
    source = "arXiv:1805.08318, StudioGAN's CIFAR10"
    return _resnet("sagan-cifar", source, ProjectionHead(), None, attention=(16,), generator=generator)


def wgan_gp_cifar() -> Recipe:
    """WGAN-GP's residual networks on CIFAR10, without classes. FID 25.85 (53.98 in a later run) by StudioGAN.

    As there the critic has batch normalisation, which the WGAN-GP paper advises against.
    """
    task = {"loss": "wasserstein", "gradient_penalty": WganGpConfig(weight=10.0, drift=0.0)}
    source = "arXiv:1704.00028, StudioGAN's CIFAR10"
    return _resnet("wgan-gp-cifar", source, None, None, discriminator={"norm": "batch"}, task=task)


# ---- larger sets ----------------------------------------------------------------------------------------------------


def reacgan_tiny_imagenet() -> Recipe:
    """ReACGAN on Tiny-ImageNet, or Baby-, Papa- and Grandpa-ImageNet: 64 px, batch 1024, two speeds.

    FID 26.6 on Tiny-ImageNet published, 14.4 with DiffAugment, both against 10,000 pictures.
    """
    return _ladder(
        "reacgan-tiny-imagenet",
        f"{REACGAN}, Tiny-ImageNet",
        _Steps(generator=100_000, batch=1024, ema_start=20_000),
        (_adam(1e-4), _adam(4e-4)),
        resolution=64,
        num_classes=200,
        width=80,
        z_dim=100,
        attention=(32,),
        head=EmbeddingHead(dim=768),
        conditioning=D2DConfig(weight=0.75, temperature=0.75, margin=1.0),
    )


def reacgan_tiny_imagenet_diffaugment() -> Recipe:
    """The same with DiffAugment: FID 14.35 published."""
    return changed(reacgan_tiny_imagenet(), "reacgan-tiny-imagenet-diffaugment", {"augment": DiffAugmentConfig()})


def reacgan_cub200() -> Recipe:
    """ReACGAN on the birds of CUB-200: 128 px, batch 256, two steps of the discriminator."""
    return _ladder(
        "reacgan-cub200",
        f"{REACGAN}, CUB200",
        _Steps(generator=40_000, batch=256, discriminator=2, ema_start=4_000),
        (_adam(5e-5), _adam(2e-4)),
        resolution=128,
        num_classes=200,
        width=80,
        z_dim=120,
        attention=(64,),
        head=EmbeddingHead(dim=1024),
        conditioning=D2DConfig(weight=0.25, temperature=0.25, margin=0.95),
    )


def _imagenet(name: str, steps: _Steps, d2d: D2DConfig, **more: Any) -> Recipe:
    settings: dict[str, Any] = {"width": 96, "z_dim": 120, "attention": (64,)}
    return _ladder(
        name,
        f"{REACGAN}, ImageNet",
        steps,
        (_adam(5e-5), _adam(2e-4)),
        resolution=128,
        num_classes=1000,
        head=EmbeddingHead(dim=2048),
        conditioning=d2d,
        **(settings | more),
    )


_IMAGENET_256 = _Steps(generator=500_000, batch=256, discriminator=2, ema_start=20_000)
_IMAGENET_2048 = _Steps(generator=200_000, batch=512, accumulate=4, discriminator=2, ema_start=20_000)
SHARP = D2DConfig(weight=0.5, temperature=0.25, margin=0.90)
"""ImageNet's, but for the ladder with batch 256."""
_DEEP: dict[str, Any] = {
    "width": 128,
    "z_dim": 128,
    "generator": {"blocks": "deep_legacy", "latent": "everywhere"},
    "discriminator": {"blocks": "deep_legacy"},
}


def reacgan_imagenet_256() -> Recipe:
    """ReACGAN on ImageNet at 128 px, batch 256. FID 15.65, recall .38 published (BigGAN: 20.57, .65)."""
    d2d = D2DConfig(weight=1.0, temperature=0.5, margin=0.98)
    return _imagenet("reacgan-imagenet-256", _IMAGENET_256, d2d)


def reacgan_imagenet_2048() -> Recipe:
    """The same with batch 2048, in parts of 512. FID 8.19, recall .42 published; a month of eight V100."""
    return _imagenet("reacgan-imagenet-2048", _IMAGENET_2048, SHARP)


def reacgan_imagenet_deep_256() -> Recipe:
    """ReACGAN on BigGAN-deep, ImageNet at 128 px, batch 256, 200k steps."""
    steps = dataclasses.replace(_IMAGENET_256, generator=200_000)
    return _imagenet("reacgan-imagenet-deep-256", steps, SHARP, **_DEEP)


def reacgan_imagenet_deep_2048() -> Recipe:
    """The same with batch 2048, in parts of 512, 300k steps. DiffAugment was tried too: `--augment diffaugment`."""
    steps = dataclasses.replace(_IMAGENET_2048, generator=300_000)
    return _imagenet("reacgan-imagenet-deep-2048", steps, SHARP, **_DEEP)


# ---- for your own pictures, and for a CPU ---------------------------------------------------------------------------


def reacgan(resolution: int = 64) -> Recipe:
    """ReACGAN for your own classes on a GPU: the networks of Tiny-ImageNet's recipe, batch 64, DiffAugment, 3M images.

    Our own choice for thousands of pictures, not thousands of thousands: Adam (0, .999) at 0.0001 and 0.0004, two steps
    of the discriminator. Not tuned yet.
    """
    base = reacgan_tiny_imagenet_diffaugment()
    assert isinstance(base.task, ClassesConfig)
    steps = _Steps(generator=24_000, batch=64, discriminator=2)
    task = dataclasses.replace(
        base.task,
        conditioning=D2DConfig(weight=0.5, temperature=0.5, margin=0.98),
        discriminator_steps=steps.discriminator,
    )
    training = steps.training(ema=EmaConfig(halflife_images=20_000), snapshot_images=50_000, hold_out=0.1)
    recipe = dataclasses.replace(base, name="reacgan", source="our own", task=task, training=training)
    return _at_size(recipe, resolution)


def small(resolution: int = 32) -> Recipe:
    """ReACGAN for a CPU: width 16, no attention, batch 32, two steps of the discriminator, DiffAugment, 128k images.

    Our own choice (see docs/LOG.md): Adam (.5, .999), the discriminator's rate .0004 twice the generator's, embeddings
    of 128 numbers. With one step, equal rates or a heavier D2D-CE classes show sooner, but their pictures become alike:
    the discriminator must stay ahead.
    """
    steps = _Steps(generator=2_000, batch=32, discriminator=2)
    recipe = _ladder(
        "reacgan-small",
        "our own",
        steps,
        (_adam(0.0002, beta1=0.5), _adam(0.0004, beta1=0.5)),
        resolution=32,
        num_classes=10,
        width=16,
        z_dim=80,
        attention=(),
        head=EmbeddingHead(dim=128),
        conditioning=D2DConfig(weight=0.5, temperature=0.5, margin=0.98),
        task={"augment": DiffAugmentConfig()},
    )
    training = steps.training(ema=EmaConfig(halflife_images=5_000), snapshot_images=5_000, hold_out=0.1)
    return _at_size(dataclasses.replace(recipe, training=training), resolution)


def _at_size(recipe: Recipe, resolution: int) -> Recipe:
    assert isinstance(recipe.task, ClassesConfig)
    images = dataclasses.replace(recipe.data["images"], resolution=resolution)
    return dataclasses.replace(recipe, data={"images": images}, task=recipe.task.sized(resolution))
