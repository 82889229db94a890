"""ProGAN's TensorFlow pickles: written here in their format, drawn from here by TensorFlow's definitions."""

import math
import os
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import frugan
from frugan import interop
from frugan.interop.imported import ImportProblem
from frugan.models.progan import ProGANDiscriminator, ProGANGenerator
from tests.interop import emit
from tests.interop.test_import import call  # noqa: F401  (a fixture)

GAIN = math.sqrt(2)
SIZES = {"num_channels": 3, "resolution": 16, "fmap_base": 64, "fmap_max": 10}


def width(stage):
    return min(SIZES["fmap_base"] >> stage, SIZES["fmap_max"])


def lod(power, top):
    return top - power


def variables_of(kind, *, merged=True, classes=0, latent=10, seed=0, top=4, at=0.0, stddev=1):
    """Random variables under the authors' names, in TensorFlow's layouts; `kind` is G or D."""
    draw = np.random.RandomState(seed)
    found = {"lod": np.float32(at)}

    def layer(name, *shape, bias):
        found[f"{name}/weight"] = draw.randn(*shape).astype(np.float32)
        found[f"{name}/bias"] = draw.randn(bias).astype(np.float32) * np.float32(0.3)

    one, last = width(1), width(0)
    if kind == "G":
        layer("4x4/Dense", latent + classes, one * 16, bias=one)
        layer("4x4/Conv", 3, 3, one, one, bias=one)
    else:
        layer("4x4/Conv", 3, 3, one + stddev, one, bias=one)
        layer("4x4/Dense0", one * 16, last, bias=last)
        layer("4x4/Dense1", last, 1 + classes, bias=1 + classes)
    for power in range(2, top + 1):
        name, here, below = f"{2**power}x{2**power}", width(power - 1), width(power - 2)
        if kind == "G":
            layer(f"ToRGB_lod{lod(power, top)}", 1, 1, here, 3, bias=3)
        else:
            layer(f"FromRGB_lod{lod(power, top)}", 1, 1, 3, here, bias=here)
        if power == 2:
            continue
        if kind == "G":
            up = (3, 3, here, below) if merged else (3, 3, below, here)
            layer(f"{name}/Conv0{'_up' if merged else ''}", *up, bias=here)
            layer(f"{name}/Conv1", 3, 3, here, here, bias=here)
        else:
            layer(f"{name}/Conv0", 3, 3, here, here, bias=here)
            layer(f"{name}/Conv1{'_down' if merged else ''}", 3, 3, here, below, bias=below)
    return found


# ---- TensorFlow's definitions, on its layouts ---------------------------------------------------------------------


def weight(variables, name, gain=GAIN):
    """The stored weight times the constant of He et al., in double precision."""
    value = torch.from_numpy(variables[f"{name}/weight"]).double()
    fan_in = value.shape[0] if value.ndim == 2 else value.shape[:3].numel()
    if name.endswith("Conv0_up"):
        fan_in = value.shape[0] * value.shape[1] * value.shape[3]
    return value * gain / math.sqrt(fan_in)


def bias(variables, name):
    value = torch.from_numpy(variables[f"{name}/bias"]).double()
    return value if name.endswith(("Dense0", "Dense1")) else value[:, None, None]


def conv(x, kernel, stride=1):
    """conv2d of (rows, columns, in, out), padded as "SAME" pads kernels of 1, 3 and (with stride 2) 4."""
    return F.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride, padding=int(kernel.shape[0] > 1))


def conv_transposed(x, kernel):
    """conv2d_transpose of (rows, columns, out, in) with stride 2: the gradient of conv2d for its input."""
    large = torch.zeros(len(x), kernel.shape[2], 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype, requires_grad=True)
    return torch.autograd.grad(conv(large, kernel, 2), large, x)[0]


def four(kernel):
    """The kernel moved by 0 or 1 pixel along each axis, added up: 4x4."""
    wide = F.pad(kernel, (0, 0, 0, 0, 1, 1, 1, 1))
    return wide[1:, 1:] + wide[:-1, 1:] + wide[1:, :-1] + wide[:-1, :-1]


def normed(x):
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


def active(x):
    return F.leaky_relu(x, 0.2)


def draw(variables, z, labels, top, level=0.0):
    """The authors' generator, as far as level of detail `level`, without repeating pixels to the full size."""
    x = normed(torch.cat([z, labels], dim=1))
    x = (x @ weight(variables, "4x4/Dense", GAIN / 4)).reshape(len(z), -1, 4, 4)
    x = normed(active(x + bias(variables, "4x4/Dense")))
    x = normed(active(conv(x, weight(variables, "4x4/Conv")) + bias(variables, "4x4/Conv")))
    before = x
    for power in range(3, top + 1 - int(level)):
        before, name = x, f"{2**power}x{2**power}"
        if f"{name}/Conv0_up/weight" in variables:
            x = conv_transposed(x, four(weight(variables, f"{name}/Conv0_up"))) + bias(variables, f"{name}/Conv0_up")
        else:
            large = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = conv(large, weight(variables, f"{name}/Conv0")) + bias(variables, f"{name}/Conv0")
        x = normed(active(x))
        x = normed(active(conv(x, weight(variables, f"{name}/Conv1")) + bias(variables, f"{name}/Conv1")))

    def rgb(maps, place):
        name = f"ToRGB_lod{place}"
        return conv(maps, weight(variables, name, 1.0)) + bias(variables, name)

    whole, rest = int(level), level - int(level)
    image = rgb(x, whole)
    if rest:
        old = rgb(before, whole + 1).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        image = image + (old - image) * rest
    return image


def judge(variables, images, top, group):
    """The authors' discriminator, fully grown: verdict and classes."""
    x = active(conv(images, weight(variables, "FromRGB_lod0")) + bias(variables, "FromRGB_lod0"))
    for power in range(top, 2, -1):
        name = f"{2**power}x{2**power}"
        x = active(conv(x, weight(variables, f"{name}/Conv0")) + bias(variables, f"{name}/Conv0"))
        if f"{name}/Conv1_down/weight" in variables:
            kernel = four(weight(variables, f"{name}/Conv1_down")) / 4
            x = active(conv(x, kernel, 2) + bias(variables, f"{name}/Conv1_down"))
        else:
            x = F.avg_pool2d(active(conv(x, weight(variables, f"{name}/Conv1")) + bias(variables, f"{name}/Conv1")), 2)
    if group > 1:
        size = min(group, len(x))
        parts = x.reshape(size, -1, *x.shape[1:])
        spread = ((parts - parts.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
        x = torch.cat([x, spread.repeat(size)[:, None, None, None].expand(-1, 1, 4, 4)], dim=1)
    x = active(conv(x, weight(variables, "4x4/Conv")) + bias(variables, "4x4/Conv"))
    x = active(x.flatten(1) @ weight(variables, "4x4/Dense0") + bias(variables, "4x4/Dense0"))
    return x @ weight(variables, "4x4/Dense1", 1.0) + bias(variables, "4x4/Dense1")


# ---- files --------------------------------------------------------------------------------------------------------


def snapshot(monkeypatch, *, protocol=4, classes=0, merged=True, at=0.0, change=None, of_generator=(), of_judge=()):
    """A snapshot of theirs; `change` alters the variables (G, D, Gs), the other two the settings."""
    options = {"merged": merged, "classes": classes, "at": at}
    variables = [variables_of("G", seed=9, **options), variables_of("D", **options), variables_of("G", **options)]
    if change is not None:
        change(variables)
    shared = {**SIZES, **({"label_size": classes} if classes else {})}
    judge_settings = {**shared, "mbstd_group_size": 4, **dict(of_judge)}
    settings = [{**shared, **dict(of_generator)}, judge_settings, {**shared, **dict(of_generator)}]
    names = ("G_paper", "D_paper", "G_paper")
    networks = tuple(emit.Network(*parts) for parts in zip(names, settings, variables, strict=True))
    return emit.dump(networks, monkeypatch, protocol), variables


@pytest.fixture
def write(tmp_path, monkeypatch):
    def writing(data):
        path = tmp_path / "network-final.pkl"
        path.write_bytes(data)
        return path

    monkeypatch.chdir(tmp_path)
    return writing


def close(got, expected):
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(("merged", "classes"), [(True, 0), (False, 3)])
def test_theirs_and_ours_draw_and_judge_alike(write, monkeypatch, tmp_path, protocol, merged, classes):
    data, (_, theirs, averaged) = snapshot(monkeypatch, protocol=protocol, classes=classes, merged=merged)
    assert b"os.system" in data
    model = interop.read(write(data)).model
    generator, ours = model.generator, model.discriminator
    assert isinstance(generator, ProGANGenerator) and isinstance(ours, ProGANDiscriminator)
    z = model.z(range(4))
    labels = torch.eye(3)[torch.arange(4) % 3] if classes else None
    images = draw(averaged, z.double(), torch.zeros(4, 0) if labels is None else labels.double(), 4)
    assert images.std() > 0.3
    close(generator(z, labels), images)
    verdicts = judge(theirs, images, 4, 4)
    close(ours(images.float()), verdicts[:, 0])
    if classes:
        close(ours.with_classes(images.float())[1], verdicts[:, 1:])
    assert model.is_grown and not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize(("at", "stage"), [(0.25, (16, 0.75)), (1.0, (8, 1.0)), (1.5, (8, 0.5)), (2.0, (4, 1.0))])
def test_a_snapshot_of_a_growing_network_draws_as_far_as_it_has_grown(write, monkeypatch, at, stage):
    data, (_, _, averaged) = snapshot(monkeypatch, at=at)
    imported = interop.read(write(data))
    model = imported.model
    assert model.info["stage"] == {"resolution": stage[0], "alpha": pytest.approx(stage[1])}
    assert not model.is_grown and any(f"{stage[0]} px" in note for note in imported.notes)
    images = draw(averaged, model.z([3, 4]).double(), torch.zeros(2, 0), 4, at)
    large = F.interpolate(images, size=16, mode="nearest")
    expected = ((large + 1) * 127.5).round().clamp(0, 255)
    assert (model.sample([3, 4]).double() - expected).abs().max() <= 1


def test_from_file_to_pictures(write, monkeypatch, tmp_path, call):  # noqa: F811
    data, _ = snapshot(monkeypatch, classes=3)
    path = write(data)
    status, shown = call("import", path, "--out", tmp_path / "out")
    assert status == 0, shown
    for part in ("ProGAN (TensorFlow", "16 px", "3 classes", "all finite", "picture of seed 0", "CC BY-NC 4.0"):
        assert part in shown
    back = frugan.load(tmp_path / "out")
    assert torch.equal(back.sample([5], classes=[1]), frugan.load(path).sample([5], classes=[1]))
    assert "CC BY-NC" in back.info["licence"] and back.info["origin"]["size_bytes"] == len(data)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "tags: [gan, image-generation, progan]" in card and "CC BY-NC 4.0" in card
    assert call("sample", tmp_path / "out", "--seeds", "0-1", "--out", tmp_path / "drawn")[0] == 0
    assert not (tmp_path / "EXECUTED").exists()


def test_settings_and_their_defaults(write, monkeypatch):
    plain = {"normalize_latents": False, "use_pixelnorm": False, "use_leakyrelu": False, "use_wscale": False}
    plain |= {"latent_size": 10, "dtype": "float16", "pixelnorm_epsilon": 1e-4, "structure": "recursive"}
    data, _ = snapshot(monkeypatch, of_generator=plain.items(), of_judge={"use_wscale": False}.items())
    model = interop.read(write(data)).model
    config = model.generator.config
    assert (config.latent, config.norm, config.activation, config.equalized) == ("normal", None, "relu", False)
    assert not model.discriminator.config.equalized and model.discriminator.config.fused_down

    def narrow(variables):
        variables[1].update(variables_of("D", stddev=0))

    data, _ = snapshot(monkeypatch, of_judge={"mbstd_group_size": 0}.items(), change=narrow)
    assert interop.read(write(data)).model.discriminator.config.stddev_features == 0


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"fmap_decay": 0.5}, "fmap_decay = 0.5"),
        ({"pixelnorm_epsilon": 0.1}, "pixelnorm_epsilon"),
        ({"resolution": 100}, "power of two"),
        ({"resolution": 2**30}, "resolution"),
        ({"resolution": "16"}, "resolution must be a whole number"),
        ({"fmap_base": 2**31, "fmap_max": 2**31}, "more than"),
        ({"latent_size": 9}, "4x4/Dense/weight must have the shape"),
        ({"num_channels": 2}, "channels"),
        ({"resolution": 8}, "does not know: ToRGB_lod2"),
        ({"resolution": 32}, "lacks the weight"),
        ({"use_wscale": 1}, "use_wscale"),
        ({"surprise": 1}, "surprise"),
        ({"fmap_decay": "x" * 10**6}, "fmap_decay"),
    ],
)
def test_settings_that_do_not_fit(write, monkeypatch, settings, part):
    data, _ = snapshot(monkeypatch, of_generator=settings.items())
    with pytest.raises(ImportProblem, match=part) as caught:
        interop.read(write(data))
    assert len(str(caught.value)) < 500


def test_a_discriminator_that_does_not_fit_is_left_out(write, monkeypatch):
    data, _ = snapshot(monkeypatch, of_judge={"other": 1}.items())
    imported = interop.read(write(data))
    assert imported.model.discriminator is None
    assert any("discriminator was left out" in note and "other" in note for note in imported.notes)


CHANGES = {
    "lacks the weight 4x4/Conv/bias": lambda v: v.pop("4x4/Conv/bias"),
    "does not know: 4x4/Extra": lambda v: v.update({"4x4/Extra": np.zeros(1, np.float32)}),
    "16x16/Conv1/weight must have 4 axes": lambda v: v.update({"16x16/Conv1/weight": np.zeros((3, 3), np.float32)}),
    "4x4/Dense/weight must make maps": lambda v: v.update({"4x4/Dense/weight": np.zeros((10, 9), np.float32)}),
    "level of detail": lambda v: v.update({"lod": np.float32(9)}),
    "level of detail must be": lambda v: v.update({"lod": np.float32(np.nan)}),
    "floating-point": lambda v: v.update({"4x4/Conv/bias": np.zeros(10, np.int64)}),
    "must be an array, got a str": lambda v: v.update({"4x4/Conv/bias": "ten"}),
    "holds numbers that are not finite": lambda v: v["4x4/Conv/bias"].fill(np.nan),
    "single colour": lambda v: [v[n].fill(0) for n in v if n.startswith("ToRGB_lod0/")],
}


@pytest.mark.parametrize("part", CHANGES)
def test_variables_that_do_not_fit(write, monkeypatch, part):
    data, _ = snapshot(monkeypatch, change=lambda all_three: CHANGES[part](all_three[2]))
    with pytest.raises(ImportProblem, match=part):
        interop.read(write(data))


class Call:
    """Pickled as a call of anything."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("place", ["in the list", "as an array", "as a setting", "as a network", "as bytes"])
def test_nothing_in_it_runs(write, monkeypatch, tmp_path, place):
    hostile = Call(os.system, "touch EXECUTED")
    variables = variables_of("G")
    good = emit.Network("G_paper", SIZES, variables), emit.Network("D_paper", SIZES, variables_of("D"))
    content = {
        "in the list": emit.Network("G_paper", SIZES, {**variables, "extra": hostile}),
        "as an array": emit.Network("G_paper", SIZES, {**variables, "4x4/Conv/bias": hostile}),
        "as a setting": emit.Network("G_paper", {**SIZES, "resolution": hostile}, variables),
        "as a network": hostile,
        "as bytes": emit.Network("G_paper", SIZES, {"lod": Call(np.dtype, Call(eval, "open('EXECUTED', 'w')"))}),
    }[place]
    for protocol in (2, 4):
        with pytest.raises(ImportProblem):
            interop.read(write(emit.dump((*good, content), monkeypatch, protocol)))
    assert not (tmp_path / "EXECUTED").exists()


def test_one_array_under_many_names_is_refused(write, monkeypatch):
    """A small file must not become a large network: shared bytes count each time."""
    big = np.zeros((1 << 16,), np.float32)
    variables = {**variables_of("G"), **{f"x{i}": big for i in range(2000)}}
    content = (*(emit.Network(n, SIZES, variables) for n in ("G_paper", "D_paper", "G_paper")),)
    data = emit.dump(content, monkeypatch)
    assert len(data) < 2_000_000
    started = time.process_time()
    with pytest.raises(ImportProblem, match="more than its size"):
        interop.read(write(data))
    assert time.process_time() - started < 5


def test_arrays_that_lie(write, monkeypatch):
    data, _ = snapshot(monkeypatch)
    shape = b"K\x03K\x03K\nK\nt"  # (3, 3, 10, 10) in the pickle's instructions
    assert shape in data
    with pytest.raises(ImportProblem, match="as long as it says"):
        interop.read(write(data.replace(shape, b"K\x03K\x03K\nK\xfft")))


def test_other_tensorflow_pickles_are_named(write, monkeypatch):
    style = tuple(emit.Network(name, {}, {}) for name in ("G_style", "D_basic", "G_style"))
    with pytest.raises(ImportProblem, match="TensorFlow pickle of StyleGAN"):
        interop.read(write(emit.dump(style, monkeypatch)))
    for content in (style[:2], [emit.Network("G_paper", {}, {})] * 3):
        with pytest.raises(ImportProblem):
            interop.read(write(emit.dump(content, monkeypatch)))
