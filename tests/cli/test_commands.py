"""The commands as a user types them, in processes of their own where that matters."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugan.cli.tell import Teller
from frugan.data.demo import DEMO_SETS
from frugan.data.write import read_metadata
from frugan.recipes import auto

FROZEN = Path(__file__).parent / "flags.txt"


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "FRUGAN_CACHE": str(cwd / "cache")}
    command = [sys.executable, "-c", "from frugan.cli import main; main()", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for index in range(6):
        Image.fromarray(noise.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


TINY = (
    *("--recipe", "small", "--resolution", "8", "--images", "24", "--batch", "4"),
    *("--set", "task.generator.widths=[8, 8, 8, 8]", "--set", "task.discriminator.widths=[8, 8]"),
    *("--set", "training.snapshot_images=12", "--set", "training.score_images=8"),
)


def test_help_and_import_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, frugan; sys.argv = ['frugan', '--help']\n"
        "from frugan import cli\n"
        "try: cli.app()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("train", "sample", "data", "recipes", "info", "demo"):
        assert name in done.stdout


def test_train_resume_extend_info_and_sample(tmp_path: Path, photos: Path) -> None:
    first = run("train", "photos", *TINY, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "finished after 24 images" in first.stdout
    again = run("train", "photos", *TINY, cwd=tmp_path)
    assert again.returncode == 0 and "this run is finished" in again.stdout
    more = run("train", "photos", "--images", "+12", cwd=tmp_path)
    assert more.returncode == 0 and "finished after 36 images" in more.stdout, more.stdout + more.stderr
    other = run("train", "photos", "--batch", "2", cwd=tmp_path)
    assert other.returncode == 2 and "training.batch: 4 -> 2" in other.stderr and "--force" in other.stderr
    wrong = run("train", "photos", "--recipe", "stylegan2", cwd=tmp_path)
    assert wrong.returncode == 2 and "'small'" in wrong.stderr
    told = run("info", "runs/photos", cwd=tmp_path)
    assert told.returncode == 0 and "36" in told.stdout
    drawn = run("sample", "runs/photos", "--seeds", "0-2", "--psi", "0.5", "--out", "drawn", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    facts = read_metadata(tmp_path / "drawn" / "seed00002.png")
    assert facts["frugan:seed"] == "2" and facts["frugan:psi"] == "0.5" and len(facts["frugan:model"]) == 12
    for name in ("report.html", "recipe.json", "log.jsonl", "grids/reals.png"):
        assert (tmp_path / "runs" / "photos" / name).is_file()


def test_a_second_plus_goes_on_with_the_first(call, photos: Path, tmp_path: Path) -> None:
    """`--images +N` extends a finished run once: stopped on the way, the same command goes on to the same end."""
    assert call("train", "photos", *TINY)[0] == 0
    recipe = tmp_path / "runs" / "photos" / "recipe.json"
    settings = json.loads(recipe.read_bytes())
    settings["training"]["total_images"] = 40  # as if an extension had been stopped on its way
    recipe.write_text(json.dumps(settings))
    status, shown = call("train", "photos", "--images", "+16")
    assert status == 0 and "finished after 40 images" in shown


def _licence(run: Path) -> str | None:
    return json.loads((run / "run.json").read_bytes())["data"]["licence"]


def test_the_licence_is_said_once_and_known_of_bundled_and_built_sets(call, photos: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert call("train", "photos", *TINY, "--licence", "mine")[0] == 0
    assert call("train", "photos", "--images", "+4")[0] == 0
    assert _licence(runs / "photos") == "mine"
    card = max((runs / "photos" / "checkpoints").glob("*/README.md"))
    assert "licence of the pictures: mine" in card.read_text()
    assert call("train", "photos", *TINY, "--out", "runs/other")[0] == 0
    assert _licence(runs / "other") is None
    (photos / "build.json").write_text(json.dumps({"licence": "CC0"}))
    assert call("train", "photos", *TINY, "--out", "runs/built")[0] == 0
    assert _licence(runs / "built") == "CC0"
    assert call("train", "demo:faces", *TINY)[0] == 0
    assert _licence(runs / "faces") == DEMO_SETS["faces"].licence


def test_a_recipe_from_a_file_is_that_recipe(call, photos: Path, tmp_path: Path) -> None:
    shown = call("recipes", "show", "reacgan-small")[1]
    (tmp_path / "mine.yaml").write_text(shown.replace("eps: 1.0e-06", "eps: 1.0e-07"))
    status, said = call("train", "demo:emoji", "--config", str(tmp_path / "mine.yaml"), "--dry-run")
    assert status == 0 and "eps: 1.0e-07" in said and "kind: ClassesConfig" in said
    (tmp_path / "words.yaml").write_text("just words")
    (tmp_path / "cut.json").write_text('{"name": ')
    mistakes = {"words.yaml": "holds no settings", "cut.json": "no recipe can be read", "none.json": "No such file"}
    for name, mistake in mistakes.items():
        status, said = call("train", "photos", "--config", str(tmp_path / name), "--dry-run")
        assert status == 2 and mistake in said and name in said


def test_an_augmentation_that_was_asked_for_is_the_reason_given(call, photos: Path) -> None:
    for name in ("ada", "none"):
        status, shown = call("train", "photos", "--augment", name, "--dry-run")
        assert (
            status == 0 and f"augmentation {name}: as asked" in shown and "DiffAugment" not in shown.split("reasons")[1]
        )


def test_a_budget_is_what_the_pace_is_held_against(call, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    monkeypatch.setattr(Teller, "plan", lambda self, seconds: planned.append(seconds))
    monkeypatch.setattr(auto, "measure_speed", lambda recipe, device: 100.0)
    for words in (("--budget", "1min"), (), ("--budget", "1min", "--images", "8k")):
        assert call("train", "photos", *words, "--resolution", "32", "--dry-run")[0] == 0
    assert planned == [60, None], "with --images the length is not planned"


def test_dry_run_writes_nothing(call, photos: Path, tmp_path: Path) -> None:
    status, shown = call("train", "photos", *TINY, "--dry-run")
    assert status == 0 and "total_images: 24" in shown
    assert not (tmp_path / "runs").exists()


def test_settings_that_only_fit_together(call) -> None:
    codes = '{"num_discrete": 1, "discrete_size": 8, "num_continuous": 2}'
    both = ("--set", "task.generator.z_dim=90", "--set", f"task.generator.codes={codes}")
    train = ("train", "demo:emoji", "--recipe", "reacgan-small", "--dry-run")
    status, shown = call(*train, *both, "--set", f"task.discriminator.codes={codes}")
    assert status == 0 and shown.count("num_continuous: 2") == 2 and "z_dim: 90" in shown, shown
    status, shown = call(*train, *both)
    assert status == 2 and "must have the same codes" in shown


def test_a_data_set_of_samples(call, tmp_path: Path) -> None:
    assert call("sample", "demo", "-n", "5", "--to", "zip", "--out", "many")[0] == 0
    with zipfile.ZipFile(tmp_path / "many.zip") as archive:
        pictures = [name for name in archive.namelist() if name.endswith(".png")]
        assert len(pictures) == 5 and "dataset.json" in archive.namelist()
    status, shown = call("sample", "demo", "-n", "5", "--to", "zip", "--out", "many")
    assert status == 2 and "exists" in shown


def test_a_walk(call, tmp_path: Path) -> None:
    walk = ("sample", "demo", "--seeds", "1,2", "--to", "gif", "--fps", "4", "--out", "walk")
    assert call(*walk)[0] == 0
    with Image.open(tmp_path / "walk.gif") as film:
        assert film.n_frames == 8 and film.size == (64, 64)


def test_a_smooth_walk_of_a_grid(call, tmp_path: Path) -> None:
    film = ("sample", "demo", "--to", "gif", "--walk", "smooth", "--fps", "2", "--seconds", "4", "--out", "walk")
    status, shown = call(*film, "--grid", "3x2")
    assert status == 0 and "8 frames, 6 seeds" in shown
    with Image.open(tmp_path / "walk.gif") as shot:
        assert shot.n_frames == 8 and shot.width > 3 * 64 and 2 * 64 < shot.height < 3 * 64
    film = (*film, "--overwrite")
    assert call(*film, "--seeds", "5")[0] == 0
    with Image.open(tmp_path / "walk.gif") as shot:
        assert shot.width < 2 * 64
    for words, part in (
        (("--grid", "3by2"), "such as 4x3"),
        (("--grid", "0x2"), "such as 4x3"),
        (("--grid", "3x2", "--seeds", "0-4"), "needs 6 seeds, got 5"),
        (("--seconds-between", "2"), "4 times --seconds-between"),
    ):
        status, shown = call(*film, *words)
        assert status == 2 and part in shown, words
    status, shown = call("sample", "demo", "--to", "gif", "--grid", "3x2")
    assert status == 2 and "--grid is for --walk smooth" in shown


def test_data_commands(call, photos: Path, tmp_path: Path) -> None:
    status, shown = call("data", "inspect", "photos")
    assert status == 0 and "6 pictures" in shown
    assert (tmp_path / "photos-inspection" / "contact_sheet.png").is_file()
    assert call("data", "augment-sheet", "photos", "--policy", "translation", "--out", "sheet.png")[0] == 0
    assert (tmp_path / "sheet.png").is_file()
    assert call("data", "augment-sheet", "photos", "--policy", "ada:bg", "--p", "1", "--out", "ada.png")[0] == 0
    with Image.open(tmp_path / "ada.png") as sheet, Image.open(tmp_path / "sheet.png") as small:
        assert sheet.height > 2 * small.height  # seven operations in place of one
    status, shown = call("data", "augment-sheet", "photos", "--policy", "none")
    assert status == 2 and "leaves nothing to draw" in shown
    status, shown = call("data", "sets")
    assert status == 0 and "demo:faces" in shown and "fashion-mnist" in shown


def test_recipe_commands(call) -> None:
    status, shown = call("recipes", "list")
    assert status == 0 and "diffaugment-100-shot" in shown and "stylegan2-ada-transfer" in shown
    status, shown = call("recipes", "show", "small")
    assert status == 0 and "total_images: 300000" in shown
    status, shown = call("recipes", "diff", "stylegan2-256", "stylegan2-512")
    assert status == 0 and "task.r1.gamma" in shown


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("train", "nowhere"), "nowhere"),
        (("train", "photos", "--recipe", "smal"), "did you mean 'small'"),
        (("train", "photos", "--budget", "soon"), "30min"),
        (("train", "photos", *TINY, "--set", "task.r1.gama=1"), "gamma"),
        (("train", "photos", *TINY, "--set", "task.r1.gamma"), "path=value"),
        (("train", "photos", "--from", "nothing-there"), "nothing-there"),
        (("train", "photos", "--augment", "colour"), "color"),
        (("sample", "demo", "--classes", "cat"), "without classes"),
        (("sample", "demo", "--seeds", "1", "-n", "2"), "not both"),
        (("sample", "demo", "--seeds", "9-1"), "seeds"),
        (("info", "nothing-there"), "nothing-there"),
        (("recipes", "show", "stylgan2"), "did you mean"),
        (("data", "build", "fashion"), "fashion-mnist"),
        (("train", "demo:face"), "faces"),
    ],
)
def test_mistakes_get_one_clear_line(call, photos: Path, words: tuple[str, ...], part: str) -> None:
    status, shown = call(*words)
    assert status == 2
    assert part in shown and "Traceback" not in shown


def test_flags_are_frozen(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """A flag that vanishes breaks somebody's script: change tests/cli/flags.txt knowingly."""
    found = []
    for words in (
        *(("train",), ("sample",), ("info",), ("demo",)),
        *(("import",), ("translate",), ("evaluate",)),
        *(("data", "inspect"), ("data", "augment-sheet"), ("data", "sets"), ("data", "build")),
        *(("recipes", "list"), ("recipes", "show"), ("recipes", "diff")),
        *(("export",), ("cost",)),
    ):
        shown = run(*words, "--help", cwd=tmp_path).stdout
        flags = sorted({word.strip("│ ,") for word in shown.split() if word.startswith("--")} - {"--help"})
        found.append(f"{' '.join(words)}: {' '.join(flags)}")
    text = "\n".join(found) + "\n"
    if not FROZEN.exists():
        FROZEN.write_text(text)
    assert text == FROZEN.read_text()
