"""`frugan evaluate`: how near generated pictures come to real ones, in numbers that say how they were made."""

import contextlib
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from frugan.cli import parse
from frugan.cli.tell import Teller, left_out, words

if TYPE_CHECKING:
    from frugan.data import DataConfig, DataError, Dataset, Source
    from frugan.evaluation import EvaluationConfig, Evaluator, Scores
    from frugan.model import Model

_LOOKED_AT = 1_000  # pictures of which the size is asked
_MODEL_FILES = (".pkl", ".pt", ".pth", ".ckpt", ".safetensors")


def evaluate(
    generated: str,
    /,
    *,
    data: str | None = None,
    metrics: str = "kid,fid,pr",
    features: str = "efficientnet_lite0",
    weights: Path | None = None,
    download_weights: Annotated[bool, Parameter(negative="")] = False,
    count: Annotated[int | None, Parameter(name=["--count", "-n"])] = None,
    reals: int | None = None,
    psi: Annotated[float, parse.FINITE] = 1.0,
    noise: Literal["const", "none", "random"] = "const",
    statistics: str | None = None,
    seed: int = 0,
    ddof: Literal[0, 1] = 0,
    resolution: int | None = None,
    out: Path | None = None,
    device: str = "auto",
) -> None:
    """Score generated pictures against real ones. Features are kept, so asking again takes seconds.

    Parameters
    ----------
    generated
        A run, a checkpoint or demo, which then draw; or pictures: a folder, a zip, demo:faces.
    data
        The real pictures, as for `frugan train`; of a run by default those it learned from. For a translator pairs or
        two domains: its part for tests where there is one; outputs are held against their own targets too.
    metrics
        Of kid, fid, pr (precision, recall), dc (density, coverage), is, nn (nearest real pictures, copying), classes
        (kid, fid, pr, dc of each class; of two folders these must have the same classes), ppl, ppl-w-full, ppl-z-end,
        ppl-z-full, and, without a network, swd (patches at several scales) and ms-ssim (how alike the pictures are);
        separated by commas. For small sets trust kid first.
    features
        The network that looks: efficientnet_lite0, inception_2015 (the one that FID is defined by), hed (path lengths
        are then HED-LPIPS).
    weights
        Its file, where it is not in its usual place.
    download_weights
        Fetch those of inception_2015 (95 MB) from the internet unless they are there; else nothing is ever downloaded.
    count
        How many pictures a model draws (2000), or how many of a folder are taken (all).
    reals
        How many real pictures are taken; by default all, at most 10,000.
    psi
        1 measures all the variety; below 1 scores flatter.
    noise
        const: the model's own; random: new for each picture; none.
    statistics
        By which statistics of batches a model of the BigGAN family draws, where not by its own: standing (made anew
        from 1,024 pictures), or batch, such as batch:64 (of so many pictures drawn together, 50 by default).
    seed
        Which pictures are drawn and chosen.
    ddof
        Covariances are divided by N - ddof: 0 as NVIDIA does, 1 as others do.
    resolution
        Pixels per side of folders (a model has its own); by default the size that most generated pictures have.
    out
        The folder for scores.json, with nn neighbours.png, with nn and classes also neighbours-by-class.png; by default
        evaluation/NAME.
    device
        auto, cpu, cuda or cuda:1.
    """
    import torch

    from frugan.evaluation import EvaluationConfig, Evaluator
    from frugan.evaluation.protocol import CLASSES
    from frugan.features import open_extractor

    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    model = _normalised(_model(generated, kind), statistics)
    config = EvaluationConfig(
        metrics=tuple(dict.fromkeys(name.strip() for name in metrics.split(",") if name.strip())),
        features=features,
        num_fake=2000 if count is None and model is not None and not model.is_translator else count,
        num_real=reals,
        psi=psi,
        noise=noise,
        seed=seed,
        ddof=ddof,
    )
    teller = Teller(plain_seconds=5)
    if download_weights:
        weights = _fetched(features, weights, teller)
    extractor = open_extractor(features, weights, kind) if config.needs_features else None
    fakes, against = _sides(generated, model, data, resolution, teller, is_by_class=CLASSES in config.metrics)
    evaluator = Evaluator(against, extractor, config, teller.progress, kind)
    scores = evaluator.score(fakes)
    teller.say(scores.text())
    teller.say(f"took {words(scores.seconds)}")
    place = out or Path("evaluation") / (generated.replace(":", "-") if model is None else Path(generated).name)
    _write(place, evaluator, fakes, scores, teller)


def _model(generated: str, device: str) -> "Model | None":
    """The model of that name or place; None where it is pictures."""
    from frugan import checkpoint, load
    from frugan.model import BUNDLED

    path = Path(generated)
    marks = (checkpoint.INDEX, "recipe.json", "checkpoints")
    is_file = path.is_file() and path.suffix.lower() in _MODEL_FILES
    is_bundled = generated in BUNDLED and not path.exists()
    if is_bundled or is_file or any((path / mark).exists() for mark in marks):
        return load(generated, device=device)
    return None


def _fetched(features: str, weights: Path | None, teller: Teller) -> Path:
    """The weights of the network of that name, from where they are published."""
    from frugan.features.inception import download_inception_2015

    if weights is not None:
        raise ValueError("give --weights or --download-weights, not both")
    if features != "inception_2015":
        raise ValueError(f"--download-weights is for --features inception_2015, got {features}: leave it out")
    teller.say("the weights of inception_2015 (95 MB) are fetched unless they are there")
    try:
        return download_inception_2015(consent=True)
    except OSError as error:
        raise ValueError(f"the weights of inception_2015 could not be fetched: {error}") from None


def _normalised(model: "Model | None", statistics: str | None) -> "Model | None":
    """The model by the statistics of `standing`, `batch` or `batch:64`."""
    from frugan.evaluation.statistics import BatchStatistics, normalised_by
    from frugan.models.standing import StandingStatistics

    if statistics is None:
        return model
    if model is None:
        raise ValueError("--statistics is for a model, which then draws by them; these are pictures: leave it out")
    kind, colon, number = statistics.partition(":")
    if statistics == "standing":
        return normalised_by(model, StandingStatistics())
    if kind != "batch" or (colon and not number.isdecimal()):
        raise ValueError(f"--statistics must be standing, batch, or such as batch:64, got {statistics!r}")
    return normalised_by(model, BatchStatistics(batch=int(number)) if colon else BatchStatistics())


def _sides(
    generated: str, model: "Model | None", data: str | None, resolution: int | None, teller: Teller, is_by_class: bool
) -> "tuple[Model | Dataset, Dataset]":
    """Generated and real pictures, of one size; of folders their classes are read only where they are asked for."""
    from frugan.data import DataConfig, prepare

    if model is None:
        if data is None:
            raise ValueError(f"--data is needed: {generated} is not a run, so nothing says which pictures are real")
        fake_source, real_source = parse.source(generated), parse.source(data)
        side = resolution or _side(fake_source)
        config = DataConfig(resolution=side, labels="auto" if is_by_class else "none")
        fakes, reals = (prepare(source, config, teller.progress) for source in (fake_source, real_source))
        left_out(fakes, teller)
        left_out(reals, teller)
        return fakes, reals
    if model.is_translator:
        return _translations(generated, model, data, resolution, teller)
    if resolution not in (None, model.resolution):
        raise ValueError(f"this model draws at {model.resolution} px; leave --resolution out")
    source = parse.source(data) if data is not None else _own_data(generated, model)
    reals = prepare(source, _own_config(Path(generated), model), teller.progress)
    left_out(reals, teller)
    return model, reals


def _translations(
    generated: str, model: "Model", data: str | None, resolution: int | None, teller: Teller
) -> "tuple[Model, Dataset]":
    """A translator on the sources of a set, and the targets: prepared as its run did it, without random crops.

    Of a set with a part for tests, that part.
    """
    from frugan.data import DataError
    from frugan.data.streams import prepare_streams
    from frugan.training.folder import RunFolder

    folder = RunFolder(Path(generated))
    if not folder.exists:
        raise ValueError(
            f"{generated} is not a run, so nothing says how its sources are prepared: translate them with `frugan "
            "translate`, then compare the two folders with `frugan evaluate OUTPUTS --data TARGETS`"
        )
    configs = {name: dataclasses.replace(config, limit=None) for name, config in folder.read_recipe().data.items()}
    if resolution is not None:
        configs = {name: config.sized(resolution) for name, config in configs.items()}
    source = parse.source(data) if data is not None else _own_data(generated, model)
    tested = {name: dataclasses.replace(config, part="test") for name, config in configs.items()}
    try:
        streams = prepare_streams(source, tested, teller.progress)
    except DataError as problem:  # it has parts, but none for tests that has both sides
        _refuse_empty(source, problem)
        streams = prepare_streams(source, configs, teller.progress)
        teller.say(f"scored on all that is for training: {problem}")
    known = folder.read_facts().get("fingerprints") or {}
    if known.get("source") == streams["source"].fingerprint:
        teller.say("these are the pictures that it learned from, and there is no part for tests to score it on")
    return model.on(streams["source"]), streams["target"]


def _refuse_empty(source: "Path | Source", problem: "DataError") -> None:
    """Raise DataError where a set's part for tests is there and holds no picture, which is hardly meant so."""
    from frugan.data import DataError, Source, open_source
    from frugan.data.layouts import is_empty_part

    with source if isinstance(source, Source) else open_source(source, "none", "test") as opened:
        if is_empty_part(opened, "test"):
            raise DataError(
                f"{problem}. Put pictures into its part for tests, or remove it to score those for training"
            )


def _side(source: "Path | Source") -> int:
    """The shorter side that most of the pictures have which can be read, looking at no more than `_LOOKED_AT`."""
    from frugan.data import DataError, PictureError, Source, open_source
    from frugan.data.pictures import open_member
    from frugan.data.write import even

    sides: Counter[int] = Counter()
    with source if isinstance(source, Source) else open_source(source) as opened:
        for index in even(range(len(opened.names)), _LOOKED_AT):
            with contextlib.suppress(PictureError), open_member(opened.load(index)) as image:
                sides[min(image.size)] += 1
    if not sides:
        raise DataError(f"{opened.path} holds no picture that can be read")
    return sides.most_common(1)[0][0]


def _own_data(generated: str, model: "Model") -> "Path | Source":
    facts = model.info.get("data") or {}
    known = facts.get("source")
    if not known:
        raise ValueError(f"--data is needed: {generated} does not say what it learned from")
    if not known.startswith("demo:") and not Path(known).exists():
        raise ValueError(f"the pictures that {generated} learned from are no longer at {known}: say where with --data")
    return parse.source(known)


def _own_config(path: Path, model: "Model") -> "DataConfig":
    """How the run prepared its pictures; for other models their size and channels."""
    from frugan.data import DataConfig
    from frugan.training.folder import RunFolder

    folder = RunFolder(path)
    if folder.exists:
        config = next(iter(folder.read_recipe().data.values()))
        return dataclasses.replace(config, resolution=model.resolution)
    channels: Any = model.generator.config.channels
    return DataConfig(resolution=model.resolution, channels=channels)


def _write(place: Path, evaluator: "Evaluator", fakes: "Model | Dataset", scores: "Scores", teller: Teller) -> None:
    from frugan.data import write

    config: EvaluationConfig = evaluator.config
    path = place / "scores.json"
    with write.replacing(path) as part:
        part.write_text(json.dumps(scores.as_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    teller.say(f"written: {path}")
    if "nn" in config.metrics:
        sheet = place / "neighbours.png"
        facts = {"frugan:extractor": str(scores.protocol.extractor)}
        write.save_sheet(sheet, evaluator.sheet(fakes, scores), facts)
        teller.say(f"drawn:   {sheet}")
        if scores.classes is not None:
            by_class, unsaid = evaluator.class_sheet(fakes)
            sheet = place / "neighbours-by-class.png"
            write.save_sheet(sheet, by_class, facts)
            teller.say(f"drawn:   {sheet}{f' ({unsaid})' if unsaid else ''}")
