"""The loop owns time: images seen, phases, micro-batches, averages, precision, ranks, snapshots, and going on after a
stop.

It knows nothing of what is trained (see `door`), and files only as two calls on its observer: `status` and `snapshot`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from frugan.checkpoint import Info, Parts
from frugan.training.door import Draw, Phase, Plan, Share, Shared, Stats, Step, Task
from frugan.training.feed import Feed, LazyBatches
from frugan.training.optimise import Average, Optimiser
from frugan.training.ranks import Ranks
from frugan.training.recipe import AdamConfig, TrainingConfig


class TrainingError(RuntimeError):
    """A training that cannot go on: says why and what to try."""


@dataclass(kw_only=True)
class Progress:
    """Where a training stands; with the nets and moments, all that the next iteration depends on."""

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
    reference_spread: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a snapshot found: anything but None stops the loop or sends it back to an older checkpoint."""

    collapsed: str | None = None
    plateau: str | None = None


class Observer(Protocol):
    """Who is told what happens, and writes the files."""

    def status(self, loop: "Loop", stats: Mapping[str, float], images_per_second: float) -> None:
        """A line of numbers is due."""
        ...

    def snapshot(self, loop: "Loop") -> Verdict:
        """A grid, a score and a checkpoint are due."""
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
        self.progress = Progress(micro_batch=config.micro_batch)
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
        self._stats = Stats()
        self._skipped = 0
        self._meter = _Meter()

    # -- time -----------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Train until done; the word that tells why it ended: finished, stopped or plateau."""
        config, progress = self.config, self.progress
        self._meter = _Meter()
        clock = _Clock(progress.seconds)
        next_status, next_save = clock.now() + config.status_seconds, clock.now() + config.checkpoint_seconds
        if progress.images_seen == 0:
            self._observer.snapshot(self)
        while progress.images_seen < config.total_images:
            before = progress.images_seen
            self._meter.add(self.iterate(), progress.images_seen - before)
            progress.seconds = clock.now()
            finished = progress.images_seen >= config.total_images
            if self._agree_to_stop():
                self._status()
                self._observer.checkpoint(self)
                return "stopped"
            if clock.now() >= next_status or finished:
                self._status()
                next_status = clock.now() + config.status_seconds
            if finished or before // config.snapshot_images != progress.images_seen // config.snapshot_images:
                verdict = self._observer.snapshot(self)
                next_save = clock.now() + config.checkpoint_seconds
                if verdict.collapsed is not None:
                    self.roll_back(verdict.collapsed)
                    continue
                if verdict.plateau is not None and not finished:
                    return "plateau"
            elif clock.now() >= next_save:
                self._observer.checkpoint(self)
                next_save = clock.now() + config.checkpoint_seconds
        return "finished"

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
        step = Step(plan, progress.images_seen, self.ranks, self._stats, self._dtype)
        self.task.begin(step, Shared((*self._key(), "begin")))
        caches: dict[int, dict[str, Any]] = {}
        windows = 0
        for group in plan.groups():
            windows = self._run_group(group, step, caches, windows)
        stats = self._stats.reduce(self.ranks)
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
        self.progress.moments = plan.reset_moments

    def _run_group(self, group: Sequence[Phase], step: Step, caches: dict[int, dict[str, Any]], windows: int) -> int:
        due = [phase for phase in group if self.progress.iteration % phase.every == 0]
        for repeat in range(max((phase.repeats for phase in due), default=0)):
            while True:
                used = windows
                try:
                    for phase in due:
                        if phase.fresh or repeat > 0:
                            used += 1
                        self._backward(phase, repeat, used, step, caches)
                    break
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    self._shrink_micro_batch(error, step.plan.batch)
                    caches.clear()
                    self._zero(due)
            windows = used
            self._step(due)
        return windows

    def _backward(self, phase: Phase, repeat: int, window: int, step: Step, caches: dict[int, dict[str, Any]]) -> None:
        total = max(int(step.plan.batch * phase.fraction), 1)
        micros = self._num_micros(total)
        self._toggle(phase)
        parameters = self.optimisers[phase.optimiser].parameters(phase.nets)
        for micro in range(micros):
            share = Share(total, self.ranks.rank + self.ranks.world * micro, self.ranks.world * micros)
            draw = Draw((*self._key(), phase.name, repeat), self.ranks.device, share)
            step.cache = caches.setdefault(micro, {})
            batches = LazyBatches(self.feeds, step.plan.batch, share, window)
            for terms in self.task.losses(phase, step, batches, draw):
                losses = []
                for name, term in terms.items():
                    self._stats.add(f"{phase.name}/{name}", term.reshape(-1))
                    weight = 1 / total if term.ndim else 1 / (micros * self.ranks.world)
                    losses.append(term.float().sum() * weight)
                torch.autograd.backward(sum(losses[1:], losses[0]), inputs=parameters)

    def _num_micros(self, total: int) -> int:
        local = max(total // self.ranks.world, 1)
        limit = self.progress.micro_batch or local
        micros = -(-local // limit)
        while local % micros and micros < local:
            micros += 1
        return micros

    def _toggle(self, phase: Phase) -> None:
        for name, parameters in self._trainable.items():
            for parameter in parameters:
                parameter.requires_grad_(name in phase.nets)

    def _zero(self, phases: Sequence[Phase]) -> None:
        for phase in phases:
            self.optimisers[phase.optimiser].zero()

    def _step(self, phases: Sequence[Phase]) -> None:
        for name in dict.fromkeys(phase.optimiser for phase in phases):
            if self.optimisers[name].step():
                self._skipped = 0
            else:
                self._skipped += 1
        self._zero(phases)
        if self._skipped > MAX_SKIPPED_STEPS:
            self._skipped = 0
            self.roll_back(f"{MAX_SKIPPED_STEPS} steps in a row had gradients that are not finite")

    # -- trouble ----------------------------------------------------------------------------------------------------

    def _shrink_micro_batch(self, error: RuntimeError, batch: int) -> None:
        text = str(error).lower()
        if not isinstance(error, torch.OutOfMemoryError) and not any(part in text for part in OUT_OF_MEMORY_TEXTS):
            raise error
        local = max(batch // self.ranks.world, 1)
        current = min(self.progress.micro_batch or local, local)
        if current == 1 or self.ranks.world > 1:
            hint = f"--set training.micro_batch={max(current // 2, 1)}" if current > 1 else "a smaller --resolution"
            raise TrainingError(f"out of memory with {current} pictures at once; try {hint}") from error
        self.progress.micro_batch = current // 2
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()
        self._observer.event(self, "out_of_memory", f"out of memory: {current // 2} pictures at once from here on")

    def roll_back(self, reason: str) -> None:
        """Go back to an older checkpoint with new randomness and half the learning rate. Raises TrainingError when
        spent.
        """
        tries, factor = self.progress.rollbacks + 1, self.progress.lr_factor / 2
        if tries > self.config.max_rollbacks:
            raise TrainingError(
                f"{reason}; gave up after {self.config.max_rollbacks} returns to older checkpoints. Try a lower "
                "learning rate (--set optimisers.generator.lr=...), a larger r1 gamma, or another seed"
            )
        self._observer.restore(self, self.progress.images_seen)
        self.progress.rollbacks, self.progress.lr_factor = tries, factor
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
    return "bf16" in torch.backends.cpu.get_cpu_capability().lower() or bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
