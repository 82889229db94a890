"""From a generator to the bytes of an ONNX graph.

Inputs z (N, z_dim), psi (num_ws,), w_shift (N, num_ws, w_dim), noise_strength (), and labels (N, num_classes) where
there are classes; outputs images (N, C, H, W) and w (N, num_ws, w_dim); all float32, any N. Why these:
docs/decisions/0005-export-inputs.md.
"""

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frugan.models.stylegan2 import Generator
from frugan.runtime import FACTS

OPSET = 18
BATCH = "N"
_HALF_FROM = 256
_EXPORTER_LOG = "torch.onnx._internal.exporter._registration"


class ExportedGenerator(nn.Module):
    """The generator with what a request sets as tensors."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self,
        z: Float[Tensor, "N z_dim"],
        psi: Float[Tensor, " num_ws"],
        w_shift: Float[Tensor, "N num_ws w_dim"],
        noise_strength: Float[Tensor, ""],
        labels: Float[Tensor, "N num_classes"] | None = None,
    ) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, "N num_ws w_dim"]]:
        """(images, w) with w = w_avg + psi (mapping(z, labels) - w_avg) + w_shift, one psi for each style.

        The stored noise maps come times `noise_strength`.
        """
        generator = self.generator
        w_avg = generator.mapping.w_avg
        w = w_avg + psi[:, None] * (generator.mapping(z, labels) - w_avg) + w_shift
        noise = [layer.noise_const[None, None] * noise_strength for layer in generator.synthesis.layers()]
        return generator.synthesis(w, noise), w


def inputs_of(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Inputs of the right shapes, by name and in order: random z and classes, psi 1, no shift, full noise."""
    config = generator.config
    inputs = {
        "z": torch.randn(batch, config.z_dim),
        "psi": torch.ones(config.num_ws),
        "w_shift": torch.zeros(batch, config.num_ws, config.w_dim),
        "noise_strength": torch.ones(()),
    }
    if config.num_classes:
        inputs["labels"] = torch.eye(config.num_classes)[torch.arange(batch) % config.num_classes]
    return inputs


def trace(generator: Generator) -> torch.export.ExportedProgram:
    """The generator's float32 graph of plain torch operations, for any batch size. The generator stays as it is."""
    own = copy.deepcopy(generator).cpu().float().eval().requires_grad_(False)
    inputs = inputs_of(own, 2)
    size = torch.export.Dim(BATCH, min=1, max=2**16)
    shapes = {name: {0: size} if tensor.ndim > 1 else None for name, tensor in inputs.items()}
    with torch.no_grad():
        return torch.export.export(ExportedGenerator(own), tuple(inputs.values()), dynamic_shapes=shapes)


def to_onnx(generator: Generator, facts: Mapping[str, Any], *, half: bool = False) -> bytes:
    """The bytes of the ONNX model, with `facts` inside; `half` stores weights as float16 and computes in float32.

    Raises ImportError where onnx or onnxscript is missing.
    """
    from onnxscript import optimizer

    program = trace(generator)
    names = list(inputs_of(generator, 1))
    with torch.no_grad(), _quiet():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=["images", "w"],
            external_data=False,
            verbose=False,
            optimize=False,
        )
    assert exported is not None
    # Constants are folded, no more: the exporter's own clean-up drops additions of 1e-8 or less, and with them what
    # keeps 1 / sqrt(x + 1e-8) finite.
    optimizer.fold_constants(exported.model, onnx_shape_inference=False)
    optimizer.remove_unused_nodes(exported.model)
    model = exported.model_proto
    _clean(model)
    if half:
        _store_half(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = FACTS, json.dumps(dict(facts), sort_keys=True)
    data: bytes = model.SerializeToString()
    return data


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about torchvision, which is not needed, and about its own use of torch."""
    log = logging.getLogger(_EXPORTER_LOG)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            yield
    finally:
        log.setLevel(level)


def _clean(model: Any) -> None:
    """Name the batch axis, and drop the exporter's notes: they hold source lines and paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = BATCH
    model.producer_name, model.producer_version = "frugan", ""


def _store_half(model: Any) -> None:
    """Store large weights as float16 with a cast after each; those beyond its range, and small ones, stay float32."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    casts = []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        if values.size < _HALF_FROM or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [weight.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
