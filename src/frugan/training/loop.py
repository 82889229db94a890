"""The loop owns time: images seen, phases, micro-batches, averages, precision, ranks, snapshots, and going on after a
stop.

It knows nothing of what is trained (see `door`), and files only as two calls on its observer: `status` and `snapshot`.
"""

import platform
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from frugan.checkpoint import Info, Parts
from frugan.evaluation import PIXEL_SWD
from frugan.training.door import Draw, Phase, Plan, Share, Shared, Stats, Step, Task
from frugan.training.feed import Feed, LazyBatches
from frugan.training.optimise import Average, Optimiser
from frugan.training.ranks import Ranks
from frugan.training.recipe import AdamConfig, TrainingConfig
from frugan.training.replay import Graph, Job, Replays, cuda_graphs


class TrainingError(RuntimeError):
    """A training that cannot go on: says why and what to try."""


@dataclass(kw_only=True)
class Progress:
    """Where a training stands; with the nets and moments, all that the next iteration depends on.

    `sound` is the newest snapshot that was not collapsed, in images seen: a roll-back leads there, whenever checkpoints
    were written. `best_metric` names the score by which `best` is the best. `skipped` counts the steps that each
    optimiser has left out in a row. `micro_batch` is the limit that running out of memory has set.
    """

    images_seen: int = 0
    iteration: int = 0
    seconds: float = 0.0
    rollbacks: int = 0
    lr_factor: float = 1.0
    moments: int = 0
    micro_batch: int | None = None
    best: str | None = None
    best_score: float | None = None
    best_images: int = 0
    best_metric: str = PIXEL_SWD
    evaluation_seconds: float = 0.0
    reference_spread: float = 0.0
    sound: int | None = None
    skipped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a snapshot found; `collapsed` says how, and sends the loop back to an older checkpoint."""

    collapsed: str | None = None


@runtime_checkable
class Observer(Protocol):
    """Who is told what happens, and writes the files."""

    def status(self, loop: "Loop", stats: Mapping[str, float], images_per_second: float) -> None:
        """A line of numbers is due."""
        ...

    def snapshot(self, loop: "Loop") -> Verdict:
        """A grid, a score and a checkpoint are due; asked again if memory ran out and recordings held some of it."""
        ...

    def checkpoint(self, loop: "Loop") -> None:
        """A checkpoint is due."""
        ...

    def event(self, loop: "Loop", kind: str, text: str) -> None:
        """Something a reader of the log wants to know."""
        ...

    def stop_requested(self) -> bool:
        """Whether somebody asked for a stop (Ctrl-C, SIGTERM)."""
        ...

    def restore(self, loop: "Loop", before: int) -> None:
        """Load the newest good checkpoint with fewer images than `before` into the loop."""
        ...


_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_SKIPPED_STEPS = 20
OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass
class _Meter:
    """Sums of statistics between two status lines."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    images: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, stats: Mapping[str, Tensor], images: int) -> None:
        for name, value in stats.items():
            if value.ndim == 0:
                self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
                self.counts[name] = self.counts.get(name, 0) + 1
        self.images += images

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}


class Loop:
    """Runs a task until the planned number of images was seen."""

    def __init__(
        self,
        task: Task,
        optimisers: Mapping[str, AdamConfig],
        config: TrainingConfig,
        feeds: Mapping[str, Feed],
        ranks: Ranks,
        observer: Observer,
    ) -> None:
        self.task, self.config, self.feeds, self.ranks = task, config, dict(feeds), ranks
        self.progress = Progress()
        self._observer = observer
        self._dtype = _DTYPES[resolve_precision(config.precision, ranks.device)]
        self._format = torch.channels_last if config.channels_last else torch.contiguous_format
        for net in (*task.nets.values(), *task.frozen.values()):
            net.to(ranks.device).to(memory_format=self._format)  # type: ignore[call-overload]
        self._trainable = {
            name: [parameter for parameter in net.parameters() if parameter.requires_grad]
            for name, net in task.nets.items()
        }
        self.average = Average(config.ema, {name: task.nets[name] for name in task.ema})
        self.optimisers = {
            name: Optimiser(optimisers[name], nets, ranks) for name, nets in _nets_by_optimiser(task).items()
        }
        self.replays: Replays | None = None
        if config.replay and ranks.device.type == "cuda" and ranks.world == 1:
            self.record(cuda_graphs)
        self._meter = _Meter()

    def record(self, graphs: Callable[[], Callable[[], Graph]]) -> None:
        """Record phases, and play them again, from here on (see `Replays`)."""
        owner = weakref.proxy(self)  # or the memory of a training that is dropped would wait for the garbage collector
        self.replays = Replays(graphs, lambda text: owner._observer.event(owner, "replay", text))

    # -- time -----------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Train until done; the word that tells why it ended: finished, stopped or plateau."""
        config = self.config
        self._meter = _Meter()
        clock = _Clock(self.progress.seconds)
        next_status, next_save = clock.now() + config.status_seconds, clock.now() + config.checkpoint_seconds
        saved_at: int | None = None
        if self.progress.sound is None or (self.progress.images_seen >= config.total_images and not self.ended()):
            self._snapshot()
            self.progress.sound = self.progress.images_seen
        while (ended := self.ended()) is None:
            before = self.progress.images_seen
            if self._agree_to_stop():
                self._status()
                if saved_at != before:
                    self._observer.checkpoint(self)
                return "stopped"
            every = self.task.plan(before).snapshot_images or config.snapshot_images
            self._meter.add(self.iterate(), self.progress.images_seen - before)
            self.progress.seconds = clock.now()
            seen = self.progress.images_seen
            is_due = before // every != seen // every or seen >= config.total_images
            if clock.now() >= next_status or seen >= config.total_images:
                self._status()
                next_status = clock.now() + config.status_seconds
            trouble = self._too_many_skipped()
            if trouble is None and is_due:
                trouble = self._snapshot()
                next_save, saved_at = clock.now() + config.checkpoint_seconds, seen
            elif trouble is None and clock.now() >= next_save:
                self._observer.checkpoint(self)
                next_save, saved_at = clock.now() + config.checkpoint_seconds, seen
            if trouble is not None:
                self.roll_back(trouble)
                saved_at = None
        return ended

    def ended(self) -> str | None:
        """Whether there is nothing left to do: finished, plateau (at a snapshot, no better score for long), or None."""
        progress, patience = self.progress, self.config.plateau_images
        if progress.images_seen >= self.config.total_images and progress.sound == progress.images_seen:
            return "finished"
        waited = progress.images_seen - progress.best_images
        if patience is not None and progress.sound == progress.images_seen and waited >= patience:
            return "plateau"
        return None

    def _snapshot(self) -> str | None:
        before, self.progress.sound = self.progress.sound, self.progress.images_seen
        verdict = self._looked()
        if verdict is None:
            self._empty_cache()
            verdict = self._observer.snapshot(self)
        collapsed = verdict.collapsed
        if collapsed is not None:
            self.progress.sound = before
        return collapsed

    def _looked(self) -> Verdict | None:
        """The observer's verdict, or None where memory ran out and recordings were dropped for it."""
        try:
            return self._observer.snapshot(self)
        except RuntimeError as error:
            if not _is_out_of_memory(error) or not self._drop_recordings():
                raise
        return None

    def _too_many_skipped(self) -> str | None:
        for name, count in self.progress.skipped.items():
            if count >= MAX_SKIPPED_STEPS:
                return f"{count} steps of {name} in a row had gradients that are not finite"
        return None

    def _agree_to_stop(self) -> bool:
        requested = self._observer.stop_requested()
        if self.ranks.world == 1:
            return requested
        votes = torch.tensor(float(requested), device=self.ranks.device)
        return bool(self.ranks.sum_(votes) > 0)

    def _status(self) -> None:
        seconds = max(time.monotonic() - self._meter.started, 1e-9)
        if self._meter.images:
            self._observer.status(self, self._meter.means(), self._meter.images / seconds)
        self._meter = _Meter()

    # -- one iteration ----------------------------------------------------------------------------------------------

    def iterate(self) -> dict[str, Tensor]:
        """Run every phase that is due once, and move the averages; gives the means over the global batch."""
        progress = self.progress
        plan = self.task.plan(progress.images_seen)
        self._adjust(plan)
        step = Step(plan, progress.images_seen, self.ranks, Stats(), self._dtype)
        self.task.begin(step, Shared((*self._key(), "begin")))
        windows, made = 0, list[tuple[str, Tensor]]()
        for group in plan.groups():
            windows = self._run_group(group, step, windows, made)
        stats = step.stats.reduce(self.ranks)
        if self._all_made(made):
            self.task.end(step, stats)
        self.average.update(plan.batch, progress.images_seen)
        for feed in self.feeds.values():
            feed.position += plan.batch * (windows + 1)
        progress.images_seen += plan.batch * max((phase.repeats for phase in plan.phases), default=1)
        progress.iteration += 1
        return stats

    def _key(self) -> tuple[int | str, ...]:
        return (self.config.seed, self.progress.rollbacks, self.progress.iteration)

    def _adjust(self, plan: Plan) -> None:
        factor = self.progress.lr_factor
        if self.config.lr is not None:
            factor *= self.config.lr.at(self.progress.images_seen)
        for name, optimiser in self.optimisers.items():
            if plan.reset_moments != self.progress.moments:
                optimiser.reset_moments()
            optimiser.adjust(plan.lr_scale.get(name, 1.0) * factor, plan.beta_power.get(name, 1.0))
        if plan.reset_moments != self.progress.moments and self.replays is not None:
            self.replays.forget()
        self.progress.moments = plan.reset_moments

    def _run_group(self, group: Sequence[Phase], step: Step, windows: int, made: list[tuple[str, Tensor]]) -> int:
        """Run the phases that step together; the windows of real pictures used so far. What came of the steps of each
        optimiser is added to `made`.
        """
        due = [phase for phase in group if self.progress.iteration % phase.every == 0]
        for repeat in range(max((phase.repeats for phase in due), default=0)):
            running = [phase for phase in due if repeat < phase.repeats]
            windows += repeat > 0
            while (used := self._backward_all(running, repeat, windows, step)) is None:
                pass
            windows = used
            made += [(name, self.optimisers[name].step()) for name in dict.fromkeys(each.optimiser for each in running)]
            self._zero(running)
        return windows

    def _backward_all(self, phases: Sequence[Phase], repeat: int, window: int, step: Step) -> int | None:
        """Add up the gradients of these phases; the last window used, or None where memory ran out: then nothing is
        left of it, and recordings are dropped or a smaller micro-batch is set.
        """
        stats = step.stats.copy()
        try:
            windows = [window := window + (phase.fresh and repeat == 0) for phase in phases]
            jobs = self._jobs(phases, repeat, windows, step)
            if self.replays is None:
                for job in jobs:
                    self._backward(step, job)
            else:
                parameters = [each for phase in phases for each in self._parameters(phase)]
                self.replays.run(step, list(jobs), parameters, self._backward)
            return window
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # Only here, past the handler, are the tensors of the failed try free.
        self._zero(phases)
        step.caches.clear()
        step.stats = stats
        if not self._drop_recordings():
            self._shrink_micro_batch(step.plan.batch)
        self._empty_cache()
        return None

    def _jobs(self, phases: Sequence[Phase], repeat: int, windows: Sequence[int], step: Step) -> Iterator[Job]:
        for phase, window in zip(phases, windows, strict=True):
            total = max(int(step.plan.batch * phase.fraction), 1)
            if total % self.ranks.world:
                raise TrainingError(
                    f"the phase {phase.name!r} works on {total} pictures, which {self.ranks.world} processes cannot "
                    "share equally; choose another --batch or number of processes"
                )
            micros = self._num_micros(total)
            for micro in range(micros):
                share = Share(total, self.ranks.rank + self.ranks.world * micro, self.ranks.world * micros)
                draw = Draw((*self._key(), phase.name, repeat), self.ranks.device, share)
                yield Job(phase, micro, draw, LazyBatches(self.feeds, step.plan.batch, share, window))

    def _backward(self, step: Step, job: Job) -> None:
        phase, share, parameters = job.phase, job.draw.share, self._parameters(job.phase)
        self._toggle(phase)
        step.micro = job.micro
        for terms in self.task.losses(phase, step, job.batches, job.draw):
            losses = []
            for name, term in terms.items():
                step.stats.add(f"{phase.name}/{name}", term.reshape(-1))
                weight = 1 / share.total if term.ndim else 1 / share.stride
                losses.append(term.float().sum() * weight)
            torch.autograd.backward(sum(losses[1:], losses[0]), inputs=parameters)

    def _parameters(self, phase: Phase) -> list[Tensor]:
        return self.optimisers[phase.optimiser].parameters(phase.nets)

    def _num_micros(self, total: int) -> int:
        local = max(total // self.ranks.world, 1)
        micros = -(-local // self._micro_limit(local))
        while local % micros:
            micros += 1
        return micros

    def _micro_limit(self, local: int) -> int:
        return min(local, *(n for n in (self.config.micro_batch, self.progress.micro_batch) if n is not None), local)

    def _toggle(self, phase: Phase) -> None:
        for name, parameters in self._trainable.items():
            for parameter in parameters:
                parameter.requires_grad_(name in phase.nets or name in phase.through)

    def _zero(self, phases: Sequence[Phase]) -> None:
        for phase in phases:
            self.optimisers[phase.optimiser].zero()

    def _all_made(self, made: Sequence[tuple[str, Tensor]]) -> bool:
        """Whether every step of the iteration was made; the one thing that the host waits for."""
        skipped, answers = self.progress.skipped, torch.stack([each for _, each in made]).tolist() if made else []
        for (name, _), is_made in zip(made, answers, strict=True):
            if is_made:
                skipped.pop(name, None)
                continue
            skipped[name] = skipped.get(name, 0) + 1
            if skipped[name] == 1:
                self._observer.event(self, "skipped", f"left out a step of {name}: its gradients are not finite")
        return all(answers)

    # -- trouble ----------------------------------------------------------------------------------------------------

    def _drop_recordings(self) -> bool:
        """Give up recording, as memory ran out; whether there was anything to drop."""
        if self.replays is None or not self.replays.count:
            return False
        self.replays.give_up("memory ran out")
        return True

    def _empty_cache(self) -> None:
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()

    def _shrink_micro_batch(self, batch: int) -> None:
        current = self._micro_limit(max(batch // self.ranks.world, 1))
        if current == 1:
            raise TrainingError("out of memory with 1 picture at once; try a smaller --resolution")
        if self.ranks.world > 1:
            raise TrainingError(
                f"out of memory with {current} pictures at once; go on with --set training.micro_batch={current // 2} "
                "--force"
            )
        self.progress.micro_batch = current // 2
        self._observer.event(self, "out_of_memory", f"out of memory: {current // 2} pictures at once from here on")

    def roll_back(self, reason: str) -> None:
        """Go back to the newest sound snapshot with new randomness and half the learning rate. Raises TrainingError
        when spent.
        """
        tries, factor = self.progress.rollbacks + 1, self.progress.lr_factor / 2
        if tries > self.config.max_rollbacks:
            raise TrainingError(
                f"{reason}; gave up after {self.config.max_rollbacks} returns to older checkpoints. Try a lower "
                "learning rate (--set optimisers.generator.lr=...), a larger r1 gamma, or another seed"
            )
        sound = self.progress.sound
        self._observer.restore(self, self.progress.images_seen if sound is None else sound + 1)
        self.progress.rollbacks, self.progress.lr_factor, self.progress.skipped = tries, factor, {}
        self._observer.event(self, "rollback", f"{reason}: back at {self.progress.images_seen} images, half the speed")

    # -- what a checkpoint holds --------------------------------------------------------------------------------------

    def state(self) -> tuple[Info, Parts]:
        """Everything needed to go on bit for bit: (plain data, tensors by part)."""
        parts: Parts = {f"net.{name}": dict(net.state_dict()) for name, net in self.task.nets.items()}
        parts |= {f"ema.{name}": dict(net.state_dict()) for name, net in self.average.nets.items()}
        parts |= {f"adam.{name}": optimiser.state_dict() for name, optimiser in self.optimisers.items()}
        parts["task"] = self.task.state_dict()
        info = {
            "progress": dict(vars(self.progress)),
            "positions": {name: f.position for name, f in self.feeds.items()},
        }
        return info, parts

    def load_state(self, info: Info, parts: Parts) -> None:
        """Put back what `state` gave."""
        for name, net in self.task.nets.items():
            net.load_state_dict(parts[f"net.{name}"])
        for name, net in self.average.nets.items():
            net.load_state_dict(parts[f"ema.{name}"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(parts[f"adam.{name}"])
        self.task.load_state_dict(parts["task"])
        self.progress = Progress(**info["progress"])
        for name, position in info["positions"].items():
            self.feeds[name].position = position


def _is_out_of_memory(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(part in text for part in OUT_OF_MEMORY_TEXTS)


class _Clock:
    """Seconds of training, earlier sessions included."""

    def __init__(self, seconds_before: float) -> None:
        self._zero = time.monotonic() - seconds_before

    def now(self) -> float:
        return time.monotonic() - self._zero


def _nets_by_optimiser(task: Task) -> dict[str, dict[str, nn.Module]]:
    nets: dict[str, dict[str, nn.Module]] = {}
    for phase in task.plan(0).phases:
        nets.setdefault(phase.optimiser, {}).update({name: task.nets[name] for name in phase.nets})
    return nets


def resolve_precision(precision: str, device: torch.device, supports_bf16: Callable[[], bool] | None = None) -> str:
    """What `auto` means on this device: bf16 where the processor or card computes in it, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    check = supports_bf16 or _cpu_has_bf16
    return "bf16" if check() else "fp32"


def _cpu_has_bf16() -> bool:
    # What oneDNN calls support on x86 is any AVX-512: without instructions of its own bf16 is slower than float32.
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
