"""SPADE (GauGAN): pictures from label maps, dense or mobile and of any widths.

Sources: Park et al. 2019, "Semantic Image Synthesis with Spatially-Adaptive Normalization", section 3 and appendix A;
GAN Compression (Li et al. 2020): separable gamma and beta, one configuration of widths. The teacher as trained and
folded, the mobile one, the supernet and every network taken out of it are one class here, told apart by their settings.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from frugan.models.elastic import ElasticWidths, leading_network
from frugan.models.generator import ImageTranslator
from frugan.models.subnet import Subnet
from frugan.ops.elastic import Convolution, SeparableConvolution, leading
from frugan.ops.normalize import Gather, Pooling, batch_norm
from frugan.ops.spectral import SpectralConvolution, folded_state, settle

Upsampling = Literal["normal", "more", "most"]
_DOUBLINGS: dict[Upsampling, int] = {"normal": 5, "more": 6, "most": 7}
_LAYERS = ("start", "head", "middle0", "middle1", "up0", "up1", "up2", "up3", "up4")
_FACTORS = (16, 16, 16, 16, 8, 4, 2, 1, 0.5)
_SLOPE = 0.2
_GAIN = 0.02


@dataclass(frozen=True, kw_only=True)
class SpadeConfig(ElasticWidths):
    """Settings of the SPADE translator.

    It takes maps of `num_labels` label numbers and, with `has_edges`, of the edges of instances, `resolution` pixels
    high and `aspect` times as wide (other multiples work). `num_upsampling`: `normal` starts at a 32nd of the size,
    `more` at a 64th, `most` at a 128th with a block more. Each layer has 16, 16, 16, 16, 8, 4, 2, 1 (and 1/2) times
    `width` channels, or `widths` in all: the first convolution, which gives the trunk, then the blocks, of which the
    first three come back to the trunk; `width`, or what `widths` has in its place, counts double in the block's hidden
    layers. `separable` takes the convolutions of gamma and beta apart. `spectral` normalises those of the blocks, as
    teachers are trained; `fold_spectral` ends it.
    """

    num_labels: int
    has_edges: bool = True
    channels: int = 3
    num_upsampling: Upsampling = "normal"
    resolution: int = 256
    aspect: float | int = 1.0
    separable: bool = False
    spectral: bool = True

    def __post_init__(self) -> None:
        """Check the ranges, and that sizes and widths can be divided."""
        if not 1 <= self.num_labels <= 256:
            raise ValueError(f"num_labels must be from 1 to 256, got {self.num_labels}")
        if self.channels not in (1, 3, 4):
            raise ValueError(f"channels must be 1, 3 or 4, got {self.channels}")
        height, width = self.size
        if height % self.multiple or width % self.multiple or min(height, width) < 1:
            raise ValueError(
                f"height and width must be multiples of {self.multiple} (num_upsampling {self.num_upsampling!r}), "
                f"got {height}x{width} from resolution {self.resolution} and aspect {self.aspect}"
            )
        super().__post_init__()
        self._check_factors(self.layer_widths)

    def _check_factors(self, widths: tuple[int, ...]) -> None:
        for name, width, factor in zip(self.layers, widths, self.factors, strict=True):
            if width % factor:
                raise ValueError(f"the width of {name} must be a multiple of {factor}, got {width}")

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers that `widths` lists."""
        return _LAYERS if self.num_upsampling == "most" else _LAYERS[:-1]

    @property
    def factors(self) -> tuple[float, ...]:
        """What each of them multiplies `width` by."""
        return _FACTORS[: len(self.layers)]

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of it."""
        return int(2 ** _DOUBLINGS[self.num_upsampling])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures it is made for."""
        return self.resolution, round(self.resolution * self.aspect)

    @property
    def source_channels(self) -> int:
        """Label numbers, and edges where there are some."""
        return 1 + self.has_edges

    @property
    def map_channels(self) -> int:
        """The channels of what the network reads: a map for each label, and one of the edges."""
        return self.num_labels + self.has_edges

    @property
    def width_table(self) -> tuple[int, ...]:
        """The width of each layer without `widths`."""
        return self.wide([self.width] * len(self.factors))

    def wide(self, bases: Sequence[int]) -> tuple[int, ...]:
        """The widths of layers whose base widths these are. Raises ValueError where half of an odd one is asked for."""
        for name, base, factor in zip(self.layers, bases, self.factors, strict=True):
            if base * factor % 1:
                raise ValueError(f"the base width of {name} must be even, got {base}")
        return tuple(int(base * factor) for base, factor in zip(bases, self.factors, strict=True))

    def layer_widths_at(self, ratio: float) -> tuple[int, ...]:
        """All base widths times `ratio`, rounded down, at least 1 (2 where there is half a factor)."""
        bases = (int(width / factor * ratio) for width, factor in zip(self.layer_widths, self.factors, strict=True))
        *most, last = (max(base, 1) for base in bases)
        return self.wide([*most, max(last - last % 2, 2) if self.factors[-1] < 1 else last])

    def widths_of(self, subnet: Subnet | None) -> tuple[int, ...]:
        """The widths of a subnet, or of the whole network. Raises ValueError for a subnet that does not fit."""
        widths = super().widths_of(subnet)
        self._check_factors(widths)
        return widths

    def hidden(self, widths: tuple[int, ...]) -> tuple[int, ...]:
        """The hidden channels of each block's normalisations, for these widths of all layers."""
        return tuple(int(2 * width / factor) for width, factor in zip(widths[1:], self.factors[1:], strict=True))


def published_subnet(text: str, config: SpadeConfig) -> Subnet:
    """The subnet that GAN Compression writes as 8 numbers, such as `32_32_32_48_32_24_24_32`: widths over their factor.

    Raises ValueError for other texts.
    """
    parts = text.split("_")
    if len(parts) != len(config.factors) or not all(part.isdecimal() for part in parts):
        raise ValueError(f"a published configuration is {len(config.factors)} whole numbers joined by _, got {text!r}")
    return Subnet(widths=config.wide([int(part) for part in parts]))


class SpatialNorm(nn.Module):
    """Batch statistics taken out of the maps, scale and shift put in that label maps decide: SPADE."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, hidden: int, config: SpadeConfig) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.shared = Convolution(config.map_channels, hidden, 3, padding=1)
        kind = SeparableConvolution if config.separable else Convolution
        self.gamma = kind(hidden, channels, 3, padding=1)
        self.beta = kind(hidden, channels, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "N C H W"], labels: Float[Tensor, "N map_channels H W"], hidden: int, pooling: Pooling
    ) -> Float[Tensor, "N C H W"]:
        """The normalised maps; in training mode by the batch's statistics, taken as `pooling` says."""
        count = x.shape[1]
        # Leading parts are views: what a batch moves in them moves in the whole.
        mean, variance = leading(self.running_mean, count), leading(self.running_var, count)
        normal = batch_norm(x, mean, variance, pooling if self.training else None)
        active = F.relu_(self.shared(labels, hidden))
        return torch.addcmul(self.beta(active, count) + normal, normal, self.gamma(active, count))


class SpadeBlock(nn.Module):
    """Two convolutions, each after SPADE and a leaky ReLU, added to what came in or to a learned form of it."""

    def __init__(self, inputs: int, inner: int, outputs: int, hidden: int, learned: bool, config: SpadeConfig) -> None:
        super().__init__()
        kind = SpectralConvolution if config.spectral else Convolution
        self.norm0 = SpatialNorm(inputs, hidden, config)
        self.conv0 = kind(inputs, inner, 3, padding=1)
        self.norm1 = SpatialNorm(inner, hidden, config)
        self.conv1 = kind(inner, outputs, 3, padding=1)
        self.norm_skip = SpatialNorm(inputs, hidden, config) if learned else None
        self.skip = kind(inputs, outputs, 1, bias=False) if learned else None

    def forward(
        self, x: Float[Tensor, "N C_in H W"], labels: Tensor, width: int, hidden: int, pooling: Pooling
    ) -> Float[Tensor, "N C_out H W"]:
        """The maps: `width` of them from a learned shortcut, else as many as came in, with `width` between."""
        outputs = x.shape[1] if self.skip is None else width
        y = self.conv0(F.leaky_relu_(self.norm0(x, labels, hidden, pooling), _SLOPE), width)
        y = self.conv1(F.leaky_relu_(self.norm1(y, labels, hidden, pooling), _SLOPE), outputs)
        if self.skip is not None and self.norm_skip is not None:
            x = self.skip(self.norm_skip(x, labels, hidden, pooling), outputs)
        return x + cast(Tensor, y)


class SpadeTranslator(ImageTranslator):
    """The SPADE generator without its encoder: one picture for each label map.

    In training mode the batch's statistics normalise, and move the running ones; in evaluation mode the running ones
    do. Spectral norms move in `ops.spectral.power_iterate` alone: a task calls it after each step.
    """

    family: ClassVar[str] = "spade"
    config: SpadeConfig

    def __init__(self, config: SpadeConfig) -> None:
        super().__init__()
        self.config = config
        trunk, *widths = config.layer_widths
        self.start = Convolution(config.map_channels, trunk, 3, padding=1)
        self.blocks = nn.ModuleDict()
        inputs = trunk
        for name, width, hidden in zip(config.layers[1:], widths, config.hidden(config.layer_widths), strict=True):
            is_up = name.startswith("up")
            self.blocks[name] = SpadeBlock(inputs, width, width if is_up else inputs, hidden, is_up, config)
            inputs = width if is_up else inputs
        self.out = Convolution(inputs, config.channels, 3, padding=1)
        # Xavier's normal initialisation with gain 0.02, everywhere.
        for module in self.modules():
            if isinstance(module, Convolution):
                nn.init.xavier_normal_(module.weight, gain=_GAIN)
        settle(self)

    @property
    def taps(self) -> tuple[str, ...]:
        """The names that `features` knows: the blocks, from `head` to `up3`."""
        return self.config.layers[1:]

    @property
    def distillation_taps(self) -> tuple[str, ...]:
        """Where GAN Compression compares teacher and student."""
        return ("head", "middle1", "up1")

    def forward(
        self,
        source: Float[Tensor, "N map_channels H W"],
        *,
        subnet: Subnet | None = None,
        gather: Gather | None = None,
    ) -> Float[Tensor, "N channels H W"]:
        """The picture of each source, in [-1, 1]; `gather` (`Ranks.gather`) joins the statistics of processes."""
        return self.features(source, (), subnet=subnet, gather=gather)[0]

    def translate(
        self, source: Float[Tensor, "N map_channels H W"], *, subnet: Subnet | None = None
    ) -> Float[Tensor, "N channels H W"]:
        """The picture of each source, in [-1, 1]."""
        return self.forward(source, subnet=subnet)

    def features(
        self,
        source: Float[Tensor, "N map_channels H W"],
        taps: Iterable[str],
        *,
        subnet: Subnet | None = None,
        gather: Gather | None = None,
    ) -> tuple[Float[Tensor, "N channels H W"], dict[str, Tensor]]:
        """The picture of each source, and the maps after the blocks of these names (any of `taps`).

        Raises ValueError for a size or a subnet that does not fit, or an unknown name.
        """
        wanted = set(taps)
        if not wanted <= set(self.taps):
            raise ValueError(f"taps must be among {', '.join(self.taps)}, got {', '.join(sorted(wanted))}")
        return self._run(source, wanted, subnet, Pooling(gather=gather))

    def _run(
        self, source: Tensor, wanted: set[str], subnet: Subnet | None, pooling: Pooling
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self._check_source(source)
        widths = self.config.widths_of(subnet)
        kept: dict[str, Tensor] = {}
        step = self.config.multiple
        x = self.start(source[:, :, ::step, ::step], widths[0])
        for (name, block), width, hidden in zip(
            self.blocks.items(), widths[1:], self.config.hidden(widths), strict=True
        ):
            if self._doubles_before(name):
                x, step = F.interpolate(x, scale_factor=2.0, mode="nearest"), step // 2
            # Labels are not averaged: every `step`-th pixel stands for its neighbours.
            x = block(x, source[:, :, ::step, ::step], width, hidden, pooling)
            if name in wanted:
                kept[name] = x
        return torch.tanh(self.out(F.leaky_relu(x, _SLOPE))), kept

    def _doubles_before(self, name: str) -> bool:
        return (
            name.startswith("up") or name == "middle0" or (name == "middle1" and self.config.num_upsampling != "normal")
        )

    def _check_source(self, source: Tensor) -> None:
        _, channels, height, width = source.shape
        multiple = self.config.multiple
        if channels != self.config.map_channels:
            raise ValueError(f"sources must have {self.config.map_channels} maps, as `read` gives, got {channels}")
        if height % multiple or width % multiple or min(height, width) < 1:
            raise ValueError(f"height and width must be multiples of {multiple}, got {height}x{width}")
        if self.config.separable and height == width == multiple:
            # The separable convolutions normalise maps, and the first would have one pixel.
            raise ValueError(f"a separable network starts at two pixels or more, got {height}x{width}: use larger maps")

    def read(self, source: UInt8[Tensor, "N source_channels H W"]) -> Float[Tensor, "N map_channels H W"]:
        """A map of 0 and 1 for each label, and one of the edges, from label numbers (and edges: 0 or 1).

        Raises ValueError for a label number that the network does not know.
        """
        if source.numel() and int(source[:, :1].max()) >= self.config.num_labels:
            raise ValueError(f"label numbers must be below {self.config.num_labels}, got {int(source[:, :1].max())}")
        return self.maps(source)

    def maps(self, source: UInt8[Tensor, "N source_channels H W"]) -> Float[Tensor, "N map_channels H W"]:
        """The same of label numbers that were looked through before: this waits for none, a wrong one gets no map."""
        numbers = torch.arange(self.config.num_labels, device=source.device, dtype=torch.uint8)[:, None, None]
        maps = source[:, :1] == numbers
        return (torch.cat([maps, source[:, 1:] != 0], dim=1) if self.config.has_edges else maps).float()

    def fold_spectral(self) -> "SpadeTranslator":
        """A network of its own without spectral normalisation that gives the same pictures.

        torch's random state is left as it was.
        """
        with torch.random.fork_rng(devices=[]):
            folded = SpadeTranslator(replace(self.config, spectral=False))
        folded.load_state_dict(folded_state(self))
        return folded.to(self.out.weight).train(self.training)

    def extract(self, subnet: Subnet) -> "SpadeTranslator":
        """A network of its own that gives what this one gives for `subnet`, spectral norms folded, statistics sliced.

        torch's random state is left as it was. Raises ValueError for a subnet that does not fit.
        """
        config = replace(self.config.at(subnet), spectral=False)
        return leading_network(self.fold_spectral() if self.config.spectral else self, config)

    @torch.no_grad()
    def calibrate(self, sources: Iterable[Float[Tensor, "_ map_channels _ _"]]) -> None:
        """Set the running statistics to the mean of those of these batches, each by its size; ends in evaluation mode.

        For a sub-network: first `extract`, as its statistics are not those of the whole. The authors' own calibration
        lets the last batch alone decide. Raises ValueError without sources.
        """
        seen = 0
        self.train()
        for source in sources:
            seen += len(source)
            self._run(source, set(), None, Pooling(momentum=len(source) / seen))
        self.eval()
        if not seen:
            raise ValueError("calibration needs sources, got none")
