"""The ladder's fast networks and D2D-CE against the plain ones of the benchmarks: values and gradients."""

import torch
from benchmarks import textbook_classes
from benchmarks.conditional import networks
from torch.nn import functional as F

from frugan.losses import conditional
from frugan.models.biggan import BigGANDiscriminator, BigGANGenerator
from frugan.ops.normalize import Pooling
from frugan.ops.spectral import power_iterate


def close(ours: torch.nn.Module, plain: torch.nn.Module) -> None:
    gradients = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-8, rtol=1e-6)


def test_networks_agree() -> None:
    generator, discriminator = networks(4)
    torch.manual_seed(0)
    ours = BigGANGenerator(generator).double(), BigGANDiscriminator(discriminator).double()
    plain = textbook_classes.Generator(generator).double(), textbook_classes.Discriminator(discriminator).double()
    for own, other in zip(ours, plain, strict=True):
        for parameter in own.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        other.load_state_dict(own.state_dict())
    z, classes = torch.randn(6, 80, dtype=torch.float64), torch.arange(6) % 3
    labels = F.one_hot(classes, 10).double()
    for net in ours:
        power_iterate(net)
    images = ours[0](z, labels, pooling=Pooling(momentum=0.1))
    verdict = ours[1](images, labels)
    assert verdict.embedding is not None and verdict.proxies is not None
    found = conditional.similarities(verdict.embedding, verdict.proxies, labels)
    loss = conditional.d2d_ce(found, temperature=0.5, margin=0.98).mean() + verdict.logits.mean()
    loss.backward()
    others = plain[0](z, classes, True)
    torch.testing.assert_close(others, images)
    logits, embedding, proxies = plain[1](others, classes)
    torch.testing.assert_close(logits, verdict.logits)
    theirs = textbook_classes.d2d_ce(embedding, proxies, classes, 10, 0.5, 0.98) + logits.mean()
    torch.testing.assert_close(theirs, loss)
    theirs.backward()
    for own, other in zip(ours, plain, strict=True):
        close(own, other)
    torch.testing.assert_close(dict(ours[0].named_buffers()), dict(plain[0].named_buffers()))
