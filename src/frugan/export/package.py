"""The folder that an export writes: the model, its facts, a card; only if it draws what the trained model draws."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import frugan
from frugan.checkpoint import write_durably
from frugan.config import counted
from frugan.data.write import explained
from frugan.export.graph import Network, exported, fixed_size, inputs_of, random_source, to_onnx
from frugan.metrics.measure import Latency, Memory, latencies, peak_memory
from frugan.model import Model
from frugan.models.biggan import BigGANGenerator
from frugan.models.generator import ImageGenerator, ImageTranslator
from frugan.models.spade import SpadeConfig
from frugan.models.stylegan2 import Generator
from frugan.runtime import FACTS, Runtime, drawing

Target = Literal["onnx", "openvino"]
Precision = Literal["fp32", "fp16", "bf16"]
FORMAT = 1
FACTS_FILE, CARD = "model.json", "README.md"
FILES = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
LEVELS = 127.5  # grey levels for one unit of the models' [-1, 1]
FP32_LIMIT = 1e-4
MEASURED = (256, 256)  # the size at which translators of pictures are timed


class ExportError(ValueError):
    """An export that was refused, with the reason; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How far an exported model may be from the trained one.

    In grey levels of 255, at the worst pixel and on average over all pixels.
    """

    worst_levels: float
    mean_levels: float


LIMITS: dict[Precision, Limit] = {
    "fp32": Limit(worst_levels=FP32_LIMIT * LEVELS, mean_levels=FP32_LIMIT * LEVELS),
    "fp16": Limit(worst_levels=4.0, mean_levels=0.25),
    "bf16": Limit(worst_levels=24.0, mean_levels=2.0),
}
"""Allowed distances. Pictures that leave [-1, 1] are measured by their own largest value instead of 1."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The distance measured between exported and trained model over `pictures` pictures, in grey levels."""

    worst_levels: float
    mean_levels: float
    worst_w: float
    pictures: int
    execution: str


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and what was measured here.

    `sizes`: bytes of each file. `latency`: by (who, batch size), eager float32 torch and exported, on `threads`
    threads. `memory`: of a process that loads the model and draws one picture. `notes`: what a user should know.
    """

    folder: Path
    model: Path
    sizes: dict[str, int]
    verification: Verification
    latency: dict[tuple[str, int], Latency]
    threads: int
    memory: Memory | None
    notes: tuple[str, ...]
    usage: str


def export(
    model: Model,
    folder: Path,
    *,
    to: Target = "onnx",
    precision: Precision = "fp32",
    overwrite: bool = False,
    repeats: int = 20,
    progress: Callable[[str], object] | None = None,
) -> Exported:
    """Write `model` as files that run without torch, compare them with it, and measure them.

    `fp32` computes and stores float32. `fp16` stores weights in half the size and computes in float32: for downloads.
    `bf16` (OpenVINO) also computes in bfloat16 where the processor can. `folder` appears whole or not at all; one that
    exists is replaced only with `overwrite`, and only if nothing but an export is in it. `progress` is told what goes
    on. `repeats`: how often each time is measured; 0 measures nothing.
    Raises ExportError where the result would differ from the model by more than `LIMITS`, for a precision the target
    does not have, and where a package is missing; OutputError where it cannot write.
    """
    tell = progress or (lambda _: None)
    if precision == "bf16" and to == "onnx":
        raise ExportError("bf16 needs --to openvino; onnxruntime computes in float32 on a CPU, so take fp32 or fp16")
    generator: Network = model.translator if model.is_translator else _grown(model)
    _check_place(folder, overwrite)
    _check_packages(to)
    facts = _facts(model, to, precision)
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    with explained(folder):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            tell("tracing the network (half a minute or so)")
            _write(generator, scratch, facts, to, precision)
            path = scratch / FILES[to][0]
            tell("comparing with the trained model")
            verification = verify(generator, Runtime(path), precision)
            _refuse(verification, precision)
            tell("measuring")
            latency = _latency(generator, path, repeats) if repeats else {}
            memory = peak_memory(drawing, str(path)) if repeats else None
            _describe(model, scratch, facts, verification, to, precision)
            sizes = {file.name: file.stat().st_size for file in sorted(scratch.iterdir())}
            _publish(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Exported(
        folder=folder,
        model=folder / FILES[to][0],
        sizes=sizes,
        verification=verification,
        latency=latency,
        threads=torch.get_num_threads(),
        memory=memory,
        notes=_notes(precision, verification),
        usage=usage(model, "onnxruntime" if to == "onnx" else "openvino", str(folder / FILES[to][0])),
    )


def _grown(model: Model) -> ImageGenerator:
    if not model.is_grown:
        stage = model.info["stage"]
        raise ExportError(
            f"this generator is still growing: at {stage['resolution']} of {model.resolution} px, its newest layers at "
            f"{stage['alpha']:.0%}; train it on, then export it"
        )
    return model.artist


def _check_place(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ExportError(f"{folder} is a file; an export is a folder")
    found = {path.name for path in folder.iterdir()}
    if not found:
        return
    own = {FACTS_FILE, CARD, *(name for names in FILES.values() for name in names)}
    if found - own or FACTS_FILE not in found:
        raise ExportError(
            f"{folder} holds other things than an export ({min(found - own or found)}); use another --out"
        )
    if not overwrite:
        raise ExportError(f"{folder} holds an export already; use another --out or --overwrite")


def _facts(model: Model, to: Target, precision: Precision) -> dict[str, Any]:
    """What a program needs to know to run the model, and a person to use it."""
    data = model.info.get("data") or {}
    return {
        "format": FORMAT,
        "frugan": frugan.__version__,
        "model": model.hash,
        "target": to,
        "weights": "float32" if precision == "fp32" else "float16",
        "execution": "bfloat16" if precision == "bf16" else "float32",
        "class_names": list(model.class_names),
        "licence": model.info.get("licence"),
        "data_licence": data.get("licence"),
        "images_seen": model.info.get("images_seen"),
        **(_facts_of_translator(model.translator) if model.is_translator else _facts_of_generator(model)),
    }


def _facts_of_translator(net: ImageTranslator) -> dict[str, Any]:
    config, size = net.config, fixed_size(net)
    height, width = size or ("H", "W")
    labels = config.num_labels if isinstance(config, SpadeConfig) else None
    if labels is None:
        meaning = f"pixels are round(127.5 (x + 1)); sides are multiples of {config.multiple}, and at least 8"
    else:
        edges = ", and one of the edges of instances" if config.source_channels == 2 else ""
        meaning = f"a map of 0 and 1 for each of {labels} labels{edges}"
    maps = inputs_of(net, 1)["source"].shape[1]
    return {
        "source_channels": config.source_channels,
        "channels": config.channels,
        "multiple": config.multiple,
        "size": None if size is None else list(size),
        "num_labels": labels,
        "inputs": [{"name": "source", "shape": ["N", maps, height, width], "dtype": "float32", "meaning": meaning}],
        "outputs": [_images(config.channels, height, width)],
    }


def _images(channels: int, height: int | str, width: int | str) -> dict[str, Any]:
    return {
        "name": "images",
        "shape": ["N", channels, height, width],
        "dtype": "float32",
        "meaning": "about [-1, 1]; as pixels round(127.5 (x + 1)), limited to 0..255",
    }


def _facts_of_generator(model: Model) -> dict[str, Any]:
    net = model.artist
    config = net.config
    meanings = {
        "z": f"latent codes: rows of normal random numbers{_meaning_of_codes(net)}",
        "psi": "truncation of each style: 1 none, 0 gives the average",
        "w_shift": "added to w: edits; 0 for none",
        "noise_strength": "of the stored noise maps: 1 as trained, 0 none",
        "labels": "one-hot rows",
    }
    shapes: dict[str, list[int | str]] = {
        name: ["N", *tensor.shape[1:]] if tensor.ndim > 1 else list(tensor.shape)
        for name, tensor in inputs_of(net, 1).items()
    }
    facts: dict[str, Any] = {
        "resolution": config.resolution,
        "channels": config.channels,
        "z_dim": config.z_dim,
        "inputs": [
            {"name": name, "shape": shape, "dtype": "float32", "meaning": meanings[name]}
            for name, shape in shapes.items()
        ],
        "outputs": [_images(config.channels, config.resolution, config.resolution)],
    }
    if isinstance(net, Generator):
        styles = {
            "name": "w",
            "shape": ["N", net.config.num_ws, net.config.w_dim],
            "dtype": "float32",
            "meaning": "the styles that were drawn: average + psi (mapping(z) - average) + w_shift",
        }
        facts |= {"w_dim": net.config.w_dim, "num_ws": net.config.num_ws, "outputs": [*facts["outputs"], styles]}
    return facts


def _meaning_of_codes(net: ImageGenerator) -> str:
    """Which numbers of z choose InfoGAN's codes, and how; empty where there are none."""
    if not isinstance(net, BigGANGenerator) or net.config.codes is None:
        return ""
    codes, first, parts = net.config.codes, net.config.latent_dim, []
    if codes.num_discrete:
        each = counted(codes.num_discrete, "choice")
        parts.append(f"{each} of {codes.discrete_size} numbers, where the place of the largest is the value")
    if codes.num_continuous:
        start = first + codes.num_discrete * codes.discrete_size
        parts.append(f"from place {start} on {counted(codes.num_continuous, 'number')} x, each the code 2 Phi(x) - 1")
    return f"; from place {first} on (counted from 0) they choose InfoGAN's codes: {'; '.join(parts)}"


def _check_packages(to: Target) -> None:
    missing = [name for name in ("onnx", "onnxscript") if not _is_installed(name)]
    if missing:
        raise ExportError(f"an export needs {' and '.join(missing)}: pip install 'frugan[export]'")
    if to == "openvino" and not _is_installed("openvino"):
        raise ExportError("an export to OpenVINO needs openvino: pip install 'frugan[openvino]'")


def _write(generator: Network, folder: Path, facts: dict[str, Any], to: Target, precision: Precision) -> None:
    data = to_onnx(generator, facts, half=to == "onnx" and precision == "fp16")
    if to == "onnx":
        write_durably(folder / "model.onnx", data)
        return
    import openvino

    whole = openvino.Core().read_model(data)
    whole.set_rt_info(json.dumps(facts, sort_keys=True), FACTS)
    openvino.save_model(whole, folder / "model.xml", compress_to_fp16=precision != "fp32")


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


# ---- comparison ---------------------------------------------------------------------------------------------------


def _cases(generator: Network) -> list[dict[str, Tensor]]:
    """Inputs to compare on: random sources of two sizes and batches; or for a generator batch sizes 1 and 4, random z
    and zeros, and where there are styles psi 1 and 0.7, no noise, psi by style, shifted w.
    """
    if isinstance(generator, ImageTranslator):
        step = generator.config.multiple
        large = max(step, 64)
        sizes = ((large, large), (max(step, 16), large + step))
        return [{"source": random_source(generator, batch, size, batch)} for batch in (1, 2) for size in sizes]
    draw = torch.Generator().manual_seed(0)
    cases = []
    for batch in (1, 4):
        inputs = inputs_of(generator, batch)
        changes: list[dict[str, Tensor]] = [{}, {"z": torch.zeros(batch, generator.config.z_dim)}]
        if isinstance(generator, Generator):
            changes += _changes_of_styles(inputs, generator.config.num_ws, draw)
        cases += [{**inputs, "z": torch.randn(inputs["z"].shape, generator=draw), **change} for change in changes]
    return cases


def _changes_of_styles(inputs: dict[str, Tensor], num_ws: int, draw: torch.Generator) -> list[dict[str, Tensor]]:
    shift = torch.randn(inputs["w_shift"].shape, generator=draw) * 0.2
    return [
        {"psi": torch.full((num_ws,), 0.7)},
        {"noise_strength": torch.zeros(())},
        {"psi": torch.linspace(0, 1, num_ws), "w_shift": shift},
    ]


def verify(generator: Network, runtime: Runtime, precision: Precision) -> Verification:
    """How far the exported model's pictures and styles are from those of the network, in float32 on the CPU."""
    eager = exported(generator).eval()
    device = next(generator.parameters()).device
    worst, total, worst_w, pictures, pixels = 0.0, 0.0, 0.0, 0, 0
    for case in _cases(generator):
        with torch.inference_mode():
            on_device = {name: tensor.to(device) for name, tensor in case.items()}
            images, *styles = (tensor.cpu().double().numpy() for tensor in eager(**on_device))
        ours, *our_styles = _run(runtime, case)
        shapes = [array.shape for array in (images, *styles)], [array.shape for array in (ours, *our_styles)]
        if shapes[0] != shapes[1]:
            raise ExportError(f"the exported model gives {shapes[1]}, not {shapes[0]}")
        distance = np.abs(images - ours) / max(1.0, float(np.abs(images).max())) * LEVELS
        worst = float(np.fmax(worst, distance.max())) if np.isfinite(distance).all() else float("inf")
        total += float(distance.sum())
        for w, our_w in zip(styles, our_styles, strict=True):
            worst_w = max(worst_w, float((np.abs(w - our_w) / max(1.0, float(np.abs(w).max()))).max()))
        pictures, pixels = pictures + len(images), pixels + images.size
    return Verification(
        worst_levels=worst,
        mean_levels=total / pixels,
        worst_w=worst_w,
        pictures=pictures,
        execution=runtime.execution,
    )


def _run(runtime: Runtime, case: dict[str, Tensor]) -> tuple[np.ndarray, ...]:
    """What comes out of the exported model, in the order of its outputs."""
    arrays = {name: tensor.numpy() for name, tensor in case.items()}
    if "source" in arrays:
        return (runtime.run_source(arrays["source"]),)
    if not runtime.has_styles:
        return (runtime.run_latents(arrays["z"], labels=arrays.get("labels")),)
    return runtime.run(
        arrays["z"],
        labels=arrays.get("labels"),
        psi=arrays["psi"],
        w_shift=arrays["w_shift"],
        noise=float(arrays["noise_strength"]),
    )


def _refuse(found: Verification, precision: Precision) -> None:
    limit = LIMITS[precision]
    if found.worst_levels <= limit.worst_levels and found.mean_levels <= limit.mean_levels:
        return
    raise ExportError(
        f"the exported model draws other pictures than the trained one: {found.worst_levels:.3g} grey levels apart at "
        f"the worst pixel and {found.mean_levels:.3g} on average, {limit.worst_levels:.3g} and {limit.mean_levels:.3g} "
        f"are allowed for {precision}; nothing was written"
    )


# ---- measures -----------------------------------------------------------------------------------------------------


def _latency(generator: Network, path: Path, repeats: int) -> dict[tuple[str, int], Latency]:
    runtime = Runtime(path, threads=torch.get_num_threads())
    eager = exported(generator).eval()
    device = next(generator.parameters()).device
    found: dict[tuple[str, int], Latency] = {}
    is_translator = isinstance(generator, ImageTranslator)
    for batch in (1,) if is_translator else (1, 16):
        inputs = inputs_of(generator, batch)
        if isinstance(generator, ImageTranslator):
            inputs = {"source": random_source(generator, batch, MEASURED)}
        calls: dict[str, Callable[[], object]] = {
            "eager": partial(_eager, eager, {name: tensor.to(device) for name, tensor in inputs.items()}),
            "exported": partial(_run, runtime, inputs),
        }
        for name, latency in latencies(calls, repeats=repeats).items():
            found[name, batch] = latency
    return found


def _eager(net: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        images: Tensor = net(**inputs)[0].cpu()
        return images


# ---- files --------------------------------------------------------------------------------------------------------


def _describe(
    model: Model, folder: Path, facts: dict[str, Any], found: Verification, to: Target, precision: Precision
) -> None:
    files = {
        name: {
            "size_bytes": (folder / name).stat().st_size,
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        for name in FILES[to]
    }
    record = {**facts, "files": files, "verification": {**asdict(found), "allowed": asdict(LIMITS[precision])}}
    write_durably(folder / FACTS_FILE, json.dumps(record, indent=1, allow_nan=False).encode())
    write_durably(folder / CARD, _card(model, facts, to).encode())


def _card(model: Model, facts: dict[str, Any], to: Target) -> str:
    data = model.info.get("data") or {}
    engine = "onnxruntime" if to == "onnx" else "openvino"
    lines = [
        f"# An image {'translator' if model.is_translator else 'generator'} exported by frugan",
        "",
        f"- pictures: {_pictures(facts)}",
        f"- model: {facts['model']}, weights {facts['weights']}",
        f"- images seen in training: {facts['images_seen'] or 'unknown'}",
        f"- trained on: {data.get('source') or 'unknown'}",
        f"- licence of the model: {facts['licence'] or 'not stated'}",
        f"- licence of the training pictures: {facts['data_licence'] or 'not stated'}",
        "",
        usage(model, engine, FILES[to][0]),
        f"Inputs and outputs are described in `{FACTS_FILE}`. Nothing in this folder is executed.",
    ]
    return "\n".join(lines) + "\n"


def usage(model: Model, engine: str, file: str) -> str:
    """How to use an exported model, in a sentence."""
    if model.is_translator:
        return f"Translate with numpy and {engine}: `frugan.runtime.Runtime({file!r}).translate(pictures)`."
    return f"Draw with numpy and {engine}: `python -m frugan.runtime {file} --seeds 0-15 --out grid.png`."


def _pictures(facts: dict[str, Any]) -> str:
    if "resolution" in facts:
        return f"{facts['resolution']} px, {facts['channels']} channels"
    sizes = "any size" if facts["size"] is None else "{1} x {0} px".format(*facts["size"])
    return f"{facts['source_channels']} to {facts['channels']} channels, {sizes}"


def _publish(scratch: Path, folder: Path) -> None:
    if folder.exists():
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        scratch.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        scratch.rename(folder)


def _notes(precision: Precision, found: Verification) -> tuple[str, ...]:
    notes = []
    if precision == "fp16":
        notes.append("weights are stored as float16 for a small download; it computes in float32, at the same speed")
    if precision == "bf16" and found.execution != "bfloat16":
        notes.append(
            "this processor has no bfloat16: compared and measured in float32; where a processor has it, the pictures "
            "will differ by some grey levels"
        )
    return tuple(notes)
