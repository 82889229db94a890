"""The augment room: random, differentiable changes of the images that a discriminator sees, fixed or adaptive."""

from collections.abc import Callable, Iterator

from jaxtyping import Float
from torch import Tensor

from frugan.augment import ada, diffaugment
from frugan.augment.ada import AdaConfig
from frugan.augment.diffaugment import DiffAugmentConfig

AugmentConfig = DiffAugmentConfig | AdaConfig


def augment(
    images: Float[Tensor, "N C H W"],
    config: AugmentConfig,
    p: float,
    uniform: Callable[..., Tensor],
    normal: Callable[..., Tensor],
) -> Float[Tensor, "N C H W"]:
    """The images changed as the settings say, at new draws; `p` is ADA's probability, and nothing to DiffAugment.

    `uniform(*shape)` and `normal(*shape)` give (N, *shape) numbers. The mode is not looked at: see `applies`.
    """
    match config:
        case DiffAugmentConfig():
            return diffaugment.diffaugment(images, config, diffaugment.draw(config, uniform, *images.shape[2:]))
        case AdaConfig():
            return ada.apply(images, config, p, ada.draw(config, uniform, normal, *images.shape[1:]))


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
