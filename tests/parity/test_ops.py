"""The operators against the numbers of the StyleGAN2-ADA and StyleGAN3 repositories."""

import json

import pytest
import torch
from safetensors.torch import load_file

from frugan.ops import modulate, normalize, resample
from frugan.ops.equalized import bias_act

OPS = (
    "upfirdn2d",
    "upsample2d",
    "downsample2d",
    "filter2d",
    "bias_act",
    "conv2d_resample",
    "modulated_conv2d_sg2",
    "modulated_conv2d_sg3",
    "minibatch_std",
)


def tuples(args):
    return {key: tuple(value) if isinstance(value, list) else value for key, value in args.items()}


def run_upfirdn2d(args, x, f):
    args.pop("filter")
    fast = resample.upfirdn2d(x, f, **args)
    torch.testing.assert_close(fast, resample.upfirdn2d_reference(x, f, **args), atol=1e-6, rtol=1e-5)
    return fast


def run_bias_act(args, x, b):
    return bias_act(x, b, args["act"], slope=args.get("alpha", 0.2), gain=args.get("gain"), clamp=args.get("clamp"))


def run_modulated_conv2d_sg2(args, x, weight, styles, noise, f):
    form = modulate.modulated_conv2d_grouped if args.pop("fused") else modulate.modulated_conv2d
    return form(x, weight, styles, fir=f, **args) + noise


def run_modulated_conv2d_sg3(args, x, w, s, input_gain):
    return modulate.modulated_conv2d(x * input_gain, w, s, **args)


RUN = {
    "upfirdn2d": run_upfirdn2d,
    "upsample2d": lambda args, x, f: resample.upsample2d(x, f),
    "downsample2d": lambda args, x, f: resample.downsample2d(x, f),
    "filter2d": lambda args, x, f: resample.filter2d(x, f),
    "bias_act": run_bias_act,
    "conv2d_resample": lambda args, x, w, f: resample.conv2d_resample(x, w, fir=f, **args),
    "modulated_conv2d_sg2": run_modulated_conv2d_sg2,
    "modulated_conv2d_sg3": run_modulated_conv2d_sg3,
    "minibatch_std": lambda args, x: normalize.minibatch_stddev(x, args["group_size"], args["num_channels"]),
}
COUNTS = {
    "upfirdn2d": 22,
    "upsample2d": 2,
    "downsample2d": 2,
    "filter2d": 2,
    "bias_act": 11,
    "conv2d_resample": 12,
    "modulated_conv2d_sg2": 8,
    "modulated_conv2d_sg3": 2,
    "minibatch_std": 5,
}


@pytest.mark.parametrize("name", COUNTS)
def test_operator(fixtures_dir, name):
    cases = [case for case in json.loads((fixtures_dir / "ops.json").read_text()) if case["op"] == name]
    tensors = load_file(fixtures_dir / "ops.safetensors")
    assert len(cases) == COUNTS[name]
    for case in cases:
        inputs = {key: tensors[value] for key, value in case["inputs"].items()}
        got = RUN[name](tuples(case["args"]), **inputs)
        torch.testing.assert_close(
            got, tensors[case["output"]], atol=5e-6, rtol=1e-5, msg=lambda m, c=case: f"{c}\n{m}"
        )
