"""Pictures with classes, small networks that learn them, and how both are measured: for the claims about classes."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from claims.harness import DEVICE, Measures, Sheet, Size, Trial
from claims.measures import FASHION_PARTS, fashion, feature_name, features, real_features, samples
from frugan.data import DataConfig, Dataset, prepare, split, to_float
from frugan.data.demo import demo_base, open_demo
from frugan.data.write import Picture, labelled_grid
from frugan.losses.conditional import ALONE
from frugan.metrics.cost import count_macs, count_parameters
from frugan.metrics.distribution import kid_exact
from frugan.metrics.neighbours import precision_recall
from frugan.model import Model
from frugan.models.biggan import BigGANDiscriminator
from frugan.models.heads import Head, HeadConfig
from frugan.models.stylegan2_discriminator import Discriminator
from frugan.recipes import conditional
from frugan.training.door import Stats
from frugan.training.ranks import Ranks
from frugan.training.recipe import AdamConfig, EmaConfig, Recipe, tiny
from frugan.training.run import fit
from frugan.training.tasks.classes import ClassesConfig
from frugan.training.tasks.conditioning import Conditioning, ConditioningConfig
from frugan.training.tasks.gan import GanConfig

BATCH = 32
"""Of small networks; so many reals are judged at once at every size."""
JUDGED: dict[Size, int] = {"smoke": 32, "cpu": 512, "gpu": 1024, "full": 4096}
FAKES: dict[Size, int] = {"smoke": 16, "cpu": 300, "gpu": 1_000, "full": 10_000}
LEARNED: dict[Size, int] = {"smoke": 64, "cpu": 12_000, "gpu": 30_000, "full": 60_000}
TESTED: dict[Size, int] = {"smoke": 32, "cpu": 2_000, "gpu": 5_000, "full": 10_000}
_SHOWN = 10
_ALONE = Ranks(0, 1, DEVICE)
NORM, GRADIENT, ACCURACY = "length of h", "gradient at the classifier", "class accuracy, %"
PROBABILITY = "probability of the true class"
PULL = "pull of the class loss at h"
ACTIVE = "active positives, %", "active negatives, %"


@dataclass(frozen=True, kw_only=True)
class Small:
    """What stands for the published networks in short trainings: pixels, base width, numbers of an embedding.

    `steps` of the discriminator for one of the generator, at these two learning rates (generator's, discriminator's).
    """

    side: int
    width: int
    embedding: int
    steps: int
    rates: tuple[float, float]


_CPU = Small(side=16, width=8, embedding=64, steps=1, rates=(0.0004, 0.0004))
SMALL: dict[Size, Small] = {
    "smoke": _CPU,
    "cpu": _CPU,
    "gpu": Small(side=32, width=16, embedding=128, steps=2, rates=(0.0002, 0.0004)),
}
"""At the full size the published networks themselves are trained, at 32 px."""


def side(size: Size) -> int:
    """The pixels of pictures."""
    return SMALL[size].side if size in SMALL else 32


def _clothes(size: Size) -> tuple[Dataset, Dataset]:
    return fashion(size, resolution=side(size), with_labels=True)


def _kinds(size: Size) -> tuple[Dataset, Dataset]:
    if size == "smoke":
        return _clothes(size)
    whole = prepare(open_demo("emoji-kinds"), DataConfig(resolution=side(size), channels=3))
    return split(whole, 0.2, demo_base)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Pictures with classes: in words, and as `sets`: those to learn from, and others of the same kind."""

    words: str
    sets: Callable[[Size], tuple[Dataset, Dataset]]


CLOTHES = Subject(
    words="Fashion-MNIST (MIT) in grey with its ten classes; the other pictures are its test half", sets=_clothes
)
KINDS = Subject(
    words="The bundled emoji (MIT) in colour by their 31 kinds; the other pictures are a fifth of them, variants "
    "of one emoji on one side",
    sets=_kinds,
)


def little(name: str, size: Size, head: HeadConfig, conditioning: ConditioningConfig | None) -> Recipe:
    """`reacgan-small` at this size's numbers, with another head, without augmentation, in single precision."""
    small = SMALL[size]
    base = conditional.small(small.side)
    assert isinstance(base.task, ClassesConfig)
    task = base.task.sized(small.side, width=small.width)
    discriminator = dataclasses.replace(task.discriminator, head=head)
    task = dataclasses.replace(
        task, discriminator=discriminator, conditioning=conditioning, augment=None, discriminator_steps=small.steps
    )
    rates = zip(("generator", "discriminator"), small.rates, strict=True)
    adams = {net: AdamConfig(lr=rate, beta1=0.5, beta2=0.999, eps=1e-6) for net, rate in rates}
    training = dataclasses.replace(base.training, precision="fp32")
    return dataclasses.replace(base, name=name, source="claims", task=task, optimisers=adams, training=training)


def lasting(recipe: Recipe, data: Dataset, size: Size, images: int, snapshot_images: int) -> Recipe:
    """The recipe for these pictures and so many of them, every snapshot's checkpoint kept; tiny at the smoke size."""
    recipe = fit(recipe, {"images": data})
    if size == "smoke":
        recipe = tiny(recipe)
        images, snapshot_images = recipe.training.total_images, recipe.training.snapshot_images
    training = dataclasses.replace(
        recipe.training,
        total_images=images,
        snapshot_images=snapshot_images,
        keep_checkpoints=1000,
        checkpoint_seconds=1e9,
        hold_out=0.0,
    )
    if size == "cpu":
        training = dataclasses.replace(training, ema=EmaConfig(halflife_images=1000.0, rampup=None))
    if size in ("cpu", "gpu"):
        training = dataclasses.replace(training, score_images=200)
    return dataclasses.replace(recipe, training=training)


# ---- what discriminators make of classes -----------------------------------------------------------------------------


def health(model: Model, trial: Trial, size: Size) -> Measures:
    """How the discriminator's classifier is doing on reals it learned from, batch by batch: see `Conditioning.teach`.

    A head without a classifier has the length of h alone.
    """
    net, task = model.discriminator, trial.recipe.task
    assert isinstance(net, BigGANDiscriminator | Discriminator) and isinstance(task, ClassesConfig | GanConfig)
    assert net.head is not None
    data, stats = trial.data["images"], Stats()
    conditioning = Conditioning(task.conditioning, net.head.proxies)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[: JUDGED[size]]
    with torch.no_grad():
        for rows in order.split(BATCH):
            labels = data.one_hot(rows.numpy())
            assert labels is not None
            labels = labels.to(DEVICE)
            verdict = net(to_float(data.batch(rows.numpy()).to(DEVICE)), conditioning.labels(labels, are_fake=False))
            conditioning.teach(stats, verdict, labels, verdict, labels, ALONE)
            classified = verdict.classified if verdict.embedding is None else verdict.embedding
            if classified is not None:
                stats.add("classified", classified.norm(dim=1))
            if task.conditioning is not None:
                stats.add("pull", _pull(net.head, conditioning, verdict.features, labels))
    found = {name: float(value) for name, value in stats.reduce(_ALONE).items()}
    names = {
        "feature_norm": (NORM, 1.0),
        "classified": ("length of what is classified", 1.0),
        "class_gradient": (GRADIENT, 1.0),
        "true_probability": (PROBABILITY, 1.0),
        "pull": (PULL, 1.0),
        "positives_active": (ACTIVE[0], 100.0),
        "negatives_active": (ACTIVE[1], 100.0),
    }
    return {label: scale * found[name] for name, (label, scale) in names.items() if name in found}


def _pull(head: Head, conditioning: Conditioning, features: Tensor, labels: Tensor) -> Float[Tensor, " N"]:
    """How long the gradient of the weighted class loss by each picture's features is."""
    with torch.enable_grad():
        h = features.detach().requires_grad_()
        verdict = head(h, conditioning.labels(labels, are_fake=False))
        (loss,) = conditioning.teach(Stats(), verdict, labels, verdict, labels, ALONE).values()
        (gradient,) = torch.autograd.grad(loss.sum(), h)
    lengths: Tensor = gradient.norm(dim=1)
    return lengths


def costs(model: Model, trial: Trial) -> Measures:
    """Weights, and multiply-adds of one picture drawn and judged."""
    net, data = model.discriminator, trial.data["images"]
    assert net is not None
    labels = data.one_hot([0])
    assert labels is not None
    reals, labels = to_float(data.batch([0]).to(DEVICE)), labels.to(DEVICE)
    macs = count_macs(lambda: model.sample([0])).total + count_macs(lambda: net(reals, labels)).total
    return {
        "weights, thousands": (count_parameters(model.generator) + count_parameters(net)) / 1e3,
        "multiply-adds, millions": macs / 1e6,
    }


# ---- what comes out --------------------------------------------------------------------------------------------------


class Reader(NamedTuple):
    """A network that reads the class off a picture, and the share of pictures unknown to it that it reads right."""

    net: nn.Module
    accuracy: float


@functools.cache
def reader(size: Size, subject: Subject) -> Reader:
    """Two convolutions and two layers, taught by reals alone: twice `LEARNED` pictures, to and fro, Adam at 0.001."""
    learned, tested = subject.sets(size)
    order = torch.randperm(len(learned), generator=torch.Generator().manual_seed(0))[: LEARNED[size]]
    passes = [order.flip(0) if number % 2 else order for number in range(2 * LEARNED[size] // len(order))]
    side, count = learned.resolution // 4, learned.num_classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(learned.channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * side * side, 64), nn.ReLU(), nn.Linear(64, count)),
        )
    adam = torch.optim.Adam(net.parameters(), lr=0.001)
    for rows in torch.cat(passes).split(64):
        labels = learned.one_hot(rows.numpy())
        assert labels is not None
        adam.zero_grad()
        F.cross_entropy(net(to_float(learned.batch(rows.numpy()))), labels).backward()
        adam.step()
    net.requires_grad_(False)
    known = torch.randperm(len(tested), generator=torch.Generator().manual_seed(0))[: TESTED[size]].numpy()
    labels = tested.one_hot(known)
    assert labels is not None
    right = _probabilities(net, tested.batch(known)).argmax(dim=1) == labels.argmax(dim=1)
    return Reader(net, float(right.float().mean()))


def _probabilities(net: nn.Module, images: UInt8[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
    return torch.cat([net(to_float(part)).softmax(dim=1) for part in images.split(500)])


def classes(fakes: UInt8[Tensor, "N C H W"], wanted: Tensor, size: Size, subject: Subject) -> Measures:
    """The share of fakes read as the class they were drawn for, and an inception score by the same reader.

    That is exp of the mean KL divergence between what is read off one picture and off all: at most the number of
    classes.
    """
    read = _probabilities(reader(size, subject).net, fakes)
    divergence = (read * (read.clamp(min=1e-12).log() - read.mean(dim=0).clamp(min=1e-12).log())).sum(dim=1)
    return {
        ACCURACY: 100 * float((read.argmax(dim=1) == wanted).float().mean()),
        "IS by the reader": float(divergence.mean().exp()),
    }


def quality(model: Model, size: Size, subject: Subject = CLOTHES) -> Measures:
    """KID (times 1000), precision and recall against pictures that no arm learned from, and the classes of fakes."""
    _, reference = subject.sets(size)
    count = FAKES[size]
    fakes = samples(model, count)
    wanted = torch.arange(10_000, 10_000 + count) % reference.num_classes
    ours, reals = features(fakes, size), real_features(reference, 2 * count, size)
    manifold = precision_recall(ours, reals)
    return {
        kid_name(size): 1000 * kid_exact(ours, reals).value,
        "precision": manifold.precision,
        "recall": manifold.recall,
        **classes(fakes, wanted, size, subject),
    }


def kid_name(size: Size) -> str:
    """How KID is called."""
    return f"KID-{feature_name(size)} x1000"


def aside(size: Size, subject: Subject = CLOTHES) -> Measures:
    """What real pictures score: those to learn from."""
    learned, reference = subject.sets(size)
    rows = torch.randperm(len(learned), generator=torch.Generator().manual_seed(1))[: FAKES[size]].numpy()
    reals, labels = learned.batch(rows), learned.one_hot(rows)
    assert labels is not None
    ours, theirs = features(reals, size), real_features(reference, 2 * FAKES[size], size)
    manifold = precision_recall(ours, theirs)
    found = {
        kid_name(size): 1000 * kid_exact(ours, theirs).value,
        "precision": manifold.precision,
        "recall": manifold.recall,
        **classes(reals, labels.argmax(dim=1), size, subject),
    }
    known = {f"{name} of real pictures": value for name, value in found.items()}
    return known | {"accuracy of the reader on unknown reals, %": 100 * reader(size, subject).accuracy}


def _sheet(models: dict[str, Model], size: Size, subject: Subject) -> Picture:
    """Two pictures of each of the first classes, a row for each arm."""
    names = subject.sets(size)[0].class_names
    seeds = [first + number for first in (0, len(names)) for number in range(min(len(names), _SHOWN))]
    titles = [names[seed % len(names)] for seed in seeds]
    return labelled_grid([(arm, model.sample(seeds)) for arm, model in models.items()], column_titles=titles)


def sheet(subject: Subject = CLOTHES) -> Sheet:
    """Samples of every arm's last model, class by class."""
    return Sheet(
        draw=lambda models, size: _sheet(dict(models), size, subject),
        text=f"One row per arm, one column per class (at most {_SHOWN}), twice; the same seeds in every row (psi 1, "
        "averaged weights, the last checkpoint):",
    )


def _parts(size: Size, subject: Subject) -> str:
    if subject is not CLOTHES or size not in FASHION_PARTS:
        return ""
    learned, others = FASHION_PARTS[size]
    return f" ({learned:,} of those to learn from, {others:,} of the others)"


def protocol(size: Size, subject: Subject = CLOTHES) -> str:
    """How all of this was measured, in words."""
    what = (
        "The bundled emoji in grey at 16 px with their groups as classes"
        if size == "smoke"
        else f"{subject.words}{_parts(size, subject)}; all at {side(size)} px"
    )
    return (
        f"{what}. {FAKES[size]} fakes (seeds from 10000, class = seed mod number of classes, psi 1, averaged weights, "
        f"standing statistics) against at most {2 * FAKES[size]} of the other pictures: exact unbiased MMD of "
        f"{feature_name(size)} features, times 1000; precision and recall on the same features (third neighbour). "
        "Class accuracy and the inception-like score are a small convolutional classifier's, taught by "
        f"{2 * LEARNED[size]:,} reals of the training part, each as often as that takes (what it makes of reals is "
        "measured aside; more cannot be expected of fakes): exp of "
        "the mean KL divergence between the classes read off one fake and off all; no Inception network is in it. What "
        f"the discriminator makes of classes is measured on {JUDGED[size]} reals of the training part, {BATCH} at a "
        "time, by the newest discriminator: h are the features its head is given, before any embedding; the length of "
        "what is classified is that of the vector whose product with the classes' weights counts (h itself in ACGAN; 1 "
        "by construction where it is normalised); the gradient is that of the unweighted mean class loss of a batch by "
        "one class's weights (on the sphere where they are normalised), mean over classes; the pull is the length of "
        "the gradient of a picture's weighted class loss by h, where that of the logit is about 1 by the spectral norm "
        "of its layer (on StyleGAN2 it is free). With one seed small "
        "differences mean nothing."
    )
