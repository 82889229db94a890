import dataclasses

import pytest
import torch

from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.models.stylegan2_discriminator import Discriminator, StyleGAN2DiscriminatorConfig

SMALL = {"channel_base": 64, "channel_max": 6, "z_dim": 5, "w_dim": 7, "mapping_layers": 2}
JUDGE = {"channel_base": 64, "channel_max": 6, "mapping_layers": 2}


def generator(**settings):
    torch.manual_seed(0)
    network = Generator(StyleGAN2Config(**{"resolution": 16, **SMALL, **settings}))
    with torch.no_grad():
        for layer in network.synthesis.layers():
            layer.noise_strength.fill_(0.3)
            layer.bias.normal_()
        network.mapping.w_avg.normal_()
    return network


def discriminator(**settings):
    torch.manual_seed(0)
    return Discriminator(StyleGAN2DiscriminatorConfig(**{"resolution": 16, **JUDGE, **settings}))


def codes(count, size=5, seed=1):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def one_hot(count, classes):
    return torch.nn.functional.one_hot(torch.arange(count) % classes, classes).float()


def millions(network):
    return round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 3)


@pytest.mark.parametrize(
    ("resolution", "channel_base", "mapping_layers", "expected", "judge"),
    [
        (256, 16384, 8, 24.767, 24.001),
        (256, 32768, 8, 30.034, 28.864),
        (512, 32768, 8, 30.277, 28.983),
        (1024, 32768, 8, 30.370, 29.013),
        (32, 16384, 2, 19.948, 21.507),
    ],
)
def test_parameter_counts_are_the_published_ones(resolution, channel_base, mapping_layers, expected, judge):
    with torch.device("meta"):
        network = Generator(
            StyleGAN2Config(resolution=resolution, channel_base=channel_base, mapping_layers=mapping_layers)
        )
        other = Discriminator(StyleGAN2DiscriminatorConfig(resolution=resolution, channel_base=channel_base))
    assert millions(network) == expected
    assert millions(network.mapping) == {8: 2.101, 2: 0.525}[mapping_layers]
    assert millions(other) == judge


def test_number_of_styles():
    for resolution, count in ((8, 4), (32, 8), (256, 14), (1024, 18)):
        assert StyleGAN2Config(resolution=resolution).num_ws == count


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize(("resolution", "channels"), [(4, 3), (8, 1), (16, 4), (32, 3)])
@pytest.mark.parametrize("classes", [0, 3])
@torch.no_grad()
def test_shapes_of_every_architecture(architecture, resolution, channels, classes):
    labels = one_hot(2, classes) if classes else None
    shared = {"resolution": resolution, "channels": channels, "architecture": architecture, "num_classes": classes}
    network = generator(**shared)
    w = network.mapping(codes(2), labels)
    assert w.shape == (2, network.config.num_ws, 7)
    images = network(codes(2), labels)
    assert images.shape == (2, channels, resolution, resolution)
    assert images.dtype == torch.float32 and images.is_contiguous()
    judge = discriminator(**shared)
    assert judge(images, labels).shape == (2,)
    assert judge(images[:1], None if labels is None else labels[:1]).shape == (1,)


def test_every_weight_gets_a_gradient():
    for architecture in ("skip", "resnet", "orig"):
        network = generator(architecture=architecture, num_classes=2)
        judge = discriminator(architecture=architecture, num_classes=2)
        labels = one_hot(4, 2)
        judge(network(codes(4), labels), labels).square().sum().backward()
        without = [
            name
            for module in (network, judge)
            for name, parameter in module.named_parameters()
            if parameter.grad is None or not parameter.grad.any()
        ]
        assert without == []


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch():
    network = generator()
    images = network(codes(3))
    for index in range(3):
        torch.testing.assert_close(network(codes(3)[index : index + 1]), images[index : index + 1])


@torch.no_grad()
def test_noise_modes():
    network = generator()
    shapes = network.noise_shapes()
    assert shapes == ((1, 4, 4), (1, 8, 8), (1, 8, 8), (1, 16, 16), (1, 16, 16))
    w = network.mapping(codes(2))
    const = network.synthesis(w, "const")
    none = network.synthesis(w, "none")
    assert (const - none).abs().max() > 0.1
    maps = [layer.noise_const[None, None] for layer in network.synthesis.layers()]
    torch.testing.assert_close(network.synthesis(w, maps), const)
    torch.testing.assert_close(network.synthesis(w, [torch.zeros(2, *shape) for shape in shapes]), none)
    own = [torch.randn(2, *shape) for shape in shapes]
    both = network.synthesis(w, own)
    torch.testing.assert_close(network.synthesis(w[1:], [noise[1:] for noise in own]), both[1:])
    for layer in network.synthesis.layers():
        layer.noise_strength.zero_()
    torch.testing.assert_close(network.synthesis(w, own), none)


@torch.no_grad()
def test_mixing_styles_changes_only_what_the_later_layers_do():
    network = generator()
    w = network.mapping(codes(2))
    mixed = torch.cat([w[:1, :3], w[1:, 3:]], dim=1)
    images = network.synthesis.images(w[:1], "none")
    others = network.synthesis.images(mixed, "none")
    # Styles 0, 1 and 2 make everything up to 8x8 but its RGB layer, which has style 3.
    torch.testing.assert_close(others[4], images[4])
    assert (others[8] - images[8]).abs().max() > 1e-3
    assert list(images) == [4, 8, 16]


@torch.no_grad()
def test_truncation():
    network = generator()
    w = network.mapping(codes(2))
    average = network.mapping.w_avg.clone()
    assert torch.equal(network.truncate(w, 1.0), w)
    torch.testing.assert_close(network.truncate(w, 0.0), average.expand_as(w))
    torch.testing.assert_close(network.truncate(w, 0.5), (w + average) / 2)
    torch.testing.assert_close(network.truncate(w, -1, cutoff=2)[:, :2], 2 * average - w[:, :2])
    assert torch.equal(network.truncate(w, -1, cutoff=2)[:, 2:], w[:, 2:])
    torch.testing.assert_close(
        network(codes(2), psi=0.5, cutoff=3), network.synthesis(network.truncate(w, 0.5, cutoff=3))
    )
    network.train()
    network(codes(2))
    assert torch.equal(network.mapping.w_avg, average)


@torch.no_grad()
def test_labels_matter():
    network, judge = generator(num_classes=3), discriminator(num_classes=3)
    labels = one_hot(3, 3)
    z = codes(1).expand(3, -1)
    images = network(z, labels)
    assert (images[0] - images[1]).abs().max() > 1e-3
    logits = judge(images[:1].expand(3, -1, -1, -1), labels)
    assert (logits[0] - logits[1]).abs() > 1e-5


def test_names_of_the_weights():
    names = generator(num_classes=2, architecture="resnet", mapping_layers=1).state_dict().keys()
    layer = ("affine.bias", "affine.weight", "bias", "noise_const", "noise_strength", "weight")
    expected = {"mapping.embed.weight", "mapping.embed.bias", "mapping.fc0.weight", "mapping.fc0.bias", "mapping.w_avg"}
    expected |= {"synthesis.b4.const"} | {f"synthesis.b4.conv1.{name}" for name in layer}
    for block in ("b8", "b16"):
        expected |= {f"synthesis.{block}.conv{index}.{name}" for index in (0, 1) for name in layer}
        expected |= {f"synthesis.{block}.skip.weight"}
    expected |= {f"synthesis.b16.torgb.{name}" for name in ("affine.bias", "affine.weight", "bias", "weight")}
    assert set(names) == expected
    names = discriminator(num_classes=2, mapping_layers=1).state_dict().keys()
    expected = {"mapping.embed.weight", "mapping.embed.bias", "mapping.fc0.weight", "mapping.fc0.bias"}
    expected |= {"b16.fromrgb.weight", "b16.fromrgb.bias"}
    expected |= {f"{b}.{c}.{k}" for b in ("b16", "b8") for c in ("conv0", "conv1") for k in ("weight", "bias")}
    expected |= {"b16.skip.weight", "b8.skip.weight"}
    expected |= {f"b4.{c}.{k}" for c in ("conv", "fc", "out") for k in ("weight", "bias")}
    assert set(names) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_at_the_highest_resolutions(dtype):
    network = generator(num_half_resolutions=1, conv_clamp=256.0, architecture="skip")
    judge = discriminator(num_half_resolutions=2, conv_clamp=256.0)
    seen = []
    for module in (network, judge):
        for name, layer in module.named_modules():
            if name.endswith(("conv0", "conv1", "b4.conv")):
                layer.register_forward_hook(lambda m, i, output, name=name: seen.append((name, output.dtype)))
    images = network(codes(4), dtype=dtype)
    logits = judge(images, dtype=dtype)
    assert images.dtype == logits.dtype == torch.float32
    half = {name for name, kind in seen if kind == dtype}
    assert half == {"synthesis.b16.conv0", "synthesis.b16.conv1", "b16.conv0", "b16.conv1", "b8.conv0", "b8.conv1"}
    exact = network(codes(4))
    torch.testing.assert_close(images, exact, atol=0.15, rtol=0.05)
    torch.testing.assert_close(logits, judge(exact), atol=0.1, rtol=0.1)


def test_half_precision_trains():
    network, judge = generator(conv_clamp=256.0), discriminator(conv_clamp=256.0)
    judge(network(codes(4), dtype=torch.bfloat16), dtype=torch.bfloat16).sum().backward()
    for parameter in (*network.parameters(), *judge.parameters()):
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all()


@torch.no_grad()
def test_clamp_limits_features_and_follows_the_gain():
    network = generator(conv_clamp=0.5, architecture="resnet")
    highest = {}
    for name, layer in network.named_modules():
        if name.endswith(("conv0", "conv1")):
            layer.register_forward_hook(lambda m, i, output, name=name: highest.update({name: float(output.max())}))
    network(codes(8))
    assert highest["synthesis.b16.conv0"] == pytest.approx(0.5)
    assert highest["synthesis.b16.conv1"] == pytest.approx(0.5**1.5)


def test_stddev_group_must_fit_the_batch():
    judge = discriminator()
    with pytest.raises(ValueError, match="multiple of the minibatch-stddev group 4, got 6"):
        judge(torch.zeros(6, 3, 16, 16))
    assert discriminator(stddev_group=3)(torch.zeros(6, 3, 16, 16)).shape == (6,)
    without = discriminator(stddev_features=0)
    assert without.b4.conv.weight.shape[1] == 6
    alone = without(torch.ones(1, 3, 16, 16)).detach()
    torch.testing.assert_close(without(torch.ones(5, 3, 16, 16)).detach(), alone.expand(5))


def test_calls_that_cannot_be_are_refused():
    network, labelled = generator(), generator(num_classes=3)
    with pytest.raises(ValueError, match="takes no labels, got \\(2, 3\\)"):
        network(codes(2), one_hot(2, 3))
    with pytest.raises(ValueError, match="takes labels of 3 classes, got none"):
        labelled(codes(2))
    with pytest.raises(ValueError, match="takes labels of 3 classes, got \\(2, 4\\)"):
        labelled(codes(2), one_hot(2, 4))
    w = network.mapping(codes(2))
    with pytest.raises(ValueError, match="w must hold 6 styles for each sample, got 5"):
        network.synthesis(w[:, :5])
    with pytest.raises(ValueError, match="noise must have 5 tensors, one for each layer, got 4"):
        network.synthesis(w, [torch.zeros(2, *shape) for shape in network.noise_shapes()[:4]])
    judge = discriminator()
    with pytest.raises(ValueError, match="images must be \\(3, 16, 16\\) each, got \\(3, 8, 8\\)"):
        judge(torch.zeros(4, 3, 8, 8))
    with pytest.raises(ValueError, match="takes no labels"):
        judge(torch.zeros(4, 3, 16, 16), one_hot(4, 2))
    with pytest.raises(ValueError, match="takes labels of 2 classes, got none"):
        discriminator(num_classes=2)(torch.zeros(4, 3, 16, 16))


@pytest.mark.parametrize("cls", [StyleGAN2Config, StyleGAN2DiscriminatorConfig])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 100}, "resolution must be a power of two from 4 to 1024, got 100"),
        ({"resolution": 2}, "resolution must be a power of two from 4 to 1024, got 2"),
        ({"resolution": 2048}, "resolution must be a power of two from 4 to 1024, got 2048"),
        ({"channels": 2}, "channels must be 1, 3 or 4, got 2"),
        ({"architecture": "unet"}, "architecture must be 'skip', 'resnet' or 'orig', got 'unet'"),
        ({"channel_base": 31}, "channel_base must be at least 32, got 31"),
        ({"channel_max": 0}, "channel_max must be at least 1, got 0"),
        ({"num_classes": -1}, "num_classes must be at least 0, got -1"),
        ({"num_half_resolutions": -1}, "num_half_resolutions must be at least 0, got -1"),
        ({"mapping_layers": 0}, "mapping_layers must be at least 1, got 0"),
        ({"mapping_lr_multiplier": 0.0}, "mapping_lr_multiplier must be above 0, got 0.0"),
        ({"conv_clamp": 0.0}, "conv_clamp must be above 0 or None, got 0.0"),
        ({"widths": (1, 2)}, "widths must be"),
        ({"resample_filter": ()}, "at least one tap"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(cls, settings, message):
    if "architecture" in settings:
        # The type checker of the tests would refuse a wrong literal first; users do not run it.
        config = cls(resolution=32)
        object.__setattr__(config, "architecture", "unet")
        with pytest.raises(ValueError, match=message):
            config.__post_init__()
        return
    with pytest.raises(ValueError, match=message):
        cls(**{"resolution": 32, **settings})


def test_settings_of_one_network_only():
    with pytest.raises(ValueError, match="z_dim and w_dim must be at least 1, got 0 and 8"):
        StyleGAN2Config(resolution=8, z_dim=0, w_dim=8)
    with pytest.raises(ValueError, match="stddev_group must be at least 1 or None, got 0"):
        StyleGAN2DiscriminatorConfig(resolution=8, stddev_group=0)
    with pytest.raises(ValueError, match="stddev_features must divide the 512 channels, got 3"):
        StyleGAN2DiscriminatorConfig(resolution=8, stddev_features=3)
    config = StyleGAN2Config(resolution=32)
    assert dataclasses.replace(config, widths=config.layer_widths).layer_widths == (512,) * 8


@torch.no_grad()
def test_a_longer_filter_and_float64():
    taps = (0.02, 0.05, -0.1, 0.2, 0.6, 0.6, 0.2, -0.1, 0.05, 0.02)
    network = generator(resample_filter=taps).double()
    images = network(codes(2).double())
    assert images.dtype == torch.float64
    torch.testing.assert_close(images.float(), generator(resample_filter=taps)(codes(2)), atol=1e-4, rtol=1e-4)
    judge = discriminator(resample_filter=taps).double()
    assert judge(images).dtype == torch.float64


@pytest.mark.parametrize("settings", [{}, {"architecture": "resnet"}, {"conv_clamp": 1.0}], ids=str)
def test_drawn_pictures_are_those_of_training_to_a_rounding(settings):
    network = generator(resolution=32, channel_base=2048, channel_max=64, **settings)
    z = codes(2)
    with torch.no_grad():
        expected = network(z)
    with torch.inference_mode():
        drawn = network(z)
    assert not torch.equal(drawn, expected)
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=0)
