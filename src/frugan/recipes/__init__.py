"""The recipes room: plain functions that return a Recipe, one file per paper, and the list of their names."""

from collections.abc import Callable

from frugan.recipes import progan, stylegan2
from frugan.training.recipe import Recipe

RECIPES: dict[str, Callable[..., Recipe]] = {
    "small": stylegan2.small,
    "few-shot": stylegan2.few_shot,
    "stylegan2-auto": stylegan2.auto_rules,
    "stylegan2": stylegan2.config_f,
    "stylegan2-256": stylegan2.paper256,
    "stylegan2-512": stylegan2.paper512,
    "stylegan2-1024": stylegan2.paper1024,
    "stylegan2-cifar": stylegan2.cifar,
    "stylegan2-relativistic": stylegan2.relativistic,
    "stylegan2-ada": stylegan2.ada_auto,
    "stylegan2-ada-256": stylegan2.ada256,
    "stylegan2-ada-cifar": stylegan2.ada_cifar,
    "stylegan2-ada-transfer": stylegan2.ada_transfer,
    "diffaugment-100-shot": stylegan2.diffaugment_100_shot,
    "diffaugment-cifar": stylegan2.diffaugment_cifar,
    "diffaugment-256": stylegan2.diffaugment_256,
    "progan": progan.progan,
    "progan-small": progan.small,
    "progan-celeba-hq": progan.celeba_hq,
    "progan-lsun": progan.lsun,
    "progan-cifar": progan.cifar,
    "progan-ablation-a": progan.ablation_a,
    "progan-ablation-b": progan.ablation_b,
    "progan-ablation-c": progan.ablation_c,
    "progan-ablation-d": progan.ablation_d,
    "progan-ablation-e-star": progan.ablation_e_star,
    "progan-ablation-e": progan.ablation_e,
    "progan-ablation-f": progan.ablation_f,
    "progan-ablation-g": progan.ablation_g,
    "progan-ablation-h": progan.ablation_h,
}
"""Every recipe by name. The settings of one are what its function returns; `auto` (see `recipes.auto`) chooses one."""
