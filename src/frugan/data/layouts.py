"""How the pictures of a set for translation lie: which are sources, which targets, and which belong together."""

import dataclasses
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, get_args

import numpy as np

from frugan.data.label_sets import CITYSCAPES, COCO_STUFF
from frugan.data.maps import CLASS_FILE, MapRules, read_rules
from frugan.data.pictures import DataError, Half, Part, PictureError, open_picture
from frugan.data.sources import Source, no_pictures, read_notes

Pairing = Literal["paired", "unpaired"]
Role = Literal["source", "target", "image", "label", "instance"]
Skipped = tuple[tuple[str, str], ...]

_PARTS = {
    **dict.fromkeys(["train", "training"], "train"),
    **dict.fromkeys(["test", "testing"], "test"),
    **dict.fromkeys(["val", "valid", "validation", "dev"], "val"),
}
_ORDERS: dict[Part, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}
_SIDES: dict[str, Role] = {
    **dict.fromkeys(["source", "sources", "input", "inputs", "a"], "source"),
    **dict.fromkeys(["target", "targets", "output", "outputs", "b"], "target"),
}
_MAPS: dict[str, Role] = {
    **dict.fromkeys(["images", "image"], "image"),
    **dict.fromkeys(["labels", "label"], "label"),
    **dict.fromkeys(["instances", "instance"], "instance"),
}
_ASKED_SHARE, _SEEN_SHARE = 0.5, 0.9
"""Two sides hold at least so much of all pictures: where a set for translation was asked for, where it is guessed."""
_DOMAIN = re.compile(rf"({'|'.join(_PARTS)})[_-]?([ab])", re.IGNORECASE)
_CITY_IMAGE = re.compile(r"(?:.*/)?leftImg8bit/(train|val|test)/(.+)_leftImg8bit\.\w+")
_CITY_MAP = re.compile(r"(?:.*/)?gtFine/(train|val|test)/(.+)_gtFine_(labelIds|instanceIds)\.png")
_COCO = re.compile(r"(?:.*/)?(train|val|test)_(img|label|inst)/(.+)\.\w+")
_COCO_ROLES: dict[str, Role] = {"img": "image", "label": "label", "inst": "instance"}
_CITY_ROLES: dict[str, Role] = {"labelIds": "label", "instanceIds": "instance"}
_PARTNERS: dict[Role, str] = {
    "source": "target/ (or B/, trainB/)",
    "target": "source/ (or A/, trainA/)",
    "label": "images/",
    "instance": "labels/",
}
_BOTH: tuple[Role, ...] = ("source", "target")
_SURE = frozenset({"source", "sources", "target", "targets"})
_PROBES, _MOST = 32, 0.9

KNOWN = (
    "files with the two pictures of a pair side by side (twice as wide as high); two folders source/ and target/ (or "
    "input/ and output/, A/ and B/, trainA/ and trainB/); label maps in images/, labels/ and instances/, or as "
    "Cityscapes and COCO-Stuff have them; all also under train/ and test/"
)
"""The layouts, in words."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The two sides of a set. `kind`: how it lies, in words.

    Where `is_paired`, both sides have the same names in the same order. `has_maps`: the source side are label maps by
    the layout alone. `unpaired`: (name, reason) of pictures without a partner. `notes`: what was taken for what.
    """

    kind: str
    source: Source
    target: Source
    is_paired: bool
    has_maps: bool = False
    unpaired: Skipped = ()
    notes: tuple[str, ...] = ()


class _Place(NamedTuple):
    """Where a picture belongs: its part ("" = none), its side, and the name that it shares with its partners."""

    part: str
    role: Role
    key: str


class _Member(NamedTuple):
    place: int
    name: str
    key: str
    folder: str


Sides = dict[Role, list[_Member]]


def find_layout(opened: Source, part: Part, pairing: Pairing | None, is_asked: bool = True) -> Layout | None:
    """How the pictures of an open source lie, as far as `part` goes; `pairing` None = whatever they look like.

    Pictures of a pair are known by equal names but for folder and ending. Sub-folders are looked for by their names;
    where `is_asked`, any two folders are the two sides, in the order of their names.
    Raises: DataError where nothing fits and it was asked for (else None), or one side is empty.
    """
    least = _ASKED_SHARE if is_asked else _SEEN_SHARE
    for kind, place in _GRAMMARS.items():
        found = _sorted_out(opened, place, part, is_city=kind == "Cityscapes")
        if "label" in found and "image" in found:
            return _with_maps(opened, kind, found)
        placed = sum(map(len, found.values()))
        if "source" in found and "target" in found and placed >= least * len(_of_part(opened, part)):
            return _two_folders(opened, found, pairing)
        _refuse_one_side(opened, found, is_asked)
    any_two = _any_two(opened, part) if is_asked else {}
    if any_two and pairing == "unpaired":
        return _two_folders(opened, any_two, pairing)
    halves = _halves(opened, part, pairing)
    if halves is None and any_two:
        return _two_folders(opened, any_two, pairing)
    if halves is None and is_asked:
        raise _no_layout(opened, part, pairing)
    return halves


# ---- where a picture belongs -----------------------------------------------------------------------------------------


def _city(name: str) -> _Place | None:
    if match := _CITY_IMAGE.fullmatch(name):
        return _Place(match[1], "image", match[2])
    if match := _CITY_MAP.fullmatch(name):
        return _Place(match[1], _CITY_ROLES[match[3]], match[2])
    return None


def _coco(name: str) -> _Place | None:
    match = _COCO.fullmatch(name)
    return None if match is None else _Place(match[1], _COCO_ROLES[match[2]], match[3])


def _by_words(words: Mapping[str, Role]) -> Callable[[str], _Place | None]:
    """By the first folder of a name that is one of the words, and the first that is a part of a set."""

    def place(name: str) -> _Place | None:
        path = PurePosixPath(name)
        part, role, rest = "", None, []
        for piece in path.parts[:-1]:
            word, domain = piece.lower(), _DOMAIN.fullmatch(piece)
            if role is None and domain is not None and "a" in words:
                part, role = _PARTS[domain[1].lower()], words[domain[2].lower()]
            elif role is None and word in words:
                role = words[word]
            elif not part and word in _PARTS:
                part = _PARTS[word]
            else:
                rest.append(piece)
        return None if role is None else _Place(part, role, "/".join([*rest, path.stem]))

    return place


_GRAMMARS: dict[str, Callable[[str], _Place | None]] = {
    "Cityscapes": _city,
    "COCO-Stuff": _coco,
    "label maps": _by_words(_MAPS),
    "two folders": _by_words(_SIDES),
}


def _sorted_out(opened: Source, place: Callable[[str], _Place | None], part: Part, is_city: bool) -> Sides:
    """The pictures of each side, by key; of the wanted part alone where the set has parts."""
    found = [(index, name, where) for index, name in enumerate(opened.names) if (where := place(name)) is not None]
    sides: Sides = {}
    wanted = _wanted({where.part for _, _, where in found}, part, is_city)
    for index, name, where in found:
        if where.part in wanted:
            key = f"{where.part}/{where.key}" if len(wanted) > 1 else where.key
            sides.setdefault(where.role, []).append(_Member(index, name, key, str(PurePosixPath(name).parent)))
    if found and not sides:
        raise _no_part(opened, part, {where.part for _, _, where in found})
    return sides


def _wanted(parts: set[str], part: Part, is_city: bool = False) -> set[str]:
    """Those of the parts of a set that are meant; the last of two kinds of tests only where there is no other."""
    named = parts - {""}
    if not named or part == "all":
        return parts
    order = _ORDERS[part][::-1] if is_city else _ORDERS[part]
    return set([name for name in order if name in named][:1])


def _any_two(opened: Source, part: Part) -> Sides:
    """Two folders of any names, in the order of these."""
    pieces = [PurePosixPath(name).parts for name in opened.names]
    named = [tuple(piece for piece in parts[:-1] if piece.lower() not in _PARTS)[:1] for parts in pieces]
    folders = sorted({folder[0] for folder in named if folder}, key=lambda name: (name.lower(), name))
    if len(folders) != 2 or not all(named):
        return {}
    words: dict[str, Role] = {folders[0].lower(): "source", folders[1].lower(): "target"}
    return _sorted_out(opened, _by_words(words), part, is_city=False)


# ---- the sides -------------------------------------------------------------------------------------------------------


def _title(opened: Source, members: Sequence[_Member]) -> str:
    first, last = min(members, key=lambda item: item.folder).folder, max(members, key=lambda item: item.folder).folder
    shared = [one for one, other in zip(first.split("/"), last.split("/"), strict=False) if one == other]
    return str(Path(opened.title or opened.path) / "/".join(shared))


def _side(opened: Source, members: Sequence[_Member], names: Sequence[str]) -> Source:
    """These pictures of the source under other names; closing it closes nothing."""
    taken = opened.take([member.place for member in members])
    return dataclasses.replace(
        taken,
        names=tuple(names),
        members=tuple(member.name for member in members),
        labels=None,
        class_names=(),
        title=_title(opened, members),
        close=lambda: None,
    )


def _by_key(members: Sequence[_Member]) -> tuple[dict[str, _Member], list[tuple[str, str]]]:
    """One picture for each key, and those that come too late."""
    found: dict[str, _Member] = {}
    late = []
    for member in members:
        if found.setdefault(member.key, member) is not member:
            late.append((member.name, f"of the same name as {found[member.key].name}, which is used"))
    return found, late


def _matched(sides: Mapping[Role, Sequence[_Member]]) -> tuple[list[str], dict[Role, list[_Member]], Skipped]:
    """The names that all sides have, the pictures of these in order, and what is left without a partner."""
    known, skipped = {}, []
    for role, members in sides.items():
        known[role], late = _by_key(members)
        skipped += late
    shared = sorted(set.intersection(*(set(found) for found in known.values())))
    for role, found in known.items():
        for key in sorted(set(found).difference(shared)):
            lacking = " and ".join(f"no {other}" for other in known if key not in known[other])
            skipped.append((found[key].name, f"it has {lacking} of the same name, so it is left out ({role})"))
    return shared, {role: [found[key] for key in shared] for role, found in known.items()}, tuple(skipped)


def _two_folders(opened: Source, sides: Sides, pairing: Pairing | None) -> Layout:
    titles = {role: sides[role][0].folder for role in _BOTH}
    shared, members, unpaired = _matched({role: sides[role] for role in _BOTH})
    are_apart = read_notes(opened.path).get("paired") is False
    if pairing == "unpaired" or (pairing is None and (are_apart or not shared)):
        members = {role: sorted(sides[role], key=lambda item: item.name) for role in _BOTH}
        names = {role: [member.name for member in members[role]] for role in members}
        return Layout(
            kind="two domains",
            source=_side(opened, members["source"], names["source"]),
            target=_side(opened, members["target"], names["target"]),
            is_paired=False,
            notes=_taken(titles),
        )
    if are_apart or not shared:
        why = "the set was made of pictures that do not belong together, whatever their names"
        if not shared:
            first = {role: PurePosixPath(sides[role][0].name).name for role in titles}
            why = f"no name is in both (such as {first['source']!r} and {first['target']!r})"
        raise DataError(
            f"the pictures of {titles['source']!r} and {titles['target']!r} in {str(opened.path)!r} are no pairs: "
            f"{why}. Name the two pictures of a pair alike, or use a recipe for unpaired pictures, such as cyclegan"
        )
    return Layout(
        kind="two folders, paired by name",
        source=_side(opened, members["source"], shared),
        target=_side(opened, members["target"], shared),
        is_paired=True,
        unpaired=unpaired,
        notes=_taken(titles),
    )


def _taken(folders: Mapping[Role, str]) -> tuple[str, ...]:
    return (f"source: {folders['source']}, target: {folders['target']} (reverse exchanges them)",)


def _with_maps(opened: Source, kind: str, sides: Sides) -> Layout:
    roles: tuple[Role, ...] = ("label", "image", "instance") if "instance" in sides else ("label", "image")
    shared, members, unpaired = _matched({role: sides[role] for role in roles})
    if not shared:
        first = {role: sides[role][0].name for role in roles}
        raise DataError(
            f"no picture in {str(opened.path)!r} has maps of its name (there are {_quoted(first.values())})"
        )
    fixed = {"Cityscapes": CITYSCAPES, "COCO-Stuff": COCO_STUFF}
    source = dataclasses.replace(
        _side(opened, members["label"], shared),
        maps=fixed[kind] if kind in fixed else rules_beside(opened),
        instances=_side(opened, members["instance"], shared) if "instance" in members else None,
    )
    return Layout(
        kind=kind,
        source=source,
        target=_side(opened, members["image"], shared),
        is_paired=True,
        has_maps=True,
        unpaired=unpaired,
    )


def rules_beside(opened: Source) -> MapRules:
    """How classes.json of a folder or archive says that label maps are read; without one they are numbers.

    Of a folder that is a part of a set, that of the whole set counts. Raises DataError if it cannot be used.
    """
    text = None
    if opened.kind == "folder":
        places = [opened.path, *([opened.path.absolute().parent] if opened.path.name.lower() in _PARTS else [])]
        file = next((place / CLASS_FILE for place in places if (place / CLASS_FILE).is_file()), None)
        text = None if file is None else file.read_bytes()
    elif opened.kind == "zip":
        with zipfile.ZipFile(opened.path) as archive:
            inside = [name for name in archive.namelist() if PurePosixPath(name).name == CLASS_FILE]
            text = archive.read(min(inside, key=lambda name: name.count("/"))) if inside else None
    return MapRules() if text is None else read_rules(text)


# ---- two pictures in one file ----------------------------------------------------------------------------------------


def _halves(opened: Source, part: Part, pairing: Pairing | None) -> Layout | None:
    """Files that hold two square pictures each; None if these are none."""
    chosen = _of_part(opened, part)
    shapes = _shapes(opened, chosen)
    if not shapes:
        return None
    whole = sum(width == 2 * height for width, height in shapes) / len(shapes)
    nearly = sum(abs(width - 2 * height) <= 1 for width, height in shapes) / len(shapes)
    if whole < _MOST <= nearly:
        width, height = next((width, height) for width, height in shapes if width != 2 * height)
        raise DataError(
            f"the files in {str(opened.path)!r} look like two pictures side by side, but a width such as {width} (with "
            f"a height of {height}) cannot be halved into two squares: make it {2 * height}"
        )
    if whole < _MOST:
        return None
    members = [_Member(index, opened.names[index], opened.names[index], "") for index in chosen]
    sides: dict[Half, Source] = {}
    for half in get_args(Half):
        names = [f"{half}/{member.name}" if pairing == "unpaired" else member.name for member in members]
        sides[half] = dataclasses.replace(_side(opened, members, names), half=half)
    return Layout(
        kind="two pictures side by side in each file",
        source=sides["left"],
        target=sides["right"],
        is_paired=pairing != "unpaired",
        notes=("source: the left halves, target: the right halves (reverse exchanges them)",),
    )


def _of_part(opened: Source, part: Part) -> list[int]:
    """The pictures of a part of a set, by the first folder of their names that is called like one."""
    parts = [_part_in(name) for name in opened.names]
    wanted = _wanted(set(parts), part)
    return [index for index, its_part in enumerate(parts) if its_part in wanted]


def _part_in(name: str) -> str:
    """The part that the first such folder of a picture's name is called after; "" where there is none."""
    return next(filter(None, map(_part_of, PurePosixPath(name).parts[:-1])), "")


def is_empty_part(opened: Source, part: Part) -> bool:
    """Whether a folder has folders of this part (not "all") without any picture in them."""
    kinds = set(_ORDERS[part]) if part in _ORDERS else set()
    if opened.kind != "folder" or any(_part_in(name) in kinds for name in opened.names):
        return False
    return any(_part_of(place.name) in kinds for place in opened.path.rglob("*") if place.is_dir())


def _part_of(folder: str) -> str:
    """The part that a folder is called after, be it that of one domain (testA); "" for other names."""
    domain = _DOMAIN.fullmatch(folder)
    return _PARTS.get((folder if domain is None else domain[1]).lower(), "")


def _shapes(opened: Source, chosen: Sequence[int]) -> list[tuple[int, int]]:
    """Widths and heights of some of the pictures, evenly taken."""
    found = []
    for place in sorted({int(place) for place in np.linspace(0, len(chosen) - 1, _PROBES)}) if chosen else ():
        try:
            found.append(open_picture(opened.load(chosen[place])).size)
        except (PictureError, OSError):  # told when it is prepared
            continue
    return found


# ---- refusals --------------------------------------------------------------------------------------------------------


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _refuse_one_side(opened: Source, found: Sides, is_asked: bool) -> None:
    """Raise DataError where one side alone has pictures, if its name leaves no doubt that there should be another."""
    for role, members in found.items():
        wanted = _PARTNERS.get(role)
        pieces = members[0].folder.split("/")
        is_plain = any(piece.lower() in _SURE or _DOMAIN.fullmatch(piece) for piece in pieces)
        if wanted is not None and (is_plain or is_asked):
            raise DataError(
                f"{str(opened.path)!r} has {len(members):,} pictures in {members[0].folder!r}, but none in a folder "
                f"{wanted} beside it: both sides need pictures"
            )


def _no_part(opened: Source, part: Part, there: set[str]) -> DataError:
    return DataError(f"{str(opened.path)!r} has no part {part!r} with pictures in it, only {', '.join(sorted(there))}")


def _no_layout(opened: Source, part: Part, pairing: Pairing | None) -> DataError:
    if not opened.names:
        return no_pictures(opened, opened.skipped)
    if not _of_part(opened, part):
        return _no_part(opened, part, {_part_in(name) for name in opened.names} - {""})
    what = "two domains" if pairing == "unpaired" else "pairs of pictures"
    more = "" if pairing == "unpaired" else ". Two folders that do not belong together are for cyclegan"
    return DataError(
        f"{str(opened.path)!r} holds no {what} ({len(opened.names):,} pictures). They can be {KNOWN}{more}"
    )
