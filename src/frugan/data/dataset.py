"""A prepared set in memory or on disk, its splits, and THE pair between stored and modelled pixel values."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

from frugan.data.pictures import Kind
from frugan.ops.onehot import one_hot

Colour = tuple[int, int, int]
Rows = Sequence[int] | np.ndarray


def to_float(images: UInt8[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Stored pixels (0..255) as models see them: float32 in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Modelled pixels ([-1, 1]) as they are stored: rounded and clamped to 0..255; NaN becomes 0.

    The inverse of `to_float`: all 256 values come back.
    """
    scaled = images.detach().to(torch.float32).add(1.0).mul_(127.5)
    return scaled.nan_to_num_(nan=0.0, posinf=255.0, neginf=0.0).round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """Where a set came from and what was seen on the way; for reports, not for training."""

    path: str = ""
    kind: str = "arrays"
    num_found: int = 0
    num_upscaled: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Pictures or label maps of one size, with labels where there are any.

    `store`: uint8 (M, C, H, W), usually a read-only memory map of the cache; `rows`: which of them are in this set,
    None = all, in order. `labels`: class numbers, or None. `class_names`: one name per class. `names`: one per picture.
    `fingerprint`: of pixels, labels and class names, independent of where the files lay and how they were packed.
    `skipped`: (name, reason) of every picture that was left out. `flip`: whether the pictures may be mirrored.
    `kind`: "labels" = maps of label numbers, which are never mixed or scaled; `map_names` and `map_colours` then give
    the name and, where known, the colour of each number; a second channel, if there is one, is 1 at edges of instances.
    `crop`: training sees random squares of this side, everything else the centred ones; sizes are those of the squares.
    """

    store: UInt8[np.ndarray, "M C H W"] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    fingerprint: str
    rows: Int64[np.ndarray, " N"] | None = field(default=None, repr=False)
    labels: Int64[np.ndarray, " N"] | None = field(default=None, repr=False)
    class_names: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    flip: bool = True
    kind: Kind = "picture"
    map_names: tuple[str, ...] = ()
    map_colours: tuple[Colour, ...] = field(default=(), repr=False)
    crop: int | None = None
    facts: SourceFacts = field(default_factory=SourceFacts)

    def __post_init__(self) -> None:
        count = len(self.store) if self.rows is None else len(self.rows)
        if count == 0:
            raise ValueError("a set needs at least one picture, got none")
        if len(self.names) != count:
            raise ValueError(f"names must be one per picture ({count}), got {len(self.names)}")
        if self.labels is not None:
            if len(self.labels) != count:
                raise ValueError(f"labels must be one per picture ({count}), got {len(self.labels)}")
            if self.labels.min() < 0 or self.labels.max() >= len(self.class_names):
                shown = f"{self.labels.min()} to {self.labels.max()}"
                raise ValueError(f"labels must be 0 to {len(self.class_names) - 1} (class_names), got {shown}")
        if (self.kind == "labels") != bool(self.map_names):
            raise ValueError(f"map_names are those of label maps, at least one, got {self.map_names} for {self.kind}")
        if self.map_colours and len(self.map_colours) != len(self.map_names):
            raise ValueError(f"map_colours must be one a name ({len(self.map_names)}), got {len(self.map_colours)}")
        if self.crop is not None and not 1 <= self.crop <= min(self.store.shape[2:]):
            raise ValueError(f"crop must be 1 to {min(self.store.shape[2:])} or None, got {self.crop}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def images(self) -> UInt8[np.ndarray, "N C H W"]:
        """All pictures, uint8 (N, C, H, W): the memory map itself, or a copy in memory if this is part of a set."""
        pictures = self.store if self.rows is None else self.store[self.rows]
        if self.crop is None:
            return pictures
        top, left = self._centre
        return pictures[:, :, top : top + self.crop, left : left + self.crop]

    @property
    def height(self) -> int:
        """Of the pictures, as they come out of this set."""
        return int(self.store.shape[2]) if self.crop is None else self.crop

    @property
    def width(self) -> int:
        """Of the pictures, as they come out of this set."""
        return int(self.store.shape[3]) if self.crop is None else self.crop

    @property
    def resolution(self) -> int:
        """The height, which with most sets is the width too."""
        return self.height

    @property
    def margin(self) -> tuple[int, int]:
        """How many rows and columns random crops leave out: 0 and 0 where there are none."""
        return int(self.store.shape[2]) - self.height, int(self.store.shape[3]) - self.width

    @property
    def _centre(self) -> tuple[int, int]:
        return self.margin[0] // 2, self.margin[1] // 2

    @property
    def channels(self) -> int:
        """1 (grey), 3 (colour) or 4 (colour and alpha); of label maps 1, or 2 with edges."""
        return int(self.store.shape[1])

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 for an unlabelled set."""
        return 0 if self.labels is None else len(self.class_names)

    def batch(
        self,
        indices: Rows,
        flips: Bool[np.ndarray, " B"] | None = None,
        corners: Int64[np.ndarray, "B 2"] | None = None,
    ) -> UInt8[Tensor, "B C H W"]:
        """The pictures at `indices` (0 .. len - 1) as one uint8 tensor of its own, those marked in `flips` mirrored.

        `corners`: top and left of each crop, 0 to `margin`; None = the centred ones. Raises: IndexError for an index
        outside the set.
        """
        chosen = self._checked(indices)
        pictures = np.asarray(self.store[chosen if self.rows is None else self.rows[chosen]])
        if self.crop is not None:
            places = np.tile(self._centre, (len(pictures), 1)) if corners is None else corners
            pictures = _cut(pictures, places, self.crop)
        if flips is not None:
            pictures[flips] = pictures[flips, :, :, ::-1]
        return torch.from_numpy(pictures)

    def one_hot(self, indices: Rows) -> Float32[Tensor, "B K"] | None:
        """The labels at `indices` as float32 one-hot rows (B, num_classes); None for an unlabelled set."""
        if self.labels is None:
            return None
        wanted = torch.from_numpy(self.labels[self._checked(indices)])
        return one_hot(wanted, self.num_classes)

    def take(self, indices: Rows) -> "Dataset":
        """The set of the pictures at `indices`, in that order; pixels are shared, not copied."""
        chosen = self._checked(indices)
        if len(chosen) == 0:
            raise ValueError("a set needs at least one picture, got none")
        digest = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        digest.update(chosen.tobytes())
        return dataclasses.replace(
            self,
            rows=chosen if self.rows is None else self.rows[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            names=tuple(self.names[index] for index in chosen),
            fingerprint=digest.hexdigest(),
        )

    def _checked(self, indices: Rows) -> Int64[np.ndarray, " B"]:
        chosen = np.asarray(indices, dtype=np.int64)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise IndexError(f"indices must be 0 to {len(self) - 1}, got {chosen.min()} to {chosen.max()}")
        return chosen


def _cut(
    pictures: UInt8[np.ndarray, "B C H W"], corners: Int64[np.ndarray, "B 2"], side: int
) -> UInt8[np.ndarray, "B C S S"]:
    parts = [
        picture[:, top : top + side, left : left + side]
        for picture, (top, left) in zip(pictures, corners.tolist(), strict=True)
    ]
    return np.stack(parts) if parts else pictures[:, :, :side, :side]


def fingerprint_of(
    pixel_digest: str, shape: tuple[int, ...], labels: Sequence[int] | None, class_names: Sequence[str]
) -> str:
    """What a set is, as 32 hex digits: of its pixels (by their digest), shape, labels and class names."""
    whole = hashlib.blake2b(digest_size=16)
    for part in (pixel_digest, list(shape), None if labels is None else list(labels), list(class_names)):
        whole.update(repr(part).encode("utf-8", "backslashreplace") + b"\n")
    return whole.hexdigest()


def from_arrays(
    images: UInt8[np.ndarray, "N C H W"],
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    flip: bool = True,
) -> Dataset:
    """A set of pictures already in memory. `class_names` are the class numbers, `names` the indices, unless given."""
    if labels is not None and class_names is None:
        class_names = [str(label) for label in range(max(labels) + 1)]
    pixel_digest = hashlib.blake2b(np.ascontiguousarray(images).tobytes(), digest_size=32).hexdigest()
    return Dataset(
        store=images,
        names=tuple(names) if names is not None else tuple(f"{index:06d}" for index in range(len(images))),
        fingerprint=fingerprint_of(pixel_digest, images.shape, labels, class_names or ()),
        labels=None if labels is None else np.asarray(labels, dtype=np.int64),
        class_names=tuple(class_names or ()),
        flip=flip,
        facts=SourceFacts(num_found=len(images)),
    )


def split(
    dataset: Dataset, hold_out: float, groups: Callable[[str], str] | None = None, seed: int = 0
) -> tuple[Dataset, Dataset]:
    """The set in two: (the greater part, about `hold_out` of it held out).

    `groups` gives the base of a picture's name: pictures of one base (crops, tones, retouched copies) never fall on
    both sides; None = every picture stands alone. Whole bases are held out, in an order fixed by (seed, base), until
    their pictures are at least `hold_out` of all; each side gets at least one base.
    Raises: ValueError if hold_out is not between 0 and 1, or there are fewer than two bases.
    """
    if not 0 < hold_out < 1:
        raise ValueError(f"hold_out must be between 0 and 1, got {hold_out}")
    members: dict[str, list[int]] = {}
    for index, name in enumerate(dataset.names):
        members.setdefault(name if groups is None else groups(name), []).append(index)
    if len(members) < 2:
        raise ValueError(f"a split needs at least two different bases of names, got {len(members)}")

    def place(base: str) -> bytes:
        return hashlib.blake2b(f"{seed}\n{base}".encode("utf-8", "surrogateescape"), digest_size=16).digest()

    wanted = max(1, round(hold_out * len(dataset)))
    held: list[int] = []
    for base in sorted(members, key=place)[:-1]:
        if len(held) >= wanted:
            break
        held += members[base]
    kept = set(range(len(dataset))).difference(held)
    return dataset.take(sorted(kept)), dataset.take(sorted(held))
