"""`frugan sample`: pictures, grids, walks and whole data sets from a model."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from frugan.cli import parse
from frugan.cli.tell import Teller
from frugan.config import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from frugan.model import Model, Noise

_ROW, _ROWS = 16, 64  # pictures in a row of a sheet by classes, and rows
Form = Literal["png", "grid", "folder", "zip", "gif", "mp4", "webp"]


def sample(
    model: str = "demo",
    /,
    *,
    seeds: str | None = None,
    count: Annotated[int | None, Parameter(name=["--count", "-n"])] = None,
    psi: Annotated[float | None, parse.FINITE] = None,
    cutoff: int | None = None,
    truncate_to: Literal["all", "class"] = "all",
    classes: str | None = None,
    per_class: int | None = None,
    balance: Literal["even", "data"] | None = None,
    noise: Literal["const", "none", "random"] = "const",
    resolution: int | None = None,
    to: Form = "png",
    out: Path = Path("samples"),
    batch: int = 16,
    walk: Literal["eased", "smooth"] = "eased",
    grid: str | None = None,
    fps: Annotated[float, parse.FINITE] = 24.0,
    seconds_between: Annotated[float, parse.FINITE] = 1.0,
    seconds: Annotated[float, parse.FINITE] = 10.0,
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
    truncate_to
        What psi below 1 draws towards: the average of all classes, or that of the picture's own class.
    classes
        Names or numbers, separated by commas, such as cat,dog or 0-4; by default all in turn. A row for each in the
        grid.
    per_class
        So many pictures of each class, all of the same seeds (in a folder or zip, of seeds of their own).
    balance
        How often a class is drawn: even, or as in the data it learned from.
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
    is_film, shape = to in ("gif", "mp4", "webp"), _shape(grid, walk, to)
    usual = 64 if not is_film else shape[0] * shape[1] if shape else 8 if walk == "eased" else 12
    wish = _Wish(seeds, count, classes, per_class, balance, default=usual, is_set=to in ("folder", "zip"))
    chosen, numbers = _plan(wish, loaded)
    drawing = Drawing(
        model=loaded,
        seeds=chosen,
        classes=numbers,
        psi=(0.7 if loaded.has_styles else 1.0) if psi is None else psi,
        cutoff=cutoff,
        truncate_to=truncate_to,
        noise=noise,
        resolution=resolution,
        batch=batch,
    )
    if to in ("folder", "zip"):
        _data_set(drawing, _as_file(out, to) if to == "zip" else out, wish, overwrite)
    elif is_film:
        film = Film(_as_file(out, to), fps, seconds, seconds_between)
        _keep([film.path], overwrite)
        _smooth_walk(drawing, shape, film) if walk == "smooth" else _walk(drawing, film)
    else:
        files = [] if to == "grid" else _files(drawing, out)
        sheet = out if out.suffix == ".png" else out / "grid.png"
        _keep([*files, sheet], overwrite)
        _pictures(drawing, files, sheet)


@dataclasses.dataclass(frozen=True)
class _Wish:
    """Which pictures the user asked for, as typed."""

    seeds: str | None
    count: int | None
    classes: str | None
    per_class: int | None
    balance: Literal["even", "data"] | None
    default: int
    is_set: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """Which pictures are drawn of a model, and how; `classes`: a number for each seed, None without classes."""

    model: "Model"
    seeds: list[int]
    classes: list[int] | None
    psi: float
    cutoff: int | None
    truncate_to: Literal["all", "class"]
    noise: "Noise"
    resolution: int | None
    batch: int

    def parts(self, start: int = 0) -> "Iterator[Tensor]":
        """The pictures from that place on, batch by batch."""
        return self.model.stream(
            self.seeds[start:],
            None if self.classes is None else self.classes[start:],
            psi=self.psi,
            cutoff=self.cutoff,
            truncate_to=self.truncate_to,
            noise=self.noise,
            resolution=self.resolution,
            batch=self.batch,
        )

    def name_of(self, index: int) -> str:
        """What the class of a picture is called."""
        return "" if self.classes is None else self.model.class_names[self.classes[index]]

    @property
    def facts(self) -> dict[str, str]:
        """What is noted in every picture."""
        known = {"frugan:model": self.model.hash, "frugan:psi": f"{self.psi:g}", "frugan:noise": self.noise}
        return known | ({"frugan:truncate_to": self.truncate_to} if self.truncate_to != "all" else {})


def _plan(wish: _Wish, model: "Model") -> tuple[list[int], list[int] | None]:
    """The seeds, and the class number of each."""
    names = model.class_names
    if not names:
        asked = {"--classes": wish.classes, "--per-class": wish.per_class, "--balance": wish.balance}
        for flag, value in asked.items():
            if value is not None:
                raise ValueError(f"this model was trained without classes: leave {flag} out")
    numbers = list(range(len(names))) if wish.classes is None else parse.classes(wish.classes, names)
    if wish.per_class is not None:
        return _each_class(wish, numbers, wish.per_class)
    if wish.seeds is not None and wish.count is not None:
        raise ValueError("give --seeds or -n, not both")
    default = wish.default if wish.count is None else wish.count
    chosen = parse.seeds(wish.seeds) if wish.seeds is not None else list(range(default))
    if not chosen:
        raise ValueError("at least one picture must be asked for, got none")
    if not names:
        return chosen, None
    if wish.balance == "data":
        return chosen, _as_in_data(model, chosen, numbers)
    if wish.classes is None:
        return chosen, [seed % len(names) for seed in chosen]
    return chosen, [numbers[index % len(numbers)] for index in range(len(chosen))]


def _each_class(wish: _Wish, numbers: list[int], per_class: int) -> tuple[list[int], list[int]]:
    for flag, value in {"--seeds": wish.seeds, "-n": wish.count, "--balance": wish.balance}.items():
        if value is not None:
            raise ValueError(f"--per-class says how many pictures there are of each class: leave {flag} out")
    if per_class < 1:
        raise ValueError(f"--per-class must be 1 or more, got {per_class}")
    classes = [number for number in dict.fromkeys(numbers) for _ in range(per_class)]
    seeds = range(len(classes))
    return [seed if wish.is_set else seed % per_class for seed in seeds], classes


def _as_in_data(model: "Model", seeds: list[int], numbers: list[int]) -> list[int]:
    from frugan.model.classes import classes_as_in

    counts = (model.info.get("data") or {}).get("class_counts")
    if counts is None:
        raise ValueError("this model does not tell how many pictures its classes had: leave --balance data out")
    found = classes_as_in([counts[number] for number in numbers], seeds)
    return [numbers[place] for place in found]


def _as_file(out: Path, suffix: str) -> Path:
    return out if out.suffix.lower() == f".{suffix}" else out.with_name(f"{out.name}.{suffix}")


def _keep(paths: list[Path], overwrite: bool) -> None:
    """Raises ValueError where files that are to be written are there already, unless they may be overwritten."""
    found = list(dict.fromkeys(path for path in paths if path.exists()))
    if found and not overwrite:
        others = f" and {len(found) - 1:,} more of these files" if len(found) > 1 else ""
        verb = "exist" if others else "exists"
        raise ValueError(f"{found[0]}{others} {verb} already: choose another --out, or --overwrite what is there")


def _files(drawing: Drawing, out: Path) -> list[Path]:
    """The file of each picture."""
    return [out / f"seed{seed:05d}{_suffix(drawing, index)}.png" for index, seed in enumerate(drawing.seeds)]


def _pictures(drawing: Drawing, files: list[Path], sheet: Path) -> None:
    """Draw the sheet, and each picture into its file where there are `files`."""
    import torch

    from frugan.data import write

    images, done, seeds = [], 0, drawing.seeds
    teller = Teller()
    for part in drawing.parts():
        images.append(part.cpu())
        for image in part.cpu() if files else ():
            facts = drawing.facts | {"frugan:seed": str(seeds[done])}
            if drawing.classes is not None:
                facts["frugan:class"] = drawing.name_of(done)
            write.save_png(files[done], image, facts)
            done += 1
        teller.progress(sum(map(len, images)), len(seeds), "drawing")
    write.save_sheet(sheet, _sheet(drawing, torch.cat(images), teller), drawing.facts)
    teller.say(f"drawn: {counted(len(seeds), 'picture')}, {sheet}")


def _suffix(drawing: Drawing, index: int) -> str:
    """The class in a file name: its number, as different names may look alike in plain letters, and its name."""
    if drawing.classes is None:
        return ""
    plain = "".join(letter if letter.isalnum() else "_" for letter in drawing.name_of(index))[:40]
    return f"-{drawing.classes[index]}-{plain}"


def _sheet(drawing: Drawing, images: "Tensor", teller: Teller) -> "Tensor":
    """A titled row (or several) for each class where it has two pictures or more, else the class below each picture; of
    more classes than fit evenly chosen ones.
    """
    from frugan.data import write

    if drawing.classes is None:
        return write.grid(images)
    members: dict[int, list[int]] = {}
    for place, number in enumerate(drawing.classes):
        members.setdefault(number, []).append(place)
    names, is_single = write.titles(drawing.model.class_names), len(members) == len(images)
    needed = sum(-(-len(places) // _ROW) for places in members.values())
    most = _ROW * _ROWS if is_single else max(_ROWS * len(members) // needed, 1)
    numbers = write.even(list(members), most)
    unsaid = write.legend(drawing.model.class_names, numbers, available=len(members))
    if unsaid:
        teller.say(f"in the sheet {unsaid}")
    if is_single:
        parts = [numbers[start : start + _ROW] for start in range(0, len(numbers), _ROW)]
        rows = [("", images[[members[number][0] for number in part]]) for part in parts]
        return write.labelled_grid(rows, captions=[[names[number] for number in part] for part in parts])
    rows = []
    for number in numbers:
        own = members[number]
        rows += [
            (names[number] if start == 0 else "", images[own[start : start + _ROW]])
            for start in range(0, len(own), _ROW)
        ]
    if len(rows) > _ROWS:
        teller.say(f"the sheet shows the first {_ROWS} of {len(rows)} rows")
    return write.labelled_grid(rows[:_ROWS])


def _walk(drawing: Drawing, film: "Film") -> None:
    from frugan.data import write

    between, seeds = max(round(film.fps * film.sigma_seconds), 1), drawing.seeds
    parts = drawing.model.walk(
        seeds,
        frames_between=between,
        psi=drawing.psi,
        truncate_to=drawing.truncate_to,
        classes=drawing.classes,
        resolution=drawing.resolution,
        batch=drawing.batch,
    )
    film.path.parent.mkdir(parents=True, exist_ok=True)
    write.save_video(film.path, (frame.cpu() for part in parts for frame in part), film.fps)
    frames, stops = counted(between * len(seeds), "frame"), counted(len(seeds), "seed")
    print(f"drawn: a walk of {frames} through {stops}, {film.path}")


@dataclasses.dataclass(frozen=True)
class Film:
    """Where a film goes, its frames a second, its length where it is smooth, and how long it takes to change."""

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


def _smooth_walk(drawing: Drawing, shape: tuple[int, int] | None, film: Film) -> None:
    from frugan.data import write

    seeds = drawing.seeds
    if shape is not None and shape[0] * shape[1] != len(seeds):
        raise ValueError(f"a grid of {shape[0]}x{shape[1]} needs {shape[0] * shape[1]} seeds, got {len(seeds)}")
    frames = round(film.fps * film.seconds)
    if film.seconds < 4 * film.sigma_seconds or frames < 2:
        raise ValueError(f"--seconds must be at least 4 times --seconds-between, got {film.seconds:g}")
    columns = None if shape is None else shape[0]
    moments = drawing.model.wander(
        seeds,
        frames=frames,
        sigma=film.fps * film.sigma_seconds,
        psi=drawing.psi,
        truncate_to=drawing.truncate_to,
        classes=drawing.classes,
        resolution=drawing.resolution,
        batch=drawing.batch,
    )
    teller = Teller()

    def sheets() -> "Iterator[Tensor]":
        for done, pictures in enumerate(moments, start=1):
            yield write.grid(pictures.cpu(), columns=columns)
            teller.progress(done, frames, "drawing")

    film.path.parent.mkdir(parents=True, exist_ok=True)
    write.save_video(film.path, sheets(), film.fps)
    teller.say(f"drawn: a smooth walk of {frames} frames, {counted(len(seeds), 'seed')} side by side, {film.path}")


def _data_set(drawing: Drawing, path: Path, wish: _Wish, overwrite: bool) -> None:
    from frugan.data.sink import Sink

    seeds, classes = drawing.seeds, drawing.classes
    facts = drawing.facts | {"frugan:first_seed": str(seeds[0])}
    if classes is not None:  # an unfinished set goes on only where the same classes are asked for
        facts["frugan:classes"] = f"{wish.classes or 'all'}, {wish.per_class or wish.balance or 'even'}"
    teller = Teller()
    path.parent.mkdir(parents=True, exist_ok=True)
    names = drawing.model.class_names
    with Sink(path, total=len(seeds), metadata=facts, overwrite=overwrite, class_names=names) as sink:
        for part in drawing.parts(sink.count):
            own = None if classes is None else classes[sink.count : sink.count + len(part)]
            sink.add(part.cpu(), own)
            teller.progress(sink.count, sink.total, "drawing")
    teller.say(f"drawn: {counted(len(seeds), 'picture')}, {path}")
