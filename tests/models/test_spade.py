"""SPADE: counts of the published tables, sub-networks, statistics, spectral norms, sizes and refusals."""

import copy
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from frugan import models
from frugan.metrics.cost import count_macs, count_parameters
from frugan.models.spade import SpadeConfig, SpadeTranslator, published_subnet
from frugan.models.subnet import Subnet, extract
from frugan.ops.spectral import power_iterate

CITYSCAPES = SpadeConfig(num_labels=35, num_upsampling="more", resolution=256, aspect=2.0, spectral=False)
COCO = SpadeConfig(num_labels=183, resolution=256, spectral=False)
SMALL = SpadeConfig(width=3, num_labels=5, resolution=64, spectral=False)


def made(config=SMALL, seed=0):
    """A network whose weights and statistics are far from their first values."""
    torch.manual_seed(seed)
    network = SpadeTranslator(config).eval()
    for name, tensor in network.state_dict().items():
        if not name.endswith((".u", ".v")):
            tensor.normal_(1.0 if name.endswith("running_mean") else 0.0, 0.2)
        if name.endswith("running_var"):
            tensor.square_().add_(0.5)
    power_iterate(network, 3)
    return network


def sources(config=SMALL, count=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, config.num_labels, (count, 1, *config.size), generator=generator, dtype=torch.uint8)
    edges = torch.randint(0, 2, labels.shape, generator=generator, dtype=torch.uint8)
    return torch.cat([labels, edges], dim=1)


@pytest.mark.parametrize(
    ("config", "settings", "subnet", "parameters", "style", "true"),
    [
        (CITYSCAPES, {}, None, 93.05, 281.28, 281.28),
        (CITYSCAPES, {"separable": True}, None, 70.68, 118.7, 118.6),
        (CITYSCAPES, {"separable": True, "width": 48}, None, 39.98, 71.2, 71.1),
        (CITYSCAPES, {"separable": True, "width": 48}, "32_32_48_32_32_32_32_24", 20.43, 31.66, 31.61),
        (CITYSCAPES, {"separable": True, "width": 48}, "32_40_40_32_40_24_32_24", 21.00, 31.17, 31.11),
        (CITYSCAPES, {"separable": True}, "32_32_32_48_32_24_24_32", 20.17, 31.22, 31.16),
        (COCO, {}, None, 97.48, 191.1, 191.1),
        (COCO, {"separable": True}, "40_32_32_40_32_40_24_24", 25.99, 35.44, 35.42),
    ],
)
def test_the_published_counts(config, settings, subnet, parameters, style, true):
    """GAN Compression's table: millions of weights; G multiply-adds as torchprofile counts them, and those done."""
    config = dataclasses.replace(config, **settings)
    if subnet is not None:
        config = config.at(published_subnet(subnet, config))
    with torch.device("meta"):
        network = models.build(config).eval()
        source = torch.empty(1, config.map_channels, *config.size)
    macs = count_macs(lambda: network.translate(source))
    assert count_parameters(network) / 1e6 == pytest.approx(parameters, abs=0.00501)
    places = 0.00501 if style < 100 or style == 281.28 else 0.0501
    places = 0.0501 if style == 71.2 else places
    assert (macs.torchprofile / 1e9, macs.total / 1e9) == pytest.approx((style, true), abs=places)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("spectral", [False, True])
@torch.no_grad()
def test_an_extracted_network_gives_what_the_slice_gives(separable, spectral):
    config = dataclasses.replace(
        SMALL, separable=separable, spectral=spectral, num_upsampling="normal", aspect=2.0, has_edges=True
    )
    network, source = made(config), sources(config)
    maps = network.read(source)
    for bases in ([2, 3, 1, 2, 2, 3, 1, 2], [1] * 8, [3] * 8, [1, 3, 2, 1, 3, 1, 3, 1]):
        subnet = Subnet(widths=config.wide(bases))
        before = torch.get_rng_state()
        small = extract(network, subnet)
        assert torch.equal(torch.get_rng_state(), before)
        assert not small.config.spectral and small.config.layer_widths == subnet.widths
        assert small.blocks["up0"].norm1.running_mean.shape == (subnet.widths[4],)
        picture, taps = network.features(maps, network.taps, subnet=subnet)
        same, others = small.features(maps, small.taps)
        torch.testing.assert_close(same, picture, atol=1e-5, rtol=1e-5)
        for tap in network.taps:
            torch.testing.assert_close(others[tap], taps[tap], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_most_has_a_block_more():
    config = SpadeConfig(width=2, num_labels=3, has_edges=False, num_upsampling="most", resolution=128)
    network = made(dataclasses.replace(config, channels=1))
    assert network.taps[-1] == "up4" and network.config.layer_widths[-1] == 1
    picture = network(network.read(sources(config, 1)[:, :1]))
    assert picture.shape == (1, 1, 128, 128)
    subnet = Subnet(widths=config.wide([1, 2, 1, 2, 1, 2, 1, 2, 2]))
    maps = network.read(sources(config, 1)[:, :1])
    torch.testing.assert_close(extract(network, subnet)(maps), network(maps, subnet=subnet), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_any_multiple_of_the_size():
    network = made()
    for height, width in ((32, 32), (32, 64), (96, 32)):
        maps = torch.zeros(1, 6, height, width)
        assert network(maps).shape == (1, 3, height, width)
        assert network.translate(maps).shape == (1, 3, height, width)


@torch.no_grad()
def test_reading():
    network, source = made(), sources()
    maps = network.read(source)
    assert maps.dtype == torch.float32 and maps.shape == (2, 6, 64, 64)
    assert torch.equal(maps[:, :5].argmax(dim=1), source[:, 0].long())
    assert torch.equal(maps[:, :5].sum(dim=1), torch.ones(2, 64, 64))
    assert torch.equal(maps[:, 5], source[:, 1].float())
    source[0, 0, 0, 0] = 5
    with pytest.raises(ValueError, match="label numbers must be below 5, got 5"):
        network.read(source)
    plain = SpadeTranslator(dataclasses.replace(SMALL, has_edges=False))
    assert plain.config.source_channels == 1 and plain.read(source[1:, :1]).shape == (1, 5, 64, 64)
    many = SpadeTranslator(dataclasses.replace(SMALL, num_labels=256, width=1))
    assert many.read(torch.full((1, 2, 32, 32), 255, dtype=torch.uint8))[0, 255].all()


def test_first_values():
    torch.manual_seed(0)
    network = SpadeTranslator(dataclasses.replace(SMALL, width=16, spectral=True))
    weight = network.blocks["middle0"].conv1.weight
    assert float(weight.detach().std()) == pytest.approx(0.02 * (2 / (9 * 512)) ** 0.5, rel=0.02)
    assert not network.start.bias.any()
    norm = torch.linalg.matrix_norm(network.blocks["middle0"].conv1.kernel().detach().flatten(1), 2)
    assert float(norm) == pytest.approx(1, abs=0.1)
    torch.manual_seed(0)
    again = SpadeTranslator(network.config)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_folding_keeps_the_pictures_and_the_mode():
    network = made(dataclasses.replace(SMALL, spectral=True)).train()
    maps = network.read(sources())
    folded = network.fold_spectral()
    assert folded.training and not folded.config.spectral
    torch.testing.assert_close(folded(maps), network(maps), atol=1e-6, rtol=1e-6)
    assert folded.blocks["head"].conv0.weight.data_ptr() != network.blocks["head"].conv0.weight.data_ptr()


def test_the_gradient_reaches_every_weight():
    network = made(dataclasses.replace(SMALL, spectral=True, separable=True)).train()
    network(network.read(sources())).square().mean().backward()
    # What is constant over a map goes with its mean: biases before a normalisation.
    idle = {name for name, weight in network.named_parameters() if weight.grad is None}
    assert idle == set()
    assert all(bool(weight.grad.any()) for name, weight in network.named_parameters() if name.endswith("weight"))


def test_training_moves_the_statistics_and_evaluation_does_not():
    network = made()
    maps = network.read(sources())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network(maps)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network.train()
    network(maps, subnet=Subnet(widths=SMALL.wide([2] * 8)))
    mean = network.blocks["head"].norm0.running_mean
    assert not torch.equal(mean[:32], before["blocks.head.norm0.running_mean"][:32])
    assert torch.equal(mean[32:], before["blocks.head.norm0.running_mean"][32:])
    unmoved = {"u", "v"}
    assert not any(name.rpartition(".")[2] in unmoved for name in before)


@torch.no_grad()
def test_calibration_is_the_mean_over_batches():
    network, layer = made(), "blocks.head.norm0.running_mean"
    batches = [network.read(sources(count=count, seed=seed)) for seed, count in ((1, 2), (2, 2), (3, 4))]
    means, variances = [], []
    for batch in batches:
        x = network.start(batch[:, :, ::32, ::32])
        means.append(x.mean(dim=(0, 2, 3)))
        variances.append(x.var(dim=(0, 2, 3)))
    network.calibrate(batches)
    shares = torch.tensor([0.25, 0.25, 0.5])[:, None]
    assert not network.training
    torch.testing.assert_close(network.state_dict()[layer], (torch.stack(means) * shares).sum(dim=0))
    variance = network.blocks["head"].norm0.running_var
    torch.testing.assert_close(variance, (torch.stack(variances) * shares).sum(dim=0))
    with pytest.raises(ValueError, match="calibration needs sources, got none"):
        network.calibrate([])


def test_two_processes_see_the_statistics_of_both():
    """Two threads, half a batch each, that wait for each other in every layer."""
    whole = made(dataclasses.replace(SMALL, separable=True)).train()
    halves = [copy.deepcopy(whole), copy.deepcopy(whole)]
    maps, barrier = whole.read(sources(count=4)), threading.Barrier(2, timeout=60)
    rows: list[torch.Tensor] = [torch.empty(0), torch.empty(0)]

    def work(rank: int) -> torch.Tensor:
        def gather(row: torch.Tensor) -> torch.Tensor:
            rows[rank] = row
            barrier.wait()
            both = torch.cat(rows)
            barrier.wait()
            return both

        with torch.no_grad():
            return halves[rank](maps[rank::2], gather=gather)

    with ThreadPoolExecutor(2) as pool:
        pictures = list(pool.map(work, range(2)))
    with torch.no_grad():
        expected = whole(maps)
    for rank, (network, picture) in enumerate(zip(halves, pictures, strict=True)):
        torch.testing.assert_close(picture, expected[rank::2], atol=1e-4, rtol=1e-4)
        for name, tensor in whole.state_dict().items():
            torch.testing.assert_close(network.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_labels": 0}, "num_labels must be from 1 to 256, got 0"),
        ({"channels": 2}, "channels must be 1, 3 or 4, got 2"),
        ({"resolution": 48}, "multiples of 32 .num_upsampling 'normal'., got 48x48"),
        ({"aspect": 0.1}, "must be multiples of 32 .*got 64x6 "),
        ({"width": 0}, "width must be at least 1"),
        ({"widths": (48, 48)}, "widths must be 8 numbers"),
        ({"widths": (48, 48, 48, 47, 24, 12, 6, 3)}, "width of middle1 must be a multiple of 16, got 47"),
        ({"num_upsampling": "most", "resolution": 128}, "base width of up4 must be even, got 3"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **settings)


@pytest.mark.parametrize(
    ("shape", "subnet", "message"),
    [
        ((1, 5, 64, 64), None, "sources must have 6 maps, as `read` gives, got 5"),
        ((1, 6, 64, 50), None, "multiples of 32, got 64x50"),
        ((1, 6, 64, 64), Subnet(widths=(3,)), "must list 8 widths, got 1"),
        ((1, 6, 64, 64), Subnet(widths=SMALL.wide([4] * 8)), "widths must be at most"),
        ((1, 6, 64, 64), Subnet(widths=(48, 48, 48, 40, 24, 12, 6, 3)), "middle1 must be a multiple of 16, got 40"),
        ((1, 6, 64, 64), Subnet(widths=SMALL.wide([2] * 8), resolution=32), "leave it out, got 32"),
    ],
)
def test_calls_that_are_refused(shape, subnet, message):
    with pytest.raises(ValueError, match=message):
        made()(torch.zeros(shape), subnet=subnet)


def test_other_refusals():
    with pytest.raises(ValueError, match=r"taps must be among head, .* got fc"):
        made().features(torch.zeros(1, 6, 64, 64), ["fc"])
    with pytest.raises(ValueError, match="starts at two pixels or more, got 32x32"):
        made(dataclasses.replace(SMALL, separable=True))(torch.zeros(1, 6, 32, 32))
    with pytest.raises(ValueError, match="8 whole numbers joined by _, got '1_2'"):
        published_subnet("1_2", SMALL)


def test_ratios_of_widths():
    assert Subnet.uniform(SMALL, 0.7).widths == SMALL.wide([2] * 8)
    assert Subnet.uniform(SMALL, 0.1).widths == SMALL.wide([1] * 8)
    most = SpadeConfig(width=6, num_labels=3, num_upsampling="most", resolution=128)
    assert Subnet.uniform(most, 0.5).widths == most.wide([3] * 8 + [2])


def test_half_precision():
    network = made(dataclasses.replace(SMALL, spectral=True)).train()
    maps = network.read(sources())
    whole = network(maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = network(maps, gather=lambda row: row)
    near.float().mean().backward()
    assert float((near - whole).detach().abs().mean()) < 0.1
