"""What every claim shares: trials that can be stopped and gone on with, measures at fixed points, a page of results."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

import frugan
from frugan.checkpoint import replace_file
from frugan.config import to_dict
from frugan.data import Dataset, write
from frugan.model import Model, load
from frugan.training.recipe import Recipe, TrainingConfig
from frugan.training.run import Start, train

Size = Literal["smoke", "cpu", "full"]
Say = Callable[[str], None]
Measures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a claim: the arm of the comparison it belongs to, its seed, its recipe and its pictures."""

    arm: str
    seed: int
    recipe: Recipe
    data: Mapping[str, Dataset]

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"{self.arm}-seed{self.seed}".replace(" ", "-").replace("/", "-")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured in one trial after so many images."""

    arm: str
    seed: int
    images_seen: int
    measures: Measures


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came out: the verdict on the claim, in one word and in sentences."""

    verdict: Literal["held", "did not hold", "mixed", "not decided"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim. `trials` and `measure` are given the size; `protocol` says in words how the measures were made.

    `measure` sees the model of a checkpoint and its trial. `shown`: how the names of the measures begin that are
    plotted over images.
    """

    name: str
    question: str
    source: str
    shown: tuple[str, ...]
    trials: Callable[[Size], list[Trial]]
    measure: Callable[[Model, Trial, Size], Measures]
    conclude: Callable[[Sequence[Row]], Finding]
    protocol: Callable[[Size], str]


def run_claim(claim: Claim, size: Size, work: Path, results: Path, say: Say) -> Finding:
    """Train every trial, measure every kept checkpoint, write the page; called again, it goes on where it stopped.

    `work` holds the trainings, `results` gets NAME.md, its table as JSON, the plot and a sheet of samples.
    """
    trials, rows, seconds = claim.trials(size), [], 0.0
    for number, trial in enumerate(trials, 1):
        run = work / claim.name / size / trial.name
        say(f"[{number}/{len(trials)}] {trial.name}: {trial.recipe.training.total_images:,} images")
        train(run, trial.recipe, trial.data, Start(device="auto", tell=_short(say)))
        measured, spent = _measured(claim, trial, run, size, say)
        rows += measured
        seconds += spent
    finding = claim.conclude(rows)
    if size == "smoke":  # it shows that the claim can be run, no more
        finding = dataclasses.replace(finding, verdict="not decided")
    _write(claim, size, trials, rows, finding, seconds, work, results)
    say(f"{claim.name}: {finding.verdict}. {finding.text}")
    return finding


def _short(say: Say) -> Callable[[dict[str, object]], None]:
    begun = time.monotonic()

    def tell(line: dict[str, object]) -> None:
        if "scores" in line or line.get("event") in ("resumed", "rollback", "failed"):
            what = line.get("text") or line.get("scores")
            say(f"    {line['images_seen']:>9,} images, {time.monotonic() - begun:.0f} s: {what}")

    return tell


def _measured(claim: Claim, trial: Trial, run: Path, size: Size, say: Say) -> tuple[list[Row], float]:
    """The rows of a trial, each measured once and kept beside its checkpoints; and the seconds it trained."""
    kept = run / "measures.json"
    known: dict[str, Measures] = json.loads(kept.read_bytes()) if kept.is_file() else {}
    seconds = 0.0
    for checkpoint in sorted((run / "checkpoints").iterdir()):
        if not _is_measured(int(checkpoint.name), trial.recipe.training):
            continue
        model = load(checkpoint)
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


# ---- reading rows ---------------------------------------------------------------------------------------------------


def at_end(rows: Sequence[Row], arm: str, measure: str) -> list[float]:
    """One value for each seed of an arm, after the most images that all trials of the claim reached."""
    last = min(max(row.images_seen for row in rows if (row.arm, row.seed) == key) for key in _trials(rows))
    return [row.measures[measure] for row in rows if row.arm == arm and row.images_seen == last]


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
    seconds: float,
    work: Path,
    results: Path,
) -> None:
    results.mkdir(parents=True, exist_ok=True)
    stem = claim.name if size == "cpu" else f"{claim.name}-{size}"
    _plot(claim, rows, results / f"{stem}.png")
    _sheet(trials, work / claim.name / size, results / f"{stem}-samples.png")
    seeds = sorted({trial.seed for trial in trials})
    machine = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    page = (
        f"# {claim.question}\n\n*Source*: {claim.source}\n\n"
        f"**Verdict ({size}): {finding.verdict}.** {finding.text}\n\n"
        f"![curves]({stem}.png)\n\n{_table(claim, rows)}\n\n"
        f"One row per arm, the same seeds in every row (psi 1, averaged weights, the last checkpoint):\n\n"
        f"![samples]({stem}-samples.png)\n\n"
        f"## Protocol\n\n{claim.protocol(size)}\n\n"
        f"- {len(trials)} trainings, seeds {', '.join(map(str, seeds))}, {seconds / 60:.0f} minutes of training\n"
        f"- machine: {machine}; frugan {frugan.__version__}\n"
        f"- repeat: `python -m claims {claim.name} --size {size}`; all values: [{stem}.json]({stem}.json)\n"
    )
    replace_file(results / f"{stem}.md", page.encode())
    facts = {
        "claim": claim.name,
        "size": size,
        "finding": dataclasses.asdict(finding),
        "rows": [dataclasses.asdict(row) for row in rows],
        "recipes": {trial.name: to_dict(trial.recipe) for trial in trials if trial.seed == seeds[0]},
        "pictures": {trial.arm: {name: len(data) for name, data in trial.data.items()} for trial in trials},
    }
    replace_file(results / f"{stem}.json", json.dumps(facts, indent=1).encode())


def _table(claim: Claim, rows: Sequence[Row]) -> str:
    names = list(rows[0].measures)
    lines = ["| arm | seeds | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for arm in arms(rows):
        cells = []
        for name in names:
            values = at_end(rows, arm, name)
            spread = f" ± {deviation(values):.2g}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.4g}{spread}")
        lines.append(f"| {arm} | {len(at_end(rows, arm, names[0]))} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nAfter the same number of images; ± is the standard deviation over seeds."


def _plot(claim: Claim, rows: Sequence[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(claim.shown), figsize=(5.5 * len(claim.shown), 4), squeeze=False)
    for axis, start in zip(axes[0], claim.shown, strict=True):
        name = next(name for name in rows[0].measures if name.startswith(start))
        for color, arm in enumerate(arms(rows)):
            points = sorted({row.images_seen for row in rows if row.arm == arm})
            groups = [
                [row.measures[name] for row in rows if row.arm == arm and row.images_seen == point] for point in points
            ]
            low, high = [min(group) for group in groups], [max(group) for group in groups]
            axis.plot(points, [mean(group) for group in groups], marker="o", color=f"C{color}", label=arm)
            axis.fill_between(points, low, high, color=f"C{color}", alpha=0.15)
        axis.set(xlabel="images seen", ylabel=name)
        axis.grid(alpha=0.3)
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _sheet(trials: Sequence[Trial], folder: Path, path: Path, count: int = 12) -> None:
    """The last pictures of the first seed of every arm, side by side."""
    first = {trial.arm: trial for trial in reversed(trials)}
    rows = [(arm, _last_samples(folder / first[arm].name, count)) for arm in dict.fromkeys(t.arm for t in trials)]
    write.save_png(path, write.labelled_grid(rows))


def _last_samples(run: Path, count: int) -> torch.Tensor:
    newest = sorted((run / "checkpoints").iterdir())[-1]
    return load(newest).sample(range(count))
