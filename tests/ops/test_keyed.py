"""Random numbers by key."""

import torch

from frugan.ops.keyed import seeded


def test_seeded_generators_differ_by_every_part_of_the_key() -> None:
    cpu = torch.device("cpu")
    keys: list[tuple[int | str, ...]] = [(0,), (1,), (-1,), (2**63,), (0, 0), (0, 1), (1, 0), ("a",), ("b",), (0, "a")]
    assert len({seeded(cpu, *key).initial_seed() for key in keys}) == len(keys)
