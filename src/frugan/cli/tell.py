"""What a person sees while something takes its time: a live line in a terminal, plain lines elsewhere."""

import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frugan.data import Dataset

_MOST_PARTS = 2  # of the losses, where none of them is the whole
_SHOWN = 5
_SLOW, _SETTLED = 1.5, 0.1  # so many times the planned time is said, after this share of it


class Teller:
    """Prints progress, status lines and events; in a terminal the newest status overwrites the last one."""

    def __init__(self, plain_seconds: float = 15.0) -> None:
        self._silent = os.environ.get("RANK", "0") != "0"  # one process of several speaks
        self._live = sys.stdout.isatty()
        self._next_plain = 0.0
        self._plain_seconds = plain_seconds
        self._width = 0
        self._left: tuple[float, int] | None = None
        self._said = set[str]()
        self._budget: float | None = None

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._silent:
            return
        self._clear()
        print(text, flush=True)

    def say_once(self, text: str) -> None:
        """A line that stays, unless it was said before."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    def plan(self, seconds: float | None) -> None:
        """How long the training was planned to take: where it comes to much more, that is said once."""
        self._budget = seconds

    def progress(self, done: int, total: int, text: str) -> None:
        """How far some preparation is."""
        if total > 0:
            self._show(f"{text}: {done:,} of {total:,}", is_last=done >= total)

    def training(self, line: dict[str, Any]) -> None:
        """A status line or an event of a training."""
        if "event" in line:
            self.say(line["text"])
        elif "grid" in line:
            scores = ", ".join(f"{name} {value:.3g}" for name, value in line["scores"].items())
            self.say(f"{line['images_seen']:>9,} images  {scores}  {line['grid']}")
        elif "working" in line:
            self.progress(line["done"], line["total"], line["working"])
        elif "losses" in line:
            self._compare(line)
            self._show(_status(line), is_last=line["images_seen"] >= line["total_images"])

    def _compare(self, line: dict[str, Any]) -> None:
        if self._budget is None or line["seconds"] < _SETTLED * self._budget:
            return
        speed = max(line["images_per_second"], 1e-9)
        likely = line["seconds"] + max(line["total_images"] - line["images_seen"], 0) / speed
        if likely > _SLOW * self._budget:
            self.say(
                f"slower than planned: {words(likely)} are more likely than {words(self._budget)} (is the machine busy "
                "with other work?); Ctrl-C keeps what is there"
            )
            self._budget = None

    def _show(self, text: str, is_last: bool) -> None:
        if self._silent:
            return
        if self._live:
            self._clear()
            print(text, end="", flush=True)
            self._width = len(text)
        elif time.monotonic() >= self._next_plain or is_last:
            print(text, flush=True)
            self._next_plain = time.monotonic() + self._plain_seconds

    def _clear(self) -> None:
        if self._live and self._width:
            print("\r" + " " * self._width + "\r", end="")
            self._width = 0


def left_out(dataset: "Dataset", teller: Teller, rest: str = "") -> None:
    """Say once how many pictures a set lost on the way, and why; `rest`: where those stand that are not shown."""
    if dataset.skipped:
        lost = len(dataset.skipped)
        more = f" (the first {_SHOWN} of them{rest})" if lost > _SHOWN else ""
        teller.say_once(f"  left out {lost:,} of {lost + len(dataset):,}{more}")
        for name, reason in dataset.skipped[:_SHOWN]:
            teller.say_once(f"    {name}: {reason}")


def _status(line: dict[str, Any]) -> str:
    seen, total = line["images_seen"], line["total_images"]
    speed = max(line["images_per_second"], 1e-9)
    known = {name: value for name, value in line["losses"].items() if value is not None}
    whole = {name.removesuffix("/loss"): value for name, value in known.items() if name.endswith("/loss")}
    parts = {name.rpartition("/")[2].replace("_", " "): value for name, value in list(known.items())[:_MOST_PARTS]}
    losses = "  ".join(f"{name} {value:.2f}" for name, value in (whole or parts).items())
    stage = line.get("progress") or {}
    size = f"{stage['resolution']:.0f} px  alpha {stage['alpha']:.2f}  " if "alpha" in stage else ""
    sign = line["stats"].get("real_sign")
    sign_text = "" if sign is None else f"  D(real) {sign:+.2f}"
    return (
        f"{seen:>9,} of {total:,} images  {min(seen / max(total, 1), 1):4.0%}  {size}{speed:.1f} img/s  "
        f"{words(max(total - seen, 0) / speed)} left  {losses}{sign_text}  {line['memory_mb']} MB"
    )


def words(seconds: float | int) -> str:
    """A time in words: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
