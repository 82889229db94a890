"""The shape of every feature network: pictures in, features at named taps out."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from frugan.inert import InertError, read_torch

PictureFunction = Callable[[Tensor], Tensor]


class FeatureExtractor(nn.Module):
    """A frozen network that turns pictures into features; a subclass writes `_features`.

    It stays in evaluation mode, its weights take no gradients, and gradients do flow to the pictures.

    Attributes: `name`; `resizer`, the rule by which it brings pictures to its own size ("none" if it takes any size);
    `num_features`, the width of the tap "pool"; `taps`, the names that can be asked for; `fingerprint`, the first
    12 hex digits of the SHA-256 over the weights as published, which says which network a score was made with.
    """

    def __init__(self, *, name: str, resizer: str, num_features: int, taps: tuple[str, ...], fingerprint: str) -> None:
        super().__init__()
        self.name = name
        self.resizer = resizer
        self.num_features = num_features
        self.taps = taps
        self.fingerprint = fingerprint

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """The extractor, always in evaluation mode: a task that calls `.train()` on all it holds changes nothing."""
        return super().train(False)

    def freeze(self) -> "FeatureExtractor":
        """The extractor with its weights closed to gradients; every constructor ends with it."""
        self.requires_grad_(False)
        return self.train(False)

    def forward(self, images: Float[Tensor, "N 3 H W"], taps: tuple[str, ...] = ("pool",)) -> dict[str, Tensor]:
        """The features at the named taps: "pool" is (N, num_features), "logits" (N, K), others as the network says.

        `images` are float32 in [0, 255] of any size; the extractor resizes and normalises them itself. Callers that
        score pictures as files would hold them pass uint8 made float. Raises ValueError for a tap it does not have.
        """
        unknown = [tap for tap in taps if tap not in self.taps]
        if unknown or not taps:
            raise ValueError(f"taps of {self.name} must be among {', '.join(self.taps)}, got {taps!r}")
        found = self._features(images, taps)
        return {tap: found[tap] for tap in taps}

    def _features(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        raise NotImplementedError


class CallableExtractor(FeatureExtractor):
    """A feature extractor around any callable from pictures, float32 (N, 3, H, W) in [0, 255], to features (N, D).

    A module is put into evaluation mode and frozen, and fingerprinted by its state; for another callable pass the
    `fingerprint` where one is known.
    """

    def __init__(
        self,
        function: PictureFunction,
        *,
        name: str,
        num_features: int,
        resizer: str = "none",
        fingerprint: str | None = None,
    ) -> None:
        if fingerprint is None:
            known = isinstance(function, nn.Module)
            fingerprint = fingerprint_of(function.state_dict()) if known else "unknown"  # type: ignore[attr-defined]
        super().__init__(name=name, resizer=resizer, num_features=num_features, taps=("pool",), fingerprint=fingerprint)
        self.function = function
        self.freeze()

    def _features(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        pool = self.function(images)
        if pool.shape != (len(images), self.num_features):
            allowed = (len(images), self.num_features)
            raise ValueError(f"features of {self.name} must be {allowed}, got {tuple(pool.shape)}")
        return {"pool": pool}


def fingerprint_of(state: Mapping[str, Tensor]) -> str:
    """The first 12 hex digits of the SHA-256 over names, types, shapes and bytes of the weights, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def fitting(network: str) -> Iterator[None]:
    """Where weights are put into a network: what does not fit raises ValueError that says so."""
    try:
        yield
    except (KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"these are not the weights of {network}: {str(error)[:300]}") from error


def read_state(path: Path, network: str) -> dict[str, Tensor]:
    """The state dict in a torch or safetensors file. Raises ValueError where it is missing or is something else."""
    if not path.is_file():
        raise ValueError(f"there are no weights of {network} at {path}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else read_torch(path)
    except (InertError, SafetensorError) as error:
        raise ValueError(f"these are not the weights of {network}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"these are not the weights of {network}: {path.name} holds more than tensors by name")
    return state


def as_rgb(images: UInt8[Tensor, "N C H W"]) -> UInt8[Tensor, "N 3 H W"]:
    """The pictures as three channels: grey is repeated, an alpha channel is laid over white (rounded to nearest).

    Raises ValueError unless there are 1 (grey), 2 (grey and alpha), 3 or 4 (RGBA) channels.
    """
    channels = images.shape[1]
    if channels not in (1, 2, 3, 4):
        raise ValueError(f"pictures must have 1, 2, 3 or 4 channels, got {channels}")
    if channels in (2, 4):
        colours, alpha = images[:, :-1].int(), images[:, -1:].int()
        images = ((colours * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
