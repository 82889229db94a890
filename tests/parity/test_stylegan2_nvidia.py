"""Networks, losses and gradients against the StyleGAN2-ADA and StyleGAN3 repositories."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from frugan.interop import nvidia
from frugan.losses import adversarial, regularize

NETWORKS = ("sg2ada-tiny32-cond", "sg2ada-tiny16-grey-resnetG-skipD", "sg3repo-stylegan2-tiny32")


def load(folder, name):
    """The networks, made by the importer from the authors' settings and weights; inputs and outputs."""
    state = load_file(folder / f"{name}.state.safetensors")
    settings = {
        role: known["init_kwargs"]
        for role, known in json.loads((folder / f"{name}.meta.json").read_text()).items()
        if role in ("G_ema", "D")
    }
    weights = {
        role: {key.removeprefix(f"{role}."): value for key, value in state.items() if key.startswith(f"{role}.")}
        for role in settings
    }
    generator = nvidia.read_generator(settings["G_ema"], weights["G_ema"]).requires_grad_()
    is_ada = "synthesis_kwargs" in settings["G_ema"]
    discriminator = nvidia.read_discriminator(settings["D"], weights["D"], is_ada).requires_grad_()
    data = load_file(folder / f"{name}.io.safetensors")
    labels = data["c"] if data["c"].shape[1] else None
    return generator, discriminator, data, labels


def close(got, expected, atol):
    torch.testing.assert_close(got, expected, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_networks(fixtures_dir, name):
    generator, discriminator, data, labels = load(fixtures_dir, name)
    w = generator.mapping(data["z"], labels)
    close(w, data["ws"], 2e-6)
    close(generator.truncate(w, 0.5, cutoff=4), data["ws_trunc0.5_cutoff4"], 2e-6)
    if "ws_trunc0.7" in data:
        close(generator.truncate(w, 0.7), data["ws_trunc0.7"], 2e-6)
    for key in ("img_const", "img_const_fused", "img_const_unfused"):
        if key in data:
            close(generator(data["z"], labels, noise="const"), data[key], 3e-5)
    if "img_none_trunc0.7" in data:
        close(generator(data["z"], labels, psi=0.7, noise="none"), data["img_none_trunc0.7"], 3e-5)
    if "img_trunc0.7" in data:
        close(generator(data["z"], labels, psi=0.7), data["img_trunc0.7"], 3e-5)
    images = data["img_const"]
    close(discriminator(images, labels), data["d_logits"][:, 0], 1e-5)
    if "d_logits_eachalone" in data:
        alone = [
            discriminator(images[i : i + 1], None if labels is None else labels[i : i + 1]) for i in range(len(images))
        ]
        close(torch.cat(alone), data["d_logits_eachalone"][:, 0], 1e-5)


def losses(folder):
    expected = load_file(folder / "sg2ada-tiny32-cond.loss.safetensors")
    return *load(folder, "sg2ada-tiny32-cond"), expected


def close_gradients(network, expected, prefix):
    """Gradients are compared relative to the largest entry of each."""
    parameters = dict(network.named_parameters())
    keys = [key for key in expected if key.startswith(prefix)]
    assert len(keys) >= 3
    for key in keys:
        grad = parameters[key.removeprefix(prefix)].grad
        close(
            torch.zeros_like(expected[key]) if grad is None else grad, expected[key], 1e-5 * expected[key].abs().max()
        )


def test_adversarial_losses_and_r1(fixtures_dir):
    _, discriminator, data, labels, expected = losses(fixtures_dir)
    images = data["img_const"].requires_grad_()
    logits = discriminator(images, labels)
    halves = adversarial.discriminator_loss("logistic", logits, torch.zeros_like(logits)).detach() - math.log(2)
    close(halves, expected["loss_D_real"][:, 0], 1e-6)
    halves = adversarial.discriminator_loss("logistic", torch.zeros_like(logits), logits).detach() - math.log(2)
    close(halves, expected["loss_D_fake"][:, 0], 1e-6)
    close(adversarial.generator_loss("logistic", logits).detach(), expected["loss_G"][:, 0], 1e-6)
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    close(slope.detach(), expected["d_grad_image"], 1e-8)
    penalty = regularize.r1_penalty(discriminator(images, labels), images)
    close(penalty.detach(), expected["r1_penalty"], 1e-8)
    # The authors' gradients are those of gamma / 2 * mean with gamma 10.
    (penalty * 5).mean().backward()
    close_gradients(discriminator, expected, "r1grad.")


def test_path_lengths_and_their_gradients(fixtures_dir):
    generator, _, data, labels, expected = losses(fixtures_dir)
    w = generator.mapping(data["z"][:2], labels[:2])
    lengths = regularize.path_lengths(generator.synthesis(w, "const"), w, expected["pl_noise_unit"])
    close(lengths.detach(), expected["pl_lengths"], 2e-6)
    # The authors' gradients are those of the squared distance from a fixed mean of 0.5.
    regularize.path_length_penalty(lengths, torch.tensor(0.5)).mean().backward()
    close_gradients(generator, expected, "plgrad.")
