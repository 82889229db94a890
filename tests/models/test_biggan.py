"""The ladder: equal to its plain form, any size, and what its settings refuse."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frugan import model as stored
from frugan import models
from frugan.config import from_dict, to_dict
from frugan.metrics.cost import count_macs
from frugan.model import Model
from frugan.models import ladder
from frugan.models.biggan import (
    BigGANConfig,
    BigGANDiscriminator,
    BigGANDiscriminatorConfig,
    BigGANGenerator,
)
from frugan.models.heads import EmbeddingHead, InfoCodes, ProjectionHead
from frugan.ops.normalize import Pooling
from frugan.ops.spectral import power_iterate

COUNT = 3
KINDS = ("deep_conv", "resnet", "deep", "deep_legacy")


def artist(blocks="resnet", **changes):
    torch.manual_seed(0)
    latent = {"deep_conv": "first", "resnet": "split"}.get(blocks, "everywhere")
    settings = {"resolution": 16, "num_classes": COUNT, "width": 8, "z_dim": 12, "shared_dim": 5, "latent": latent}
    return BigGANGenerator(BigGANConfig(**{"blocks": blocks, "attention": (16,), **settings, **changes}))


def judge(blocks="resnet", **changes):
    torch.manual_seed(1)
    settings = {"resolution": 16, "num_classes": COUNT, "width": 8, "attention": (8,), "head": ProjectionHead()}
    return BigGANDiscriminator(BigGANDiscriminatorConfig(**{"blocks": blocks, **settings, **changes}))


def latents(net, count=4):
    return torch.randn(count, net.config.z_dim, generator=torch.Generator().manual_seed(2))


def labels(count=4):
    return F.one_hot(torch.arange(count) % COUNT, COUNT).float()


def pictures(size=16, channels=3, count=4):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(3)) * 2 - 1


def plain_run(layer, x, scale="same"):
    """The layer at the size it is written for: doubled before, halved after."""
    x = F.interpolate(x, scale_factor=2.0, mode="nearest") if scale == "up" else x
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    y = F.conv2d(x, layer.kernel().to(x.dtype), bias, layer.stride, layer.padding)
    return F.avg_pool2d(y, 2) if scale == "down" else y


def wake(net):
    """Everything that starts at 0 or 1 gets numbers that tell."""
    torch.manual_seed(4)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("strength"):
                tensor.fill_(0.7)
            elif name.endswith(("bias", "running_mean")):
                tensor.normal_(std=0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
    return net


@pytest.mark.parametrize("blocks", KINDS)
@pytest.mark.parametrize("pooling", [None, Pooling(momentum=0)], ids=["running", "batch"])
def test_generators_equal_their_plain_form(monkeypatch, blocks, pooling):
    net = wake(artist(blocks)).double()
    z, y = latents(net).double().requires_grad_(), labels().double()
    fast = net(z, y, pooling=pooling)
    (grad,) = torch.autograd.grad(fast.square().sum(), z)
    macs = count_macs(lambda: net(z, y)).total
    monkeypatch.setattr(ladder, "run", plain_run)
    plain = net(z, y, pooling=pooling)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(grad, torch.autograd.grad(plain.square().sum(), z)[0])
    # DCGAN's transposed convolutions double by themselves.
    assert blocks == "deep_conv" or macs < count_macs(lambda: net(z, y)).total


@pytest.mark.parametrize("blocks", KINDS)
@pytest.mark.parametrize("norm", ["spectral", "batch", None])
def test_discriminators_equal_their_plain_form(monkeypatch, blocks, norm):
    net, x, y = wake(judge(blocks, norm=norm)).double(), pictures().double().requires_grad_(), labels().double()
    fast = net(x, y, pooling=Pooling(momentum=0)).features
    (grad,) = torch.autograd.grad(fast.square().sum(), x)
    monkeypatch.setattr(ladder, "run", plain_run)
    plain = net(x, y, pooling=Pooling(momentum=0)).features
    torch.testing.assert_close(fast, plain, atol=1e-6, rtol=1e-5)  # sums are float32 at least
    torch.testing.assert_close(grad, torch.autograd.grad(plain.square().sum(), x)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("resolution", "bottom"),
    [(8, 4), (16, 4), (24, 6), (32, 4), (48, 6), (56, 7), (80, 5), (96, 6), (128, 4), (512, 4)],
)
@pytest.mark.parametrize("blocks", KINDS)
def test_any_size_that_the_ladder_allows(blocks, resolution, bottom):
    latent = "everywhere" if blocks.startswith("deep") else "split"
    config = BigGANConfig(resolution=resolution, width=2, z_dim=840, latent=latent, blocks=blocks)
    assert config.bottom == bottom
    judged = BigGANDiscriminatorConfig(resolution=resolution, width=2, blocks=blocks)
    assert config.attention == judged.attention == ()
    with torch.device("meta"):
        images = models.build(config)(torch.empty(2, 840))
        assert images.shape == (2, 3, resolution, resolution)
        assert models.build(judged)(images).logits.shape == (2,)
    smallest = judged.stage_resolutions[-1]
    assert smallest == (2 * bottom if blocks != "deep_conv" and 16 <= resolution < 64 else bottom)


@pytest.mark.parametrize("channels", [1, 3, 4])
@torch.no_grad()
def test_channels_and_no_classes(channels):
    net = artist(channels=channels, num_classes=0)
    images = net(latents(net))
    assert images.shape == (4, channels, 16, 16)
    assert float(images.abs().max()) <= 1
    verdict = judge(channels=channels, num_classes=0, head=None)(images)
    assert verdict.logits.shape == (4,) and verdict.proxies is None
    with pytest.raises(ValueError, match="takes no labels"):
        net(latents(net), labels())


@pytest.mark.parametrize("shared", [None, 5])
@pytest.mark.parametrize("latent", ["first", "split", "everywhere"])
@torch.no_grad()
def test_every_way_to_share_z_out(shared, latent):
    net = artist(shared_dim=shared, latent=latent)
    z, y = latents(net), labels()
    images = net(z, y, pooling=Pooling(momentum=0))
    for place in range(0, 12, 4):  # every part of z counts
        moved = z.clone()
        moved[:, place : place + 4] += 1
        assert not torch.allclose(net(moved, y, pooling=Pooling(momentum=0)), images, atol=1e-4)
    assert not torch.allclose(net(z, labels().roll(1, 0), pooling=Pooling(momentum=0)), images, atol=1e-4)


def test_modules_hold_weights_only():
    net = artist().train()
    z, y = latents(net), labels()
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        images = net(z, y)
        assert torch.equal(net.eval()(z, y), images)  # the training mode decides nothing
        net(z, y, pooling=Pooling(momentum=0))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net(z, y, pooling=Pooling())
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "running_" in name}


@pytest.mark.parametrize("blocks", KINDS)
@torch.no_grad()
def test_folding(blocks):
    net = wake(artist(blocks))
    power_iterate(net)
    state = torch.random.get_rng_state()
    folded = net.fold_spectral()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not folded.config.spectral and not any(name.endswith(".u") for name in folded.state_dict())
    z = latents(net)
    torch.testing.assert_close(folded(z, labels()), net(z, labels()), atol=1e-5, rtol=1e-5)
    folded.start.weight.zero_()
    assert net.start.weight.any()  # a network of its own


@pytest.mark.parametrize("blocks", KINDS)
def test_half_precision(blocks):
    net, other = artist(blocks), judge(blocks, norm="batch")
    z, y = latents(net), labels()
    images = net(z, y, pooling=Pooling(), dtype=torch.bfloat16)
    exact = net(z, y, pooling=Pooling())
    assert images.dtype == torch.float32
    assert float((images - exact).detach().abs().mean()) < 0.05
    verdict = other(images, y, dtype=torch.bfloat16, pooling=Pooling())
    verdict.logits.sum().backward()
    for module in (net, other):
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in module.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = other(net(z, y, pooling=Pooling()), y, pooling=Pooling())
    assert again.logits.dtype == torch.float32
    assert again.logits.isfinite().all()


def test_penalties_can_be_derived():
    """A gradient penalty through every block of the discriminator."""
    for blocks in KINDS:
        net, x = judge(blocks), pictures().requires_grad_()
        (grad,) = torch.autograd.grad(net(x, labels()).logits.sum(), x, create_graph=True)
        grad.square().sum().backward()
        assert all(weight.grad.isfinite().all() for weight in net.parameters() if weight.grad is not None)
        assert net.stages[0].conv1.weight.grad.any() if blocks != "deep" and blocks != "deep_legacy" else True


def test_weights_start_orthogonal():
    net = artist()
    weight = net.stages[0].conv2.weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), atol=1e-5, rtol=0)
    assert all(
        not module.bias.any() for module in net.modules() if isinstance(module, nn.Linear) and module.bias is not None
    )
    assert not net.stages[-1].strength.any()


# -- codes ---------------------------------------------------------------------


@torch.no_grad()
def test_codes_are_latent_and_class():
    net = artist()
    z = latents(net)
    codes = net.codes(z, labels())
    assert torch.equal(codes[:, :12], z)
    assert torch.equal(codes[:, 12:], net.classes.weight[[0, 1, 2, 0]])
    assert torch.equal(net.pictures(codes), net(z, labels()))
    tame = net.codes(z, labels(), psi=0.5)
    assert float(tame[:, :12].abs().max()) < 1
    assert torch.equal(tame[:, 12:], codes[:, 12:])
    assert torch.equal(net(z, labels(), psi=0.5), net.pictures(tame))


@torch.no_grad()
def test_walks_go_between_classes():
    net = artist()
    start, end = net.codes(latents(net), labels())[:2]
    path = net.between(start, end, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(path[[0, 2]], torch.stack([start, end]))
    torch.testing.assert_close(path[1, 12:], (start[12:] + end[12:]) / 2)
    torch.testing.assert_close(path[1, :12], (start[:12] + end[:12]) / 2**0.5)


@pytest.mark.parametrize("into", ["latent", "condition"])
@torch.no_grad()
def test_infogan_codes(into):
    given = InfoCodes(num_discrete=2, discrete_size=3, num_continuous=2)
    net = artist(codes=given, codes_into=into, z_dim=12 + given.size)
    z = torch.randn(4000, net.config.z_dim, generator=torch.Generator().manual_seed(5))
    codes = net.codes(z, labels(4000))
    discrete, continuous = net.info(codes)
    assert torch.equal(discrete.sum(dim=2), torch.ones(4000, 2))
    torch.testing.assert_close(discrete.mean(dim=0), torch.full((2, 3), 1 / 3), atol=0.03, rtol=0)
    torch.testing.assert_close(continuous.var(dim=0), torch.full((2,), 1 / 3), atol=0.03, rtol=0)
    first = codes[:2].clone()
    images = net.draw(first, pooling=Pooling(momentum=0))
    first[:, 12:15] = first[:, 12:15].roll(1, dims=1)
    assert not torch.allclose(net.draw(first, pooling=Pooling(momentum=0)), images, atol=1e-5)
    verdict = judge(codes=given)(images, labels(2))
    assert verdict.codes.discrete.shape == (2, 2, 3) and verdict.codes.mean.shape == (2, 2)


@torch.no_grad()
def test_a_model_samples_walks_and_is_stored(tmp_path):
    model = Model(wake(artist()).eval(), judge(head=EmbeddingHead(dim=4)).eval(), {"class_names": ["a", "b", "c"]})
    assert not model.has_styles and model.resolutions == (16,)
    images = model.sample([0, 1, 2], classes=["a", "c", "b"], psi=0.7)
    assert images.shape == (3, 3, 16, 16)
    assert torch.equal(model.sample([2], classes=["b"], psi=0.7), images[2:])
    frames = torch.cat(list(model.walk([0, 1], classes=["a", "b"], frames_between=2)))
    assert frames.shape == (4, 3, 16, 16)
    stored.save(model, tmp_path / "it")
    again = stored.load(tmp_path / "it")
    assert again.generator.config == model.generator.config
    assert again.discriminator.config == model.discriminator.config
    assert torch.equal(again.sample([0, 1, 2], classes=["a", "c", "b"], psi=0.7), images)
    with pytest.raises(ValueError, match="one of"):
        model.sample([0], resolution=8)


def test_restoring_draws_nothing():
    net = artist()
    state = torch.random.get_rng_state()
    again = models.restore(net.config, net.state_dict())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.out.weight.data_ptr() == net.out.weight.data_ptr()
    copied = net.at_resolution(16)
    assert copied.out.weight.data_ptr() != net.out.weight.data_ptr()


def test_settings_come_back():
    for net in (artist(), judge("deep", depth=1, head=EmbeddingHead(dim=4, aux="adc"))):
        assert from_dict(type(net.config), to_dict(net.config)) == net.config
        assert models.KINDS["biggan"] is BigGANConfig
    assert len(judge("deep", depth=1).stages) < len(judge("deep").stages)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 36}, "4, 5, 6 or 7 times a power of two"),
        ({"resolution": 4}, "from 8 to 896"),
        ({"resolution": -32}, "from 8 to 896"),
        ({"channels": 2}, "channels must be 1, 3 or 4"),
        ({"width": 0}, "width must be at least 1"),
        ({"z_dim": 13}, "z_dim must be a multiple of 3 and above 0, got 13"),
        ({"codes": InfoCodes(num_continuous=2)}, "less the 2 of the codes must be a multiple of 3 and above 0, got 10"),
        ({"attention": (4,)}, r"attention must list different resolutions among \(8, 16\)"),
        ({"attention": (8, 8)}, "attention must list different resolutions"),
        ({"multipliers": (4, 4)}, "multipliers must be 3 numbers for 16 px"),
        ({"multipliers": (4, 4, 0)}, "multipliers must be numbers of 1 or more"),
        ({"depth": 2}, "depth is 1 or more blocks of a 'deep' ladder"),
        ({"shared_dim": 0}, "shared_dim must be at least 1 or None"),
    ],
    ids=str,
)
def test_generators_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        artist(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "a ProjectionHead needs num_classes"),
        ({"num_halvings": 0}, "num_halvings must be from 1 to 2"),
        ({"num_halvings": 3}, "num_halvings must be from 1 to 2"),
        ({"multipliers": (2,)}, "multipliers must list 2 steps or more"),
        ({"attention": (16,)}, "attention must list different resolutions"),
    ],
    ids=str,
)
def test_discriminators_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        judge(**changes)


def test_what_the_family_does_not_have():
    net = artist()
    codes = net.codes(latents(net), labels())
    for changes, message in [
        ({"alpha": 0.5}, "fades nothing in"),
        ({"resolution": 8}, "has one resolution, 16"),
        ({"subnet": models.stylegan2.Subnet(widths=(1,))}, "has no subnets"),
    ]:
        with pytest.raises(ValueError, match=message):
            net.pictures(codes, **changes)
    with pytest.raises(ValueError, match="leave the cutoff out"):
        net.codes(latents(net), labels(), 0.5, 2)
    with pytest.raises(ValueError, match=r"psi must be in \[0, 1\], got 1.5"):
        net.codes(latents(net), labels(), 1.5)
    with pytest.raises(ValueError, match="z must have 12 numbers"):
        net(torch.zeros(1, 11), labels(1))
    with pytest.raises(ValueError, match="has no InfoGAN codes"):
        net.info(codes)
    with pytest.raises(ValueError, match=r"images must be \(3, 16, 16\) each, got \(3, 8, 8\)"):
        judge()(pictures(8), labels())
