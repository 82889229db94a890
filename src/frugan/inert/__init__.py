"""Reading other programs' pickled weight files as data: nothing named in a file is looked up, called or executed.

A pickle is a little program for a stack machine. Here its instructions are listed by `pickletools.genops` and
followed by `InertPickle`, which builds lists, tuples, dictionaries, sets, numbers and text. A name in the file is
compared with a table of allowed names and never imported; what a name stands for is a small function of this project.
Everything else raises `InertError`, and so does a file that would take unreasonable time or memory.

`read_torch` reads checkpoints of torch's two formats (the zip archive and the older one).
"""

from frugan.inert.checkpoints import TORCH_CONSTRUCTORS, TORCH_VALUES, Storage, read_legacy, read_torch
from frugan.inert.machine import (
    Buildable,
    Constructor,
    Global,
    InertError,
    InertPickle,
    Limits,
    Namespace,
    Record,
    Stream,
    check_tree,
)

__all__ = [
    "TORCH_CONSTRUCTORS",
    "TORCH_VALUES",
    "Buildable",
    "Constructor",
    "Global",
    "InertError",
    "InertPickle",
    "Limits",
    "Namespace",
    "Record",
    "Storage",
    "Stream",
    "check_tree",
    "read_legacy",
    "read_torch",
]
