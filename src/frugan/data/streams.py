"""The streams of a recipe from one place: a set of pictures, or the two sides of a set for translation."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from frugan.data.cache import prepare, prepare_sized
from frugan.data.dataset import Dataset
from frugan.data.digests import Progress
from frugan.data.layouts import Layout, find_layout, rules_beside
from frugan.data.pictures import DataConfig, DataError
from frugan.data.sources import Source, first_reasons, open_source

_TOGETHER = ("part", "pairing", "reverse", "limit", "seed")
_PIXEL_FOR_PIXEL = ("resolution", "fit", "aspect", "crop", "upscale", "flip")
_SHOWN = 5

Prepared = tuple[Dataset, dict[str, tuple[int, int]]]


def prepare_streams(
    source: str | Path | Source, configs: Mapping[str, DataConfig], progress: Progress | None = None
) -> dict[str, Dataset]:
    """A set for each stream: of the same pictures where their role is "images", else of the two sides of a translation.

    Sides are found as `layouts.KNOWN` says. Those of pairs have equal names in the same order: a picture that cannot be
    used takes its partner with it, and both sides name it in `skipped`. Label maps take their names from classes.json.
    Raises: ValueError for settings of the two sides that do not fit together, DataError for pictures that do not, and
    what `prepare` raises.
    """
    if {config.role for config in configs.values()} == {"images"}:
        return {name: prepare(source, config, progress) for name, config in configs.items()}
    _check_settings(configs)
    tell = progress or (lambda done, total, text: None)
    first = next(iter(configs.values()))
    with source if isinstance(source, Source) else open_source(source, "none", first.part) as opened:
        layout = find_layout(opened, first.part, first.pairing)
        assert layout is not None
        sides = {name: _side(opened, layout, config) for name, config in configs.items()}
        found = {name: prepare_sized(sides[name], config, tell) for name, config in configs.items()}
    if layout.is_paired:
        _check_sizes(found)
        return _matched(found, layout)
    return {name: dataset for name, (dataset, _) in found.items()}


def _check_settings(configs: Mapping[str, DataConfig]) -> None:
    roles = sorted(config.role for config in configs.values())
    if roles != ["source", "target"]:
        raise ValueError(f"the roles of two streams must be source and target, or images for all, got {roles}")
    one, other = configs.values()
    same = _TOGETHER if one.pairing == "unpaired" else (*_TOGETHER, *_PIXEL_FOR_PIXEL)
    for name in same:
        if getattr(one, name) != getattr(other, name):
            shown = " and ".join(f"data.{stream}.{name}={getattr(configs[stream], name)!r}" for stream in configs)
            raise ValueError(f"{name} must be the same for both sides, got {shown}")


def _side(opened: Source, layout: Layout, config: DataConfig) -> Source:
    """The pictures of one stream. Raises DataError where maps and pictures are asked for that are not there."""
    is_first = (config.role == "source") != (config.reverse and not layout.has_maps)
    side = layout.source if is_first else layout.target
    if config.kind == "picture":
        if side.maps is not None:
            raise DataError(
                f"{str(opened.path)!r} has label maps ({layout.kind}): they are for gaugan. For recipes on pictures, "
                "give pairs of pictures"
            )
        return side
    if side.maps is None:
        side = dataclasses.replace(side, maps=rules_beside(opened))
    if not config.edges:
        return dataclasses.replace(side, instances=None)
    if side.instances is None:
        if not layout.has_maps:
            raise DataError(
                f"{str(opened.path)!r} has no label maps in labels/, with instances/ beside them, as gaugan needs "
                f"({layout.kind}). For pairs of pictures use pix2pix; if sources are label maps, train without edges: "
                f"--set data.{config.role}.edges=false"
            )
        raise DataError(
            f"{str(opened.path)!r} has no instance maps (a folder instances/ beside labels/), which edges are made "
            f"from: add them, or train without: --set data.{config.role}.edges=false"
        )
    return side


def _check_sizes(found: Mapping[str, Prepared]) -> None:
    """Refuse pairs whose files differ in size: their pixels would not lie on one another."""
    (one, sizes), (other, others) = found.items()
    (first, second), names = (sizes[1], others[1]), [name for name in sizes[1] if name in others[1]]
    wrong = [name for name in names if first[name] != second[name]]
    if wrong:
        shown = [
            f"{name}: {one} {first[name][0]} x {first[name][1]}, {other} {second[name][0]} x {second[name][1]}"
            for name in wrong[:_SHOWN]
        ]
        raise DataError(
            f"{len(wrong):,} of {len(names):,} pairs have two sizes ({'; '.join(shown)}): the two pictures of a pair "
            "must be of one size, pixel for pixel. Resize or remove them (`frugan data inspect` lists them)"
        )


def _matched(found: Mapping[str, Prepared], layout: Layout) -> dict[str, Dataset]:
    """The sets cut down to the names that both have; both say what was left out on either side."""
    shared = set.intersection(*(set(dataset.names) for dataset, _ in found.values()))
    lost = _lost({stream: dataset for stream, (dataset, _) in found.items()})
    if not shared:
        raise DataError(f"no pair is left of which both sides can be used ({'; '.join(first_reasons(lost))})")
    matched = {}
    for stream, (dataset, _) in found.items():
        kept = [place for place, name in enumerate(dataset.names) if name in shared]
        whole = dataset if len(kept) == len(dataset) else dataset.take(kept)
        matched[stream] = dataclasses.replace(whole, skipped=tuple(dict.fromkeys([*layout.unpaired, *lost])))
    return matched


def _lost(sides: Mapping[str, Dataset]) -> list[tuple[str, str]]:
    """(name, reason) of what cannot be used on one side or both, each pair once."""
    reasons: dict[str, dict[str, str]] = {}
    for stream, dataset in sides.items():
        for name, reason in dataset.skipped:
            reasons.setdefault(name, {})[stream] = reason
    lost = []
    for name, why in reasons.items():
        if len(why) == len(sides) and len(set(why.values())) == 1:
            lost.append((name, next(iter(why.values()))))
        else:
            told = [f"{reason} ({stream}; its pair is left out)" for stream, reason in why.items()]
            lost.append((name, "; ".join(told)))
    return lost
