"""Facts about emoji that the bundled sets and the builders share: code points, groups, variants, mirroring.

An emoji is named by its code points in lower-case hexadecimal joined by "-", without the invisible variation selector
(fe0f), as in "1f44b" or "1f9d1-200d-1f33e". Groups, sub-groups and English names are those of Unicode's emoji-test.txt.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

SKIN_TONES = frozenset({0x1F3FB, 0x1F3FC, 0x1F3FD, 0x1F3FE, 0x1F3FF})
_INVISIBLE = frozenset({0xFE0E, 0xFE0F, 0xE007F})  # variation selectors, end of a flag tag
_JOINER = 0x200D
_SIGNS = frozenset({0x2640, 0x2642, 0x27A1})  # female, male, facing right: added after a joiner
_HAIR = frozenset({0x1F9B0, 0x1F9B1, 0x1F9B2, 0x1F9B3})

# Separately coded emoji that are one picture in several sexes, ages of a series, hours, phases or colours.
_SERIES: tuple[tuple[int, ...], ...] = (
    (0x1F9D1, 0x1F468, 0x1F469, 0x1F471),  # adult, also with blond hair
    (0x1F9D2, 0x1F466, 0x1F467),  # child
    (0x1F9D3, 0x1F474, 0x1F475),  # older adult
    (0x1FAC5, 0x1F934, 0x1F478),  # crown
    (0x1FAC4, 0x1FAC3, 0x1F930),  # pregnant
    (0x1F57A, 0x1F483),  # dancing
    (0x1F385, 0x1F936),  # Christmas
    (0x1F448, 0x1F449, 0x1F446, 0x1F447, 0x261D),  # backhand and index pointing
    (0x1FAF1, 0x1FAF2),  # rightwards, leftwards hand
    (0x1FAF7, 0x1FAF8),  # leftwards, rightwards pushing hand
    (0x1F91B, 0x1F91C),  # left-, right-facing fist
    tuple(range(0x1F550, 0x1F568)),  # clock faces
    tuple(range(0x1F311, 0x1F319)),  # phases of the moon
    (
        0x2764,
        0x1F9E1,
        0x1F49B,
        0x1F49A,
        0x1F499,
        0x1F49C,
        0x1F90E,
        0x1F5A4,
        0x1F90D,
        0x1FA75,
        0x1FA76,
        0x1FA77,
    ),  # hearts
    (0x26AB, 0x26AA, 0x1F534, 0x1F535, *range(0x1F7E0, 0x1F7E5)),  # circles
    (0x2B1B, 0x2B1C, 0x25FC, 0x25FB, 0x25FD, 0x25FE, 0x25AA, 0x25AB, *range(0x1F7E5, 0x1F7EC)),  # squares
    (0x1F536, 0x1F537, 0x1F538, 0x1F539),  # diamonds
    (0x1F53A, 0x1F53B),  # triangles
    (0x1F533, 0x1F532),  # square buttons
    (0x1F4D5, 0x1F4D7, 0x1F4D8, 0x1F4D9),  # closed books
    (0x1F947, 0x1F948, 0x1F949),  # medals
    (0x1F4AC, 0x1F4AD, 0x1F5E8, 0x1F5EF),  # speech bubbles
    (0x1F431, 0x1F63A, 0x1F638),  # cat faces that differ by the eyes at most
    (0x1F608, 0x1F47F),  # horned faces
    (0x2603, 0x26C4),  # snowmen
    (0x2753, 0x2754),  # question marks
    (0x2757, 0x2755),  # exclamation marks
)
_FIRST_OF_SERIES = {member: series[0] for series in _SERIES for member in series}

_KEYCAP = 0x20E3
_FAMILY = "family"

# Mirroring changes what these say: writing, digits, flags, arrows, notes, dials, maps, phases of the moon.
_NO_FLIP_GROUPS = frozenset({"flags", "symbols"})
_NO_FLIP_SUBGROUPS = frozenset(
    {"time", "music", "money", "book-paper", "mail", "computer", "light-video", "award-medal", "place-map"}
)
_NO_FLIP = frozenset(
    {
        *("1f634", "1f911", "1f92c", "1f4af", "1f4a4"),  # zzz, dollar eyes, censored mouth, hundred
        *("1f3e3", "1f3e4", "1f3e6", "1f3e8", "1f3e9", "1f3ea"),  # post offices, bank, hotels, shop: signs
        *("1f4ae", "1f9e7", "1f004", "1f0cf", "1f3b0", "1f3b1"),  # stamp, envelope, tiles and cards, slots, eight ball
        *("1f4c8", "1f4c9", "1f6d1"),  # charts going up and down, stop sign
        *(f"{point:x}" for point in range(0x1F311, 0x1F319)),  # phases of the moon
    }
)


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One line of Unicode's table: code points without variation selectors, English name, group and sub-group."""

    code: str
    name: str
    group: str
    subgroup: str


def slug(text: str) -> str:
    """Return `text` in lower case with everything but letters and digits turned into single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("&", " ")).strip("-")


def code_points(text: str) -> tuple[int, ...]:
    """Return the code points in a file name such as "1F44B-1F3FB", "0039-fe0f-20e3" or "1f3f4-e0067_e0062".

    Variation selectors and the end mark of tags are dropped: packages disagree about writing them. Raises ValueError
    where a part is not hexadecimal.
    """
    parts = re.split(r"[-_\s]+", text.strip())
    try:
        points = tuple(int(part, 16) for part in parts)
    except ValueError:
        raise ValueError(f"code points must be hexadecimal numbers joined by '-', got {text!r}") from None
    return tuple(point for point in points if point not in _INVISIBLE)


def code_of(points: tuple[int, ...]) -> str:
    """Return the name of an emoji: its code points in lower-case hexadecimal joined by "-"."""
    return "-".join(f"{point:x}" for point in points)


def has_skin_tone(points: tuple[int, ...]) -> bool:
    """Return whether one of the five skin-tone modifiers is among the code points."""
    return not SKIN_TONES.isdisjoint(points)


def base_code(code: str, subgroup: str) -> str:
    """Return the name of the picture that `code` is a variant of; equal bases belong on one side of a split.

    Skin tone, sex, hair and direction are dropped; hours, phases of the moon, keycaps, families and the colours of
    hearts, circles and squares count as one picture each.
    """
    if subgroup == _FAMILY:
        return _FAMILY
    points = [_FIRST_OF_SERIES.get(point, point) for point in code_points(code)]
    if points[-1] == _KEYCAP:
        return code_of((_KEYCAP,))
    kept: list[int] = []
    for point in points:
        if point in SKIN_TONES:
            continue
        if point in _SIGNS | _HAIR and kept and kept[-1] == _JOINER:
            kept.pop()
            continue
        kept.append(point)
    return code_of(tuple(kept))


def read_emoji_test(path: Path) -> dict[str, Emoji]:
    """Return Unicode's emoji by code, read from an emoji-test.txt (fully and less qualified forms fall together)."""
    table: dict[str, Emoji] = {}
    group = subgroup = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            group = slug(line.split(":", 1)[1])
        elif line.startswith("# subgroup:"):
            subgroup = slug(line.split(":", 1)[1])
        elif line and not line.startswith("#"):
            fields, _, comment = line.partition("#")
            code = code_of(code_points(fields.split(";")[0]))
            name = re.sub(r"^\s*\S+\s+E\d+\.\d+\s+", "", comment).strip()
            table.setdefault(code, Emoji(code=code, name=name, group=group, subgroup=subgroup))
    return table


def flips_safely(emoji: Emoji) -> bool:
    """Return whether the mirrored picture is still a fair picture of the emoji: no writing, no flag."""
    if emoji.group in _NO_FLIP_GROUPS or emoji.subgroup in _NO_FLIP_SUBGROUPS:
        return False
    return emoji.code not in _NO_FLIP


def place_of(base: str, seed: int) -> float:
    """Return a number in [0, 1) fixed by (seed, base): the pictures of the lowest bases are held out for testing."""
    digest = hashlib.blake2b(f"{seed}\n{base}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
