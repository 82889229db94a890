"""Checkpoints of others: read as data, checked, and written as ours. Nothing in such a file is ever executed.

Which family a file belongs to is told by its content, never by its name.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from frugan import __version__, checkpoint
from frugan import model as models
from frugan.inert import InertError, Record, read_torch
from frugan.interop import nvidia, progan_tf, rosinality, studiogan, translation
from frugan.interop.imported import Foreign, Imported, ImportProblem, self_check
from frugan.model import Model

__all__ = ["ImportProblem", "Imported", "describe", "import_checkpoint", "read"]

Progress = Callable[[int, int, str], None]

KNOWN = (
    "StyleGAN2 pickles of NVIDIA's StyleGAN2-ADA-PyTorch and StyleGAN3 repositories, ProGAN pickles of its authors, "
    "StyleGAN2 checkpoints of rosinality, AnyCost GAN and Sketch Your Own GAN, class-conditional networks of "
    "PyTorch-StudioGAN, and networks of CycleGAN, pix2pix, GAN Compression and GauGAN"
)
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def read(path: Path | str, progress: Progress | None = None) -> Imported:
    """The model in a foreign checkpoint, checked: weights, average style and a picture.

    `path` is a file, or the folder with the networks of one training of CycleGAN, pix2pix, GauGAN or StudioGAN.

    Raises ImportProblem (a ValueError) for what is not one, is damaged, asks to run something, or is not supported.
    """
    path = Path(path)
    tell = progress or (lambda done, total, text: None)
    tell(0, 3, f"reading {path.name}")
    try:
        foreign = _read(path)
    except (ImportProblem, InertError) as problem:
        raise ImportProblem(f"cannot import {path}: {_without(str(problem), path.name)}") from problem
    tell(1, 3, f"reading {path.name}")
    info = {
        "licence": foreign.licence,
        "origin": {
            "family": foreign.family,
            "file": path.name,
            "size_bytes": sum(file.stat().st_size for file in _files(path)),
            "sha256": _digest(path),
            **foreign.facts,
        },
        "notes": list(foreign.notes),
        **({} if foreign.stage is None else {"stage": dict(foreign.stage)}),
    }
    model = Model(foreign.generator, foreign.discriminator, info, foreign.reverse)
    tell(2, 3, f"checking {path.name}")
    try:
        check = self_check(model)
    except ImportProblem as problem:
        raise ImportProblem(f"cannot import {path}: {problem}") from problem
    tell(3, 3, f"checked {path.name}")
    return Imported(model=model, family=foreign.family, licence=foreign.licence, notes=foreign.notes, check=check)


def _without(text: str, name: str) -> str:
    return text.removeprefix(f"{name}: ")


def _files(path: Path) -> list[Path]:
    """The file itself, or those of a folder, hidden ones left out."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))


def _digest(path: Path) -> str:
    """Of the file; of a folder over the digests of its files."""
    digests = []
    for name in _files(path):
        with name.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if not path.is_dir() else hashlib.sha256("".join(digests).encode()).hexdigest()


def _read(path: Path) -> Foreign:
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise ImportProblem("there is no such file")
    head = _head(path)
    if not head:
        raise ImportProblem("the file is empty")
    content = _content(path, head)
    if content is not None:
        if studiogan.holds(content):
            return studiogan.read([(path.name, content)])
        return translation.read([(path.name, content)]) if translation.holds(content) else rosinality.read(content)
    if head.startswith(_PICKLE):
        unpickled = nvidia.unpickle(path)
        is_progan = progan_tf.holds(unpickled)
        return progan_tf.read(unpickled, path.stat().st_size) if is_progan else nvidia.read(unpickled)
    raise ImportProblem(f"it is none of the checkpoints that are read: {KNOWN}")


def _read_folder(path: Path) -> Foreign:
    """The networks of one model that lie side by side in a folder; other files are passed over."""
    found = [(file.name, content) for file in _files(path) if (content := _content(file, _head(file))) is not None]
    conditional = [(name, content) for name, content in found if studiogan.holds(content)]
    if conditional:
        return studiogan.read(conditional)
    networks = [(name, content) for name, content in found if translation.holds(content)]
    if not networks:
        raise ImportProblem(
            "no file in this folder holds a network of StudioGAN or one that translates; for other models give the file"
        )
    return translation.read(networks)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _content(path: Path, head: bytes) -> Mapping[str, Any] | None:
    """The table in a file of torch or safetensors; None for files of other kinds."""
    if head.startswith((_ZIP, _LEGACY_TORCH)):
        return _table(read_torch(path, constructors=rosinality.CONSTRUCTORS))
    return _read_safetensors(path) if head[8:9] == b"{" else None


def _table(content: Any) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        what = content.path[:80] if isinstance(content, Record) else type(content).__name__
        raise ImportProblem(f"it holds no table of weights but a {what}")
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ImportProblem(f"it is not a whole safetensors file ({error})") from None


def import_checkpoint(
    file: Path | str, out: Path | str, progress: Progress | None = None, *, overwrite: bool = False
) -> Imported:
    """Read a foreign checkpoint and write it as one of ours to the folder `out`, whole or not at all.

    With it go a model card and what is known of the licence. Raises ImportProblem where it cannot be read or `out` is
    in use (with `overwrite` an older checkpoint there is replaced, never anything else), OutputError where it cannot be
    written.
    """
    out = Path(out)
    _refuse_target(out, overwrite)
    imported = read(file, progress)
    models.save(imported.model, out, card=model_card(imported))
    return imported


def _refuse_target(out: Path, overwrite: bool) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    is_checkpoint = (out / checkpoint.INDEX).is_file()
    if out.exists() and not (overwrite and is_checkpoint):
        advice = "give --overwrite to replace it, or another folder" if is_checkpoint else "give another folder"
        raise ImportProblem(f"{out} exists: {advice}")


def describe(model: Model) -> str:
    """What a model makes, in a few words."""
    if model.is_translator:
        config = model.translator.config
        ways = ", both directions" if model.reverse is not None else ""
        return f"A translator ({config.source_channels} to {config.channels} channels{ways})"
    settings = model.artist.config
    classes = f", {settings.num_classes} classes" if settings.num_classes else ""
    return f"A {settings.resolution} px generator ({settings.channels} channels{classes})"


def model_card(imported: Imported) -> str:
    """The README.md of an imported model."""
    origin = imported.model.info["origin"]
    tags = "image-to-image" if imported.model.is_translator else f"image-generation, {imported.model.family}"
    training_set = origin.get("training_set")
    lines = [
        *("---", "library_name: frugan", f"tags: [gan, {tags}]", "license: other", "---", ""),
        *(f"# {Path(origin['file']).stem}", ""),
        f"{describe(imported.model)}, imported by frugan {__version__}.",
        *("", "## Origin", ""),
        f"- family: {imported.family}",
        f"- file: {origin['file']} ({origin['size_bytes']:,} bytes)",
        f"- SHA-256: {origin['sha256']}",
        *([f"- trained on, says the file: {json.dumps(training_set)}"] if training_set else []),
        *("", "## Licence of the weights", "", imported.licence),
        *("", "## Check", "", *(f"- {line}" for line in imported.check)),
        *(("", "## Notes", "", *(f"- {note}" for note in imported.notes)) if imported.notes else ()),
        *("", "Load it with `frugan.load(folder)`; nothing in it is executed."),
    ]
    return "\n".join(lines) + "\n"
