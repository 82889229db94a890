"""What changes pictures before a discriminator sees them, and how much, as its logits say: DiffAugment, ADA, APA."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from frugan.augment import AugmentConfig, ada, augment, jointly
from frugan.augment.ada import AdaConfig
from frugan.augment.diffaugment import Place, applies
from frugan.training.door import Draw, Shared, Step
from frugan.training.tasks.terms import ApaConfig


def at_work(config: AugmentConfig | None) -> AugmentConfig | None:
    """The same augmentation for a training of seconds: ADA begins at half strength and moves fast."""
    if not isinstance(config, AdaConfig):
        return config
    controller = config.controller and dataclasses.replace(config.controller, ramp_images=64)
    return dataclasses.replace(config, p=max(config.p, 0.5), controller=controller)


class _Controlled:
    """What has a probability that ADA's controller moves."""

    _state: Tensor

    def _probability(self, _: Shared) -> float:
        """The probability, for `Draw.number`."""
        return float(self._state[0])


class Augmenter(_Controlled):
    """Changes what a discriminator sees, where the mode says so; with ADA its probability follows the logits' signs."""

    def __init__(self, config: AugmentConfig | None) -> None:
        self._config = config
        self._ada = config if isinstance(config, AdaConfig) else None
        self._controller = None if self._ada is None else self._ada.controller
        self._state = ada.begin(self._ada or AdaConfig())

    def __call__(self, images: Tensor, place: Place, draw: Draw) -> Tensor:
        """The images as they are seen there."""
        if self._config is None or not applies(self._config.mode, place):
            return images
        return augment(images, self._config, self._strength(draw), draw.uniform, draw.normal)

    def jointly(
        self, images: Sequence[Tensor], place: Place, draw: Draw, are_pictures: Sequence[bool]
    ) -> Sequence[Tensor]:
        """Images of one scene as they are seen there, changed alike (see `augment.jointly`)."""
        if self._config is None or not applies(self._config.mode, place):
            return images
        p = self._strength(draw)
        return jointly(images, self._config, p, draw.uniform, draw.normal, are_pictures=are_pictures)

    def _strength(self, draw: Draw) -> float | Tensor:
        """ADA's probability: 0, or a number on the device."""
        is_at_work = self._ada is not None and draw.decide(lambda shared: self._probability(shared) > 0)
        return draw.number(self._probability) if is_at_work else 0.0

    def note(self, step: Step, signs: Tensor, draw: Draw) -> None:
        """Count in, for each real picture, the sign of the discriminator's logit, or its mean over patches: (N,)."""
        step.stats.add("real_sign", signs)
        if self._ada is not None:
            step.stats.add("augment_p", draw.number(self._probability).to(signs).expand_as(signs))

    def end(self, stats: Mapping[str, Tensor], images: int) -> None:
        """Move ADA's probability by the mean sign over so many real pictures."""
        if self._controller is not None:
            self._state = ada.adapt(self._state, float(stats["real_sign"]), images, self._controller)

    def state_dict(self) -> dict[str, Tensor]:
        """Where ADA stands."""
        return {} if self._controller is None else {"ada": self._state}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        if self._controller is not None and "ada" in state:  # not in a run that was begun without it
            self._state = state["ada"].clone()


class Deceiver(_Controlled):
    """Adaptive pseudo augmentation: shows the discriminator some fakes as reals, as many as ADA's controller says."""

    def __init__(self, config: ApaConfig | None) -> None:
        self._config = config
        self._state = ada.begin(AdaConfig(p=0.0 if config is None else config.p))

    def __call__(
        self, reals: Tensor, real_labels: Tensor | None, fakes: Tensor, labels: Tensor | None, draw: Draw
    ) -> tuple[Tensor, Tensor | None]:
        """Reals, of which some are fakes with their labels. Deviation: published code keeps the label of the real."""
        if self._config is None:
            return reals, real_labels
        is_fake = draw.uniform() < draw.number(self._probability)
        mixed = torch.where(is_fake[:, None, None, None], fakes.to(reals.dtype), reals)
        if real_labels is None or labels is None:
            return mixed, real_labels
        return mixed, torch.where(is_fake[:, None], labels, real_labels)

    def note(self, step: Step, count: int, draw: Draw) -> None:
        """Count in the probability, for each real picture."""
        if self._config is not None:
            step.stats.add("deceive_p", draw.number(self._probability).float().expand(count))

    def end(self, stats: Mapping[str, Tensor], images: int) -> None:
        """Move the probability by the mean sign over so many real pictures."""
        if self._config is not None:
            self._state = ada.adapt(self._state, float(stats["real_sign"]), images, self._config.controller)

    def state_dict(self) -> dict[str, Tensor]:
        """Where the controller stands."""
        return {} if self._config is None else {"apa": self._state}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        if self._config is not None and "apa" in state:  # not in a run that was begun without it
            self._state = state["apa"].clone()
