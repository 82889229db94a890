"""From a generator or translator to the bytes of an ONNX graph.

Of a generator with styles: inputs z (N, z_dim), psi (num_ws,), w_shift (N, num_ws, w_dim), noise_strength (), and where
there are classes labels (N, num_classes); outputs images (N, C, H, W) and w (N, num_ws, w_dim); all float32, any N. Why
these: docs/decisions/0005-export-inputs.md. Of one without styles: z and labels; images. Of a translator: input source
(N, maps, H, W), output images; any N, and any H and W that are multiples, but for label maps, which have the size they
were learned at.
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

from frugan.models.biggan import BigGANGenerator
from frugan.models.generator import ImageGenerator, ImageTranslator
from frugan.models.spade import SpadeConfig, SpadeTranslator
from frugan.models.stylegan2 import Generator
from frugan.runtime import FACTS

OPSET = 18
BATCH = "N"
AXES = {2: "H", 3: "W"}
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


class ExportedArtist(nn.Module):
    """A generator without styles, fully grown."""

    def __init__(self, generator: ImageGenerator) -> None:
        super().__init__()
        is_spectral = isinstance(generator, BigGANGenerator) and generator.config.spectral
        self.generator = generator.fold_spectral() if is_spectral else generator  # type: ignore[operator]

    def forward(
        self, z: Float[Tensor, "N z_dim"], labels: Float[Tensor, "N num_classes"] | None = None
    ) -> tuple[Float[Tensor, "N C H W"]]:
        """(images,)"""
        return (self.generator.pictures(self.generator.codes(z, labels)),)


class ExportedTranslator(nn.Module):
    """The translator as it is drawn from: no subnet, no dropout."""

    def __init__(self, translator: ImageTranslator) -> None:
        super().__init__()
        is_spectral = isinstance(translator, SpadeTranslator) and translator.config.spectral
        self.translator = translator.fold_spectral() if is_spectral else translator  # type: ignore[operator]

    def forward(self, source: Float[Tensor, "N maps H W"]) -> tuple[Float[Tensor, "N C H W"]]:
        """(images,) of what the translator reads."""
        images: Tensor = self.translator.translate(source)
        return (images,)


Network = ImageGenerator | ImageTranslator


def exported(net: Network) -> nn.Module:
    """The network with what a request sets as tensors."""
    if isinstance(net, ImageTranslator):
        return ExportedTranslator(net)
    return ExportedGenerator(net) if isinstance(net, Generator) else ExportedArtist(net)


def outputs_of(net: Network) -> list[str]:
    """The names of what comes out."""
    return ["images", "w"] if isinstance(net, Generator) else ["images"]


def fixed_size(net: ImageTranslator) -> tuple[int, int] | None:
    """Height and width, where only these are exported."""
    return net.config.size if isinstance(net.config, SpadeConfig) else None


def random_source(
    net: ImageTranslator, batch: int, size: tuple[int, int] | None = None, seed: int = 0
) -> Float[Tensor, "N maps H W"]:
    """What the network reads of random pixels or label numbers; pictures of 64 px or the least size, unless told."""
    config, draw = net.config, torch.Generator().manual_seed(seed)
    least = max(config.multiple, 64)
    height, width = fixed_size(net) or size or (least, least)
    top = config.num_labels if isinstance(config, SpadeConfig) else 256
    source = torch.randint(0, top, (batch, config.source_channels, height, width), generator=draw, dtype=torch.uint8)
    if isinstance(config, SpadeConfig):
        source[:, 1:] %= 2
    return net.read(source)


def inputs_of(generator: Network, batch: int) -> dict[str, Tensor]:
    """Inputs of the right shapes, by name and in order: random z and classes, and where there are styles psi 1, no
    shift, full noise; or a random source.
    """
    if isinstance(generator, ImageTranslator):
        return {"source": random_source(generator, batch)}
    config = generator.config
    inputs = {"z": torch.randn(batch, config.z_dim)}
    if isinstance(generator, Generator):
        styles = generator.config
        inputs["psi"] = torch.ones(styles.num_ws)
        inputs["w_shift"] = torch.zeros(batch, styles.num_ws, styles.w_dim)
        inputs["noise_strength"] = torch.ones(())
    if config.num_classes:
        inputs["labels"] = torch.eye(config.num_classes)[torch.arange(batch) % config.num_classes]
    return inputs


def trace(generator: Network) -> torch.export.ExportedProgram:
    """The network's float32 graph of plain torch operations, for any batch size. The network stays as it is."""
    own = copy.deepcopy(generator).cpu().float().eval().requires_grad_(False)
    inputs = inputs_of(own, 2)
    shapes = {name: _shape(own, tensor) for name, tensor in inputs.items()}
    with torch.no_grad():
        return torch.export.export(exported(own), tuple(inputs.values()), dynamic_shapes=shapes)


def _shape(net: Network, tensor: Tensor) -> dict[int, Any] | None:
    """Which axes of an input are free: the batch, and height and width of pictures in steps."""
    if tensor.ndim <= 1:
        return None
    free: dict[int, Any] = {0: torch.export.Dim(BATCH, min=1, max=2**16)}
    if isinstance(net, ImageTranslator) and fixed_size(net) is None:
        step = net.config.multiple
        least = max(-(-8 // step), 1)  # smaller ones cannot be reflected
        for axis, name in ((2, "rows"), (3, "columns")):
            free[axis] = step * torch.export.Dim(name, min=least, max=2**15 // step)
    return free


def to_onnx(generator: Network, facts: Mapping[str, Any], *, half: bool = False) -> bytes:
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
            output_names=outputs_of(generator),
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
    """Name the free axes, and drop the exporter's notes: they hold source lines and paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for place, axis in enumerate(value.type.tensor_type.shape.dim):
            if axis.dim_param:
                axis.dim_param = AXES.get(place, BATCH)
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
