"""A run folder: where its files are, who may write to it, and its log."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frugan.checkpoint import replace_file
from frugan.config import from_dict, to_dict
from frugan.data.write import explained
from frugan.training.recipe import Recipe


class RunError(ValueError):
    """A run folder that cannot be used as asked: says why and what to do."""


class RunFolder:
    """The files of one training, by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe, self.facts, self.log = path / "recipe.json", path / "run.json", path / "log.jsonl"
        self.checkpoints, self.grids = path / "checkpoints", path / "grids"

    @property
    def exists(self) -> bool:
        """Whether a training was begun here."""
        return self.recipe.is_file()

    def create(self) -> None:
        """Make the folder. Raises RunError where it holds files of something else."""
        if self.path.is_file():
            raise RunError(f"{self.path} is a file; choose another --out")
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if not self.exists and any(not child.name.startswith(".") for child in self.path.iterdir()):
            raise RunError(f"{self.path} holds files but no run of ours; choose an empty or new folder with --out")

    def begin(self, recipe: Recipe) -> None:
        """Make what is missing in it, the recipe first, by which a run is known; sweep up after interrupted writes."""
        if not self.exists:
            self.write_recipe(recipe)
        with explained(self.path):
            for folder in (self.checkpoints, self.grids):
                folder.mkdir(exist_ok=True)
        for part in (*self.path.glob(".*.part"), *self.grids.glob(".*.part")):
            part.unlink(missing_ok=True)

    def read_recipe(self) -> Recipe:
        """The recipe this run was begun with. Raises RunError where it cannot be read."""
        try:
            return from_dict(Recipe, json.loads(self.recipe.read_bytes()))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.recipe} cannot be read ({error}); start a new run with another --out") from None

    def write_recipe(self, recipe: Recipe) -> None:
        """Keep the recipe, as JSON."""
        replace_file(self.recipe, json.dumps(to_dict(recipe), indent=1).encode())

    def read_facts(self) -> dict[str, Any]:
        """What was noted about data, machine and command; empty before the first start."""
        try:
            facts = json.loads(self.facts.read_bytes())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Keep those notes."""
        replace_file(self.facts, json.dumps(facts, indent=1).encode())

    def append(self, line: dict[str, Any]) -> None:
        """Add one line to the log."""
        with explained(self.log), self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def cut_log(self, images_seen: int) -> None:
        """Forget the lines of the log beyond this point, and a half-written last one: they will be written again."""
        if not self.log.is_file():
            return
        kept = []
        for text in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and line.get("images_seen", 0) <= images_seen:
                kept.append(text)
        replace_file(self.log, "".join(text + "\n" for text in kept).encode())

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others from training in this folder; the lock is gone when the process ends, however it ends."""
        path = self.path / ".lock"
        with path.open("a+") as file:
            if not _try_lock(file.fileno()):
                raise RunError(f"another process is training in {self.path}; wait for it or choose another --out")
            yield


if os.name == "nt":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
