"""The torch-free runtime draws what the trained model draws."""

import json
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frugan import runtime
from frugan.cli import parse
from frugan.data.dataset import to_uint8
from frugan.export import export
from frugan.model import Model
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.runtime import Runtime

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Runtime, Path]:
    torch.manual_seed(1)
    config = StyleGAN2Config(
        resolution=8, channel_base=32, channel_max=6, z_dim=5, w_dim=4, mapping_layers=2, num_classes=3
    )
    generator = Generator(config).eval().requires_grad_(False)
    generator.mapping.w_avg.normal_()
    for layer in generator.synthesis.layers():
        torch.nn.init.constant_(layer.noise_strength, 0.3)
    model = Model(generator, None, {"class_names": ["ant", "bee", "7"]})
    done = export(model, tmp_path_factory.mktemp("export") / "out", repeats=0)
    return model, Runtime(done.model, threads=1), done.model


def same(ours: np.ndarray, eager: torch.Tensor) -> None:
    theirs = eager.permute(0, 2, 3, 1).numpy()
    assert ours.dtype == np.uint8 and ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert (ours == theirs).mean() > 0.99


def test_the_same_seeds_give_the_same_pictures(exported: tuple[Model, Runtime, Path]) -> None:
    model, ours, _ = exported
    assert ours.class_names == ("ant", "bee", "7")
    same(ours.sample(range(5)), model.sample(range(5)))
    same(ours.sample(range(5), batch=2), model.sample(range(5)))
    same(ours.sample([4], psi=0.5, cutoff=2), model.sample([4], psi=0.5, cutoff=2))
    same(ours.sample([4, 9], noise=0.0), model.sample([4, 9], noise="none"))
    same(ours.sample([4, 9], classes=["bee", 0]), model.sample([4, 9], classes=["bee", 0]))


def test_styles_can_be_taken_mixed_and_drawn(exported: tuple[Model, Runtime, Path]) -> None:
    model, ours, _ = exported
    w = ours.w([1, 2], psi=0.8)
    assert np.allclose(w, model.w([1, 2], psi=0.8).numpy(), atol=1e-5)
    mixed = np.concatenate([w[:1, :2], w[1:, 2:]], axis=1)
    same(ours.synthesize(mixed), model.synthesize(torch.from_numpy(mixed)))
    same(ours.synthesize(w, noise=0.0), model.synthesize(torch.from_numpy(w), noise="none"))


def test_walk(exported: tuple[Model, Runtime, Path]) -> None:
    model, ours, _ = exported
    frames = np.concatenate(list(ours.walk([1, 5], frames_between=3, psi=0.7, batch=4)))
    same(frames, torch.cat(list(model.walk([1, 5], frames_between=3, psi=0.7))))
    with pytest.raises(ValueError, match="at least two seeds"):
        next(ours.walk([1]))


def test_a_runtime_serves_several_threads(exported: tuple[Model, Runtime, Path]) -> None:
    _, ours, _ = exported
    found: dict[int, np.ndarray] = {}
    workers = [
        threading.Thread(target=lambda seed=seed: found.update({seed: ours.sample([seed] * 3)})) for seed in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for seed in range(4):
        assert np.array_equal(found[seed], ours.sample([seed] * 3))


def test_it_runs_where_there_is_no_torch(exported: tuple[Model, Runtime, Path], tmp_path: Path) -> None:
    """Not even jaxtyping or Pillow: numpy and onnxruntime are all that is imported."""
    _, ours, path = exported
    out = tmp_path / "grid.png"
    code = (
        "import sys\n"
        "for name in ('torch', 'jaxtyping', 'PIL', 'cyclopts', 'safetensors'): sys.modules[name] = None\n"
        "from frugan.runtime import main\n"
        "assert main(sys.argv[1:]) == 0\n"
    )
    words = [str(path), "--seeds", "0-2,7", "--psi", "1", "--threads", "1", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "drawn: 4 pictures" in done.stdout
    assert np.array_equal(np.array(Image.open(out)), runtime.grid(ours.sample([0, 1, 2, 7])))


def test_command_line_says_what_is_wrong(
    exported: tuple[Model, Runtime, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, path = exported
    for words, message in (
        ([str(tmp_path / "no.onnx")], "is not a file"),
        ([str(path), "--seeds", "5-1"], "seeds must look like"),
        ([str(path), "--classes", "wasp", "--seeds", "0"], "no class 'wasp'; it has: ant, bee, 7"),
        ([str(path), "--classes", "3", "--seeds", "0"], "a class number must be in"),
        ([str(path), "--classes", "0,1", "--seeds", "0"], "as many classes as seeds"),
        ([str(path), "--threads", "0"], "threads must be 1 or more"),
        ([str(path), "--out", str(tmp_path / "none" / "grid.png")], "No such file"),
    ):
        assert runtime.main(words) == 2
        assert message in capsys.readouterr().err


def test_wrong_arrays_and_seeds_are_refused(exported: tuple[Model, Runtime, Path]) -> None:
    _, ours, _ = exported
    with pytest.raises(ValueError, match=r"labels must have the shape \(1, 3\)"):
        ours.run(np.zeros((1, 5), np.float32))
    with pytest.raises(ValueError, match=r"z must have the shape \(1, 5\), got \(1, 4\)"):
        ours.run(np.zeros((1, 4), np.float32), labels=np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match=r"w must have the shape \(2, 4, 4\), got \(2, 3, 4\)"):
        ours.synthesize(np.zeros((2, 3, 4), np.float32))
    with pytest.raises(ValueError, match="w_shift must have the shape"):
        ours.run(
            np.zeros((1, 5), np.float32),
            labels=np.eye(3, dtype=np.float32)[:1],
            w_shift=np.zeros((1, 3, 4), np.float32),
        )
    with pytest.raises(ValueError, match="a seed must be in"):
        ours.sample([-1])
    with pytest.raises(ValueError, match="at least one seed"):
        ours.sample([])


def test_files_of_others_are_refused(exported: tuple[Model, Runtime, Path], tmp_path: Path) -> None:
    _, _, path = exported
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="was not written by `frugan export`"):
        Runtime(tmp_path / "other.onnx")
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match="is not an ONNX model"):
        Runtime(tmp_path / "broken.onnx")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ends in .onnx or .xml"):
        Runtime(tmp_path / "model.bin")


def test_a_broken_openvino_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "model.xml").write_text("<net>")
    with pytest.raises(ValueError, match="is not a model that openvino can read"):
        Runtime(tmp_path / "model.xml")


@pytest.mark.parametrize(("suffix", "package"), [("onnx", "onnxruntime"), ("xml", "openvino")])
def test_a_missing_engine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, package: str) -> None:
    (tmp_path / f"model.{suffix}").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"pip install {package}"):
        Runtime(tmp_path / f"model.{suffix}")


def test_small_parts_agree_with_those_of_the_library() -> None:
    for text in ("0-63", "7", "1,5,9-12"):
        assert runtime.parse_seeds(text) == parse.seeds(text)
    values = np.linspace(-1.2, 1.2, 3 * 40 * 40, dtype=np.float32).reshape(1, 3, 40, 40)
    values[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    assert np.array_equal(runtime.to_uint8(values)[0].transpose(2, 0, 1), to_uint8(torch.from_numpy(values))[0].numpy())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png(tmp_path: Path, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    path = tmp_path / "picture.png"
    path.write_bytes(runtime.encode_png(image))
    assert np.array_equal(np.array(Image.open(path)).reshape(5, 7, channels), image)
    with pytest.raises(ValueError, match="1, 3 or 4 channels"):
        runtime.encode_png(image[:, :, :1].repeat(2, axis=2))


def test_grid_places_pictures_row_by_row() -> None:
    images = np.stack([np.full((2, 3, 1), value, np.uint8) for value in (10, 20, 30)])
    sheet = runtime.grid(images, gap=1)
    assert sheet.shape == (7, 9, 1)
    assert (sheet[1, 1, 0], sheet[1, 5, 0], sheet[4, 1, 0], sheet[4, 5, 0]) == (10, 20, 30, 255)
    assert zlib.crc32(runtime.encode_png(sheet)) == zlib.crc32(runtime.encode_png(sheet))
    assert json.dumps(runtime.grid(images, columns=3).shape) == "[6, 17, 1]"
