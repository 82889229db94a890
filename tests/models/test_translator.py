"""The translators: published counts, subnets, sizes, dropout; parity with the authors' numbers is in tests/parity."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from frugan import models
from frugan.data.dataset import to_float
from frugan.metrics.cost import count_macs, count_parameters
from frugan.models.generator import ImageTranslator
from frugan.models.subnet import ElasticConfig, Subnet, extract
from frugan.models.translator import ResnetConfig, ResnetTranslator, UNetConfig, published_subnet

# Configuration -> weights in M, G multiply-adds as torchprofile counts them, and those that are done, at 256 px.
PUBLISHED = {
    "24_24_24_32_20_16": (0.3416, 2.670, 1.941),  # horse2zebra, article
    "16_16_32_16_32_32_16_16": (0.3569, 2.546, 1.846),  # horse2zebra, retrained
    "16_16_24_16_32_64_16_24": (0.3552, 2.641, 1.939),  # horse2zebra, fast
    "32_32_40_48_16_32 legacy": (0.6999, 4.809, 3.759),  # edges2shoes, article
    "32_32_48_32_48_48_16_16": (0.8221, 4.994, 4.056),  # edges2shoes, retrained
    "24_24_40_56_24_56_16_40": (0.7028, 4.863, 3.699),  # edges2shoes, fast
    "48_32_40_40_24_32": (0.7073, 5.665, 4.104),  # cityscapes, article
    "32_32_48_32_32_48_24_24": (0.7808, 5.592, 4.031),  # cityscapes, retrained
    "16_24_48_56_40_48_24_16": (0.8863, 5.451, 4.060),  # cityscapes, fast
    "32_32_48_32_48_32_16_16": (0.7462, 4.683, 3.747),  # map2sat
    "16_16_40_40_40_64_24_16": (0.7195, 4.570, 3.351),  # map2sat, fast
}
WHOLE = {
    "dense": (ResnetConfig(), 11_378_179, 48, 56.832, 49.552),
    "mobile": (ResnetConfig(separable=True), 1_987_075, 84, 18.37, 11.07),
    "mobile 48": (ResnetConfig(separable=True, width=48), 1_130_883, 84, 10.60, 6.49),
    "mobile 32": (ResnetConfig(separable=True, width=32), 514_307, 84, 4.96, 3.12),
    "mobile 96": (ResnetConfig(separable=True, width=96), 4_418_307, 84, 40.23, 23.85),
}
SMALL = {
    "dense": ResnetConfig(width=4, num_blocks=3),
    "mobile": ResnetConfig(width=4, num_blocks=3, separable=True),
    "batch": ResnetConfig(width=4, num_blocks=2, norm="batch", clamp_input=False),
    "mobile batch": ResnetConfig(width=4, num_blocks=2, norm="batch", separable=True),
    "no norm": ResnetConfig(width=4, num_blocks=1, norm=None),
    "no blocks": ResnetConfig(width=4, num_blocks=0),
    "grey to colour": ResnetConfig(width=4, num_blocks=6, source_channels=1),
    "with alpha": ResnetConfig(width=4, num_blocks=1, source_channels=4, channels=1),
    "u-net": UNetConfig(width=4, num_downs=4),
    "u-net instance": UNetConfig(width=4, num_downs=3, norm="instance", channels=1),
    "u-net no norm": UNetConfig(width=4, num_downs=2, norm=None, source_channels=1),
}


def built(config, seed=0):
    """The network with every weight away from its start, and statistics as after a training."""
    torch.manual_seed(seed)
    net = models.build(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for name, buffer in net.named_buffers():
            buffer.add_(torch.rand_like(buffer) if "var" in name else torch.randn_like(buffer) * 0.2)
    return net.eval()


def sources(config, height=32, width=16, count=2):
    return torch.rand(count, config.source_channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def macs_at_256(config, subnet=None):
    with torch.device("meta"):
        net = models.build(config)
        source = torch.empty(1, 3, 256, 256)
    return count_macs(lambda: net.translate(source, subnet=subnet)), net


# ---- published numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "parameters", "tensors", "style", "true"), WHOLE.values(), ids=WHOLE)
def test_counts_of_the_whole_networks(config, parameters, tensors, style, true):
    macs, net = macs_at_256(config)
    assert (count_parameters(net), len(net.state_dict())) == (parameters, tensors)
    # The table has three digits after the point, or two.
    digits = 3 if not config.separable else 2
    assert (round(macs.torchprofile / 1e9, digits), round(macs.total / 1e9, digits)) == (style, true)


@pytest.mark.parametrize("text", PUBLISHED)
def test_counts_of_the_published_configurations(text):
    parameters, style, true = PUBLISHED[text]
    config = ResnetConfig(separable=True)
    subnet = published_subnet(text.split()[0], config, legacy="legacy" in text)
    small = dataclasses.replace(config, widths=subnet.widths)
    macs, net = macs_at_256(small)
    assert round(count_parameters(net) / 1e6, 4) == parameters
    assert (round(macs.torchprofile / 1e9, 3), round(macs.total / 1e9, 3)) == (style, true)
    # The supernet does the same work when it runs that part of itself.
    assert macs_at_256(config, subnet)[0] == macs


def test_the_u_net_of_pix2pix():
    with torch.device("meta"):
        net = models.build(UNetConfig())
    assert count_parameters(net) == 54_413_955
    assert net.config.layer_widths == (64, 128, 256, *[512] * 9, 256, 128, 64)


def test_what_the_numbers_of_a_configuration_mean():
    config = ResnetConfig()
    subnet = published_subnet("1_2_3_4_5_6_7_8", config)
    assert subnet.widths == (1, 4, 12, 16, 16, 16, 20, 20, 20, 24, 24, 24, 14, 8)
    assert published_subnet("1_2_3_4_7_8", config).widths == (1, 4, 12, *[16] * 9, 14, 8)
    legacy = published_subnet("1_2_3_4_7_8", config, legacy=True)
    assert legacy.widths == (1, 4, 12, *[16, 12, 12] * 3, 14, 8)
    six = dataclasses.replace(config, num_blocks=6)
    assert published_subnet("1_2_3_4_5_6_7_8", six).widths == (1, 4, 12, 16, 16, 20, 20, 24, 24, 14, 8)
    for wrong in ("16_16", "1_2_3_4_5_6_7", "a_2_3_4_5_6_7_8", ""):
        with pytest.raises(ValueError, match="8 or 6 whole numbers"):
            published_subnet(wrong, config)


# ---- subnets ------------------------------------------------------------------------------------------------------


def ragged(config, seed=3):
    """A subnet of uneven widths."""
    generator = torch.Generator().manual_seed(seed)
    return Subnet(widths=tuple(int(torch.randint(1, w + 1, (), generator=generator)) for w in config.layer_widths))


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
@torch.no_grad()
def test_an_extracted_network_is_the_sliced_one(config, is_training):
    net = built(config).train(is_training)
    assert isinstance(config, ElasticConfig)
    source = sources(config)
    whole = net(source)
    for subnet in (Subnet.uniform(config, 1), Subnet.uniform(config, 0.5), ragged(config)):
        small = extract(net, subnet)
        assert small.training == is_training
        assert small.config.layer_widths == subnet.widths
        got = net.translate(source, subnet=subnet)
        assert got.shape == whole.shape and got.abs().max() <= 1
        torch.testing.assert_close(small(source), got, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(got, whole)
    with torch.no_grad():
        next(small.parameters()).zero_()
    torch.testing.assert_close(net.eval()(source, subnet=subnet), net(source, subnet=subnet))


@pytest.mark.parametrize("name", ["mobile", "u-net"])
def test_only_the_leading_channels_learn(name):
    config = SMALL[name]
    net, subnet = built(config).train(), ragged(config)
    net(sources(config), subnet=subnet).square().sum().backward()
    small = extract(net, subnet)
    for key, part in small.named_parameters():
        gradient = net.get_parameter(key).grad
        inside = tuple(slice(size) for size in part.shape)
        assert key.endswith("bias") or gradient[inside].any()
        gradient[inside] = 0
        assert not gradient.any()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    extract(net, subnet)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("subnet", "message"),
    [
        (Subnet(widths=(1, 2)), "must list 8 widths, got 2"),
        (Subnet(widths=(5, *[1] * 7)), "must be at most"),
        (Subnet(widths=(1,) * 8, resolution=64), "cannot stop at a resolution"),
    ],
)
def test_subnets_that_do_not_fit(subnet, message):
    net = models.build(SMALL["dense"])
    for use in (net.extract, lambda value: net(sources(net.config), subnet=value)):
        with pytest.raises(ValueError, match=message):
            use(subnet)


# ---- sources, taps, dropout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
@torch.no_grad()
def test_sources_of_any_size_that_the_layers_divide(config):
    net = built(config).double()
    assert isinstance(net, ImageTranslator)
    assert models.KINDS[net.family] is type(config)
    many = sources(config, 48, 16, 3).double()
    pictures = net.translate(many)
    assert pictures.shape == (3, config.channels, 48, 16)
    torch.testing.assert_close(net.translate(many[1:2]), pictures[1:2])
    m = config.multiple
    for size in ((2 * m + m // 2, 4 * m), (4 * m, 2 * m + 1)):
        with pytest.raises(ValueError, match=f"multiples of {m}"):
            net(sources(config, *size).double())
    with pytest.raises(ValueError, match=f"must have {config.source_channels} channels, got 2"):
        net(torch.zeros(1, 2, 16, 16).double())


def test_sources_too_small_to_reflect():
    net = models.build(ResnetConfig(width=2, num_blocks=1))
    assert net(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match="at least 8, got 4x16"):
        net(torch.zeros(1, 3, 4, 16))


def test_pixels_are_read_as_the_data_reads_them():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(models.build(ResnetConfig(width=1)).read(pixels), to_float(pixels))


@torch.no_grad()
def test_the_source_is_limited_where_the_settings_say_so():
    wide = 3 * sources(ResnetConfig())
    net = built(ResnetConfig(width=4, num_blocks=1))
    assert torch.equal(net(wide), net(wide.clamp(-1, 1)))
    net = built(ResnetConfig(width=4, num_blocks=1, clamp_input=False))
    assert not torch.allclose(net(wide), net(wide.clamp(-1, 1)))


@torch.no_grad()
def test_taps():
    config = SMALL["dense"]
    net = built(config)
    assert net.taps == ("down2", "block1", "block2", "block3")
    source = sources(config)
    picture, maps = net.features(source, ["block2", "down2"])
    assert set(maps) == {"block2", "down2"}
    assert all(map_.shape == (2, 16, 8, 4) for map_ in maps.values())
    torch.testing.assert_close(picture, net(source), atol=0, rtol=0)
    after = maps["down2"]
    for block in net.blocks[:2]:
        after = after + block.conv2.norm(block.conv2.conv(block.conv1.norm(block.conv1.conv(after)).relu()))
    torch.testing.assert_close(maps["block2"], after)
    assert net.features(source, ["block1"], subnet=Subnet.uniform(config, 0.5))[1]["block1"].shape[1] == 8
    with pytest.raises(ValueError, match=r"taps must be among down2, block1.*got block9"):
        net.features(source, ["block9"])
    unet = built(SMALL["u-net instance"])
    shapes = [tuple(value.shape[1:]) for value in unet.features(sources(unet.config), unet.taps)[1].values()]
    assert shapes == [(4, 16, 8), (8, 8, 4), (16, 4, 2), (8, 8, 4), (4, 16, 8)]


@pytest.mark.parametrize(("count", "ends"), [(9, (3, 6, 9)), (6, (2, 4, 6)), (1, (1,)), (0, ())])
def test_where_a_student_is_compared(count, ends):
    net = ResnetTranslator(ResnetConfig(width=1, num_blocks=count))
    assert net.distillation_taps == ("down2", *(f"block{end}" for end in ends))


def test_dropout_is_drawn_by_the_caller_alone():
    config = dataclasses.replace(SMALL["dense"], dropout=0.5)
    net, source = built(config).train(), sources(config)
    shapes = []

    def draw(*shape):
        shapes.append(shape)
        return torch.rand(2, *shape, generator=torch.Generator().manual_seed(len(shapes)))

    before = torch.get_rng_state()
    plain = net(source)
    dropped = net(source, draw=draw)
    assert torch.equal(before, torch.get_rng_state())
    assert shapes == [(16, 8, 4)] * 3
    assert torch.equal(net(source), plain) and not torch.allclose(dropped, plain)
    # Half of the values are gone, the others twice as large.
    seen = []
    hook = net.blocks[0].conv2.conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(source)
    shapes.clear()
    net(source, draw=draw)
    hook.remove()
    keep = torch.rand(2, 16, 8, 4, generator=torch.Generator().manual_seed(1)) >= 0.5
    torch.testing.assert_close(seen[1], seen[0] * keep * 2)


def test_which_doublings_of_the_u_net_drop():
    config = UNetConfig(width=2, num_downs=7)
    shapes = []
    source = sources(config, 128, 128, 2)
    models.build(config)(source, draw=lambda *shape: shapes.append(shape) or torch.ones(2, *shape))
    assert shapes == [(16, 4, 4), (16, 8, 8)]  # the second and third of seven


@pytest.mark.parametrize("name", ["batch", "u-net"])
def test_batch_statistics_of_two_processes_are_those_of_one(name):
    """Two threads play the processes, each with half of the batch, and bring their rows together."""
    config = SMALL[name]
    source = sources(config, count=4)
    whole = built(config).train()
    barrier, board = threading.Barrier(2, timeout=20), {}

    def run(rank):
        def gather(row):
            board[rank] = row
            barrier.wait()
            rows = torch.cat([board[0], board[1]])
            barrier.wait()
            return rows

        with torch.no_grad():
            return nets[rank](source[rank::2], gather=gather)

    nets = [built(config).train() for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(run, range(2)))
    with torch.no_grad():
        expected = whole(source)
    for rank in range(2):
        torch.testing.assert_close(halves[rank], expected[rank::2], atol=5e-5, rtol=1e-4)
        torch.testing.assert_close(nets[rank].state_dict(), whole.state_dict(), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(built(config).train()(source[::2]), expected[::2], atol=1e-3)
    assert torch.equal(nets[0].eval()(source, gather=None), nets[0](source, gather=lambda row: row))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResnetConfig(width=0), "width must be at least 1, got 0"),
        (lambda: ResnetConfig(num_blocks=-1), "num_blocks must be at least 0, got -1"),
        (lambda: ResnetConfig(dropout=1.0), "dropout must be at least 0 and below 1, got 1.0"),
        (lambda: ResnetConfig(source_channels=2), "source_channels must be 1, 3 or 4, got 2"),
        (lambda: ResnetConfig(widths=(1, 2, 3)), "widths must be 14 numbers"),
        (lambda: UNetConfig(num_downs=1), "num_downs must be at least 2, got 1"),
        (lambda: UNetConfig(num_downs=3, widths=(1, 2, 3, 4, 0)), "widths must be 5 numbers"),
    ],
)
def test_settings_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
