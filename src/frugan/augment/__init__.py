"""The augment room: random, differentiable changes of the images that a discriminator sees, fixed or adaptive."""

from collections.abc import Callable, Iterator, Sequence

from jaxtyping import Float, Float64
from torch import Tensor

from frugan.augment import ada, diffaugment
from frugan.augment.ada import AdaConfig
from frugan.augment.diffaugment import DiffAugmentConfig

AugmentConfig = DiffAugmentConfig | AdaConfig


def augment(
    images: Float[Tensor, "N C H W"],
    config: AugmentConfig,
    p: float | Float64[Tensor, ""],
    uniform: Callable[..., Tensor],
    normal: Callable[..., Tensor],
) -> Float[Tensor, "N C H W"]:
    """The images changed as the settings say, at new draws; `p` is ADA's probability (see `ada.apply`), and nothing to
    DiffAugment.

    `uniform(*shape)` and `normal(*shape)` give (N, *shape) numbers. The mode is not looked at: see `applies`.
    """
    match config:
        case DiffAugmentConfig():
            return diffaugment.diffaugment(images, config, diffaugment.draw(config, uniform, *images.shape[2:]))
        case AdaConfig():
            return ada.apply(images, config, p, ada.draw(config, uniform, normal, *images.shape[1:]))


def jointly(
    images: Sequence[Float[Tensor, "N _ H W"]],
    config: AugmentConfig,
    p: float | Float64[Tensor, ""],
    uniform: Callable[..., Tensor],
    normal: Callable[..., Tensor],
    *,
    are_pictures: Sequence[bool],
) -> list[Float[Tensor, "N _ H W"]]:
    """Several images of one scene changed alike, at the same new draws: a source and its target stay aligned.

    Geometry moves all of them; colours, filters and noise change pictures only, each with the same numbers, and leave
    alone what is not a picture (maps of labels and edges, where 0 moves in). Otherwise as `augment`.
    Raises ValueError for images of different heights and widths, and where none is a picture.
    """
    if not any(are_pictures):
        raise ValueError("one of the images must be a picture")
    sizes = {image.shape[2:] for image in images}
    if len(sizes) > 1:
        shown = " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise ValueError(f"images that are augmented together must have one size, got {shown}")
    height, width = images[0].shape[2:]
    match config:
        case DiffAugmentConfig():
            kinds = {True: config, False: diffaugment.geometry(config)}
            draws = diffaugment.draw(config, uniform, height, width)
            return [
                diffaugment.diffaugment(image, kinds[is_picture], draws)
                for image, is_picture in zip(images, are_pictures, strict=True)
            ]
        case AdaConfig():
            changes = {True: config, False: ada.geometry(config)}
            channels = max(image.shape[1] for image, is_picture in zip(images, are_pictures, strict=True) if is_picture)
            draws = ada.draw(config, uniform, normal, channels, height, width)
            return [
                ada.apply(image, changes[is_picture], p, ada.for_channels(draws, image.shape[1]))
                for image, is_picture in zip(images, are_pictures, strict=True)
            ]


def shown(
    images: Float[Tensor, "N C H W"],
    config: AugmentConfig,
    p: float,
    uniform: Callable[..., Tensor],
    normal: Callable[..., Tensor],
) -> Iterator[tuple[str, Float[Tensor, "N C H W"]]]:
    """Each operation's name with the images changed by it alone, then by all of them, all at the same new draws."""
    match config:
        case DiffAugmentConfig():
            draws = diffaugment.draw(config, uniform, *images.shape[2:])
            yield from diffaugment.one_by_one(images, config, draws)
            yield "all of them", diffaugment.diffaugment(images, config, draws)
        case AdaConfig():
            draws = ada.draw(config, uniform, normal, *images.shape[1:])
            yield from ada.one_by_one(images, config, p, draws)
            yield "all of them", ada.apply(images, config, p, draws)


def named(text: str) -> AugmentConfig | None:
    """The settings for a word of the command line: none, diffaugment, ada, ada:SET, or a DiffAugment policy.

    SET is one of `ada.PRESETS`, such as bgc. Raises ValueError for what is none of these.
    """
    kind, _, name = text.partition(":")
    if text == "none":
        return None
    if kind == "ada":
        return ada.preset(name or "bgc")
    return DiffAugmentConfig() if text == "diffaugment" else DiffAugmentConfig(policy=text)
