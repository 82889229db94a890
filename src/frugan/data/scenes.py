"""Scenes composed from emoji sprites, with exact label maps and instance maps.

A sky, a ground with a wavy horizon, and things standing on the one or hanging in the other, farther ones smaller and
behind. A pixel belongs to a sprite where the sprite's alpha is at least one half, else to what lies behind it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from frugan.data.demo import read_index
from frugan.data.digests import Progress
from frugan.data.emoji import place_of
from frugan.data.emoji_sets import read_fluent
from frugan.data.packages import BuildError

SKY, GROUND = 0, 1
HELD_OUT = 0.2
TEST_SHARE = 10  # one test scene for so many training scenes
_SOLID = 128
_SEEN_SHARE = 0.35  # an object that would hide more than the rest of an earlier one is not placed
_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class SpriteClass:
    """One kind of thing: the Unicode sub-group it comes from, and how it stands in a scene.

    `height`: of the sprite's longer side when near, as a share of the picture. `weight`: how often it is drawn. `band`:
    where its foot stands, as shares of the ground from the horizon (0) to the lower edge (1); None = in the sky. `only`
    or `without`: codes that are taken or left out (faces, signs, parts).
    """

    name: str
    subgroup: str
    height: float
    weight: float
    colour: tuple[int, int, int]
    band: tuple[float, float] | None = (0.05, 1.0)
    only: str = ""
    without: str = ""


CLASSES: tuple[SpriteClass, ...] = (
    SpriteClass(
        name="weather",
        subgroup="sky-weather",
        height=0.2,
        weight=1.0,
        colour=(255, 214, 10),
        band=None,
        only="2600 2601 26c5 26c8 2b50 2604 1f308 1f315 1f319 1f31b 1f31c 1f31d 1f31e 1f31f 1f324 1f325 1f326 1f327 "
        "1f328 1f329 1fa90",
    ),
    SpriteClass(
        name="bird", subgroup="animal-bird", height=0.15, weight=1.2, colour=(0, 160, 220), without="1fab6 1fabd 1f413"
    ),
    SpriteClass(
        name="building",
        subgroup="place-building",
        height=0.42,
        weight=1.3,
        colour=(150, 75, 60),
        band=(0.02, 0.35),
        without="1f9f1 1faa8 1fab5",
    ),
    SpriteClass(
        name="vehicle",
        subgroup="transport-ground",
        height=0.27,
        weight=1.5,
        colour=(220, 30, 60),
        band=(0.2, 1.0),
        without="1f6de 1f6e3 1f6e4 1f6e2 26fd 1f6a8 1f6a5 1f6a6 1f6d1 1f6a7 1f68f 1f6fc 1f6f9 1f9bd 1f9bc 1f687 "
        "1f69e 1f689",
    ),
    SpriteClass(
        name="plant",
        subgroup="plant-other",
        height=0.3,
        weight=1.5,
        colour=(20, 110, 30),
        without="1f341 1f342 1f343 1fab9 1faba 1f340 2618",
    ),
    SpriteClass(
        name="flower",
        subgroup="plant-flower",
        height=0.15,
        weight=1.2,
        colour=(240, 110, 200),
        band=(0.3, 1.0),
        without="1f4ae 1f3f5",
    ),
    SpriteClass(name="fruit", subgroup="food-fruit", height=0.12, weight=0.9, colour=(250, 140, 20), band=(0.5, 1.0)),
    SpriteClass(
        name="mammal",
        subgroup="animal-mammal",
        height=0.22,
        weight=2.0,
        colour=(110, 60, 160),
        band=(0.15, 1.0),
        without="1f435 1f436 1f43a 1f98a 1f99d 1f431 1f981 1f42f 1f434 1face 1f984 1f42e 1f437 1f417 1f43d 1f42d "
        "1f439 1f430 1f43b 1f43b-200d-2744 1f428 1f43c 1f43e 1f987",
    ),
)
"""Classes of things, after the sky (0) and the ground (1): class number = place here + 2."""

_SKIES = (
    ((86, 160, 235), (206, 232, 250)),
    ((60, 130, 220), (170, 215, 250)),
    ((120, 130, 200), (252, 200, 150)),
    ((150, 165, 185), (215, 222, 230)),
    ((20, 24, 66), (80, 84, 140)),
)
_GROUNDS = (
    ((150, 196, 110), (84, 150, 60)),
    ((120, 180, 120), (60, 130, 70)),
    ((232, 214, 160), (214, 180, 110)),
    ((226, 236, 246), (196, 212, 232)),
    ((170, 140, 110), (130, 98, 70)),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sprite:
    """One thing cut out: RGBA, cropped to what is visible."""

    class_id: int
    pixels: Image.Image
    flip_ok: bool


Sprites = Mapping[int, Sequence[Sprite]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A picture, the class of each pixel, and the number of the thing it belongs to (0 = sky or ground)."""

    image: UInt8[np.ndarray, "S S 3"]
    labels: UInt8[np.ndarray, "S S"]
    instances: UInt8[np.ndarray, "S S"]


def make_scenes(folder: Path, fluent: Path, *, side: int, scenes: int, seed: int, tell: Progress) -> dict[str, int]:
    """Writes {train,test}/{images,labels,instances}/NNNNN.png and classes.json; returns counts.

    Training and test scenes have no sprite and no variant of one in common. Scene number n of a part depends on (seed,
    part, n) alone, so a larger set begins with the smaller one.
    """
    sprites = load_sprites(fluent, seed)
    totals = {"train": scenes, "test": max(1, scenes // TEST_SHARE)}
    done = 0
    for place, (part, total) in enumerate(totals.items()):
        for role in ("images", "labels", "instances"):
            (folder / part / role).mkdir(parents=True)
        for number in range(total):
            draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, place, number])))
            scene = compose(sprites[part], side, draw)
            name = f"{number:05d}.png"
            Image.fromarray(scene.image).save(folder / part / "images" / name)
            Image.fromarray(scene.labels).save(folder / part / "labels" / name)
            Image.fromarray(scene.instances).save(folder / part / "instances" / name)
            done += 1
            tell(done, sum(totals.values()), "composing scenes")
    names = ["sky", "ground", *(kind.name for kind in CLASSES)]
    colours = [(130, 190, 240), (140, 180, 100), *(kind.colour for kind in CLASSES)]
    listing = {"class_names": names, "colours": colours}
    (folder / "classes.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
    counted = {f"{part} sprites": sum(map(len, group.values())) for part, group in sprites.items()}
    return {**totals, "sprites": sum(counted.values()), **counted}


def load_sprites(fluent: Path, seed: int) -> dict[str, dict[int, list[Sprite]]]:
    """The sprites of an unpacked Fluent 3D package by part ("train", "test") and class number.

    Of each class one base in five is for testing, at least one. Raises BuildError if a class has less than two.
    """
    pictures = read_fluent(fluent)
    index = {entry.code: entry for entry in read_index()}
    sprites: dict[str, dict[int, list[Sprite]]] = {"train": {}, "test": {}}
    for class_id, kind in enumerate(CLASSES, start=2):
        codes = [code for code, entry in index.items() if entry.subgroup == kind.subgroup and code in pictures]
        codes = [code for code in codes if code not in kind.without.split()]
        codes = [code for code in codes if not kind.only or code in kind.only.split()]
        bases = sorted({index[code].base for code in codes}, key=lambda base: place_of(base, seed))
        if len(bases) < 2:
            raise BuildError(
                f"the class {kind.name!r} needs two or more different sprites, the package has {len(bases)}"
            )
        held = bases[: max(1, round(HELD_OUT * len(bases)))]
        for part in sprites:
            chosen = [code for code in codes if (index[code].base in held) == (part == "test")]
            sprites[part][class_id] = [
                Sprite(class_id=class_id, pixels=_cut_out(pictures[code]), flip_ok=index[code].flip_ok)
                for code in chosen
            ]
    return sprites


def _cut_out(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        whole = picture.convert("RGBA")
    box = whole.getchannel("A").point(lambda alpha: 255 if alpha >= _SOLID else 0).getbbox()
    if box is None:
        raise BuildError(f"{str(path)!r} is empty: no pixel of it is visible")
    return whole.crop(box)


def compose(sprites: Sprites, side: int, draw: np.random.Generator) -> Scene:
    """One scene of side `side`; every choice comes from `draw`."""
    canvas = _Canvas.blank(side, draw)
    standing = [number for number, kind in enumerate(CLASSES, start=2) if kind.band is not None]
    weights = np.array([CLASSES[number - 2].weight for number in standing])
    chosen = draw.choice(standing, size=int(draw.integers(5, 12)), p=weights / weights.sum())
    hanging = [number for number, kind in enumerate(CLASSES, start=2) if kind.band is None]
    for number in draw.choice(hanging, size=int(draw.integers(0, 4))).tolist():
        canvas.hang(_any(sprites[number], draw), CLASSES[number - 2].height, draw)
    feet = []
    for number in chosen.tolist():
        low, high = CLASSES[number - 2].band or (0.0, 1.0)
        feet.append((float(draw.uniform(low, high)), number))
    for depth, number in sorted(feet):  # far things first: nearer ones cover them
        canvas.stand(_any(sprites[number], draw), CLASSES[number - 2].height, depth, draw)
    return canvas.scene()


def _any(group: Sequence[Sprite], draw: np.random.Generator) -> Sprite:
    return group[int(draw.integers(len(group)))]


@dataclass(eq=False)
class _Canvas:
    """A scene that is being composed. `areas`, `seen`: pixels of thing i + 1 when it was placed, and those left now."""

    image: Float32[np.ndarray, "S S 3"]
    labels: UInt8[np.ndarray, "S S"]
    instances: UInt8[np.ndarray, "S S"]
    horizon: float
    areas: list[int] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)

    @staticmethod
    def blank(side: int, draw: np.random.Generator) -> "_Canvas":
        """Sky above, ground below, both shaded, the ground uneven."""
        horizon = float(draw.uniform(0.35, 0.6)) * side
        x = np.arange(side) / side
        height, waves, phase = draw.uniform(0.005, 0.035), draw.uniform(0.5, 2.5, size=2), draw.uniform(0, 6.3, size=2)
        line = horizon + height * side * np.sin(2 * np.pi * waves[:, None] * x + phase[:, None]).sum(axis=0)
        rows = np.arange(side, dtype=np.float64)[:, None]
        ground = np.clip(rows - line + 0.5, 0, 1)  # share of each pixel below the line
        far, near = _GROUNDS[int(draw.integers(len(_GROUNDS)))]
        top, low = _SKIES[int(draw.integers(len(_SKIES)))]
        sky = _blend(top, low, np.clip(rows / horizon, 0, 1))
        earth = _blend(far, near, np.clip((rows - horizon) / (side - horizon), 0, 1)) + _unevenness(side, draw)
        share = ground[..., None]
        return _Canvas(
            image=(sky * (1 - share) + earth * share).astype(np.float32),
            labels=np.where(ground >= 0.5, GROUND, SKY).astype(np.uint8),
            instances=np.zeros((side, side), dtype=np.uint8),
            horizon=horizon,
        )

    @property
    def side(self) -> int:
        return len(self.labels)

    def hang(self, sprite: Sprite, height: float, draw: np.random.Generator) -> None:
        """Places a thing wholly above the horizon, if there is room in a few tries."""
        for _ in range(_TRIES):
            picture = _pose(sprite, height * self.side * float(draw.uniform(0.7, 1.2)), draw)
            room = self.horizon * 0.95 - picture.height
            left = int(draw.uniform(-0.1 * picture.width, self.side - 0.9 * picture.width))
            top = int(draw.uniform(0, max(1.0, room)))
            if room > 0 and self._paste(picture, sprite.class_id, left, top):
                return

    def stand(self, sprite: Sprite, height: float, depth: float, draw: np.random.Generator) -> None:
        """Places a thing with its foot at `depth` of the ground (0 = horizon, 1 = lower edge), if there is room."""
        foot = self.horizon + (0.06 + 0.92 * depth) * (self.side - self.horizon)
        for _ in range(_TRIES):
            scale = (0.4 + 0.8 * depth) * float(draw.uniform(0.85, 1.15))
            picture = _pose(sprite, height * self.side * scale, draw)
            left = int(draw.uniform(-0.2 * picture.width, self.side - 0.8 * picture.width))
            if self._paste(picture, sprite.class_id, left, round(foot) - picture.height, is_grounded=True):
                return

    def _paste(self, picture: Image.Image, class_id: int, left: int, top: int, is_grounded: bool = False) -> bool:
        """Paints the picture; False, and nothing is painted, if too much of an earlier thing would be hidden."""
        rows, columns = _overlap(top, picture.height, self.side), _overlap(left, picture.width, self.side)
        pixels = np.asarray(picture, dtype=np.float32)[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        mask = pixels[..., 3] >= _SOLID
        hidden = np.bincount(self.instances[rows, columns][mask], minlength=len(self.areas) + 1)[1:].tolist()
        seen = [before - now for before, now in zip(self.seen, hidden, strict=True)]
        too_little = any(now < _SEEN_SHARE * area for now, area in zip(seen, self.areas, strict=True))
        if too_little or not mask.any():
            return False
        if is_grounded:
            self._shade(left, top + picture.height, picture.width)
        share = pixels[..., 3:] / 255
        self.image[rows, columns] = self.image[rows, columns] * (1 - share) + pixels[..., :3] * share
        self.areas.append(int(mask.sum()))
        self.seen = [*seen, self.areas[-1]]
        self.labels[rows, columns][mask] = class_id
        self.instances[rows, columns][mask] = len(self.areas)
        return True

    def _shade(self, left: int, foot: int, width: int) -> None:
        """A soft shadow on what the thing stands on."""
        wide, high = 0.5 * width + 1, 0.08 * width + 1
        rows = _overlap(round(foot - 2 * high), round(3 * high) + 1, self.side)
        columns = _overlap(round(left - 0.2 * wide), round(2.4 * wide), self.side)
        y, x = np.mgrid[rows, columns].astype(np.float32)
        distance = ((x - left - 0.5 * width) / wide) ** 2 + ((y - foot + 0.5 * high) / high) ** 2
        self.image[rows, columns] *= (1 - 0.3 * np.clip(1.2 - distance, 0, 1))[..., None]

    def scene(self) -> Scene:
        image = np.clip(np.round(self.image), 0, 255).astype(np.uint8)
        return Scene(image=image, labels=self.labels, instances=self.instances)


def _overlap(start: int, length: int, side: int) -> slice:
    """The part of [start, start + length) that lies in [0, side); empty if none does."""
    low = min(max(start, 0), side)
    return slice(low, max(low, min(start + length, side)))


def _blend(first: Sequence[int], last: Sequence[int], share: Float[np.ndarray, "S 1"]) -> Float[np.ndarray, "S 1 3"]:
    colours = np.empty((len(share), 1, 3))
    colours[:, 0] = np.asarray(first) * (1 - share) + np.asarray(last) * share
    return colours


def _unevenness(side: int, draw: np.random.Generator) -> Float[np.ndarray, "S S 1"]:
    """Smooth light and dark patches, a few levels strong."""
    coarse = Image.fromarray(draw.normal(0, 7, size=(10, 6)).astype(np.float32))
    fine = np.empty((side, side, 1))
    fine[..., 0] = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    return fine


def _pose(sprite: Sprite, longest: float, draw: np.random.Generator) -> Image.Image:
    """The sprite with its longer side `longest` pixels, mirrored in half of the cases where that is allowed."""
    scale = longest / max(sprite.pixels.size)
    size = (max(1, round(sprite.pixels.width * scale)), max(1, round(sprite.pixels.height * scale)))
    picture = sprite.pixels.resize(size, Image.Resampling.LANCZOS)
    is_mirrored = bool(draw.random() < 0.5) and sprite.flip_ok
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_mirrored else picture
