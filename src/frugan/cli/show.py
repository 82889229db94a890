"""`frugan info` and `frugan recipes`: what is known about a model, and what recipes say."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frugan.model import Model


def info(model: str, /) -> None:
    """Tell what a run or a model is: pictures, size, images seen, scores, licence.

    Parameters
    ----------
    model
        demo, a run folder, a checkpoint, or a checkpoint file of another project (see frugan import).
    """
    from pathlib import Path

    from frugan import load
    from frugan.cli.tell import words
    from frugan.model import find

    folder = Path(model) if Path(model).is_file() else find(model)
    loaded = load(model)
    facts, data = loaded.info, loaded.info.get("data") or {}
    origin = facts.get("origin") or {}
    rows: list[tuple[str, Any]] = [
        ("model", folder),
        ("hash", loaded.hash),
        *_makes(loaded),
        ("recipe", facts.get("recipe")),
        ("imported from", origin.get("file")),
        ("family", origin.get("family") or loaded.family),
        ("images seen", None if origin else f"{facts.get('images_seen', 0):,}"),
        ("time", None if origin else words(facts.get("seconds", 0.0))),
        ("trained on", f"{data.get('count')} pictures from {data.get('source') or 'memory'}" if data else None),
        ("licence", facts.get("licence") or data.get("licence")),
        ("continued from", facts.get("parent")),
        ("generator", f"{_count(loaded.generator):,} parameters"),
        ("discriminator", f"{_count(loaded.discriminator):,} parameters" if loaded.discriminator else "not stored"),
    ]
    rows += [(name, f"{value:.3f}") for name, value in (facts.get("scores") or {}).items()]
    for name, value in rows:
        if value is not None:
            print(f"{name:>15}  {value}")


def _makes(model: "Model") -> list[tuple[str, Any]]:
    """What it makes, and of what."""
    channels = model.generator.config.channels
    if model.is_translator:
        ways = "both directions" if model.reverse is not None else "one direction"
        trained = (model.info.get("data") or {}).get("resolution")
        size = f"any size, learned at {trained} px" if trained else "any size"
        return [("translates", f"{model.translator.config.source_channels} to {channels} channels, {size}, {ways}")]
    return [
        ("pictures", f"{model.resolution} px, {channels} channels"),
        ("classes", ", ".join(model.class_names) or "none"),
        ("statistics", model.info.get("statistics")),
    ]


def _count(net: Any) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def list_recipes() -> None:
    """All recipes, a line each."""
    from frugan.recipes import RECIPES

    width = max(len(name) for name in RECIPES)
    for name, recipe in RECIPES.items():
        print(f"{name:<{width}}  {(recipe.__doc__ or '').strip().splitlines()[0]}")


def show_recipe(name: str, /) -> None:
    """One recipe: what it is, where its numbers come from, and every setting."""
    import yaml

    from frugan.config import to_dict

    function = _function(name)
    print("\n".join(f"# {line.strip()}" for line in (function.__doc__ or "").strip().splitlines()))
    print(yaml.safe_dump(to_dict(function()), sort_keys=False, width=110), end="")


def diff_recipes(first: str, second: str, /) -> None:
    """In what two recipes differ."""
    from frugan.config import differences

    found = differences(_function(first)(), _function(second)())
    width = max((len(path) for path, _, _ in found), default=0)
    for path, old, new in found:
        print(f"{path:<{width}}  {_shown(old)} -> {_shown(new)}")


def _shown(value: Any) -> str:
    return "(absent)" if value is ... else repr(value)


def _function(name: str) -> Any:
    from frugan.config import suggest
    from frugan.recipes import RECIPES

    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}{suggest(name, RECIPES)}")
    return RECIPES[name]
