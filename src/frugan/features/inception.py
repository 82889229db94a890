"""Inception v3 as TensorFlow published it on 2015-12-05: the network that FID and the Inception score are defined by.

Architecture: Szegedy et al. 2015, "Rethinking the Inception Architecture", with the pools of TensorFlow's graph:
averages leave the padding out of the count, and the last block pools by maximum. 5.7 GMACs for one picture.
"""

import hashlib
import os
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from frugan.features.extractor import FeatureExtractor, fingerprint_of, fitting, read_state
from frugan.features.folded import NORM, Convolution, Pointwise, fold
from frugan.features.resize import resize

_SIZE = 299
_EPSILON = 1e-3
_NETWORK = "the Inception network of 2015"
_DIGEST = "6726825d"  # the first digits of the SHA-256 stand in the name of the file
_FILES = (
    f"weights-inception-2015-12-05-{_DIGEST}.pth",
    f"pt_inception-2015-12-05-{_DIGEST}.pth",
    "inception-2015-12-05.pt",
)
_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_FILES[0]}"


class _Step(NamedTuple):
    """One convolution with batch norm and ReLU; a stride of 1 keeps the size, a stride of 2 takes no padding."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


class _Branch(NamedTuple):
    """Steps in a row, then a fork of steps side by side (or none)."""

    steps: tuple[_Step, ...]
    fork: tuple[_Step, ...] = ()


class _Block(NamedTuple):
    """Branches side by side, the pooled one last: "average", "maximum" (then the last branch) or "halve" (alone)."""

    name: str
    branches: tuple[_Branch, ...]
    pool: str


def _narrow(name: str, pool_width: int) -> _Block:
    """Blocks at 35 x 35."""
    dbl = (_Step("branch3x3dbl_1", 64), _Step("branch3x3dbl_2", 96, (3, 3)), _Step("branch3x3dbl_3", 96, (3, 3)))
    branches = (
        _Branch((_Step("branch1x1", 64),)),
        _Branch((_Step("branch5x5_1", 48), _Step("branch5x5_2", 64, (5, 5)))),
        _Branch(dbl),
        _Branch((_Step("branch_pool", pool_width),)),
    )
    return _Block(name, branches, "average")


def _middle(name: str, width: int) -> _Block:
    """Blocks at 17 x 17, with 7 x 7 kernels split in two."""
    across, down = (1, 7), (7, 1)
    double = (
        _Step("branch7x7dbl_1", width),
        *(_Step("branch7x7dbl_2", width, down), _Step("branch7x7dbl_3", width, across)),
        *(_Step("branch7x7dbl_4", width, down), _Step("branch7x7dbl_5", 192, across)),
    )
    single = (_Step("branch7x7_1", width), _Step("branch7x7_2", width, across), _Step("branch7x7_3", 192, down))
    branches = (
        _Branch((_Step("branch1x1", 192),)),
        _Branch(single),
        _Branch(double),
        _Branch((_Step("branch_pool", 192),)),
    )
    return _Block(name, branches, "average")


def _wide(name: str, pool: str) -> _Block:
    """Blocks at 8 x 8, whose branches fork."""
    branches = (
        _Branch((_Step("branch1x1", 320),)),
        _Branch((_Step("branch3x3_1", 384),), (_Step("branch3x3_2a", 384, (1, 3)), _Step("branch3x3_2b", 384, (3, 1)))),
        _Branch(
            (_Step("branch3x3dbl_1", 448), _Step("branch3x3dbl_2", 384, (3, 3))),
            (_Step("branch3x3dbl_3a", 384, (1, 3)), _Step("branch3x3dbl_3b", 384, (3, 1))),
        ),
        _Branch((_Step("branch_pool", 192),)),
    )
    return _Block(name, branches, pool)


_HALVE_35 = _Block(
    "Mixed_6a",
    (
        _Branch((_Step("branch3x3", 384, (3, 3), 2),)),
        _Branch(
            (
                *(_Step("branch3x3dbl_1", 64), _Step("branch3x3dbl_2", 96, (3, 3))),
                _Step("branch3x3dbl_3", 96, (3, 3), 2),
            )
        ),
    ),
    "halve",
)
_HALVE_17 = _Block(
    "Mixed_7a",
    (
        _Branch((_Step("branch3x3_1", 192), _Step("branch3x3_2", 320, (3, 3), 2))),
        _Branch(
            (
                *(_Step("branch7x7x3_1", 192), _Step("branch7x7x3_2", 192, (1, 7))),
                *(_Step("branch7x7x3_3", 192, (7, 1)), _Step("branch7x7x3_4", 192, (3, 3), 2)),
            )
        ),
    ),
    "halve",
)
_BLOCKS = (
    *(_narrow("Mixed_5b", 32), _narrow("Mixed_5c", 64), _narrow("Mixed_5d", 64), _HALVE_35),
    *(_middle("Mixed_6b", 128), _middle("Mixed_6c", 160), _middle("Mixed_6d", 160), _middle("Mixed_6e", 192)),
    *(_HALVE_17, _wide("Mixed_7b", "average"), _wide("Mixed_7c", "maximum")),
)
_STEM = (  # name, width in, width out, kernel, stride, padding
    ("Conv2d_1a_3x3", 3, 32, 3, 2, 0),
    ("Conv2d_2a_3x3", 32, 32, 3, 1, 0),
    ("Conv2d_2b_3x3", 32, 64, 3, 1, 1),
    ("Conv2d_3b_1x1", 64, 80, 1, 1, 0),
    ("Conv2d_4a_3x3", 80, 192, 3, 1, 0),
)


def _layer(width_in: int, step: _Step) -> Convolution | Pointwise:
    if step.kernel == (1, 1):
        return Pointwise(width_in, step.width)
    padding = (step.kernel[0] // 2, step.kernel[1] // 2) if step.stride == 1 else (0, 0)
    return Convolution(width_in, step.width, step.kernel, step.stride, padding)


class _Mixed(nn.Module):
    """One block: its branches' maps behind each other."""

    def __init__(self, width_in: int, block: _Block) -> None:
        super().__init__()
        self.block = block
        self.layers = nn.ModuleDict()
        self.width = width_in if block.pool == "halve" else 0
        for branch in block.branches:
            width = width_in
            for step in branch.steps:
                self.layers[step.name] = _layer(width, step)
                width = step.width
            for step in branch.fork:
                self.layers[step.name] = _layer(width, step)
            self.width += sum(step.width for step in branch.fork) or width

    def forward(self, features: Tensor) -> Tensor:
        *plain, last = self.block.branches
        pooled = _pool(features, self.block.pool)
        if self.block.pool == "halve":
            maps = [*self._run(features, *plain, last), pooled]
        else:
            maps = [*self._run(features, *plain), *self._run(pooled, last)]
        return torch.cat(maps, dim=1)

    def _run(self, features: Tensor, *branches: _Branch) -> Iterator[Tensor]:
        for branch in branches:
            inner = features
            for step in branch.steps:
                inner = _relu(self.layers[step.name](inner))
            yield from (_relu(self.layers[step.name](inner)) for step in branch.fork)
            if not branch.fork:
                yield inner


def _relu(features: Tensor) -> Tensor:
    return functional.relu(features, inplace=True)


def _pool(features: Tensor, kind: str) -> Tensor:
    if kind == "average":
        return functional.avg_pool2d(features, 3, 1, 1, count_include_pad=False)
    return functional.max_pool2d(features, 3, 1, 1) if kind == "maximum" else functional.max_pool2d(features, 3, 2)


def state_shapes() -> dict[str, tuple[int, ...]]:
    """The names and shapes of the state dict of the public PyTorch conversions."""
    kernels = {name: (width_out, width_in, kernel, kernel) for name, width_in, width_out, kernel, _, _ in _STEM}
    width = 192
    for block in _BLOCKS:
        inner = total = 0
        for branch in block.branches:
            inner = width
            for step in branch.steps:
                kernels[f"{block.name}.{step.name}"] = (step.width, inner, *step.kernel)
                inner = step.width
            for step in branch.fork:
                kernels[f"{block.name}.{step.name}"] = (step.width, inner, *step.kernel)
            total += sum(step.width for step in branch.fork) or inner
        width = total + (width if block.pool == "halve" else 0)
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (1008, width), "fc.bias": (1008,)}
    for name, shape in kernels.items():
        shapes |= {f"{name}.conv.weight": shape} | {f"{name}.bn.{part}": shape[:1] for part in NORM}
    return shapes


def from_script(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of NVIDIA's TorchScript conversion `inception-2015-12-05.pt` in the layout of the others.

    Its layers are named as in TensorFlow's graph, batch norms have no scale: beta, mean and var alone.
    """
    found = {"fc.weight": state["output.weight"], "fc.bias": state["output.bias"]}
    for ours, theirs in _script_names():
        beta = state[f"{theirs}.beta"]
        norm = (torch.ones_like(beta), beta, state[f"{theirs}.mean"], state[f"{theirs}.var"])
        found[f"{ours}.conv.weight"] = state[f"{theirs}.weight"]
        found |= {f"{ours}.bn.{part}": tensor for part, tensor in zip(NORM, norm, strict=True)}
    return found


def _script_names() -> Iterator[tuple[str, str]]:
    """Our names of layers and those of TensorFlow's graph."""
    for number, (name, *_) in enumerate(_STEM):
        yield name, f"layers.{_counted('conv', number)}"
    for number, block in enumerate(_BLOCKS):
        place, towers = f"layers.{_counted('mixed', number)}", 0
        joint = "_" if any(branch.fork for branch in block.branches) else "."
        for branch in block.branches:
            if branch is block.branches[0] and len(branch.steps) == 1:
                yield f"{block.name}.{branch.steps[0].name}", f"{place}.conv"
                continue
            tower, towers = f"{place}.{_counted('tower', towers)}{joint}", towers + 1
            for count, step in enumerate(branch.steps):
                yield f"{block.name}.{step.name}", f"{tower}{_counted('conv', count)}"
            for count, step in enumerate(branch.fork):
                yield f"{block.name}.{step.name}", f"{tower}mixed_{_counted('conv', count)}"


def _counted(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


class Inception2015(FeatureExtractor):
    """The Inception network of FID, with a state dict in the layout of the public PyTorch conversions.

    Taps: "pool" (N, 2048); "logits" (N, 1008) and "logits_unbiased" (the last layer without its bias: what published
    Inception scores use); the means of the maps after the second pool "pool192" and after the 17 x 17 blocks
    "pool768". Pictures are resized to 299 x 299 by TensorFlow 1's bilinear rule and normalised as (x - 128) / 128.
    Raises ValueError where the weights do not fit.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__(
            name="inception_2015",
            resizer=f"tf1-bilinear-{_SIZE}",
            num_features=2048,
            taps=("pool", "logits", "logits_unbiased", "pool192", "pool768"),
            fingerprint=fingerprint_of(state),
        )
        self.stem = nn.ModuleDict()
        for name, width_in, width_out, kernel, stride, padding in _STEM:
            shape = (width_in, width_out)
            self.stem[name] = Pointwise(*shape) if kernel == 1 else Convolution(*shape, kernel, stride, padding)
        self.blocks = nn.ModuleDict()
        width = 192
        for block in _BLOCKS:
            self.blocks[block.name] = mixed = _Mixed(width, block)
            width = mixed.width
        self.classifier = nn.Linear(width, 1008)
        with fitting(_NETWORK):
            self._load(state)
        self.freeze()

    def _load(self, state: Mapping[str, Tensor]) -> None:
        left = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
        shapes, given = state_shapes(), {name: tuple(tensor.shape) for name, tensor in left.items()}
        if given != shapes:
            wrong = min(name for name in {*given, *shapes} if given.get(name) != shapes.get(name))
            raise KeyError(f"{wrong} must have shape {shapes.get(wrong)}, got {given.get(wrong)}")
        layers = dict(self.stem.items())
        for name, block in self.blocks.items():
            layers |= {f"{name}.{step}": layer for step, layer in block.layers.items()}  # type: ignore[union-attr,operator]
        for name, layer in layers.items():
            statistics = {part: left[f"{name}.bn.{part}"] for part in NORM}
            layer.take(*fold(left[f"{name}.conv.weight"], statistics, _EPSILON))  # type: ignore[operator]
        self.classifier.load_state_dict({"weight": left["fc.weight"], "bias": left["fc.bias"]})

    def _features(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        images = (resize(images, _SIZE, _SIZE, "tf1-bilinear") - 128) / 128
        features, found = images.contiguous(memory_format=torch.channels_last), {}
        for name, layer in self.stem.items():
            features = _relu(layer(features))
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                features = functional.max_pool2d(features, 3, 2)
        found["pool192"] = features.mean(dim=(2, 3))
        for name, block in self.blocks.items():
            features = block(features)
            if name == "Mixed_6e":
                found["pool768"] = features.mean(dim=(2, 3))
        found["pool"] = features.mean(dim=(2, 3))
        if "logits" in taps or "logits_unbiased" in taps:
            found["logits_unbiased"] = functional.linear(found["pool"], self.classifier.weight)
            found["logits"] = found["logits_unbiased"] + self.classifier.bias
        return found


def open_inception_2015(weights: Path | None = None) -> Inception2015:
    """The Inception network of FID with the weights of that file, or of torch hub's folder of checkpoints.

    The file may be one of the PyTorch conversions, or NVIDIA's TorchScript program, of which the weights are read and
    nothing is run. Nothing is downloaded: see `download_inception_2015`. Raises ValueError where there is no file, with
    where to put it, or where it is something else.
    """
    found = [folder / name for folder in (_hub_folder(),) for name in _FILES if (folder / name).is_file()]
    if weights is None and not found:
        raise ValueError(
            f"inception_2015 needs its weights: put {_FILES[0]} into {_hub_folder()}, or name the file; "
            "`frugan evaluate` with --download-weights fetches them (95 MB), as does in Python "
            "frugan.features.inception.download_inception_2015(consent=True)"
        )
    state = read_state(weights or found[0], _NETWORK)
    if "output.weight" in state:
        with fitting(_NETWORK):
            state = from_script(state)
    return Inception2015(state)


def _hub_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or cache / "torch") / "hub" / "checkpoints"


def download_inception_2015(*, consent: bool, url: str = _URL) -> Path:
    """The path of the weights (95 MB), fetched into torch hub's folder unless they are there.

    Raises ValueError without `consent`, and where what came does not have the digest in the file's name (nothing is
    kept then); urllib's OSError where the network fails.
    """
    target = _hub_folder() / _FILES[0]
    if target.is_file():
        return target
    if not consent:
        raise ValueError(f"fetching {url} (95 MB) needs consent=True")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, part.open("wb") as file:
            while block := answer.read(1 << 20):
                digest.update(block)
                file.write(block)
        if not digest.hexdigest().startswith(_DIGEST):
            raise ValueError(f"{url} gave other weights: SHA-256 {digest.hexdigest()}, expected {_DIGEST}...")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target
