"""A run folder: begun, killed at every write, damaged, stopped, extended, refused; always the same weights."""

import dataclasses
import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from frugan import checkpoint
from frugan.checkpoint import list_checkpoints
from frugan.evaluation import PIXEL_SWD
from frugan.model import load, save
from frugan.training.folder import RunError, RunFolder
from frugan.training.loop import TrainingError
from frugan.training.recipe import AdamConfig
from frugan.training.run import Outcome, Start, fit, train
from frugan.training.tasks.adversary import R1Config
from frugan.training.tasks.gan import PathLengthConfig
from tests.training.tiny_runs import assert_same_end, final_weights, spreads, tiny_data, tiny_recipe
from tests.training.tiny_tasks import gan_config, pictures


def go(
    run: Path, *, force: bool = False, tell: Callable[[dict[str, Any]], None] | None = None, **training: Any
) -> Outcome:
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
            (Path, ("replace", "rename", "unlink", "mkdir", "write_bytes", "write_text", "open")),
            (shutil, ("rmtree",)),
            (checkpoint, ("write_durably",)),
        ):
            for name in names:
                monkeypatch.setattr(owner, name, self._wrap(getattr(owner, name), name))

    def _wrap(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            if name == "open" and args[1:] != ("a",):  # the log alone is written piece by piece
                return real(*args, **keywords)
            if self.error is not None and name in ("rmtree", "unlink"):
                return real(*args, **keywords)  # a full disk does not hinder those
            if self.is_dead:
                raise Killed
            self.count += 1
            if self.count != self.number:
                return real(*args, **keywords)
            if self.moment == "middle":
                self._half(real, name, args, keywords)
            elif self.moment == "after":
                result = real(*args, **keywords)
                if name == "open":
                    result.close()
            self.is_dead = self.error is None
            raise self.error or Killed

        return call

    def _half(self, real: Callable[..., Any], name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if name == "write_durably":
            args[0].write_bytes(args[1][: len(args[1]) // 2])
        elif name == "open":
            with real(*args, **keywords) as file:
                file.write('{"images_')
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


@pytest.mark.usefixtures("unchecked")
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


@pytest.mark.usefixtures("unchecked")
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


# -- damage ---------------------------------------------------------------------------------------------------------


def cut_a_part(path: Path) -> None:
    part = path / "net.generator.safetensors"
    part.write_bytes(part.read_bytes()[:-100])


def flip_a_byte(name: str, where: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray((path / name).read_bytes())
        data[int(len(data) * where)] ^= 1
        (path / name).write_bytes(data)

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "part cut": cut_a_part,
    "byte of a part": flip_a_byte("adam.generator.safetensors", 0.7),
    "byte of the header of a part": flip_a_byte("ema.generator.safetensors", 0.01),
    "byte of the index": flip_a_byte("checkpoint.json", 0.5),
    "part gone": lambda path: (path / "task.safetensors").unlink(),
    "index gone": lambda path: (path / "checkpoint.json").unlink(),
    "index empty": lambda path: (path / "checkpoint.json").write_bytes(b""),
    "index half": lambda path: (path / "checkpoint.json").write_bytes((path / "checkpoint.json").read_bytes()[:300]),
    "index of something else": lambda path: (path / "checkpoint.json").write_text("[1, 2]"),
    "everything gone": lambda path: [file.unlink() for file in path.iterdir()],  # type: ignore[dict-item]
}


def interrupted(run: Path, at: int = 12, **training: Any) -> None:
    """A run that stopped half-way, with checkpoints at 4 images less, 8 less, ..."""

    def tell(line: dict[str, Any]) -> None:
        if line["images_seen"] == at and "losses" in line:
            os.kill(os.getpid(), signal.SIGTERM)

    assert go(run, tell=tell, **training).reason == "stopped"


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over(name: str, whole: Path, tmp_path: Path) -> None:
    interrupted(tmp_path)
    assert names_of(tmp_path)[-2:] == ["000000008", "000000012"]
    DAMAGES[name](tmp_path / "checkpoints" / "000000012")
    assert load(tmp_path).info["images_seen"] <= 8
    told: list[dict[str, Any]] = []
    assert go(tmp_path, tell=told.append).reason == "finished"
    assert_same_end(tmp_path, whole)
    (text,) = events_of(tmp_path, "damaged")
    assert "000000012" in text and text.endswith("fell back to 000000008")
    assert {"event": "damaged", "images_seen": 8, "text": text} in told
    checkpoint.load(tmp_path / "checkpoints" / "000000012")  # written again on the way


def test_dead_folders_of_interrupted_writes_do_no_harm(whole: Path, tmp_path: Path) -> None:
    interrupted(tmp_path)
    for name in (".000000016.99.part", ".000000012.99.old"):
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / "net.generator.safetensors").write_bytes(b"half")
    (tmp_path / ".run.json.99.part").write_bytes(b"half")
    go(tmp_path)
    assert_same_end(tmp_path, whole)
    assert litter_of(tmp_path) == []


def test_a_damaged_newest_checkpoint_does_not_push_out_good_ones(tmp_path: Path) -> None:
    """Only one is kept: it must be the one just written, not a newer-named wreck."""
    interrupted(tmp_path, 12, keep_checkpoints=1)
    flip_a_byte("checkpoint.json", 0.5)(tmp_path / "checkpoints" / "000000012")
    wreck = tmp_path / "checkpoints" / "000000099"
    (tmp_path / "checkpoints" / "000000012").rename(wreck)
    go(tmp_path, keep_checkpoints=1)
    assert "000000016" in names_of(tmp_path)
    assert load(tmp_path).info["images_seen"] <= 16


def test_when_all_checkpoints_are_damaged_it_says_so(tmp_path: Path) -> None:
    interrupted(tmp_path)
    for path in list_checkpoints(tmp_path / "checkpoints"):
        cut_a_part(path)
    with pytest.raises(TrainingError, match=r"every checkpoint of this run is damaged: .*000000012.*; .*000000008"):
        go(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        load(tmp_path)


def test_a_torn_log_is_mended(whole: Path, tmp_path: Path) -> None:
    interrupted(tmp_path)
    (tmp_path / "checkpoints" / "000000012" / "checkpoint.json").unlink()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"images_seen": 12, "iterat')
    go(tmp_path)
    lines = log_of(tmp_path)  # every line can be read
    numbers = [line["images_seen"] for line in lines if "losses" in line]
    assert numbers == [4, 8, 12, 16]
    scores = [(line["images_seen"], line["scores"]) for line in lines if "scores" in line]
    assert scores == [(line["images_seen"], line["scores"]) for line in log_of(whole) if "scores" in line]


# -- stopping, extending, refusing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_a_checkpoint(number: int, whole: Path, tmp_path: Path) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def tell(line: dict[str, Any]) -> None:
        if line["images_seen"] == 12 and "losses" in line:
            os.kill(os.getpid(), number)

    outcome = go(tmp_path, tell=tell, checkpoint_seconds=1e9)
    assert (outcome.reason, outcome.images_seen, outcome.signal) == ("stopped", 12, number)
    assert names_of(tmp_path)[-1] == "000000012"
    assert events_of(tmp_path, "stopped") == ["stopped at 12 images; the same command goes on"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert go(tmp_path).reason == "finished"
    assert_same_end(tmp_path, whole)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    def tell(line: dict[str, Any]) -> None:
        if line["images_seen"] == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit) as raised:
        go(tmp_path, tell=tell)
    assert raised.value.code == 130


def test_a_finished_run_can_be_extended(whole: Path, tmp_path: Path) -> None:
    assert go(tmp_path, total_images=8).reason == "finished"
    assert go(tmp_path, total_images=16).reason == "finished"
    assert_same_end(tmp_path, whole)
    assert RunFolder(tmp_path).read_recipe().training.total_images == 16
    assert go(tmp_path, total_images=8).reason == "already finished"


def test_changed_settings_are_named_and_refused(tmp_path: Path) -> None:
    interrupted(tmp_path)
    recipe = tiny_recipe()
    adam = AdamConfig(lr=0.003)
    changed = dataclasses.replace(recipe, optimisers={**recipe.optimisers, "generator": adam})
    with pytest.raises(RunError, match=r"optimisers.generator.lr: 0.002 -> 0.003\nUse another --out .* or --force"):
        train(tmp_path, changed, tiny_data())
    with pytest.raises(RunError, match=r"training.seed: 0 -> 1"):
        go(tmp_path, seed=1)
    assert RunFolder(tmp_path).read_recipe() == recipe
    assert train(tmp_path, changed, tiny_data(), Start(force=True)).reason == "finished"
    assert RunFolder(tmp_path).read_recipe() == changed


def test_changed_pictures_are_named_and_refused(tmp_path: Path) -> None:
    interrupted(tmp_path)
    with pytest.raises(RunError, match=r"pictures of 'images' are not the same ones \(6 now\)"):
        train(tmp_path, tiny_recipe(), tiny_data(seed=1))
    assert train(tmp_path, tiny_recipe(), tiny_data(seed=1), Start(force=True)).reason == "finished"


def test_settings_of_when_and_where_may_change(whole: Path, tmp_path: Path) -> None:
    interrupted(tmp_path)
    changes = {"checkpoint_seconds": 7.0, "status_seconds": 3.0, "keep_checkpoints": 5, "max_rollbacks": 9}
    assert go(tmp_path, **changes, plateau_images=1000).reason == "finished"
    assert_same_end(tmp_path, whole)


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    interrupted(tmp_path)
    with RunFolder(tmp_path).lock(), pytest.raises(RunError, match="another process is training in"):
        go(tmp_path)
    assert go(tmp_path).reason == "finished"


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(RunError, match="holds files but no run of ours; choose an empty or new folder with --out"):
        go(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(RunError, match="is a file; choose another --out"):
        go(tmp_path / "holiday.jpg")


def test_a_recipe_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"name": "tiny"')
    with pytest.raises(RunError, match=r"recipe.json cannot be read .*; start a new run with another --out"):
        go(tmp_path)


def test_another_machine_is_said(tmp_path: Path) -> None:
    interrupted(tmp_path)
    facts = RunFolder(tmp_path).read_facts()
    facts["machine"]["threads"] = 64
    RunFolder(tmp_path).write_facts(facts)
    go(tmp_path)
    assert events_of(tmp_path, "machine") == ["not bit for bit from here on: threads 64 -> 1"]


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_samples_that_become_alike_lead_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spreads(monkeypatch, {0: [(9, 0.1)], 8: [(8, 0.1)], 16: [(99, 0.001), (7, 0.1)], 24: [(6, 0.1)]})
    assert go(tmp_path, total_images=24).reason == "finished"
    (text,) = events_of(tmp_path, "rollback")
    assert text == "samples became alike (spread 0.0010, was 0.1000): back at 8 images, half the speed"
    progress = checkpoint.read_info(tmp_path / "checkpoints" / "000000024")["loop"]["progress"]
    assert (progress["rollbacks"], progress["lr_factor"], progress["best"]) == (1, 0.5, "000000024")


def test_fakes_that_never_varied_are_not_called_collapsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spreads(monkeypatch, {0: [(9, 0.04)], 8: [(8, 0.001)], 16: [(7, 0.0)]})
    assert go(tmp_path).reason == "finished"
    assert events_of(tmp_path, "rollback") == []


def test_samples_that_stay_alike_end_with_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spreads(monkeypatch, {0: [(9, 0.1)], 8: [(8, 0.1)], 16: [(99, 0.0)]})
    with pytest.raises(TrainingError, match=r"gave up after 2 returns to older checkpoints\. Try a lower"):
        go(tmp_path, max_rollbacks=2)
    assert len(events_of(tmp_path, "failed")) == 1
    assert names_of(tmp_path)[-1] < "000000016"  # what was collapsed is not kept


def test_a_roll_back_survives_a_kill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed right after a roll-back or somewhere on the second way, the weights come out the same."""
    first_try = {0: [(9.0, 0.1)], 8: [(8.0, 0.1)], 16: [(99.0, 0.0), (7.0, 0.1)], 24: [(6.0, 0.1)]}
    second_try = {**first_try, 16: [(7.0, 0.1)]}
    spreads(monkeypatch, first_try)
    go(tmp_path / "whole", total_images=24)
    # At once nothing remembers the first try, and it is made again; at 16 there is a checkpoint of the second.
    for at, rest in ((8, first_try), (16, second_try)):
        run = tmp_path / str(at)
        returned: list[bool] = []

        def tell(line: dict[str, Any], at: int = at, returned: list[bool] = returned) -> None:
            returned.append(line.get("event") == "rollback")
            if any(returned) and line["images_seen"] == at:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            spreads(patch, first_try)
            go(run, total_images=24, tell=tell)
        with monkeypatch.context() as patch:
            spreads(patch, rest)
            go(run, total_images=24)
        assert_same_end(run, tmp_path / "whole")


def test_the_best_and_the_last_sound_checkpoint_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table: dict[int, list[tuple[float, float]]] = {images: [(9, 0.1)] for images in range(0, 48, 16)}
    table[16] = [(1, 0.1)]
    spreads(monkeypatch, table)
    interrupted(tmp_path, 44, total_images=100, snapshot_images=16, keep_checkpoints=1)
    assert names_of(tmp_path) == ["000000016", "000000032", "000000044"]
    assert load(tmp_path).info["images_seen"] == 16


def test_a_plateau_stops_early_and_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table: dict[int, list[tuple[float, float]]] = {images: [(5, 0.1)] for images in range(0, 400, 8)}
    spreads(monkeypatch, table)
    assert go(tmp_path, total_images=400, plateau_images=24).reason == "plateau"
    (text,) = events_of(tmp_path, "plateau")
    assert text.startswith("stopped at 24 images: the score no longer improves")
    again = go(tmp_path, total_images=400, plateau_images=24)
    assert (again.reason, again.images_seen) == ("already finished", 24)
    assert go(tmp_path, total_images=400, plateau_images=40).images_seen == 40


# -- what goes in -----------------------------------------------------------------------------------------------------


def test_grids_and_scores_never_change_the_training(whole: Path, tmp_path: Path) -> None:
    go(tmp_path, snapshot_images=1000, checkpoint_seconds=1e9)
    a, b = final_weights(whole), final_weights(tmp_path)
    for part in a:
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    assert (tmp_path / "grids" / "fakes-000000016.png").read_bytes() == (
        whole / "grids" / "fakes-000000016.png"
    ).read_bytes()


def test_seeds_give_different_weights(whole: Path, tmp_path: Path) -> None:
    go(tmp_path, seed=1)
    a, b = (final_weights(run)["ema.generator"] for run in (whole, tmp_path))
    assert not torch.equal(a["synthesis.b4.conv1.weight"], b["synthesis.b4.conv1.weight"])


CASES = {
    "one picture": (pictures(1, 4), 4),
    "a batch larger than the set": (pictures(3, 4), 8),
    "a batch of one": (pictures(3, 4), 1),
    "grey": (pictures(5, 4, channels=1), 4),
    "colour and alpha": (pictures(5, 4, channels=4), 4),
    "classes": (pictures(5, 4, classes=3), 4),
    "grey classes": (pictures(5, 4, channels=1, classes=2), 4),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_set_trains_and_loads(case: str, tmp_path: Path) -> None:
    dataset, batch = CASES[case]
    task = gan_config(4, r1=R1Config(gamma=1.0, every=2), path_length=PathLengthConfig(every=2))
    recipe = fit(tiny_recipe(task, batch=batch, total_images=2 * batch), {"images": dataset})
    assert recipe.task.generator.num_classes == dataset.num_classes
    assert train(tmp_path, recipe, {"images": dataset}).reason == "finished"
    model = load(tmp_path)
    assert model.sample([0, 1]).shape == (2, dataset.channels, 4, 4)
    assert model.class_names == dataset.class_names
    assert train(tmp_path, recipe, {"images": dataset}).reason == "already finished"


def test_a_training_starts_from_a_model(whole: Path, tmp_path: Path) -> None:
    newest = list_checkpoints(whole / "checkpoints")[-1]
    start = Start(parent=str(newest), device="cpu")
    interrupted_at_zero = dataclasses.replace(tiny_recipe(), training=tiny_recipe(total_images=0).training)
    train(tmp_path / "none", interrupted_at_zero, tiny_data(), start)
    parent, child = load(newest), load(tmp_path / "none")
    for name, tensor in parent.generator.state_dict().items():
        assert torch.equal(child.generator.state_dict()[name], tensor)
    assert child.discriminator is not None and parent.discriminator is not None
    (text,) = events_of(tmp_path / "none", "started_from")
    count, heads = len(parent.generator.state_dict()), len(parent.discriminator.state_dict())
    assert text == (
        f"started from {newest}: {count} of {count} tensors of the generator and {heads} of {heads} tensors of the "
        "discriminator"
    )
    train(tmp_path / "some", tiny_recipe(), tiny_data(), start)
    assert child.info["parent"] == str(newest)
    assert not torch.equal(
        final_weights(tmp_path / "some")["net.generator"]["synthesis.b4.conv1.weight"],
        final_weights(whole)["net.generator"]["synthesis.b4.conv1.weight"],
    )


def test_a_parent_of_which_nothing_fits_is_refused(whole: Path, tmp_path: Path) -> None:
    task = gan_config(4, num_classes=3)
    narrow = dataclasses.replace(task.discriminator, channel_max=5, mapping_layers=1)
    recipe = tiny_recipe(dataclasses.replace(task, discriminator=narrow))
    with pytest.raises(RunError, match=r"no weight of the discriminator of .* fits this recipe; use the recipe"):
        train(tmp_path, recipe, {"images": pictures(6, 4, classes=3)}, Start(parent=str(whole)))


def test_every_checkpoint_has_a_card(whole: Path) -> None:
    card = (list_checkpoints(whole / "checkpoints")[-1] / "README.md").read_text()
    for part in ("recipe: tiny", "images seen: 16", "pictures: 6 at 4 px from memory", "licence", PIXEL_SWD):
        assert part in card


def test_what_is_known_is_written_down(whole: Path) -> None:
    facts = RunFolder(whole).read_facts()
    assert facts["data"]["count"] == 6 and facts["data"]["resolution"] == 4 and facts["precision"] == "fp32"
    assert facts["machine"]["threads"] == 1 and facts["machine"]["processes"] == 1
    assert set(facts["model"]["parameters"]) == {"generator", "discriminator"}
    info = checkpoint.read_info(list_checkpoints(whole / "checkpoints")[-1])
    assert info["recipe"] == "tiny" and info["images_seen"] == 16 and info["best"] in [*names_of(whole), ""]


def test_the_licence_of_a_parent_goes_on_to_its_children(whole: Path, tmp_path: Path) -> None:
    parent = load(whole)
    save(dataclasses.replace(parent, info={**parent.info, "licence": "not for sale"}), tmp_path / "parent")
    run, start = tmp_path / "run", Start(parent=str(tmp_path / "parent"), device="cpu")
    train(run, tiny_recipe(total_images=8), tiny_data(), start)
    train(run, tiny_recipe(), tiny_data(), start)
    newest = list_checkpoints(run / "checkpoints")[-1]
    assert load(newest).info["licence"] == "not for sale"
    assert "weights it continued from: not for sale" in (newest / "README.md").read_text()
