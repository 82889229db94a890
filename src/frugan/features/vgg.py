"""VGG19 up to its last block: the features of perceptual losses. Weights by path only.

Architecture: Simonyan and Zisserman 2014, configuration E. 18 GMACs for one picture of 224 x 224.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from frugan.features.extractor import FeatureExtractor, fingerprint_of, fitting, read_state
from frugan.features.folded import Convolution

Convention = Literal["raw", "imagenet"]
"""What the first layer sees: pixels in [-1, 1] (`raw`), or those less the mean of ImageNet over its deviation."""
TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
_LAYERS = {"1": (0, 2), "2": (5, 7), "3": (10, 12, 14, 16), "4": (19, 21, 23, 25), "5": (28,)}
"""The convolutions of each block, by their number in the published list of layers."""
_WIDTHS = (64, 128, 256, 512, 512)
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGG19(FeatureExtractor):
    """VGG19 with the state dict of the published weights: `features.0.weight` and so on; later layers may be there.

    Taps: "relu1_1" to "relu5_1", the maps after the first ReLU of each block, at strides 1 to 16 (odd sizes round
    down); "pool" (N, 512), the mean of the last. Takes pictures of any size from 16 pixels a side, RGB in [0, 255].
    `convention` says what the first layer sees: `raw`, as in the losses of GauGAN and GAN Compression, or `imagenet`,
    as the weights were trained. Raises ValueError where the weights do not fit.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, state: Mapping[str, Tensor], convention: Convention = "raw") -> None:
        wanted = {f"features.{index}.{kind}" for block in _LAYERS.values() for index in block for kind in _KINDS}
        kept = {name: tensor for name, tensor in state.items() if name in wanted}
        super().__init__(
            name="vgg19" if convention == "raw" else f"vgg19 ({convention})",
            resizer="none",
            num_features=_WIDTHS[-1],
            taps=("pool", *TAPS),
            fingerprint=fingerprint_of(kept),
        )
        self.blocks = nn.ModuleList()
        inputs = 3
        with fitting("VGG19"):
            for block, width in zip(_LAYERS.values(), _WIDTHS, strict=True):
                convolutions = nn.ModuleList()
                for index in block:
                    convolution = Convolution(inputs, width, 3, padding=1)
                    convolution.take(kept[f"features.{index}.weight"], kept[f"features.{index}.bias"])
                    convolutions.append(convolution)
                    inputs = width
                self.blocks.append(convolutions)
        shift, scale = (
            ((127.5,) * 3, (127.5,) * 3) if convention == "raw" else (_in_pixels(_MEAN), _in_pixels(_DEVIATION))
        )
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.freeze()

    def _features(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        wanted = {TAPS[-1] if tap == "pool" else tap for tap in taps}
        features = ((images - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)
        found: dict[str, Tensor] = {}
        for tap, convolutions in zip(TAPS, self.blocks, strict=True):
            if found:
                features = functional.max_pool2d(features, 2)
            for index, convolution in enumerate(convolutions.children()):
                # Not in place: the maps of a tap must stay as they are.
                features = functional.relu(convolution(features))
                if index == 0:
                    found[tap] = features
                    if wanted <= found.keys():
                        break
            if wanted <= found.keys():
                break
        if "pool" in taps:
            found["pool"] = found[TAPS[-1]].mean(dim=(2, 3))
        return found


_KINDS = ("weight", "bias")


def _in_pixels(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(255 * value for value in values)


def open_vgg19(weights: Path | None, convention: Convention = "raw") -> VGG19:
    """VGG19 with the weights of that file (torch or safetensors), which is read and not executed.

    Raises ValueError where there is none, with where to get one, or where the file is something else.
    """
    if weights is None:
        raise ValueError("vgg19 needs its weights: give the path of a file vgg19-*.pth of torchvision's model zoo")
    return VGG19(read_state(weights, "VGG19"), convention)
