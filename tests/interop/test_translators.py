"""Which network weights under the authors' names are of, the U-Net against its nested form, and bad files."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frugan import models
from frugan.interop.imported import ImportProblem
from frugan.interop.translators import from_authors, kind_of
from frugan.models.patchgan import PatchConfig
from frugan.models.translator import ResnetConfig, UNetConfig


class Level(nn.Module):
    """One level of the U-Net, which holds the next one, with torch's own layers in the authors' order."""

    def __init__(self, widths, source, channels, norm, level=0):
        super().__init__()
        is_first, is_last = level == 0, level == len(widths) - 1
        bias = norm is not nn.BatchNorm2d
        inner = widths[level] if is_last else 2 * widths[level]
        outputs = channels if is_first else widths[level - 1]
        down = [] if is_first else [nn.LeakyReLU(0.2)]
        down += [nn.Conv2d(source if is_first else widths[level - 1], widths[level], 4, 2, 1, bias=bias)]
        if not is_first and not is_last:
            down += [norm(widths[level])]
        middle = [] if is_last else [Level(widths, source, channels, norm, level + 1)]
        up = [nn.ReLU(), nn.ConvTranspose2d(inner, outputs, 4, 2, 1, bias=bias or is_first)]
        self.model = nn.Sequential(*down, *middle, *up, nn.Tanh() if is_first else norm(outputs))
        self.is_first = is_first

    def forward(self, x):
        return self.model(x) if self.is_first else torch.cat([x, self.model(x)], dim=1)


def theirs(norm=nn.BatchNorm2d, widths=(3, 4, 6, 5), source=3, channels=1):
    torch.manual_seed(0)
    net = Level(widths, source, channels, norm)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) if tensor.ndim == 1 else torch.randn_like(tensor) * 0.3)
    return net.double().eval(), {f"model.{name}": value for name, value in net.state_dict().items()}


def ours(state):
    config, tensors = from_authors(state)
    net = models.build(config).double()
    net.load_state_dict(tensors)
    return net.eval()


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
@pytest.mark.parametrize("widths", [(3, 4, 6, 5), (4, 8, 16), (2, 3)])
def test_the_u_net_is_its_nested_form(norm, widths):
    net, state = theirs(norm, widths)
    assert kind_of(state) == "unet"
    mine = ours(state)
    assert mine.config.layer_widths == (*widths, *widths[-2::-1])
    assert mine.config.norm == ("batch" if norm is nn.BatchNorm2d else "instance")
    assert (mine.config.widths is None) == (widths == (4, 8, 16))
    source = torch.randn(2, 3, 32, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(mine(source), net(source))
        torch.testing.assert_close(mine.train()(source), net.train()(source))


def test_discriminators_without_norm_or_bias():
    torch.manual_seed(0)
    state = {
        f"model.{place}.weight": torch.randn(*shape, 4, 4) for place, shape in {0: (2, 3), 2: (3, 2), 5: (1, 3)}.items()
    }
    state |= {"model.0.bias": torch.randn(2), "model.5.bias": torch.randn(1)}
    config, tensors = from_authors({f"module.{name}": value for name, value in state.items()})
    assert config == PatchConfig(channels=3, width=2, num_layers=1, norm=None, widths=(2, 3))
    net = models.build(config).double()
    net.load_state_dict(tensors)
    images, state = torch.randn(1, 3, 16, 16).double(), {name: value.double() for name, value in state.items()}
    x = F.leaky_relu(F.conv2d(images, state["model.0.weight"], state["model.0.bias"], 2, 1), 0.2)
    x = F.leaky_relu(F.conv2d(x, state["model.2.weight"], None, 1, 1), 0.2)
    torch.testing.assert_close(net(images), F.conv2d(x, state["model.5.weight"], state["model.5.bias"], 1, 1))


def resnet(second=6, blocks=1):
    """The weights of a ResNet with one channel in every layer but the first."""
    shapes = {"model.1": (1, 3, 7, 7), "model.4": (1, 1, 3, 3), "model.7": (1, 1, 3, 3)}
    for block in range(10, 10 + blocks):
        shapes |= {f"model.{block}.conv_block.{place}": (1, 1, 3, 3) for place in (1, second)}
    shapes |= {f"model.{place + blocks}": (1, 1, 3, 3) for place in (10, 13)}
    shapes[f"model.{17 + blocks}"] = (3, 1, 7, 7)
    state = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    return state | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}


@pytest.mark.parametrize("second", [5, 6])
@pytest.mark.parametrize("blocks", [0, 1, 6])
def test_a_resnet_of_any_number_of_blocks(second, blocks):
    config, tensors = from_authors(resnet(second, blocks))
    assert isinstance(config, ResnetConfig) and config.num_blocks == blocks and not config.separable
    models.build(config).load_state_dict(tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("model.4.weight"), "model.4.weight is missing"),
        (lambda state: state.update({"model.7.weight": torch.zeros(3)}), r"model.7.weight has \(3,\)"),
        (lambda state: state.update({"model.7.weight": [1.0]}), "model.7.weight has list"),
        (lambda state: state.update({"model.99.weight": torch.zeros(3)}), "does not know: model.99.weight"),
        (lambda state: state.update({"model.12.conv_block.1.weight": torch.zeros(3)}), r"must be model.10.*\[10, 12\]"),
        (lambda state: state.pop("model.1.weight"), "no translator or patch discriminator is in it"),
        (lambda state: state.clear(), "no translator or patch discriminator is in it"),
    ],
)
def test_files_that_are_not_whole(change, message):
    state = resnet()
    change(state)
    with pytest.raises(ImportProblem, match=message):
        from_authors(state)


def test_a_u_net_that_is_cut_short():
    _, state = theirs()
    assert isinstance(from_authors(state)[0], UNetConfig)
    state = {name: value for name, value in state.items() if ".model.3.model.3." not in name}
    with pytest.raises(ImportProblem, match=r"model\.model"):
        from_authors(state)
    with pytest.raises(ImportProblem, match="at least two levels"):
        from_authors({"model.model.0.weight": torch.zeros(2, 3, 4, 4)})


def test_other_weights_are_nobody_s():
    assert kind_of({"fc.weight": torch.zeros(3, 3)}) is None
    assert kind_of({"model.1.weight": torch.zeros(4, 4, 3, 3)}) is None
    assert kind_of({"model.1.weight": 3}) is None
