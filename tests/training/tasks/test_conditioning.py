"""How a classifier is doing, told by the class terms of a training."""

import pytest
import torch
from torch.nn import functional as F

from frugan.losses import conditional
from frugan.models.heads import ClassifierHead, Head
from frugan.training.door import Stats
from frugan.training.ranks import Ranks
from frugan.training.tasks.conditioning import Conditioning, CrossEntropyConfig


@pytest.mark.parametrize("normalized", [False, True])
def test_the_gradient_at_a_classifier_is_by_what_its_weights_are_multiplied_with(normalized: bool) -> None:
    """A normalised one sees vectors of length 1, however long the features are."""
    head = Head(ClassifierHead(normalized=normalized), features=6, num_classes=3, layers="plain")
    features, labels = 40 * torch.rand(8, 6), F.one_hot(torch.arange(8) % 3, 3).float()
    stats = Stats()
    verdict = head(features)
    Conditioning(CrossEntropyConfig()).teach(stats, verdict, labels, verdict, labels, conditional.ALONE)
    noted = stats.reduce(Ranks(0, 1, torch.device("cpu")))
    weights = head.classes.layer.weight.detach()
    weights = (F.normalize(weights, dim=1) if normalized else weights).requires_grad_()
    seen = F.normalize(features, dim=1) if normalized else features
    (wanted,) = torch.autograd.grad(F.cross_entropy(seen @ weights.T, labels), weights)
    torch.testing.assert_close(noted["class_gradient"], wanted.norm(dim=1).mean())
    torch.testing.assert_close(noted["feature_norm"], features.norm(dim=1).mean())
