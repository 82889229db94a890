"""ADA's pipe gives the published pixels, each operation alone and all together, at fixed percentiles."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from frugan.augment.ada import AdaConfig, apply, draw
from frugan.config import from_dict
from frugan.ops.warp import octaves

NAMES = {
    "xflip": "flip",
    "rotate90": "quarter_turns",
    "xint": "shift",
    "scale": "scale",
    "rotate": "rotation",
    "aniso": "stretch",
    "xfrac": "fractional_shift",
    "brightness": "brightness",
    "contrast": "contrast",
    "lumaflip": "luma_flip",
    "hue": "hue",
    "saturation": "saturation",
    "imgfilter": "filter",
    "cutout": "cutout",
}


def at_percentile(args: dict[str, Any], images: Tensor) -> Tensor:
    """Every number at one percentile, as the authors' switch for tests has it: see the two comments."""
    percentile = args.pop("debug_percentile")
    chances = dict.fromkeys(NAMES.values(), 0.0) | {NAMES[name]: float(value) for name, value in args.items()}
    config = from_dict(AdaConfig, chances)
    # Their normal quantile lacks the factor sqrt 2.
    quantile = float(torch.erfinv(torch.tensor(2 * percentile - 1, dtype=torch.float64)))
    count = len(images)
    draws = draw(
        config,
        lambda *shape: torch.full((count, *shape), percentile),
        lambda *shape: torch.full((count, *shape), quantile),
        *images.shape[1:],
    )
    if "rotation" in draws:
        draws["rotation"][:, 1] = 1.0  # The second rotation is left out.
    return apply(images, config, 1.0, draws)


@pytest.mark.parametrize("name", [*NAMES, "several"])
def test_operation(fixtures_dir: Path, name: str) -> None:
    tensors = load_file(fixtures_dir / "ops.safetensors")
    cases = [case for case in json.loads((fixtures_dir / "ops.json").read_text()) if case["op"] == "augment"]
    assert len(cases) == 45
    chosen = [case for case in cases if (set(case["args"]) == {name, "debug_percentile"}) or len(case["args"]) > 2]
    alone = [case for case in chosen if len(case["args"]) == 2]
    chosen = alone if name != "several" else chosen
    assert len(chosen) == 3
    for case in chosen:
        got = at_percentile(dict(case["args"]), tensors[case["inputs"]["images"]])
        torch.testing.assert_close(got, tensors[case["output"]], atol=5e-6, rtol=1e-5, msg=lambda m, c=case: f"{c}{m}")


def test_filters(fixtures_dir: Path) -> None:
    tensors = load_file(fixtures_dir / "ops.safetensors")
    torch.testing.assert_close(octaves(4).float(), tensors["aug.Hz_fbank"], atol=1e-9, rtol=1e-6)
