"""What to say about a run in words: where it stands, what its numbers mean, what to do next."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frugan.training.history import History, read_facts, read_history, sample_grids

_QUIET_SECONDS = 900
_REAL_SIGN_HINT = 0.85
_COPY_RATIO, _R_V_HINT = 0.5, 0.5


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder, read: facts and recipe as plain data (empty where missing), its log, its sample grids.

    `state` is one of: not begun, in progress, interrupted, finished, stopped, plateau, failed.
    """

    folder: Path
    facts: dict[str, Any]
    recipe: dict[str, Any]
    history: History
    grids: list[tuple[int, Path]]
    state: str

    @property
    def name(self) -> str:
        """Its name, else that of the folder."""
        return str(self.facts.get("name") or self.folder.name)

    @property
    def data(self) -> dict[str, Any]:
        """The facts about the training pictures."""
        return _table(self.facts.get("data"))

    @property
    def translates(self) -> bool:
        """Whether it makes pictures of pictures: it learns from sources and targets."""
        return "source" in _table(self.recipe.get("data"))

    @property
    def total_images(self) -> int | None:
        """How many pictures the recipe plans to show."""
        total = _table(self.recipe.get("training")).get("total_images")
        return total if isinstance(total, int) and total > 0 else None


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def read_run(folder: Path) -> Run:
    """Everything a run folder tells, whatever is missing or torn. Raises FileNotFoundError where it is not a folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no run folder {folder}")
    history = read_history(folder / "log.jsonl")
    return Run(
        folder=folder.resolve(),
        facts=read_facts(folder / "run.json"),
        recipe=read_facts(folder / "recipe.json"),
        history=history,
        grids=sample_grids(folder),
        state=_state(history, folder / "log.jsonl"),
    )


def _state(history: History, log: Path) -> str:
    if history.ended is not None:
        return history.ended
    if not history.lines:
        return "not begun"
    # Nobody can say that a process was killed; a log that was not touched for long is the sign of it.
    quiet = time.time() - log.stat().st_mtime
    return "in progress" if quiet < _QUIET_SECONDS else "interrupted"


def duration(seconds: int | float) -> str:
    """A length of time in words: 45 s, 12 min, 2 h 05 min, 3 d 4 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def verdict(run: Run) -> str:
    """One or two sentences: how it ended, after how long, how many pictures, the best score."""
    history = run.history
    if not history.images_seen:
        return "Nothing has been trained in this folder yet."
    seen = f"{history.images_seen:,} pictures shown"
    if run.total_images and history.images_seen < run.total_images:
        seen += f" of {run.total_images:,} planned"
    lead = {
        "finished": "Finished after {time}",
        "stopped": "Stopped on request after {time}",
        "plateau": "Stopped by itself after {time}, as the score no longer improved",
        "failed": "Failed after {time}",
        "in progress": "In progress for {time}",
        "interrupted": "Interrupted after {time}",
    }[run.state].format(time=duration(history.seconds))
    bests = history.best_scores()
    score = ""
    if bests:
        score = f" Best {bests[0].name}: {bests[0].value:.4g}, reached at {bests[0].images_seen:,}."
    return f"{lead}: {seen}.{score}"


def memory(run: Run) -> str:
    """Whether it copies its training pictures, as far as its log tells; empty where it tells nothing about that."""
    stats, said = run.history.group("stats"), []
    ratios = [name for name in stats if name.startswith("nearest_neighbour_ratio")]
    for name in ratios[-1:]:
        ratio = stats[name].y[-1]
        verdict = "copies are likely" if ratio < _COPY_RATIO else "no sign of copies"
        said.append(
            f"Generated pictures lie {ratio:.2f} times as far from the nearest training picture as training pictures "
            f"lie from each other ({name.removeprefix('nearest_neighbour_ratio_').replace('_', ' ')}): {verdict}."
        )
    if "overfitting_r_v" in stats:
        ratio = stats["overfitting_r_v"].y[-1]
        verdict = "it knows its set by heart" if ratio > _R_V_HINT else "it does not just learn by heart"
        said.append(
            f"On {run.data.get('held_out', 'some')} pictures kept aside the discriminator is {max(ratio, 0):.0%} of "
            f"the way from training pictures to generated ones: {verdict}."
        )
    elif run.data.get("held_out") == 0 and run.history.images_seen:
        said.append(
            "No pictures were kept aside (sets of fewer than 20 are used whole), so whether it learns by heart cannot "
            "be told: look for copies in the grids."
        )
    return " ".join(said)


def hints(run: Run) -> list[str]:
    """What the numbers say that a newcomer would not see."""
    history, found = run.history, []
    for name, series in history.group("stats").items():
        late = series.y[-max(len(series.y) // 10, 1) :]
        mean = sum(late) / len(late)
        if name.endswith("real_sign") and len(series.y) >= 20 and mean > _REAL_SIGN_HINT:
            found.append(
                f"The discriminator is nearly certain of every training picture ({name} {mean:.2f}): it "
                "may know them by heart. Then more pictures or stronger augmentation help, and more time does not."
            )
    for best in history.best_scores()[:1]:
        if best.loss_since > 0.2 and best.images_seen < history.images_seen:
            found.append(
                f"The last {best.name} is {best.loss_since:.0%} worse than the best one, at {best.images_seen:,} "
                "pictures: compare the samples of the two."
            )
    rollbacks = sum(event.kind == "rollback" for event in history.events)
    if rollbacks:
        found.append(
            f"The training went back to an older checkpoint {rollbacks} time{'s' * (rollbacks > 1)}: see below."
        )
    return found


def next_commands(
    run: Path, command: str | Sequence[str] | None, state: str, translates: bool = False
) -> list[tuple[str, str]]:
    """(what it does, command line) of what a reader may want next, quoted for a shell.

    `command` is the command line that made the run, as text or as a list of words; `translates` as in `Run`.
    """
    here = shlex.quote(str(run))
    found = [
        ("Make pictures", f"frugan sample {here} -n 64"),
        ("Wander from picture to picture", f"frugan sample {here} --to gif --out walk.gif"),
        ("Make many pictures, as one file", f"frugan sample {here} -n 1000 --to zip --out samples.zip"),
        ("See what is in this folder", f"frugan info {here}"),
    ]
    if translates:
        found = [
            ("Translate your own pictures", f"frugan translate {here} PICTURES translated --gallery"),
            ("Score it, on its part for tests where there is one", f"frugan evaluate {here}"),
            ("Write it as a file that runs without torch", f"frugan export {here} --to onnx"),
            ("See what is in this folder", f"frugan info {here}"),
        ]
    if state == "not begun":
        found = []
    words = _words(command)
    if words and state != "finished":
        what = {"not begun": "Begin", "in progress": "Should it stop, go on"}.get(state, "Go on where it stopped")
        found.insert(0, (f"{what}: the same command again", shlex.join(words)))
    elif words:
        found.insert(3, ("Train longer", f"{shlex.join(_without_images(words))} --images +200k"))
    return found


def _words(command: str | Sequence[str] | None) -> list[str]:
    if not isinstance(command, str):
        return [str(word) for word in command or ()]
    try:
        return shlex.split(command)
    except ValueError:  # an open quote
        return command.split()


def _without_images(words: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        if not skip and not word.startswith("--images="):
            skip = word == "--images"
            if not skip:
                kept.append(word)
        else:
            skip = False
    return kept
