"""Real pictures from scikit-image's wheel, read as files; tests that need them skip where it is not installed."""

from collections.abc import Callable
from importlib import metadata

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor


@pytest.fixture(scope="session")
def photograph() -> Callable[[str], Tensor]:
    """A bundled photograph by file name, uint8 (1, 3, H, W)."""

    def read(name: str) -> Tensor:
        try:
            files = metadata.files("scikit-image") or []
        except metadata.PackageNotFoundError:
            pytest.skip("scikit-image is not installed")
        path = next(file.locate() for file in files if file.name == name)
        with Image.open(str(path)) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]

    return read
