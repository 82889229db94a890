"""`frugan train`: from a folder of pictures to a run folder."""

import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from frugan.cli import parse
from frugan.cli.tell import Teller, left_out

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from frugan.data import DataConfig, Dataset
    from frugan.model import Model
    from frugan.training.folder import RunFolder
    from frugan.training.recipe import Recipe
    from frugan.training.run import Outcome

_PAIRS_LOOKED_AT = 64  # to tell whether pictures belong together in pairs


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user asked for about the recipe; None and empty where nothing was said."""

    recipe: str | None = None
    config: Path | None = None
    resolution: int | None = None
    images: str | None = None
    budget: str | None = None
    parent: str | None = None
    augment: str | None = None
    batch: int | None = None
    seed: int | None = None
    flip: bool | None = None
    channels: int | None = None
    labels: bool | None = None
    metrics: str | None = None
    settings: tuple[str, ...] = ()


def train(
    pictures: str,
    /,
    *,
    out: Path | None = None,
    recipe: str | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    budget: str | None = None,
    images: str | None = None,
    resolution: int | None = None,
    augment: str | None = None,
    flip: bool | None = None,
    channels: int | None = None,
    labels: bool | None = None,
    batch: int | None = None,
    seed: int | None = None,
    metrics: str | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    config: Path | None = None,
    device: str = "auto",
    licence: str | None = None,
    track: Literal["tensorboard"] | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> None:
    """Turn a folder of pictures into a generator. The same command goes on with a run that was stopped.

    Parameters
    ----------
    pictures
        A folder (sub-folders are classes), a zip, pairs, two domains or label maps in folders, CIFAR or MNIST files,
        Tiny-ImageNet, CUB-200-2011, or a bundled set: demo:faces, demo:animals, demo:emoji, demo:emoji-kinds.
    out
        The run folder; by default runs/NAME OF THE PICTURES.
    recipe
        A recipe's name (see `frugan recipes list`); by default one is chosen, with reasons.
    from_
        A model to continue from: demo, a run or a checkpoint.
    budget
        The time you have, such as 30min or 8h: size and length are planned from the speed measured here.
    images
        How many images to see, such as 200k; +200k extends a finished run.
    resolution
        Pixels per side, a power of two.
    augment
        diffaugment, or its policy such as color,translation,cutout; ada, or ada:SET such as ada:bgcf; none.
    flip
        Whether pictures may be mirrored (never for writing or flags).
    channels
        1 (grey), 3 (colour) or 4 (colour and transparency).
    labels
        --no-labels ignores classes.
    batch
        Images per step.
    seed
        Every random choice follows from it.
    metrics
        Scores at snapshots beside the quick one, such as kid or kid,pr (see `frugan evaluate`); none switches them off.
    set_
        Any other setting, as path=value, such as task.r1.gamma=1; may be repeated.
    config
        A recipe.json of another run to repeat, or what frugan recipes show prints, changed.
    device
        auto, cpu, cuda or cuda:1.
    licence
        The licence of the pictures, noted in the model card; that of a bundled or built set is known.
    track
        Also write for this tracker, into the run folder; its own log and report are always written.
    dry_run
        Say what would be done, with every setting, and stop.
    force
        Go on although settings or pictures have changed.
    """
    wishes = Wishes(
        recipe=recipe,
        config=config,
        resolution=resolution,
        images=images,
        budget=budget,
        parent=from_,
        augment=augment,
        batch=batch,
        seed=seed,
        flip=flip,
        channels=channels,
        labels=labels,
        metrics=metrics,
        settings=tuple(set_ or ()),
    )
    place = out or Path("runs") / _name(pictures)
    run(place, pictures, wishes, Teller(), device=device, licence=licence, track=track, dry_run=dry_run, force=force)


def _name(pictures: str) -> str:
    if pictures.startswith("demo:"):
        return pictures.removeprefix("demo:")
    return Path(pictures).expanduser().resolve().stem or "pictures"


def run(
    place: Path,
    pictures: str,
    wishes: Wishes,
    teller: Teller,
    *,
    device: str = "auto",
    licence: str | None = None,
    track: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> None:
    """Begin the training in the folder `place`, or go on with it, telling what happens."""
    import torch

    from frugan.data import prepare_streams
    from frugan.training.folder import RunFolder
    from frugan.training.run import Start, fit
    from frugan.training.run import train as train_run

    folder = RunFolder(place)
    if folder.exists:
        recipe = _wished_again(folder, wishes)
    else:
        kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        recipe = _wished(pictures, wishes, torch.device(kind), teller)
    # Settings of pictures count before those are prepared, all others after the recipe was fitted to them.
    early = [setting for setting in wishes.settings if setting.startswith("data.")]
    recipe = _with_settings(recipe, early)
    data = prepare_streams(parse.source(pictures), recipe.data, teller.progress)
    for dataset in data.values():
        _say_what_was_done(dataset, teller)
    recipe = _with_settings(fit(recipe, data), [setting for setting in wishes.settings if setting not in early])
    if dry_run:
        _print_plan(recipe)
        return
    if not folder.exists:
        for reason in recipe.reasons:
            teller.say(f"  {reason}")
    teller.say(_heading(recipe, place, {name: len(dataset) for name, dataset in data.items()}))
    outcome = train_run(
        place,
        recipe,
        data,
        Start(
            parent=wishes.parent,
            device=device,
            force=force,
            command=shlex.join(["frugan", *sys.argv[1:]]),
            pictures=pictures,
            licence=licence or _known_licence(folder, pictures),
            tell=_listener(place, teller, track),
        ),
    )
    _say_what_next(outcome, teller, translates="source" in recipe.data)
    if outcome.reason == "stopped":
        sys.exit(128 + (outcome.signal or signal.SIGINT))


def _say_what_next(outcome: "Outcome", teller: Teller, translates: bool) -> None:
    """Say what can be done with a run that has ended."""
    here = shlex.quote(str(outcome.run))
    if outcome.reason == "already finished":
        use = (
            f"`frugan translate {here} PICTURES OUT` uses it" if translates else f"`frugan sample {here}` draws from it"
        )
        teller.say(f"this run is finished: {outcome.images_seen:,} images were seen. `--images +100k` goes on, {use}")
        return
    teller.say(f"report: {outcome.run / 'report.html'}")
    options = "--seeds 0-63 --out samples"
    use = f"translate {here} PICTURES translated --gallery" if translates else f"sample {here} {options}"
    teller.say(f"next:   frugan {use}")


def _known_licence(folder: "RunFolder", pictures: str) -> str | None:
    """The licence of the pictures as it was said when the run was begun, or as a bundled or built set notes it."""
    from frugan.data.demo import DEMO_SETS
    from frugan.data.sources import read_notes

    if said := folder.read_facts().get("data", {}).get("licence"):
        return str(said)
    if (demo := DEMO_SETS.get(pictures.removeprefix("demo:"))) is not None and pictures.startswith("demo:"):
        return demo.licence
    noted = read_notes(Path(pictures).expanduser()).get("licence")
    return noted if isinstance(noted, str) else None


def _say_what_was_done(dataset: "Dataset", teller: Teller) -> None:
    """Say aloud what a set lost or gained on the way (pictures left out, enlarged), and classes that are too small."""
    from frugan.training.classes import class_worries

    left_out(dataset, teller, "; the report names all")
    for worry in class_worries(dataset):
        teller.say(f"  {worry}")
    enlarged = dataset.facts.num_upscaled
    if enlarged:
        which = (
            f"  {enlarged:,} of {len(dataset):,} pictures are smaller than {dataset.resolution + dataset.margin[0]} px"
        )
        if dataset.crop is not None:
            teller.say_once(f"{which}, from which {dataset.crop} px are cut at random, and were enlarged")
            return
        teller.say_once(
            f"{which} and were enlarged: they are not sharp, and what learns from them will not be. A smaller "
            "--resolution avoids it"
        )


def _listener(place: Path, teller: Teller, track: str | None) -> "Callable[[dict[str, Any]], None]":
    from frugan.training.track import TensorBoard, together

    if track is None:
        return teller.training
    try:
        return together(teller.training, TensorBoard(place / "tensorboard"))
    except ImportError:
        raise ValueError("--track tensorboard needs the package tensorboard: pip install 'frugan[track]'") from None


def _heading(recipe: "Recipe", run: Path, counts: dict[str, int]) -> str:
    config = next(iter(recipe.data.values()))
    one = len(counts) == 1
    pictures = ", ".join(f"{count:,} {'pictures' if one else name}" for name, count in counts.items())
    training = recipe.training
    size = f"{config.fed_resolution} px, batch {training.batch}"
    return f"{recipe.name}: {pictures}, {size}, to {training.total_images:,} images, in {run}"


def _wished_again(folder: object, wishes: Wishes) -> "Recipe":
    """The recipe of a run that was begun, with the settings asked for now put in (a difference is refused later)."""
    import dataclasses

    from frugan import checkpoint
    from frugan.training.folder import RunError, RunFolder

    assert isinstance(folder, RunFolder)
    recipe = folder.read_recipe()
    if wishes.recipe is not None and wishes.recipe not in (recipe.name, "auto"):
        begun = f"{folder.path} was begun with the recipe {recipe.name!r}"
        raise RunError(f"{begun}; use another --out for {wishes.recipe!r}")
    begun_at = next(iter(recipe.data.values())).fed_resolution
    if wishes.resolution not in (None, begun_at):
        raise RunError(f"{folder.path} was begun at {begun_at} px; use another --out for {wishes.resolution} px")
    recipe = _put_in(recipe, wishes)
    if wishes.images is None:
        return recipe
    number, is_more = parse.images(wishes.images)
    total = recipe.training.total_images
    if is_more:
        found = checkpoint.list_checkpoints(folder.checkpoints)
        is_finished = bool(found) and int(found[-1].name) >= total
        number = total + number if is_finished else total
    lr = recipe.training.lr
    if lr is not None and number > total and lr.at(total) == 0:
        raise RunError(
            f"{folder.path} cannot go on beyond {total:,} images: its learning rate comes to 0 there; begin a new run "
            "from it with --from"
        )
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, total_images=number))


def _wished(pictures: str, wishes: Wishes, device: object, teller: Teller) -> "Recipe":
    """The recipe for a new run: named, read from a file, or chosen from the pictures."""
    import dataclasses

    import torch

    from frugan.config import suggest
    from frugan.model import load
    from frugan.recipes import RECIPES

    assert isinstance(device, torch.device)
    parent: Model | None = load(wishes.parent) if wishes.parent is not None else None
    if wishes.config is not None:
        recipe = _read(wishes.config)
    elif wishes.recipe not in (None, "auto"):
        if wishes.recipe not in RECIPES:
            raise ValueError(f"there is no recipe {wishes.recipe!r}{suggest(str(wishes.recipe), RECIPES)}")
        recipe = _named(RECIPES[str(wishes.recipe)], pictures, wishes, teller)
        if parent is not None:
            recipe = _of_parent(recipe, parent)
    else:
        recipe = _chosen(pictures, wishes, device, parent, teller)
    if wishes.config is not None or wishes.recipe not in (None, "auto"):
        _say_if_for_translation(pictures, recipe, teller)
    recipe = _put_in(recipe, wishes)
    if wishes.images is not None:
        number, _ = parse.images(wishes.images)
        recipe = dataclasses.replace(recipe, training=recipe.training.lasting(number))
    return recipe


def _say_if_for_translation(pictures: str, recipe: "Recipe", teller: Teller) -> None:
    """Say so where a recipe that learns one set of pictures was asked for, but these lie as a set for translation."""
    from frugan.data import DataError, inspect_pairs, recommend_pairs

    if any(config.role != "images" for config in recipe.data.values()):
        return
    try:
        found = inspect_pairs(parse.source(pictures), limit=_PAIRS_LOOKED_AT, progress=teller.progress)
    except DataError:  # such as a folder source/ alone: nothing to translate
        return
    if found is not None:
        teller.say(
            f"  these pictures lie as a set for translation ({found.layout}), of which {recipe.name} draws all sides "
            f"alike or as classes; to learn to translate, use --recipe {recommend_pairs(found).recipe}"
        )


def _read(path: Path) -> "Recipe":
    """The recipe in a file, JSON as runs keep it or YAML as it is shown (which takes 1e-06 for a word)."""
    import json

    import yaml

    from frugan.config import from_dict
    from frugan.training.recipe import Recipe

    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"no recipe can be read from {str(path)!r}: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(
            f"{str(path)!r} holds no settings; give a run's recipe.json, or what `frugan recipes show` prints"
        )
    return from_dict(Recipe, settings)


def _chosen(pictures: str, wishes: Wishes, device: object, parent: "Model | None", teller: Teller) -> "Recipe":
    """The recipe that suits the pictures, which may be a set for translation, with reasons."""
    import torch

    from frugan.data import inspect, inspect_pairs, recommend, recommend_pairs
    from frugan.recipes import auto

    assert isinstance(device, torch.device)
    seconds = None if wishes.budget is None else parse.duration(wishes.budget)
    if wishes.images is None:
        teller.plan(seconds)
    pairs = inspect_pairs(parse.source(pictures), limit=500, progress=teller.progress)
    if pairs is None:
        advice = recommend(inspect(parse.source(pictures), limit=2_000, progress=teller.progress))
        return auto.choose(advice, device, resolution=wishes.resolution, budget_seconds=seconds, parent=parent)
    found = recommend_pairs(pairs)
    recipe = auto.choose_translator(found, device, resolution=wishes.resolution, budget_seconds=seconds)
    return recipe if parent is None else _of_parent(recipe, parent)


def _named(function: "Callable[..., Recipe]", pictures: str, wishes: Wishes, teller: Teller) -> "Recipe":
    """What a recipe's function returns: for the resolution asked for where it leaves that open, or the pictures' own
    where it names none itself.
    """
    import inspect as inspecting

    from frugan.data import inspect, recommend

    asked = inspecting.signature(function).parameters.get("resolution")
    if asked is None:
        return function()
    if wishes.resolution is not None:
        return function(resolution=wishes.resolution)
    if asked.default is None and wishes.parent is None:
        advice = recommend(inspect(parse.source(pictures), limit=2_000, progress=teller.progress))
        return function(resolution=advice.resolution)
    return function()


def _of_parent(recipe: "Recipe", parent: "Model") -> "Recipe":
    """A named recipe with the parent's networks; what grows begins full-grown."""
    import dataclasses
    from typing import Any

    from frugan.config import to_dict

    generator: Any = parent.generator.config
    if not isinstance(generator, type(recipe.task.generator)):
        raise ValueError(f"the recipe {recipe.name!r} trains other networks than the {parent.family} model given")
    changes: dict[str, Any] = {"generator": generator}
    discriminator = None if parent.discriminator is None else getattr(parent.discriminator, "config", None)
    if isinstance(discriminator, type(recipe.task.discriminator)):
        changes["discriminator"] = discriminator
    if "growth" in to_dict(recipe.task):
        changes["growth"] = None
    task = dataclasses.replace(recipe.task, **changes)
    if "images" not in recipe.data:  # translators work at any size
        return dataclasses.replace(recipe, task=task)
    shape = parent.artist.config
    size: dict[str, Any] = {"resolution": shape.resolution, "channels": shape.channels}
    images = dataclasses.replace(recipe.data["images"], **size)
    return dataclasses.replace(recipe, task=task, data={"images": images})


def _put_in(recipe: "Recipe", wishes: Wishes) -> "Recipe":
    """The recipe with the flags about pictures and training put in."""
    import dataclasses

    from frugan.augment import named
    from frugan.evaluation import EvaluationConfig

    changes: dict[str, object] = {}
    if wishes.channels is not None:
        changes["channels"] = wishes.channels
    if wishes.flip is not None:
        changes["flip"] = "on" if wishes.flip else "off"
    if wishes.labels is not None:
        changes["labels"] = "auto" if wishes.labels else "none"
    data: dict[str, DataConfig] = {
        name: dataclasses.replace(config.sized(wishes.resolution or config.fed_resolution), **changes)  # type: ignore[arg-type]
        for name, config in recipe.data.items()
    }
    training = recipe.training
    if wishes.batch is not None:
        training = dataclasses.replace(training, batch=wishes.batch)
    if wishes.seed is not None:
        training = dataclasses.replace(training, seed=wishes.seed)
    if wishes.metrics is not None:
        asked = tuple(name.strip() for name in wishes.metrics.split(",") if name.strip())
        scores = None if asked == ("none",) else EvaluationConfig(metrics=asked, num_fake=training.score_images)
        training = dataclasses.replace(training, evaluation=scores)
    task, reasons = recipe.task, recipe.reasons
    if wishes.augment is not None:
        task = dataclasses.replace(task, augment=named(wishes.augment))
        kept = tuple(reason for reason in reasons if not reason.startswith("DiffAugment"))
        reasons = (*kept, f"augmentation {wishes.augment}: as asked") if reasons else ()
    return dataclasses.replace(recipe, data=data, training=training, task=task, reasons=reasons)


def _with_settings(recipe: "Recipe", settings: "Sequence[str]") -> "Recipe":
    from frugan.config import override_all

    changes = []
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set needs path=value, got {setting!r}")
        changes.append((path.strip(), value.strip()))
    return override_all(recipe, changes)


def _print_plan(recipe: "Recipe") -> None:
    import yaml

    from frugan.config import to_dict

    print(yaml.safe_dump(to_dict(recipe), sort_keys=False, width=110), end="")
