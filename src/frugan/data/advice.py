"""What to do with a set, from what was seen in it: resolution, channels, augmentation, mirroring, with reasons."""

from dataclasses import dataclass

import numpy as np

from frugan.config import counted
from frugan.data.inspection import Report

_FEW, _MANY = 30_000, 100_000
_LARGEST = ((1_000, 256), (10_000, 512))


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Settings that suit a set. `augmentation`: a DiffAugment policy. `reasons`: a line for each choice or worry."""

    resolution: int
    channels: int
    augmentation: str
    flip: bool
    reasons: tuple[str, ...]


def recommend(report: Report) -> Recommendation:
    """What suits these pictures; knows nothing of the machine, the time or the method.

    Resolution: the largest power of two, 32 to 1024, that nine of ten pictures fill without being enlarged by more than
    a tenth; at most 256 below 1,000 pictures and 512 below 10,000.
    Augmentation: of the DiffAugment paper (Zhao et al. 2020): all three for sets up to 30,000 (its 100-shot sets and
    its subsets of 1k to 30k), translation and cutout to 100,000 (its BigGAN on CIFAR), translation beyond (ImageNet).
    """
    count = len(report.names) + report.num_left_out
    resolution, why_resolution = _resolution(report, count)
    channels, why_channels = _channels(report)
    augmentation, why_augmentation = _augmentation(count)
    flip, why_flip = _flip(report)
    reasons = (why_resolution, why_channels, why_augmentation, why_flip, *_worries(report, count, resolution))
    return Recommendation(
        resolution=resolution,
        channels=channels,
        augmentation=augmentation,
        flip=flip,
        reasons=tuple(filter(None, reasons)),
    )


def _resolution(report: Report, count: int) -> tuple[int, str]:
    side = int(np.quantile(report.shorter_sides, 0.1, method="lower"))
    by_size = 2 ** int(np.log2(max(1.0, side * 1.1)))
    by_count = next((largest for below, largest in _LARGEST if count < below), 1024)
    resolution = max(32, min(by_size, by_count))
    reason = f"{resolution} x {resolution}: nine of ten pictures have a shorter side of {side} or more"
    if by_size > by_count:
        reason += f"; {count:,} pictures rarely feed more than {by_count}"
    if by_size < 32:
        reason += "; smaller ones are enlarged, as networks start at 32"
    return resolution, reason


def _channels(report: Report) -> tuple[int, str]:
    if report.num_grey == len(report.names):
        return 1, "1 channel: no picture has colour"
    if report.num_transparent:
        return 3, (
            f"3 channels: {report.num_transparent:,} pictures have transparent parts, which are laid on white "
            "(another colour: --set data.images.background=black; to keep them: --channels 4)"
        )
    return 3, ""


def _augmentation(count: int) -> tuple[str, str]:
    if count <= _FEW:
        return (
            "color,translation,cutout",
            f"DiffAugment, all three: {count:,} pictures would soon be known by heart",
        )
    if count <= _MANY:
        return "translation,cutout", f"DiffAugment, translation and cutout: {count:,} pictures need less help"
    return "translation", f"DiffAugment, translation only: {count:,} pictures are many, the rest would harm"


def _flip(report: Report) -> tuple[bool, str]:
    if report.has_glyphs:
        return False, (
            "no mirroring: in a set of this kind left and right may matter, as in digits, letters and flags (--flip if "
            "they do not)"
        )
    return True, (
        "mirroring doubles the pictures; whether left and right matter cannot be seen from here: "
        "use --no-flip for writing, flags, maps, or things always seen from one side"
    )


def _worries(report: Report, count: int, resolution: int) -> list[str]:
    worries = []
    tiny = int((2 * report.shorter_sides < resolution).sum())
    if tiny:
        worries.append(f"{tiny:,} with a shorter side under {resolution // 2} are left out, as enlarging blurs them")
    if count < 100:
        worries.append(
            f"{counted(count, 'picture', 'is')} very few: start from a trained generator if you can, and expect copies"
        )
    doubles = sum(len(group) - 1 for group in (*report.exact, *(report.near or ())))
    if doubles:
        weigh = "weighs" if doubles == 1 else "weigh"
        worries.append(f"{counted(doubles, 'picture', 'is')} there more than once and {weigh} more; remove if unwanted")
    single = [name for name, number in report.classes.items() if number == 1]
    if single:
        worries.append(
            f"{counted(len(single), 'class', 'has')} a single picture ({_some(single)}): "
            "there is nothing to learn but a copy of it, and no score by class; add pictures, join or drop them"
        )
    rare = [name for name, number in report.classes.items() if 1 < number < 10]
    if rare:
        few = counted(len(rare), "class", "has")
        worries.append(f"{few} fewer than 10 pictures ({_some(rare)}): join or drop such classes")
    ratios = report.sizes[:, 0] / report.sizes[:, 1]
    if np.mean((ratios > 4 / 3 + 0.01) | (ratios < 3 / 4 - 0.01)) > 0.5:
        worries.append(
            "most pictures are far from square: a crop loses their ends (--set data.images.fit=pad keeps them)"
        )
    return worries


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
