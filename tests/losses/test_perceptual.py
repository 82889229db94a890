"""Perceptual distance and feature matching against their plain forms."""

import pytest
import torch

from frugan.features.extractor import FeatureExtractor
from frugan.losses.perceptual import VGG_WEIGHTS, feature_matching, perceptual


class Halves(FeatureExtractor):
    """The pixels as they are, and every second one."""

    def __init__(self) -> None:
        super().__init__(name="halves", resizer="none", num_features=3, taps=("all", "half"), fingerprint="none")
        self.freeze()

    def _features(self, images, taps):
        return {"all": images / 127.5 - 1, "half": images[:, :, ::2, ::2] / 127.5 - 1}


def pictures(count=3, side=6):
    return torch.rand(2, count, 3, side, side, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).unbind()


def test_perceptual_is_a_weighted_sum_of_mean_differences():
    first, second = pictures()
    got = perceptual(Halves(), first, second, {"all": 0.25, "half": 2.0})
    difference = (first - second).abs()
    expected = 0.25 * difference.mean(dim=(1, 2, 3)) + 2 * difference[:, :, ::2, ::2].mean(dim=(1, 2, 3))
    torch.testing.assert_close(got, expected)
    assert not perceptual(Halves(), first, first, {"all": 1.0}).any()


def test_the_gradient_of_perceptual_goes_to_the_pictures_made():
    first, second = (one.requires_grad_() for one in pictures())
    perceptual(Halves(), first, second, {"half": 1.0}).sum().backward()
    assert second.grad is None and first.grad is not None
    assert bool(first.grad[:, :, ::2, ::2].all()) and not first.grad[:, :, 1::2].any()


def test_what_perceptual_refuses():
    first, second = pictures()
    with pytest.raises(ValueError, match="taps of halves must be among all, half"):
        perceptual(Halves(), first, second)
    assert list(VGG_WEIGHTS.values()) == [0.03125, 0.0625, 0.125, 0.25, 1.0]


def maps(seed, sides=((5, 3, 2), (4, 2)), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(2, side, side, side + 1, generator=generator).to(dtype) for side in scale] for scale in sides]


def test_feature_matching_leaves_the_logits_out_and_averages_scales():
    fakes, reals = maps(0), maps(1)
    one, two = fakes
    first = sum((a - b).abs().mean(dim=(1, 2, 3)) for a, b in zip(one[:2], reals[0][:2], strict=True))
    second = (two[0] - reals[1][0]).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(feature_matching(fakes, reals), (first + second) / 2)
    reals[0][-1] += 100
    torch.testing.assert_close(feature_matching(fakes, reals), (first + second) / 2)


def test_the_gradient_of_feature_matching_goes_to_the_fakes():
    fakes, reals = maps(0, dtype=torch.bfloat16), maps(1, dtype=torch.bfloat16)
    for tensor in [*fakes[0], *reals[0]]:
        tensor.requires_grad_()
    loss = feature_matching(fakes, reals)
    assert loss.dtype == torch.float32
    loss.sum().backward()
    assert fakes[0][0].grad.any() and fakes[0][-1].grad is None
    assert all(tensor.grad is None for tensor in reals[0])


@pytest.mark.parametrize(
    ("fakes", "reals", "message"),
    [
        ([], [], "two or more for each scale"),
        (maps(0), maps(0)[:1], "as many maps"),
        ([[torch.zeros(1, 1, 2, 2)]], [[torch.zeros(1, 1, 2, 2)]], "two or more for each scale"),
        (maps(0), maps(0, ((5, 4, 2), (4, 2))), "equal shapes, got .2, 3, 3, 4. and .2, 4, 4, 5."),
    ],
)
def test_what_feature_matching_refuses(fakes, reals, message):
    with pytest.raises(ValueError, match=message):
        feature_matching(fakes, reals)
