"""What is known of a run, as plain facts: machine and pictures; whether it is still the same one when it goes on;
and the card of each checkpoint.
"""

import sys
from collections.abc import Mapping
from typing import Any

import torch

from frugan.config import differences
from frugan.data.dataset import Dataset
from frugan.training.classes import check_number, class_changes, class_counts
from frugan.training.folder import RunError, RunFolder
from frugan.training.ranks import Ranks
from frugan.training.recipe import Recipe

# Settings that decide when and where, never which weights come out.
_FREE = (
    *("total_images", "checkpoint_seconds", "status_seconds", "keep_checkpoints", "plateau_images", "max_rollbacks"),
    *("evaluation", "evaluation_share", "replay"),
)


def made_of(data: Mapping[str, Dataset]) -> Dataset:
    """The set whose like is to be made."""
    return data.get("target", next(iter(data.values())))


def machine_facts(ranks: Ranks) -> dict[str, Any]:
    """All of the machine that the bits of the weights depend on."""
    return {
        "torch": torch.__version__,
        "device": str(ranks.device.type),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": ranks.world,
    }


def device_name(device: torch.device) -> str:
    """The name of the processor that trains, as a reader knows it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def memory_mb(device: torch.device) -> float:
    """The most memory that was taken so far: the device's, of a CPU the process's; 0 where nothing tells it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return 0.0  # the standard library does not tell
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def picture_facts(
    data: Mapping[str, Dataset], held_out: int, pictures: str | None, licence: str | None
) -> dict[str, Any]:
    """What a run learns from; `pictures` is the place of the whole set, where its streams have places of their own."""
    first = made_of(data)
    return {
        "source": first.facts.path if len(data) == 1 else pictures or first.facts.path,
        "count": len(first),
        "held_out": held_out,
        "fingerprint": first.fingerprint,
        "resolution": first.resolution,
        "channels": first.channels,
        "class_names": list(first.class_names),
        "class_counts": class_counts(first),
        "skipped": [list(item) for item in first.skipped],
        "licence": licence,
        **({} if len(data) == 1 else {"streams": {name: len(own) for name, own in data.items()}}),
    }


def check_same(folder: RunFolder, recipe: Recipe, data: Mapping[str, Dataset], force: bool) -> None:
    """Raise RunError where a run was begun with other settings or pictures; `force` lets all pass but other classes."""
    if not folder.exists:
        return
    changed = [
        f"{path}: {old!r} -> {new!r}"
        for path, old, new in differences(folder.read_recipe(), recipe)
        if path.removeprefix("training.").partition(".")[0] not in _FREE and not path.startswith("reasons")
    ]
    facts = folder.read_facts()
    known = facts.get("fingerprints", {})
    classes = (facts.get("data") or {}).get("class_names")
    if classes is not None and "images" in data:
        check_number(classes, data["images"], folder.path)
        changed += class_changes(classes, data["images"])
    changed += [
        f"pictures of '{name}' are not the same ones ({len(dataset)} now)"
        for name, dataset in data.items()
        if known.get(name, dataset.fingerprint) != dataset.fingerprint
    ]
    if changed and not force:
        raise RunError(
            f"the run in {folder.path} was begun differently:\n  " + "\n  ".join(changed) + "\n"
            "Use another --out for a new run, or --force to go on with the change"
        )


def model_card(info: Mapping[str, Any]) -> str:
    """A README for a checkpoint: what it was made from, on which terms, how long, and how good."""
    data = info.get("data") or {}
    scores = "\n".join(f"- {name}: {value:.3f}" for name, value in (info.get("scores") or {}).items())
    more = f"- continued from: {info['parent']}\n" if info.get("parent") else ""
    more += f"- licence of the weights it continued from: {info['licence']}\n" if info.get("licence") else ""
    more += f"- statistics of batches: {info['statistics']}\n" if info.get("statistics") else ""
    is_translator = "streams" in data
    tag, what = ("image-to-image", "translator") if is_translator else ("image-generation", "generator")
    return (
        f"---\nlibrary_name: frugan\ntags: [gan, {tag}]\n---\n"
        f"# An image {what} trained with frugan\n\n"
        f"- recipe: {info['recipe']}\n- images seen: {info['images_seen']}\n- hours: {info['seconds'] / 3600:.2f}\n"
        f"- pictures: {data.get('count')} at {data.get('resolution')} px from {data.get('source') or 'memory'}\n"
        f"- licence of the pictures: {data.get('licence') or 'not stated; the owner of the pictures decides'}\n"
        f"{more}{scores}\n\nLoad it with `frugan.load(folder)`; nothing in it is executed.\n"
    )
