"""Frozen-dataclass settings: to plain data and back, strictly, with suggestions for misspelt names.

A settings class is a frozen dataclass whose fields are numbers, strings, booleans, None, tuples, `dict[str, ...]`,
other settings classes, or unions of settings classes. A member of a union of several classes is stored with the key
`kind`, its class name; without it, it is read as the first of them, so that a second one does not spoil older files.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
Plain = dict[str, Any]


class ConfigError(ValueError):
    """Settings that cannot be: says which, what is allowed, what was given."""


def suggest(name: str, known: Iterable[str], most: int | None = None) -> str:
    """ "; did you mean 'x'?" for the nearest of the known names, else their list, or the first `most`; "" for none."""
    choices = sorted(known)
    if not choices:
        return ""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(choices) if most is None else some(choices, most)}"


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, in quotes, and how many more there are."""
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def counted(number: int, what: str, verb: str = "") -> str:
    """ "1 picture", "1,200 classes"; with a verb such as "is" or "lies" also "1 picture is", "3 pictures are"."""
    is_one = number == 1
    ending = "" if is_one else "es" if what.endswith("s") else "s"
    verbs = {"is": "are", "has": "have"}
    said = verb if is_one or not verb else verbs.get(verb, verb.removesuffix("s"))
    return f"{number:,} {what}{ending} {said}".rstrip()


def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _needs_kind(annotation: Any) -> bool:
    return sum(dataclasses.is_dataclass(member) for member in _members(annotation)) > 1


def to_dict(config: Any) -> Plain:
    """The settings as plain data (dict, list, str, int, float, bool, None) that `from_dict` reads back equal."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"a settings object is needed, got {type(config).__name__}")
    hints = _hints(type(config))
    return {
        field.name: _to_plain(getattr(config, field.name), hints[field.name]) for field in dataclasses.fields(config)
    }


def _to_plain(value: Any, annotation: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        head = {"kind": type(value).__name__} if _needs_kind(annotation) else {}
        return head | to_dict(value)
    if isinstance(value, tuple):
        return [_to_plain(item, _item_annotation(annotation, index)) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        inner = _value_annotation(annotation)
        return {str(key): _to_plain(item, inner) for key, item in value.items()}
    return value


def _item_annotation(annotation: Any, index: int) -> Any:
    for member in _members(annotation):
        if typing.get_origin(member) is tuple:
            args = typing.get_args(member)
            return args[0] if len(args) == 2 and args[1] is Ellipsis else args[index]
    return Any


def _value_annotation(annotation: Any) -> Any:
    for member in _members(annotation):
        if typing.get_origin(member) in (dict, Mapping):
            return typing.get_args(member)[1]
    return Any


def from_dict(cls: type[T], data: Any, path: str = "") -> T:
    """The settings of class `cls` that `to_dict` wrote. Unknown, missing or ill-typed entries raise ConfigError."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path or cls.__name__} must be a table of settings, got {data!r}")
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in data:
        if name not in fields and name != "kind":
            raise ConfigError(f"{cls.__name__} has no setting '{_join(path, name)}'{suggest(name, fields)}")
    values = {name: _from_plain(hints[name], data[name], _join(path, name)) for name in fields if name in data}
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{cls.__name__} needs {', '.join(_join(path, name) for name in missing)}")
    return cls(**values)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _from_plain(annotation: Any, value: Any, path: str) -> Any:
    members = _members(annotation)
    if annotation is Any:
        return value
    classes = [member for member in members if dataclasses.is_dataclass(member)]
    if isinstance(value, Mapping) and classes:
        return _from_union(classes, value, path)
    for member in members:
        matched, result = _match_simple(member, value, path)
        if matched:
            return result
    raise ConfigError(f"{path} must be {_describe(annotation)}, got {value!r}")


def _from_union(classes: list[Any], value: Mapping[str, Any], path: str) -> Any:
    if len(classes) == 1:
        return from_dict(classes[0], value, path)
    by_name = {cls.__name__: cls for cls in classes}
    kind = value.get("kind", classes[0].__name__)
    if kind not in by_name:
        raise ConfigError(f"{path}.kind must name one of {', '.join(by_name)}, got {kind!r}")
    return from_dict(by_name[kind], {key: item for key, item in value.items() if key != "kind"}, path)


def _match_simple(annotation: Any, value: Any, path: str) -> tuple[bool, Any]:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return value in args, value
    if origin is tuple and isinstance(value, (list, tuple)):
        if len(args) == 2 and args[1] is Ellipsis:
            return True, tuple(_from_plain(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
        if len(args) == len(value):
            pairs = enumerate(zip(args, value, strict=True))
            return True, tuple(_from_plain(inner, item, f"{path}[{i}]") for i, (inner, item) in pairs)
        return False, None
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return True, {str(key): _from_plain(args[1], item, _join(path, str(key))) for key, item in value.items()}
    if annotation is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return math.isfinite(value), float(value)
    if annotation is int and isinstance(value, int) and not isinstance(value, bool):
        return True, value
    if annotation in (str, bool) and isinstance(value, annotation):
        return True, value
    return (annotation is types.NoneType and value is None), None


def _describe(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(annotation))
    names = {
        types.NoneType: "null",
        int: "a whole number",
        float: "a finite number",
        str: "text",
        bool: "true or false",
    }
    return " or ".join(
        names.get(member)
        or (
            _describe(member)
            if typing.get_origin(member) is typing.Literal
            else str(getattr(member, "__name__", member))
        )
        for member in _members(annotation)
    )


def override(config: T, path: str, value: Any) -> T:
    """A copy of the settings with the entry at a dotted path, such as `task.generator.z_dim`, replaced.

    A `value` given as text (from a command line) is read as JSON where it is JSON (`64`, `null`, `[1, 2]`), else as the
    text itself. A union member is replaced whole by a table with `kind`. Raises ConfigError for an unknown path or a
    value that does not fit.
    """
    return override_all(config, [(path, value)])


def override_all(config: T, settings: Iterable[tuple[str, Any]]) -> T:
    """A copy with the entries at these (path, value) replaced, as `override` does, but all at once: so can settings be
    changed that only fit together. Of one path the last value counts.
    """
    hints, title = _hints(type(config)), type(config).__name__
    own = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    new, inside = _sorted_out(settings, own, hints.__getitem__, f"{title} has no setting")
    for name, deeper in inside.items():
        new[name] = _override_inside(new.get(name, getattr(config, name)), hints[name], name, deeper)
    return dataclasses.replace(config, **new)  # type: ignore[type-var]


def _override_inside(current: Any, annotation: Any, name: str, settings: Sequence[tuple[str, Any]]) -> Any:
    if not isinstance(current, Mapping):
        if not dataclasses.is_dataclass(current):
            whole = f"; give '{name}' whole, as JSON" if current is None else ""
            raise ConfigError(f"'{name}' is {current!r} and has no setting '{settings[0][0]}'{whole}")
        return override_all(current, settings)
    new, inside = _sorted_out(settings, current, lambda _: _value_annotation(annotation), f"{name} has no entry")
    entries = {**current, **new}
    return entries | {key: override_all(entries[key], deeper) for key, deeper in inside.items()}


def _sorted_out(
    settings: Iterable[tuple[str, Any]], known: Collection[str], annotation_of: Callable[[str], Any], lacks: str
) -> tuple[dict[str, Any], dict[str, list[tuple[str, Any]]]]:
    """(what is replaced whole, by name; what is changed inside, by name). A later replacement undoes earlier changes.

    Raises ConfigError, beginning with `lacks`, for a name that is not known.
    """
    new, inside = dict[str, Any](), dict[str, list[tuple[str, Any]]]()
    for path, value in settings:
        name, _, rest = path.partition(".")
        if name not in known:
            raise ConfigError(f"{lacks} '{name}'{suggest(name, known)}")
        if rest:
            inside.setdefault(name, []).append((rest, value))
        else:
            new[name] = _parse(annotation_of(name), value, name)
            inside.pop(name, None)
    return new, inside


def _parse(annotation: Any, value: Any, path: str) -> Any:
    if not isinstance(value, str):
        return _from_plain(annotation, value, path)
    try:
        return _from_plain(annotation, json.loads(value), path)
    except (json.JSONDecodeError, ConfigError) as error:
        try:
            return _from_plain(annotation, value, path)
        except ConfigError:
            if isinstance(error, ConfigError):
                raise error from None
            if not value.lstrip().startswith(("{", "[")):
                raise
            what = "a table or list is written as JSON, with names and text in double quotes"
            raise ConfigError(f"{path}: {what}, got {value!r}: {error}") from None


def differences(a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """The entries in which two settings differ: (dotted path, value in a, value in b); an absent entry is `...`."""
    return _differences(to_dict(a), to_dict(b), "")


def _differences(a: Any, b: Any, path: str) -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        found: list[tuple[str, Any, Any]] = []
        for key in [*a, *(key for key in b if key not in a)]:
            found += _differences(a.get(key, ...), b.get(key, ...), _join(path, key))
        return found
    return [] if a == b else [(path, a, b)]
