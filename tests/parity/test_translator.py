"""ResNet translators and patch discriminators against GAN Compression, CycleGAN and PhotoSketch."""

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from frugan import models
from frugan.interop.translators import from_authors
from frugan.models.subnet import Subnet, extract
from frugan.models.translator import published_subnet

HOOKS = {"model.9": "down2", "model.12": "block3", "model.15": "block6", "model.18": "block9"}
# Name -> whether the authors limit the source to [-1, 1] (None: it lies inside).
GENERATORS = {
    "gc-resnet9-a": True,
    "gc-resnet9-batchnorm-a": True,
    "gc-mobile-resnet9-a": False,
    "gc-legacy-sub-mobile-resnet9-a": True,
    "gc-sub-mobile-resnet9-cfg6-a": True,
    "gc-sub-mobile-resnet9-cfg8-a": True,
    "gc-prune-resnet9-teacher-a": None,
    "gc-prune-resnet9-student-a": None,
    "gc-prune-mobile-resnet9-teacher-a": None,
    "gc-prune-mobile-resnet9-student-a": None,
    "upstream-resnet9-nodropout-a": None,
    "upstream-resnet9-oldstats-a": None,
    "photosketch-gen-a": False,
}
DISCRIMINATORS = (
    "gc-patchgan-a",
    "gc-patchgan-batchnorm-a",
    "gc-pixeld-a",
    "photosketch-patchgan-a",
)
SUPERNET = "gc-super-mobile-resnet9-a"
STUDENT = {
    "model.1.weight": "stem.conv.weight",
    "model.10.conv_block.1.conv.2.weight": "blocks.0.conv1.conv.pointwise.weight",
    "model.19.weight": "up1.conv.weight",
    "model.26.weight": "out.weight",
    "model.26.bias": "out.bias",
}
JUDGE = {
    "model.0.weight": "layers.0.conv.weight",
    "model.5.weight": "layers.2.conv.weight",
    "model.11.bias": "out.bias",
}
CONFIGURATIONS = ("8_8_8_8_8_8_8_8", "6_4_8_4_6_8_4_6", "4_6_5_7_3_6_5_4", "4_6_8_5_6_3")


def build(state, **settings):
    """The network that the importer makes of the authors' weights alone."""
    config, tensors = from_authors(state)
    net = models.build(dataclasses.replace(config, **settings))
    net.load_state_dict(tensors)
    return net.eval()


def load(folder, name, **settings):
    """The network, and the authors' inputs and outputs."""
    state = load_file(folder / f"{name}.state.safetensors")
    return build(state, **settings), load_file(folder / f"{name}.io.safetensors")


def close(got, expected, atol=1e-5):
    torch.testing.assert_close(got, expected, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("name", GENERATORS)
@torch.no_grad()
def test_generator(fixtures_dir, name):
    net, data = load(fixtures_dir, name, clamp_input=GENERATORS[name] is not False)
    for key in data:
        if key.startswith("input"):
            expected = data[key.replace("input", "output")]
            picture, maps = net.features(data[key], HOOKS.values())
            close(picture, expected)
            if key == "input":
                for theirs, ours in HOOKS.items():
                    if f"act.{theirs}" in data:
                        close(maps[ours], data[f"act.{theirs}"], 4e-5)


@torch.no_grad()
def test_the_mobile_generator_does_not_limit_its_source(fixtures_dir):
    net, data = load(fixtures_dir, "gc-mobile-resnet9-a")
    assert net.config.clamp_input and data["input_wide"].abs().max() > 1
    assert (net(data["input_wide"]) - data["output_wide"]).abs().max() > 0.01


@torch.no_grad()
def test_statistics_of_photosketch_in_training(fixtures_dir):
    net, data = load(fixtures_dir, "photosketch-gen-a", clamp_input=False)
    close(net.train()(data["input"]), data["output.train_mode"])
    ours = {"model.2": net.stem.norm, "model.14.conv_block.7": net.blocks[4].conv2.norm}
    for theirs, norm in ours.items():
        close(norm.running_mean, data[f"after_train_forward.{theirs}.running_mean"], 1e-6)
        close(norm.running_var, data[f"after_train_forward.{theirs}.running_var"], 1e-6)


@pytest.mark.parametrize("text", CONFIGURATIONS)
@torch.no_grad()
def test_supernet(fixtures_dir, text):
    net, data = load(fixtures_dir, SUPERNET)
    subnet = published_subnet(text, net.config)
    picture, maps = net.features(data["input"], net.distillation_taps, subnet=subnet)
    close(picture, data[f"output.{text}"])
    for theirs, ours in HOOKS.items():
        close(maps[ours], data.get(f"act.{text}.{theirs}", maps[ours]), 4e-5)
    torch.testing.assert_close(extract(net, subnet)(data["input"]), picture, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "text"),
    [("gc-sub-mobile-resnet9-cfg6-a", "4_6_8_5_6_3"), ("gc-sub-mobile-resnet9-cfg8-a", "6_4_8_4_6_8_4_6")],
)
def test_what_the_authors_export_is_what_we_extract(fixtures_dir, name, text):
    supernet, _ = load(fixtures_dir, SUPERNET)
    theirs, _ = load(fixtures_dir, name)
    ours = extract(supernet, published_subnet(text, supernet.config))
    assert ours.config.layer_widths == theirs.config.layer_widths
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["gc-prune-resnet9", "gc-prune-mobile-resnet9"])
@torch.no_grad()
def test_what_the_authors_prune_is_the_leading_part_of_a_sorted_network(fixtures_dir, name):
    """The channels that they keep put first, in their order: the subnet of the student's widths is the student."""
    student, data = load(fixtures_dir, f"{name}-student-a")
    sorted_teacher = build(sort_layers(load_file(fixtures_dir / f"{name}-teacher-a.state.safetensors"), data))
    teacher, given = load(fixtures_dir, f"{name}-teacher-a")
    close(sorted_teacher(given["input"]), teacher(given["input"]))
    subnet = Subnet(widths=student.config.layer_widths)
    close(sorted_teacher(data["input"], subnet=subnet), data["output"])
    torch.testing.assert_close(extract(sorted_teacher, subnet).state_dict(), student.state_dict(), atol=0, rtol=0)


def sort_layers(state, data):
    """The same network with the channels of each layer in the order `kept`, those left out after them.

    A layer that leads into a sum is listed with the order of what it is added to.
    """
    found, before = {}, torch.arange(3)
    layers = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    for layer in sorted(layers, key=lambda layer: [int(number) for number in re.findall(r"\d+", layer)]):
        name, weight = f"{layer}.weight", state[f"{layer}.weight"]
        is_depthwise, is_up = layer.endswith("conv.0"), layer in ("model.19", "model.22")
        kept = data.get(f"kept.{layer}", torch.arange(0))
        rest = [channel for channel in range(weight.shape[1 if is_up else 0]) if channel not in kept.tolist()]
        order = before if is_depthwise else torch.cat([kept, torch.tensor(rest, dtype=torch.int64)])
        if is_depthwise:
            found[name] = weight[order]
        else:
            found[name] = weight[before][:, order] if is_up else weight[order][:, before]
        found[f"{layer}.bias"] = state[f"{layer}.bias"][order]
        before = order
    return found


def test_legacy_widths_are_those_of_the_authors_network(fixtures_dir):
    net, _ = load(fixtures_dir, "gc-legacy-sub-mobile-resnet9-a")
    assert net.config.layer_widths == published_subnet("6_4_6_3_8_5_4_6", net.config, legacy=True).widths


@pytest.mark.parametrize("name", DISCRIMINATORS)
@torch.no_grad()
def test_discriminator(fixtures_dir, name):
    net, data = load(fixtures_dir, name)
    close(net(data["input"]), data["output"], 2e-6)


@torch.no_grad()
def test_pyramid_discriminator(fixtures_dir):
    net, data = load(fixtures_dir, "gc-msimaged-a")
    for scale, maps in enumerate(net(data["input"])):
        close(maps[-1], data[f"output.{scale}"], 2e-6)


# ---- one step of a distillation -----------------------------------------------------------------------------------


def parts_of(folder, name):
    """Teacher, student, discriminator, the four 1x1 maps, and the numbers of a fixture with several networks."""
    state, data = load_file(folder / f"{name}.state.safetensors"), load_file(folder / f"{name}.io.safetensors")

    def part(role):
        return {key.removeprefix(role): value for key, value in state.items() if key.startswith(role)}

    # Mobile networks do not limit their source; these sources lie inside.
    nets = [build(part(f"{role}/")) for role in ("teacher", "student", "D")]
    maps = [{kind: value.requires_grad_() for kind, value in part(f"A{index}/").items()} for index in range(4)]
    return nets, maps, data


def gan_losses(judge, is_hinge, real, fake):
    """The discriminator's for real and for fake pairs, and the generator's, as written in the article."""
    on_real, on_fake, on_fixed = judge(real), judge(fake), judge(fake.detach())
    if is_hinge:
        return F.relu(1 - on_real).mean(), F.relu(1 + on_fixed).mean(), -on_fake.mean()
    return (on_real - 1).square().mean(), on_fixed.square().mean(), (on_fake - 1).square().mean()


@pytest.mark.parametrize("name", ["aligned", "unaligned", "supernet"])
def test_one_step_of_a_distillation(fixtures_dir, name):
    """Losses, gradients and weights after Adam's first step, through teacher, student, discriminator and taps."""
    (teacher, student, judge), maps, data = parts_of(fixtures_dir, f"gc-distill-{name}-a")
    subnet = published_subnet("4_3_5_2_6_4_3_5", student.config) if name == "supernet" else None
    is_paired = name != "unaligned"
    source, taps = data["real_A"], teacher.distillation_taps
    with torch.no_grad():
        aim, wanted = teacher.features(source, taps)
    picture, given = student.features(source, taps, subnet=subnet)
    close(aim, data["Tfake_B"])
    close(picture.detach(), data["Sfake_B"])
    distances = []
    for index, (tap, theirs) in enumerate(zip(taps, HOOKS, strict=True)):
        close(wanted[tap], data[f"act.T.{theirs}"], 4e-5)
        close(given[tap].detach(), data[f"act.S.{theirs}"], 4e-5)
        mapped = F.conv2d(given[tap], maps[index]["weight"][:, : given[tap].shape[1]], maps[index]["bias"])
        distances.append(F.mse_loss(mapped, wanted[tap]))
        close(distances[-1].detach(), data[f"loss_G_distill{index}"])

    real, fake = data["real_B"], picture
    if is_paired:
        real, fake = torch.cat([source, real], dim=1), torch.cat([source, fake], dim=1)
    for_real, for_fake, for_generator = gan_losses(judge, is_paired, real, fake)
    close(for_real.detach(), data["loss_D_real"], 1e-6)
    close(for_fake.detach(), data["loss_D_fake"], 1e-6)
    close(for_generator.detach(), data["loss_G_gan"], 1e-6)
    weights = (100.0, 1.0) if is_paired else (10.0, 0.01)
    reconstruction = F.l1_loss(picture, data["real_B"] if is_paired else aim)
    total = for_generator + weights[0] * reconstruction + weights[1] * sum(distances)
    close(total.detach(), data["loss_G"], 2e-5)

    learned = {f"student/{theirs}": student.get_parameter(ours) for theirs, ours in STUDENT.items()}
    learned |= {f"A{index}/{kind}": value for index in (0, 3) for kind, value in maps[index].items()}
    judged = {f"D/{theirs}": judge.get_parameter(ours) for theirs, ours in JUDGE.items()}
    gradients = dict(zip(learned, torch.autograd.grad(total, learned.values(), retain_graph=True), strict=True))
    loss = 0.5 * (for_real + for_fake)
    gradients |= dict(zip(judged, torch.autograd.grad(loss, judged.values()), strict=True))
    compared = [key.removeprefix("grad.") for key in data if key.startswith("grad.")]
    assert len(compared) == 11
    weights = learned | judged
    for key in compared:
        close(gradients[key], data[f"grad.{key}"], 4e-6 * max(1.0, data[f"grad.{key}"].abs().max().item()))
        weights[key].grad = gradients[key]
    torch.optim.Adam([weights[key] for key in compared], lr=2e-4, betas=(0.5, 0.999)).step()
    for key in compared:
        # Adam's first step is lr times the sign of the gradient, which for the smallest is a matter of rounding; those
        # outside the subnet are exactly 0.
        size = data[f"grad.{key}"].abs()
        is_clear = (size > 1e-4 * size.max()) | (size == 0)
        assert is_clear.float().mean() > 0.9
        close(weights[key].detach()[is_clear], data[f"after_step.{key}"][is_clear], 1e-7)
