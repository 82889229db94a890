"""Sub-networks: a value that says how wide every layer of an elastic network runs, and at which resolution it stops.

Source: AnyCost GAN (Lin et al. 2021), section 3.2; the order of the widths is that of the configurations the authors
found by search.
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable


@runtime_checkable
class ElasticConfig(Protocol):
    """Settings of a network whose layers can be narrowed."""

    def layer_widths_at(self, ratio: float) -> tuple[int, ...]:
        """The width of every layer if the table of widths, before its upper limit, were multiplied by `ratio`."""


@dataclass(frozen=True, kw_only=True)
class Subnet:
    """The leading `widths` channels of each layer, run up to `resolution` (None: to the end).

    For a StyleGAN2 generator the order is constant input, 4x4 conv1, then conv0 and conv1 of every block; layers above
    `resolution` are listed too and ignored. RGB layers are not listed.
    """

    widths: tuple[int, ...]
    resolution: int | None = None

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"a subnet needs a width of 1 or more for every layer, got {self.widths}")

    @classmethod
    def uniform(cls, config: ElasticConfig, ratio: float, resolution: int | None = None) -> "Subnet":
        """The subnet of one ratio in (0, 1], by AnyCost's rule: the whole table of widths shrinks, the cap stays.

        So ratio 0.5 keeps all channels of layers whose uncapped width is twice the cap.
        """
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio must be above 0 and at most 1, got {ratio}")
        return cls(widths=config.layer_widths_at(ratio), resolution=resolution)


@runtime_checkable
class ElasticNetwork(Protocol):
    """A network that can write one of its sub-networks out as a network of its own."""

    def extract(self, subnet: Subnet) -> Any:
        """A smaller network of the same class, with its own weights, that gives what this one gives for `subnet`."""


Network = TypeVar("Network", bound=ElasticNetwork)


def extract(network: Network, subnet: Subnet) -> Network:
    """A smaller network of the same kind that gives what `network` gives for `subnet`, with weights of its own."""
    smaller: Network = network.extract(subnet)
    return smaller
