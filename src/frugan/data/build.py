"""Picture sets that are made on the user's machine from public packages, with checksums and credits.

A set is made in a hidden folder beside its place and moved there when it is complete; its build.json says what it is.
"""

import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from frugan.config import suggest
from frugan.data.arrays import open_arrays
from frugan.data.demo import demo_folder
from frugan.data.digests import Progress
from frugan.data.emoji_sets import make_domains, make_pairs
from frugan.data.packages import BuildError, DebianPackage, NpmPackage, Package, Unpacked, open_package
from frugan.data.scenes import make_scenes
from frugan.data.sources import BUILD_NOTES
from frugan.data.write import explained

Settings = Mapping[str, int]
Make = Callable[[Path, Sequence[Path], Settings, Progress], dict[str, int]]
"""Writes a set: make(folder, packages, settings, progress) -> counts."""

_FORMAT = 1
_RANGES = {"size": (16, 1024), "scenes": (1, 60_000), "seed": (0, 2**31 - 1)}
_FASHION_CLASSES = (
    *("T-shirt or top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


@dataclass(frozen=True, kw_only=True)
class BuildSet:
    """A set that can be made: what it is, on what terms, from which packages, and how.

    `licence`: of the pictures. `settings`: those that can be chosen, with their defaults: "size" (side in pixels),
    "scenes" (training scenes), "seed" (of the split and of scenes). `counts`: what must come out, else the build fails.
    `flip`: whether training may mirror the pictures. `paired`: whether pictures of the same name belong together.
    """

    description: str
    licence: str
    credits: str
    packages: tuple[Package, ...]
    make: Make
    counts: Mapping[str, int]
    flip: bool
    paired: bool = True
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A finished set: where it lies, what is in it, and whether this call made it."""

    folder: Path
    counts: Mapping[str, int]
    is_new: bool


def build(
    name: str,
    out: Path,
    *,
    size: int | None = None,
    scenes: int | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
    packages: Path | None = None,
) -> Built:
    """The set `name` of `BUILD_SETS`, made in the folder `out`, or found there if it was made before.

    `size`, `scenes`, `seed`: see `BuildSet.settings`; None = the set's default. `packages`: a folder with the packages;
    then nothing is fetched. None: they are fetched by npm or apt-get, or used where they are installed.
    Raises: ValueError for an unknown set or setting; BuildError if a package cannot be had or is not what it must be,
    or `out` holds something else; OutputError if it cannot be written. Whatever happens, `out` holds a whole set or is
    untouched.
    """
    if name not in BUILD_SETS:
        raise ValueError(f"set must be one of {', '.join(BUILD_SETS)}, got {name!r}{suggest(name, BUILD_SETS)}")
    chosen = BUILD_SETS[name]
    settings = _settings(name, chosen, {"size": size, "scenes": scenes, "seed": seed})
    out = Path(out).expanduser().absolute()
    if (counts := _counts_if_built(name, settings, out)) is not None:
        return Built(folder=out, counts=counts, is_new=False)
    tell = progress or (lambda done, total, text: None)
    work = out.with_name(f".{out.name}.building")
    with explained(out):
        try:
            shutil.rmtree(work, ignore_errors=True)  # of a build that was killed
            folder = work / "set"
            folder.mkdir(parents=True)
            opened = [
                open_package(package, packages, work / str(number), tell)
                for number, package in enumerate(chosen.packages)
            ]
            counts = chosen.make(folder, [unpacked.folder for unpacked in opened], settings, tell)
            _check(name, chosen.counts, counts)
            _write_notes(name, chosen, opened, folder, settings, counts)
            if out.is_dir():
                out.rmdir()  # empty, see above; some systems do not rename onto a folder
            folder.replace(out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return Built(folder=out, counts=counts, is_new=True)


def _settings(name: str, chosen: BuildSet, given: Mapping[str, int | None]) -> dict[str, int]:
    settings = dict(chosen.settings)
    for key, value in given.items():
        if value is None:
            continue
        if key not in settings:
            allowed = ", ".join(settings) or "none"
            raise ValueError(f"the set {name!r} has no setting {key!r} (it has: {allowed})")
        low, high = _RANGES[key]
        if not low <= value <= high:
            raise ValueError(f"{key} must be {low} to {high}, got {value}")
        settings[key] = value
    return settings


def _counts_if_built(name: str, settings: Settings, out: Path) -> dict[str, int] | None:
    """The counts of the set that lies at `out`; None if nothing does. Raises BuildError if something else does."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    elsewhere = "give another folder, or remove this one first"
    try:
        mark: dict[str, Any] = json.loads((out / BUILD_NOTES).read_text(encoding="utf-8"))
        found, counts = (mark["set"], mark["settings"]), dict(mark["counts"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BuildError(f"{str(out)!r} is not empty and holds no set made here: {elsewhere}") from None
    if found != (name, settings):
        wanted = f"{name!r} with {json.dumps(settings)}"
        raise BuildError(f"{str(out)!r} holds {found[0]!r} with {json.dumps(found[1])}, not {wanted}: {elsewhere}")
    return counts


def _check(name: str, expected: Mapping[str, int], counts: Mapping[str, int]) -> None:
    for key, count in expected.items():
        if counts.get(key) != count:
            raise BuildError(f"{name} must have {count:,} {key}, its packages gave {counts.get(key, 0):,}")


def _write_notes(
    name: str, chosen: BuildSet, opened: Sequence[Unpacked], folder: Path, settings: Settings, counts: Mapping[str, int]
) -> None:
    """Licences, credits and build.json."""
    lines = [f"# {name}", "", chosen.description, "", f"Licence of the pictures: {chosen.licence}", "", chosen.credits]
    lines += ["", "Made from:", ""]
    for package, unpacked in zip(chosen.packages, opened, strict=True):
        short = package.name.rpartition("/")[2]
        lines.append(f"* {package.name} {package.version}, {package.checksum}")
        notes = list(unpacked.notes)
        if package.name == FLUENT.name:  # the package states its licence without its text
            notes += [demo_folder() / "LICENSE"]
        for note in notes:
            shutil.copyfile(note, folder / f"LICENSE-{short}.txt")
            lines.append(f"  (its terms and authors: LICENSE-{short}.txt)")
    with (folder / "CREDITS.md").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    mark = {
        "format": _FORMAT,
        "set": name,
        "settings": dict(settings),
        "counts": dict(counts),
        "licence": chosen.licence,
        "flip": chosen.flip,
        "paired": chosen.paired,
        "packages": {package.name: package.checksum for package in chosen.packages},
    }
    (folder / BUILD_NOTES).write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")


# ---- the sets -------------------------------------------------------------------------------------------------------


def _make_fashion(folder: Path, packages: Sequence[Path], settings: Settings, tell: Progress) -> dict[str, int]:
    """Writes train.zip and test.zip: grey PNG files and dataset.json with class numbers and names."""
    counts = {}
    for part in ("train", "test"):
        arrays = open_arrays(packages[0], part)
        if arrays is None or arrays.labels is None:
            raise BuildError(f"{str(packages[0])!r} holds no labelled idx files")
        labels = []
        with zipfile.ZipFile(folder / f"{part}.zip", "w", zipfile.ZIP_STORED) as archive:
            for number, (pixels, label) in enumerate(zip(arrays.pixels, arrays.labels, strict=True)):
                file = f"{number // 1000:05d}/img{number:08d}.png"
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                archive.writestr(zipfile.ZipInfo(file), buffer.getvalue())
                labels.append([file, label])
                if number % 500 == 0:
                    tell(number, len(arrays.pixels), f"writing {part}.zip")
            listing = {"labels": labels, "class_names": _FASHION_CLASSES}
            archive.writestr(zipfile.ZipInfo("dataset.json"), json.dumps(listing))
        counts[part] = len(labels)
    return counts


def _make_pairs(folder: Path, packages: Sequence[Path], settings: Settings, tell: Progress) -> dict[str, int]:
    return make_pairs(folder, packages[0], side=settings["size"], seed=settings["seed"], tell=tell)


def _make_domains(folder: Path, packages: Sequence[Path], settings: Settings, tell: Progress) -> dict[str, int]:
    return make_domains(folder, packages[0], packages[1], side=settings["size"], seed=settings["seed"], tell=tell)


def _make_scenes(folder: Path, packages: Sequence[Path], settings: Settings, tell: Progress) -> dict[str, int]:
    return make_scenes(
        folder, packages[0], side=settings["size"], scenes=settings["scenes"], seed=settings["seed"], tell=tell
    )


def _make_nebulae(folder: Path, packages: Sequence[Path], settings: Settings, tell: Progress) -> dict[str, int]:
    """Writes images/NAME.png (those with transparency laid on black) and begins CREDITS.md with one line a picture."""
    credited = _nebula_credits((packages[0] / "textures.json").read_text(encoding="utf-8"))
    paths = sorted(packages[0].glob("*.png"))
    (folder / "images").mkdir()
    lines = ["# Authors of the pictures", "", "| picture | author | source |", "| --- | --- | --- |"]
    for number, path in enumerate(paths):
        target = folder / "images" / path.name
        with Image.open(path) as picture:
            if picture.has_transparency_data:
                whole = picture.convert("RGBA")
                Image.alpha_composite(Image.new("RGBA", whole.size, "black"), whole).convert("RGB").save(target)
            else:
                shutil.copyfile(path, target)
        lines.append(f"| {path.name} | {' | '.join(credited.get(path.name, ('not stated', '')))} |")
        tell(number + 1, len(paths), "copying pictures")
    (folder / "CREDITS.md").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return {"images": len(paths), "credited": sum(path.name in credited for path in paths)}


def _nebula_credits(text: str) -> dict[str, tuple[str, str]]:
    """File name -> (author, address) from Stellarium's textures.json, which writes numbers such as -.5, not JSON's."""
    table = json.loads(re.sub(r"(?<=[\[,\s-])\.(?=\d)", "0.", text))
    found = {}
    for tile in table["subTiles"]:
        stated = {key.lower(): str(value) for key, value in tile.get("imageCredits", {}).items()}
        if "short" in stated:
            found[tile["imageUrl"]] = (stated["short"], stated.get("infourl", ""))
    return found


FLUENT = NpmPackage(
    name="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    integrity="sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    wanted=("assets/",),
    size_mb=16,
)
OPENMOJI = NpmPackage(
    name="openmoji",
    version="17.0.0",
    integrity="sha512-EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==",
    wanted=("black/svg/", "color/svg/", "data/openmoji.json"),
    size_mb=4,
)
FASHION = DebianPackage(
    name="dataset-fashion-mnist",
    folder="usr/share/datasets/fashion-mnist",
    patterns=("*-ubyte.gz",),
    digests=(("0.0~git20200523", "44e35cec8f7b88113672d58f66721a950b73065243664f2fc2f42f276dfc83b1"),),
    size_mb=31,
)
STELLARIUM = DebianPackage(
    name="stellarium-data",
    folder="usr/share/stellarium/nebulae/default",
    patterns=("*.png", "textures.json"),
    digests=(("0.22.2", "775a8944bf5bb24c0d26b1a807af6d3acac65b96715321ebfc8ff2ee3614d4d4"),),
    size_mb=246,
)

_OPENMOJI_CREDITS = (
    "All flat emoji and line art designed by OpenMoji, the open-source emoji and icon project (https://openmoji.org), "
    "CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). Rendered to pixels on white, else unchanged. "
    "Whoever passes these pictures on, or pictures made from them, names OpenMoji and keeps the licence."
)
_FLUENT_CREDITS = (
    "3D emoji: Fluent Emoji by Microsoft (https://github.com/microsoft/fluentui-emoji), packaged by LobeHub, MIT; the "
    "country flags among them are Noto Emoji by Google, Apache License 2.0."
)

BUILD_SETS: dict[str, BuildSet] = {
    "fashion-mnist": BuildSet(
        description="70,000 grey photographs of clothes, 28 px, ten classes of 7,000, in train.zip and test.zip.",
        licence="MIT (Zalando SE)",
        credits="Fashion-MNIST by Han Xiao, Kashif Rasul and Roland Vollgraf (arXiv:1708.07747), "
        "Copyright 2017 Zalando SE.",
        packages=(FASHION,),
        make=_make_fashion,
        counts={"train": 60_000, "test": 10_000},
        flip=False,  # shoes all point the same way
    ),
    "openmoji-pairs": BuildSet(
        description="Line art and the same emoji in colour, pair by pair: source/ and target/ in train/ and test/. "
        "No flags, no skin tones; variants of one emoji lie on one side.",
        licence="CC BY-SA 4.0 (OpenMoji)",
        credits=_OPENMOJI_CREDITS,
        packages=(OPENMOJI,),
        make=_make_pairs,
        counts={"pairs": 2114},
        flip=False,
        settings={"size": 128, "seed": 0},
    ),
    "openmoji-fluent": BuildSet(
        description="Two domains: flat emoji (trainA, testA) and 3D emoji (trainB, testB), numbered apart. "
        "pairing.json tells which belong together: for scoring, not for training.",
        licence="A: CC BY-SA 4.0 (OpenMoji); B: MIT (Microsoft, LobeHub), country flags Apache-2.0 (Google)",
        credits=f"{_OPENMOJI_CREDITS}\n\n{_FLUENT_CREDITS}",
        packages=(OPENMOJI, FLUENT),
        make=_make_domains,
        counts={"shared": 1855},
        flip=False,
        paired=False,
        settings={"size": 128, "seed": 0},
    ),
    "emoji-scenes": BuildSet(
        description="Composed scenes with exact maps: images/, labels/ (class numbers, named in classes.json) and "
        "instances/ (0 = sky or ground) in train/ and test/, which share no sprite.",
        licence="MIT (Microsoft, LobeHub)",
        credits=_FLUENT_CREDITS,
        packages=(FLUENT,),
        make=_make_scenes,
        counts={"sprites": 175},
        flip=True,
        settings={"size": 256, "scenes": 2000, "seed": 0},
    ),
    "nebulae": BuildSet(
        description="555 photographs of nebulae, clusters and galaxies, 128 to 2048 px, square.",
        licence="mixed free licences, stated for each source in LICENSE-stellarium-data.txt; do not pass the pictures "
        "on without CREDITS.md and that file",
        credits="Collected by the Stellarium project (https://stellarium.org); authors as listed above.",
        packages=(STELLARIUM,),
        make=_make_nebulae,
        counts={"images": 555, "credited": 555},
        flip=True,
    ),
}
"""The sets that can be made, by name."""
