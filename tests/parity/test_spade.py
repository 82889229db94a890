"""SPADE, its discriminator and their losses against GAN Compression's GauGAN."""

import pytest
import torch
from safetensors.torch import load_file

from frugan.interop.imported import build_network
from frugan.interop.spade import LabelMaps, from_authors
from frugan.losses.adversarial import patch_discriminator_loss, patch_generator_loss
from frugan.losses.perceptual import feature_matching
from frugan.models.spade import published_subnet
from frugan.models.subnet import Subnet, extract
from frugan.ops.spectral import power_iterate

MAPS = LabelMaps(num_upsampling="more", resolution=64, aspect=2.0)
TAPS = {"head": "head_0", "middle1": "G_middle_1", "up1": "up_1"}
SUBNET = "2_3_1_2_2_3_1_2"
HINGE_OFF = 2.0  # a logit that hinge has nothing to say about


def network(state, maps=MAPS):
    config, weights = from_authors(state, maps)
    return build_network(config, weights, {}, "the network")


def load(folder, name, maps=MAPS):
    state, data = (load_file(folder / f"{name}.{kind}.safetensors") for kind in ("state", "io"))
    return network(state, maps), data


def role(state, prefix):
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def close(got, expected, atol=2e-5):
    torch.testing.assert_close(got, expected, atol=atol, rtol=2e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gc-spade-a", {"width": 4, "num_labels": 8}),
        ("gc-spade-spectral-a", {"width": 2, "spectral": True}),
        ("gc-spade-folded-a", {"width": 2}),
        ("gc-mobile-spade-a", {"width": 4, "separable": True}),
        ("gc-prune-mobile-spade-teacher-a", {"width": 2, "separable": True}),
        ("gc-prune-mobile-spade-student-a", {"width": 1, "separable": True}),
    ],
)
@torch.no_grad()
def test_generators(fixtures_dir, name, settings):
    generator, data = load(fixtures_dir, name)
    expected = {"num_labels": 6, "spectral": False, "separable": False, "widths": None} | settings
    assert {setting: getattr(generator.config, setting) for setting in expected} == expected
    picture, found = generator.features(data["semantics_uint8"].float(), generator.distillation_taps)
    close(picture, data["output"])
    for ours, theirs in TAPS.items():
        # The authors' own float32 is up to 2.2e-5 off in these maps, by their float64.
        close(found[ours], data.get(f"act.{theirs}", found[ours]), 5e-5)


@torch.no_grad()
def test_reading_label_maps(fixtures_dir):
    generator, data = load(fixtures_dir, "gc-spade-a")
    edges = data["semantics_uint8"][:, -1:]
    maps = generator.read(torch.cat([data["label"], edges], dim=1))
    assert torch.equal(maps, data["semantics_uint8"].float())


@torch.no_grad()
def test_folding_is_that_of_the_authors(fixtures_dir):
    generator, _ = load(fixtures_dir, "gc-spade-spectral-a")
    theirs, data = load(fixtures_dir, "gc-spade-folded-a")
    folded = generator.fold_spectral()
    assert folded.config == theirs.config
    for name, tensor in theirs.state_dict().items():
        close(folded.state_dict()[name], tensor, 1e-6)
    close(folded(data["semantics_uint8"].float()), data["output"])


@torch.no_grad()
def test_the_supernet_and_its_calibration(fixtures_dir):
    supernet, data = load(fixtures_dir, "gc-super-mobile-spade-a")
    source = data["semantics_uint8"].float()
    subnet = published_subnet(SUBNET, supernet.config)
    assert subnet == Subnet(widths=(32, 48, 16, 32, 16, 12, 2, 2))
    for chosen, text in ((None, "3_3_3_3_3_3_3_3"), (subnet, SUBNET)):
        picture, found = supernet.features(source, TAPS, subnet=chosen)
        close(picture, data[f"output.{text}"], 5e-5)
        for ours, theirs in TAPS.items():
            close(found[ours], data[f"act.{text}.{theirs}"], 5e-5)
    small = extract(supernet, subnet)
    close(small(source), data[f"output.{SUBNET}"])
    # With the authors' calibration the last batch alone decides.
    small.calibrate([data["calib.batch2_uint8"].float()])
    assert not small.training
    close(small(source), data[f"calib.output.{SUBNET}"])
    layers = {"head_0.norm_0": "head.norm0", "G_middle_1.norm_1": "middle1.norm1"}
    layers |= {"up_1.norm_s": "up1.norm_skip", "up_3.norm_1": "up3.norm1"}
    for theirs, ours in layers.items():
        for kind in ("running_mean", "running_var"):
            statistics = small.state_dict()[f"blocks.{ours}.{kind}"]
            whole = data[f"calib.{theirs}.{kind}"]
            close(statistics, whole[: len(statistics)])
            assert not whole[len(statistics) :].any()


@torch.no_grad()
def test_the_exported_subnet(fixtures_dir):
    small, data = load(fixtures_dir, "gc-sub-mobile-spade-a")
    assert small.config.widths == (32, 48, 16, 32, 16, 12, 2, 2)
    close(small(data["semantics_uint8"].float()), data["output"])
    supernet, _ = load(fixtures_dir, "gc-super-mobile-spade-a")
    for name, tensor in extract(supernet, Subnet(widths=small.config.widths)).state_dict().items():
        assert torch.equal(tensor, small.state_dict()[name]), name


@torch.no_grad()
def test_what_the_authors_prune_is_the_leading_part_of_a_sorted_network(fixtures_dir):
    """The channels that they keep put first, in their order: the subnet of the student's widths is the student."""
    student, data = load(fixtures_dir, "gc-prune-mobile-spade-student-a")
    state = load_file(fixtures_dir / "gc-prune-mobile-spade-teacher-a.state.safetensors")
    sorted_teacher, teacher = network(sort_layers(state, data)), network(state)
    source = data["semantics_uint8"].float()
    close(sorted_teacher(source), teacher(source))
    subnet = Subnet(widths=student.config.layer_widths)
    close(sorted_teacher(source, subnet=subnet), data["output"])
    for name, tensor in extract(sorted_teacher, subnet).state_dict().items():
        assert torch.equal(tensor, student.state_dict()[name]), name


def sort_layers(state, data):
    """The same network with the channels of each layer in the order `kept`, those left out after them."""
    counts = {name.removesuffix(".weight"): len(tensor) for name, tensor in state.items() if name.endswith(".weight")}
    counts |= {name.split(".param_free")[0]: len(tensor) for name, tensor in state.items() if "running_mean" in name}

    def order(layer):
        kept = data[f"kept.{layer}"].tolist() if f"kept.{layer}" in data else []
        return kept + [channel for channel in range(counts[layer]) if channel not in kept]

    found = {}
    for name, tensor in state.items():
        layer, kind = name.rsplit(".", 1)
        if layer.endswith("param_free_norm"):
            layer = layer.removesuffix(".param_free_norm")
        hidden = layer.replace("mlp_gamma", "mlp_shared").replace("mlp_beta", "mlp_shared")
        hidden = hidden.removesuffix(".conv.0").removesuffix(".conv.2") + ".0"
        if kind == "num_batches_tracked":
            found[name] = tensor
            continue
        found[name] = tensor[order(hidden if layer.endswith("conv.0") else layer)]
        if kind == "weight" and layer.endswith("conv.2"):
            found[name] = found[name][:, order(hidden)]
        elif kind == "weight" and layer == "conv_img":
            found[name] = found[name][:, order("up_3.conv_1")]
        elif kind == "weight" and layer.split(".")[-1] in ("conv_0", "conv_1", "conv_s"):
            found[name] = found[name][:, order(layer.replace("conv_", "norm_"))]
    return found


@torch.no_grad()
def test_the_discriminator(fixtures_dir):
    discriminator, data = load(fixtures_dir, "gc-multiscaled-a", None)
    found = discriminator(torch.cat([data["semantics_uint8"].float(), data["image"]], dim=1))
    assert [len(maps) for maps in found] == [5, 5]
    for scale, maps in enumerate(found):
        for stage, features in enumerate(maps):
            close(features, data[f"D{scale}.stage4" if stage == 4 else f"act.D{scale}.stage{stage}"])
    logits = [maps[-1] for maps in found]
    close(hinge(logits, [torch.full_like(one, -HINGE_OFF) for one in logits]), data["loss.hinge.D_real"][0])
    close(hinge([torch.full_like(one, HINGE_OFF) for one in logits], logits), data["loss.hinge.D_fake"][0])
    close(convince(logits), data["loss.hinge.G"][0])


def hinge(reals, fakes):
    losses = [patch_discriminator_loss("hinge", a, b) for a, b in zip(reals, fakes, strict=True)]
    return torch.stack(losses).mean()


def convince(fakes):
    return torch.stack([patch_generator_loss("hinge", logits) for logits in fakes]).mean()


@torch.no_grad()
def test_hinge_of_scales(fixtures_dir):
    data = load_file(fixtures_dir / "gc-ganloss-a.io.safetensors")
    logits = [data["pred_nested.0.1"], data["pred_nested.1.1"]]
    expected = data["hinge.nested.D_real"] + data["hinge.nested.D_fake"]
    close(hinge(logits, logits), expected[0], 1e-6)
    close(convince(logits), data["hinge.nested.G"][0], 1e-6)


class Distillation:
    """The networks of gc-distill-spade-a, and what the authors compute with them for one batch."""

    def __init__(self, folder):
        state = load_file(folder / "gc-distill-spade-a.state.safetensors")
        self.data = load_file(folder / "gc-distill-spade-a.io.safetensors")
        self.teacher, self.student = (network(role(state, f"{name}/")) for name in ("teacher", "student"))
        self.discriminator = network(role(state, "D/"), None)
        self.mappings = [role(state, f"A{index}/") for index in range(3)]
        self.source = self.data["semantics_uint8"].float()

    def judge(self, fakes):
        """The maps of fakes and reals, in one call as the authors make it."""
        both = torch.cat([torch.cat([self.source, picture], dim=1) for picture in (fakes, self.data["real_B"])])
        count = len(fakes)
        found = self.discriminator(both)
        return [[m[:count] for m in maps] for maps in found], [[m[count:] for m in maps] for maps in found]

    def check_generator(self, mode):
        picture, student = self.student.features(self.source, TAPS)
        target, teacher = self.teacher.features(self.source, TAPS)
        if mode == "eval":
            close(picture, self.data["eval.Sfake_B"], 5e-5)
            close(target, self.data["eval.Tfake_B"])
            for ours, theirs in TAPS.items():
                close(student[ours], self.data[f"act.S.{theirs}"], 1e-4)
                close(teacher[ours], self.data[f"act.T.{theirs}"])
        for index, (tap, mapping) in enumerate(zip(TAPS, self.mappings, strict=True)):
            mapped = torch.conv2d(student[tap], mapping["weight"], mapping["bias"])
            close((mapped - teacher[tap]).square().mean(), self.data[f"{mode}.G_distill{index}"], 1e-5)
        fakes, reals = self.judge(picture)
        close(convince([maps[-1] for maps in fakes]), self.data[f"{mode}.G_gan"].reshape(()), 1e-6)
        close(10 * feature_matching(fakes, reals).mean(), self.data[f"{mode}.G_feat"].reshape(()), 1e-5)

    def check_discriminator(self, mode):
        fakes, reals = self.judge(self.student(self.source))
        loss = hinge([maps[-1] for maps in reals], [maps[-1] for maps in fakes])
        close(loss, self.data[f"{mode}.loss_D"].reshape(()), 1e-6)


@torch.no_grad()
def test_losses_in_evaluation_mode(fixtures_dir):
    distillation = Distillation(fixtures_dir)
    distillation.check_generator("eval")
    distillation.check_discriminator("eval")


@torch.no_grad()
def test_losses_in_training_mode(fixtures_dir):
    """Batch statistics, and the power iterations where the authors make them: before each call."""
    distillation = Distillation(fixtures_dir)
    distillation.student.train()
    power_iterate(distillation.discriminator)
    distillation.check_generator("train")
    power_iterate(distillation.discriminator)
    distillation.check_discriminator("train")
    data = distillation.data
    mean = distillation.student.blocks["up0"].norm1.running_mean
    close(mean, data["train.student_running_mean_after.up_0.norm_1"], 1e-6)
    close(distillation.discriminator.scales[0].convs[1].u, data["train.D_u_after.discriminator_0.model1"], 1e-6)
