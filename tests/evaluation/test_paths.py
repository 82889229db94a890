"""Path lengths of models: which distance they are measured with, and which models have them."""

import dataclasses

import pytest
import torch
from torch import Tensor

from frugan.evaluation.paths import PathScores
from frugan.features import FeatureExtractor
from frugan.features.hed import TRUNK_TAPS
from frugan.features.lpips import PerceptualDistance, over_trunk
from frugan.model import Model
from frugan.models.progan import ProGANConfig, ProGANGenerator
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from tests.tiny_extractor import TinyExtractor


class TinyTrunk(FeatureExtractor):
    """The taps of HED over averaged pixels."""

    def __init__(self) -> None:
        super().__init__(name="tiny", resizer="none", num_features=3, taps=("pool", *TRUNK_TAPS), fingerprint="0")
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.freeze()

    def _features(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        found = {tap: torch.nn.functional.adaptive_avg_pool2d(images, side + 1) for side, tap in enumerate(TRUNK_TAPS)}
        return {"pool": images.mean(dim=(2, 3)), **found}


def make() -> Model:
    torch.manual_seed(0)
    size = {"resolution": 8, "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "mapping_layers": 2}
    return Model(Generator(StyleGAN2Config(**size)).eval())


def silent(done: int, total: int, text: str) -> None:
    pass


def test_a_trunk_like_that_of_hed_is_used_in_the_form_of_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = TinyTrunk()
    expected = over_trunk(trunk)
    seen: list[tuple[Tensor, Tensor]] = []
    forward = PerceptualDistance.forward

    def noting(self: PerceptualDistance, first: Tensor, second: Tensor) -> Tensor:
        found = forward(self, first, second)
        seen.append((first, second))
        return found

    if expected.is_weighted:  # the heads of an installed package fit VGG's widths only
        monkeypatch.setattr("frugan.features.lpips._installed_heads", lambda: None)
    monkeypatch.setattr(PerceptualDistance, "forward", noting)
    paths = PathScores(trunk, 0, silent)
    assert paths.distance_name == "TINY-LPIPS (unweighted)"
    found = paths.lengths(make(), ("kid", "ppl", "ppl-z-full"), 40)
    assert set(found) == {"PPL-w-end", "PPL-z-full"} and min(found.values()) > 0
    assert [len(first) for first, _ in seen] == [32, 8, 32, 8]


def test_other_networks_give_the_squared_distance_of_their_features() -> None:
    paths = PathScores(TinyExtractor(), 0, silent)
    assert paths.distance_name == "squared distance of tiny features"
    assert paths.lengths(make(), ("ppl",), 5)["PPL-w-end"] > 0


def test_a_generator_without_styles_has_paths_between_latents_only() -> None:
    torch.manual_seed(0)
    model = Model(ProGANGenerator(ProGANConfig(resolution=8, z_dim=8, channel_base=64, channel_max=8)).eval())
    paths = PathScores(TinyExtractor(), 0, silent)
    assert paths.lengths(model, ("ppl-z-end", "ppl-z-full"), 5)["PPL-z-end"] > 0
    with pytest.raises(ValueError, match="no styles"):
        paths.lengths(model, ("ppl",), 5)
    young = dataclasses.replace(model, info={"stage": {"resolution": 4, "alpha": 0.5}})
    with pytest.raises(ValueError, match="grown up"):
        paths.lengths(young, ("ppl-z-end",), 5)
