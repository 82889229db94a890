"""Networks and losses against rosinality/stylegan2-pytorch and AnyCost GAN."""

import pytest
import torch
from safetensors.torch import load_file

from frugan.interop import rosinality
from frugan.losses import adversarial, regularize
from frugan.models.subnet import Subnet, extract

DISCRIMINATORS = ("ros-disc-a", "ac-disc-a")
UNIFORM = {
    "uniform0.25": 0.25,
    "uniform0.5": 0.5,
    "uniform0.75": 0.75,
}
FLEXIBLE = Subnet(widths=(32, 32, 32, 32, 8, 32, 8, 4))


def load_generator(folder, name):
    """The generator, made by the importer from the authors' weights alone; inputs and outputs; noise."""
    generator, _ = rosinality.read_generator(load_file(folder / f"{name}.state.safetensors"))
    data = load_file(folder / f"{name}.io.safetensors")
    noise = [data[f"noise_{index}"] for index in range(7)]
    return generator.requires_grad_(), data, noise


def load_discriminator(folder, name):
    return rosinality.read_discriminator(load_file(folder / f"{name}.state.safetensors")).requires_grad_()


def close(got, expected, atol=4e-5):
    torch.testing.assert_close(got, expected, atol=atol, rtol=1e-5)


@torch.no_grad()
def test_rosinality_generator(fixtures_dir):
    generator, data, noise = load_generator(fixtures_dir, "ros-gen-a")
    w = generator.mapping(data["z"])
    close(w[:, 0], data["w"], 5e-6)
    close(generator.synthesis(w, noise), data["image"])
    close(generator.synthesis(w[:1], noise), data["image.from_w"])
    close(generator.synthesis(data["w_plus_in"][:1], noise), data["image.from_w_plus"])
    other = generator.mapping(data["z2"])
    close(generator.synthesis(torch.cat([w[:1, :5], other[:1, 5:]], dim=1), noise), data["image.mix_inject5"])
    close(generator(data["z"][:1], noise="const"), data["image.fixed_noise_buffers"])
    generator.mapping.w_avg.copy_(data["mean_latent"][0])
    close(generator(data["z"], psi=0.7, noise=noise), data["image.trunc0.7"])
    images = generator.synthesis.images(w[:1], noise)
    for key, resolution in {"to_rgb1": 4, "to_rgbs.0": 8, "to_rgbs.1": 16, "to_rgbs.2": 32}.items():
        close(images[resolution], data[f"act.{key}"])


@torch.no_grad()
def test_rosinality_activations(fixtures_dir):
    generator, data, noise = load_generator(fixtures_dir, "ros-gen-a")
    seen = []
    for layer in generator.synthesis.layers():
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    generator(data["z"][:1], noise=noise)
    assert len(seen) == 7
    for key, output in zip(["conv1", "convs.0", "convs.1", "convs.2", "convs.3"], seen[:5], strict=True):
        close(output, data[f"act.{key}"], 2e-5)


def test_rosinality_path_lengths(fixtures_dir):
    generator, data, noise = load_generator(fixtures_dir, "ros-gen-a")
    w = generator.mapping(data["z"])
    images = generator.synthesis(w, noise)
    lengths = regularize.path_lengths(images, w, data["path.noise_image"])
    close(lengths.detach(), data["path.lengths"], 1e-5)
    mean = regularize.moving_mean(torch.tensor(0.8), lengths)
    close(mean.detach(), data["path.new_mean"], 1e-6)
    close(regularize.path_length_penalty(lengths, mean).mean().detach(), data["path.penalty"], 2e-5)


@torch.no_grad()
def test_anycost_generator(fixtures_dir):
    generator, data, noise = load_generator(fixtures_dir, "ac-gen-a")
    z = data["z"][:, 0]
    w = generator.mapping(z)
    close(w, data["w_plus"], 5e-6)
    close(generator(z[:1]), data["image.fixed_noise_buffers"])
    mixed = torch.cat([generator.mapping(data["z_mix"][:, 0])[:, :4], generator.mapping(data["z_mix"][:, 1])[:, 4:]], 1)
    close(generator.synthesis(mixed, noise), data["image.mix_inject4"])
    close(generator.synthesis(data["w_plus_in"], noise), data["image.from_w_plus"])
    generator.mapping.w_avg.copy_(data["mean_style"][0])
    close(generator(z[:1], psi=0.7, noise=noise), data["image.trunc0.7"])


@torch.no_grad()
def test_anycost_subnets(fixtures_dir):
    generator, data, noise = load_generator(fixtures_dir, "ac-gen-a")
    w = generator.mapping(data["z"][:, 0])
    subnets = {"full": None, "flexible": FLEXIBLE}
    subnets |= {name: Subnet.uniform(generator.config, ratio) for name, ratio in UNIFORM.items()}
    checked = 0
    for name, subnet in subnets.items():
        for resolution, image in generator.synthesis.images(w, noise, subnet).items():
            if f"rgb.{name}.{resolution}" in data:
                close(image, data[f"rgb.{name}.{resolution}"])
                checked += 1
        if subnet is not None:
            close(extract(generator, subnet).synthesis(w, noise), data[f"rgb.{name}.32"])
    assert checked == 12


@pytest.mark.parametrize(
    ("key", "widths", "resolution"),
    [
        ("image.target_res16", None, 16),
        ("image.target_res8", None, 8),
        ("image.flexible.target_res16", FLEXIBLE.widths, 16),
    ],
)
@torch.no_grad()
def test_anycost_early_exit(fixtures_dir, key, widths, resolution):
    generator, data, noise = load_generator(fixtures_dir, "ac-gen-a")
    subnet = Subnet(widths=widths or generator.config.layer_widths, resolution=resolution)
    noise = noise[: len(generator.noise_shapes(subnet))]
    close(generator(data["z"][:1, 0], noise=noise, subnet=subnet), data[key])
    close(extract(generator, subnet)(data["z"][:1, 0], noise=noise), data[key])


@torch.no_grad()
def test_anycost_sorted_generator(fixtures_dir):
    generator, data, noise = load_generator(fixtures_dir, "ac-gen-sorted-a")
    z = data["z"][:, 0]
    close(generator(z, noise=noise), data["image.full"])
    close(generator(z, noise=noise, subnet=Subnet.uniform(generator.config, 0.5)), data["image.uniform0.5"])


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminator(fixtures_dir, name):
    discriminator = load_discriminator(fixtures_dir, name)
    data = load_file(fixtures_dir / f"{name}.io.safetensors")
    logits = {}
    for batch in (2, 4, 8):
        images = data[f"input.batch{batch}"].requires_grad_()
        logits[batch] = discriminator(images)
        close(logits[batch].detach(), data[f"output.batch{batch}"][:, 0], 2e-6)
    penalty = regularize.r1_penalty(logits[2], data["input.batch2"])
    close(penalty.mean().detach(), data["loss.r1.batch2"], 1e-8)
    # The authors average reals and fakes apart, so their batches may differ in size.
    zeros = torch.zeros(4)
    real = adversarial.discriminator_loss("logistic", logits[4], zeros).mean()
    fake = adversarial.discriminator_loss("logistic", zeros[:2], logits[2]).mean()
    total = (real + fake).detach() - 2 * torch.tensor(2.0).log()
    close(total, data["loss.d_logistic.real_batch4_fake_batch2"], 2e-6)
    saturating = adversarial.generator_loss("logistic", logits[4]).mean()
    close(saturating.detach(), data["loss.g_nonsat.batch4"], 2e-6)


@torch.no_grad()
def test_discriminator_activations(fixtures_dir):
    discriminator = load_discriminator(fixtures_dir, "ros-disc-a")
    data = load_file(fixtures_dir / "ros-disc-a.io.safetensors")
    seen = {}
    names = {"b32": "convs.1", "b16": "convs.2", "b8": "convs.3", "b4.conv": "final_conv"}
    for name, theirs in names.items():
        module = discriminator.get_submodule(name)
        module.register_forward_hook(lambda module, inputs, output, key=theirs: seen.update({key: output}))
    discriminator(data["input.batch2"])
    for theirs in names.values():
        close(seen[theirs], data[f"act.batch2.{theirs}"], 1e-5)
