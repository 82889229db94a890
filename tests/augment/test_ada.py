"""ADA's pipe: each operation against its definition, p, draws, gradients; the controller's arithmetic."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from frugan.augment import AugmentConfig, augment, named, shown
from frugan.augment.ada import (
    PRESETS,
    AdaConfig,
    AdaControllerConfig,
    adapt,
    apply,
    begin,
    draw,
    one_by_one,
    preset,
)
from frugan.augment.diffaugment import DiffAugmentConfig
from frugan.config import ConfigError, from_dict, to_dict

ALL = preset("bgcfnc")
OPERATIONS = (
    *("flip", "quarter_turns", "shift", "scale", "rotation", "stretch", "fractional_shift"),
    *("brightness", "contrast", "luma_flip", "hue", "saturation", "filter", "noise", "cutout"),
)


class Draws:
    """Uniform and normal draws for a given number of images, from a seed."""

    def __init__(self, count: int, seed: int = 3) -> None:
        self.count = count
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.count, *shape, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.count, *shape, generator=self.generator)


def drawn(config: AdaConfig, images: Tensor, seed: int = 3) -> dict[str, Tensor]:
    source = Draws(len(images), seed)
    return draw(config, source.uniform, source.normal, *images.shape[1:])


def pictures(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    uniform = torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (2 * uniform - 1).to(dtype)


def only(name: str, images: Tensor, *numbers: float, **changes: float) -> Tensor:
    """The images under one operation that surely happens, with these raw numbers."""
    config = dataclasses.replace(from_dict(AdaConfig, dict.fromkeys(OPERATIONS, 0.0) | {name: 1.0}), **changes)
    gates = {"rotation": 2, "filter": 4}.get(name, 1)
    row = torch.tensor([0.0] * gates + list(numbers), dtype=torch.float64)
    return apply(images, config, 1.0, {name: row.expand(len(images), -1)})


def smooth(size: int = 33) -> Tensor:
    """A picture that resampling hardly changes: slow waves, different along both axes."""
    place = torch.linspace(-1, 1, size, dtype=torch.float64)
    waves = [torch.sin(place * 2 + k)[:, None] * torch.cos(place * (1.5 + k))[None] for k in range(3)]
    return torch.stack(waves)[None]


class TestGeometry:
    """The middle of a smooth picture, where borders do not matter, against torch's own turning and sampling."""

    @staticmethod
    def middle(images: Tensor) -> Tensor:
        return images[:, :, 10:-10, 10:-10]

    @pytest.mark.parametrize(
        ("name", "numbers", "expected"),
        [
            ("flip", (0.5,), lambda x: x.flip(3)),
            ("flip", (0.49,), lambda x: x),
            # "Turned by -90 degrees", where y points down: counter-clockwise to the eye, as numpy's rot90.
            ("quarter_turns", (0.3,), lambda x: torch.rot90(x, 1, (2, 3))),
            ("quarter_turns", (0.6,), lambda x: torch.rot90(x, 2, (2, 3))),
            ("quarter_turns", (0.9,), lambda x: torch.rot90(x, 3, (2, 3))),
            # 33 (2 u - 1) / 8 is 3.3 to the right, -2.0625 up; whole pixels.
            ("shift", (0.9, 0.25), lambda x: x.roll((-2, 3), (2, 3))),
            ("rotation", (0.75, 0.5), lambda x: torch.rot90(x, 1, (2, 3))),
            ("rotation", (0.75, 0.75), lambda x: torch.rot90(x, 2, (2, 3))),
            ("fractional_shift", (8 / 33, -16 / 33), lambda x: x.roll((-2, 1), (2, 3))),
        ],
    )
    def test_exact_ones(self, name, numbers, expected) -> None:
        images = smooth()
        got = self.middle(only(name, images, *numbers))
        # The filter is not quite symmetric, so that what is mirrored or turned lies a tenth of a pixel off.
        torch.testing.assert_close(got, self.middle(expected(images)), rtol=0, atol=0.025)

    def test_scale_and_stretch(self) -> None:
        size = 33
        ramp = torch.arange(size, dtype=torch.float64) - 16
        images = torch.stack([ramp[None].expand(size, size), ramp[:, None].expand(size, size)])[:, None]
        twice = self.middle(only("scale", images, 5.0))  # 2^(5 x 0.2): twice as large
        torch.testing.assert_close(twice, self.middle(images / 2), rtol=0, atol=0.05)
        wide = self.middle(only("stretch", images, 5.0))
        factors = torch.tensor([0.5, 2.0], dtype=torch.float64).view(2, 1, 1, 1)
        inner = slice(5, 8)
        torch.testing.assert_close(
            wide[:, :, inner, inner], self.middle(images * factors)[:, :, inner, inner], atol=0.05, rtol=0
        )

    def test_order(self) -> None:
        """Mirrored, turned, shifted, scaled, rotated, stretched, rotated, shifted: each alone, one after the other."""
        images = smooth()
        steps = [
            *(("flip", (0.9,)), ("quarter_turns", (0.3,)), ("shift", (0.7, 0.6)), ("scale", (0.6,))),
            *(("rotation", (0.6, 0.5)), ("stretch", (0.9,)), ("rotation", (0.5, 0.35))),
            ("fractional_shift", (0.1, -0.2)),
        ]
        config = preset("bg")
        numbers = dict(steps[:4]) | {"rotation": (0.6, 0.35)} | dict([steps[5], steps[7]])
        gates = {"rotation": 2}
        draws = {name: torch.tensor([[0.0] * gates.get(name, 1) + list(row)]) for name, row in numbers.items()}
        together = apply(images, config, 1.0, draws)
        for name, row in steps:
            images = only(name, images, *row)
        error = (self.middle(together) - self.middle(images)).abs().mean()
        assert float(error) < 0.01

    def test_borders_are_mirrored_however_far(self) -> None:
        small = only("scale", smooth(), -20.0)  # a sixteenth in size
        assert float(small.abs().max()) < 1.2 and float(small.std()) > 0.1
        assert bool((small.std(dim=(2, 3)) > 0.05).all())
        grey = only("scale", torch.full((1, 1, 8, 8), -0.8), -30.0)
        torch.testing.assert_close(grey, torch.full((1, 1, 8, 8), -0.8), rtol=0, atol=1e-4)


class TestColours:
    def test_brightness_and_contrast(self) -> None:
        images = pictures(2, 3, 4, 5)
        torch.testing.assert_close(only("brightness", images, 0.7), images + 0.14)
        torch.testing.assert_close(only("contrast", images, -2.0), images / 2)

    def test_saturation_scales_the_distance_to_grey(self) -> None:
        images = pictures(2, 3, 4, 5)
        grey = images.mean(dim=1, keepdim=True)
        torch.testing.assert_close(only("saturation", images, 1.5), grey + 2**1.5 * (images - grey), rtol=0, atol=1e-6)

    def test_luma_flip_mirrors_the_grey_value_alone(self) -> None:
        images = pictures(2, 3, 4, 5)
        grey = images.mean(dim=1, keepdim=True)
        torch.testing.assert_close(only("luma_flip", images, 0.6), images - 2 * grey, rtol=0, atol=1e-6)
        assert torch.allclose(only("luma_flip", images, 0.4), images, atol=1e-7)

    def test_hue_by_a_third_passes_the_colours_on(self) -> None:
        images = pictures(2, 3, 4, 5)
        third = 0.5 + 1 / 3  # (2 u - 1) pi is 120 degrees: red becomes green
        torch.testing.assert_close(only("hue", images, third), images.roll(1, dims=1), rtol=0, atol=1e-6)

    def test_grey_images_know_brightness_contrast_and_mirroring(self) -> None:
        images, config = pictures(3, 1, 4, 5), preset("color")
        draws = drawn(config, images)
        copied = apply(images.expand(-1, 3, -1, -1), config, 0.7, draws)
        grey = copied.mean(dim=1, keepdim=True)
        torch.testing.assert_close(apply(images, config, 0.7, draws), grey, rtol=0, atol=1e-6)

    def test_opacity_is_moved_and_cut_out_only(self) -> None:
        images = pictures(4, 4, 8, 8)
        draws = drawn(ALL, images)
        changed = apply(images, ALL, 1.0, draws)
        rest = dataclasses.replace(preset("bg"), cutout=1.0)
        expected = apply(images[:, 3:], rest, 1.0, draws)
        torch.testing.assert_close(changed[:, 3:], expected, rtol=0, atol=1e-12)
        draws["noise_field"] = draws["noise_field"][:, :3]
        colors = apply(images[:, :3], ALL, 1.0, draws)
        torch.testing.assert_close(changed[:, :3], colors, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("name", ["color", "filter"])
    def test_other_channels_have_no_colours(self, name: str) -> None:
        images = pictures(2, 5, 4, 4)
        with pytest.raises(ValueError, match="need 1, 3 or 4 channels, got 5"):
            apply(images, preset(name), 1.0, drawn(preset(name), images))
        assert apply(images, preset("bg"), 1.0, drawn(preset("bg"), images)).shape == images.shape


class TestRest:
    def test_filter_keeps_the_power_of_natural_pictures(self) -> None:
        flat = torch.full((1, 1, 50, 50), 0.5, dtype=torch.float64)
        # Only the lowest band, of which 10/13 of the power is expected, is doubled; or only the highest.
        low, high = only("filter", flat, 1.0, 0.0, 0.0, 0.0), only("filter", flat, 0.0, 0.0, 0.0, 1.0)
        # Along both axes.
        assert float(low.mean()) == pytest.approx(0.5 * 4 / ((4 * 10 + 3) / 13), rel=1e-5)
        assert float(high.mean()) == pytest.approx(0.5 / ((12 + 4) / 13), rel=1e-5)

    def test_noise_has_its_strength(self) -> None:
        images = torch.zeros(2, 3, 40, 40)
        config = preset("noise")
        draws = drawn(config, images)
        draws["noise"] = torch.tensor([[0.0, -2.0], [0.0, 0.5]])
        changed = apply(images, config, 1.0, draws)
        torch.testing.assert_close(changed.std(dim=(1, 2, 3)), torch.tensor([0.2, 0.05]), rtol=0.05, atol=0)

    def test_cutout_is_half_of_each_side(self) -> None:
        images = torch.ones(1, 3, 8, 12)
        cut = only("cutout", images, 0.5, 0.25)[0, 0]
        assert cut[:4, 3:9].abs().sum() == 0 and int((cut == 0).sum()) == 24
        assert int((only("cutout", images, 1.0, 0.0) == 0).sum()) == 3 * 2 * 3


class TestProbability:
    def test_nothing_happens_at_zero(self) -> None:
        images = pictures(3, 3, 6, 5)
        assert apply(images, ALL, 0.0, {}) is images
        off = dataclasses.replace(ALL, mode="off")
        assert apply(images, off, 1.0, drawn(off, images)) is images

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_each_happens_as_often_as_said(self, name: str) -> None:
        images = pictures(1, 3, 8, 8, dtype=torch.float32).expand(400, -1, -1, -1)
        config = from_dict(AdaConfig, dict.fromkeys(OPERATIONS, 0.0) | {name: 0.8})
        changed = apply(images, config, 0.5, drawn(config, images))
        share = float(((changed - images).abs().amax(dim=(1, 2, 3)) > 1e-5).float().mean())
        # Half of the flips, a quarter of the turns do nothing, and 9 % of the shifts round to 0 both ways.
        idle = {"flip": 0.5, "luma_flip": 0.5, "quarter_turns": 0.25, "shift": 0.25}.get(name, 0.0)
        wanted = 1 - 0.6**4 if name == "filter" else 0.4 * (1 - idle)
        assert share == pytest.approx(wanted, abs=0.08)

    def test_images_that_are_not_moved_keep_their_bits(self) -> None:
        images, config = pictures(6, 3, 9, 9, dtype=torch.float32), preset("bg")
        draws = drawn(config, images)
        for numbers in draws.values():
            numbers[::2, :2] = 1.0
        for name in ("scale", "stretch", "flip", "shift"):
            draws[name][::2, 0] = 1.0
        changed = apply(images, config, 0.9, draws)
        assert torch.equal(changed[::2], images[::2])
        assert bool((changed[1::2] != images[1::2]).any())

    @pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
    def test_impossible_probabilities(self, p: float) -> None:
        with pytest.raises(ValueError, match=r"p must be in \[0, 1\]"):
            apply(pictures(1, 3, 4, 4), ALL, p, {})


class TestApply:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    @pytest.mark.parametrize("p", [0.4, 1.0])
    def test_first_and_second_derivatives(self, channels: int, p: float) -> None:
        images = pictures(2, channels, 4, 3)
        draws = drawn(ALL, images)
        for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
            assert check(lambda x: apply(x, ALL, p, draws) ** 2, images.clone().requires_grad_(), fast_mode=True)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, dtype: torch.dtype) -> None:
        images = pictures(3, 3, 9, 8, dtype=dtype)
        draws = drawn(ALL, images)
        changed = apply(images, ALL, 0.8, draws)
        assert changed.dtype == dtype
        assert torch.equal(changed, apply(images.float(), ALL, 0.8, draws).to(dtype))

    def test_an_image_does_not_see_its_neighbours(self) -> None:
        images = pictures(4, 3, 7, 10)
        draws = drawn(ALL, images)
        together = apply(images, ALL, 0.7, draws)
        for i in range(4):
            alone = apply(images[i : i + 1], ALL, 0.7, {name: rows[i : i + 1] for name, rows in draws.items()})
            torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-12)

    def test_both_ways_to_leave_images_unmoved_are_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        images = pictures(8, 3, 9, 7, dtype=torch.float32)
        draws = drawn(ALL, images)
        chosen = apply(images, ALL, 0.1, draws)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        torch.testing.assert_close(apply(images, ALL, 0.1, draws), chosen, rtol=0, atol=1e-6)

    def test_everything_is_on_the_images_device(self) -> None:
        images = pictures(2, 4, 8, 8, dtype=torch.float32).to("meta")
        draws = {name: numbers.to("meta") for name, numbers in drawn(ALL, torch.zeros(2, 4, 8, 8)).items()}
        changed = apply(images, ALL, 0.5, draws)
        assert changed.is_meta and changed.shape == images.shape

    def test_leaves_its_input_alone(self) -> None:
        images = pictures(2, 3, 6, 6)
        before, draws = images.clone(), drawn(ALL, images)
        apply(images, ALL, 1.0, draws)
        assert torch.equal(images, before)

    def test_missing_or_ill_shaped_draws_are_refused(self) -> None:
        images, config = pictures(2, 3, 4, 4), preset("color")
        with pytest.raises(ValueError, match="draws lack 'brightness', got none"):
            apply(images, config, 0.5, {})
        draws = drawn(config, images) | {"hue": torch.zeros(3, 2)}
        with pytest.raises(ValueError, match=r"'hue' must have shape \(2, 2\), got \(3, 2\)"):
            apply(images, config, 0.5, draws)

    @settings(max_examples=15, deadline=None)
    @given(
        shape=st.tuples(st.sampled_from([1, 3, 4]), st.integers(1, 19), st.integers(1, 19)),
        seed=st.integers(0, 99),
        p=st.floats(0, 1),
    )
    def test_any_size(self, shape: tuple[int, int, int], seed: int, p: float) -> None:
        images = pictures(2, *shape, dtype=torch.float32)
        changed = apply(images, ALL, p, drawn(ALL, images, seed))
        assert changed.shape == images.shape and bool(changed.isfinite().all())

    def test_one_by_one(self) -> None:
        images = pictures(2, 3, 6, 6)
        draws = drawn(ALL, images)
        rows = dict(one_by_one(images, ALL, 1.0, draws))
        assert tuple(rows) == OPERATIONS
        torch.testing.assert_close(rows["brightness"], images + 0.2 * draws["brightness"][:, 1, None, None, None])


class TestDraws:
    def test_shapes(self) -> None:
        draws = drawn(ALL, torch.zeros(5, 3, 4, 6))
        assert tuple(draws) == (*OPERATIONS, "noise_field")
        assert draws["noise_field"].shape == (5, 3, 4, 6)
        assert {name: numbers.shape[1] for name, numbers in draws.items() if numbers.ndim == 2} == {
            **dict.fromkeys(OPERATIONS, 2),
            **{"shift": 3, "rotation": 4, "fractional_shift": 3, "filter": 8, "cutout": 3},
        }
        assert "noise_field" not in drawn(preset("bgc"), torch.zeros(5, 3, 4, 6))
        assert draw(dataclasses.replace(ALL, mode="off"), torch.rand, torch.randn, 3, 4, 4) == {}

    def test_an_empty_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 1, got 3, 0 and 4"):
            draw(ALL, torch.rand, torch.randn, 3, 0, 4)


class TestConfig:
    def test_sets(self) -> None:
        assert tuple(PRESETS) == (
            *("blit", "geom", "color", "filter", "noise", "cutout"),
            *("bg", "bgc", "bgcf", "bgcfn", "bgcfnc"),
        )
        assert AdaConfig() == preset("bgc") and ALL.operations == OPERATIONS
        assert preset("noise").operations == ("noise",)
        assert preset("bg", AdaConfig(flip=0.5, p=0.2)) == dataclasses.replace(preset("bg"), flip=0.5, p=0.2)
        with pytest.raises(ValueError, match="unknown set of augmentations 'bgg'; did you mean 'bg"):
            preset("bgg")

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"p": 1.5}, r"p must be in \[0, 1\], got 1.5"),
            ({"hue": -1.0}, r"hue must be in \[0, 1\], got -1.0"),
            ({"cutout_ratio": 2.0}, r"cutout_ratio must be in \[0, 1\]"),
            ({"scale_std": -0.1}, "scale_std must be zero or more"),
            ({"hue_turns": float("inf")}, "hue_turns must be zero or more"),
        ],
    )
    def test_impossible_numbers(self, changes: dict[str, float], complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            AdaConfig(**changes)

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"target": 1.5}, r"target must be in \[-1, 1\]"),
            ({"every": 0}, "every and ramp_images must be at least 1, got 0 and"),
            ({"ramp_images": 0}, "at least 1"),
            ({"highest": 0.0}, r"highest must be in \(0, 1\]"),
        ],
    )
    def test_impossible_controllers(self, changes, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            AdaControllerConfig(**changes)

    def test_impossible_mode(self) -> None:
        with pytest.raises(ConfigError, match="mode must be one of"):
            from_dict(AdaConfig, {"mode": "differential"})
        config = AdaConfig()
        object.__setattr__(config, "mode", "differential")
        with pytest.raises(ValueError, match="unknown mode 'differential'; did you mean 'differentiable'"):
            config.__post_init__()

    def test_to_plain_data_and_back(self) -> None:
        for config in (ALL, AdaConfig(p=0.2, controller=None, mode="reals_only")):
            assert from_dict(AdaConfig, to_dict(config)) == config


class TestController:
    def run(self, signs: list[float], controller: AdaControllerConfig, p: float = 0.0, images: int = 8) -> list[float]:
        state, found = begin(AdaConfig(p=p)), []
        for sign in signs:
            state = adapt(state, sign, images, controller)
            found.append(float(state[0]))
        return found

    def test_moves_every_so_often_by_the_mean_since_the_last_move(self) -> None:
        controller = AdaControllerConfig(target=0.6, every=2, ramp_images=160)
        # Means .7, .5, .6, 1: up, down, still, up, by 16 / 160 each.
        found = self.run([0.4, 1.0, 1.0, 0.0, 0.5, 0.7, 1.0, 1.0], controller, p=0.3)
        assert found == pytest.approx([0.3, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3, 0.4])

    def test_stays_in_its_range(self) -> None:
        controller = AdaControllerConfig(every=1, ramp_images=20, highest=0.7)
        assert self.run([1.0] * 3, controller) == pytest.approx([0.4, 0.7, 0.7])
        assert self.run([-1.0] * 3, controller, p=0.5) == pytest.approx([0.1, 0.0, 0.0])

    def test_the_papers_speed(self) -> None:
        state, controller = begin(AdaConfig()), AdaControllerConfig()
        steps = 0
        while float(state[0]) < 1:
            state = adapt(state, 1.0, 64, controller)
            steps += 1
        assert steps * 64 == pytest.approx(500_000, rel=0.001)


class TestSeam:
    @pytest.mark.parametrize(
        ("text", "config"),
        [
            ("none", None),
            ("diffaugment", DiffAugmentConfig()),
            ("cutout,color", DiffAugmentConfig(policy="cutout,color")),
            ("ada", AdaConfig()),
            ("ada:bgcf", preset("bgcf")),
        ],
    )
    def test_words(self, text: str, config: AugmentConfig | None) -> None:
        assert named(text) == config

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [("ada:bgd", "unknown set of augmentations 'bgd'"), ("colour", "did you mean 'color'"), ("adda", "unknown")],
    )
    def test_unknown_words(self, text: str, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            named(text)

    @pytest.mark.parametrize("config", [DiffAugmentConfig(), ALL])
    def test_both_kinds(self, config: AugmentConfig) -> None:
        images, source, again = pictures(3, 3, 8, 8), Draws(3), Draws(3)
        changed = augment(images, config, 0.6, source.uniform, source.normal)
        rows = dict(shown(images, config, 0.6, again.uniform, again.normal))
        assert tuple(rows) == (*config.operations, "all of them")
        assert torch.equal(rows["all of them"], changed) and not torch.equal(changed, images)
