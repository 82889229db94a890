"""Sets of emoji pictures made from packages: OpenMoji line art and colour, OpenMoji and Fluent 3D as two domains."""

import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from frugan.data.digests import Progress
from frugan.data.emoji import Emoji, base_code, code_of, code_points, has_skin_tone, place_of, slug
from frugan.data.packages import BuildError

HELD_OUT = 0.1
_LOOK_SIDE = 48  # at which drawings are compared
_WHITE = (255, 255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One emoji of OpenMoji: what it is, and the stem of its files."""

    emoji: Emoji
    stem: str

    @property
    def base(self) -> str:
        """Name of the picture that this one is a variant of."""
        return base_code(self.emoji.code, self.emoji.subgroup)

    @property
    def file(self) -> str:
        """Name of its picture in a set."""
        return f"{self.emoji.code}_{slug(self.emoji.name)[:60].strip('-')}.png"


def read_openmoji(folder: Path) -> list[Drawing]:
    """The emoji of an unpacked openmoji package without skin-tone variants and swatches, in the package's order."""
    table = json.loads((folder / "data" / "openmoji.json").read_text(encoding="utf-8"))
    drawings = []
    for entry in table:
        points = code_points(entry["hexcode"])
        if entry["skintone"] or has_skin_tone(points):
            continue
        emoji = Emoji(code=code_of(points), name=entry["annotation"], group=entry["group"], subgroup=entry["subgroups"])
        drawings.append(Drawing(emoji=emoji, stem=entry["hexcode"]))
    return drawings


def read_fluent(folder: Path) -> dict[str, Path]:
    """The pictures of an unpacked Fluent 3D package without skin-tone variants, by code; one for each code."""
    pictures: dict[str, Path] = {}
    for path in sorted((folder / "assets").glob("*.webp")):
        points = code_points(path.stem)
        if not has_skin_tone(points):
            pictures.setdefault(code_of(points), path)
    return pictures


def is_flag(emoji: Emoji) -> bool:
    """Whether the emoji shows a flag: in line art nearly all of these are the same empty box."""
    return emoji.group == "flags" or "flag" in emoji.subgroup or emoji.subgroup == "queer-symbols"


def svg_renderer() -> Callable[[Path, int], Image.Image]:
    """A function (file, side in pixels) -> RGB picture on white. Raises BuildError if resvg-py is not installed."""
    try:
        import resvg_py
    except ImportError:
        raise BuildError(
            "this set is drawn from SVG files, which needs resvg-py: pip install 'frugan[data]' (or resvg-py)"
        ) from None

    def render(path: Path, side: int) -> Image.Image:
        try:
            data = bytes(resvg_py.svg_to_bytes(svg_string=path.read_text(encoding="utf-8"), width=side, height=side))
        except (OSError, ValueError) as error:
            raise BuildError(f"{str(path)!r} cannot be drawn: {error}") from None
        return on_white(Image.open(io.BytesIO(data)))

    return render


def on_white(picture: Image.Image) -> Image.Image:
    """The picture laid on white, RGB."""
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, _WHITE), picture).convert("RGB")


def make_pairs(folder: Path, openmoji: Path, *, side: int, seed: int, tell: Progress) -> dict[str, int]:
    """Writes {train,test}/{source,target}/NAME.png: black line art (grey) and the same emoji in colour; returns counts.

    Flags are left out (`is_flag`). Variants of one emoji, and emoji of the same line art, lie on one side of the split.
    """
    render = svg_renderer()
    drawings = [drawing for drawing in read_openmoji(openmoji) if not is_flag(drawing.emoji)]
    parts = _parts(drawings, lambda drawing: render(_line_art(openmoji, drawing), _LOOK_SIDE), seed, tell)
    counts = {"pairs": len(drawings), "train": 0, "test": 0}
    _make_folders(folder, [f"{part}/{role}" for part in ("train", "test") for role in ("source", "target")])
    for number, (drawing, part) in enumerate(zip(drawings, parts, strict=True)):
        render(_line_art(openmoji, drawing), side).convert("L").save(folder / part / "source" / drawing.file)
        render(_colour(openmoji, drawing), side).save(folder / part / "target" / drawing.file)
        counts[part] += 1
        tell(number + 1, len(drawings), "drawing pairs")
    return counts


def make_domains(folder: Path, openmoji: Path, fluent: Path, *, side: int, seed: int, tell: Progress) -> dict[str, int]:
    """Writes {train,test}{A,B}/NNNNN.png: the emoji that both packages have, A flat, B 3D; returns counts.

    The numbers of a domain are drawn by themselves, so that nothing shows which pictures belong together; pairing.json
    tells it, for scoring only.
    """
    render = svg_renderer()
    pictures = read_fluent(fluent)
    shared = [drawing for drawing in read_openmoji(openmoji) if drawing.emoji.code in pictures]
    parts = _parts(shared, lambda drawing: render(_colour(openmoji, drawing), _LOOK_SIDE), seed, tell)
    counts = {"shared": len(shared), "train": 0, "test": 0}
    _make_folders(folder, [f"{part}{domain}" for part in ("train", "test") for domain in "AB"])
    pairing: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    draw = random.Random(seed)
    for part, rows in pairing.items():
        chosen = [drawing for drawing, its_part in zip(shared, parts, strict=True) if its_part == part]
        numbers_a, numbers_b = _shuffled(len(chosen), draw), _shuffled(len(chosen), draw)
        for drawing, number_a, number_b in zip(chosen, numbers_a, numbers_b, strict=True):
            name_a, name_b = f"{part}A/{number_a:05d}.png", f"{part}B/{number_b:05d}.png"
            render(_colour(openmoji, drawing), side).save(folder / name_a)
            with Image.open(pictures[drawing.emoji.code]) as picture:
                _fit(on_white(picture), side).save(folder / name_b)
            rows.append({"a": name_a, "b": name_b, "code": drawing.emoji.code, "name": drawing.emoji.name})
            counts[part] += 1
            tell(counts["train"] + counts["test"], len(shared), "drawing two domains")
        rows.sort(key=lambda row: row["a"])
    (folder / "pairing.json").write_text(json.dumps(pairing, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    return counts


def _line_art(openmoji: Path, drawing: Drawing) -> Path:
    return openmoji / "black" / "svg" / f"{drawing.stem}.svg"


def _colour(openmoji: Path, drawing: Drawing) -> Path:
    return openmoji / "color" / "svg" / f"{drawing.stem}.svg"


def _parts(drawings: Sequence[Drawing], look: Callable[[Drawing], Image.Image], seed: int, tell: Progress) -> list[str]:
    """ "train" or "test" for each drawing: equal for those of one base and for those that look the same."""
    looks = []
    for number, drawing in enumerate(drawings):
        looks.append(look(drawing).tobytes())
        tell(number + 1, len(drawings), "looking for equal drawings")
    bases = merge_bases([drawing.base for drawing in drawings], looks)
    return ["test" if place_of(base, seed) < HELD_OUT else "train" for base in bases]


def merge_bases(bases: Sequence[str], looks: Sequence[bytes]) -> list[str]:
    """The bases, made equal where one look appears under two of them, directly or through others."""
    above = {base: base for base in bases}

    def top(base: str) -> str:
        while above[base] != base:
            base = above[base]
        return base

    first: dict[bytes, str] = {}
    for base, look in zip(bases, looks, strict=True):
        above[top(base)] = top(first.setdefault(look, base))
    return [top(base) for base in bases]


def _shuffled(count: int, draw: random.Random) -> list[int]:
    numbers = list(range(count))
    draw.shuffle(numbers)
    return numbers


def _fit(picture: Image.Image, side: int) -> Image.Image:
    """The RGB picture as a square of this side; one that is not square is centred on white."""
    longest = max(picture.size)
    if picture.size != (longest, longest):
        square = Image.new("RGB", (longest, longest), _WHITE[:3])
        square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
        picture = square
    return picture if longest == side else picture.resize((side, side), Image.Resampling.LANCZOS)


def _make_folders(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
