"""How a discriminator judges: one number for real or fake and, where classes are used, what it says of them.

Every discriminator ends in one `Head`: from its last features to a `Verdict`. Which kind of conditioning it has is a
settings class of its own, so that a combination without meaning cannot be written down. Sources: AC-GAN (Odena et al.
2017), projection (Miyato and Koyama 2018), StyleGAN's projection (Karras et al. 2020), FUNIT (Liu et al. 2019),
MHGAN (Kavalerov et al. 2021), ContraGAN (Kang and Park 2020), ReACGAN (Kang et al. 2021), TAC-GAN (Gong et al. 2019),
ADC-GAN (Hou et al. 2022), InfoGAN (Chen et al. 2016).
"""

import contextlib
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frugan.models.generator import check_labels
from frugan.models.mapping import Labels, MappingNetwork
from frugan.ops.equalized import EqualizedLinear
from frugan.ops.spectral import Embedding, SpectralEmbedding, SpectralLinear

Aux = Literal["tac", "adc"]
Layers = Literal["plain", "spectral", "equalized"]
"""The kind of a discriminator's layers: its head has the same."""
SPECTRAL_EPS = 1e-6
"""The least length in the power iterations of BigGAN and its relatives."""


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class ClassifierHead:
    """AC-GAN: class logits beside the logit. `normalized`: cosines between the features and each class's weights.

    `aux`: `tac` adds a second classifier for fakes (TAC-GAN), `adc` knows a real and a fake form of each class
    (ADC-GAN: labels from `adc_labels`). StudioGAN's own option normalises the features alone.
    """

    normalized: bool = False
    aux: Aux | None = None


@dataclass(frozen=True, kw_only=True)
class ProjectionHead:
    """Projection: the product of the features with a vector for each class joins the logit."""


@dataclass(frozen=True, kw_only=True)
class StyleProjectionHead:
    """StyleGAN2-ADA's projection: the logit is the product of a linear map of the features with a mapped label."""

    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_positive(mapping_layers=self.mapping_layers, mapping_lr_multiplier=self.mapping_lr_multiplier)


@dataclass(frozen=True, kw_only=True)
class PickHead:
    """Multi-dimensional, as in FUNIT: a logit for each class, of which the label picks one."""


@dataclass(frozen=True, kw_only=True)
class MultiHingeHead:
    """Multi-hinge: a logit for each class and one more, the last, for fakes."""


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """Two more layers after the embedding, through `width` numbers, with a ReLU between where `rectified`.

    The networks behind the published tables of ReACGAN had a quarter of the embedding's numbers there; the released
    code dropped it.
    """

    width: int
    rectified: bool = False

    def __post_init__(self) -> None:
        """Check the range."""
        _check_positive(width=self.width)


@dataclass(frozen=True, kw_only=True)
class EmbeddingHead:
    """ContraGAN and ReACGAN: a unit vector of `dim` numbers for each picture, and one, its proxy, for each class.

    Which loss relates them (2C, D2D-CE) is the task's. `aux` as in `ClassifierHead`.
    """

    dim: int
    bottleneck: Bottleneck | None = None
    aux: Aux | None = None

    def __post_init__(self) -> None:
        """Check the range."""
        _check_positive(dim=self.dim)


HeadConfig = ClassifierHead | ProjectionHead | StyleProjectionHead | PickHead | MultiHingeHead | EmbeddingHead


@dataclass(frozen=True, kw_only=True)
class InfoCodes:
    """InfoGAN's codes: `num_discrete` choices among `discrete_size` values, and `num_continuous` numbers in [-1, 1]."""

    num_discrete: int = 0
    discrete_size: int = 10
    num_continuous: int = 0

    def __post_init__(self) -> None:
        """Check the ranges, and that there is a code."""
        if min(self.num_discrete, self.num_continuous) < 0 or not self.size:
            got = f"{self.num_discrete} and {self.num_continuous}"
            raise ValueError(f"num_discrete and num_continuous must be at least 0, and one of them above, got {got}")
        if self.discrete_size < 2:
            raise ValueError(f"discrete_size must be at least 2, got {self.discrete_size}")

    @property
    def size(self) -> int:
        """How many numbers the codes are: the discrete ones as one-hot rows, then the continuous ones."""
        return self.num_discrete * self.discrete_size + self.num_continuous


class CodeGuess(NamedTuple):
    """What a discriminator reads of InfoGAN's codes; None for a kind that there is not."""

    discrete: Float[Tensor, "N num_discrete size"] | None
    """Logits of the values of each discrete code."""
    mean: Float[Tensor, "N num_continuous"] | None
    variance: Float[Tensor, "N num_continuous"] | None


class Verdict(NamedTuple):
    """What a discriminator says of a batch, in float32; None for what its head does not have."""

    logits: Float[Tensor, " N"]
    """How real each picture looks (for its label), higher is more real."""
    features: Float[Tensor, "N C"]
    """What the head was given."""
    classes: Float[Tensor, "N num_labels"] | None = None
    """Class logits; cosines where the head is normalised; with `adc` of each class real, fake, ..."""
    embedding: Float[Tensor, "N dim"] | None = None
    """Of length 1."""
    proxies: Float[Tensor, "N dim"] | None = None
    """That of each picture's label, of length 1; None where no labels were given."""
    twin_classes: Float[Tensor, "N K"] | None = None
    """Of the second classifier (`tac`); so are the next two of the second embedding."""
    twin_embedding: Float[Tensor, "N dim"] | None = None
    twin_proxies: Float[Tensor, "N dim"] | None = None
    hinge: Float[Tensor, "N K1"] | None = None
    """The multi-hinge head's logits of each class and, last, of fakes; `logits` is the best class's less the last."""
    codes: CodeGuess | None = None
    """What is read of InfoGAN's codes."""
    classified: Float[Tensor, "N C"] | None = None
    """What a classifier's weights are multiplied with: the features, of length 1 where it is normalised."""


def adc_labels(labels: Labels, *, is_fake: bool) -> Float[Tensor, "N num_labels"]:
    """One-hot labels for a head with `adc`: class y becomes 2y for reals and 2y + 1 for fakes."""
    pair = (torch.zeros_like(labels), labels) if is_fake else (labels, torch.zeros_like(labels))
    return torch.stack(pair, dim=2).flatten(1)


def _linear(layers: Layers, inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:
    match layers:
        case "plain":
            return nn.Linear(inputs, outputs, bias=bias)
        case "spectral":
            return SpectralLinear(inputs, outputs, bias=bias, eps=SPECTRAL_EPS)
        case "equalized":
            return EqualizedLinear(inputs, outputs)


class _Proxies(nn.Module):
    """A vector of length 1 for each class: from a table, or a mapped label where layers are equalized.

    No spectral norm: it would go with the length.
    """

    def __init__(self, layers: Layers, num_labels: int, dim: int) -> None:
        super().__init__()
        self.table: MappingNetwork | Embedding
        if layers == "equalized":
            self.table = _label_mapping(dim, num_labels, 1, 0.01)
        else:
            self.table = Embedding(num_labels, dim)

    def forward(self, labels: Labels) -> Float[Tensor, "N dim"]:
        table = self.table
        return F.normalize(table.features(None, labels) if isinstance(table, MappingNetwork) else table(labels), dim=1)


def _label_mapping(dim: int, num_labels: int, num_layers: int, lr_multiplier: float) -> MappingNetwork:
    return MappingNetwork(
        z_dim=0, w_dim=dim, num_classes=num_labels, num_layers=num_layers, lr_multiplier=lr_multiplier, num_ws=None
    )


class _Embed(nn.Module):
    """From features to a vector of length 1."""

    def __init__(self, config: EmbeddingHead, layers: Layers, features: int) -> None:
        super().__init__()
        self.embed = _linear(layers, features, config.dim)
        self.is_rectified = config.bottleneck is not None and config.bottleneck.rectified
        self.narrow: nn.Module | None = None
        self.wide: nn.Module | None = None
        if config.bottleneck is not None:
            self.narrow = _linear(layers, config.dim, config.bottleneck.width)
            self.wide = _linear(layers, config.bottleneck.width, config.dim)

    def forward(self, h: Float[Tensor, "N C"]) -> Float[Tensor, "N dim"]:
        x = self.embed(h)
        if self.narrow is not None and self.wide is not None:
            x = self.narrow(x)
            x = self.wide(F.relu(x) if self.is_rectified else x)
        return F.normalize(x, dim=1)


class _Classifier(nn.Module):
    """From features to class logits, or to cosines; without a bias."""

    def __init__(self, config: ClassifierHead, layers: Layers, features: int, num_labels: int) -> None:
        super().__init__()
        self.is_normalized = config.normalized
        # A spectral norm would go with the weights' length; an equalized layer has a bias, which AC-GAN has not.
        kind: Layers = "plain" if config.normalized or layers == "equalized" else layers
        self.layer = _linear(kind, features, num_labels, bias=False)

    def forward(self, h: Float[Tensor, "N C"]) -> Float[Tensor, "N num_labels"]:
        if self.is_normalized and isinstance(self.layer, nn.Linear):
            return F.linear(F.normalize(h, dim=1), F.normalize(self.layer.weight, dim=1))
        logits: Tensor = self.layer(h)
        return logits


class _CodeReader(nn.Module):
    """From features to InfoGAN's codes; its weights are the generator's to train."""

    def __init__(self, codes: InfoCodes, layers: Layers, features: int) -> None:
        super().__init__()
        self.shape = (codes.num_discrete, codes.discrete_size)
        count, continuous = codes.num_discrete * codes.discrete_size, codes.num_continuous
        self.discrete = _linear(layers, features, count, bias=False) if count else None
        self.mean = _linear(layers, features, continuous, bias=False) if continuous else None
        self.log_variance = _linear(layers, features, continuous, bias=False) if continuous else None

    def forward(self, h: Float[Tensor, "N C"]) -> CodeGuess:
        return CodeGuess(
            discrete=None if self.discrete is None else self.discrete(h).unflatten(1, self.shape),
            mean=None if self.mean is None else self.mean(h),
            variance=None if self.log_variance is None else self.log_variance(h).exp(),
        )


class Head(nn.Module):
    """The end of a discriminator: from `features` numbers for each picture to a `Verdict`.

    `config` None judges without classes. The features are sums over `area` pixels. Raises ValueError for a head without
    classes to tell apart.
    """

    def __init__(
        self,
        config: HeadConfig | None,
        *,
        features: int,
        num_classes: int,
        layers: Layers,
        codes: InfoCodes | None = None,
        area: int = 1,
    ) -> None:
        super().__init__()
        check_head(config, num_classes)
        self.config, self.num_classes, self.area = config, num_classes, area
        aux = config.aux if isinstance(config, ClassifierHead | EmbeddingHead) else None
        self.num_labels = 2 * num_classes if aux == "adc" else num_classes
        outputs = 1
        match config:
            case ClassifierHead():
                self.classes = _Classifier(config, layers, features, self.num_labels)
                self.twin_classes = _Classifier(config, layers, features, num_classes) if aux == "tac" else None
            case ProjectionHead():
                spectral = layers == "spectral"
                self.vectors = (
                    SpectralEmbedding(num_classes, features, eps=SPECTRAL_EPS)
                    if spectral
                    else Embedding(num_classes, features)
                )
            case StyleProjectionHead():
                outputs = features
                self.mapping = _label_mapping(
                    features, num_classes, config.mapping_layers, config.mapping_lr_multiplier
                )
            case PickHead():
                outputs = num_classes
            case MultiHingeHead():
                outputs = num_classes + 1
            case EmbeddingHead():
                self.embedding = _Embed(config, layers, features)
                self.class_vectors = _Proxies(layers, self.num_labels, config.dim)
                has_twin = aux == "tac"
                self.twin_embedding = _Embed(config, layers, features) if has_twin else None
                self.twin_vectors = _Proxies(layers, num_classes, config.dim) if has_twin else None
        self.out = _linear(layers, features, outputs)
        self.codes = None if codes is None else _CodeReader(codes, layers, features)

    @property
    def needs_labels(self) -> bool:
        """Whether the logit itself depends on the label."""
        return isinstance(self.config, ProjectionHead | StyleProjectionHead | PickHead)

    def proxies(self, labels: Labels) -> Float[Tensor, "N dim"]:
        """The proxy of each label; with `adc` the labels are those of `adc_labels`.

        Raises ValueError for other labels, or a head without proxies.
        """
        if not isinstance(self.config, EmbeddingHead):
            raise ValueError(f"only an EmbeddingHead has proxies, this head is {type(self.config).__name__}")
        check_labels(labels, self.num_labels)
        vectors: Tensor = self.class_vectors(labels)
        return vectors

    def forward(self, h: Float[Tensor, "N C"], labels: Labels | None = None) -> Verdict:
        """The verdict, computed in float32. `labels` are one-hot rows, with `adc` those of `adc_labels`.

        They are needed where the logit depends on them, and for proxies. Raises ValueError where they are missing or
        have another number of classes.
        """
        if labels is not None or self.needs_labels:
            check_labels(labels, self.num_labels)
        # The meta device, on which costs are counted, knows no autocast.
        with contextlib.nullcontext() if h.is_meta else torch.autocast(h.device.type, enabled=False):
            h = h.to(torch.promote_types(h.dtype, torch.float32))
            labels = None if labels is None else labels.to(h.dtype)
            verdict = self._judge(h, labels)
            return verdict if self.codes is None else verdict._replace(codes=self.codes(h / self.area))

    def _judge(self, h: Tensor, labels: Tensor | None) -> Verdict:
        scores: Tensor = self.out(h)
        plain = Verdict(scores[:, 0], h)
        match self.config:
            case ClassifierHead():
                twin = None if self.twin_classes is None else self.twin_classes(h)
                classified = F.normalize(h, dim=1) if self.config.normalized else h
                return plain._replace(classes=self.classes(h), twin_classes=twin, classified=classified)
            case EmbeddingHead():
                return self._embedded(plain, labels)
            case MultiHingeHead():
                return Verdict(scores[:, :-1].amax(dim=1) - scores[:, -1], h, hinge=scores)
            case ProjectionHead() if labels is not None:
                return plain._replace(logits=plain.logits + (self.vectors(labels) * h).sum(dim=1))
            case PickHead() if labels is not None:
                return plain._replace(logits=(scores * labels).sum(dim=1))
            case StyleProjectionHead():
                code = self.mapping.features(None, labels)
                return plain._replace(logits=(scores * code).sum(dim=1) * (1 / math.sqrt(code.shape[1])))
        return plain

    def _embedded(self, verdict: Verdict, labels: Tensor | None) -> Verdict:
        h = verdict.features
        found = verdict._replace(
            embedding=self.embedding(h), proxies=None if labels is None else self.class_vectors(labels)
        )
        if self.twin_embedding is None or self.twin_vectors is None:
            return found
        twins = None if labels is None else self.twin_vectors(labels)
        return found._replace(twin_embedding=self.twin_embedding(h), twin_proxies=twins)


def check_head(config: HeadConfig | None, num_classes: int) -> None:
    """Raise ValueError for a head of classes where there are none, or a negative number of them."""
    if num_classes < 0:
        raise ValueError(f"num_classes must be at least 0, got {num_classes}")
    if config is not None and not num_classes:
        raise ValueError(f"a {type(config).__name__} needs num_classes of 1 or more, got 0: set it, or head=None")
