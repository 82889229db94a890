"""The conditioning head against its formulas, and what cannot be built."""

import pytest
import torch
import torch.nn.functional as F

from frugan.config import from_dict, to_dict
from frugan.models.heads import (
    Bottleneck,
    ClassifierHead,
    EmbeddingHead,
    Head,
    InfoCodes,
    MultiHingeHead,
    PickHead,
    ProjectionHead,
    StyleProjectionHead,
    adc_labels,
)
from frugan.models.stylegan2_discriminator import Discriminator, StyleGAN2DiscriminatorConfig

WIDTH, COUNT = 12, 4
HEADS = [
    None,
    ClassifierHead(),
    ClassifierHead(normalized=True, aux="tac"),
    ClassifierHead(aux="adc"),
    ProjectionHead(),
    StyleProjectionHead(mapping_layers=2),
    PickHead(),
    MultiHingeHead(),
    EmbeddingHead(dim=6),
    EmbeddingHead(dim=6, aux="tac", bottleneck=Bottleneck(width=9, rectified=True)),
    EmbeddingHead(dim=6, aux="adc"),
]


def made(config, layers="plain", codes=None, area=1):
    torch.manual_seed(0)
    return Head(config, features=WIDTH, num_classes=COUNT, layers=layers, codes=codes, area=area)


def features():
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1)).relu()


def one_hot(*classes):
    return F.one_hot(torch.tensor(classes), COUNT).float()


LABELS = (1, 3, 0)


@pytest.mark.parametrize("layers", ["plain", "spectral", "equalized"])
@pytest.mark.parametrize("config", HEADS, ids=str)
def test_every_head_on_every_kind_of_layers(config, layers):
    head, labels = made(config, layers), one_hot(*LABELS)
    given = adc_labels(labels, is_fake=False) if head.num_labels > COUNT else labels
    verdict = head(features(), given)
    assert verdict.logits.shape == (3,)
    assert torch.equal(verdict.features, features())
    for name in ("embedding", "proxies", "twin_embedding", "twin_proxies"):
        vectors = getattr(verdict, name)
        if vectors is not None:
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    total = sum(value.square().sum() for value in verdict if value is not None)
    total.backward()
    idle = [name for name, weight in head.named_parameters() if weight.grad is None]
    assert not idle, "the twin head has to be part of what is said"


def test_projection():
    head, h, labels = made(ProjectionHead()), features(), one_hot(*LABELS)
    expected = head.out(h)[:, 0] + torch.stack([h[i] @ head.vectors.weight[k] for i, k in enumerate(LABELS)])
    torch.testing.assert_close(head(h, labels).logits, expected)


def test_picking():
    head, h = made(PickHead()), features()
    expected = torch.stack([head.out(h)[i, k] for i, k in enumerate(LABELS)])
    torch.testing.assert_close(head(h, one_hot(*LABELS)).logits, expected)


def test_multi_hinge():
    head, h = made(MultiHingeHead()), features()
    verdict = head(h)
    torch.testing.assert_close(verdict.hinge, head.out(h))
    torch.testing.assert_close(verdict.logits, head.out(h)[:, :COUNT].max(dim=1).values - head.out(h)[:, COUNT])


def test_cosines():
    head, h = made(ClassifierHead(normalized=True), "spectral"), features()
    cosines = head(h).classes
    expected = F.cosine_similarity(h[:, None], head.classes.layer.weight[None], dim=2)
    torch.testing.assert_close(cosines, expected)
    torch.testing.assert_close(head(7 * h).classes, cosines)


def test_bottlenecks():
    h = features()
    for rectified in (False, True):
        head = made(EmbeddingHead(dim=6, bottleneck=Bottleneck(width=3, rectified=rectified)))
        inner = head.embedding.narrow(head.embedding.embed(h))
        expected = head.embedding.wide(inner.relu() if rectified else inner)
        torch.testing.assert_close(head(h).embedding, F.normalize(expected, dim=1))


def test_labels_of_real_and_fake_classes():
    labels = one_hot(2, 0)
    assert adc_labels(labels, is_fake=False).argmax(dim=1).tolist() == [4, 0]
    assert adc_labels(labels, is_fake=True).argmax(dim=1).tolist() == [5, 1]
    head = made(EmbeddingHead(dim=6, aux="adc"))
    real, fake = (head.proxies(adc_labels(labels, is_fake=is_fake)) for is_fake in (False, True))
    assert not torch.allclose(real, fake)


def test_codes_are_read_from_means_over_places():
    codes = InfoCodes(num_discrete=2, discrete_size=3, num_continuous=2)
    head, h = made(None, codes=codes, area=4), features()
    guess = head(h).codes
    assert guess.discrete.shape == (3, 2, 3)
    torch.testing.assert_close(guess.mean, head.codes.mean(h / 4))
    torch.testing.assert_close(guess.variance, head.codes.log_variance(h / 4).exp())
    assert made(None, codes=InfoCodes(num_continuous=1))(h).codes.discrete is None
    assert codes.size == 8


@pytest.mark.parametrize("config", [ProjectionHead(), PickHead(), StyleProjectionHead()], ids=str)
def test_labels_are_needed(config):
    with pytest.raises(ValueError, match="takes labels of 4 classes, got none"):
        made(config)(features())


def test_labels_may_be_missing_where_no_logit_needs_them():
    verdict = made(EmbeddingHead(dim=6))(features())
    assert verdict.proxies is None and verdict.embedding is not None


def test_labels_of_other_classes():
    with pytest.raises(ValueError, match=r"takes labels of 8 classes, got \(3, 4\)"):
        made(EmbeddingHead(dim=6, aux="adc"))(features(), one_hot(*LABELS))
    with pytest.raises(ValueError, match="only an EmbeddingHead has proxies, this head is PickHead"):
        made(PickHead()).proxies(one_hot(0))


def test_what_cannot_be_built():
    with pytest.raises(ValueError, match="a PickHead needs num_classes of 1 or more"):
        Head(PickHead(), features=3, num_classes=0, layers="plain")
    with pytest.raises(ValueError, match="dim must be above 0, got 0"):
        EmbeddingHead(dim=0)
    with pytest.raises(ValueError, match="width must be above 0"):
        Bottleneck(width=0)
    with pytest.raises(ValueError, match="one of them above, got 0 and 0"):
        InfoCodes()
    with pytest.raises(ValueError, match="discrete_size must be at least 2"):
        InfoCodes(num_discrete=1, discrete_size=1)
    with pytest.raises(TypeError):
        ProjectionHead(aux="tac")


def test_half_precision_is_judged_in_float32():
    head, h = made(EmbeddingHead(dim=6)), features()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(h.bfloat16(), one_hot(*LABELS))
    outside = head(h.bfloat16().float(), one_hot(*LABELS))
    assert inside.logits.dtype == torch.float32
    torch.testing.assert_close(inside.embedding, outside.embedding)


# -- StyleGAN2 -----------------------------------------------------------------


def judge(head, **changes):
    torch.manual_seed(0)
    settings = {"resolution": 8, "num_classes": COUNT, "channel_max": 8, "mapping_layers": 2, "head": head}
    return Discriminator(StyleGAN2DiscriminatorConfig(**settings | changes))


def pictures():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def test_stylegan2s_own_projection_is_the_head_of_that_name():
    own, other = judge(None), judge(StyleProjectionHead(mapping_layers=2))
    state = own.state_dict()
    names = {"b4.out.": "head.out.", "mapping.": "head.mapping."}
    for there, here in names.items():
        state = {here + name.removeprefix(there) if name.startswith(there) else name: v for name, v in state.items()}
    other.load_state_dict(state)
    labels = one_hot(1, 3, 0, 2)
    torch.testing.assert_close(other(pictures(), labels).logits, own(pictures(), labels))


def test_stylegan2_with_an_embedding():
    net = judge(EmbeddingHead(dim=6))
    names = set(net.state_dict())
    assert {"head.class_vectors.table.embed.weight", "head.class_vectors.table.fc0.weight"} <= names
    assert "b4.out.weight" not in names and not any(name.startswith("mapping.") for name in names)
    verdict = net(pictures(), one_hot(1, 3, 0, 2))
    assert verdict.embedding.shape == verdict.proxies.shape == (4, 6)
    torch.testing.assert_close(verdict.proxies.norm(dim=1), torch.ones(4))


def test_stylegan2s_head_in_settings():
    config = judge(EmbeddingHead(dim=6, aux="tac")).config
    assert from_dict(StyleGAN2DiscriminatorConfig, to_dict(config)) == config
    older = {name: value for name, value in to_dict(judge(None).config).items() if name != "head"}
    assert from_dict(StyleGAN2DiscriminatorConfig, older) == judge(None).config
    with pytest.raises(ValueError, match="a PickHead needs num_classes"):
        judge(PickHead(), num_classes=0)
