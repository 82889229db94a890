"""pix2pix: a translator learns from pairs, judged by a discriminator that sees the source too."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from frugan.augment import AugmentConfig
from frugan.data.dataset import Dataset
from frugan.model import Model
from frugan.models.patchgan import PatchConfig, PatchDiscriminator
from frugan.models.translator import ResnetConfig, ResnetTranslator, UNetConfig, UNetTranslator
from frugan.training.door import Batch, Draw, Phase, Plan, Shared, Step
from frugan.training.tasks.augmenter import at_work
from frugan.training.tasks.patches import HALF, PatchAdversary, PatchLoss, check_size, computing, distance, pictures
from frugan.training.tasks.terms import at_least

TranslatorConfig = ResnetConfig | UNetConfig
Translator = ResnetTranslator | UNetTranslator


@dataclass(frozen=True, kw_only=True)
class PairedConfig:
    """What is trained against what, and how (Isola et al. 2017; GAN Compression, Li et al. 2020).

    The discriminator judges source and picture together. `adversarial` and `reconstruction` are the weights of what it
    says and of the mean absolute difference (L1) from the target, pixels in [-1, 1]. `augment` changes source and
    picture alike wherever the discriminator looks (off in the papers).
    """

    generator: TranslatorConfig
    discriminator: PatchConfig
    loss: PatchLoss = "hinge"
    adversarial: float = 1.0
    reconstruction: float = 100.0
    augment: AugmentConfig | None = None

    def __post_init__(self) -> None:
        """Check that generator and discriminator fit each other."""
        at_least(self, adversarial=0, reconstruction=0)
        seen = self.generator.source_channels + self.generator.channels
        if self.discriminator.channels != seen:
            raise ValueError(
                f"discriminator.channels must be {seen}, source and picture together, got {self.discriminator.channels}"
            )

    def fit(self, data: Mapping[str, Dataset]) -> "PairedConfig":
        """The same method for pictures of these channels. Raises ValueError for data it cannot learn from."""
        source, target = pictures(data, "source"), pictures(data, "target")
        check_size(data, self.generator.multiple, self.discriminator.smallest)
        return self.between(source.channels, target.channels)

    def between(self, source_channels: int, channels: int) -> "PairedConfig":
        """The same method from pictures of so many channels to pictures of so many."""
        return dataclasses.replace(
            self,
            generator=dataclasses.replace(self.generator, source_channels=source_channels, channels=channels),
            discriminator=dataclasses.replace(self.discriminator, channels=source_channels + channels),
        )

    def shrink(self, resolution: int) -> "PairedConfig":
        """The same method with networks for seconds on a CPU."""
        return dataclasses.replace(
            self,
            generator=small_translator(self.generator, resolution),
            discriminator=small_judge(self.discriminator),
            augment=at_work(self.augment),
        )

    def build(self, data: Mapping[str, Dataset], batch: int) -> "PairedTask":
        """The task on these pictures; the networks are initialised from torch's global generator."""
        return PairedTask(self, batch)


class PairedTask(PatchAdversary):
    """Trains `generator` and `discriminator` on the streams `source` and `target`, which show the same scenes.

    As in the authors' code pictures are made once; then the discriminator steps, then the generator against the new
    discriminator.
    """

    frozen: dict[str, nn.Module]
    ema: tuple[str, ...] = ("generator",)

    def __init__(self, config: PairedConfig, batch: int) -> None:
        super().__init__(config)
        self.config = config
        self.generator = build_translator(config.generator)
        self.discriminator = PatchDiscriminator(config.discriminator)
        self.nets: dict[str, nn.Module] = {"generator": self.generator, "discriminator": self.discriminator}
        self.frozen = {}
        phases = (
            Phase(name="discriminator", nets=("discriminator",), optimiser="discriminator", through=("generator",)),
            Phase(name="generator", nets=("generator",), optimiser="generator"),
        )
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
        source, target = batch["source"].images, batch["target"].images
        if phase.name == "discriminator":
            fakes = self._paint(source, step, draw)
            step.cache["fakes"] = fakes
            of_fakes = self.judge(self.discriminator, (source, fakes.detach()), "d_fake", step, draw)
            of_reals = self.judge(self.discriminator, (source, target), "d_real", step, draw)
            yield {"loss": HALF * self.tell_apart(step, of_reals, of_fakes, draw)}
        else:
            fakes = step.cache.pop("fakes") if "fakes" in step.cache else self._paint(source, step, draw)
            opinion = self.judge(self.discriminator, (source, fakes), "g_fake", step, draw)
            yield {
                "loss": self.config.adversarial * self.convince(opinion),
                "reconstruction": self.config.reconstruction * distance(fakes, target),
            }

    def _paint(self, source: Tensor, step: Step, draw: Draw) -> Tensor:
        with computing(step):
            painted: Tensor = self.generator(source, draw=draw.uniform)
        return painted.float()

    def eval_model(self, ema: Mapping[str, nn.Module], images_seen: int) -> Model:
        """The averaged translator with the discriminator as it is."""
        return Model(translator_in(ema, "generator"), self.discriminator)


# ---- what CycleGAN's task needs too ---------------------------------------------------------------------------------


def build_translator(config: TranslatorConfig) -> Translator:
    """A translator with these settings, initialised from torch's global generator."""
    return ResnetTranslator(config) if isinstance(config, ResnetConfig) else UNetTranslator(config)


def translator_in(nets: Mapping[str, nn.Module], name: str) -> Translator:
    """The network of this name, which must be a translator."""
    net = nets[name]
    assert isinstance(net, Translator)
    return net


def small_translator(config: TranslatorConfig, resolution: int) -> TranslatorConfig:
    """The same architecture for seconds on a CPU."""
    if isinstance(config, UNetConfig):
        downs = min(config.num_downs, (resolution & -resolution).bit_length() - 1)
        return dataclasses.replace(config, width=4, widths=None, num_downs=downs)
    return dataclasses.replace(config, width=4, widths=None, num_blocks=min(config.num_blocks, 2))


def small_judge(config: PatchConfig) -> PatchConfig:
    """The same architecture for seconds on a CPU, which can judge pictures of 8 pixels."""
    return dataclasses.replace(config, width=4, widths=None, num_layers=1)
