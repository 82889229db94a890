"""A recording on the CPU that behaves as a CUDA graph does: a list of operations with their tensors and plain numbers.

While it records, what is changed is put back, so that nothing but playing it has results. What was made while it
recorded holds nothing when it is played: such tensors share memory. A number that the host reads is refused, but in
what was passed to `Draw.number` and `Draw.decide`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from frugan.training import replay

_READS = ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.masked_select.default")
_RANDOM = ("aten.randn", "aten.rand", "aten.randint", "aten.bernoulli", "aten.normal_", "aten.uniform_")
_MAKES_NOTHING = (
    *("aten.empty.memory_format", "aten.empty_strided.default", "aten.empty_like.default"),
    *("aten.new_empty.default", "aten.new_empty_strided.default"),
)


class OpGraph:
    """Operations in the order in which they ran."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.made: list[Tensor] = []
        self.plays = 0

    @contextmanager
    def record(self) -> Iterator[None]:
        listener = _Listener(self.calls, self.made)
        try:
            with listener:
                yield
        finally:
            with torch.no_grad():
                for tensor, before in listener.changed:
                    tensor.copy_(before)

    @torch.no_grad()
    def play(self) -> None:
        self.plays += 1
        for tensor in self.made:  # may share memory with one that earlier operations use
            _spoil(tensor)
        for call, args, kwargs, before in self.calls:
            after = call(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(before), pytree.tree_leaves(after), strict=True):
                if isinstance(old, Tensor) and _place(old) != _place(new):
                    old.copy_(new)


class _Listener(TorchDispatchMode):
    def __init__(self, calls: list[tuple[Any, Any, Any, Any]], made: list[Tensor]) -> None:
        super().__init__()
        self.calls, self._made = calls, made
        self.changed: list[tuple[Tensor, Tensor]] = []
        self._theirs: set[int] = set()

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = str(call), kwargs or {}
        if _is_host():
            return call(*args, **kwargs)
        if name in _READS:
            raise RuntimeError(f"{name}: the host may read no number of a recording")
        if name.startswith(_RANDOM):
            raise RuntimeError(f"{name}: a recording may draw no numbers")
        for tensor in _written(call, args, kwargs):
            if _place(tensor) not in self._theirs and _place(tensor) not in {_place(each) for each in self._made}:
                self.changed.append((tensor, tensor.clone()))
                self._theirs.add(_place(tensor))
        found = call(*args, **kwargs)
        given = {_place(each) for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        leaves = [each for each in pytree.tree_leaves(found) if isinstance(each, Tensor)]
        self._made += [each for each in leaves if _place(each) not in given]
        if name in _MAKES_NOTHING:
            return _spoil(found)
        self.calls.append((call, args, kwargs, found))
        return found


def _written(call: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    if str(call) == "aten.native_batch_norm.default":  # its schema does not tell
        yield from (each for each in args[3:5] if each is not None)
    for number, argument in enumerate(call._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            yield from (each for each in pytree.tree_leaves(value) if isinstance(each, Tensor))


def _spoil(tensor: Tensor) -> Tensor:
    # No number that would send an index elsewhere.
    return tensor.fill_(0.25) if tensor.is_floating_point() else tensor.zero_()


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_host() -> bool:
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in ("decide", "number") and frame.f_code.co_filename == replay.__file__:
            return True
        frame = frame.f_back
    return False
