"""Random numbers that depend on a key alone."""

import zlib

import torch


def seeded(device: torch.device, *key: int | str) -> torch.Generator:
    """A generator whose numbers depend on the key alone."""
    state = 0x9E3779B97F4A7C15
    for item in key:
        number = zlib.crc32(item.encode()) if isinstance(item, str) else item
        state = ((state ^ (number & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 29
    return torch.Generator(device).manual_seed(state & 0x7FFFFFFFFFFFFFFF)
