"""Pictures to test with, and a cache of its own for every test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakePicture = Callable[..., Image.Image]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder that FRUGAN_CACHE names."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FRUGAN_CACHE", str(folder))
    return folder


@pytest.fixture
def picture() -> MakePicture:
    """picture(seed, width, height, mode): a smooth coloured picture, different for each seed."""

    def make(seed: int = 0, width: int = 40, height: int = 40, mode: str = "RGB") -> Image.Image:
        cells = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC).convert(mode)

    return make


@pytest.fixture
def folder(tmp_path: Path, picture: MakePicture) -> Path:
    """A flat folder of eight PNG pictures, 00.png to 07.png."""
    root = tmp_path / "pictures"
    root.mkdir()
    for index in range(8):
        picture(index).save(root / f"{index:02d}.png")
    return root
