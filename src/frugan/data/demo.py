"""The bundled picture sets: Fluent 3D emoji, its kinds, faces and animals, ready to be prepared or split."""

import dataclasses
import functools
import importlib.resources
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from frugan.data.pictures import DataError
from frugan.data.sources import Source, open_source

_LICENCE = "MIT (Microsoft, LobeHub); country flags Apache-2.0 (Google); see LICENSE and CREDITS.md beside the pictures"
_ENOUGH = 20  # pictures that make a sub-group a class
_LICENCE_ART = "MIT (Microsoft, LobeHub); see LICENSE and CREDITS.md beside the pictures"


@dataclass(frozen=True, kw_only=True)
class DemoPicture:
    """One bundled picture: its file, its emoji, what it is a variant of, and whether it may be mirrored."""

    file: str
    code: str
    name: str
    group: str
    subgroup: str
    base: str
    flip_ok: bool


@dataclass(frozen=True, kw_only=True)
class DemoSet:
    """A bundled set: what is in it, on what terms, and whether training may mirror its pictures.

    `takes`: which of the bundled pictures belong to it. `class_of`: what its classes go by; None without labels.
    """

    description: str
    licence: str
    count: int
    flip: bool
    takes: Callable[[DemoPicture], bool]
    class_of: Callable[[DemoPicture], str] | None = None


def _is_face(picture: DemoPicture) -> bool:
    return picture.subgroup.startswith("face-") or picture.subgroup == "cat-face"


def _is_animal(picture: DemoPicture) -> bool:
    return picture.subgroup.startswith("animal-")


@functools.cache
def _kinds() -> Counter[str]:
    return Counter(picture.subgroup for picture in read_index())


DEMO_SETS: dict[str, DemoSet] = {
    "emoji": DemoSet(
        description="all bundled 3D emoji, 128 px with alpha, nine classes (holds writing and flags: never mirrored)",
        licence=_LICENCE,
        count=1866,
        flip=False,
        takes=lambda picture: True,
        class_of=lambda picture: picture.group,
    ),
    "emoji-kinds": DemoSet(
        description="the bundled 3D emoji by their sub-groups, 31 classes of 20 to 245 pictures (never mirrored)",
        licence=_LICENCE,
        count=1236,
        flip=False,
        takes=lambda picture: _kinds()[picture.subgroup] >= _ENOUGH,
        class_of=lambda picture: picture.subgroup,
    ),
    "faces": DemoSet(
        description="the 100-shot set: 3D emoji faces, 128 px with alpha",
        licence=_LICENCE_ART,
        count=124,
        flip=True,
        takes=_is_face,
    ),
    "animals": DemoSet(
        description="3D emoji animals, heads and whole ones, 128 px with alpha",
        licence=_LICENCE_ART,
        count=124,
        flip=True,
        takes=_is_animal,
    ),
}


def demo_folder() -> Path:
    """The folder of the bundled pictures: emoji.zip, emoji.json, LICENSE and CREDITS.md."""
    return Path(str(importlib.resources.files("frugan"))) / "assets" / "emoji"


@functools.cache
def read_index() -> tuple[DemoPicture, ...]:
    """All bundled pictures, in the order of Unicode's table."""
    text = (demo_folder() / "emoji.json").read_text(encoding="utf-8")
    return tuple(DemoPicture(**entry) for entry in json.loads(text))


def demo_pictures(name: str) -> tuple[DemoPicture, ...]:
    """The pictures of the bundled set `name`. Raises DataError for an unknown name."""
    demo = _named(name)
    return tuple(picture for picture in read_index() if demo.takes(picture))


def demo_base(name: str) -> str:
    """What the picture of this file name is a variant of: the `groups` of a split. Other names stand for themselves."""
    return _bases().get(name, name)


@functools.cache
def _bases() -> dict[str, str]:
    return {picture.file: picture.base for picture in read_index()}


def open_demo(name: str) -> Source:
    """The bundled set `name` as a source for `prepare`. Raises DataError for an unknown name.

    Labels are Unicode's groups for "emoji" and sub-groups for "emoji-kinds"; the two small sets have none. `has_glyphs`
    keeps what holds writing from being mirrored.
    """
    demo = _named(name)
    chosen = {picture.file: picture for picture in demo_pictures(name)}
    whole = open_source(demo_folder() / "emoji.zip", labels="none")
    source = whole.take([index for index, file in enumerate(whole.names) if file in chosen])
    source = dataclasses.replace(source, has_glyphs=not demo.flip, title=f"demo:{name}")
    if demo.class_of is None:
        return source
    own = [demo.class_of(chosen[file]) for file in source.names]
    class_names = sorted(set(own))
    number = {called: index for index, called in enumerate(class_names)}
    return dataclasses.replace(source, labels=tuple(number[called] for called in own), class_names=tuple(class_names))


def _named(name: str) -> DemoSet:
    if name not in DEMO_SETS:
        raise DataError(f"there is no bundled set {name!r}; there are {', '.join(DEMO_SETS)}")
    return DEMO_SETS[name]
