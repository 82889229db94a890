"""Every operation against loops over pixels, the draws, the gradients, and where it is applied."""

import inspect
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from frugan.augment import diffaugment as module
from frugan.augment.diffaugment import (
    DiffAugmentConfig,
    Mode,
    Place,
    applies,
    describe,
    diffaugment,
    draw,
    one_by_one,
)
from frugan.config import ConfigError, from_dict, to_dict

ALL = "color,translation,cutout,upscale"
OPERATIONS = ("brightness", "saturation", "contrast", "translation", "cutout", "upscale")


class Uniform:
    """Draws for a given number of images, from a seed."""

    def __init__(self, count: int, seed: int = 3) -> None:
        self.count = count
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.rand(self.count, *shape, generator=self.generator)


def pictures(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    uniform = torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (2 * uniform - 1).to(dtype)


def only(name: str, images: Tensor, numbers: Tensor, **settings: float) -> Tensor:
    return diffaugment(images, DiffAugmentConfig(policy=name, **settings), {name: numbers})


class Oracle:
    """The operations written out for one (C, H, W) image, pixel by pixel."""

    @staticmethod
    def brightness(image: Tensor, u: Tensor) -> Tensor:
        return image + (u - 0.5)

    @staticmethod
    def saturation(image: Tensor, u: Tensor) -> Tensor:
        changed = image.clone()
        for row, column in itertools.product(range(image.shape[1]), range(image.shape[2])):
            mean = sum(image[:, row, column]) / len(image)
            changed[:, row, column] = mean + 2 * u * (image[:, row, column] - mean)
        return changed

    @staticmethod
    def contrast(image: Tensor, u: Tensor) -> Tensor:
        mean = sum(image.flatten()) / image.numel()
        return mean + (u + 0.5) * (image - mean)

    @staticmethod
    def translation(image: Tensor, shift: Tensor, fill: float) -> Tensor:
        moved = torch.full_like(image, fill)
        height, width = image.shape[1:]
        for row, column in itertools.product(range(height), range(width)):
            source_row, source_column = row + int(shift[0]), column + int(shift[1])
            if 0 <= source_row < height and 0 <= source_column < width:
                moved[:, row, column] = image[:, source_row, source_column]
        return moved

    @staticmethod
    def cutout(image: Tensor, centre: Tensor, fill: float, ratio: float = 0.5) -> Tensor:
        cut = image.clone()
        sizes = image.shape[1:]
        boxes = [math.floor(size * ratio + 0.5) for size in sizes]
        for offsets in itertools.product(range(boxes[0]), range(boxes[1])):
            place = [int(centre[axis]) - boxes[axis] // 2 + offsets[axis] for axis in (0, 1)]
            if all(0 <= place[axis] < sizes[axis] for axis in (0, 1)):
                cut[:, place[0], place[1]] = fill
        return cut

    @staticmethod
    def upscale(image: Tensor, u: Tensor) -> Tensor:
        ratio = 1 + 0.25 * float(u)
        big = F.interpolate(image[None], scale_factor=ratio, mode="bilinear", align_corners=False)[0]
        height, width = image.shape[1:]
        top, left = round((big.shape[1] - height) / 2), round((big.shape[2] - width) / 2)
        return big[:, top : top + height, left : left + width]


class TestOperations:
    @pytest.mark.parametrize(
        "shape", [(5, 3, 9, 6), (3, 1, 4, 7), (1, 3, 1, 1), (3, 4, 5, 5), (2, 6, 3, 2), (2, 3, 1, 8)]
    )
    @pytest.mark.parametrize("fill", [0.0, 1.0])
    def test_each_against_loops_over_pixels(self, shape: tuple[int, int, int, int], fill: float) -> None:
        images = pictures(*shape)
        config = DiffAugmentConfig(policy=ALL, fill=fill)
        draws = draw(config, Uniform(shape[0]), *shape[2:])
        results = dict(one_by_one(images, config, draws))
        assert tuple(results) == OPERATIONS
        for name, result in results.items():
            extra = (fill,) if name in ("translation", "cutout") else ()
            has_opacity = shape[1] == 4 and name in ("brightness", "saturation", "contrast")
            for image, numbers, ours in zip(images, draws[name], result, strict=True):
                colors = image[:3] if has_opacity else image
                expected = getattr(Oracle, name)(colors, numbers.to(torch.float64), *extra)
                expected = torch.cat([expected, image[3:]]) if has_opacity else expected
                torch.testing.assert_close(ours, expected, msg=lambda text, name=name: f"{name}: {text}")

    @pytest.mark.parametrize("order", list(itertools.permutations(("brightness", "saturation", "contrast", "cutout"))))
    def test_any_order_is_one_operation_after_another(self, order: tuple[str, ...]) -> None:
        images = pictures(3, 3, 5, 4)
        config = DiffAugmentConfig(policy=",".join(order))
        draws = draw(config, Uniform(3), 5, 4)
        expected = images
        for name in order:
            expected = only(name, expected, draws[name])
        torch.testing.assert_close(diffaugment(images, config, draws), expected)

    def test_translation_shows_the_pixel_at_the_shifted_place(self) -> None:
        images = torch.arange(12.0).view(1, 1, 3, 4)
        moved = only("translation", images, torch.tensor([[1, -2]]), fill=-1.0)
        assert moved[0, 0].tolist() == [[-1, -1, 4, 5], [-1, -1, 8, 9], [-1, -1, -1, -1]]

    def test_cutout_erases_between_a_sixteenth_and_a_quarter(self) -> None:
        corners = torch.tensor([[0, 0], [16, 16], [8, 8]])
        kept = only("cutout", torch.ones(3, 1, 16, 16), corners)
        assert (1 - kept).sum(dim=(1, 2, 3)).tolist() == [16, 16, 64]

    def test_cutout_of_another_size(self) -> None:
        images, centre = pictures(1, 3, 10, 10), torch.tensor([[4, 9]])
        expected = Oracle.cutout(images[0], centre[0], 0.0, ratio=0.2)
        assert torch.equal(only("cutout", images, centre, cutout_ratio=0.2)[0], expected)

    @pytest.mark.parametrize("size", [(8, 8), (17, 32), (5, 40)])
    def test_upscale_of_a_flat_image_is_flat(self, size: tuple[int, int]) -> None:
        images = torch.full((4, 1, *size), 0.3, dtype=torch.float64)
        torch.testing.assert_close(only("upscale", images, torch.tensor([0.0, 0.1, 0.6, 0.999])), images)

    @pytest.mark.parametrize("size", [(16, 16), (33, 14), (24, 64)])
    def test_upscale_keeps_the_middle(self, size: tuple[int, int]) -> None:
        images, u = pictures(6, 3, *size), torch.tensor([0.0, 0.3, 0.55, 0.8, 0.9, 0.999])
        expected = [Oracle.upscale(image, one) for image, one in zip(images, u, strict=True)]
        torch.testing.assert_close(only("upscale", images, u), torch.stack(expected))

    def test_neutral_draws_change_nothing(self) -> None:
        images, half = pictures(2, 3, 6, 6), torch.full((2,), 0.5)
        zero = torch.zeros(2, 2, dtype=torch.int64)
        draws = {"brightness": half, "saturation": half, "contrast": half, "translation": zero, "cutout": zero}
        draws["upscale"] = torch.zeros(2)
        changed = diffaugment(images, DiffAugmentConfig(policy=ALL, cutout_ratio=0.0), draws)
        torch.testing.assert_close(changed, images, rtol=0, atol=1e-15)

    @pytest.mark.parametrize("config", [DiffAugmentConfig(policy=""), DiffAugmentConfig(mode="off")])
    def test_nothing_to_do_gives_back_the_images(self, config: DiffAugmentConfig) -> None:
        images = pictures(2, 3, 6, 6)
        assert diffaugment(images, config, draw(config, Uniform(2), 6, 6)) is images

    def test_grey_keeps_its_values_under_saturation(self) -> None:
        images = pictures(3, 1, 5, 5)
        torch.testing.assert_close(only("saturation", images, torch.rand(3)), images, rtol=0, atol=1e-15)

    def test_opacity_is_moved_but_not_coloured(self) -> None:
        images = pictures(2, 4, 8, 8)
        config = DiffAugmentConfig(policy="color,translation")
        draws = draw(config, Uniform(2), 8, 8)
        changed = diffaugment(images, config, draws)
        assert torch.equal(changed[:, 3:], only("translation", images[:, 3:], draws["translation"]))
        colors = diffaugment(images[:, :3], config, draws)
        assert torch.equal(changed[:, :3], colors)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_keeps_the_dtype(self, dtype: torch.dtype) -> None:
        images = pictures(3, 3, 8, 8, dtype=dtype)
        config = DiffAugmentConfig(policy=ALL)
        draws = draw(config, Uniform(3), 8, 8)
        changed = diffaugment(images, config, draws)
        assert changed.dtype == dtype
        error = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(changed.double(), diffaugment(images.double(), config, draws), rtol=0, atol=error)

    def test_an_image_does_not_see_its_neighbours(self) -> None:
        images, config = pictures(4, 3, 7, 5), DiffAugmentConfig(policy=ALL)
        draws = draw(config, Uniform(4), 7, 5)
        together = diffaugment(images, config, draws)
        for i in range(4):
            alone = {name: numbers[i : i + 1] for name, numbers in draws.items()}
            torch.testing.assert_close(diffaugment(images[i : i + 1], config, alone), together[i : i + 1])

    def test_leaves_its_input_alone(self) -> None:
        images, config = pictures(2, 3, 6, 6), DiffAugmentConfig(policy=ALL)
        before = images.clone()
        diffaugment(images, config, draw(config, Uniform(2), 6, 6))
        assert torch.equal(images, before)

    def test_any_memory_format(self) -> None:
        images, config = pictures(2, 3, 6, 6), DiffAugmentConfig(policy=ALL)
        draws = draw(config, Uniform(2), 6, 6)
        last = diffaugment(images.contiguous(memory_format=torch.channels_last), config, draws)
        torch.testing.assert_close(last, diffaugment(images, config, draws))


class TestGradients:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_first_and_second_derivatives(self, channels: int) -> None:
        config = DiffAugmentConfig(policy=ALL, fill=0.4)
        draws = draw(config, Uniform(2), 4, 3)
        images = pictures(2, channels, 4, 3).requires_grad_()
        # Squared, for a linear map has no second derivative of its own.
        for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
            assert check(lambda x: diffaugment(x, config, draws) ** 2, images, fast_mode=True)

    def test_erased_and_moved_out_pixels_get_none(self) -> None:
        images = pictures(1, 1, 4, 4).requires_grad_()
        moved = only("translation", images, torch.tensor([[1, 0]]))
        (gradient,) = torch.autograd.grad(moved.sum(), images)
        assert gradient[0, 0].tolist() == [[0] * 4, [1] * 4, [1] * 4, [1] * 4]
        (gradient,) = torch.autograd.grad(only("cutout", images, torch.tensor([[0, 2]]), fill=1.0).sum(), images)
        assert gradient[0, 0].tolist() == [[1, 0, 0, 1], [1] * 4, [1] * 4, [1] * 4]

    @pytest.mark.parametrize("fill", [0.0, 0.7])
    def test_both_ways_to_shift_are_one(self, fill: float) -> None:
        shifts = torch.tensor([[0, 0], [2, -3], [-4, 1], [5, 0], [-5, 6], [40, 1], [0, -7], [4, 5]])
        images = pictures(8, 1, 5, 7).requires_grad_()
        copied = module._copied_shift(images, shifts, fill)
        gathered = module._gathered_shift(images, shifts, fill)
        assert torch.equal(copied, gathered)
        cotangent = pictures(8, 1, 5, 7)
        gradients = [torch.autograd.grad(moved, images, cotangent)[0] for moved in (copied, gathered)]
        assert torch.equal(*gradients)
        few = pictures(2, 1, 3, 4).requires_grad_()
        assert torch.autograd.gradgradcheck(lambda x: module._gathered_shift(x, shifts[1:3], fill) ** 2, few)

    def test_the_compiler_traces_a_shift_whole(self) -> None:
        config = DiffAugmentConfig(policy="translation")
        images, shifts = pictures(2, 3, 6, 6), draw(config, Uniform(2), 6, 6)["translation"]
        # The checks of the annotations cannot be traced, so what they wrap is.
        traced = torch.compile(inspect.unwrap(module._translate), backend="eager", fullgraph=True)
        assert torch.equal(traced(images, shifts, config), only("translation", images, shifts))


class TestDraws:
    def test_shapes_and_ranges(self) -> None:
        config = DiffAugmentConfig(policy=ALL)
        draws = draw(config, Uniform(5000), 16, 9)
        assert tuple(draws) == OPERATIONS == config.operations
        for name in ("brightness", "saturation", "contrast", "upscale"):
            assert draws[name].shape == (5000,)
            assert draws[name].min() >= 0 and draws[name].max() < 1
        # Shifts: floor(16/8 + 1/2) = 2 and floor(9/8 + 1/2) = 1. Boxes: 8 (even) and floor(9/2 + 1/2) = 5 (odd).
        ranges = {"translation": [range(-2, 3), range(-1, 2)], "cutout": [range(17), range(9)]}
        for name, (rows, columns) in ranges.items():
            assert draws[name].shape == (5000, 2)
            assert draws[name][:, 0].unique().tolist() == list(rows)
            assert draws[name][:, 1].unique().tolist() == list(columns)
            for column, values in zip(draws[name].unbind(1), (rows, columns), strict=True):
                share = torch.bincount(column - values[0]) / 5000
                torch.testing.assert_close(share, torch.full_like(share, 1 / len(values)), rtol=0, atol=0.03)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("size", [1, 2, 13, 64, 257, 1024])
    def test_the_ends_of_the_unit_interval(self, dtype: torch.dtype, size: int) -> None:
        config = DiffAugmentConfig(policy="translation,cutout")
        nearly_one = 1 - torch.finfo(dtype).eps / 2
        low = draw(config, lambda *shape: torch.zeros(1, *shape, dtype=dtype), size, size)
        high = draw(config, lambda *shape: torch.full((1, *shape), nearly_one, dtype=dtype), size, size)
        reach, box = int(size / 8 + 0.5), int(size / 2 + 0.5)
        assert low["translation"].tolist() == [[-reach, -reach]]
        assert low["cutout"].tolist() == [[0, 0]]
        assert (high["translation"] <= reach).all()
        assert (high["cutout"] <= size - box % 2).all()
        if dtype == torch.float64:
            assert high["translation"].tolist() == [[reach, reach]]
            assert high["cutout"].tolist() == [[size - box % 2, size - box % 2]]

    def test_the_same_numbers_give_the_same_draws(self) -> None:
        config = DiffAugmentConfig(policy=ALL)
        first, second = (draw(config, Uniform(3, seed=9), 8, 8) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in OPERATIONS)

    def test_an_empty_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 1, got 0x4"):
            draw(DiffAugmentConfig(), Uniform(1), 0, 4)

    def test_missing_or_ill_shaped_draws_are_refused(self) -> None:
        images, config = pictures(2, 3, 4, 4), DiffAugmentConfig(policy="brightness,cutout")
        with pytest.raises(ValueError, match="draws lack 'brightness', got none"):
            diffaugment(images, config, {})
        with pytest.raises(ValueError, match="draws lack 'cutout', got brightness"):
            diffaugment(images, config, {"brightness": torch.rand(2)})
        with pytest.raises(ValueError, match=r"'brightness' must have shape \(2,\), got \(3,\)"):
            diffaugment(images, config, {"brightness": torch.rand(3)})
        with pytest.raises(ValueError, match=r"'cutout' must have shape \(2, 2\), got \(2,\)"):
            diffaugment(images, config, {"brightness": torch.rand(2), "cutout": torch.zeros(2)})

    @settings(max_examples=20, deadline=None)
    @given(shape=st.tuples(st.sampled_from([1, 3, 4]), st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 9))
    @pytest.mark.parametrize("order", [OPERATIONS, OPERATIONS[::-1], OPERATIONS[3:] + OPERATIONS[:3]])
    def test_any_size_and_order(self, shape: tuple[int, int, int], order: tuple[str, ...], seed: int) -> None:
        images = pictures(2, *shape)
        config = DiffAugmentConfig(policy=", ".join(order))
        changed = diffaugment(images, config, draw(config, Uniform(2, seed), *shape[1:]))
        assert changed.shape == images.shape
        # The widest reach: contrast 1.5 of saturation 2 (colour distances up to 2, twice), brightness 0.5.
        assert changed.isfinite().all() and changed.abs().max() <= 10


class TestConfig:
    @pytest.mark.parametrize(
        ("policy", "operations"),
        [
            ("color,translation,cutout", ("brightness", "saturation", "contrast", "translation", "cutout")),
            ("translation", ("translation",)),
            (" cutout , contrast ", ("cutout", "contrast")),
            ("", ()),
            (" ", ()),
        ],
    )
    def test_policies(self, policy: str, operations: tuple[str, ...]) -> None:
        assert DiffAugmentConfig(policy=policy).operations == operations
        assert DiffAugmentConfig(policy=policy, mode="off").operations == ()

    @pytest.mark.parametrize(
        ("policy", "complaint"),
        [
            ("color,translate", "unknown augmentation 'translate'; did you mean 'translation'"),
            ("colour", "did you mean 'color'"),
            ("color,", "unknown augmentation ''; known: brightness"),
            ("cutout,cutout", "each operation may stand once in a policy, got 'cutout,cutout'"),
            ("color,contrast", "each operation may stand once"),
        ],
    )
    def test_impossible_policies(self, policy: str, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            DiffAugmentConfig(policy=policy)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("translation_ratio", -0.1),
            ("translation_ratio", 1.1),
            ("cutout_ratio", -0.1),
            ("cutout_ratio", 2.0),
            ("cutout_ratio", float("nan")),
            ("upscale_ratio", -1.0),
            ("upscale_ratio", float("inf")),
            ("fill", float("nan")),
        ],
    )
    def test_impossible_numbers(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=f"{name} must"):
            DiffAugmentConfig(**{name: value})

    def test_impossible_mode(self) -> None:
        with pytest.raises(ConfigError, match="mode must be one of 'differentiable', 'reals_only'"):
            from_dict(DiffAugmentConfig, {"mode": "differential"})
        # The tests' own type checks stand before the config's, so it is asked once more with the wrong value inside.
        config = DiffAugmentConfig()
        object.__setattr__(config, "mode", "differential")
        with pytest.raises(ValueError, match="unknown mode 'differential'; did you mean 'differentiable'"):
            config.__post_init__()

    def test_to_plain_data_and_back(self) -> None:
        config = DiffAugmentConfig(policy="cutout", mode="reals_only", fill=1.0)
        assert from_dict(DiffAugmentConfig, to_dict(config)) == config

    @pytest.mark.parametrize(
        ("mode", "places"),
        [
            ("differentiable", {"d_real", "d_fake", "g_fake"}),
            ("reals_only", {"d_real"}),
            ("discriminator_only", {"d_real", "d_fake"}),
            ("off", set()),
        ],
    )
    def test_where_it_applies(self, mode: Mode, places: set[Place]) -> None:
        everywhere: tuple[Place, ...] = ("d_real", "d_fake", "g_fake")
        assert {place for place in everywhere if applies(mode, place)} == places

    def test_descriptions_follow_the_settings(self) -> None:
        config = DiffAugmentConfig(policy=ALL, translation_ratio=0.2, cutout_ratio=0.3, upscale_ratio=0.5, fill=1.0)
        lines = dict(describe(config))
        assert tuple(lines) == OPERATIONS
        assert all(line and "\n" not in line for line in lines.values())
        assert "0.2 of each side; 1 moves in" in lines["translation"]
        assert "0.3 of each side" in lines["cutout"]
        assert "1 to 1.5" in lines["upscale"]
        assert describe(DiffAugmentConfig(mode="off")) == []
