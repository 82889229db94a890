"""The bundled picture sets: Fluent 3D emoji, its faces and its animals, ready to be prepared or split."""

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from frugan.data.pictures import DataError
from frugan.data.sources import Source, open_source

_LICENCE = "MIT (Microsoft, LobeHub); country flags Apache-2.0 (Google); see LICENSE and CREDITS.md beside the pictures"
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

    `takes`: which of the bundled pictures belong to it. `is_labelled`: by the nine Unicode groups.
    """

    description: str
    licence: str
    count: int
    flip: bool
    is_labelled: bool
    takes: Callable[[DemoPicture], bool]


def _is_face(picture: DemoPicture) -> bool:
    return picture.subgroup.startswith("face-") or picture.subgroup == "cat-face"


def _is_animal(picture: DemoPicture) -> bool:
    return picture.subgroup.startswith("animal-")


DEMO_SETS: dict[str, DemoSet] = {
    "emoji": DemoSet(
        description="all bundled 3D emoji, 128 px with alpha, nine classes (holds writing and flags: never mirrored)",
        licence=_LICENCE,
        count=1866,
        flip=False,
        is_labelled=True,
        takes=lambda picture: True,
    ),
    "faces": DemoSet(
        description="the 100-shot set: 3D emoji faces, 128 px with alpha",
        licence=_LICENCE_ART,
        count=124,
        flip=True,
        is_labelled=False,
        takes=_is_face,
    ),
    "animals": DemoSet(
        description="3D emoji animals, heads and whole ones, 128 px with alpha",
        licence=_LICENCE_ART,
        count=124,
        flip=True,
        is_labelled=False,
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

    Labels are the Unicode groups for "emoji"; the two small sets have none. `has_glyphs` keeps "emoji" from being
    mirrored.
    """
    demo = _named(name)
    wanted = {picture.file for picture in demo_pictures(name)}
    whole = open_source(demo_folder() / "emoji.zip", labels="auto" if demo.is_labelled else "none")
    chosen = whole.take([index for index, file in enumerate(whole.names) if file in wanted])
    return dataclasses.replace(chosen, has_glyphs=not demo.flip, title=f"demo:{name}")


def _named(name: str) -> DemoSet:
    if name not in DEMO_SETS:
        raise DataError(f"there is no bundled set {name!r}; there are {', '.join(DEMO_SETS)}")
    return DEMO_SETS[name]
