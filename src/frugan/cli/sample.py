"""`frugan sample`: pictures, grids, walks and whole data sets from a model."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from frugan.cli import parse
from frugan.cli.tell import Teller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from frugan.model import Model, Noise

Form = Literal["png", "grid", "folder", "zip", "gif", "mp4", "webp"]


def sample(
    model: str = "demo",
    /,
    *,
    seeds: str | None = None,
    count: Annotated[int | None, Parameter(name=["--count", "-n"])] = None,
    psi: float | None = None,
    cutoff: int | None = None,
    classes: str | None = None,
    per_class: int | None = None,
    noise: Literal["const", "none", "random"] = "const",
    resolution: int | None = None,
    to: Form = "png",
    out: Path = Path("samples"),
    batch: int = 16,
    walk: Literal["eased", "smooth"] = "eased",
    grid: str | None = None,
    fps: float = 24.0,
    seconds_between: float = 1.0,
    seconds: float = 10.0,
    device: str = "cpu",
    overwrite: bool = False,
) -> None:
    """Draw from a model. The same seed gives the same picture, at any batch size.

    Parameters
    ----------
    model
        demo, a run folder, a checkpoint, or a checkpoint file of another project (see frugan import).
    seeds
        Which pictures, such as 0-63 or 1,5,9-12.
    count
        The first so many seeds, instead of --seeds.
    psi
        Below 1 tamer, more typical pictures; 1 all the variety (measure at 1). By default 0.7 where a model has styles.
    cutoff
        Apply psi to the first so many layers only.
    classes
        Names or numbers, separated by commas.
    per_class
        So many pictures of each class.
    noise
        const: the model's own; random: new for each seed; none.
    resolution
        Stop early, at this many pixels per side.
    to
        png (one file each and a grid), grid, folder or zip (a data set with dataset.json), gif, mp4 or webp (a walk).
    out
        The folder or file to write.
    batch
        Pictures at once.
    walk
        eased: one picture that goes from seed to seed; smooth: a grid of seeds, each on a random walk that closes.
    grid
        Columns and rows of the smooth walk, such as 4x3.
    fps
        Frames a second of a walk.
    seconds_between
        How long an eased walk takes from seed to seed; how long a smooth one takes to change (the blur's sigma).
    seconds
        How long a smooth walk is.
    device
        cpu, cuda.
    overwrite
        Replace what is there.
    """
    from frugan import load

    loaded = load(model, device=device)
    psi = (0.7 if loaded.has_styles else 1.0) if psi is None else psi
    is_film, shape = to in ("gif", "mp4", "webp"), _shape(grid, walk, to)
    usual = 64 if not is_film else shape[0] * shape[1] if shape else 8 if walk == "eased" else 12
    chosen, labels = _plan(loaded, seeds, count, classes, per_class, default=usual)
    if is_film and walk == "smooth":
        film = Film(_as_file(out, to), fps, seconds, seconds_between)
        _smooth_walk(loaded, chosen, labels, psi, resolution, shape, film, batch)
    elif is_film:
        _walk(loaded, chosen, labels, psi, resolution, _as_file(out, to), fps, seconds_between, batch)
    elif to in ("folder", "zip"):
        target = _as_file(out, to) if to == "zip" else out
        _data_set(loaded, chosen, labels, psi, cutoff, noise, resolution, target, batch, overwrite)
    else:
        _pictures(loaded, chosen, labels, psi, cutoff, noise, resolution, out, batch, only_grid=to == "grid")


def _plan(
    model: "Model", seeds: str | None, count: int | None, classes: str | None, per_class: int | None, default: int
) -> tuple[list[int], list[int | str] | None]:
    names: list[int | str] = [part.strip() for part in classes.split(",")] if classes else list(model.class_names)
    if classes and not model.class_names:
        raise ValueError("this model was trained without classes: leave --classes out")
    if per_class is not None:
        if not names:
            raise ValueError("this model was trained without classes: use -n or --seeds instead of --per-class")
        return list(range(per_class * len(names))), [name for name in names for _ in range(per_class)]
    if seeds is not None and count is not None:
        raise ValueError("give --seeds or -n, not both")
    chosen = parse.seeds(seeds) if seeds is not None else list(range(default if count is None else count))
    if not chosen:
        raise ValueError("at least one picture must be asked for, got none")
    return chosen, [names[index % len(names)] for index in range(len(chosen))] if classes else None


def _as_file(out: Path, suffix: str) -> Path:
    return out if out.suffix.lower() == f".{suffix}" else out.with_name(f"{out.name}.{suffix}")


def _metadata(model: "Model", psi: float, noise: str) -> dict[str, str]:
    return {"frugan:model": model.hash, "frugan:psi": f"{psi:g}", "frugan:noise": noise}


def _pictures(
    model: "Model",
    seeds: list[int],
    labels: list[int | str] | None,
    psi: float,
    cutoff: int | None,
    noise: "Noise",
    resolution: int | None,
    out: Path,
    batch: int,
    only_grid: bool,
) -> None:
    import torch

    from frugan.data import write

    images, done = [], 0
    teller = Teller()
    drawn = model.stream(seeds, labels, psi=psi, cutoff=cutoff, noise=noise, resolution=resolution, batch=batch)
    for part in drawn:
        images.append(part.cpu())
        for image in () if only_grid else part.cpu():
            facts = _metadata(model, psi, noise) | {"frugan:seed": str(seeds[done])}
            if labels is not None:
                facts["frugan:class"] = str(labels[done])
            out.mkdir(parents=True, exist_ok=True)
            write.save_png(out / f"seed{seeds[done]:05d}{_suffix(labels, done)}.png", image, facts)
            done += 1
        teller.progress(sum(map(len, images)), len(seeds), "drawing")
    path = out if out.suffix == ".png" else out / "grid.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write.save_png(path, write.grid(torch.cat(images)), _metadata(model, psi, noise))
    teller.say(f"drawn: {len(seeds)} pictures, {path}")


def _suffix(labels: list[int | str] | None, index: int) -> str:
    if labels is None:
        return ""
    return "-" + "".join(letter if letter.isalnum() else "_" for letter in str(labels[index]))


def _walk(
    model: "Model",
    seeds: list[int],
    labels: list[int | str] | None,
    psi: float,
    resolution: int | None,
    path: Path,
    fps: float,
    seconds_between: float,
    batch: int,
) -> None:
    from frugan.data import write

    between = max(round(fps * seconds_between), 1)
    parts = model.walk(seeds, frames_between=between, psi=psi, classes=labels, resolution=resolution, batch=batch)
    path.parent.mkdir(parents=True, exist_ok=True)
    write.save_video(path, (frame.cpu() for part in parts for frame in part), fps)
    print(f"drawn: a walk of {between * len(seeds)} frames through {len(seeds)} seeds, {path}")


@dataclasses.dataclass(frozen=True)
class Film:
    """Where a film goes, its frames a second, its length, and how long it takes to change."""

    path: Path
    fps: float
    seconds: float
    sigma_seconds: float


def _shape(grid: str | None, walk: str, to: Form) -> tuple[int, int] | None:
    """(columns, rows) of what the user typed."""
    if grid is None:
        return None
    if walk != "smooth" or to not in ("gif", "mp4", "webp"):
        raise ValueError("--grid is for --walk smooth with --to mp4, gif or webp")
    columns, cross, rows = grid.lower().partition("x")
    if not (cross and columns.isdecimal() and rows.isdecimal() and int(columns) and int(rows)):
        raise ValueError(f"--grid needs columns and rows such as 4x3, got {grid!r}")
    return int(columns), int(rows)


def _smooth_walk(
    model: "Model",
    seeds: list[int],
    labels: list[int | str] | None,
    psi: float,
    resolution: int | None,
    shape: tuple[int, int] | None,
    film: Film,
    batch: int,
) -> None:
    from frugan.data import write

    if shape is not None and shape[0] * shape[1] != len(seeds):
        raise ValueError(f"a grid of {shape[0]}x{shape[1]} needs {shape[0] * shape[1]} seeds, got {len(seeds)}")
    frames = round(film.fps * film.seconds)
    if film.seconds < 4 * film.sigma_seconds or frames < 2:
        raise ValueError(f"--seconds must be at least 4 times --seconds-between, got {film.seconds:g}")
    columns = None if shape is None else shape[0]
    options = {"psi": psi, "classes": labels, "resolution": resolution, "batch": batch}
    moments = model.wander(seeds, frames=frames, sigma=film.fps * film.sigma_seconds, **options)  # type: ignore[arg-type]
    teller = Teller()

    def sheets() -> "Iterator[Tensor]":
        for done, pictures in enumerate(moments, start=1):
            yield write.grid(pictures.cpu(), columns=columns)
            teller.progress(done, frames, "drawing")

    film.path.parent.mkdir(parents=True, exist_ok=True)
    write.save_video(film.path, sheets(), film.fps)
    teller.say(f"drawn: a smooth walk of {frames} frames, {len(seeds)} seeds side by side, {film.path}")


def _data_set(
    model: "Model",
    seeds: list[int],
    labels: list[int | str] | None,
    psi: float,
    cutoff: int | None,
    noise: "Noise",
    resolution: int | None,
    path: Path,
    batch: int,
    overwrite: bool,
) -> None:
    from frugan.data.sink import Sink

    numbers = None if labels is None else [model.class_names.index(str(label)) for label in labels]
    if labels is None and model.class_names:
        numbers = [seed % len(model.class_names) for seed in seeds]
    facts = _metadata(model, psi, noise) | {"frugan:first_seed": str(seeds[0]), "frugan:classes": str(labels is None)}
    teller = Teller()
    path.parent.mkdir(parents=True, exist_ok=True)
    with Sink(path, total=len(seeds), metadata=facts, overwrite=overwrite) as sink:
        rest, classes = seeds[sink.count :], None if labels is None else labels[sink.count :]
        drawn = model.stream(rest, classes, psi=psi, cutoff=cutoff, noise=noise, resolution=resolution, batch=batch)
        for part in drawn:
            own = None if numbers is None else numbers[sink.count : sink.count + len(part)]
            sink.add(part.cpu(), own)
            teller.progress(sink.count, sink.total, "drawing")
    teller.say(f"drawn: {len(seeds)} pictures, {path}")
