"""`frugan data`: look at pictures, see augmentations, build known sets."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from frugan.cli import parse
from frugan.cli.tell import Teller


def inspect(pictures: str, /, *, out: Path | None = None, limit: int | None = None) -> None:
    """What is in a folder, zip or set: sizes, kinds, classes, broken files, duplicates; and what suits it.

    Pairs, two domains and label maps are told by their folders, and shown side by side.

    Parameters
    ----------
    pictures
        A folder, a zip, pairs, two domains or label maps in folders (as for frugan train), CIFAR or MNIST files,
        Tiny-ImageNet, CUB-200-2011, or a bundled set: demo:faces, demo:animals, demo:emoji, demo:emoji-kinds.
    out
        A folder for the contact sheet and the histogram; by default NAME-inspection beside you.
    limit
        Look at so many pictures, chosen at random.
    """
    from frugan.data import PairReport, Report, inspect_pairs, recommend, recommend_pairs, write
    from frugan.data import inspect as look

    tell = Teller().progress
    pairs = inspect_pairs(parse.source(pictures), limit=limit, progress=tell)
    report: Report | PairReport = pairs or look(parse.source(pictures), limit=limit, progress=tell)
    print(report.text())
    print("what suits them")
    for reason in recommend(report).reasons if isinstance(report, Report) else recommend_pairs(report).reasons:
        print(f"  {reason}")
    if not isinstance(report, Report):
        print(f"  without a GPU {recommend_pairs(report).recipe}-small, with smaller networks")
    name = pictures.removeprefix("demo:") if pictures.startswith("demo:") else Path(pictures).resolve().stem
    folder = out or Path(f"{name}-inspection")
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in report.pictures().items():
        write.save_sheet(folder / f"{name}.png", picture)
        print(f"drawn: {folder / f'{name}.png'}")


def augment_sheet(
    pictures: str = "demo:faces",
    /,
    *,
    policy: str = "color,translation,cutout",
    p: Annotated[float, parse.FINITE] = 0.8,
    out: Path = Path("augment-sheet.png"),
    resolution: int = 64,
    seed: int = 0,
) -> None:
    """Draw what an augmentation policy does to pictures: each operation alone, then all of them.

    Parameters
    ----------
    pictures
        As for `frugan train`.
    policy
        Operations in order: color (brightness, saturation, contrast), translation, cutout, upscale; or ada, or
        ada:SET with one of ADA's sets, such as ada:bgcf.
    p
        ADA's probability, from 0 to 1.
    out
        The picture to write.
    resolution
        Pixels per side.
    seed
        Another seed, other random numbers.
    """
    import torch

    from frugan.augment import named, shown
    from frugan.data import DataConfig, prepare, to_float, to_uint8, write

    config = named(policy)
    if config is None:
        raise ValueError("--policy none leaves nothing to draw")
    dataset = prepare(parse.source(pictures), DataConfig(resolution=resolution, upscale="allow"), Teller().progress)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(dataset), generator=generator)[:8].tolist()
    images = to_float(dataset.batch(chosen))

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(len(images), *shape, generator=generator)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(len(images), *shape, generator=generator)

    rows = [("as they are", to_uint8(images))]
    rows += [(name, to_uint8(changed)) for name, changed in shown(images, config, p, uniform, normal)]
    write.save_sheet(out, write.labelled_grid(rows))
    print(f"drawn: {out}")


def sets() -> None:
    """The bundled sets, and those that `frugan data build` makes."""
    from frugan.data.build import BUILD_SETS
    from frugan.data.demo import DEMO_SETS

    print("bundled:")
    for name, demo in DEMO_SETS.items():
        print(f"  demo:{name:<15} {demo.count:>6}  {demo.description}; {demo.licence}")
    print("built by `frugan data build NAME`:")
    for name, chosen in BUILD_SETS.items():
        described = chosen.description.rstrip(".")
        print(f"  {name:<20} {described}; {chosen.licence}")


def build(
    name: str,
    /,
    *,
    out: Path | None = None,
    size: int | None = None,
    scenes: int | None = None,
    seed: int | None = None,
    packages: Annotated[Path | None, Parameter(help="A folder with the packages, if they cannot be fetched.")] = None,
) -> None:
    """Build a known set from its packages, checked and with its credits.

    Parameters
    ----------
    name
        One of `frugan data sets`.
    out
        The folder to make; by default sets/NAME.
    size
        Pixels per side, where the set lets one choose.
    scenes
        How many training scenes (emoji-scenes).
    seed
        Of the split and the scenes.
    """
    from frugan.data.build import build as build_set

    teller = Teller(plain_seconds=5)
    built = build_set(
        name,
        out or Path("sets") / name,
        size=size,
        scenes=scenes,
        seed=seed,
        progress=teller.progress,
        packages=packages,
    )
    what = "built" if built.is_new else "already built"
    counts = ", ".join(f"{key} {count:,}" for key, count in built.counts.items())
    teller.say(f"{what}: {built.folder} ({counts}); see CREDITS.md there")
