"""Translators from picture to picture: the ResNet of CycleGAN, dense or separable and of any widths, and the U-Net.

Sources: Zhu et al. 2017 (CycleGAN), appendix 7.2, after Johnson et al. 2016; Isola et al. 2017 (pix2pix), appendix 6.1;
GAN Compression (Li et al. 2020): separable residual blocks and one configuration of widths, section 3.3.
The dense teacher, the mobile one, the supernet and every network taken out of it are one class here, told apart by
their settings.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from frugan.models.elastic import ElasticWidths, leading_network
from frugan.models.generator import ImageTranslator
from frugan.models.subnet import Subnet
from frugan.ops.elastic import Convolution, Norm, SeparableConvolution, TransposedConvolution, norm_layer, normalize
from frugan.ops.normalize import Gather

Uniform = Callable[..., Tensor]
"""Gives uniform numbers in [0, 1) of a shape without the batch axis, as the `uniform` of a task's draw does."""
Net = TypeVar("Net", bound="_Translator")
_WIDEST = 8
_LEAK = 0.2


@dataclass(frozen=True, kw_only=True)
class _Translation(ElasticWidths):
    """The settings that both architectures share."""

    source_channels: int = 3
    channels: int = 3
    norm: Norm | None = "instance"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("source_channels", "channels"):
            if getattr(self, name) not in (1, 3, 4):
                raise ValueError(f"{name} must be 1, 3 or 4, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ResnetConfig(_Translation):
    """Settings of the ResNet translator.

    `width` channels at full size, twice and four times as many at half and a quarter of it, where `num_blocks` residual
    blocks work; or `widths` in all: stem, down1, down2 (the trunk), the inner width of each block, up1, up2.
    `separable` takes the convolutions of the blocks apart into depthwise and pointwise ones. `norm`: `instance` keeps
    nothing, `batch` learns and keeps running statistics, None leaves it out. `dropout` acts inside each block where a
    draw is given. `clamp_input` limits sources to [-1, 1] (GAN Compression; no difference for pictures).
    """

    num_blocks: int = 9
    separable: bool = False
    clamp_input: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.num_blocks < 0:
            raise ValueError(f"num_blocks must be at least 0, got {self.num_blocks}")
        super().__post_init__()

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of it."""
        return 4

    @property
    def width_table(self) -> tuple[int, ...]:
        """The width of each layer without `widths`."""
        trunk = 4 * self.width
        return (self.width, 2 * self.width, trunk, *[trunk] * self.num_blocks, 2 * self.width, self.width)


@dataclass(frozen=True, kw_only=True)
class UNetConfig(_Translation):
    """Settings of the U-Net.

    `num_downs` halvings (8 for 256 px) of width, 2, 4, 8, 8, ... times `width`, then as many doublings that see the
    maps of their size again; or `widths` in all: the downs, then the ups without the last. `dropout` acts, where a
    draw is given, after each doubling but the first and the last four. `norm` as in `ResnetConfig`.
    """

    num_downs: int = 8
    norm: Norm | None = "batch"
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.num_downs < 2:
            raise ValueError(f"num_downs must be at least 2, got {self.num_downs}")
        super().__post_init__()

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of it."""
        return 1 << self.num_downs

    @property
    def width_table(self) -> tuple[int, ...]:
        """The width of each layer without `widths`."""
        downs = [self.width * min(1 << step, _WIDEST) for step in range(self.num_downs)]
        return (*downs, *downs[-2::-1])


def published_subnet(text: str, config: ResnetConfig, legacy: bool = False) -> Subnet:
    """The subnet that GAN Compression writes as 8 or 6 numbers, such as `16_16_32_16_32_32_16_16`.

    Each is the width of a layer over its factor: stem, down1 (2), trunk (4), the inner width (4) of the first, second
    and last third of the blocks, or of all (6 numbers), up1 (2), up2. With `legacy` only the first block of each third
    has that inner width, the others that of the trunk. Raises ValueError for other texts.
    """
    parts = text.split("_")
    if len(parts) not in (6, 8) or not all(part.isdecimal() for part in parts):
        raise ValueError(f"a published configuration is 8 or 6 whole numbers joined by _, got {text!r}")
    numbers = [int(part) for part in parts]
    inner = numbers[3:-2] if len(numbers) == 8 else numbers[3:4] * 3
    thirds = [block * 3 // config.num_blocks for block in range(config.num_blocks)]
    blocks = [4 * inner[third] for third in thirds]
    if legacy:
        blocks = [
            width if block == 0 or thirds[block - 1] != thirds[block] else 4 * numbers[2]
            for block, width in enumerate(blocks)
        ]
    stem, down1, down2, up1, up2 = (*numbers[:3], *numbers[-2:])
    return Subnet(widths=(stem, 2 * down1, 4 * down2, *blocks, 2 * up1, up2))


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What one call brings besides pictures and widths: see `_Translator.features`."""

    draw: Uniform | None
    gather: Gather | None
    wanted: frozenset[str]
    kept: dict[str, Tensor]

    def keep(self, name: str, x: Tensor) -> Tensor:
        """The maps again, which are kept where they are wanted."""
        if name in self.wanted:
            self.kept[name] = x
        return x

    def drop(self, x: Tensor, share: float) -> Tensor:
        """The maps with this share of their values at 0 and the others scaled up to keep the mean."""
        if self.draw is None or share == 0:
            return x
        return x * (self.draw(*x.shape[1:]).to(x.device) >= share) / (1 - share)


class _Layer(nn.Module):
    """A convolution, normalisation and what makes it active; before a normalisation by batch there is no bias."""

    def __init__(self, conv: nn.Module, norm: Norm | None, width: int, active: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm_layer(norm, width)
        self.is_active = active

    def forward(
        self, x: Float[Tensor, "N C_in H W"], outputs: int, call: _Call
    ) -> Float[Tensor, "N outputs H_out W_out"]:
        x = normalize(self.norm, self.conv(x, outputs), call.gather)
        # In place: the maps are nobody else's, and the derivative takes their sign from the result.
        return F.relu_(x) if self.is_active else x


class ResidualBlock(nn.Module):
    """Two convolutions with reflected edges, whose result is added to what came in."""

    def __init__(self, config: ResnetConfig, trunk: int, inner: int) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int) -> nn.Module:
            if config.separable:
                return SeparableConvolution(inputs, outputs, 3, padding=1, reflect=True)
            return Convolution(inputs, outputs, 3, padding=1, reflect=True, bias=config.norm != "batch")

        self.conv1 = _Layer(conv(trunk, inner), config.norm, inner)
        self.conv2 = _Layer(conv(inner, trunk), config.norm, trunk, active=False)
        self.dropout = config.dropout

    def forward(self, x: Float[Tensor, "N C H W"], inner: int, call: _Call) -> Float[Tensor, "N C H W"]:
        """The maps with `inner` channels between the two convolutions."""
        y = call.drop(self.conv1(x, inner, call), self.dropout)
        return x + cast(Tensor, self.conv2(y, x.shape[1], call))


class _Translator(ImageTranslator):
    """What both architectures do alike."""

    config: Any

    @abstractmethod
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        source: Float[Tensor, "N source_channels H W"],
        *,
        subnet: Subnet | None = None,
        draw: Uniform | None = None,
        gather: Gather | None = None,
    ) -> Float[Tensor, "N channels H W"]:
        """The picture of each source, in [-1, 1].

        `draw` gives the numbers of the dropout, one for each value of a map; None: none. `gather` (`Ranks.gather`)
        joins the batch statistics of all processes.
        """
        return self.features(source, (), subnet=subnet, draw=draw, gather=gather)[0]

    def translate(
        self, source: Float[Tensor, "N source_channels H W"], *, subnet: Subnet | None = None
    ) -> Float[Tensor, "N channels H W"]:
        """The picture of each source, in [-1, 1], without dropout."""
        return self.forward(source, subnet=subnet)

    def features(
        self,
        source: Float[Tensor, "N source_channels H W"],
        taps: Iterable[str],
        *,
        subnet: Subnet | None = None,
        draw: Uniform | None = None,
        gather: Gather | None = None,
    ) -> tuple[Float[Tensor, "N channels H W"], dict[str, Tensor]]:
        """The picture of each source, and the maps after the layers of these names (any of `taps`).

        Raises ValueError for a size or a subnet that does not fit, or an unknown name.
        """
        wanted = frozenset(taps)
        if not wanted <= set(self.taps):
            raise ValueError(f"taps must be among {', '.join(self.taps)}, got {', '.join(sorted(wanted))}")
        self._check_source(source)
        call = _Call(draw=draw, gather=gather, wanted=wanted, kept={})
        return self._run(source, self.config.widths_of(subnet), call), call.kept

    @property
    @abstractmethod
    def taps(self) -> tuple[str, ...]:
        """The names that `features` knows."""

    @abstractmethod
    def _run(self, source: Tensor, widths: tuple[int, ...], call: _Call) -> Tensor:
        """The picture."""

    def read(self, source: UInt8[Tensor, "N source_channels H W"]) -> Float[Tensor, "N source_channels H W"]:
        """The pixels in [-1, 1]."""
        return source.to(torch.float32).div_(127.5).sub_(1.0)

    def extract(self: Net, subnet: Subnet) -> Net:
        """A network of its own that gives what this one gives for `subnet`; torch's random state is left as it was.

        Raises ValueError for a subnet that does not fit.
        """
        return leading_network(self, self.config.at(subnet))

    def _check_source(self, source: Tensor) -> None:
        _, channels, height, width = source.shape
        multiple = self.config.multiple
        if channels != self.config.source_channels:
            raise ValueError(f"sources must have {self.config.source_channels} channels, got {channels}")
        # Below 8 the quarter-size maps are too small to reflect their edges.
        if height % multiple or width % multiple or min(height, width) < 8:
            raise ValueError(
                f"height and width must be multiples of {multiple}, and at least 8, got {height}x{width}: "
                f"pad the picture, cut the result"
            )


class ResnetTranslator(_Translator):
    """The ResNet translator."""

    family: ClassVar[str] = "resnet_translator"
    config: ResnetConfig

    def __init__(self, config: ResnetConfig) -> None:
        super().__init__(config)
        stem, down1, trunk, *inner, up1, up2 = config.layer_widths
        norm, bias = config.norm, config.norm != "batch"
        self.stem = _Layer(Convolution(config.source_channels, stem, 7, padding=3, reflect=True, bias=bias), norm, stem)
        self.down1 = _Layer(Convolution(stem, down1, 3, stride=2, padding=1, bias=bias), norm, down1)
        self.down2 = _Layer(Convolution(down1, trunk, 3, stride=2, padding=1, bias=bias), norm, trunk)
        self.blocks = nn.ModuleList(ResidualBlock(config, trunk, width) for width in inner)
        self.up1 = _Layer(TransposedConvolution(trunk, up1, 3, bias=bias), norm, up1)
        self.up2 = _Layer(TransposedConvolution(up1, up2, 3, bias=bias), norm, up2)
        self.out = Convolution(up2, config.channels, 7, padding=3, reflect=True)

    @property
    def taps(self) -> tuple[str, ...]:
        """`down2` (its output is where the blocks begin), `block1`, `block2`, ..."""
        return ("down2", *(f"block{index + 1}" for index in range(self.config.num_blocks)))

    @property
    def distillation_taps(self) -> tuple[str, ...]:
        """Where GAN Compression compares teacher and student: after `down2` and each third of the blocks."""
        count = self.config.num_blocks
        ends = sorted({-(-count * third // 3) for third in (1, 2, 3)} - {0})
        return ("down2", *(f"block{end}" for end in ends))

    def _run(self, source: Tensor, widths: tuple[int, ...], call: _Call) -> Tensor:
        stem, down1, trunk, *inner, up1, up2 = widths
        x = source.clamp(-1, 1) if self.config.clamp_input else source
        x = self.stem(x, stem, call)
        x = self.down1(x, down1, call)
        x = call.keep("down2", self.down2(x, trunk, call))
        for index, (block, width) in enumerate(zip(self.blocks, inner, strict=True)):
            x = call.keep(f"block{index + 1}", block(x, width, call))
        x = self.up1(x, up1, call)
        x = self.up2(x, up2, call)
        return torch.tanh(self.out(x))


class _Doubling(nn.Module):
    """A transposed convolution over the maps from below and, side by side with them, those of the way down.

    The weights of the two stand apart, so that the leading channels of either can run.
    """

    def __init__(self, below: int, skip: int, outputs: int, norm: Norm | None, bias: bool) -> None:
        super().__init__()
        self.below = TransposedConvolution(below, outputs, 4, bias=bias)
        self.skip = TransposedConvolution(skip, outputs, 4, bias=False) if skip else None
        self.norm = norm_layer(norm, outputs)

    def forward(
        self, below: Tensor, skip: Tensor | None, outputs: int, call: _Call
    ) -> Float[Tensor, "N outputs H2 W2"]:
        x = cast(Tensor, self.below(F.relu(below), outputs))
        if self.skip is not None:
            assert skip is not None
            x = x + self.skip(F.relu(skip), outputs)
        return normalize(self.norm, x, call.gather)


class UNetTranslator(_Translator):
    """The U-Net.

    As in the authors' code in PyTorch the smallest maps have no dropout, while the article gives the first three
    doublings some.
    """

    family: ClassVar[str] = "unet_translator"
    config: UNetConfig

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        count, norm, bias = config.num_downs, config.norm, config.norm != "batch"
        downs, ups = config.layer_widths[:count], config.layer_widths[count:]
        # Neither the first maps nor the smallest, which may be one pixel, are normalised.
        norms: list[Norm | None] = [None, *[norm] * (count - 2), None]
        inputs = (config.source_channels, *downs[:-1])
        self.downs = nn.ModuleList(
            _Layer(Convolution(first, width, 4, stride=2, padding=1, bias=bias), kind, width, active=False)
            for first, width, kind in zip(inputs, downs, norms, strict=True)
        )
        below, skips = (downs[-1], *ups), (0, *downs[-2::-1])
        self.ups = nn.ModuleList(
            _Doubling(first, skip, width, norm, bias)
            for first, skip, width in zip(below[:-1], skips[:-1], ups, strict=True)
        )
        self.out = _Doubling(below[-1], skips[-1], config.channels, None, True)

    @property
    def taps(self) -> tuple[str, ...]:
        """`down1`, `down2`, ... and `up1`, `up2`, ... without the last, which makes the picture."""
        count = self.config.num_downs
        return (*(f"down{index + 1}" for index in range(count)), *(f"up{index + 1}" for index in range(count - 1)))

    def _run(self, source: Tensor, widths: tuple[int, ...], call: _Call) -> Tensor:
        count = self.config.num_downs
        x, skips = source, []
        for index, (down, width) in enumerate(zip(self.downs, widths[:count], strict=True)):
            x = call.keep(f"down{index + 1}", down(x if index == 0 else F.leaky_relu(x, _LEAK), width, call))
            skips.append(x)
        below: Tensor | None = None
        x = skips.pop()
        for index, (up, width) in enumerate(zip(self.ups, widths[count:], strict=True)):
            x = up(x, below, width, call)
            if 0 < index < count - 4:
                x = call.drop(x, self.config.dropout)
            x, below = call.keep(f"up{index + 1}", x), skips.pop()
        return torch.tanh(cast(Tensor, self.out(x, below, self.config.channels, call)))
