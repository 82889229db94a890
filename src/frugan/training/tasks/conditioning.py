"""What teaches classes in a training, in one place for every task: settings, the terms of both sides, monitors.

Each kind of term reads one kind of discriminator head (`models.heads`); `check_conditioning` refuses the rest. Heads
that judge by the label itself (projection, StyleGAN's projection, a logit for each class) need none of these terms.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frugan.losses import adversarial, conditional
from frugan.losses.adversarial import AdversarialKind
from frugan.losses.conditional import D2DForm, Group, Similarities
from frugan.models.heads import ClassifierHead, EmbeddingHead, HeadConfig, MultiHingeHead, Verdict, adc_labels
from frugan.training.door import Stats
from frugan.training.tasks.terms import at_least

Terms = dict[str, Tensor]


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")


@dataclass(frozen=True, kw_only=True)
class TacConfig:
    """TAC-GAN (Gong et al. 2019): a twin of the head learns the classes of fakes alone, and the generator works against
    it: + `discriminator` L_twin(fakes) there, - `generator` L_twin(fakes) here. For a head with `aux` `tac`.

    StudioGAN's code, as released, gives the twin's criterion the first head's outputs, so that no twin is ever trained.
    """

    discriminator: float = 1.0
    generator: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, discriminator=0, generator=0)


@dataclass(frozen=True, kw_only=True)
class AdcConfig:
    """ADC-GAN (Hou et al. 2022): each class has a real and a fake form, and the head names both, so that it is given
    fakes too; the generator adds L(fakes, real form) - L(fakes, fake form). For a head with `aux` `adc`.
    """


AuxConfig = TacConfig | AdcConfig


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig:
    """AC-GAN's softmax cross-entropy, for a ClassifierHead: the discriminator's on reals, the generator's on fakes.

    `on_fakes`: the discriminator's on fakes too, as Odena et al. 2017 and ProGAN; StudioGAN leaves it out.
    """

    weight: float = 1.0
    on_fakes: bool = False
    aux: AuxConfig | None = None

    def __post_init__(self) -> None:
        """Check the ranges, and that fakes are not taught twice."""
        at_least(self, weight=0)
        if self.on_fakes and isinstance(self.aux, AdcConfig):
            raise ValueError("on_fakes does not go with AdcConfig, which teaches the fake form of each class instead")


@dataclass(frozen=True, kw_only=True)
class D2DConfig:
    """ReACGAN's data-to-data cross-entropy, for an EmbeddingHead; settings as in `losses.conditional.d2d_ce`."""

    weight: float = 0.5
    temperature: float = 0.5
    margin: float = 0.98
    negative_margin: float | None = None
    form: D2DForm = "exact"
    aux: AuxConfig | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, weight=0)
        _check_temperature(self.temperature)
        for name in ("margin", "negative_margin"):
            value = getattr(self, name)
            if value is not None and not -1 <= value <= 1:
                raise ValueError(f"{name} is a cosine and must be in [-1, 1], got {value}")


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """ContraGAN's conditional contrastive loss 2C, for an EmbeddingHead."""

    weight: float = 1.0
    temperature: float = 1.0
    aux: AuxConfig | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, weight=0)
        _check_temperature(self.temperature)


@dataclass(frozen=True, kw_only=True)
class MultiHingeConfig:
    """MHGAN's multi-hinge loss, for a MultiHingeHead, in the place of the adversarial one: K classes and one of fakes.

    `weight` is the generator's; the discriminator's is 1.
    """

    weight: float = 0.05

    def __post_init__(self) -> None:
        """Check the range."""
        at_least(self, weight=0)


ConditioningConfig = D2DConfig | ContrastiveConfig | CrossEntropyConfig | MultiHingeConfig


def check_conditioning(config: ConditioningConfig | None, head: HeadConfig | None, loss: AdversarialKind) -> None:
    """Raises ValueError where a class term and the discriminator's head are not made for each other, either of them
    alone too, or where multi-hinge would stand beside another loss than the one it takes the place of.
    """
    wanted: tuple[type, ...]
    match config:
        case CrossEntropyConfig():
            wanted = (ClassifierHead,)
        case D2DConfig() | ContrastiveConfig():
            wanted = (EmbeddingHead,)
        case MultiHingeConfig():
            wanted = (MultiHingeHead,)
            if loss != "hinge":
                raise ValueError(f"MultiHingeConfig is the loss itself: set loss='hinge', got {loss!r}")
        case None:
            if isinstance(head, ClassifierHead | EmbeddingHead | MultiHingeHead):
                raise ValueError(f"nothing would train the discriminator's {type(head).__name__}: set conditioning too")
            return
    name = type(config).__name__
    if not isinstance(head, wanted):
        got = "none" if head is None else type(head).__name__
        raise ValueError(f"{name} needs a discriminator whose head is {wanted[0].__name__}, got {got}")
    if isinstance(head, ClassifierHead | EmbeddingHead) and not isinstance(config, MultiHingeConfig | None):
        needed = {TacConfig: "tac", AdcConfig: "adc"}.get(type(config.aux))
        if needed != head.aux:
            raise ValueError(f"{name} with aux={config.aux} needs a head with aux={needed!r}, got aux={head.aux!r}")


def no_proxies(labels: Tensor) -> Tensor:
    """For a discriminator without proxies."""
    raise ValueError("this discriminator has no proxies: its head must be an EmbeddingHead")


class Conditioning:
    """The class terms of one training. `proxies` gives those of labels (`Head.proxies`)."""

    def __init__(self, config: ConditioningConfig | None, proxies: Callable[[Tensor], Tensor] = no_proxies) -> None:
        self.config, self._proxies = config, proxies
        aux = None if config is None or isinstance(config, MultiHingeConfig) else config.aux
        self._tac = aux if isinstance(aux, TacConfig) else None
        self._has_forms = isinstance(aux, AdcConfig)

    def labels(self, labels: Tensor | None, *, are_fake: bool) -> Tensor | None:
        """The labels as the discriminator is given them: with ADC those of a class's real or fake form."""
        return adc_labels(labels, is_fake=are_fake) if self._has_forms and labels is not None else labels

    # -- the discriminator's side -------------------------------------------------------------------------------------

    def tell_apart(
        self, kind: AdversarialKind, reals: Verdict, real_labels: Tensor | None, fakes: Verdict, labels: Tensor | None
    ) -> Tensor:
        """The discriminator's loss of each pair: the adversarial one, or the multi-hinge loss of both."""
        if reals.hinge is None or fakes.hinge is None:
            return adversarial.discriminator_loss(kind, reals.logits, fakes.logits)
        assert real_labels is not None and labels is not None
        of_reals = conditional.multi_hinge(reals.hinge, conditional.with_fake_class(real_labels, are_fake=False))
        return of_reals + conditional.multi_hinge(fakes.hinge, conditional.with_fake_class(labels, are_fake=True))

    def teach(
        self,
        stats: Stats,
        reals: Verdict,
        real_labels: Tensor | None,
        fakes: Verdict,
        labels: Tensor | None,
        group: Group,
    ) -> Terms:
        """What the discriminator adds to learn classes; `stats` takes how it is doing on reals, in closed form, without
        another backward pass. Labels are those of the classes, without forms.

        `feature_norm` is |h|, `true_probability` that of the true class, `class_gradient` the mean over classes of the
        length of the gradient of the unweighted mean loss by a class's weights (on the sphere for a proxy or a
        normalised classifier), over the batch of all processes. D2D-CE adds its active shares.
        """
        config = self.config
        if reals.features.shape[1]:
            stats.add("feature_norm", reals.features.norm(dim=1))
        if config is None or isinstance(config, MultiHingeConfig):
            return {}
        assert real_labels is not None and labels is not None
        forms = self._forms(real_labels, False)
        value, found = self._judged(reals, forms, group)
        self._note(stats, reals, forms, value, found, group)
        if self._has_forms:
            value = value + self._loss(fakes, self._forms(labels, True), group)
        elif isinstance(config, CrossEntropyConfig) and config.on_fakes:
            value = value + self._loss(fakes, labels, group)
        terms = {"classes": config.weight * value}
        if self._tac is not None:
            terms["twin"] = self._tac.discriminator * self._loss(twin_of(fakes), labels, group)
        return terms

    # -- the generator's side -----------------------------------------------------------------------------------------

    def convince(
        self, kind: AdversarialKind, fakes: Verdict, labels: Tensor | None, real_logits: Tensor | None
    ) -> Tensor:
        """The generator's loss of each fake: the adversarial one, or the multi-hinge loss with its weight."""
        if fakes.hinge is None:
            return adversarial.generator_loss(kind, fakes.logits, real_logits)
        assert labels is not None and isinstance(self.config, MultiHingeConfig)
        value = conditional.multi_hinge(fakes.hinge, conditional.with_fake_class(labels, are_fake=False))
        return self.config.weight * value

    def learn(self, fakes: Verdict, labels: Tensor | None, group: Group) -> Terms:
        """What the generator adds to paint classes; `fakes` were judged as real forms."""
        config = self.config
        if config is None or isinstance(config, MultiHingeConfig):
            return {}
        assert labels is not None
        value = self._loss(fakes, self._forms(labels, False), group)
        if self._has_forms:
            # The features do not depend on the label: no second pass through the network.
            forms = self._forms(labels, True)
            other = fakes if fakes.embedding is None else fakes._replace(proxies=self._proxies(forms))
            value = value - self._loss(other, forms, group)
        terms = {"classes": config.weight * value}
        if self._tac is not None:
            terms["twin"] = -self._tac.generator * self._loss(twin_of(fakes), labels, group)
        return terms

    # -- both ---------------------------------------------------------------------------------------------------------

    def _forms(self, labels: Tensor, are_fake: bool) -> Tensor:
        forms = self.labels(labels, are_fake=are_fake)
        assert forms is not None
        return forms

    def _loss(self, verdict: Verdict, labels: Tensor, group: Group) -> Tensor:
        return self._judged(verdict, labels, group)[0]

    def _judged(self, verdict: Verdict, labels: Tensor, group: Group) -> tuple[Tensor, Similarities | None]:
        """The class loss of each image, and the similarities that it was made from, where it was."""
        config = self.config
        if isinstance(config, CrossEntropyConfig):
            assert verdict.classes is not None
            return conditional.class_loss(verdict.classes, labels), None
        assert isinstance(config, D2DConfig | ContrastiveConfig)
        found = similarities_of(verdict, labels, group)
        if isinstance(config, ContrastiveConfig):
            return conditional.contrastive_2c(found, temperature=config.temperature), found
        loss = conditional.d2d_ce(
            found,
            temperature=config.temperature,
            margin=config.margin,
            negative_margin=config.negative_margin,
            form=config.form,
        )
        return loss, found

    @torch.no_grad()
    def _note(
        self, stats: Stats, reals: Verdict, labels: Tensor, loss: Tensor, found: Similarities | None, group: Group
    ) -> None:
        if reals.classes is not None:
            stats.add("true_probability", conditional.true_probability(reals.classes, labels))
            classified = reals.features if reals.classified is None else reals.classified
            rows = [group.gather(each.detach()) for each in (classified, reals.classes, labels)]
            gradients = conditional.classifier_gradients(*rows)
            stats.add("class_gradient", gradients.norm(dim=1).mean()[None])
        elif found is not None:
            self._note_embedding(stats, reals, labels, loss, found, group)

    def _note_embedding(
        self, stats: Stats, reals: Verdict, labels: Tensor, loss: Tensor, found: Similarities, group: Group
    ) -> None:
        config = self.config
        assert isinstance(config, D2DConfig | ContrastiveConfig) and reals.embedding is not None
        everyone = self._proxies(torch.eye(labels.shape[1], dtype=labels.dtype, device=labels.device))
        logits = reals.embedding @ everyone.to(reals.embedding).T / config.temperature
        stats.add("true_probability", conditional.true_probability(logits, labels))
        if isinstance(config, D2DConfig):
            positive, negative = conditional.active_shares(
                found, margin=config.margin, negative_margin=config.negative_margin
            )
            stats.add("positives_active", positive)
            stats.add("negatives_active", negative)
            pull = conditional.pull_d2d(loss, positive, config.temperature)
        else:
            pull = conditional.pull_2c(found, temperature=config.temperature)
        rows = [group.gather(each.detach()) for each in (pull[:, None] * reals.embedding, labels.to(pull))]
        gradients = rows[1].T @ rows[0] / len(rows[0])
        stats.add("class_gradient", gradients.norm(dim=1).mean()[None])


def twin_of(verdict: Verdict) -> Verdict:
    """The verdict with the twin's outputs in the first head's places."""
    return verdict._replace(
        classes=verdict.twin_classes, embedding=verdict.twin_embedding, proxies=verdict.twin_proxies
    )


def similarities_of(verdict: Verdict, labels: Tensor, group: Group) -> Similarities:
    """The cosines between a verdict's embeddings and proxies."""
    assert verdict.embedding is not None and verdict.proxies is not None
    return conditional.similarities(verdict.embedding, verdict.proxies, labels, group)


class Logits(nn.Module):
    """A discriminator that ends in a head, giving its logits alone."""

    def __init__(self, net: nn.Module, conditioning: Conditioning) -> None:
        super().__init__()
        self.net, self._conditioning = net, conditioning

    def forward(
        self, images: Float[Tensor, "N C H W"], labels: Float[Tensor, "N num_classes"] | None = None
    ) -> Float[Tensor, " N"]:
        """Logits; labels are those of classes. Batch normalisation goes by the running statistics."""
        verdict: Verdict = self.net(images, self._conditioning.labels(labels, are_fake=False))
        return verdict.logits
