"""What every claim shares: trials that can be stopped and gone on with, measures at fixed points, a page of results.

Time is processor time: what else runs on the machine does not count, and neither do grids, scores and checkpoints.
"""

import dataclasses
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import frugan
from frugan.checkpoint import replace_file
from frugan.config import to_dict
from frugan.data import Dataset, write
from frugan.data.write import Picture
from frugan.model import Model, load
from frugan.training.recipe import Recipe, TrainingConfig
from frugan.training.run import Start, train
from frugan.training.tasks.grow import GrowConfig

Size = Literal["smoke", "cpu", "gpu", "full"]
Say = Callable[[str], None]
Measures = dict[str, float]
Over = Literal["images_seen", "seconds"]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where models are trained and measured."""
Sums = dict[str, tuple[float, float]]
"""Images and processor seconds, by the stage of growing."""
ERROR = ", standard error"
"""How the name of a measure goes on that is the standard error of another, over pictures."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a claim: the arm of the comparison it belongs to, its seed, its recipe and its pictures.

    Trials of one `pace` cost the same time per image in the same stage of growing, which is measured over all of them
    (None: those of one arm do).
    """

    arm: str
    seed: int
    recipe: Recipe
    data: Mapping[str, Dataset]
    pace: str | None = None

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"{self.arm}-seed{self.seed}".replace(" ", "-").replace("/", "-")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured in one trial after so many images, and processor `seconds` of training."""

    arm: str
    seed: int
    images_seen: int
    measures: Measures
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came out: the verdict on the claim, in one word and in sentences."""

    verdict: Literal["held", "did not hold", "mixed", "not decided"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A sheet of pictures: what `draw` makes of each arm's last model, of the first seed, and words that explain it."""

    draw: Callable[[Mapping[str, Model], Size], Picture]
    text: str


def samples_side_by_side(models: Mapping[str, Model], size: Size) -> Picture:
    """The pictures of the first seeds, a row for each arm."""
    return write.labelled_grid([(arm, model.sample(range(12))) for arm, model in models.items()])


SAMPLES = Sheet(
    draw=samples_side_by_side,
    text="One row per arm, the same seeds in every row (psi 1, averaged weights, the last checkpoint):",
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim. `trials` and `measure` are given the size; `protocol` says in words how the measures were made.

    `measure` sees the model of a checkpoint and its trial. `aside` measures once what belongs to no training; what is
    named like a measure and " of ..." is a line across its plot. `shown`: how the names of the measures begin that are
    plotted. Arms are compared and plotted `over` images or time.
    """

    name: str
    question: str
    source: str
    shown: tuple[str, ...]
    trials: Callable[[Size], list[Trial]]
    measure: Callable[[Model, Trial, Size], Measures]
    conclude: Callable[[Sequence[Row], Measures], Finding]
    protocol: Callable[[Size], str]
    aside: Callable[[Size], Measures] | None = None
    over: Over = "images_seen"
    sheet: Sheet = SAMPLES
    sizes: tuple[Size, ...] = ("smoke", "cpu", "full")


def run_trial(claim: Claim, trial: Trial, size: Size, work: Path, say: Say) -> tuple[list[Row], float]:
    """Train one trial and measure its kept checkpoints, or go on with it: its rows, and the seconds it trained."""
    run = work / claim.name / size / trial.name
    say(f"{trial.name}: {trial.recipe.training.total_images:,} images")
    watch = _Watch(run / "pace.json", _short(say))
    outcome = train(run, trial.recipe, trial.data, Start(device="auto", tell=watch.tell))
    if outcome.reason == "stopped":
        raise SystemExit(f"{trial.name} was stopped: the same command goes on")
    return _measured(claim, trial, run, size, say)


def run_claim(claim: Claim, size: Size, work: Path, results: Path, say: Say) -> Finding:
    """Train every trial, measure every kept checkpoint, write the page; called again, it goes on where it stopped.

    `work` holds the trainings, `results` gets NAME.md, its table as JSON, the plot and a sheet of samples.
    """
    trials, rows, seconds, folder = claim.trials(size), [], 0.0, work / claim.name / size
    aside = _aside(claim, size, folder)
    for trial in trials:
        measured, spent = run_trial(claim, trial, size, work, say)
        rows += measured
        seconds += spent
    paces = _paces(trials, folder)
    rows = _timed(rows, trials, paces)
    finding = claim.conclude(rows, aside)
    if size == "smoke":  # it shows that the claim can be run, no more
        finding = dataclasses.replace(finding, verdict="not decided")
    _write(claim, size, trials, rows, finding, aside, paces, seconds, work, results)
    say(f"{claim.name}: {finding.verdict}. {finding.text}")
    return finding


def _short(say: Say) -> Callable[[dict[str, object]], None]:
    begun = time.monotonic()

    def tell(line: dict[str, object]) -> None:
        if "scores" in line or line.get("event") in ("resumed", "rollback", "failed"):
            what = line.get("text") or line.get("scores")
            say(f"    {line['images_seen']:>9,} images, {time.monotonic() - begun:.0f} s: {what}")

    return tell


def _aside(claim: Claim, size: Size, folder: Path) -> Measures:
    kept = folder / "aside.json"
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        found = {} if claim.aside is None else claim.aside(size)
        replace_file(kept, json.dumps(found, indent=1).encode())
    known: Measures = json.loads(kept.read_bytes())
    return known


def _measured(claim: Claim, trial: Trial, run: Path, size: Size, say: Say) -> tuple[list[Row], float]:
    """The rows of a trial, each measured once and kept beside its checkpoints; and the seconds it trained."""
    kept = run / "measures.json"
    known: dict[str, Measures] = json.loads(kept.read_bytes()) if kept.is_file() else {}
    seconds = 0.0
    for checkpoint in sorted((run / "checkpoints").iterdir()):
        if not _is_measured(int(checkpoint.name), trial.recipe.training):
            continue
        model = load(checkpoint, device=DEVICE)
        seconds = max(seconds, float(model.info["seconds"]))
        if checkpoint.name not in known:
            known[checkpoint.name] = claim.measure(model, trial, size)
            replace_file(kept, json.dumps(known, indent=1).encode())
            shown = ", ".join(f"{name} {value:.4g}" for name, value in known[checkpoint.name].items())
            say(f"    at {int(checkpoint.name):,}: {shown}")
    rows = [Row(arm=trial.arm, seed=trial.seed, images_seen=int(name), measures=found) for name, found in known.items()]
    return sorted(rows, key=lambda row: row.images_seen), seconds


def _is_measured(images_seen: int, config: TrainingConfig) -> bool:
    """Whether a checkpoint is a snapshot's: others are from stops on the way, or of a run that was once longer."""
    every, batch = config.snapshot_images, config.batch
    return batch < images_seen < config.total_images + batch and images_seen // every > (images_seen - batch) // every


# ---- time -----------------------------------------------------------------------------------------------------------


class _Watch:
    """Adds up images and processor seconds of a training, by stage, from one line of status to the next.

    Only where nothing came between the two, such as a snapshot, and the stage was the same. The sums are kept at
    `path`: a training that is stopped goes on with them.
    """

    def __init__(self, path: Path, tell: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._tell = path, tell
        self._sums = _read_sums(path)
        self._last: tuple[str, int, float] | None = None

    def tell(self, line: dict[str, Any]) -> None:
        """Take a line of status, or an event, and pass it on."""
        self._tell(line)
        if "images_per_second" not in line:
            self._last = None
            return
        stage = _stage(line["progress"].get("resolution"), line["progress"].get("alpha", 1.0))
        now = (stage, int(line["images_seen"]), time.process_time())
        if self._last is not None and self._last[0] == stage:
            images, seconds = self._sums.get(stage, (0.0, 0.0))
            self._sums[stage] = images + now[1] - self._last[1], seconds + now[2] - self._last[2]
            replace_file(self._path, json.dumps(self._sums, indent=1).encode())
        self._last = now


def _read_sums(path: Path) -> Sums:
    if not path.is_file():
        return {}
    return {stage: (images, seconds) for stage, (images, seconds) in json.loads(path.read_bytes()).items()}


def _stage(resolution: int | None, alpha: float) -> str:
    if resolution is None:
        return "whole"
    return f"{resolution} px" if alpha >= 1 else f"{resolution} px fading in"


def _paces(trials: Sequence[Trial], folder: Path) -> dict[str, Sums]:
    """What each pace's trials took together."""
    paces: dict[str, Sums] = {}
    for trial in trials:
        pooled = paces.setdefault(trial.pace or trial.arm, {})
        for stage, (images, seconds) in _read_sums(folder / trial.name / "pace.json").items():
            before = pooled.get(stage, (0.0, 0.0))
            pooled[stage] = before[0] + images, before[1] + seconds
    return paces


def _timed(rows: Iterable[Row], trials: Sequence[Trial], paces: Mapping[str, Sums]) -> list[Row]:
    """The rows with the seconds that their trainings took until there."""
    of_trial = {(trial.arm, trial.seed): trial for trial in trials}
    timed = []
    for row in rows:
        trial = of_trial[row.arm, row.seed]
        seconds = _seconds(trial.recipe, row.images_seen, paces[trial.pace or trial.arm])
        timed.append(dataclasses.replace(row, seconds=seconds))
    return timed


def _seconds(recipe: Recipe, images_seen: int, pace: Sums) -> float:
    """Of so many images from the beginning; a stage too short to be measured goes at the pace of the others."""
    images, seconds = (sum(column) for column in zip(*pace.values(), strict=True)) if pace else (1.0, 0.0)
    steps, batch = Counter[str](), recipe.training.batch
    for seen in range(0, images_seen, batch):
        stage = recipe.task.stage(seen) if isinstance(recipe.task, GrowConfig) else None
        steps["whole" if stage is None else _stage(stage.resolution, stage.alpha)] += batch
    each = {stage: seconds / images for stage, (images, seconds) in pace.items()}
    return sum(count * each.get(stage, seconds / images) for stage, count in steps.items())


# ---- reading rows ---------------------------------------------------------------------------------------------------


def at_end(rows: Sequence[Row], arm: str, measure: str, over: Over = "images_seen") -> list[float]:
    """One value for each seed of an arm: the last one within what all trials of the claim reached.

    None for an arm that does not have the measure.
    """
    kept, found = within(rows, over), []
    for key in _trials(rows):
        if key[0] == arm:
            own = [row for row in kept if (row.arm, row.seed) == key and measure in row.measures]
            found += [max(own, key=lambda row: row.images_seen).measures[measure]] if own else []
    return found


def within(rows: Sequence[Row], over: Over) -> list[Row]:
    """The rows up to the most images, or seconds, that all trials reached."""
    last = min(max(getattr(row, over) for row in rows if (row.arm, row.seed) == key) for key in _trials(rows))
    return [row for row in rows if getattr(row, over) <= last * (1 + 1e-9)]


def best(rows: Sequence[Row], arm: str, measure: str) -> list[float]:
    """The lowest value each seed of an arm ever had."""
    found = []
    for key in _trials(rows):
        if key[0] == arm:
            found.append(min(row.measures[measure] for row in rows if (row.arm, row.seed) == key))
    return found


def arms(rows: Sequence[Row]) -> list[str]:
    """The arms in the order they were run."""
    return list(dict.fromkeys(row.arm for row in rows))


def _trials(rows: Sequence[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row.arm, row.seed) for row in rows))


def mean(values: Sequence[float]) -> float:
    """Their mean."""
    return statistics.fmean(values)


def deviation(values: Sequence[float]) -> float:
    """Their standard deviation, 0 for a single one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


# ---- the page -------------------------------------------------------------------------------------------------------


def _write(
    claim: Claim,
    size: Size,
    trials: Sequence[Trial],
    rows: Sequence[Row],
    finding: Finding,
    aside: Measures,
    paces: Mapping[str, Sums],
    seconds: float,
    work: Path,
    results: Path,
) -> None:
    results.mkdir(parents=True, exist_ok=True)
    stem = claim.name if size == "cpu" else f"{claim.name}-{size}"
    _plot(claim, rows, aside, results / f"{stem}.png")
    models = _last_models(trials, work / claim.name / size)
    write.save_png(results / f"{stem}-samples.png", claim.sheet.draw(models, size))
    seeds = sorted({trial.seed for trial in trials})
    machine = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    if DEVICE.type == "cuda":
        machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    page = (
        f"# {claim.question}\n\n*Source*: {claim.source}\n\n"
        f"**Verdict ({size}): {finding.verdict}.** {finding.text}\n\n"
        f"![curves]({stem}.png)\n\n{_table(claim, rows)}\n\n{_aside_table(aside)}"
        f"{claim.sheet.text}\n\n"
        f"![samples]({stem}-samples.png)\n\n"
        f"## Protocol\n\n{claim.protocol(size)}\n\n{_pace_table(paces) if claim.over == 'seconds' else ''}"
        f"- {len(trials)} trainings, seeds {', '.join(map(str, seeds))}, {seconds / 60:.0f} minutes of training\n"
        f"- machine: {machine}; frugan {frugan.__version__}\n"
        f"- repeat: `python -m claims {claim.name} --size {size}`; all values: [{stem}.json]({stem}.json)\n"
    )
    replace_file(results / f"{stem}.md", page.encode())
    facts = {
        "claim": claim.name,
        "size": size,
        "finding": dataclasses.asdict(finding),
        "aside": aside,
        "paces": paces,
        "rows": [dataclasses.asdict(row) for row in rows],
        "recipes": {trial.name: to_dict(trial.recipe) for trial in trials if trial.seed == seeds[0]},
        "pictures": {trial.arm: {name: len(data) for name, data in trial.data.items()} for trial in trials},
    }
    replace_file(results / f"{stem}.json", json.dumps(facts, indent=1).encode())


def _table(claim: Claim, rows: Sequence[Row]) -> str:
    every = dict.fromkeys(name for row in rows for name in row.measures)
    names = [name for name in every if not name.endswith(ERROR)]
    lines = ["| arm | seeds | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for arm in arms(rows):
        cells = []
        for name in names:
            values = at_end(rows, arm, name, claim.over)
            if not values:
                cells.append("–")
                continue
            errors = at_end(rows, arm, name + ERROR, claim.over) if name + ERROR in every else [0.0]
            spread = deviation(values) or errors[0]
            cells.append(f"{mean(values):.4g}" + (f" ± {spread:.2g}" if spread else ""))
        lines.append(f"| {arm} | {len(at_end(rows, arm, names[0], claim.over))} | " + " | ".join(cells) + " |")
    alone = ", with one seed the standard error over pictures" if len(names) < len(every) else ""
    after = "number of images" if claim.over == "images_seen" else "processor time, to within a snapshot"
    return "\n".join(lines) + f"\n\nAfter the same {after}; ± is the standard deviation over seeds{alone}."


def _aside_table(aside: Measures) -> str:
    if not aside:
        return ""
    return (
        "| measured aside | |\n|---|---|\n"
        + "".join(
            f"| {name} | {value:.4g}{f' ± {aside[name + ERROR]:.2g}' if name + ERROR in aside else ''} |\n"
            for name, value in aside.items()
            if not name.endswith(ERROR)
        )
        + "\n"
    )


def _pace_table(paces: Mapping[str, Sums]) -> str:
    lines = ["| trainings | stage | images a processor second |", "|---|---|---|"]
    for name, pace in paces.items():
        lines += [f"| {name} | {stage} | {images / seconds:.0f} |" for stage, (images, seconds) in pace.items()]
    return "\n".join(lines) + "\n\n"


def _plot(claim: Claim, rows: Sequence[Row], aside: Measures, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    label = "images seen" if claim.over == "images_seen" else "processor seconds of training"
    figure, axes = pyplot.subplots(1, len(claim.shown), figsize=(5.5 * len(claim.shown), 4), squeeze=False)
    for axis, start in zip(axes[0], claim.shown, strict=True):
        name = next(name for row in rows for name in row.measures if name.startswith(start))
        for color, arm in enumerate(arms(rows)):
            own = [row for row in rows if row.arm == arm and name in row.measures]
            points = sorted({getattr(row, claim.over) for row in own})
            groups = [[row.measures[name] for row in own if getattr(row, claim.over) == point] for point in points]
            low, high = [min(group) for group in groups], [max(group) for group in groups]
            axis.plot(points, [mean(group) for group in groups], marker="o", color=f"C{color}", label=arm)
            axis.fill_between(points, low, high, color=f"C{color}", alpha=0.15)
        lines = [known for known in aside if known.startswith(f"{name} of ") and not known.endswith(ERROR)]
        for number, known in enumerate(lines):
            style = {"color": "0.4", "linestyle": ("--", ":", "-.")[number % 3]}
            axis.axhline(aside[known], label=known.removeprefix(f"{name} of "), **style)
        axis.set(xlabel=label, ylabel=name)
        axis.grid(alpha=0.3)
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _last_models(trials: Sequence[Trial], folder: Path) -> dict[str, Model]:
    """The last model of the first seed of every arm."""
    first = {trial.arm: trial for trial in reversed(trials)}
    arms_in_order = dict.fromkeys(trial.arm for trial in trials)
    return {arm: load(sorted((folder / first[arm].name / "checkpoints").iterdir())[-1]) for arm in arms_in_order}
