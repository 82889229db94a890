"""What every translator against a discriminator of patches shares: judging a picture with its source, augmented alike,
losses that are means over patches and scales, ADA's state, and how data must fit.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frugan.augment import AugmentConfig
from frugan.augment.diffaugment import Place
from frugan.data.dataset import Dataset
from frugan.losses import adversarial
from frugan.training.door import Draw, Step
from frugan.training.tasks.augmenter import Augmenter

PatchLoss = Literal["hinge", "least_squares", "logistic"]
"""What patches can be judged by: the losses that need neither a penalty nor pairs of reals and fakes."""
HALF = 0.5
"""pix2pix and CycleGAN halve the discriminator's loss, so that it learns at half the speed; GauGAN does not."""

Maps = list[list[Float[Tensor, "N _ _ _"]]]


@runtime_checkable
class PatchAdversaryConfig(Protocol):
    """The settings that every such task has."""

    @property
    def loss(self) -> PatchLoss: ...
    @property
    def augment(self) -> AugmentConfig | None: ...


class Size(NamedTuple):
    """Height and width of what a task is given."""

    height: int
    width: int


class PatchAdversary:
    """A translator's task as far as its discriminators go."""

    def __init__(self, config: PatchAdversaryConfig) -> None:
        self._settings = config
        self._augmenter = Augmenter(config.augment)

    def see(
        self, images: Sequence[Tensor], place: Place, draw: Draw, are_pictures: Sequence[bool] | None = None
    ) -> Sequence[Tensor]:
        """Images of one scene as the discriminator sees them there, changed alike; all are pictures unless told."""
        return self._augmenter.jointly(images, place, draw, are_pictures or [True] * len(images))

    def ask(self, discriminator: nn.Module, seen: Sequence[Tensor], step: Step) -> Maps:
        """For each scale the discriminator's maps, the logits last, of images that it sees side by side."""
        with computing(step):
            found = discriminator(torch.cat(list(seen), dim=1))
        return [[found]] if isinstance(found, Tensor) else found

    def judge(self, discriminator: nn.Module, images: Sequence[Tensor], place: Place, step: Step, draw: Draw) -> Maps:
        """What the discriminator says of pictures side by side, a source and a result, or of one alone."""
        return self.ask(discriminator, self.see(images, place, draw), step)

    def tell_apart(self, step: Step, reals: Maps, fakes: Maps, draw: Draw) -> Float[Tensor, " N"]:
        """The discriminator's loss of each pair of samples, a mean over patches and scales; not halved."""
        pairs = [(real[-1], fake[-1]) for real, fake in zip(reals, fakes, strict=True)]
        signs = [adversarial.patch_mean(real.sign()) for real, _ in pairs]
        self._augmenter.note(step, torch.stack(signs).mean(dim=0), draw)
        for name, column in zip(("real_logits", "fake_logits"), zip(*pairs, strict=True), strict=True):
            step.stats.add(name, torch.stack([adversarial.patch_mean(logits) for logits in column]).mean(dim=0))
        terms = [adversarial.patch_discriminator_loss(self._settings.loss, real, fake) for real, fake in pairs]
        return torch.stack(terms).mean(dim=0)

    def convince(self, fakes: Maps) -> Float[Tensor, " N"]:
        """The generator's loss of each sample, a mean over patches and scales."""
        terms = [adversarial.patch_generator_loss(self._settings.loss, fake[-1]) for fake in fakes]
        return torch.stack(terms).mean(dim=0)

    def end(self, step: Step, stats: Mapping[str, Tensor]) -> None:
        """Move ADA's probability."""
        self._augmenter.end(stats, step.plan.batch)

    def state_dict(self) -> dict[str, Tensor]:
        """Where ADA stands."""
        return self._augmenter.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        self._augmenter.load_state_dict(state)


def computing(step: Step) -> contextlib.AbstractContextManager[object]:
    """A block in which networks compute in the step's type; weights stay float32."""
    if step.dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(step.ranks.device.type, dtype=step.dtype)


def distance(images: Float[Tensor, "N C H W"], others: Float[Tensor, "N C H W"]) -> Float[Tensor, " N"]:
    """The mean absolute difference (L1) of each pair, in float32."""
    return (images.float() - others.float()).abs().flatten(1).mean(dim=1)


# ---- how data must fit ----------------------------------------------------------------------------------------------


def pictures(data: Mapping[str, Dataset], name: str) -> Dataset:
    """The stream of this name, which must hold pictures. Raises ValueError where it holds label maps."""
    if data[name].kind == "labels":
        raise ValueError(
            f"this recipe translates pictures, but the {name} set holds label maps (numbers): use a gaugan recipe, "
            "or colour the maps and give them as pictures"
        )
    return data[name]


def check_size(data: Mapping[str, Dataset], multiple: int, smallest: int) -> Size:
    """The size that all streams are trained at, which networks must be able to take.

    Raises ValueError where streams differ in size, or it is no multiple of `multiple`, or below `smallest`.
    """
    sizes = {name: Size(dataset.height, dataset.width) for name, dataset in data.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name} {size.height}x{size.width}" for name, size in sizes.items())
        raise ValueError(
            f"source and target must be trained at one size, got {shown}: set the same resolution and crop"
        )
    size = next(iter(sizes.values()))
    if size.height % multiple or size.width % multiple or min(size) < smallest:
        raise ValueError(
            f"height and width must be multiples of {multiple} and at least {smallest} for these networks, got "
            f"{size.height}x{size.width}: choose another --resolution or data.source.crop and data.target.crop"
        )
    return size
