"""frugan: image GANs that cost little data, little training and little compute.

>>> import frugan
>>> images = frugan.load("demo").sample(seeds=range(16))  # doctest: +SKIP
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from frugan.model import Model

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: "Path | str", *, device: "torch.device | str" = "cpu") -> "Model":
    """The trained model at `path`: `demo` (bundled), a run folder (its best checkpoint, else its newest), a checkpoint,
    or a file of other projects (see `frugan.interop`).

    `device` is where its weights go, such as `cuda`. Raises ValueError where there is none or it is damaged.
    """
    from frugan import interop, model  # torch is only loaded by those who use a model

    if Path(path).is_file():
        return interop.read(path).model.to(device)
    return model.load(path, device=device)
