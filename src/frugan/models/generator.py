"""What every family of generators and translators offers to whoever draws with it, and the checks that all share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from frugan.models.subnet import Subnet

Noise = Literal["const", "none"] | Sequence[Tensor]


class GeneratorConfig(Protocol):
    """The settings that every generator has."""

    @property
    def resolution(self) -> int:
        """Pixels per side of its pictures."""
        ...

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, ... up to the resolution."""
        ...

    @property
    def channels(self) -> int:
        """1, 3 or 4."""
        ...

    @property
    def num_classes(self) -> int:
        """0 without labels."""
        ...

    @property
    def z_dim(self) -> int:
        """The length of a latent code."""
        ...


class ImageGenerator(nn.Module, ABC):
    """A network that draws in two steps: a latent becomes a code, a code a picture. Walks go from code to code."""

    family: ClassVar[str]
    """Its name in `models.KINDS`."""
    config: GeneratorConfig

    @abstractmethod
    def codes(
        self,
        z: Float[Tensor, "N z_dim"],
        labels: Float[Tensor, "N num_classes"] | None = None,
        psi: float | int = 1.0,
        cutoff: int | None = None,
    ) -> Float[Tensor, "N *code"]:
        """The code of each latent; with `psi` below 1 a more typical one, in the first `cutoff` layers or all.

        Raises ValueError where the family knows no typical code and psi is not 1.
        """

    @abstractmethod
    def between(
        self, start: Float[Tensor, "*code"], end: Float[Tensor, "*code"], t: Float[Tensor, " F"]
    ) -> Float[Tensor, "F *code"]:
        """Codes on the way from one to the other, at these shares of it."""

    @abstractmethod
    def pictures(
        self,
        codes: Float[Tensor, "N *code"],
        *,
        noise: Noise = "const",
        subnet: Subnet | None = None,
        resolution: int | None = None,
        alpha: float = 1.0,
    ) -> Float[Tensor, "N channels H W"]:
        """Pictures in about [-1, 1], float32, at `resolution` or the full one.

        `alpha` is the share of the newest block in a generator that grows. `noise` counts where there are noise maps.
        Raises ValueError for what the family does not have.
        """

    @abstractmethod
    def at_resolution(self, resolution: int) -> "ImageGenerator":
        """A generator of its own that ends at this resolution, with copies of the weights."""

    def noise_shapes(self, subnet: Subnet | None = None, resolution: int | None = None) -> tuple[tuple[int, ...], ...]:
        """The shape, without the batch axis, of each noise map that `pictures` takes; none by default."""
        return ()


class Borrowing(ImageGenerator):
    """A generator with the codes of another one, its `lender`, that makes pictures of them in a way of its own."""

    @property
    @abstractmethod
    def lender(self) -> ImageGenerator:
        """Whose codes these are."""

    def codes(
        self,
        z: Float[Tensor, "N z_dim"],
        labels: Float[Tensor, "N num_classes"] | None = None,
        psi: float | int = 1.0,
        cutoff: int | None = None,
    ) -> Float[Tensor, "N *code"]:
        """Those of the lender."""
        return self.lender.codes(z, labels, psi, cutoff)

    def between(
        self, start: Float[Tensor, "*code"], end: Float[Tensor, "*code"], t: Float[Tensor, " F"]
    ) -> Float[Tensor, "F *code"]:
        """Those of the lender."""
        return self.lender.between(start, end, t)


class TranslatorConfig(Protocol):
    """The settings that every translator has."""

    @property
    def source_channels(self) -> int:
        """Channels of what it is given, as it is stored: 1 or 3 for pictures, 1 or 2 for label maps."""
        ...

    @property
    def channels(self) -> int:
        """Channels of the pictures it makes: 1 or 3."""
        ...

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of it."""
        ...


class ImageTranslator(nn.Module, ABC):
    """A network that makes one picture of another, or of a label map, at any size that its layers divide."""

    family: ClassVar[str]
    """Its name in `models.KINDS`."""
    config: TranslatorConfig

    @abstractmethod
    def translate(
        self, source: Float[Tensor, "N source H W"], *, subnet: Subnet | None = None
    ) -> Float[Tensor, "N channels H W"]:
        """The picture of each source, in about [-1, 1]; `source` is what `read` gives.

        Raises ValueError for a size that is not a multiple of `config.multiple` or a subnet that does not fit.
        """

    @abstractmethod
    def read(self, source: UInt8[Tensor, "N source_channels H W"]) -> Float[Tensor, "N source H W"]:
        """What `translate` takes, from what is stored: pixels to [-1, 1], or label numbers to one-hot maps."""


def resolutions_to(top: int) -> tuple[int, ...]:
    """4, 8, ... up to `top`, a power of two."""
    return tuple(2**power for power in range(2, top.bit_length()))


def check_picture(resolution: int, channels: int) -> None:
    """Raise ValueError for a size or a number of channels that no network here has."""
    if resolution & (resolution - 1) or not 4 <= resolution <= 1024:
        raise ValueError(f"resolution must be a power of two from 4 to 1024, got {resolution}")
    check_channels(channels)


def check_channels(channels: int) -> None:
    """Raise ValueError for a number of channels that no picture here has."""
    if channels not in (1, 3, 4):
        raise ValueError(f"channels must be 1, 3 or 4, got {channels}")


def check_widths(widths: tuple[int, ...] | None, count: int) -> None:
    """Raise ValueError unless there is a width for each of `count` places."""
    if widths is not None and (len(widths) != count or min(widths) < 1):
        raise ValueError(f"widths must be {count} numbers of 1 or more, got {widths}")


def check_labels(labels: Tensor | None, num_classes: int) -> None:
    """Raise ValueError unless labels come exactly where there are classes."""
    given = 0 if labels is None else labels.shape[1]
    if given != num_classes:
        wanted = f"labels of {num_classes} classes" if num_classes else "no labels"
        raise ValueError(f"this network takes {wanted}, got {'none' if labels is None else tuple(labels.shape)}")
