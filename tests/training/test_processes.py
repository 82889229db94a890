"""Real processes that are really killed: alone, by signals, and several under torchrun."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frugan.training.run import Start, train
from tests.training.rig import ENVIRONMENT, ROOT, together
from tests.training.tiny_runs import assert_same_end, tiny_data, tiny_recipe

TOTAL = 96  # images: 24 iterations, each with a checkpoint


def start(run: Path, total: int) -> "subprocess.Popen[str]":
    """A training in a process of its own; every line of its log comes on its standard output."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.tiny_runs", str(run), str(total)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_once(run: Path, total: int, chance: random.Random) -> bool:
    """Start the training and kill it at a random moment; False where it came to its end first."""
    process = start(run, total)
    assert process.stdout is not None
    wanted = chance.randrange(0, 30)
    try:
        if wanted == 0:  # while it loads and begins
            time.sleep(chance.uniform(0.0, 3.0))
        for number, line in enumerate(process.stdout):
            if number >= wanted:
                break
            if line.startswith("outcome"):
                break
        time.sleep(chance.uniform(0.0, 0.05))
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    return process.returncode == -signal.SIGKILL


def uninterrupted(run: Path, total: int) -> Path:
    assert train(run, tiny_recipe(total_images=total), tiny_data(), Start(device="cpu")).reason == "finished"
    return run


def finish(run: Path, total: int, timeout_seconds: float = 120) -> str:
    process = start(run, total)
    output, _ = process.communicate(timeout=timeout_seconds)
    assert process.returncode == 0, output
    return output.splitlines()[-1]


def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    chance = random.Random(os.environ.get("FRUGAN_KILL_SEED"))
    kills = sum(kill_once(tmp_path / "killed", TOTAL, chance) for _ in range(3))
    assert finish(tmp_path / "killed", TOTAL) in ("outcome: finished", "outcome: already finished")
    assert_same_end(tmp_path / "killed", uninterrupted(tmp_path / "whole", TOTAL))
    assert kills > 0


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_killed_a_hundred_times_it_ends_with_the_same_bits(seed: int, tmp_path: Path) -> None:
    """Four runs, each killed until 25 kills hit a training at work."""
    total, chance, kills = 4 * 700, random.Random(seed), 0
    while kills < 25:
        kills += kill_once(tmp_path / "killed", total, chance)
    finish(tmp_path / "killed", total, timeout_seconds=3600)
    assert_same_end(tmp_path / "killed", uninterrupted(tmp_path / "whole", total))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_a_process_with_a_checkpoint(number: int, tmp_path: Path) -> None:
    process = start(tmp_path / "run", 100_000)
    assert process.stdout is not None
    for line in process.stdout:
        if line.split() == ["20"]:
            process.send_signal(number)
            break
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert output.splitlines()[-1] == "outcome: stopped"
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("0*"))
    stopped = next(line.split()[1] for line in output.splitlines() if line.startswith("stopped"))
    assert names[-1] == f"{int(stopped):09d}"


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    process = start(tmp_path / "run", 100_000)
    assert process.stdout is not None
    process.stdout.readline()
    other = start(tmp_path / "run", 100_000)
    output, _ = other.communicate(timeout=60)
    process.kill()
    process.communicate()
    assert other.returncode != 0
    assert "RunError: another process is training in" in output
    shutil.rmtree(tmp_path / "run")


def torchrun(run: Path, kill_at: int, victim: int) -> str:
    """Two processes under torchrun; the victim kills itself once when it has seen so many images."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=2"),
            *("--monitor-interval=0.1", "-m", "tests.training.torchrun_worker", str(run), str(kill_at), str(victim)),
        ],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=200)
    finally:
        process.terminate()  # and its workers with it, which a kill would leave behind
        process.wait()
    assert process.returncode == 0, output + errors
    return output


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two processes, without torchrun's agent."""
    run = tmp_path_factory.mktemp("two") / "run"
    together("tests.training.torchrun_worker", str(run), "-1", "0")
    return run


# Each of these loads torch five times; the writing process is the harder loss.
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_torchrun_goes_on_after_a_worker_was_killed(victim: int, tmp_path: Path, two_processes: Path) -> None:
    output = torchrun(tmp_path / "killed", 12, victim)
    assert output.count("killing myself") == 1
    assert output.count("outcome: finished") == 2
    assert_same_end(tmp_path / "killed", two_processes)
