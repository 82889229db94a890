"""Pictures that a training keeps aside, and what its discriminator gives away about them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from frugan.data.dataset import Dataset, split, to_float
from frugan.model import Model

MOST_HELD, FEWEST_PICTURES = 500, 20


class Split(NamedTuple):
    """The sets to learn from, and the pictures of each that are kept aside, by stream."""

    learned: dict[str, Dataset]
    held: dict[str, Dataset]


def hold_out(data: Mapping[str, Dataset], share: float) -> Split:
    """The sets to learn from, and the pictures of each that are kept aside: `share` of them, at most 500.

    Which ones follows from their names alone, so that two streams with the same names lose the same ones. Sets of fewer
    than 20 pictures are left whole: there every picture counts. A class keeps at least one picture to learn from.
    """
    learned, held = dict(data), dict[str, Dataset]()
    for name, dataset in data.items():
        if share > 0 and len(dataset) >= FEWEST_PICTURES:
            kept, aside = _with_all_classes(dataset, *split(dataset, min(share, MOST_HELD / len(dataset))))
            learned[name] = kept
            if aside is not None:
                held[name] = aside
    return Split(learned, held)


def _with_all_classes(whole: Dataset, learned: Dataset, held: Dataset) -> tuple[Dataset, Dataset | None]:
    """The two sides, after the first held picture of every class that has no other went back to be learned; None where
    nothing is left aside.
    """
    if learned.labels is None or held.labels is None:
        return learned, held
    lost = set(held.labels.tolist()) - set(learned.labels.tolist())
    if not lost:
        return learned, held
    back = {held.names[held.labels.tolist().index(label)] for label in lost}
    aside = set(held.names) - back
    if not aside:
        return whole, None
    rows = [[i for i, name in enumerate(whole.names) if (name in aside) is is_held] for is_held in (False, True)]
    return whole.take(rows[0]), whole.take(rows[1])


def overfitting(model: Model, learned: Dataset, held: Dataset, batch: int, count: int = 64) -> dict[str, float]:
    """The discriminator's mean logits on pictures it learned from, on ones it never saw and on generated ones, `count`
    of each at most, and from them r_v = (learned - held out) / (learned - generated).

    r_v is 0 where it treats new pictures like known ones and 1 where it takes them for generated ones: then it knows
    its set by heart (Karras et al. 2020, arXiv:2006.06676, equation 1). Left out where the logits of learned and
    generated pictures are the same. Empty for a model without a discriminator. `batch`: as in training, because
    discriminators compare the pictures of a batch; the last one is filled up with pictures from the start.
    """
    if model.discriminator is None:
        return {}
    count = min(count, len(learned), len(held))
    seeds = range(10_000, 10_000 + count)
    classes = [seed % len(learned.class_names) for seed in seeds] if learned.labels is not None else None
    fakes = to_float(model.sample(seeds, classes=classes)), None if classes is None else model.one_hot(classes)
    means = {
        "training_logits": _mean_logit(model, *_reals(learned, count), batch),
        "held_out_logits": _mean_logit(model, *_reals(held, count), batch),
        "generated_logits": _mean_logit(model, *fakes, batch),
    }
    known, new, generated = means.values()
    ratio = {} if known == generated else {"overfitting_r_v": (known - new) / (known - generated)}
    return {**means, **ratio}


def _reals(dataset: Dataset, count: int) -> tuple[Tensor, Tensor | None]:
    chosen = np.sort(np.random.Generator(np.random.Philox(0)).permutation(len(dataset))[:count])
    return to_float(dataset.batch(chosen)), dataset.one_hot(chosen)


def _mean_logit(model: Model, images: Tensor, labels: Tensor | None, batch: int) -> float:
    assert model.discriminator is not None
    rows = torch.from_numpy(np.resize(np.arange(len(images)), -(-len(images) // batch) * batch))
    logits = []
    with torch.inference_mode():
        for chunk in rows.split(batch):
            given = None if labels is None else labels[chunk].to(model.device)
            logits.append(model.discriminator(images[chunk].to(model.device), given).float())
    return float(torch.cat(logits).mean())
