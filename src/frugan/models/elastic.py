"""What networks whose layers can be narrowed have in common: settings with a list of widths, and how to cut one out."""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from frugan.models.generator import check_widths
from frugan.models.subnet import Subnet
from frugan.ops.elastic import leading

Settings = TypeVar("Settings", bound="ElasticWidths")
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class ElasticWidths:
    """The settings of a network that follow from one base `width`, unless `widths` lists the width of every layer."""

    width: int = 64
    widths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        check_widths(self.widths, len(self.width_table))

    @property
    def width_table(self) -> tuple[int, ...]:
        """What the base width makes of every layer that a subnet may narrow."""
        raise NotImplementedError

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """The width of every layer that a subnet may narrow, in the order of `Subnet.widths`."""
        return self.widths if self.widths is not None else self.width_table

    def layer_widths_at(self, ratio: float) -> tuple[int, ...]:
        """All of them times `ratio`, at least 1."""
        return tuple(max(int(width * ratio), 1) for width in self.layer_widths)

    def widths_of(self, subnet: Subnet | None) -> tuple[int, ...]:
        """The widths of a subnet, or of the whole network. Raises ValueError for a subnet that does not fit."""
        full = self.layer_widths
        if subnet is None:
            return full
        if len(subnet.widths) != len(full):
            raise ValueError(f"the subnet must list {len(full)} widths, got {len(subnet.widths)}")
        if any(width > most for width, most in zip(subnet.widths, full, strict=True)):
            raise ValueError(f"the subnet's widths must be at most {full}, got {subnet.widths}")
        if subnet.resolution is not None:
            raise ValueError(f"this network cannot stop at a resolution: leave it out, got {subnet.resolution}")
        return subnet.widths

    def at(self: Settings, subnet: Subnet) -> Settings:
        """The settings of the network that is `subnet` and nothing else. Raises ValueError where it does not fit."""
        return replace(self, widths=self.widths_of(subnet))

    def without_list(self: Settings) -> Settings:
        """The same settings, without the list of widths where it only says what the base width says."""
        return replace(self, widths=None) if self.widths == self.width_table else self


def leading_network(network: Module, config: Any) -> Module:
    """A network of the same class with these settings, and for each weight the leading part of that of `network`.

    torch's random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        smaller = type(network)(config)
    ours = network.state_dict()
    smaller.load_state_dict(
        {name: leading(ours[name], *tensor.shape).clone() for name, tensor in smaller.state_dict().items()}
    )
    return smaller.to(next(network.parameters())).train(network.training)
