"""StyleGAN2 the textbook way: the denominator of frugan's speed ratios.

The networks of `frugan.models.stylegan2` and `stylegan2_discriminator` (skip generator, residual discriminator, no
labels) as papers and tutorials write them: float32, contiguous, eager; one group of the convolution for each sample;
filters as 4x4 depthwise kernels with zeros inserted; bias, activation and gain one after the other. They load the same
weights and give the same numbers (tests/models/test_textbook.py).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frugan.models.stylegan2 import StyleGAN2Config
from frugan.models.stylegan2_discriminator import StyleGAN2DiscriminatorConfig
from frugan.ops.resample import upfirdn2d_reference


def kernel_of(config: StyleGAN2Config | StyleGAN2DiscriminatorConfig) -> Tensor:
    taps = torch.tensor(config.resample_filter)
    plane = torch.outer(taps, taps)
    return plane / plane.sum()


def leaky(x: Tensor, bias: Tensor) -> Tensor:
    x = x + bias.reshape(1, -1, *[1] * (x.ndim - 2))
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


class Linear(nn.Module):
    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, lr: float = 1.0, active: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.lr = lr
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * (self.lr / math.sqrt(self.weight.shape[1])))
        bias = self.bias * self.lr
        return leaky(x, bias) if self.active else x + bias


class Mapping(nn.Module):
    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.num_ws = config.num_ws
        self.depth = config.mapping_layers
        width = config.z_dim
        for index in range(self.depth):
            self.add_module(f"fc{index}", Linear(width, config.w_dim, lr=config.mapping_lr_multiplier, active=True))
            width = config.w_dim
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z: Tensor) -> Tensor:
        x = z / torch.sqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        for index in range(self.depth):
            x = self.get_submodule(f"fc{index}")(x)
        return x[:, None].repeat(1, self.num_ws, 1)


def modulated(x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool, up: bool, kernel: Tensor) -> Tensor:
    n, c_in, h, w = x.shape
    c_out, _, size, _ = weight.shape
    weights = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        weights = weights * torch.rsqrt(weights.square().sum(dim=[2, 3, 4], keepdim=True) + 1e-8)
    x = x.reshape(1, n * c_in, h, w)
    if up:
        weights = weights.transpose(1, 2).reshape(n * c_in, c_out, size, size)
        x = F.conv_transpose2d(x, weights, stride=2, groups=n)
        x = upfirdn2d_reference(x, kernel, padding=1, gain=4)
    else:
        x = F.conv2d(x, weights.reshape(n * c_out, c_in, size, size), padding=size // 2, groups=n)
    return x.reshape(n, c_out, *x.shape[2:])


class Layer(nn.Module):
    def __init__(self, config: StyleGAN2Config, inputs: int, outputs: int, resolution: int, up: bool) -> None:
        super().__init__()
        self.affine = Linear(config.w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.kernel = kernel_of(config)
        self.up = up

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        x = modulated(x, self.weight, self.affine(w), True, self.up, self.kernel)
        return leaky(x + noise * self.noise_strength, self.bias)


class ToRGB(nn.Module):
    def __init__(self, config: StyleGAN2Config, inputs: int) -> None:
        super().__init__()
        self.affine = Linear(config.w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(config.channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(config.channels))
        self.kernel = kernel_of(config)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        return modulated(x, self.weight, styles, False, False, self.kernel) + self.bias[:, None, None]


class Block(nn.Module):
    def __init__(self, config: StyleGAN2Config, resolution: int) -> None:
        super().__init__()
        index = 2 * (resolution.bit_length() - 3)
        before, middle, after = (0, *config.layer_widths)[index : index + 3]
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(middle, 4, 4))
        else:
            self.conv0 = Layer(config, before, middle, resolution, up=True)
        self.conv1 = Layer(config, middle, after, resolution, up=False)
        self.torgb = ToRGB(config, after)


class Synthesis(nn.Module):
    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.resolutions = config.resolutions
        self.kernel = kernel_of(config)
        for resolution in self.resolutions:
            self.add_module(f"b{resolution}", Block(config, resolution))

    def forward(self, w: Tensor, noise: list[Tensor]) -> Tensor:
        maps = iter(noise)
        block = self.get_submodule("b4")
        x = block.const[None].repeat(len(w), 1, 1, 1)
        x = block.conv1(x, w[:, 0], next(maps))
        image = block.torgb(x, w[:, 1])
        for index, resolution in enumerate(self.resolutions[1:]):
            block = self.get_submodule(f"b{resolution}")
            x = block.conv0(x, w[:, 2 * index + 1], next(maps))
            x = block.conv1(x, w[:, 2 * index + 2], next(maps))
            image = upfirdn2d_reference(image, self.kernel, up=2, padding=(2, 1, 2, 1), gain=4)
            image = image + block.torgb(x, w[:, 2 * index + 3])
        return image


class Generator(nn.Module):
    """What `frugan.models.stylegan2.Generator` gives; noise is one tensor for each layer."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        if config.architecture != "skip" or config.num_classes or config.conv_clamp is not None:
            raise ValueError("the textbook generator is the skip generator without labels and clamp")
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)

    def forward(self, z: Tensor, noise: list[Tensor]) -> Tensor:
        return self.synthesis(self.mapping(z), noise)


class Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int, kernel: Tensor, down: bool, active: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if active else None
        self.kernel = kernel
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / math.sqrt(self.weight[0].numel())
        size = weight.shape[2]
        if self.down:
            x = upfirdn2d_reference(x, self.kernel, padding=size // 2 + 1)
            x = F.conv2d(x, weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=size // 2)
        return x if self.bias is None else leaky(x, self.bias)


class JudgeBlock(nn.Module):
    def __init__(self, config: StyleGAN2DiscriminatorConfig, resolution: int) -> None:
        super().__init__()
        here, below, kernel = config.width(resolution), config.width(resolution // 2), kernel_of(config)
        if resolution == config.resolution:
            self.fromrgb = Conv(config.channels, here, 1, kernel, down=False, active=True)
        self.conv0 = Conv(here, here, 3, kernel, down=False, active=True)
        self.conv1 = Conv(here, below, 3, kernel, down=True, active=True)
        self.skip = Conv(here, below, 1, kernel, down=True, active=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv1(self.conv0(x)) + self.skip(x)) / math.sqrt(2)


class Head(nn.Module):
    def __init__(self, config: StyleGAN2DiscriminatorConfig) -> None:
        super().__init__()
        width = config.width(4)
        self.group = config.stddev_group
        self.conv = Conv(width + 1, width, 3, kernel_of(config), down=False, active=True)
        self.fc = Linear(width * 16, width, active=True)
        self.out = Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        size = min(self.group or n, n)
        y = x.reshape(size, n // size, c, h, w)
        y = torch.sqrt((y - y.mean(dim=0)).square().mean(dim=0) + 1e-8).mean(dim=[1, 2, 3])
        x = torch.cat([x, y.repeat(size)[:, None, None, None].repeat(1, 1, h, w)], dim=1)
        return self.out(self.fc(self.conv(x).flatten(1)))


class Discriminator(nn.Module):
    """What `frugan.models.stylegan2_discriminator.Discriminator` gives."""

    def __init__(self, config: StyleGAN2DiscriminatorConfig) -> None:
        super().__init__()
        plain = config.architecture == "resnet" and config.stddev_features == 1
        if not plain or config.num_classes or config.conv_clamp is not None:
            raise ValueError("the textbook discriminator is the residual discriminator without labels and clamp")
        self.resolutions = config.resolutions[:0:-1]
        for resolution in self.resolutions:
            self.add_module(f"b{resolution}", JudgeBlock(config, resolution))
        self.b4 = Head(config)

    def forward(self, images: Tensor) -> Tensor:
        x = self.get_submodule(f"b{self.resolutions[0]}").fromrgb(images)
        for resolution in self.resolutions:
            x = self.get_submodule(f"b{resolution}")(x)
        return self.b4(x)[:, 0]
