"""The ladder of class-conditional networks against PyTorch-StudioGAN's own numbers."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from frugan import models
from frugan.interop.imported import build_network
from frugan.interop.studiogan import from_authors
from frugan.models.heads import ClassifierHead, EmbeddingHead, InfoCodes, adc_labels
from frugan.ops.normalize import Pooling
from frugan.ops.spectral import (
    SpectralConvolution,
    SpectralEmbedding,
    SpectralLinear,
    SpectralTransposedConvolution,
    power_iterate,
    settle_exactly,
)

FOLDER = "studiogan"
NUM_CLASSES = 5
GENERATORS = (
    *("biggan32-G-a", "biggan32-G-infoboth-concat-a", "biggan32-G-infodiscrete-cbn-a", "biggan32-G-nosn-a"),
    *("biggan32-G-uncond-a", "biggan64-G-a", "bigdeep32-legacy-G-a", "bigdeep32-studio-G-a", "bigdeep64-legacy-G-a"),
    *("bigdeep64-studio-G-a", "dcgan32-G-cbn-sn-a", "dcgan32-G-uncond-a", "resnet32-G-uncond-a", "sagan32-G-a"),
    "sngan32-G-cbn-a",
)
DISCRIMINATORS = (
    *("biggan32-D-2c-a", "biggan32-D-2c-adc-a", "biggan32-D-ac-a", "biggan32-D-ac-adc-a", "biggan32-D-ac-tac-a"),
    *("biggan32-D-d2dce-a", "biggan32-D-d2dce-adc-a", "biggan32-D-d2dce-tac-a", "biggan32-D-md-a", "biggan32-D-mh-a"),
    *("biggan32-D-pd-a", "biggan32-D-pd-bn-a", "biggan32-D-pd-info-a", "biggan32-D-wo-a", "biggan64-D-d2dce-a"),
    *("bigdeep32-legacy-D-d2dce-a", "bigdeep32-legacy-D-pd-a", "bigdeep32-studio-D-d2dce-a", "bigdeep32-studio-D-pd-a"),
    *("bigdeep64-legacy-D-pd-a", "bigdeep64-studio-D-pd-a", "dcgan32-D-d2dce-sn-a", "dcgan32-D-pd-sn-a"),
    *("dcgan32-D-wo-bn-a", "resnet32-D-ac-bn-a", "resnet32-D-wo-bn-a", "sagan32-D-pd-a", "sngan32-D-pd-a"),
)
CODES = {
    "biggan32-G-infoboth-concat-a": InfoCodes(num_discrete=2, discrete_size=3, num_continuous=2),
    "biggan32-G-infodiscrete-cbn-a": InfoCodes(num_discrete=2, discrete_size=3),
    "biggan32-D-pd-info-a": InfoCodes(num_discrete=2, discrete_size=3, num_continuous=2),
}
OUTPUTS = {
    "embedding": "embed",
    "proxies": "proxy",
    "classes": "cls_output",
    "twin_classes": "mi_cls_output",
    "twin_embedding": "mi_embed",
    "twin_proxies": "mi_proxy",
    "features": "h",
}


def read(fixtures_dir, name):
    """(network with the stored spectral vectors, data, facts)"""
    folder = fixtures_dir / FOLDER
    state, data = (load_file(folder / f"{name}.{kind}.safetensors") for kind in ("state", "io"))
    meta = json.loads((folder / f"{name}.meta.json").read_text())
    told = from_authors(state, num_classes=NUM_CLASSES, codes=CODES.get(name))
    return build_network(told.config, told.state, told.theirs, name), data, meta


def labels_of(data):
    return F.one_hot(data["label"], NUM_CLASSES).float()


def close(got, expected, noise):
    """Twenty times what the authors' own float32 is off, and a little."""
    torch.testing.assert_close(got, expected, atol=20 * noise + 1e-5, rtol=1e-5)


def codes_of(net, z, labels):
    """Codes of latents with InfoGAN's codes in them, as the authors give them."""
    if not net.config.num_classes:
        return z
    return torch.cat([z, labels if net.classes is None else net.classes(labels)], dim=1)


def watched(net, names):
    """Where the first sample of each of these layers' outputs will be found after a call."""
    found = {}
    for name, ours in names.items():
        net.get_submodule(ours).register_forward_hook(
            lambda module, args, output, name=name: found.__setitem__(name, output[:1].detach().clone())
        )
    return found


def blocks_of(data, net):
    """The authors' blocks whose output is known, by name, and ours."""
    count = len(net.stages)
    return {f"inter.blocks.{i}.0": f"stages.{i}" for i in range(count) if f"inter.blocks.{i}.0" in data}


@pytest.mark.parametrize("name", GENERATORS)
def test_generators(fixtures_dir, name):
    net, data, meta = read(fixtures_dir, name)
    assert sum(weight.numel() for weight in net.parameters()) == meta["n_params"]
    noise = meta["float32_vs_float64_max_abs_diff_out"]
    z, labels = data["z"].clone().requires_grad_(), labels_of(data)
    found = watched(net, blocks_of(data, net))
    images = net.draw(codes_of(net, z, labels))
    close(images, data["out"], noise)
    assert len(found) >= 3
    for inner, maps in found.items():
        close(maps, data[inner], noise)
    (grad,) = torch.autograd.grad((images * data["cotangent"]).sum(), z)
    torch.testing.assert_close(grad, data["grad_z"], atol=1e-5 * float(data["grad_z"].abs().max()), rtol=1e-4)


@pytest.mark.parametrize("name", ["biggan32-G-a", "biggan64-G-a", "bigdeep32-legacy-G-a"])
@torch.no_grad()
def test_between_classes(fixtures_dir, name):
    net, data, meta = read(fixtures_dir, name)
    images = net.draw(torch.cat([data["z"], data["shared_label_mix"]], dim=1))
    close(images, data["out_shared_label_mix"], meta["float32_vs_float64_max_abs_diff_out"])


@pytest.mark.parametrize("name", ["biggan32-G-a", "bigdeep64-studio-G-a", "dcgan32-G-cbn-sn-a", "sagan32-G-a"])
@torch.no_grad()
def test_spectral_vectors_on_the_way_to_their_limit(fixtures_dir, name):
    net, data, meta = read(fixtures_dir, name)
    noise, codes = meta["float32_vs_float64_max_abs_diff_out"], codes_of(net, data["z"], labels_of(data))
    power_iterate(net)
    close(net.draw(codes), data["out_after_one_power_iteration"], noise)
    settle_exactly(net)
    close(net.draw(codes), data["out_converged_sn"], noise)
    close(net.fold_spectral().draw(codes), data["out_converged_sn"], noise)


@torch.no_grad()
def test_an_averaged_generator(fixtures_dir):
    net, data, _ = read(fixtures_dir, "ema-biggan32-a")
    assert abs(float(net.start.u.norm()) - 1) > 1e-3  # averages of unit vectors
    codes = codes_of(net, data["z"], labels_of(data))
    close(net.draw(codes), data["out"], 1e-6)
    settle_exactly(net)
    close(net.draw(codes), data["out_converged_sn"], 1e-6)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminators(fixtures_dir, name):
    net, data, meta = read(fixtures_dir, name)
    assert sum(weight.numel() for weight in net.parameters()) == meta["n_params"]
    noise = meta["float32_vs_float64_max_abs_diff"]
    images, labels = data["x"].clone().requires_grad_(), labels_of(data)
    labels = adc_labels(labels, is_fake=False) if net.head.num_labels > NUM_CLASSES else labels
    found = watched(net, blocks_of(data, net))
    verdict = net(images, labels)
    scores = verdict.logits if verdict.hinge is None else verdict.hinge
    close(scores, data["out.adv_output"], noise["adv_output"])
    given = {ours: theirs for ours, theirs in OUTPUTS.items() if f"out.{theirs}" in data}
    for ours, theirs in given.items():
        close(getattr(verdict, ours), data[f"out.{theirs}"], noise[theirs])
    assert all(getattr(verdict, ours) is None for ours in OUTPUTS if ours not in given)
    assert found
    for inner, maps in found.items():
        close(maps, data[inner], noise["h"])
    (grad,) = torch.autograd.grad((scores * data["adv_cotangent"]).sum(), images)
    torch.testing.assert_close(grad, data["grad_x"], atol=1e-5 * float(data["grad_x"].abs().max()), rtol=1e-4)


def test_labels_of_fakes(fixtures_dir):
    net, data, _ = read(fixtures_dir, "biggan32-D-d2dce-adc-a")
    with torch.no_grad():
        proxies = net.head.proxies(adc_labels(labels_of(data), is_fake=True))
    close(proxies, data["out_adc_fake.proxy"], 1e-7)


@torch.no_grad()
def test_codes_are_read(fixtures_dir):
    net, data, _ = read(fixtures_dir, "biggan32-D-pd-info-a")
    codes = net(data["x"], labels_of(data)).codes
    close(codes.discrete.flatten(1), data["out.info_discrete_c_logits"], 1e-6)
    close(codes.mean, data["out.info_conti_mu"], 1e-6)
    close(codes.variance, data["out.info_conti_var"], 1e-6)


@torch.no_grad()
def test_normalized_features_and_weights(fixtures_dir):
    """The authors normalise the features and leave the weights as they are."""
    folder = fixtures_dir / FOLDER / "biggan32-D-acnorm-a.state.safetensors"
    told = from_authors(load_file(folder), num_classes=NUM_CLASSES)
    plain, data, _ = read(fixtures_dir, "biggan32-D-acnorm-a")
    weights = plain.head.classes.layer.kernel()
    state = {name: value for name, value in told.state.items() if not name.startswith("head.classes.layer.")}
    state["head.classes.layer.weight"] = told.state["head.classes.layer.weight"]
    settings = {**told.config.__dict__, "head": ClassifierHead(normalized=True)}
    net = build_network(type(told.config)(**settings), state, {}, "it")
    verdict = net(data["x"], labels_of(data))
    close(F.normalize(verdict.features, dim=1), data["out.h"], 1e-7)
    close(verdict.classes * weights.norm(dim=1), data["out.cls_output"], 1e-7)
    assert float(verdict.classes.abs().max()) <= 1


def test_the_shortcut_sees_rectified_maps(fixtures_dir):
    """Ignoring it moves the logits by more than any rounding: the numbers above do see it."""
    net, data, _ = read(fixtures_dir, "biggan32-D-pd-a")
    block = net.stages[2]
    x = data["inter.blocks.1.0"]
    assert float(x.min()) < 0
    with torch.no_grad():
        assert torch.equal(block(x, None), block(F.relu(x), None))


LAYERS = {
    "conv": lambda: SpectralConvolution(5, 7, 3, padding=1, eps=1e-6),
    "conv_nobias": lambda: SpectralConvolution(5, 7, 1, bias=False, eps=1e-6),
    "deconv": lambda: SpectralTransposedConvolution(5, 7, 4, eps=1e-6),
    "linear": lambda: SpectralLinear(5, 7, eps=1e-6),
    "embedding": lambda: SpectralEmbedding(7, 5, eps=1e-6),
}


@pytest.mark.parametrize("name", LAYERS)
def test_single_layers(fixtures_dir, name):
    folder = fixtures_dir / FOLDER
    state, data = (load_file(folder / f"sn-layers-a.{kind}.safetensors") for kind in ("state", "io"))
    layer = LAYERS[name]()
    names = {"weight": "weight_orig", "u": "weight_u", "v": "weight_v", "bias": "bias"}
    layer.load_state_dict({ours: state[f"{name}.{names[ours]}"] for ours in layer.state_dict()})
    x = data[f"{name}.x"]
    x = F.one_hot(x, 7).float() if name == "embedding" else x
    close(layer(x), data[f"{name}.eval_out"], 1e-7)
    for step in (1, 2, 3):
        power_iterate(layer)
        layer.zero_grad()
        y = layer(x)
        close(y, data[f"{name}.train{step}.out"], 1e-7)
        close(layer.u, data[f"{name}.train{step}.u"], 1e-7)
        close(layer.v, data[f"{name}.train{step}.v"], 1e-7)
        (y * data[f"{name}.cotangent"]).sum().backward()
        close(layer.weight.grad, data[f"{name}.train{step}.grad_weight_orig"], 1e-6)


def buffers_of(net, data, prefix):
    """Pairs of our running statistics and the authors', which lie under `prefix`."""
    for ours, buffer in net.named_buffers():
        if ours.endswith(("running_mean", "running_var")):
            layer, _, kind = ours.rpartition(".")
            theirs = {"norm": "bn4"}.get(layer)
            if theirs is None:
                _, place, norm = layer.split(".")
                theirs = f"blocks.{place}.0.bn{norm[-1]}.bn"
            yield buffer, data[f"{prefix}{theirs}.{kind}"]


@pytest.mark.parametrize("name", ["standing-sngan32-a", "standing-biggan32-a"])
@torch.no_grad()
def test_statistics_of_batches(fixtures_dir, name):
    """With the authors' exponential average; a true accumulation is tested in tests/ops."""
    net, data, _ = read(fixtures_dir, name)
    batch = {key: data[f"eval.{key}"] for key in ("z", "label")}
    close(net(batch["z"], labels_of(batch)), data["eval.out_before"], 1e-6)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    power_iterate(net)
    close(net(batch["z"], labels_of(batch), pooling=Pooling(momentum=0)), data["batch_stat.out_first_forward"], 1e-6)
    running = [key for key in before if "running_" in key]
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in running)
    net.load_state_dict(before)
    for key in running:  # their standing statistics start from nothing
        net.state_dict()[key].fill_(float(key.endswith("var")))
    step = 0
    while f"step{step}.z" in data:
        batch = {key: data[f"step{step}.{key}"] for key in ("z", "label")}
        power_iterate(net)
        images = net(batch["z"], labels_of(batch), pooling=Pooling(momentum=0.1))
        step += 1
    assert step >= 5
    close(images[:2], data["last_step.train_mode_out"], 1e-5)
    pairs = list(buffers_of(net, data, "after."))
    assert len(pairs) == 2 * len([1 for key in running if key.endswith("mean")])
    for ours, theirs in pairs:
        close(ours, theirs, 1e-5)
    batch = {key: data[f"eval.{key}"] for key in ("z", "label")}
    close(net(batch["z"], labels_of(batch)), data["eval.out_after"], 1e-5)


SETS = ("CIFAR10", "Baby_ImageNet", "CUB200", "ImageNet")


@pytest.mark.parametrize("data_set", SETS)
def test_layouts_at_their_true_size(fixtures_dir, data_set):
    """Our default settings give every layout, name by name and shape by shape; nothing is allocated."""
    table = json.loads((fixtures_dir / FOLDER / f"layouts-{data_set}.json").read_text())["configs"]
    for name, entry in table.items():
        codes = InfoCodes(num_discrete=1, discrete_size=10) if "Info" in name else None
        facts = entry["model"]["DATA"]
        for role in "GD":
            state = {key: torch.empty(shape, device="meta") for key, shape in entry[role].items()}
            told = from_authors(state, num_classes=facts["num_classes"], codes=codes)
            with torch.device("meta"):
                net = models.build(told.config)
            theirs = {key: tuple(value.shape) for key, value in told.state.items()}
            assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == theirs, name
            assert sum(weight.numel() for weight in net.parameters()) == entry[f"{role}_params"], name
            assert told.config.multipliers is None, name
            assert told.config.resolution == facts["img_size"], name
            # Counts of batches seen are not kept, nor the spectral vectors of proxies, whose length does not count.
            counts = sum(key.endswith("num_batches_tracked") for key in state)
            head = getattr(told.config, "head", None)
            tables = (2 if head.aux == "tac" else 1) if isinstance(head, EmbeddingHead) else 0
            assert len(net.state_dict()) == len(state) - counts - 2 * tables, name


def test_the_networks_of_the_article(fixtures_dir):
    """ReACGAN on CIFAR10 by our own settings: 117 and 64 tensors there, 27 and 17 spectral layers."""
    config = models.biggan.BigGANConfig(resolution=32, num_classes=10, z_dim=80, attention=(16,))
    judge = models.biggan.BigGANDiscriminatorConfig(
        resolution=32, num_classes=10, attention=(16,), head=EmbeddingHead(dim=512)
    )
    with torch.device("meta"):
        nets = models.build(config), models.build(judge)
    assert [sum(weight.numel() for weight in net.parameters()) for net in nets] == [9_416_196, 2_517_186]
    vectors = [sum(name.endswith(".u") for name in net.state_dict()) for net in nets]
    assert vectors == [27, 17 - 1]  # the proxies' needs none
    assert math.isclose(config.width * config.steps[0], 384)
