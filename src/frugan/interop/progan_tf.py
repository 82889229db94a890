"""ProGAN in the pickles of its authors' TensorFlow repository, read without running them.

Such a file holds three networks (generator, discriminator, averaged generator), each with the source text of the
function that builds it (which the authors' loader executes), the arguments of that function and the arrays of its
variables. Here the text is skipped: the arguments become our settings, the arrays our weights.

Layouts: their convolutions are (rows, columns, in, out), ours (out, in, rows, columns); their dense layers (in, out).
A doubling convolution that is merged with its doubling (`Conv0_up`) runs as a transposed one: its kernel is stored
(rows, columns, out, in) and turned by half a turn. Weights are stored with variance 1 and scaled while they run, as
ours are. Labels join the latent before it is put on the hypersphere (docs/decisions/0006-latent-hypersphere.md).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from frugan.inert import InertError, Record
from frugan.interop.imported import Foreign, ImportProblem, build_network, refuse_settings
from frugan.models.generator import resolutions_to
from frugan.models.progan import ProGANConfig, ProGANDiscriminator, ProGANDiscriminatorConfig, ProGANGenerator

FAMILY = "ProGAN (TensorFlow pickle of its authors)"
LICENCE = (
    "The weights that the authors of ProGAN published, and what is fine-tuned or distilled from them: CC BY-NC 4.0, "
    "not commercially, with their names. Weights that others trained with the authors' code: their terms, ask them; "
    "the code has the same licence."
)
_GENERATOR, _DISCRIMINATOR = "G_paper", "D_paper"

# Settings that are read, with ... ; the others must have the value that follows.
_SHARED = {
    **dict.fromkeys(("num_channels", "resolution", "label_size", "fmap_base", "fmap_max", "use_wscale"), ...),
    **{"fmap_decay": 1.0, "dtype": ..., "fused_scale": ..., "structure": ...},
}
_OF_GENERATOR = {
    **_SHARED,
    **dict.fromkeys(("latent_size", "normalize_latents", "use_pixelnorm", "pixelnorm_epsilon", "use_leakyrelu"), ...),
}
_OF_DISCRIMINATOR = {**_SHARED, "mbstd_group_size": ...}
_DEFAULTS: dict[str, Any] = {"num_channels": 1, "resolution": 32, "label_size": 0, "fmap_base": 8192, "fmap_max": 512}
_EPSILONS = (1e-8, 1e-4)  # the second with half precision

# The functions that numpy's arrays and numbers are made by, in its versions 1 and 2; `_frombuffer` in protocol 5.
_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_BUFFERS = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")

Array = npt.NDArray[np.floating[Any]]
Layout = Callable[[Array], Array]


def holds(content: Any) -> bool:
    """Whether an unpickled value is such a file: three networks built by the authors' functions for this article."""
    return (
        isinstance(content, tuple | list)
        and len(content) == 3
        and [_function(network) for network in content] == [_GENERATOR, _DISCRIMINATOR, _GENERATOR]
    )


def _function(network: Any) -> str | None:
    if not isinstance(network, Record) or not isinstance(network.state, dict):
        return None
    name = network.state.get("build_func_name")
    return name if isinstance(name, str) else None


def read(content: Any, size_bytes: int) -> Foreign:
    """The averaged generator and the discriminator of what `holds`, from a file of this size.

    Where the generator has not grown up, `stage` says how far it is. Raises ImportProblem for settings that are not
    supported and weights that do not fit, InertError for arrays that are broken or claim more than the file's size.
    """
    _, judge, averaged = (network.state for network in content)
    variables = {name: _variables(state) for name, state in (("Gs", averaged), ("D", judge))}
    if sum(array.nbytes for arrays in variables.values() for array in arrays.values()) > size_bytes:
        raise InertError("the arrays of this file claim more than its size")
    generator, stage = _read_generator(_settings(averaged, "the generator"), variables["Gs"])
    notes: tuple[str, ...] = ()
    discriminator = None
    try:
        discriminator = _read_discriminator(_settings(judge, "the discriminator"), variables["D"])
    except ImportProblem as problem:
        notes = (f"its discriminator was left out: {problem}",)
    if stage is not None:
        notes += ("it was kept while growing: it draws {resolution} px, the newest layers {alpha:.0%}".format(**stage),)
    return Foreign(
        family=FAMILY,
        licence=LICENCE,
        generator=generator,
        discriminator=discriminator,
        notes=notes,
        facts={},
        stage=stage,
    )


# ---- arrays -------------------------------------------------------------------------------------------------------


def _variables(state: Mapping[Any, Any]) -> dict[str, Array]:
    """The arrays of a network by name, as views of the file's bytes."""
    pairs = state.get("variables")
    if not isinstance(pairs, list):
        raise ImportProblem("a network without a list of variables")
    found: dict[str, Array] = {}
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ImportProblem("the variables of a network must be names with arrays")
        if pair[0] in found:
            raise ImportProblem(f"the variable {pair[0][:80]} is there twice")
        found[pair[0]] = _array(pair[1], pair[0])
    return found


def _array(value: Any, name: str) -> Array:
    """The array that numpy wrote, or a single number of numpy's; its bytes are not copied. Raises InertError."""
    path, args, state = (value.path, value.args, value.state) if isinstance(value, Record) else ("", (), None)
    if path in _ARRAYS and isinstance(state, tuple) and len(state) == 5:
        _, shape, dtype, is_fortran, data = state
        return _view(data, shape, dtype, is_fortran is True, name)
    if path in _BUFFERS and len(args) == 4:
        data, dtype, shape, order = args
        return _view(data, shape, dtype, order == "F", name)
    if path in _SCALARS and len(args) == 2:
        return _view(args[1], (), args[0], False, name)
    raise InertError(f"the variable {name[:80]} must be an array, got a {(path or type(value).__name__)[:80]}")


def _view(data: Any, shape: Any, dtype: Any, is_fortran: bool, name: str) -> Array:
    is_shape = isinstance(shape, tuple) and len(shape) <= 8
    if not is_shape or any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < 2**40 for n in shape):
        raise InertError(f"the variable {name[:80]} has no proper shape")
    kind = _kind(dtype)
    count = 1
    for length in shape:
        count *= length
    if kind is None or not isinstance(data, bytes | bytearray) or len(data) != count * kind.itemsize:
        raise InertError(f"the variable {name[:80]} must be an array of floating-point numbers, as long as it says")
    return np.frombuffer(data, kind).reshape(shape, order="F" if is_fortran else "C")


def _kind(dtype: Any) -> np.dtype[np.floating[Any]] | None:
    """The floating-point type that a record of numpy's types names; None for others."""
    if not isinstance(dtype, Record) or dtype.path != "numpy.dtype" or not dtype.args:
        return None
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else None
    if dtype.args[0] not in ("f2", "f4", "f8") or order not in ("<", ">"):
        return None
    return np.dtype(f"{order}{dtype.args[0]}")


def _tensors(
    places: Mapping[str, tuple[str, Layout]], variables: Mapping[str, Array]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(our weights by our names, their names by ours); variables that have no place keep their own names."""
    known = {theirs for theirs, _ in places.values()} | {"lod"}
    tensors, names = {}, {}
    for ours, (theirs, layout) in places.items():
        names[ours] = theirs
        if theirs in variables:
            tensors[ours] = _ours(layout(_checked(variables[theirs], theirs)))
    return tensors | {name: _ours(array) for name, array in variables.items() if name not in known}, names


def _checked(array: Array, name: str) -> Array:
    """The array, if it has as many axes as a bias, a dense layer or a convolution."""
    axes = 1 if name.endswith("/bias") else 2 if "/Dense" in name else 4
    if array.ndim != axes or (name.endswith(("/Dense/weight", "/Dense0/weight")) and 0 in array.shape):
        raise ImportProblem(f"{name} must have {axes} axes, got the shape {array.shape}")
    return array


def _ours(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def _as_it_is(array: Array) -> Array:
    return array


def _convolution(array: Array) -> Array:
    return array.transpose(3, 2, 0, 1)


def _doubling(array: Array) -> Array:
    return array[::-1, ::-1].transpose(2, 3, 0, 1)


def _start(array: Array) -> Array:
    """(in, out of 4x4 places) to (in, out, 4, 4)."""
    if array.shape[1] % 16:
        raise ImportProblem(f"4x4/Dense/weight must make maps of 4x4 pixels, got the shape {array.shape}")
    return array.reshape(len(array), -1, 4, 4)


def _whole(array: Array) -> Array:
    """(in of 4x4 places, out) to (out, in, 4, 4)."""
    if len(array) % 16:
        raise ImportProblem(f"4x4/Dense0/weight must read maps of 4x4 pixels, got the shape {array.shape}")
    return array.T.reshape(array.shape[1], -1, 4, 4)


def _point(array: Array) -> Array:
    return array.T[:, :, None, None]


# ---- networks -----------------------------------------------------------------------------------------------------


def _read_generator(
    settings: Mapping[str, Any], variables: Mapping[str, Array]
) -> tuple[ProGANGenerator, dict[str, Any] | None]:
    what = "the generator"
    refuse_settings(settings, _OF_GENERATOR, what)
    shared = _shared(settings)
    if settings.get("pixelnorm_epsilon", _EPSILONS[0]) not in _EPSILONS:
        raise ImportProblem(f"{what} has pixelnorm_epsilon = {settings['pixelnorm_epsilon']!r:.40}, not {_EPSILONS[0]}")
    given = settings.get("latent_size")
    config = _config(
        ProGANConfig,
        what,
        **shared,
        z_dim=min(shared["channel_base"], shared["channel_max"]) if given is None else _number(settings, "latent_size"),
        latent="hypersphere" if _flag(settings, "normalize_latents") else "normal",
        label_order="before",
        activation="lrelu" if _flag(settings, "use_leakyrelu") else "relu",
        norm="pixel" if _flag(settings, "use_pixelnorm") else None,
    )
    top = config.resolution
    places = _layer("b4.conv0", "4x4/Dense", _start) | _layer("b4.conv1", "4x4/Conv")
    for size in resolutions_to(top):
        name = f"{size}x{size}"
        if size > 4:
            merged = f"{name}/Conv0_up/weight" in variables
            up = _layer(f"b{size}.conv0", f"{name}/Conv0_up", _doubling)
            places |= up if merged else _layer(f"b{size}.conv0", f"{name}/Conv0")
            places |= _layer(f"b{size}.conv1", f"{name}/Conv1")
        places |= _layer(f"b{size}.torgb", f"ToRGB_lod{_lod(size, top)}")
    net = build_network(config, *_tensors(places, variables), what)
    assert isinstance(net, ProGANGenerator)
    return net, _stage(variables.get("lod"), top)


def _read_discriminator(settings: Mapping[str, Any], variables: Mapping[str, Array]) -> ProGANDiscriminator:
    what = "the discriminator"
    refuse_settings(settings, _OF_DISCRIMINATOR, what)
    group = _number(settings, "mbstd_group_size", 4)
    shared = _shared(settings)
    top = shared["resolution"]
    merged = f"{top}x{top}/Conv1_down/weight" in variables
    config = _config(
        ProGANDiscriminatorConfig,
        what,
        **shared,
        stddev_group=max(group, 1),
        stddev_features=1 if group > 1 else 0,
        fused_down=merged,
    )
    places = _layer("b4.conv0", "4x4/Conv") | _layer("b4.conv1", "4x4/Dense0", _whole)
    places |= _layer("out", "4x4/Dense1", _point)
    for size in resolutions_to(top):
        name = f"{size}x{size}"
        places |= _layer(f"b{size}.fromrgb", f"FromRGB_lod{_lod(size, top)}")
        if size > 4:
            places |= _layer(f"b{size}.conv0", f"{name}/Conv0")
            places |= _layer(f"b{size}.conv1", f"{name}/Conv1_down" if merged else f"{name}/Conv1")
    net = build_network(config, *_tensors(places, variables), what)
    assert isinstance(net, ProGANDiscriminator)
    return net


def _layer(ours: str, theirs: str, layout: Layout = _convolution) -> dict[str, tuple[str, Layout]]:
    return {f"{ours}.weight": (f"{theirs}/weight", layout), f"{ours}.bias": (f"{theirs}/bias", _as_it_is)}


def _lod(size: int, top: int) -> int:
    return top.bit_length() - size.bit_length()


def _stage(lod: Array | None, top: int) -> dict[str, Any] | None:
    """How far a generator has grown, from their level of detail: 0 fully, n.25 the block n below the top at 75 %."""
    value = 0.0 if lod is None or lod.size != 1 else float(lod.reshape(()))
    if not 0 <= value <= _lod(4, top):
        raise ImportProblem(f"the level of detail must be from 0 to {_lod(4, top)}, got {value}")
    whole = int(value)
    return {"resolution": top >> whole, "alpha": 1 - (value - whole)} if value else None


# ---- settings -----------------------------------------------------------------------------------------------------


def _settings(state: Mapping[Any, Any], what: str) -> dict[str, Any]:
    settings = state.get("static_kwargs")
    if not isinstance(settings, dict) or any(not isinstance(name, str) for name in settings):
        raise ImportProblem(f"{what} does not say with which settings it was made")
    return settings


def _shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "resolution": _number(settings, "resolution"),
        "channels": _number(settings, "num_channels"),
        "num_classes": _number(settings, "label_size"),
        "channel_base": _number(settings, "fmap_base"),
        "channel_max": _number(settings, "fmap_max"),
        "equalized": _flag(settings, "use_wscale"),
    }


def _config(cls: type[Any], what: str, **settings: Any) -> Any:
    try:
        return cls(**settings)
    except ValueError as error:
        raise ImportProblem(f"{what} is not supported: {error}") from None


def _number(settings: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = settings.get(name, _DEFAULTS.get(name, default))
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**31:
        raise ImportProblem(f"{name} must be a whole number, got {value!r:.40}")
    return value


def _flag(settings: Mapping[str, Any], name: str) -> bool:
    value = settings.get(name, True)
    if not isinstance(value, bool):
        raise ImportProblem(f"{name} must be True or False, got {value!r:.40}")
    return value
