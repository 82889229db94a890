"""Which class a picture belongs to: by dataset.json or by its folder, and what is said where neither fits."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from frugan.config import counted
from frugan.data.pictures import DataError, Labels

LABEL_FILE = "dataset.json"
_MAX_LABEL = 99_999
_PART_FOLDERS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})
_ASK = "--set data.images.labels=folders makes them classes"


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The names that stay, with the class number of each (None: unlabelled), and what was left out and why.

    `unlabelled`: those left out because nothing gives them a class, in a set that has classes.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    class_names: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    unlabelled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def assign_labels(names: Sequence[str], labels: Labels, table: bytes | None, base: str = "") -> Labelled:
    """The classes of pictures with these names (with "/"), as `DataConfig.labels` says.

    `table`: the content of dataset.json, {"labels": [[name, class number], ...] or null}, and "class_names": [...] if
    given, or None; its names are relative to `base`. Pictures that it does not name are `unlabelled`. Sub-folders are
    classes by the first folder in which the names differ; unasked, not where they look like parts or portions of a set.
    Raises: DataError for a table that cannot be used, and where the labels asked for are not there.
    """
    if labels == "none" or not names:
        return Labelled(names=tuple(names))
    if labels in ("auto", "file") and table is not None:
        known, class_names = _read_table(table)
        if known:
            return _by_table(names, {base + name: label for name, label in known.items()}, class_names)
        if labels == "auto":
            return Labelled(names=tuple(names), notes=(f"{LABEL_FILE} says that there are no labels",))
    if labels == "file":
        raise DataError(f"labels='file' needs a {LABEL_FILE} with labels, and there is none")
    return _by_folder(names, is_asked=labels == "folders")


def _read_table(text: bytes) -> tuple[dict[str, int], tuple[str, ...]]:
    try:
        content = json.loads(text)
    except ValueError as error:  # covers bad UTF-8 too
        raise DataError(f"{LABEL_FILE} is not JSON: {error}; mend it or use labels='none'") from None
    table = content if isinstance(content, Mapping) else {"labels": content}
    if table.get("labels") is None:
        return {}, ()
    found = {name.replace("\\", "/"): _class_number(name, label) for name, label in _pairs(table["labels"])}
    return found, _class_names(table.get("class_names"), max(found.values(), default=-1) + 1)


def _pairs(pairs: object) -> Iterator[tuple[str, object]]:
    if isinstance(pairs, Mapping):
        pairs = [list(pair) for pair in pairs.items()]
    if not isinstance(pairs, list):
        raise DataError(f"{LABEL_FILE}: labels must be a list of [name, class number], got {_short(pairs)}")
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise DataError(f"{LABEL_FILE}: each label must be [name, class number], got {_short(pair)}")
        yield pair[0], pair[1]


def _class_number(name: str, label: object) -> int:
    if isinstance(label, (list, float)):
        raise DataError(
            f"{LABEL_FILE} gives {name!r} the label {_short(label)}: vectors and fractions cannot be used as labels, "
            "only class numbers (0, 1, ...); use labels='none' to leave them out"
        )
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label <= _MAX_LABEL:
        raise DataError(f"{LABEL_FILE}: a label must be 0 to {_MAX_LABEL}, whole, got {_short(label)} for {name!r}")
    return label


def _class_names(given: object, num_classes: int) -> tuple[str, ...]:
    if given is None:
        return tuple(str(number) for number in range(num_classes))
    if not isinstance(given, list) or len(given) < num_classes or not all(isinstance(name, str) for name in given):
        raise DataError(f"{LABEL_FILE}: class_names must be {num_classes} texts or more, got {_short(given)}")
    twice = next((name for name in given if given.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{LABEL_FILE}: class_names has {_short(twice)} more than once; each class needs its own name")
    return tuple(given)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _by_table(names: Sequence[str], known: Mapping[str, int], class_names: tuple[str, ...]) -> Labelled:
    kept = tuple(name for name in names if name in known)
    if not kept:
        raise DataError(
            f"{LABEL_FILE} names none of the pictures (it names {next(iter(known))!r}, there is {names[0]!r}); "
            "mend it or use labels='none'"
        )
    present = set(names)
    missing = tuple(name for name in names if name not in known)
    skipped = [(name, f"no label in {LABEL_FILE}") for name in missing]
    skipped += [(name, f"named in {LABEL_FILE} but not there") for name in sorted(known) if name not in present]
    return Labelled(
        names=kept,
        labels=tuple(known[name] for name in kept),
        class_names=class_names,
        skipped=tuple(skipped),
        unlabelled=missing,
    )


def _by_folder(names: Sequence[str], is_asked: bool) -> Labelled:
    folders = [name.split("/")[:-1] for name in names]
    first, last = min(folders), max(folders)
    depth = 0  # of the folder that all pictures lie in
    while depth < min(len(first), len(last)) and first[depth] == last[depth]:
        depth += 1
    groups = [parts[depth] if len(parts) > depth else None for parts in folders]
    class_names = sorted({group for group in groups if group is not None})
    if is_asked and len(class_names) < 2:
        raise DataError(f"labels='folders' needs two or more sub-folders with pictures, got {len(class_names)}")
    if not is_asked and (not class_names or (reason := _why_not_classes(class_names, groups.count(None)))):
        return Labelled(names=tuple(names), notes=(reason,) if class_names else ())
    number = {name: index for index, name in enumerate(class_names)}
    kept = [(name, number[group]) for name, group in zip(names, groups, strict=True) if group is not None]
    loose = [name for name, group in zip(names, groups, strict=True) if group is None]
    return Labelled(
        names=tuple(name for name, _ in kept),
        labels=tuple(label for _, label in kept),
        # A folder's name may hold bytes that are no text; the name of a class must be one.
        class_names=tuple(name.encode("utf-8", "backslashreplace").decode() for name in class_names),
        skipped=tuple((name, "in no sub-folder, so of no class") for name in loose),
    )


def _why_not_classes(class_names: list[str], num_loose: int) -> str:
    """Why sub-folders are not taken for classes unasked; empty if they are."""
    if num_loose:
        loose = counted(num_loose, "picture", "lies")
        return f"{loose} beside the sub-folders, so these are not taken for classes; {_ASK}"
    if all(name.lower() in _PART_FOLDERS for name in class_names):
        return f"the sub-folders {', '.join(class_names)} are taken for parts of the set, not for classes; {_ASK}"
    if all(re.fullmatch(r"\d{5}", name) for name in class_names):
        return f"the sub-folders {class_names[0]} ... are taken for portions of the set, not for classes; {_ASK}"
    return ""
