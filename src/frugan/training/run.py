"""A training as its user starts it: a run folder, prepared pictures, a fitted recipe, and going on where it stopped."""

import contextlib
import dataclasses
import datetime
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import frugan
from frugan import checkpoint as checkpoints
from frugan.data import write
from frugan.data.dataset import Dataset
from frugan.evaluation import quick_score
from frugan.model import Model, describe_nets, load
from frugan.training import grids, report
from frugan.training.classes import require_classes
from frugan.training.door import Published, Publisher, Task
from frugan.training.facts import (
    check_same,
    device_name,
    machine_facts,
    made_of,
    memory_mb,
    model_card,
    picture_facts,
)
from frugan.training.feed import open_feeds
from frugan.training.folder import RunError, RunFolder
from frugan.training.grids import judged
from frugan.training.held_out import Split, hold_out, overfitting
from frugan.training.history import read_history
from frugan.training.loop import Loop, Progress, TrainingError, Verdict, resolve_precision
from frugan.training.ranks import Ranks, close_ranks, open_ranks
from frugan.training.recipe import Recipe
from frugan.training.scores import SnapshotScores
from frugan.training.tasks.semantic import SemanticConfig

_COLLAPSE_SHARE, _GROWN_SHARE, _PLATEAU_GAIN = 0.1, 0.25, 0.01
Teller = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a training ended: `reason` is finished, stopped, plateau or already finished; `signal` stopped it."""

    run: Path
    reason: str
    images_seen: int
    seconds: float
    signal: int | None = None


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a training starts from, beside its recipe: `parent` (a model to continue from), where and how it is told.

    `force` goes on although settings or pictures have changed. `pictures` is the place of the whole set as the user
    gave it, where its streams lie in places of their own. `tell` gets every status line and event.
    """

    parent: str | None = None
    device: str = "auto"
    force: bool = False
    command: str = ""
    pictures: str | None = None
    licence: str | None = None
    tell: Teller = lambda line: None


def train(run: Path, recipe: Recipe, data: Mapping[str, Dataset], start: Start = Start()) -> Outcome:
    """Begin a training in the folder `run`, or go on with the one that is there, to the recipe's number of images.

    The recipe must fit the pictures (see `fit`). Killed at any moment, the same call goes on from the last checkpoint,
    on a CPU with the same number of threads to bit-identical weights.
    Raises RunError (settings or pictures differ from what the run was begun with), TrainingError (cannot go on),
    OSError (disk full; the last checkpoint is intact).
    """
    ranks = open_ranks(start.device)
    try:
        folder = RunFolder(run)
        scores = SnapshotScores(
            recipe.training, judged(data, hold_out(data, recipe.training.hold_out))[1], ranks.device
        )
        if ranks.is_first:
            folder.create()
        ranks.barrier()
        with folder.lock() if ranks.is_first else contextlib.nullcontext():
            check_same(folder, recipe, data, start.force)
            ranks.barrier()
            return _train(folder, recipe, data, start, ranks, scores)
    finally:
        close_ranks()


def fit(recipe: Recipe, data: Mapping[str, Dataset]) -> Recipe:
    """The recipe with networks for the size, channels and classes of these pictures, and its epochs counted in images.

    An epoch is one of the largest set, pictures that will be held out included; at least ten snapshots are taken then.
    Raises RunError where its task needs classes (`needs_classes`) that the pictures do not have.
    """
    require_classes(recipe, data)
    training = recipe.training
    if training.epochs is not None:
        training = training.lasting(training.epochs * max(len(dataset) for dataset in data.values()))
        snapshot = min(training.snapshot_images, max(training.total_images // 10, 1))
        training = dataclasses.replace(training, snapshot_images=snapshot)
    return dataclasses.replace(recipe, task=recipe.task.fit(data), training=training)


def _train(
    folder: RunFolder,
    recipe: Recipe,
    data: Mapping[str, Dataset],
    start: Start,
    ranks: Ranks,
    scores: SnapshotScores,
) -> Outcome:
    torch.manual_seed(recipe.training.seed)
    pictures = hold_out(data, recipe.training.hold_out)
    task = recipe.task.build(pictures.learned, recipe.training.batch)
    if ranks.is_first:  # settings that no task can be built from leave no run behind
        folder.begin(recipe)
    journal = Journal(folder, recipe, data, pictures, start, ranks, task, scores)
    feeds = open_feeds(pictures.learned, recipe.training.seed, ranks.device)
    loop = Loop(task, recipe.optimisers, recipe.training, feeds, ranks, journal)
    resumed = journal.resume(loop)
    if not resumed and start.parent is not None:
        parent = load(start.parent)
        journal.parent_licence = parent.info.get("licence")
        journal.note(loop, "started_from", adopt(task, parent, start.parent))
        for name, net in loop.average.nets.items():
            net.load_state_dict(task.nets[name].state_dict())
    journal.open(loop)
    if not resumed:
        notes = recipe.task.notes if isinstance(recipe.task, SemanticConfig) else ()
        for text in (*notes, *grids.notes(pictures.learned)):
            journal.note(loop, "note", text)
    if resumed and loop.ended() is not None and journal.is_closed():
        reason = "already finished"
    else:
        with _signals(journal):
            reason = _run(loop, journal)
        journal.say_end(loop, reason)
    journal.write_pages(reason)
    progress = loop.progress
    return Outcome(
        run=folder.path,
        reason=reason,
        images_seen=progress.images_seen,
        seconds=progress.seconds,
        signal=journal.signal,
    )


def _run(loop: Loop, journal: "Journal") -> str:
    try:
        return loop.run()
    except TrainingError as error:
        journal.note(loop, "failed", str(error))
        raise


def adopt(task: Task, parent: Model, name: str) -> str:
    """Take over every weight of `parent` that fits the task's networks by name and shape; one line saying how much.

    Raises RunError where nothing fits.
    """
    sources = {"generator": parent.generator, "discriminator": parent.discriminator, "reverse": parent.reverse}
    parts = []
    for role, source in sources.items():
        if source is None or role not in task.nets:
            continue
        own, given = task.nets[role].state_dict(), source.state_dict()
        fitting = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
        task.nets[role].load_state_dict({**own, **fitting})
        parts.append(f"{len(fitting)} of {len(own)} tensors of the {role}")
        if not fitting:
            raise RunError(f"no weight of the {role} of {name} fits this recipe; use the recipe it was trained with")
    return f"started from {name}: {' and '.join(parts)}"


class Journal:
    """Writes what happens into the run folder and tells it to whoever listens."""

    def __init__(
        self,
        folder: RunFolder,
        recipe: Recipe,
        data: Mapping[str, Dataset],
        pictures: Split,
        start: Start,
        ranks: Ranks,
        task: Task,
        scores: SnapshotScores,
    ) -> None:
        self._scores = scores
        self._folder, self._recipe, self._data, self._start = folder, recipe, data, start
        self._ranks, self._task = ranks, task
        self._pictures = pictures
        self._sources, self._reals = judged(data, pictures)
        self.parent_licence: str | None = None
        self.signal: int | None = None

    # -- beginning and end --------------------------------------------------------------------------------------------

    def resume(self, loop: Loop) -> bool:
        """Load the newest checkpoint that is whole; False where there is none. Says which ones were damaged."""
        problems, found = self._load_newest(loop)
        if problems and not found:
            raise TrainingError("every checkpoint of this run is damaged: " + "; ".join(problems))
        if self._ranks.is_first:
            self._folder.cut_log(loop.progress.images_seen if found else -1)
        if found and loop.ended() is None:
            self.note(loop, "resumed", f"going on from {loop.progress.images_seen} images")
        for problem in problems:
            self.note(loop, "damaged", f"{problem}; fell back to {found}")
        return bool(found)

    def _load_newest(self, loop: Loop, before: int | None = None) -> tuple[list[str], str]:
        """Load the newest whole checkpoint; what was wrong with newer ones, and its name, empty where there is none."""
        problems: list[str] = []
        newest = None
        if self._ranks.is_first:
            newest = next(checkpoints.newest_first(self._folder.checkpoints, problems, before), None)
        found = self._ranks.broadcast("" if newest is None else newest.path.name)
        if found:
            checkpoint = newest or checkpoints.load(self._folder.checkpoints / found)
            loop.load_state(checkpoint.info["loop"], checkpoint.parts)
        return problems, found

    def open(self, loop: Loop) -> None:
        """Write recipe and facts, and the grid of reals."""
        if not self._ranks.is_first:
            return
        self._folder.write_recipe(self._recipe)
        known = self._folder.read_facts()
        facts = self._facts(loop, known)
        if known and known["machine"] != facts["machine"]:
            changes = [
                f"{key} {known['machine'].get(key)} -> {value}"
                for key, value in facts["machine"].items()
                if known["machine"].get(key) != value
            ]
            self.note(loop, "machine", "not bit for bit from here on: " + ", ".join(changes))
        self._folder.write_facts(facts)
        path = self._folder.grids / "reals.png"
        if not path.exists():
            write.save_png(path, grids.reals(self._pictures.learned, self._recipe.training))

    def _facts(self, loop: Loop, known: Mapping[str, Any]) -> dict[str, Any]:
        held_out = len(next(iter(self._pictures.held.values()), ()))
        counts = {name: sum(p.numel() for p in net.parameters()) for name, net in loop.task.nets.items()}
        return {
            "name": self._folder.path.name,
            "created": known.get("created") or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "frugan": frugan.__version__,
            "torch": torch.__version__,
            "device": device_name(self._ranks.device),
            "threads": torch.get_num_threads(),
            "machine": machine_facts(self._ranks),
            "precision": resolve_precision(self._recipe.training.precision, self._ranks.device),
            "data": picture_facts(self._data, held_out, self._start.pictures, self._start.licence),
            "fingerprints": {name: dataset.fingerprint for name, dataset in self._data.items()},
            "model": {"parameters": counts},
            "command": known.get("command") or self._start.command,
            "parent": known.get("parent") or self._start.parent,
            "parent_licence": known.get("parent_licence") or self.parent_licence,
        }

    def is_closed(self) -> bool:
        """Whether the last words were said: a run can be killed between its last checkpoint and them."""
        closed = read_history(self._folder.log).ended in ("finished", "plateau") if self._ranks.is_first else False
        return self._ranks.broadcast(str(closed)) == "True"

    def say_end(self, loop: Loop, reason: str) -> None:
        """The last words."""
        texts = {
            "finished": f"finished after {loop.progress.images_seen} images",
            "stopped": f"stopped at {loop.progress.images_seen} images; the same command goes on",
            "plateau": f"stopped at {loop.progress.images_seen} images: the score no longer improves; a larger "
            "--set training.plateau_images goes on",
        }
        self.note(loop, reason, texts[reason])

    def write_pages(self, reason: str) -> None:
        """The film and the report; again for a run that was finished before, which may have been killed at this."""
        if self._ranks.is_first:
            if reason != "stopped":
                report.write_progress_video(self._folder.path)
            report.write_report(self._folder.path)

    # -- what the loop tells ------------------------------------------------------------------------------------------

    def note(self, loop: Loop, kind: str, text: str) -> None:
        """Log an event and tell it."""
        if self._ranks.is_first:
            line = {"event": kind, "images_seen": loop.progress.images_seen, "text": text}
            self._folder.append(line)
            self._start.tell(line)

    event = note

    def status(self, loop: Loop, stats: Mapping[str, float], images_per_second: float) -> None:
        """Log a line of numbers and tell it."""
        if not self._ranks.is_first:
            return
        losses = {name: value for name, value in stats.items() if "/" in name}
        line = {
            **self._when(loop),
            "images_per_second": round(images_per_second, 3),
            "seconds_per_kimg": round(1000 / images_per_second, 3),
            "memory_mb": round(memory_mb(self._ranks.device)),
            "losses": {name: _finite(value) for name, value in losses.items()},
            "stats": {name: _finite(value) for name, value in stats.items() if name not in losses},
            "progress": dict(loop.task.plan(loop.progress.images_seen).progress),
        }
        self._folder.append(line)
        self._start.tell({**line, "total_images": self._recipe.training.total_images})

    def _when(self, loop: Loop) -> dict[str, Any]:
        progress = loop.progress
        return {
            "images_seen": progress.images_seen,
            "iteration": progress.iteration,
            "seconds": round(progress.seconds, 3),
            "time": round(time.time(), 3),
        }

    def snapshot(self, loop: Loop) -> Verdict:
        """Grid, score and checkpoint; the first rank's findings hold for all."""
        published = self._published(loop)
        looked = self._look(loop, published) if self._ranks.is_first else None
        found = json.loads(self._ranks.broadcast(json.dumps(looked)))
        progress, spread, scores = loop.progress, found["fake_spread"], found["scores"]
        progress.evaluation_seconds += found["seconds"]
        peak = progress.reference_spread
        is_varied = peak > _GROWN_SHARE * found["real_spread"] > 0  # a single real picture says nothing
        if is_varied and spread < _COLLAPSE_SHARE * peak:
            return Verdict(collapsed=f"samples became alike (spread {spread:.4f}, was {peak:.4f})")
        progress.reference_spread = max(peak, spread)
        self._rank(progress, scores)
        self._store(loop, published, scores)
        if self._ranks.is_first:
            report.write_report(self._folder.path)
        return Verdict()

    def _rank(self, progress: Progress, scores: Mapping[str, float]) -> None:
        """Note a snapshot that is better than the best so far; one that was not scored by the leading score is not.

        The best of an earlier stage of growing is no rival: its pictures are smaller ones.
        """
        name, known = self._scores.name, progress.best_score
        score = scores.get(name)
        if score is None:
            return
        stages = {self._task.plan(seen).reset_moments for seen in (progress.best_images, progress.images_seen)}
        if (
            known is None
            or len(stages) > 1
            or progress.best_metric != name
            or score < known - _PLATEAU_GAIN * abs(known)
        ):
            progress.best, progress.best_score = f"{progress.images_seen:09d}", score
            progress.best_images, progress.best_metric = progress.images_seen, name

    def _published(self, loop: Loop) -> Published | None:
        """What a `Publisher` gives out now, made by the first process alone."""
        if not self._ranks.is_first or not isinstance(self._task, Publisher):
            return None
        return self._task.published(loop.average.nets)

    def _model(self, loop: Loop, published: Published | None) -> Model:
        if published is not None and isinstance(self._task, Publisher):
            return self._task.as_model(published)
        return self._task.eval_model(loop.average.nets, loop.progress.images_seen)

    def _look(self, loop: Loop, published: Published | None) -> dict[str, Any]:
        progress = loop.progress
        model = self._model(loop, published)
        path = self._folder.grids / f"fakes-{progress.images_seen:09d}.png"
        sheet = grids.fakes(model, self._recipe.training, self._pictures)
        write.save_png(path, sheet, {"frugan:images_seen": str(progress.images_seen)})
        if self._sources is not None:
            model = model.on(self._sources)
        evaluation = quick_score(model, self._reals, self._recipe.training.score_images)
        stats = {"fake_spread": evaluation.fake_spread, **self._overfitting(model)}
        if evaluation.nearest_neighbour_ratio is not None:
            stats["nearest_neighbour_ratio_16px"] = evaluation.nearest_neighbour_ratio
        scores, seconds = dict(evaluation.scores), 0.0
        if self._scores.is_due(progress):
            found, seconds = self._scores.score(model, self._working(progress.images_seen))
            scores |= {name: value for name, value in found.items() if math.isfinite(value)}
            stats["evaluation_seconds"] = seconds
        line = {**self._when(loop), "scores": scores, "stats": stats}
        self._folder.append(line)
        self._start.tell({**line, "grid": str(path)})
        return {
            "scores": scores,
            "seconds": seconds,
            "fake_spread": evaluation.fake_spread,
            "real_spread": evaluation.real_spread,
        }

    def _working(self, images_seen: int) -> Callable[[int, int, str], None]:
        def tell(done: int, total: int, text: str) -> None:
            self._start.tell({"images_seen": images_seen, "working": text, "done": done, "total": total})

        return tell

    def _overfitting(self, model: Model) -> dict[str, float]:
        (learned, held), name = self._pictures, next(iter(self._data))
        if model.is_translator or name not in held:  # of translations the scores tell it, taken on sources kept aside
            return {}
        return overfitting(model, learned[name], held[name], self._recipe.training.batch)

    def checkpoint(self, loop: Loop) -> None:
        """Write a checkpoint and delete the oldest ones."""
        self._store(loop, self._published(loop), {})

    def _store(self, loop: Loop, published: Published | None, scores: Mapping[str, float]) -> None:
        if not self._ranks.is_first:
            return
        state, parts = loop.state()
        progress = loop.progress
        parts_of = {name: "ema" if name in loop.average.nets else "net" for name in self._task.nets}
        shown = {f"{parts_of[name]}.{name}": (name, net) for name, net in self._task.nets.items()}
        if published is not None:
            made = {f"made.{name}": (name, net) for name, net in published.nets.items()}
            parts |= {part: net.state_dict() for part, (_, net) in made.items()}
            shown |= made  # the table has one network a role, the last one named
        table = describe_nets(shown)
        facts = self._folder.read_facts()
        info = {
            "models": table,
            "loop": state,
            "recipe": self._recipe.name,
            "images_seen": progress.images_seen,
            "seconds": progress.seconds,
            "class_names": list(made_of(self._data).class_names),
            "data": facts.get("data", {}),
            "parent": facts.get("parent"),
            "licence": facts.get("parent_licence"),
            "scores": dict(scores),
            "best": progress.best,
        }
        if published is not None:
            info |= published.info
        stage = dict(self._task.plan(progress.images_seen).progress)
        if "resolution" in stage:
            info["stage"] = stage
        name = f"{progress.images_seen:09d}"
        checkpoints.save(self._folder.checkpoints / name, info, parts, model_card(info))
        protected = [progress.best or name, name if progress.sound is None else f"{progress.sound:09d}"]
        checkpoints.clean(self._folder.checkpoints, name, self._recipe.training.keep_checkpoints, protected)

    def restore(self, loop: Loop, before: int) -> None:
        """Load the newest whole checkpoint of fewer than `before` images, and drop those after it."""
        _, found = self._load_newest(loop, before)
        if not found:
            raise TrainingError("there is no older checkpoint to go back to")
        if self._ranks.is_first:
            checkpoints.drop_after(self._folder.checkpoints, found)
            self._folder.cut_log(loop.progress.images_seen)

    def stop_requested(self) -> bool:
        """Whether Ctrl-C or SIGTERM came."""
        return self.signal is not None

    def request_stop(self, number: int) -> None:
        """Stop after this iteration, with a checkpoint, because of this signal."""
        self.signal = number


@contextlib.contextmanager
def _signals(journal: Journal) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a stop; a second one ends the process at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if journal.stop_requested():
            sys.exit(128 + number)
        journal.request_stop(number)

    try:
        old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever started it there stops it there
        yield
        return
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
