"""Trackers besides the run folder's own log: each is a function that is told every line of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

Line = dict[str, Any]
_GROUPS = ("losses", "stats", "scores", "progress")
_SINGLES = ("images_per_second", "seconds_per_kimg", "memory_mb")


class TensorBoard:
    """Writes numbers, events and sample grids into `folder` for `tensorboard --logdir`, by images seen.

    What a killed run wrote beyond the point it goes on from is marked as void. Needs the package tensorboard
    (`pip install 'frugan[track]'`); raises ImportError without it.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._open: Callable[[int], Any] = lambda step: SummaryWriter(str(folder), purge_step=step)
        self._writer: Any = None

    def __call__(self, line: Line) -> None:
        """Take in a status line, a snapshot's line or an event."""
        step = int(line["images_seen"])
        if self._writer is None:
            self._writer = self._open(step + 1)
        if "event" in line:
            self._writer.add_text("events", f"{line['event']}: {line['text']}", step)
        for group in _GROUPS:
            for name, value in line.get(group, {}).items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{group}/{name}", value, step)
        for name in _SINGLES:
            if name in line:
                self._writer.add_scalar(f"speed/{name}", line[name], step)
        if "grid" in line:
            self._writer.add_image("samples", _pixels(Path(line["grid"])), step, dataformats="HWC")
        self._writer.flush()


def _pixels(path: Path) -> Any:
    import numpy as np

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def together(*listeners: Callable[[Line], None]) -> Callable[[Line], None]:
    """One listener that passes every line on to all of these."""

    def tell(line: Line) -> None:
        for listener in listeners:
            listener(line)

    return tell
