"""One of the processes that share a batch: leaves the gradients of every loss that compares images. Argument FOLDER."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from frugan.losses import conditional as losses
from frugan.training.ranks import Ranks, close_ranks, open_ranks

NAMES = ("exact", "released", "2c", "matching")


def gradients(ranks: Ranks, samples: slice) -> dict[str, Tensor]:
    """Each loss's values at these samples of a batch of twelve, and the gradients of its sum over the batch."""
    random = torch.Generator().manual_seed(0)
    pictures, table = (torch.randn(count, 6, generator=random, dtype=torch.float64) for count in (12, 4))
    weight = torch.randn(6, 6, generator=random, dtype=torch.float64)
    labels = F.one_hot(torch.randint(4, (12,), generator=random), 4).double()
    found = {}
    for name in NAMES:
        shared = (weight.clone().requires_grad_(), table.clone().requires_grad_())
        embedding = pictures[samples] @ shared[0]
        if name == "matching":
            values = losses.feature_matching(pictures[samples], embedding.tanh(), ranks).expand(len(embedding))
        else:
            alike = losses.similarities(embedding, labels[samples] @ shared[1], labels[samples], ranks)
            if name == "2c":
                values = losses.contrastive_2c(alike, temperature=0.5)
            else:
                values = losses.d2d_ce(alike, temperature=0.25, margin=0.9, form=name)  # type: ignore[arg-type]
        parts = torch.autograd.grad(values.sum(), shared, allow_unused=True, materialize_grads=True)
        found[name] = values.detach().clone()
        found |= {f"{name}.{i}": ranks.sum_(part.clone()) for i, part in enumerate(parts)}
    return found


def main() -> None:
    """As one of several."""
    torch.set_num_threads(1)
    ranks = open_ranks("cpu")
    found = gradients(ranks, slice(ranks.rank, None, ranks.world))
    save_file(found, Path(sys.argv[1]) / f"{ranks.rank}.safetensors")
    close_ranks()


if __name__ == "__main__":
    main()
