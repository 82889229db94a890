"""BigGAN and its ReACGAN training the textbook way: the denominator of frugan's speed ratios for classes.

The networks of `frugan.models.biggan` (residual blocks, hierarchical z, spectral norms, the embedding head) as papers
and the usual code write them: float32, eager; doubled maps go through a 3x3 convolution, others are halved after one; a
power iteration for every layer in every call; reals and fakes judged one after the other; similarities by broadcasting,
the mask of negatives in a loop over classes. They load the same weights and give the same numbers
(tests/models/test_textbook_classes.py).
"""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frugan.models.biggan import BigGANConfig, BigGANDiscriminatorConfig
from frugan.models.heads import EmbeddingHead


class Normed(nn.Module):
    """A convolution or linear layer over its spectral norm, which every call in training brings closer."""

    def __init__(self, shape: tuple[int, ...], bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        matrix = self.weight.flatten(1)
        self.register_buffer("u", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(matrix.shape[1]), dim=0))

    def normed(self) -> Tensor:
        matrix = self.weight.flatten(1)
        u, v = self.u, self.v
        if self.training:
            with torch.no_grad():
                v = F.normalize(torch.mv(matrix.t(), u), dim=0, eps=1e-6)
                u = F.normalize(torch.mv(matrix, v), dim=0, eps=1e-6)
                self.u.copy_(u)
                self.v.copy_(v)
            u, v = u.clone(), v.clone()
        sigma = torch.dot(u, torch.mv(matrix, v))
        return self.weight / sigma

    def forward(self, x: Tensor) -> Tensor:
        weight = self.normed()
        if weight.ndim == 2:
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, padding=weight.shape[2] // 2)


class Norm(nn.Module):
    def __init__(self, channels: int, inputs: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        if inputs:
            self.gain = Normed((channels, inputs), bias=False)
            self.shift = Normed((channels, inputs), bias=False)
        else:
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        self.is_conditional = bool(inputs)

    def forward(self, x: Tensor, condition: Tensor | None, tracks: bool) -> Tensor:
        mean, variance = (self.running_mean, self.running_var) if tracks else (None, None)
        if not self.is_conditional:
            return F.batch_norm(x, mean, variance, self.weight, self.bias, training=True, eps=1e-4)
        y = F.batch_norm(x, mean, variance, training=True, eps=1e-4)
        gain, shift = 1 + self.gain(condition), self.shift(condition)
        return y * gain[:, :, None, None] + shift[:, :, None, None]


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = Normed((max(channels // 8, 1), channels, 1, 1), bias=False)
        self.key = Normed((max(channels // 8, 1), channels, 1, 1), bias=False)
        self.value = Normed((max(channels // 2, 1), channels, 1, 1), bias=False)
        self.out = Normed((channels, max(channels // 2, 1), 1, 1), bias=False)
        self.strength = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, *_: object) -> Tensor:
        n, _, h, w = x.shape
        query = self.query(x).flatten(2)
        key = F.max_pool2d(self.key(x), 2).flatten(2)
        value = F.max_pool2d(self.value(x), 2).flatten(2)
        shares = torch.softmax(torch.bmm(query.transpose(1, 2), key), dim=2)
        found = torch.bmm(value, shares.transpose(1, 2)).view(n, -1, h, w)
        return x + self.strength * self.out(found)


class Up(nn.Module):
    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(inputs, condition), Norm(outputs, condition)
        self.conv1 = Normed((outputs, inputs, 3, 3))
        self.conv2 = Normed((outputs, outputs, 3, 3))
        self.skip = Normed((outputs, inputs, 1, 1))

    def forward(self, x: Tensor, condition: Tensor, tracks: bool) -> Tensor:
        y = F.relu(self.norm1(x, condition, tracks))
        y = self.conv1(F.interpolate(y, scale_factor=2, mode="nearest"))
        y = self.conv2(F.relu(self.norm2(y, condition, tracks)))
        return y + self.skip(F.interpolate(x, scale_factor=2, mode="nearest"))


class Generator(nn.Module):
    def __init__(self, config: BigGANConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * step for step in config.steps]
        assert config.shared_dim is not None
        self.classes = nn.Embedding(config.num_classes, config.shared_dim)
        self.start = Normed((widths[0] * 16, config.first_dim))
        self.stages = nn.ModuleList()
        for step, resolution in enumerate(config.stage_resolutions):
            self.stages.append(Up(widths[step], widths[step + 1], config.condition_dim))
            if resolution in config.attention:
                self.stages.append(Attention(widths[step + 1]))
        self.norm = Norm(widths[-1], 0)
        self.out = Normed((config.channels, widths[-1], 3, 3))

    def forward(self, z: Tensor, classes: Tensor, tracks: bool) -> Tensor:
        parts = z.chunk(self.config.doublings + 1, dim=1)
        shared = self.classes(classes)
        x = self.start(parts[0]).view(len(z), -1, 4, 4)
        step = 0
        for stage in self.stages:
            if isinstance(stage, Up):
                step += 1
                x = stage(x, torch.cat([shared, parts[step]], dim=1), tracks)
            else:
                x = stage(x)
        return torch.tanh(self.out(F.relu(self.norm(x, None, tracks))))


class Down(nn.Module):
    def __init__(self, inputs: int, outputs: int, first: bool, down: bool) -> None:
        super().__init__()
        self.first, self.down = first, down
        self.conv1 = Normed((outputs, inputs, 3, 3))
        self.conv2 = Normed((outputs, outputs, 3, 3))
        self.skip = Normed((outputs, inputs, 1, 1)) if down or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            y = F.avg_pool2d(self.conv2(F.relu(self.conv1(x))), 2)
            return y + self.skip(F.avg_pool2d(x, 2))
        x = F.relu(x)
        y = self.conv2(F.relu(self.conv1(x)))
        x = x if self.skip is None else self.skip(x)
        return F.avg_pool2d(y, 2) + F.avg_pool2d(x, 2) if self.down else y + x


class Embed(nn.Module):
    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.embed = Normed((dim, features))


class Table(nn.Module):
    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(classes, dim)


class Head(nn.Module):
    def __init__(self, features: int, classes: int, dim: int) -> None:
        super().__init__()
        self.embedding = Embed(features, dim)
        self.class_vectors = Table(classes, dim)
        self.out = Normed((1, features))


class Discriminator(nn.Module):
    def __init__(self, config: BigGANDiscriminatorConfig) -> None:
        super().__init__()
        assert isinstance(config.head, EmbeddingHead)
        self.stages = nn.ModuleList()
        inputs = config.channels
        waiting = set(config.attention)
        for index, (step, resolution) in enumerate(zip(config.steps, config.stage_resolutions, strict=True)):
            outputs = config.width * step
            self.stages.append(Down(inputs, outputs, index == 0, index < config.halvings))
            inputs = outputs
            if resolution in waiting:
                waiting.remove(resolution)
                self.stages.append(Attention(inputs))
        self.head = Head(inputs, config.num_classes, config.head.dim)

    def forward(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = images
        for stage in self.stages:
            x = stage(x)
        h = F.relu(x).sum(dim=(2, 3))
        embedding = F.normalize(self.head.embedding.embed(h), dim=1)
        proxies = F.normalize(self.head.class_vectors.table(classes), dim=1)
        return self.head.out(h).squeeze(1), embedding, proxies


def d2d_ce(
    embedding: Tensor, proxies: Tensor, classes: Tensor, num_classes: int, temperature: float, margin: float
) -> Tensor:
    """The exact form, with cosines of every pair by broadcasting to (N, N, D) and the mask class by class."""
    pairs = F.cosine_similarity(embedding[:, None, :], embedding[None, :, :], dim=2)
    own = F.cosine_similarity(embedding, proxies, dim=1)
    mask = torch.ones_like(pairs)
    for each in range(num_classes):
        rows = (classes.cpu() == each).nonzero().flatten()
        for row in rows.tolist():
            mask[row, rows] = 0
    positive = (own - margin).clamp(max=0) / temperature
    negatives = (mask * (F.relu(pairs - (1 - margin)) / temperature).exp()).sum(dim=1)
    return (-positive + torch.log(positive.exp() + negatives)).mean()


class Training:
    """ReACGAN's iterations, the way the published loop makes them."""

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        steps: int,
        weight: float = 0.5,
        temperature: float = 0.5,
        margin: float = 0.98,
        lr: float = 2e-4,
    ) -> None:
        self.generator, self.discriminator, self.steps = generator, discriminator, steps
        self.average = copy.deepcopy(generator)
        self.weight, self.temperature, self.margin = weight, temperature, margin
        self.optimisers = [
            torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.999), eps=1e-6)
            for net in (generator, discriminator)
        ]
        self.num_classes = generator.config.num_classes

    def fakes(self, count: int, tracks: bool) -> tuple[Tensor, Tensor]:
        z = torch.randn(count, self.generator.config.z_dim)
        classes = torch.randint(self.num_classes, (count,))
        return self.generator(z, classes, tracks), classes

    def _term(self, embedding: Tensor, proxies: Tensor, classes: Tensor) -> Tensor:
        return self.weight * d2d_ce(embedding, proxies, classes, self.num_classes, self.temperature, self.margin)

    def iterate(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        for parameter in self.generator.parameters():
            parameter.requires_grad_(False)
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(True)
        for _ in range(self.steps):
            reals, real_classes = next(batches)
            self.optimisers[1].zero_grad()
            fakes, classes = self.fakes(len(reals), False)
            real_logits, embedding, proxies = self.discriminator(reals, real_classes)
            fake_logits, _, _ = self.discriminator(fakes, classes)
            loss = F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
            (loss + self._term(embedding, proxies, real_classes)).backward()
            self.optimisers[1].step()
        for parameter in self.generator.parameters():
            parameter.requires_grad_(True)
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(False)
        self.optimisers[0].zero_grad()
        fakes, classes = self.fakes(len(reals), True)
        logits, embedding, proxies = self.discriminator(fakes, classes)
        (-logits.mean() + self._term(embedding, proxies, classes)).backward()
        self.optimisers[0].step()
        with torch.no_grad():
            for old, new in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                old.copy_(new.lerp(old, 0.9999))
            for old, new in zip(self.average.buffers(), self.generator.buffers(), strict=True):
                old.copy_(new.lerp(old, 0.9999))
