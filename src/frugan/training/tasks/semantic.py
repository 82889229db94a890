"""GauGAN: a SPADE translator learns pictures from label maps, judged at several scales with the map beside."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frugan.augment import AugmentConfig
from frugan.data.dataset import Dataset
from frugan.features.vgg import VGG19, open_vgg19
from frugan.losses import perceptual
from frugan.model import Model
from frugan.models.multiscale import MultiScaleConfig, MultiScaleDiscriminator
from frugan.models.spade import SpadeConfig, SpadeTranslator
from frugan.ops.spectral import power_iterate
from frugan.training.door import Batch, Draw, Phase, Plan, Shared, Step
from frugan.training.tasks.augmenter import at_work
from frugan.training.tasks.patches import PatchAdversary, PatchLoss, check_size, computing, pictures
from frugan.training.tasks.terms import at_least

_SMALLEST = 64
_SEEN = (False, True)  # what the discriminator sees: a map of labels, a picture


@dataclass(frozen=True, kw_only=True)
class PerceptualConfig:
    """A perceptual loss by VGG19: its `weight`, and the `file` of the network's own weights, which frugan does not
    bring. It sees pixels in [-1, 1], as in the authors' code.
    """

    file: str
    weight: float = 10.0

    def __post_init__(self) -> None:
        """Check the range."""
        at_least(self, weight=0)


@dataclass(frozen=True, kw_only=True)
class SemanticConfig:
    """What is trained against what, and how (Park et al. 2019, SPADE).

    `adversarial`, `feature_matching` (L1 between the discriminator's maps of the picture and of the target) and
    `perceptual` weigh the generator's losses. `augment` changes label map and picture alike wherever the discriminator
    looks, colours in pictures only (off in the paper).
    """

    generator: SpadeConfig
    discriminator: MultiScaleConfig
    loss: PatchLoss = "hinge"
    adversarial: float = 1.0
    feature_matching: float = 10.0
    perceptual: PerceptualConfig | None = None
    augment: AugmentConfig | None = None

    def __post_init__(self) -> None:
        """Check that generator and discriminator fit each other."""
        at_least(self, adversarial=0, feature_matching=0)
        seen = self.generator.map_channels + self.generator.channels
        if self.discriminator.channels != seen:
            raise ValueError(
                f"discriminator.channels must be {seen}, label maps and picture together, "
                f"got {self.discriminator.channels}"
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the log should know of these settings."""
        if self.perceptual is not None:
            return ()
        return (
            "no perceptual loss (the paper has one, of weight 10): it needs a file of VGG19 weights, given by "
            """--set 'task.perceptual={"file": "vgg19.pth"}'""",
        )

    def fit(self, data: Mapping[str, Dataset]) -> "SemanticConfig":
        """The same method for these label maps and pictures. Raises ValueError for data it cannot learn from."""
        source, target = data["source"], pictures(data, "target")
        if source.kind != "labels":
            raise ValueError("this recipe needs label maps as source, got pictures: use pix2pix or cyclegan")
        size = check_size(data, self.generator.multiple, self.discriminator.smallest)
        generator = dataclasses.replace(
            self.generator,
            num_labels=len(source.map_names),
            has_edges=source.channels == 2,
            channels=target.channels,
            resolution=size.height,
            aspect=size.width / size.height,
        )
        return self._with(generator)

    def _with(self, generator: SpadeConfig) -> "SemanticConfig":
        channels = generator.map_channels + generator.channels
        judge = dataclasses.replace(self.discriminator, channels=channels)
        return dataclasses.replace(self, generator=generator, discriminator=judge)

    def shrink(self, resolution: int) -> "SemanticConfig":
        """The same method with networks for seconds on a CPU; pictures stay at least 64 pixels high."""
        generator = dataclasses.replace(
            self.generator,
            width=2,
            widths=None,
            num_upsampling="normal",
            resolution=max(resolution, _SMALLEST),
        )
        small = dataclasses.replace(
            self, discriminator=dataclasses.replace(self.discriminator, width=4), augment=at_work(self.augment)
        )
        return small._with(generator)

    def build(self, data: Mapping[str, Dataset], batch: int) -> "SemanticTask":
        """The task on these pictures; the networks are initialised from torch's global generator."""
        return SemanticTask(self, batch)


class SemanticTask(PatchAdversary):
    """Trains `generator` and `discriminator` on the streams `source` (label maps) and `target`.

    The generator steps first; the discriminator judges pictures that the new generator makes. Statistics of a batch are
    those of all processes (of one micro-batch where there are several). Deviation: spectral norms take one power
    iteration an iteration, the authors' one a call.
    """

    ema: tuple[str, ...] = ("generator",)

    def __init__(self, config: SemanticConfig, batch: int) -> None:
        super().__init__(config)
        self.config = config
        self.generator = SpadeTranslator(config.generator)
        self.discriminator = MultiScaleDiscriminator(config.discriminator)
        self.nets: dict[str, nn.Module] = {"generator": self.generator, "discriminator": self.discriminator}
        self.frozen: dict[str, nn.Module] = {}
        if config.perceptual is not None:
            self.frozen["vgg19"] = open_vgg19(Path(config.perceptual.file))
        phases = tuple(Phase(name=name, nets=(name,), optimiser=name) for name in self.nets)
        self._plan = Plan(phases=phases, batch=batch)

    def plan(self, images_seen: int) -> Plan:
        """The same at all times."""
        return self._plan

    def begin(self, step: Step, draw: Shared) -> None:
        """Nothing is shared."""

    def losses(
        self, phase: Phase, step: Step, batch: Mapping[str, Batch], draw: Draw
    ) -> Iterator[Mapping[str, Float[Tensor, "..."]]]:
        """The losses of one phase, each sample's own."""
        labels, target = self.generator.maps(batch["source"].images), batch["target"].images
        if phase.name == "generator":
            yield self._generator_losses(labels, target, step, draw)
        else:
            with torch.no_grad():
                fakes = self._paint(labels, step)
            of_fakes = self.ask(self.discriminator, self.see((labels, fakes), "d_fake", draw, _SEEN), step)
            of_reals = self.ask(self.discriminator, self.see((labels, target), "d_real", draw, _SEEN), step)
            yield {"loss": self.tell_apart(step, of_reals, of_fakes, draw)}

    def _generator_losses(self, labels: Tensor, target: Tensor, step: Step, draw: Draw) -> dict[str, Tensor]:
        config = self.config
        fakes = self._paint(labels, step)
        # Changed alike, all three: maps of the picture and of the target are compared place by place.
        seen, *both = self.see((labels, fakes, target), "g_fake", draw, (False, True, True))
        opinion = self.ask(self.discriminator, (seen, both[0]), step)
        terms = {"loss": config.adversarial * self.convince(opinion)}
        if config.feature_matching > 0:
            with torch.no_grad():
                wanted = self.ask(self.discriminator, (seen, both[1]), step)
            terms["feature_matching"] = config.feature_matching * perceptual.feature_matching(opinion, wanted)
        if config.perceptual is not None:
            terms["perceptual"] = config.perceptual.weight * self._perceptual(fakes, target, step)
        return terms

    def _perceptual(self, fakes: Tensor, target: Tensor, step: Step) -> Tensor:
        vgg = self.frozen["vgg19"]
        assert isinstance(vgg, VGG19)
        with computing(step):  # grey counts as three equal colours
            return perceptual.perceptual(vgg, fakes.expand(-1, 3, -1, -1), target.expand(-1, 3, -1, -1))

    def _paint(self, labels: Tensor, step: Step) -> Tensor:
        gather = step.ranks.gather if step.ranks.world > 1 else None
        with computing(step):
            painted: Tensor = self.generator(labels, gather=gather)
        return painted.float()

    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Follow the spectral norms of the new weights, and move ADA's probability."""
        super().end(step, stats)
        for net in self.nets.values():
            power_iterate(net)

    def eval_model(self, ema: Mapping[str, nn.Module], images_seen: int) -> Model:
        """The averaged translator, spectral norms folded into its weights, with the discriminator as it is."""
        generator = ema["generator"]
        assert isinstance(generator, SpadeTranslator)
        return Model(generator.fold_spectral(), self.discriminator)
