"""From a file of others to a checkpoint of ours: the folder, its card, the command line."""

import sys

import pytest
import torch

import frugan
from frugan import checkpoint, cli, interop
from frugan.interop import rosinality
from frugan.interop.imported import ImportProblem, self_check
from frugan.model import Model
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from tests.interop import emit
from tests.interop.test_rosinality import tiny


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "network-snapshot.pkl"
    path.write_bytes(emit.tiny_nvidia(monkeypatch))
    return path


@pytest.fixture
def call(monkeypatch, capsys):
    def calling(*words):
        monkeypatch.setattr(sys, "argv", ["frugan", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        shown = capsys.readouterr()
        return status, " ".join((shown.out + shown.err).split())

    return calling


def test_the_folder_is_the_model(snapshot, tmp_path):
    steps = []
    imported = interop.import_checkpoint(snapshot, tmp_path / "out", lambda *step: steps.append(step))
    assert [done for done, _, _ in steps] == [0, 1, 2, 3]
    back, direct = frugan.load(tmp_path / "out"), frugan.load(snapshot)
    assert torch.equal(back.sample([5], psi=0.5), direct.sample([5], psi=0.5))
    assert back.hash == direct.hash and back.discriminator is not None
    assert back.info["origin"]["sha256"] == imported.model.info["origin"]["sha256"]
    assert "not commercially" in back.info["licence"]
    card = (tmp_path / "out" / checkpoint.CARD).read_text()
    for part in ("license: other", "network-snapshot.pkl", back.info["origin"]["sha256"], imported.licence, "## Check"):
        assert part in card
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".safetensors", ".md"}


def test_nothing_is_overwritten(snapshot, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    interop.import_checkpoint(snapshot, photos)  # empty: fine
    with pytest.raises(ImportProblem, match="--overwrite"):
        interop.import_checkpoint(snapshot, photos)
    interop.import_checkpoint(snapshot, photos, overwrite=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "picture.png").write_bytes(b"x")
    for target in (mine, snapshot):
        with pytest.raises(ImportProblem, match="another folder"):
            interop.import_checkpoint(snapshot, target, overwrite=True)
    assert (mine / "picture.png").read_bytes() == b"x"


def test_a_failed_import_leaves_nothing(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(ImportProblem):
        interop.import_checkpoint(path, tmp_path / "deep" / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pkl"]


def test_commands(call, snapshot, tmp_path):
    status, shown = call("import", snapshot, "--out", tmp_path / "out")
    assert status == 0, shown
    for part in ("StyleGAN2-ADA", "8 px", "all finite", "average style", "licence of the weights", "not commercially"):
        assert part in shown
    status, shown = call("info", tmp_path / "out")
    assert status == 0 and "imported from network-snapshot.pkl" in shown and "not commercially" in shown
    status, shown = call("info", snapshot)
    assert status == 0 and "imported from network-snapshot.pkl" in shown
    assert call("sample", snapshot, "--seeds", "0-1", "--out", tmp_path / "drawn")[0] == 0
    assert (tmp_path / "drawn" / "seed00001.png").is_file()
    status, shown = call("import", snapshot, "--out", tmp_path / "out")
    assert status == 2 and "--overwrite" in shown
    assert call("import", snapshot)[0] == 0 and (tmp_path / "models" / "network-snapshot").is_dir()
    (tmp_path / "text.pkl").write_text("hello")
    status, shown = call("import", tmp_path / "text.pkl")
    assert status == 2 and "none of the checkpoints" in shown and "Traceback" not in shown
    with pytest.raises(ValueError, match="frugan import"):
        frugan.model.load(snapshot)


def test_a_round_trip_through_rosinality(snapshot, tmp_path):
    """An NVIDIA pickle becomes ours, becomes rosinality's, becomes ours: the same pictures (the clamp is far)."""
    torch.manual_seed(3)
    model = tiny()
    rosinality.export_checkpoint(model, tmp_path / "a.pt")
    interop.import_checkpoint(tmp_path / "a.pt", tmp_path / "out")
    assert torch.equal(frugan.load(tmp_path / "out").sample(range(4)), model.sample(range(4)))
    first = frugan.load(snapshot)
    notes = " ".join(rosinality.export_checkpoint(first, tmp_path / "b.pt"))
    assert "limited to 256" in notes and "not commercially" in notes
    assert torch.equal(frugan.load(tmp_path / "b.pt").sample(range(4)), first.sample(range(4)))


def test_the_self_check():
    model = tiny()
    assert len(self_check(model)) == 4
    model.generator.mapping.w_avg.add_(100)
    assert any("MORE THAN ONE SPREAD" in line for line in self_check(model))
    model.generator.mapping.w_avg.zero_()
    with pytest.raises(ImportProblem, match="w_avg is zero"):
        self_check(model)
    flat = Generator(StyleGAN2Config(resolution=8, z_dim=8, w_dim=8, channel_max=8)).requires_grad_(False)
    flat.mapping.w_avg.fill_(0.01)
    flat.synthesis.b4.torgb.weight.zero_()
    flat.synthesis.b8.torgb.weight.zero_()
    with pytest.raises(ImportProblem, match="single colour"):
        self_check(Model(flat))
    flat.synthesis.b8.torgb.bias.fill_(torch.inf)
    with pytest.raises(ImportProblem, match="not finite"):
        self_check(Model(flat))
