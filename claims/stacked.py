"""Stacked digits: three random digits as the channels of one picture, a thousand modes that can be counted.

Metz et al. 2017 (arXiv:1611.02163) and ProGAN's appendix D do it with MNIST; here the digits are those of scikit-learn,
1,797 of 8x8 pixels, enlarged.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from claims.harness import Measures
from frugan.data.dataset import Dataset, from_arrays

CLASSES, CHANNELS, SIDE = 10, 3, 8
MODES = CLASSES**CHANNELS
_TESTED, _EPOCHS, _BATCH, _SEED = 360, 40, 64, 0


@functools.cache
def _digits() -> tuple[Float[Tensor, "N 8 8"], Int64[Tensor, " N"]]:
    """All digits in [0, 1] and what they are, in a fixed random order. Raises ImportError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits are scikit-learn's, which is missing: pip install 'frugan[claims]'") from error

    found = load_digits()
    order = np.random.Generator(np.random.Philox(_SEED)).permutation(len(found.target))
    return torch.from_numpy(found.images[order]).float() / 16, torch.from_numpy(found.target[order]).long()


def stacked(count: int, resolution: int) -> Dataset:
    """That many pictures of random digits, not to be mirrored. The resolution is a multiple of 8."""
    digits, _ = _digits()
    chosen = np.random.Generator(np.random.Philox(_SEED + 1)).integers(len(digits), size=(count, CHANNELS))
    images = digits[torch.from_numpy(chosen)]
    large = F.interpolate(images, size=(resolution, resolution), mode="bilinear", align_corners=False)
    return from_arrays((255 * large).round().to(torch.uint8).numpy(), flip=False)


def _seen(digits: UInt8[Tensor, "N H W"]) -> Float[Tensor, "N 1 8 8"]:
    """Averaged down to 8x8, as the classifier sees them."""
    return F.adaptive_avg_pool2d(digits[:, None].float() / 255, SIDE)


@functools.cache
def classifier(resolution: int) -> tuple[nn.Module, float]:
    """(a network that reads single digits of this size, the share that it reads right of 360 digits unknown to it)."""
    digits, labels = _digits()
    large = F.interpolate(digits[:, None], size=(resolution, resolution), mode="bilinear", align_corners=False)
    seen = _seen((255 * large[:, 0]).round().to(torch.uint8))
    generator = torch.Generator().manual_seed(_SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        net = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, CLASSES)),
        )
    adam = torch.optim.Adam(net.parameters(), lr=0.001)
    for _ in range(_EPOCHS):
        for part in (_TESTED + torch.randperm(len(seen) - _TESTED, generator=generator)).split(_BATCH):
            noisy = seen[part] + 0.1 * torch.randn(len(part), 1, SIDE, SIDE, generator=generator)
            adam.zero_grad()
            F.cross_entropy(net(noisy), labels[part]).backward()
            adam.step()
    net.requires_grad_(False)
    right = (net(seen[:_TESTED]).argmax(dim=1) == labels[:_TESTED]).float().mean()
    return net, float(right)


def recovered(images: UInt8[Tensor, "N 3 H W"]) -> Measures:
    """How many of the thousand modes there are, and the KL divergence of their shares to equal ones, in nats.

    So many pictures of equally likely modes have about 999 / (2 N) nats themselves.
    """
    net, _ = classifier(images.shape[-1])
    read = torch.cat([net(_seen(part.flatten(0, 1))).argmax(dim=1) for part in images.cpu().split(500)])
    digits = read.unflatten(0, (-1, CHANNELS))
    modes = (digits * torch.tensor([CLASSES**2, CLASSES, 1])).sum(dim=1)
    shares = torch.bincount(modes, minlength=MODES).double() / len(modes)
    present = shares[shares > 0]
    return {"modes": float(len(present)), "KL of modes": float((present * (present * MODES).log()).sum())}
