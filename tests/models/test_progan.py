"""ProGAN against a slow oracle of its own, and what growing promises."""

import math

import pytest
import torch

from frugan.losses import regularize
from frugan.models.progan import (
    Layer,
    MinibatchDiscrimination,
    ProGANConfig,
    ProGANDiscriminator,
    ProGANDiscriminatorConfig,
    ProGANGenerator,
)
from frugan.models.subnet import Subnet
from tests import reference
from tests.models import oracle_progan as oracle

F64 = torch.float64
WIDTHS = (6, 5, 4)
PLAIN = {"norm": "batch", "activation": "relu", "tanh": True, "equalized": False, "latent": "normal"}
GENERATORS = {
    "article": {},
    "labels after": {"num_classes": 3},
    "labels before": {"num_classes": 3, "label_order": "before"},
    "before Gulrajani": PLAIN,
    "no norm": {"norm": None, "channels": 1},
}
JUDGES = {
    "article": {},
    "groups": {"stddev_group": 2, "stddev_features": 2},
    "early deviation": {"stddev_at": 8, "stddev_features": 5, "channels": 4},
    "before Gulrajani": {"norm": "layer", "stddev_features": 0, "equalized": False},
    "discrimination": {"discrimination_kernels": 3, "discrimination_dim": 2, "stddev_features": 0},
    "classes": {"num_classes": 3},
    "fused": {"fused_down": True},
    "fused with norm": {"fused_down": True, "norm": "layer"},
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def randomised(net):
    """Every weight away from its start, and the running statistics of batch norms as after a training."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        for name, buffer in net.named_buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer) if "var" in name else torch.randn_like(buffer) * 0.3)
    return net.double().eval()


def generator_of(resolution=16, **settings):
    return randomised(
        ProGANGenerator(ProGANConfig(**{"resolution": resolution, "z_dim": 5, "widths": WIDTHS, **settings}))
    )


def judge_of(resolution=16, **settings):
    return randomised(
        ProGANDiscriminator(ProGANDiscriminatorConfig(**{"resolution": resolution, "widths": WIDTHS, **settings}))
    )


def one_hot(count, classes):
    return torch.eye(classes, dtype=F64)[torch.arange(count) % classes] if classes else None


# ---- the oracle ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", GENERATORS.values(), ids=GENERATORS)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("resolution", [4, 8, 16])
def test_generator_equals_the_oracle(settings, resolution, alpha):
    net = generator_of(**settings)
    z, labels = draw(2, 5), one_hot(2, net.config.num_classes)
    got = net(z, labels, resolution=resolution, alpha=alpha)
    expected = oracle.generate(net.config, net.state_dict(), z, labels, resolution, alpha)
    assert got.shape == (2, net.config.channels, resolution, resolution)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-11)


@pytest.mark.parametrize("settings", JUDGES.values(), ids=JUDGES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("resolution", [4, 8, 16])
def test_discriminator_equals_the_oracle(settings, resolution, alpha):
    net = judge_of(**settings)
    images = draw(4, net.config.channels, resolution, resolution)
    expected = oracle.discriminate(net.config, net.state_dict(), images, alpha)
    torch.testing.assert_close(net(images, alpha=alpha), expected[:, 0], atol=1e-11, rtol=1e-10)
    if net.config.has_classifier:
        logits, classes = net.with_classes(images, alpha=alpha)
        torch.testing.assert_close(torch.cat([logits[:, None], classes], dim=1), expected, atol=1e-11, rtol=1e-10)


def test_projection_adds_the_label_s_own_verdict():
    net = judge_of(num_classes=3, head="projection")
    images, labels = draw(3, 3, 16, 16), one_hot(3, 3)
    scores = oracle.discriminate(net.config, net.state_dict(), images)
    torch.testing.assert_close(net(images, labels), scores[:, 0] + (scores[:, 1:] * labels).sum(dim=1))
    with pytest.raises(ValueError, match="labels of 3 classes, got none"):
        net(images)
    with pytest.raises(ValueError, match="head 'acgan'"):
        net.with_classes(images)


def test_factors_multiply_what_enters_each_convolution():
    net = judge_of()
    images = draw(4, 3, 16, 16)
    counts = []

    def factors(count):
        counts.append(count)
        return 1 + 0.3 * draw(4, count, seed=count)

    got = net(images, factors=factors)
    assert counts == [4, 4, 5, 5, 7, 6]  # not in front of fromRGB and the last layer; 7: with the deviation
    expected = oracle.discriminate(net.config, net.state_dict(), images, factors=factors)
    torch.testing.assert_close(got, expected[:, 0], atol=1e-11, rtol=1e-10)
    assert not torch.allclose(got, net(images))


def agree(net, run_plain, inputs, call):
    """Values, first and second derivatives by every weight and the inputs."""
    parameters = dict(net.named_parameters())
    names = list(parameters)

    def fast(*tensors):
        weights = dict(zip(names, tensors[: len(names)], strict=True))
        return torch.func.functional_call(net, weights, tensors[len(names) :], call)

    def plain(*tensors):
        weights = dict(zip(names, tensors[: len(names)], strict=True))
        return run_plain({**dict(net.named_buffers()), **weights}, *tensors[len(names) :])

    everything = [*parameters.values(), *inputs]
    got, expected = reference.derivatives(fast, everything), reference.derivatives(plain, everything)
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("name", ["article", "before Gulrajani"])
def test_derivatives_of_the_generator(name):
    net = generator_of(8, widths=(4, 3), z_dim=3, **GENERATORS[name])
    agree(net, lambda state, z: oracle.generate(net.config, state, z, alpha=0.3), [draw(2, 3)], {"alpha": 0.3})


@pytest.mark.parametrize("name", ["article", "before Gulrajani", "discrimination", "fused"])
def test_derivatives_of_the_discriminator(name):
    net = judge_of(8, widths=(4, 3), **JUDGES[name])
    agree(
        net,
        lambda state, images: oracle.discriminate(net.config, state, images, 0.3)[:, 0],
        [draw(2, 3, 8, 8)],
        {"alpha": 0.3},
    )


@pytest.mark.parametrize("settings", JUDGES.values(), ids=JUDGES)
def test_a_gradient_penalty_trains_every_layer(settings):
    net = judge_of(8, **{**settings, "widths": (10, 10)})
    images = draw(4, net.config.channels, 8, 8).requires_grad_()
    regularize.wgan_gp(net(images, alpha=0.5), images).mean().backward()
    for name, parameter in net.named_parameters():
        if "bias" not in name:  # what only shifts the logits has no part in their slope
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            counted = parameter.grad[:1] if name == "out.weight" else parameter.grad
            assert counted.abs().max() > 0, name


# ---- constants ----------------------------------------------------------------------------------------------------

COUNTS = [  # (settings, generator: path alone and all, discriminator: path alone and all), in thousands
    ({"resolution": 32}, 20_715, 20_720, 20_721, 20_727),
    ({"resolution": 128}, 22_926, 22_933, 22_932, 22_941),
    ({"resolution": 256}, 23_037, 23_044, 23_043, 23_052),
    ({"resolution": 512}, 23_065, 23_072, 23_070, 23_080),
    ({"resolution": 1024}, 23_072, 23_079, 23_077, 23_087),
]


def count(net, path_only=False):
    others = [f"b{size}.{way}rgb." for size in net.config.resolutions[:-1] for way in ("to", "from")]
    return sum(
        parameter.numel()
        for name, parameter in net.named_parameters()
        if not (path_only and name.startswith(tuple(others)))
    )


@pytest.mark.parametrize(("settings", *"abcd"), COUNTS, ids=str)
def test_parameter_counts_of_the_article(settings, a, b, c, d):
    with torch.device("meta"):
        generator = ProGANGenerator(ProGANConfig(**settings))
        judge = ProGANDiscriminator(ProGANDiscriminatorConfig(**settings))
    found = count(generator, True), count(generator), count(judge, True), count(judge)
    assert [round(number / 1000) for number in found] == [a, b, c, d]


def test_parameter_counts_of_ablation_and_cifar():
    ablation = {"resolution": 128, "channel_base": 2048}
    cifar = {"resolution": 32, "channel_base": 4096, "channel_max": 128}
    with torch.device("meta"):
        nets = [
            ProGANGenerator(ProGANConfig(**ablation)),
            ProGANDiscriminator(ProGANDiscriminatorConfig(**ablation)),
            ProGANGenerator(ProGANConfig(z_dim=128, **cifar)),
            ProGANDiscriminator(ProGANDiscriminatorConfig(**cifar)),
        ]
    assert [f"{count(net) / 1e6:.4g}" for net in nets] == ["13.63", "13.64", "1.297", "1.299"]
    assert [nets[0].config.width(size) for size in nets[0].config.resolutions] == [512, 512, 256, 128, 64, 32]
    assert [nets[2].config.width(size) for size in nets[2].config.resolutions] == [128, 128, 128, 128]


def test_widths_of_the_largest_network():
    config = ProGANConfig(resolution=1024)
    assert [config.width(size) for size in config.resolutions] == [512, 512, 512, 512, 256, 128, 64, 32, 16]
    assert ProGANDiscriminatorConfig(resolution=1024).width(2) == 512


@pytest.mark.parametrize(
    ("form", "fan_in", "gain", "std"),
    [
        ("same", 9 * 64, math.sqrt(2), math.sqrt(2 / 576)),
        ("up", 9 * 64, math.sqrt(2), math.sqrt(2 / 576)),
        ("point", 64, 1.0, 1 / 8),
        ("start", 16 * 64, math.sqrt(2), math.sqrt(2) / (4 * 8)),
        ("whole", 16 * 64, math.sqrt(2), math.sqrt(2) / 32),
    ],
)
def test_equalised_and_he_start_alike(form, fan_in, gain, std):
    torch.manual_seed(0)
    equalised, he = (Layer(form, 64, 64, equalized=flag, gain=gain) for flag in (True, False))
    assert equalised.scale == pytest.approx(gain / math.sqrt(fan_in)) == pytest.approx(std)
    assert equalised.weight.std().item() == pytest.approx(1, rel=0.05)
    assert he.scale == 1 and he.weight.std().item() == pytest.approx(std, rel=0.05)
    assert not equalised.bias.any() and not he.bias.any()


# ---- growing ------------------------------------------------------------------------------------------------------


def test_only_the_newest_rgb_layer_runs_at_alpha_1_and_no_block_above():
    generator, judge = generator_of(), judge_of()
    z, images = draw(2, 5), draw(2, 3, 8, 8)
    before, verdict = generator(z, resolution=8), judge(images)
    with torch.no_grad():
        for net, rgb in ((generator, "torgb"), (judge, "fromrgb")):
            for name, parameter in net.named_parameters():
                if name.startswith("b16") or name.startswith(f"b4.{rgb}"):
                    parameter.fill_(torch.nan)
    assert torch.equal(generator(z, resolution=8), before)
    assert torch.equal(judge(images), verdict)
    assert generator(z, resolution=8, alpha=0.5).isnan().all()
    assert judge(images, alpha=0.5).isnan().all()


def test_alpha_0_is_the_stage_before():
    generator, judge = generator_of(), judge_of()
    z, images = draw(2, 5), draw(2, 3, 16, 16)
    large = torch.nn.functional.interpolate(generator(z, resolution=8), scale_factor=2)
    torch.testing.assert_close(generator(z, resolution=16, alpha=0), large)
    torch.testing.assert_close(judge(images, alpha=0), judge(torch.nn.functional.avg_pool2d(images, 2)))


@pytest.mark.parametrize("settings", GENERATORS.values(), ids=GENERATORS)
def test_a_generator_cut_at_a_resolution_draws_the_same(settings):
    net = generator_of(**settings)
    z, labels = draw(2, 5), one_hot(2, net.config.num_classes)
    state = torch.get_rng_state()
    small = net.at_resolution(8)
    assert torch.equal(torch.get_rng_state(), state)
    assert small.config.resolution == 8 and small.config.widths == WIDTHS[:2]
    assert torch.equal(small(z, labels), net(z, labels, resolution=8))
    assert not small.training
    with torch.no_grad():
        small.b4.torgb.weight.zero_()
    assert net.b4.torgb.weight.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("settings", [{}, PLAIN], ids=["article", "batch norm"])
def test_half_precision_draws_nearly_the_same(settings, dtype):
    net = generator_of(num_half_resolutions=2, **settings).float()
    z = draw(4, 5).float()
    full, half = net(z), net(z, dtype=dtype)
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.15 * full.abs().max()
    # 4x4 is not among the two highest resolutions.
    assert torch.equal(net(z, resolution=4, dtype=dtype), net(z, resolution=4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("settings", JUDGES.values(), ids=JUDGES)
def test_half_precision_judges_nearly_the_same(settings, dtype):
    net = judge_of(num_half_resolutions=2, **settings).float()
    images = draw(4, net.config.channels, 16, 16).float()
    for alpha in (0.4, 1.0):
        full, half = net(images, alpha=alpha), net(images, alpha=alpha, dtype=dtype)
        assert half.dtype == torch.float32
        assert 0 < (half - full).abs().max() < 0.1 * full.abs().max().clamp_min(1)


def test_batch_norm_learns_its_statistics_in_training_only():
    net = generator_of(**PLAIN)
    before = net.b8.conv0.norm.running_mean.clone()
    net(draw(4, 5))
    assert torch.equal(net.b8.conv0.norm.running_mean, before)
    net.train()(draw(4, 5))
    assert not torch.equal(net.b8.conv0.norm.running_mean, before)


def test_one_image_and_every_number_of_channels():
    for channels in (1, 3, 4):
        image = generator_of(channels=channels)(draw(1, 5))
        assert image.shape == (1, channels, 16, 16)
        assert judge_of(channels=channels)(image).shape == (1,)


# ---- codes --------------------------------------------------------------------------------------------------------


def test_codes_lie_on_the_hypersphere_and_so_does_the_way_between_them():
    t = torch.linspace(0, 1, 5, dtype=F64)
    for order, radius in (("after", math.sqrt(5)), ("before", math.sqrt(8))):
        net = generator_of(num_classes=3, label_order=order)
        codes = net.codes(draw(2, 5) * 7, one_hot(2, 3))
        path = net.between(codes[0], codes[1], t)
        torch.testing.assert_close(path[[0, -1]], codes)
        part = path[:, :5] if order == "after" else path
        torch.testing.assert_close(part.norm(dim=1), torch.full((5,), radius, dtype=F64))
        if order == "after":
            torch.testing.assert_close(path[:, 5:].sum(dim=1), torch.ones(5, dtype=F64))


def test_the_way_between_normal_codes_keeps_their_variance():
    net = ProGANGenerator(ProGANConfig(resolution=4, widths=(2,), z_dim=4000, latent="normal"))
    first, second = draw(2, 4000).float()
    path = net.between(first, second, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(path[0], first)
    torch.testing.assert_close(path[2], second)
    assert float(path[1].std()) == pytest.approx(1, rel=0.05)


def test_discrimination_is_calibrated_on_real_images():
    torch.manual_seed(0)
    net = judge_of(discrimination_kernels=4, discrimination_dim=3)
    images = draw(30, 3, 16, 16)
    net.calibrate(images)
    seen = []
    hook = net.discrimination.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(images)
    hook.remove()
    weight = net.discrimination.weight * net.discrimination.scale * net.discrimination.log_scale.exp()[:, None]
    places = torch.einsum("nf,fkd->nkd", seen[0], weight)
    nearest = [
        torch.stack([(place - other).abs().sum(dim=1) for j, other in enumerate(places) if j != i]).amin(dim=0)
        for i, place in enumerate(places)
    ]
    torch.testing.assert_close(torch.stack(nearest).mean(dim=0), torch.ones(4, dtype=F64))
    judge_of().calibrate(images)  # nothing to set


def test_discrimination_alone_in_its_batch_sees_nobody():
    layer = MinibatchDiscrimination(4, 3, 2, equalized=True)
    assert not layer(torch.randn(1, 4))[:, 4:].any()
    assert torch.equal(layer(torch.ones(3, 4))[:, 4:], torch.full((3, 3), 2.0))


# ---- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 12}, "power of two"),
        ({"channels": 2}, "1, 3 or 4"),
        ({"widths": (4,)}, "widths must be 3 numbers"),
        ({"channel_base": 7}, "channel_base must be at least 8, got 7"),
        ({"num_classes": -1}, "num_classes must be at least 0"),
    ],
)
@pytest.mark.parametrize("kind", [ProGANConfig, ProGANDiscriminatorConfig])
def test_settings_of_both(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"resolution": 16, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stddev_group": 0}, "stddev_group must be at least 1 or None"),
        ({"stddev_at": 32}, r"stddev_at must be one of \(4, 8, 16\), got 32"),
        ({"stddev_features": 5}, "must divide the 6 channels"),
        ({"stddev_features": 3, "stddev_at": 8}, "must divide the 5 channels"),
        ({"discrimination_dim": 0}, "discrimination_dim at least 1"),
    ],
)
def test_settings_of_the_discriminator(settings, message):
    with pytest.raises(ValueError, match=message):
        ProGANDiscriminatorConfig(resolution=16, widths=WIDTHS, **settings)


def test_calls_that_cannot_be():
    generator, judge = generator_of(), judge_of(stddev_group=4)
    z = draw(2, 5)
    with pytest.raises(ValueError, match="z_dim must be at least 1"):
        ProGANConfig(resolution=16, z_dim=0)
    for call, message in (
        (lambda: generator(z, resolution=32), r"one of \(4, 8, 16\), got 32"),
        (lambda: generator(z, alpha=1.5), r"alpha must be in \[0, 1\], got 1.5"),
        (lambda: generator(z, one_hot(2, 3)), "takes no labels"),
        (lambda: generator_of(num_classes=3)(z), "labels of 3 classes, got none"),
        (lambda: generator.codes(z, psi=0.7), "progan generator has no average.*psi must be 1"),
        (lambda: generator.codes(z, cutoff=2), "without cutoff"),
        (lambda: generator.pictures(z, subnet=Subnet(widths=(1,))), "progan generator has no subnets"),
        (lambda: generator.at_resolution(5), "one of"),
        (lambda: judge(draw(6, 3, 16, 16)), "multiple of the minibatch-stddev group 4, got 6"),
        (lambda: judge(draw(4, 3, 32, 32)), r"one of \(4, 8, 16\), got 32"),
        (lambda: judge(draw(4, 1, 16, 16)), "square with 3 channels"),
        (lambda: judge(draw(4, 3, 16, 8)), "square with 3 channels"),
        (lambda: judge(draw(4, 3, 8, 8), alpha=-0.1), "alpha must be in"),
        (lambda: judge(draw(4, 3, 8, 8), one_hot(4, 3)), "takes no labels"),
        (lambda: judge.with_classes(draw(4, 3, 8, 8)), "num_classes above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
