"""A stack machine that follows a pickle's instructions, builds plain data and runs nothing."""

import io
import mmap
import pickletools
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Constructor = Callable[..., Any]
Stream = io.BytesIO | mmap.mmap  # in memory or mapped into it: asking for more than there is finds the end

_SCALARS = (str, bytes, int, float, bool, type(None))


class InertError(ValueError):
    """A file that is broken, too large for its kind, or asks for more than plain data."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one pickle may ask for; the defaults pass a training checkpoint of tens of thousands of tensors."""

    operations: int = 5_000_000
    marks: int = 1_000
    nodes: int = 5_000_000
    depth: int = 200
    integer_bits: int = 256


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function in a file: only the name."""

    path: str


class Buildable:
    """Something a file may give a state to (the pickle instruction BUILD)."""

    __slots__ = ()

    def build(self, state: Any) -> None:
        """Takes the state; raises InertError where it does not fit."""
        raise NotImplementedError


@dataclass(slots=True, eq=False)
class Record(Buildable):
    """An object of a class that is not looked up: its name, the arguments it was made with, and what was put in."""

    path: str
    args: tuple[Any, ...]
    state: Any
    items: list[Any]
    entries: dict[Any, Any]

    def build(self, state: Any) -> None:
        """Keeps the state as it is."""
        self.state = state


class Namespace(dict[str, Any], Buildable):
    """The attributes of an `argparse.Namespace` as a dictionary."""

    def build(self, state: Any) -> None:
        """Takes the attributes."""
        if not isinstance(state, dict):
            raise InertError(f"the state of a namespace must be a dictionary, got {type(state).__name__}")
        self.update(state)


class InertPickle:
    """A stack machine for pickles that builds data and runs nothing.

    `constructors` maps "module.name" to the function that stands for it in REDUCE and NEWOBJ; its arguments are inert
    data that nobody has checked. `values` maps "module.name" to the value it stands for. `persistent` gives the value
    of a persistent identifier. With `records`, a name in neither table becomes a `Global`, and what is made by it a
    `Record`; without, it raises InertError. A machine may be used for several pickles, one after the other.
    """

    def __init__(
        self,
        constructors: Mapping[str, Constructor],
        *,
        values: Mapping[str, Any] | None = None,
        persistent: Callable[[Any], Any] | None = None,
        records: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.constructors = constructors
        self.values = values or {}
        self.persistent = persistent
        self.records = records
        self.limits = limits or Limits()
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self, stream: Stream) -> Any:
        """The value of the pickle that starts at the stream's position, which is left behind its end.

        Raises InertError for a broken pickle, for names and instructions that are not allowed, and beyond the limits.
        """
        self._stack, self._marks, self._memo = [], [], {}
        for count, (name, argument) in enumerate(_instructions(stream)):
            if count >= self.limits.operations:
                raise InertError(f"a pickle may have at most {self.limits.operations} instructions")
            self._follow(name, argument)
        if len(self._stack) != 1 or self._marks:
            raise InertError("a pickle must end with one value")
        value = self._stack.pop()
        check_tree(value, self.limits)
        return value

    def _follow(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(_LITERALS[name]())
        elif name in _ARGUMENTS:
            if isinstance(argument, int) and argument.bit_length() > self.limits.integer_bits:
                raise InertError(f"a whole number may have at most {self.limits.integer_bits} bits")
            self._stack.append(argument)
        elif name in _MEMO_WRITES:
            self._memo[len(self._memo) if argument is None else argument] = self._top()
        elif name in _MEMO_READS:
            if argument not in self._memo:
                raise InertError(f"the pickle refers to value {argument}, which it has not stored")
            self._stack.append(self._memo[argument])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise InertError(f"the pickle instruction {name} is not allowed")

    def _top(self) -> Any:
        if not self._stack:
            raise InertError("a pickle takes a value from an empty stack")
        return self._stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise InertError("a pickle ends a group that it has not begun")
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _mark(self, _: Any) -> None:
        if len(self._marks) >= self.limits.marks:
            raise InertError(f"a pickle may nest at most {self.limits.marks} groups")
        self._marks.append(self._stack)
        self._stack = []

    def _nothing(self, argument: Any) -> None:
        if isinstance(argument, int) and argument > 5:
            raise InertError(f"pickle protocols up to 5 are read, got {argument}")

    def _discard(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _discard_group(self, _: Any) -> None:
        self._pop_mark()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._top())

    def _stop(self, _: Any) -> None:
        self._top()

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _group(self, kind: Callable[[list[Any]], Any]) -> None:
        items = self._pop_mark()
        self._stack.append(kind(items))

    def _append(self, _: Any) -> None:
        item = self._pop()
        _list_of(self._top()).append(item)

    def _appends(self, _: Any) -> None:
        items = self._pop_mark()
        _list_of(self._top()).extend(items)

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        _dict_of(self._top())[plain_key(key)] = value

    def _set_items(self, _: Any) -> None:
        pairs = _pairs(self._pop_mark())
        _dict_of(self._top()).update(pairs)

    def _add_items(self, _: Any) -> None:
        items, target = self._pop_mark(), self._top()
        if not isinstance(target, set):
            raise InertError(f"members can be added to a set, got {type(target).__name__}")
        target.update(plain_key(item) for item in items)

    def _global(self, argument: str) -> None:
        self._push_name(argument.replace(" ", ".", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise InertError("the name of a class or function must be text")
        self._push_name(f"{module}.{name}")

    def _push_name(self, path: str) -> None:
        if path in self.values:
            self._stack.append(self.values[path])
        elif path in self.constructors or self.records:
            self._stack.append(Global(path))
        else:
            raise InertError(f"the file asks for {path[:200]!r}, which is not plain data; nothing of it was run")

    def _reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        self._stack.append(self._make(function, arguments))

    def _new_with_keywords(self, _: Any) -> None:
        keywords, arguments, function = self._pop(), self._pop(), self._pop()
        if keywords:
            raise InertError("an object made with keyword arguments is not plain data")
        self._stack.append(self._make(function, arguments))

    def _make(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise InertError("a pickle may only make objects by a name and a tuple of arguments")
        constructor = self.constructors.get(function.path)
        if constructor is None:
            return Record(function.path, arguments, None, [], {})
        try:
            return constructor(*arguments)
        except InertError:
            raise
        except (TypeError, ValueError, OverflowError, RuntimeError, AttributeError, LookupError) as error:
            raise InertError(f"{function.path} does not fit its arguments: {type(error).__name__}") from error

    def _build(self, _: Any) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Buildable):
            target.build(state)
        elif not isinstance(target, dict):  # an ordered dictionary carries `_metadata`, which nobody needs
            raise InertError(f"the state of a {type(target).__name__} is not plain data")

    def _persistent_value(self, _: Any) -> None:
        if self.persistent is None:
            raise InertError("the pickle refers to values outside itself")
        self._stack.append(self.persistent(self._pop()))


def _instructions(stream: Stream) -> Iterator[tuple[str, Any]]:
    """The instructions of a pickle as (name, argument); every way of being broken raises InertError."""
    listing = pickletools.genops(stream)  # type: ignore[arg-type]
    while True:
        try:
            opcode, argument, _ = next(listing)
        except StopIteration:
            return
        except (ValueError, OverflowError, struct.error, IndexError, DeprecationWarning) as error:
            # The last one, where warnings are errors, is an escape in a text that stands for nothing.
            raise InertError(f"not a whole pickle: {str(error)[:200]}") from error
        yield opcode.name, argument


def plain_key(key: Any) -> Any:
    """The key, if it is a number, text, nothing or the name of a class; else raises InertError."""
    # Hashing nested tuples takes time exponential in their depth, so keys are plain; a class name is plain as well.
    if not isinstance(key, (*_SCALARS, Global)):
        raise InertError(f"keys and members must be numbers or text, got {type(key).__name__}")
    # Multiples of 2^61 - 1 all have the hash 0: a table of many of them would take hours.
    if isinstance(key, int) and key.bit_length() > 64:
        raise InertError(f"a whole number as key may have at most 64 bits, got {key.bit_length()}")
    return key


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise InertError("a dictionary needs a value for every key")
    return {plain_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _members(items: list[Any]) -> frozenset[Any]:
    return frozenset(plain_key(item) for item in items)


def _list_of(target: Any) -> list[Any]:
    if isinstance(target, Record):
        return target.items
    if not isinstance(target, list):
        raise InertError(f"items can be added to a list, got {type(target).__name__}")
    return target


def _dict_of(target: Any) -> dict[Any, Any]:
    if isinstance(target, Record):
        return target.entries
    if not isinstance(target, dict):
        raise InertError(f"entries can be added to a dictionary, got {type(target).__name__}")
    return target


_LITERALS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_ARGUMENTS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_MEMO_WRITES = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_MEMO_READS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_STEPS: dict[str, Callable[[InertPickle, Any], None]] = {
    "PROTO": InertPickle._nothing,
    "FRAME": lambda machine, _: None,
    "MARK": InertPickle._mark,
    "STOP": InertPickle._stop,
    "POP": InertPickle._discard,
    "POP_MARK": InertPickle._discard_group,
    "DUP": InertPickle._duplicate,
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "TUPLE": lambda machine, _: machine._group(tuple),
    "LIST": lambda machine, _: machine._group(list),
    "DICT": lambda machine, _: machine._group(_pairs),
    "FROZENSET": lambda machine, _: machine._group(_members),
    "APPEND": InertPickle._append,
    "APPENDS": InertPickle._appends,
    "SETITEM": InertPickle._set_item,
    "SETITEMS": InertPickle._set_items,
    "ADDITEMS": InertPickle._add_items,
    "GLOBAL": InertPickle._global,
    "STACK_GLOBAL": InertPickle._stack_global,
    "REDUCE": InertPickle._reduce,
    "NEWOBJ": InertPickle._reduce,
    "NEWOBJ_EX": InertPickle._new_with_keywords,
    "BUILD": InertPickle._build,
    "BINPERSID": InertPickle._persistent_value,
}


def check_tree(value: Any, limits: Limits, weigh: Callable[[Any], int] = lambda leaf: 0) -> int:
    """The summed weight of the leaves, where the value, written out as a tree, is of reasonable size.

    Raises InertError where it is too deep, contains itself, or is too large. A small pickle can hold a list of two
    references to a list of two references and so on: harmless until someone walks it. What passes here can be walked.
    Shared parts are looked at once, so this takes time in proportion to the pickle.
    """
    seen: dict[int, tuple[int, int, int]] = {}  # by id: values inside, height, weight
    opened: set[int] = set()
    waiting: list[tuple[Any, bool]] = [((value,), False)]
    while waiting:
        node, done = waiting.pop()
        if done:
            opened.discard(id(node))
            seen[id(node)] = _measure(node, seen, limits, weigh)
        elif id(node) in opened:
            raise InertError("a value nests itself")
        elif id(node) not in seen:
            opened.add(id(node))
            waiting.append((node, True))
            waiting.extend((item, False) for item in inside(node) if isinstance(item, CONTAINERS))
        last = node
    return seen[id(last)][2]


def _measure(
    node: Any, seen: Mapping[int, tuple[int, int, int]], limits: Limits, weigh: Callable[[Any], int]
) -> tuple[int, int, int]:
    count, height, weight = 0, 0, 0
    for item in inside(node):
        inner = seen[id(item)] if isinstance(item, CONTAINERS) else (0, 0, weigh(item))
        count, height, weight = count + 1 + inner[0], max(height, 1 + inner[1]), weight + inner[2]
    if height > limits.depth:
        raise InertError(f"values may be nested {limits.depth} deep at most")
    if count > limits.nodes:
        raise InertError(f"a pickle may hold at most {limits.nodes} values")
    return count, height, weight


CONTAINERS = (dict, list, tuple, Record)


def inside(node: Any) -> list[Any]:
    """What a list, tuple, dictionary or record holds."""
    if isinstance(node, dict):
        return list(node.values())
    if isinstance(node, Record):
        return [node.args, node.state, node.items, node.entries]
    return list(node) if isinstance(node, (list, tuple)) else []
