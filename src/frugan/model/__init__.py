"""One door to a trained thing: `frugan.load(path)` gives a `Model`, whatever its family and wherever it lies."""

from frugan.model.door import Model, Noise
from frugan.model.stored import BUNDLED, describe_nets, find, load, save

__all__ = ["BUNDLED", "Model", "Noise", "describe_nets", "find", "load", "save"]
