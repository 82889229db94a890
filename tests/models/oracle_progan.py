"""ProGAN as the article's tables say it: one sample, one pixel, one kernel place after the other, from plain weights.

No code of frugan is used. `state` is the state dictionary of a network, `config` its settings.
"""

import math

import torch

LEAKY, GAIN = 0.2, math.sqrt(2)


def convolve(x, weight, bias):
    """A correlation that keeps the size, pixel by pixel; x is (C, H, W)."""
    size = weight.shape[2]
    edge = size // 2
    padded = x.new_zeros(x.shape[0], x.shape[1] + 2 * edge, x.shape[2] + 2 * edge)
    padded[:, edge : edge + x.shape[1], edge : edge + x.shape[2]] = x
    rows = []
    for i in range(x.shape[1]):
        window = [padded[:, i : i + size, j : j + size] for j in range(x.shape[2])]
        rows.append(torch.stack([(weight * part).sum(dim=(1, 2, 3)) for part in window], dim=1))
    maps = torch.stack(rows, dim=1)
    return maps if bias is None else maps + bias[:, None, None]


def enlarge(x):
    """Every pixel four times."""
    return torch.stack([x[:, i // 2] for i in range(2 * x.shape[1])], dim=1)[
        :, :, [j // 2 for j in range(2 * x.shape[2])]
    ]


def shrink(x):
    """Means of 2x2 pixels."""
    return sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4


def normalise(x):
    """Each pixel's vector divided by the root of its mean square."""
    return x / torch.sqrt((x * x).mean(dim=0, keepdim=True) + 1e-8)


def activate(x, kind):
    if kind == "tanh":
        return torch.tanh(x)
    slope = {"lrelu": LEAKY, "relu": 0.0, None: 1.0}[kind]
    return torch.where(x > 0, x, x * slope)


def constant(config, fan_in, gain):
    return gain / math.sqrt(fan_in) if config.equalized else 1.0


def batch_norm(x, state, name):
    mean, var = state[f"{name}.norm.running_mean"], state[f"{name}.norm.running_var"]
    x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
    return x * state[f"{name}.norm.weight"][:, None, None] + state[f"{name}.norm.bias"][:, None, None]


def layer_norm(x, state, name):
    x = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5)
    return x * state[f"{name}.norm.weight"][:, None, None] + state[f"{name}.norm.bias"][:, None, None]


def finish_generator(config, state, name, x):
    if config.norm == "batch":
        x = batch_norm(x, state, name)
    x = activate(x, config.activation)
    return normalise(x) if config.norm == "pixel" else x


def conv(config, state, name, x, gain=GAIN):
    weight = state[f"{name}.weight"]
    return convolve(x, weight * constant(config, weight[0].numel(), gain), state.get(f"{name}.bias"))


def torgb(config, state, resolution, x):
    image = conv(config, state, f"b{resolution}.torgb", x, gain=1.0)
    return activate(image, "tanh" if config.tanh else None)


def code_of(config, z, label):
    on_sphere = config.latent == "hypersphere"
    if config.label_order == "after":
        code = normalise(z) if on_sphere else z
        return code if label is None else torch.cat([code, label])
    code = z if label is None else torch.cat([z, label])
    return normalise(code) if on_sphere else code


def generate(config, state, z, labels=None, resolution=None, alpha=1.0):
    """Images of every sample."""
    resolution = resolution or config.resolution
    images = []
    for index in range(len(z)):
        code = code_of(config, z[index], None if labels is None else labels[index])
        first = state["b4.conv0.weight"]
        # A dense layer to 16 places, with the gain sqrt(2) / 4.
        x = (first * code[:, None, None, None]).sum(dim=0) * constant(config, len(code), math.sqrt(2) / 4)
        if "b4.conv0.bias" in state:
            x = x + state["b4.conv0.bias"][:, None, None]
        x = finish_generator(config, state, "b4.conv0", x)
        x = finish_generator(config, state, "b4.conv1", conv(config, state, "b4.conv1", x))
        old, size = None, 4
        while size < resolution:
            old, size = torgb(config, state, size, x), 2 * size
            for name, entering in ((f"b{size}.conv0", enlarge), (f"b{size}.conv1", lambda x: x)):
                x = finish_generator(config, state, name, conv(config, state, name, entering(x)))
        image = torgb(config, state, size, x)
        images.append(image if old is None else alpha * image + (1 - alpha) * enlarge(old))
    return torch.stack(images)


def deviations(config, maps):
    """One number for each sample and feature: how much its group differs."""
    count = len(maps)
    size = count if config.stddev_group is None else min(config.stddev_group, count)
    channels = maps[0].shape[0] // config.stddev_features
    found = [[] for _ in range(count)]
    for start in range(count // size):
        members = list(range(start, count, count // size))
        for feature in range(config.stddev_features):
            part = torch.stack([maps[index][feature * channels : (feature + 1) * channels] for index in members])
            value = torch.sqrt(part.var(dim=0, unbiased=False) + 1e-8).mean()
            for index in members:
                found[index].append(value)
    return found


def judge_layer(config, state, name, x, factors):
    x = x if factors is None else x * factors[:, None, None]
    if name == "b4.conv1":
        weight = state[f"{name}.weight"]
        x = (weight * constant(config, weight[0].numel(), math.sqrt(2)) * x).sum(dim=(1, 2, 3))[:, None, None]
        x = x + state[f"{name}.bias"][:, None, None] if f"{name}.bias" in state else x
    else:
        x = conv(config, state, name, x)
    last = name.endswith("conv1") and name != "b4.conv1"
    x = shrink(x) if last and config.fused_down else x
    x = activate(layer_norm(x, state, name) if config.norm == "layer" else x, "lrelu")
    return shrink(x) if last and not config.fused_down else x


def fromrgb(config, state, image):
    return activate(conv(config, state, f"b{image.shape[1]}.fromrgb", image), "lrelu")


def discriminate(config, state, images, alpha=1.0, factors=None):
    """All scores: verdict first, then classes. `factors` maps a channel count to (N, C)."""
    maps = [fromrgb(config, state, image) for image in images]
    top = size = images.shape[2]
    while True:
        if config.stddev_features and size == config.stddev_at:
            found = deviations(config, maps)
            maps = [
                torch.cat([x, torch.stack(values)[:, None, None].expand(-1, size, size)])
                for x, values in zip(maps, found, strict=True)
            ]
        for layer in ("conv0", "conv1"):
            row = None if factors is None else factors(maps[0].shape[0])
            maps = [
                judge_layer(config, state, f"b{size}.{layer}", x, None if row is None else row[index])
                for index, x in enumerate(maps)
            ]
        if size == 4:
            break
        size //= 2
        if 2 * size == top:
            maps = [
                alpha * x + (1 - alpha) * fromrgb(config, state, shrink(image))
                for x, image in zip(maps, images, strict=True)
            ]
    features = [x[:, 0, 0] for x in maps]
    if config.discrimination_kernels:
        features = discriminated(config, state, features)
    weight = state["out.weight"][:, :, 0, 0]
    scale = constant(config, weight.shape[1], 1.0)
    return torch.stack([(weight * scale * x).sum(dim=1) + state["out.bias"] for x in features])


def discriminated(config, state, features):
    weight, scales = state["discrimination.weight"], state["discrimination.log_scale"].exp()
    places = [torch.einsum("f,fkd->kd", x, weight) * constant(config, len(x), 1.0) * scales[:, None] for x in features]
    wide = []
    for index, x in enumerate(features):
        others = [place for other, place in enumerate(places) if other != index]
        near = sum((torch.exp(-(places[index] - place).abs().sum(dim=1)) for place in others), torch.zeros_like(scales))
        wide.append(torch.cat([x, near]))
    return wide
