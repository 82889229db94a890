"""A run folder: begun, killed at every write, damaged, stopped, extended, refused; whatever happens, the same weights."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import frugan
from frugan import checkpoint
from frugan.checkpoint import list_checkpoints
from frugan.evaluation import PIXEL_SWD, Evaluation
from frugan.model import load
from frugan.training import run as run_module
from frugan.training.folder import RunError, RunFolder
from frugan.training.loop import TrainingError
from frugan.training.recipe import AdamConfig
from frugan.training.run import Outcome, Start, fit, train
from frugan.training.tasks.gan import LeCamConfig
from tests.training.tiny_runs import assert_same_end, final_weights, tiny_data, tiny_recipe
from tests.training.tiny_tasks import gan_config, pictures


def go(run: Path, *, force: bool = False, tell: Callable[[dict[str, Any]], None] | None = None, **training: Any) -> Outcome:
    """Train, or go on."""
    start = Start(device="cpu", force=force, tell=tell or (lambda line: None))
    return train(run, tiny_recipe(**training), tiny_data(), start)


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def events_of(run: Path, kind: str) -> list[str]:
    return [line["text"] for line in log_of(run) if line.get("event") == kind]


def names_of(run: Path) -> list[str]:
    return [path.name for path in list_checkpoints(run / "checkpoints")]


def litter_of(run: Path) -> list[Path]:
    return [path for path in run.rglob(".*") if path.name != ".lock"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert go(run).reason == "finished"
    return run


def test_a_finished_run_is_complete_and_says_so_when_started_again(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for name in ("recipe.json", "run.json", "log.jsonl", "report.html", "progress.gif", "grids/reals.png"):
        assert (run / name).stat().st_size > 0
    assert [path.name for path in sorted((run / "grids").glob("fakes-*"))] == [
        f"fakes-{images:09d}.png" for images in (0, 8, 16)
    ]
    assert litter_of(run) == []
    before = (run / "log.jsonl").read_bytes()
    assert go(run).reason == "already finished"
    assert (run / "log.jsonl").read_bytes() == before
    assert events_of(run, "finished") == ["finished after 16 images"]
    scores = [line["images_seen"] for line in log_of(run) if "scores" in line]
    assert scores == [0, 8, 16]
    assert load(run).sample(range(3)).shape == (3, 3, 4, 4)


# -- killed at any moment -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone: no handler of ours runs to any effect."""


class Saboteur:
    """Lets the n-th write to the disk fail: before it, in its middle, or after it.

    `error` None is a kill: nothing is written from then on, no clean-up works either. Otherwise only that write fails.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, moment: str, error: OSError | None) -> None:
        self.number, self.moment, self.error = number, moment, error
        self.count, self.is_dead = 0, False
        for owner, names in (
            (Path, ("replace", "rename", "unlink", "mkdir", "write_bytes", "write_text")),
            (shutil, ("rmtree",)),
            (checkpoint, ("write_durably",)),
            (RunFolder, ("append",)),
        ):
            for name in names:
                monkeypatch.setattr(owner, name, self._wrap(getattr(owner, name), name))

    def _wrap(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            if self.is_dead:
                raise Killed
            self.count += 1
            if self.count != self.number:
                return real(*args, **keywords)
            if self.moment == "middle":
                self._half(real, name, args, keywords)
            elif self.moment == "after":
                real(*args, **keywords)
            self.is_dead = self.error is None
            raise self.error or Killed

        return call

    def _half(self, real: Callable[..., Any], name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if name == "write_durably":
            args[0].write_bytes(args[1][: len(args[1]) // 2])
        elif name == "append":
            with args[0].log.open("a") as file:
                file.write(json.dumps(args[1])[:10])
        elif name == "rmtree" and Path(args[0]).is_dir():
            next(path for path in sorted(Path(args[0]).iterdir()) if path.is_file()).unlink()


def sabotage(number: int, moment: str, error: OSError | None, act: Callable[[], object]) -> bool:
    """Whether the act came to its end undisturbed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        saboteur = Saboteur(monkeypatch, number, moment, error)
        try:
            act()
        except (Killed, OSError) as raised:
            if isinstance(raised, OSError):
                assert raised is error or raised.__cause__ is error, raised
                assert error is not None and saboteur.count >= number
                assert str(raised).startswith("cannot write /") and "the disk is full" in str(raised), raised
        return saboteur.count < number


MOMENTS = ("before", "middle", "after")


SHORT = {"total_images": 8, "keep_checkpoints": 1}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two iterations, which writes about 70 times."""
    run = tmp_path_factory.mktemp("short") / "run"
    go(run, **SHORT)
    return run


def test_killed_at_every_write_it_goes_on_bit_for_bit(short: Path, tmp_path: Path) -> None:
    number, ended = 1, False
    while not ended:
        run, moment = tmp_path / str(number), MOMENTS[number % 3]
        ended = sabotage(number, moment, None, lambda run=run: go(run, **SHORT))  # type: ignore[misc]
        go(run, **SHORT)
        assert_same_end(run, short)
        assert litter_of(run) == [], (number, moment)
        assert (run / "report.html").is_file() and (run / "progress.gif").is_file()
        assert [line["images_seen"] for line in log_of(run) if "scores" in line] == [0, 8], (number, moment)
        assert events_of(run, "finished") == ["finished after 8 images"]
        shutil.rmtree(run)
        number += 1
    assert number > 50


def test_a_full_disk_at_any_write_is_said_and_leaves_the_checkpoints_whole(short: Path, tmp_path: Path) -> None:
    number, ended = 1, False
    while not ended:
        run = tmp_path / str(number)
        error = OSError(errno.ENOSPC, "No space left on device")
        ended = sabotage(number, MOMENTS[number % 2], error, lambda run=run: go(run, **SHORT))  # type: ignore[misc]
        if run.is_dir():
            for path in list_checkpoints(run / "checkpoints"):
                checkpoint.load(path)
        go(run, **SHORT)
        assert_same_end(run, short)
        shutil.rmtree(run)
        number += 1
    assert number > 50
