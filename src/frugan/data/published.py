"""The published layouts of labelled pictures: Tiny-ImageNet and CUB-200-2011, unpacked or in a zip, as they came."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from frugan.data.labels import Labelled
from frugan.data.pictures import DataError, Part

Read = Callable[[str], bytes | None]
"""The content of a text file of the set by its name with "/"; None where there is none."""

_TINY_TRAIN = re.compile(r"(?P<root>(?:.*/)?)train/(?P<word>n\d{8})/images/[^/]+")
_TINY_TEST = re.compile(r"(?P<root>(?:.*/)?)val/images/(?P<file>[^/]+)")
_BIRD = re.compile(r"(?P<root>(?:.*/)?)images/\d{3}\.[^/]+/[^/]+")


def published(names: Sequence[str], read: Read, part: Part) -> Labelled | None:
    """The classes of a set that lies as it was published, with only the pictures of this part; None for other sets.

    Tiny-ImageNet: train/nXXXXXXXX/images/*, classes in the order of these numbers, called by the first word that
    words.txt has for them; the part "test" is val/images/* by val_annotations.txt (its own test pictures have no
    labels). CUB-200-2011: images/001.Name/*, numbered and parted by images.txt, image_class_labels.txt and
    train_test_split.txt. Boxes are ignored. Pictures without a label are named in `unlabelled`.
    Raises: DataError for a table that cannot be read, or a part that is not there.
    """
    for layout, pattern in ((_tiny_imagenet, _TINY_TRAIN), (_birds, _BIRD)):
        roots = {match["root"] for match in map(pattern.fullmatch, names) if match is not None}
        if len(roots) == 1:
            root = roots.pop()
            found = layout([name for name in names if name.startswith(root)], root, read, part)
            if found is not None:
                return found
    return None


def _lines(content: bytes, name: str, fields: int) -> Iterator[list[str]]:
    """The lines of a table, cut into so many fields; what stands behind belongs to the last one."""
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        parts = line.strip().split(None, fields - 1)
        if parts and len(parts) < fields:
            raise DataError(f"{name}, line {number}: {fields} entries are needed, got {line.strip()[:60]!r}")
        if parts:
            yield parts


def _chosen(
    wanted: Mapping[str, int | None], class_names: Sequence[str], kind: str, part: Part, others: int
) -> Labelled:
    """`wanted`: the class of each picture of the part, None where nothing tells it."""
    if not any(label is not None for label in wanted.values()):
        raise DataError(f"this {kind} has no labelled picture of the part {part!r}")
    labelled = {name: label for name, label in sorted(wanted.items()) if label is not None}
    notes = [f"read as {kind}, part {part!r}"]
    if others:
        notes.append(f"{others:,} pictures of other parts are left out (--set data.images.part=all takes them too)")
    missing = tuple(name for name, label in sorted(wanted.items()) if label is None)
    return Labelled(
        names=tuple(labelled),
        labels=tuple(labelled.values()),
        class_names=tuple(class_names),
        skipped=tuple((name, f"no label in the tables of {kind}") for name in missing),
        unlabelled=missing,
        notes=tuple(notes),
    )


def _tiny_imagenet(names: Sequence[str], root: str, read: Read, part: Part) -> Labelled:
    train = {name: match["word"] for name in names if (match := _TINY_TRAIN.fullmatch(name)) is not None}
    test = {name: match["file"] for name in names if (match := _TINY_TEST.fullmatch(name)) is not None}
    table = f"{root}val/val_annotations.txt"
    content = read(table) if part != "train" else b""
    if content is None:
        raise DataError(f"the part {part!r} of Tiny-ImageNet needs {table}, which is not there; use part='train'")
    known = {line[0]: line[1].split()[0] for line in _lines(content, table, 2)}
    number = {word: index for index, word in enumerate(sorted({*train.values(), *known.values()}))}
    wanted: dict[str, int | None] = {}
    if part != "test":
        wanted |= {name: number[word] for name, word in train.items()}
    if part != "train":
        wanted |= {name: number[known[file]] if file in known else None for name, file in test.items()}
    called = _words(read(f"{root}words.txt"), list(number))
    return _chosen(wanted, called, "Tiny-ImageNet", part, len(names) - len(wanted))


def _words(content: bytes | None, numbers: Sequence[str]) -> list[str]:
    """What these classes are called: the first of their words; the number behind it where two have the same."""
    known = {} if content is None else {line[0]: line[1] for line in _lines(content, "words.txt", 2)}
    first = {number: known.get(number, number).split(",")[0].strip() for number in numbers}
    shared = list(first.values())
    return [word if shared.count(word) == 1 else f"{word} ({number})" for number, word in first.items()]


def _birds(names: Sequence[str], root: str, read: Read, part: Part) -> Labelled | None:
    tables = {}
    for name in ("images", "image_class_labels", "train_test_split", "classes"):
        content = read(f"{root}{name}.txt")
        if content is None:
            return None  # then its folders are its classes, as anywhere
        tables[name] = {line[0]: line[1] for line in _lines(content, f"{name}.txt", 2)}
    numbers = {number: index for index, number in enumerate(tables["classes"])}
    known: dict[str, tuple[int, str]] = {}
    for key, path in tables["images"].items():
        label, is_train = tables["image_class_labels"].get(key), tables["train_test_split"].get(key)
        if label is not None and label not in numbers:
            raise DataError(f"image_class_labels.txt gives {path!r} the class {label!r}, which classes.txt lacks")
        if label is not None and is_train is not None:
            known[f"{root}images/{path}"] = numbers[label], "train" if is_train == "1" else "test"
    wanted: dict[str, int | None] = {}
    for name in names:
        number, own = known.get(name, (None, "train"))
        if part in (own, "all"):
            wanted[name] = number
    called = [re.sub(r"^\d+\.", "", name).replace("_", " ") for name in tables["classes"].values()]
    return _chosen(wanted, called, "CUB-200-2011", part, len(names) - len(wanted))
