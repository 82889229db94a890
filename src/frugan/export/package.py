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
from torch import Tensor

import frugan
from frugan.checkpoint import write_durably
from frugan.data.write import explained
from frugan.export.graph import ExportedGenerator, inputs_of, to_onnx
from frugan.metrics.measure import Latency, Memory, latencies, peak_memory
from frugan.model import Model
from frugan.models.stylegan2 import Generator
from frugan.runtime import FACTS, Runtime, drawing

Target = Literal["onnx", "openvino"]
Precision = Literal["fp32", "fp16", "bf16"]
FORMAT = 1
FACTS_FILE, CARD = "model.json", "README.md"
FILES = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
LEVELS = 127.5  # grey levels for one unit of the models' [-1, 1]
FP32_LIMIT = 1e-4


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
    if not model.has_styles:
        raise ExportError(f"only stylegan2 models can be exported, this is a {model.family} model")
    generator = model.styles
    _check_place(folder, overwrite)
    facts = _facts(model, to, precision)
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    with explained(folder):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            tell("tracing the generator (half a minute or so)")
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
    )


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
    config = model.styles.config
    data = model.info.get("data") or {}
    inputs = {
        "z": "latent codes: rows of normal random numbers",
        "psi": "truncation of each style: 1 none, 0 gives the average",
        "w_shift": "added to w: edits; 0 for none",
        "noise_strength": "of the stored noise maps: 1 as trained, 0 none",
        "labels": "one-hot rows",
    }
    shapes: dict[str, list[int | str]] = {
        name: ["N", *tensor.shape[1:]] if tensor.ndim > 1 else list(tensor.shape)
        for name, tensor in inputs_of(model.styles, 1).items()
    }
    return {
        "format": FORMAT,
        "frugan": frugan.__version__,
        "model": model.hash,
        "target": to,
        "weights": "float32" if precision == "fp32" else "float16",
        "execution": "bfloat16" if precision == "bf16" else "float32",
        "resolution": config.resolution,
        "channels": config.channels,
        "z_dim": config.z_dim,
        "w_dim": config.w_dim,
        "num_ws": config.num_ws,
        "class_names": list(model.class_names),
        "inputs": [
            {"name": name, "shape": shape, "dtype": "float32", "meaning": inputs[name]}
            for name, shape in shapes.items()
        ],
        "outputs": [
            {
                "name": "images",
                "shape": ["N", config.channels, config.resolution, config.resolution],
                "dtype": "float32",
                "meaning": "about [-1, 1]; as pixels round(127.5 (x + 1)), limited to 0..255",
            },
            {
                "name": "w",
                "shape": ["N", config.num_ws, config.w_dim],
                "dtype": "float32",
                "meaning": "the styles that were drawn: average + psi (mapping(z) - average) + w_shift",
            },
        ],
        "licence": model.info.get("licence"),
        "data_licence": data.get("licence"),
        "images_seen": model.info.get("images_seen"),
    }


def _write(generator: Generator, folder: Path, facts: dict[str, Any], to: Target, precision: Precision) -> None:
    missing = [name for name in ("onnx", "onnxscript") if not _is_installed(name)]
    if missing:
        raise ExportError(f"an export needs {' and '.join(missing)}: pip install 'frugan[export]'")
    if to == "openvino" and not _is_installed("openvino"):
        raise ExportError("an export to OpenVINO needs openvino: pip install 'frugan[openvino]'")
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


def _cases(generator: Generator) -> list[dict[str, Tensor]]:
    """Inputs to compare on: batch sizes 1 and 4, psi 1 and 0.7, no noise, z of zeros, psi by style, shifted w."""
    draw = torch.Generator().manual_seed(0)
    num_ws = generator.config.num_ws
    cases = []
    for batch in (1, 4):
        inputs = inputs_of(generator, batch)
        for change in (
            {},
            {"psi": torch.full((num_ws,), 0.7)},
            {"noise_strength": torch.zeros(())},
            {"z": torch.zeros(batch, generator.config.z_dim)},
            {
                "psi": torch.linspace(0, 1, num_ws),
                "w_shift": torch.randn(inputs["w_shift"].shape, generator=draw) * 0.2,
            },
        ):
            cases.append({**inputs, "z": torch.randn(inputs["z"].shape, generator=draw), **change})
    return cases


def verify(generator: Generator, runtime: Runtime, precision: Precision) -> Verification:
    """How far the exported model's pictures and styles are from those of the generator, in float32 on the CPU."""
    eager = ExportedGenerator(generator).eval()
    device = next(generator.parameters()).device
    worst, total, worst_w, pictures, pixels = 0.0, 0.0, 0.0, 0, 0
    for case in _cases(generator):
        with torch.inference_mode():
            on_device = {name: tensor.to(device) for name, tensor in case.items()}
            images, w = (tensor.cpu().double().numpy() for tensor in eager(**on_device))
        arrays = {name: tensor.numpy() for name, tensor in case.items()}
        ours, our_w = runtime.run(
            arrays["z"],
            labels=arrays.get("labels"),
            psi=arrays["psi"],
            w_shift=arrays["w_shift"],
            noise=float(arrays["noise_strength"]),
        )
        if ours.shape != images.shape or our_w.shape != w.shape:
            raise ExportError(f"the exported model gives {ours.shape} and {our_w.shape}, not {images.shape}, {w.shape}")
        distance = np.abs(images - ours) / max(1.0, float(np.abs(images).max())) * LEVELS
        worst = float(np.fmax(worst, distance.max())) if np.isfinite(distance).all() else float("inf")
        total += float(distance.sum())
        worst_w = max(worst_w, float((np.abs(w - our_w) / max(1.0, float(np.abs(w).max()))).max()))
        pictures, pixels = pictures + len(images), pixels + images.size
    return Verification(
        worst_levels=worst,
        mean_levels=total / pixels,
        worst_w=worst_w,
        pictures=pictures,
        execution=runtime.execution,
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


def _latency(generator: Generator, path: Path, repeats: int) -> dict[tuple[str, int], Latency]:
    runtime = Runtime(path, threads=torch.get_num_threads())
    eager = ExportedGenerator(generator).eval()
    device = next(generator.parameters()).device
    found: dict[tuple[str, int], Latency] = {}
    for batch in (1, 16):
        inputs = inputs_of(generator, batch)
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        calls: dict[str, Callable[[], object]] = {
            "eager": partial(_eager, eager, {name: tensor.to(device) for name, tensor in inputs.items()}),
            "exported": partial(runtime.run, arrays["z"], labels=arrays.get("labels")),
        }
        for name, latency in latencies(calls, repeats=repeats).items():
            found[name, batch] = latency
    return found


def _eager(net: ExportedGenerator, inputs: dict[str, Tensor]) -> Tensor:
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
        "# An image generator exported by frugan",
        "",
        f"- pictures: {facts['resolution']} px, {facts['channels']} channels",
        f"- model: {facts['model']}, weights {facts['weights']}",
        f"- images seen in training: {facts['images_seen'] or 'unknown'}",
        f"- trained on: {data.get('source') or 'unknown'}",
        f"- licence of the model: {facts['licence'] or 'not stated'}",
        f"- licence of the training pictures: {facts['data_licence'] or 'not stated'}",
        "",
        f"Draw with numpy and {engine}: `python -m frugan.runtime {FILES[to][0]} --seeds 0-15 --out grid.png`.",
        f"Inputs and outputs are described in `{FACTS_FILE}`. Nothing in this folder is executed.",
    ]
    return "\n".join(lines) + "\n"


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
