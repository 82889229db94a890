"""Pictures from an exported model, without torch: numpy and onnxruntime (or openvino) are all it needs.

A generator draws from seeds, a translator (`Runtime.translate`) makes pictures of pictures.

    python -m frugan.runtime model.onnx --seeds 0-15 --out grid.png

The same seeds give the same pictures as the trained model. Arrays are numpy arrays throughout: `z` (N, z_dim) and `w`
(N, num_ws, w_dim) float32, pictures uint8 (N, H, W, C) as picture libraries like them. What the inputs of an exported
model mean: docs/decisions/0005-export-inputs.md.
"""

import argparse
import json
import math
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FACTS = "frugan"
"""The name under which an exported model holds its facts, as JSON."""

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Run = Callable[[Mapping[str, Floats]], dict[str, Floats]]


class Runtime:
    """An exported model: `model.onnx` runs with onnxruntime, `model.xml` with openvino.

    `facts` tells what it is: `resolution`, `channels`, `z_dim`, `w_dim`, `num_ws`, `class_names`, `licence`, ...
    `execution` is the precision it computes in here: `float32`, or `bfloat16` where export and processor say so.
    Calls may come from several threads. Raises ValueError where the file is missing, was not exported by frugan, or the
    package that runs it is not installed.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None) -> None:
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path} is not a file; an exported model is named model.onnx or model.xml")
        if path.suffix not in (".onnx", ".xml"):
            raise ValueError(f"an exported model ends in .onnx or .xml, got {path.name!r}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be 1 or more, got {threads}")
        open_file = _open_onnx if path.suffix == ".onnx" else _open_openvino
        self.facts, self.execution, self._run = open_file(path, threads)
        self._average: Floats | None = None

    @property
    def is_translator(self) -> bool:
        """Whether it makes pictures of pictures, and not of seeds."""
        return "source_channels" in self.facts

    def run_source(self, source: Floats) -> Floats:
        """Raw pictures, float32 (N, C, H, W), about [-1, 1], of what a translator reads (N, maps, H, W).

        Raises ValueError for a model that draws from seeds, and for other channels or sizes than `facts` says.
        """
        if not self.is_translator:
            raise ValueError("this model draws pictures from seeds, it does not translate any: use sample")
        maps, step = self.facts["inputs"][0]["shape"][1], self.facts["multiple"]
        fixed = self.facts["size"]
        fits = list(source.shape[2:]) == fixed if fixed else not any(side % step for side in source.shape[2:])
        if source.ndim != 4 or source.shape[1] != maps or not fits:
            wanted = f"{fixed[0]} x {fixed[1]}" if fixed else f"multiples of {step}"
            raise ValueError(f"sources must be (N, {maps}, H, W) with H and W {wanted}, got {source.shape}")
        return self._run({"source": np.asarray(source, np.float32)})["images"]

    def translate(self, pictures: Pixels, *, batch: int = 8) -> Pixels:
        """The translation of each picture, uint8 (N, H, W, C), as `frugan.load(...).translate` makes it.

        Pictures of any size are reflected up to what the network divides, and cut back. Label maps hold label numbers,
        and 1 at edges of instances where the network was trained with those; they have the size that `facts` says.
        Raises ValueError for other channels, labels or sizes.
        """
        if not self.is_translator:
            raise ValueError("this model draws pictures from seeds, it does not translate any: use sample")
        facts, channels = self.facts, self.facts["source_channels"]
        if pictures.ndim != 4 or pictures.shape[3] != channels or not len(pictures):
            raise ValueError(f"pictures must be (N, H, W, {channels}), at least one, got {pictures.shape}")
        height, width = pictures.shape[1:3]
        maps = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
        if facts["num_labels"] is None:
            maps = _reflected(maps, facts["multiple"])
        elif int(maps[:, 0].max()) >= facts["num_labels"]:
            raise ValueError(f"label numbers must be below {facts['num_labels']}, got {int(maps[:, 0].max())}")
        parts = (self._read(maps[start : start + batch]) for start in range(0, len(maps), batch))
        return _joined(to_uint8(self.run_source(part))[:, :height, :width] for part in parts)

    def _read(self, maps: Pixels) -> Floats:
        labels = self.facts["num_labels"]
        if labels is None:
            return maps.astype(np.float32) / np.float32(127.5) - np.float32(1)
        one_hot = maps[:, :1] == np.arange(labels, dtype=np.uint8)[:, None, None]
        return np.concatenate([one_hot, maps[:, 1:] != 0], axis=1).astype(np.float32)

    @property
    def has_styles(self) -> bool:
        """Whether there is w, and with it psi, noise, edits and walks."""
        return "num_ws" in self.facts

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes; empty without labels."""
        return tuple(self.facts["class_names"])

    def run_latents(self, z: Floats, *, labels: Floats | None = None) -> Floats:
        """Raw pictures, float32 (N, C, H, W), about [-1, 1], of a generator without styles; `labels` are one-hot rows.

        Raises ValueError for other models, and arrays of other shapes.
        """
        if self.has_styles or self.is_translator:
            raise ValueError("this model has styles: use run" if self.has_styles else "this model translates pictures")
        return self._run(self._latents(z, labels))["images"]

    def _latents(self, z: Floats, labels: Floats | None) -> dict[str, Floats]:
        """The inputs z and labels, if they have the right shapes."""
        feeds = {"z": np.asarray(z, np.float32)}
        wanted = {"z": self.facts["z_dim"]}
        if self.class_names:
            feeds["labels"] = np.zeros((len(z), 0), np.float32) if labels is None else np.asarray(labels, np.float32)
            wanted["labels"] = len(self.class_names)
        for name, length in wanted.items():
            if feeds[name].shape != (len(z), length):
                raise ValueError(f"{name} must have the shape {(len(z), length)}, got {feeds[name].shape}")
        return feeds

    def _need_styles(self, what: str) -> None:
        if not self.has_styles:
            raise ValueError(f"{what} needs a model with styles (w), this one only draws seeds")

    def run(
        self,
        z: Floats,
        *,
        labels: Floats | None = None,
        psi: float | Floats = 1.0,
        w_shift: Floats | None = None,
        noise: float = 1.0,
    ) -> tuple[Floats, Floats]:
        """Raw outputs: images float32 (N, C, H, W), about [-1, 1], and the w (N, num_ws, w_dim) they were made from.

        w = average + psi (mapping(z, labels) - average) + w_shift. `psi` is one number or one for each of the num_ws
        styles; `noise` is the strength of the stored noise maps, 0 for none; `labels` are one-hot rows.
        """
        self._need_styles("run")
        facts = self.facts
        styles = (facts["num_ws"], facts["w_dim"])
        feeds = {
            **self._latents(z, labels),
            "psi": np.broadcast_to(np.asarray(psi, np.float32), styles[:1]).copy(),
            "w_shift": np.zeros((len(z), *styles), np.float32) if w_shift is None else np.asarray(w_shift, np.float32),
            "noise_strength": np.asarray(noise, np.float32),
        }
        if feeds["w_shift"].shape != (len(z), *styles):
            raise ValueError(f"w_shift must have the shape {(len(z), *styles)}, got {feeds['w_shift'].shape}")
        outputs = self._run(feeds)
        return outputs["images"], outputs["w"]

    def sample(
        self,
        seeds: Iterable[int],
        *,
        classes: Sequence[int | str] | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise: float = 1.0,
        batch: int = 16,
    ) -> Pixels:
        """The pictures of these seeds, uint8 (N, H, W, C), as `frugan.load(...).sample` draws them.

        `psi` below 1 gives tamer, more typical pictures; `cutoff` applies it to the first so many styles only. A model
        with classes and no `classes` given takes the class `seed mod number of classes`. Raises ValueError for no seeds
        or an unknown class, for a psi other than 1 where there are no styles, and for a model that translates pictures.
        """
        if self.is_translator:
            raise ValueError("this model translates pictures, it draws none from seeds: use translate, in Python")
        if not self.has_styles:
            return self._sample_latents(list(seeds), classes, batch, is_plain=psi == 1 and cutoff is None)
        return _joined(to_uint8(images) for images, _ in self._stream(list(seeds), classes, psi, cutoff, noise, batch))

    def w(
        self,
        seeds: Iterable[int],
        *,
        classes: Sequence[int | str] | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        batch: int = 16,
    ) -> Floats:
        """The style vectors of these seeds, (N, num_ws, w_dim). Costs as much as drawing them."""
        self._need_styles("w")
        return _joined(w for _, w in self._stream(list(seeds), classes, psi, cutoff, 1.0, batch))

    def synthesize(self, w: Floats, *, noise: float = 1.0) -> Pixels:
        """The pictures of these style vectors, uint8 (N, H, W, C); w may come from `w`, mixed or edited at will."""
        self._need_styles("synthesize")
        wanted = (len(w), self.facts["num_ws"], self.facts["w_dim"])
        if w.shape != wanted:
            raise ValueError(f"w must have the shape {wanted}, got {w.shape}")
        if self._average is None:
            # psi 0 leaves nothing of z; what remains is the average.
            self._average = self.run(np.zeros((1, self.facts["z_dim"]), np.float32), labels=self._blank(1), psi=0.0)[1]
        z = np.zeros((len(w), self.facts["z_dim"]), np.float32)
        images, _ = self.run(z, labels=self._blank(len(w)), psi=0.0, w_shift=w - self._average, noise=noise)
        return to_uint8(images)

    def walk(
        self,
        seeds: Sequence[int],
        *,
        frames_between: int = 24,
        psi: float = 1.0,
        classes: Sequence[int | str] | None = None,
        batch: int = 16,
    ) -> Iterator[Pixels]:
        """Pictures along a closed, smooth path through the style vectors of these seeds, in batches.

        Between two seeds lie `frames_between` pictures, eased in and out (smoothstep), linear in w.
        """
        if len(seeds) < 2:
            raise ValueError(f"a walk needs at least two seeds, got {len(seeds)}")
        self._need_styles("walk")
        keys = self.w(seeds, classes=classes, psi=psi)
        steps = np.linspace(0, 1, frames_between + 1, dtype=np.float32)[:-1, None, None]
        ease = steps * steps * (3 - 2 * steps)
        path = np.concatenate([a + ease * (b - a) for a, b in zip(keys, np.roll(keys, -1, axis=0), strict=True)])
        for start in range(0, len(path), batch):
            yield self.synthesize(path[start : start + batch])

    def _sample_latents(
        self, seeds: list[int], classes: Sequence[int | str] | None, batch: int, *, is_plain: bool
    ) -> Pixels:
        if not is_plain:
            self._need_styles("psi other than 1, or a cutoff,")
        if not seeds:
            raise ValueError("at least one seed is needed, got none")
        z, labels = latents(seeds, self.facts["z_dim"]), self._labels(seeds, classes)
        parts = [slice(start, start + batch) for start in range(0, len(seeds), batch)]
        return _joined(
            to_uint8(self.run_latents(z[part], labels=None if labels is None else labels[part])) for part in parts
        )

    def _stream(
        self,
        seeds: list[int],
        classes: Sequence[int | str] | None,
        psi: float,
        cutoff: int | None,
        noise: float,
        batch: int,
    ) -> Iterator[tuple[Floats, Floats]]:
        if not seeds:
            raise ValueError("at least one seed is needed, got none")
        strengths = np.full(self.facts["num_ws"], psi, np.float32)
        strengths[len(strengths) if cutoff is None else cutoff :] = 1
        z, labels = latents(seeds, self.facts["z_dim"]), self._labels(seeds, classes)
        for start in range(0, len(seeds), batch):
            part = slice(start, start + batch)
            yield self.run(z[part], labels=None if labels is None else labels[part], psi=strengths, noise=noise)

    def _blank(self, count: int) -> Floats | None:
        return np.zeros((count, len(self.class_names)), np.float32) if self.class_names else None

    def _labels(self, seeds: list[int], classes: Sequence[int | str] | None) -> Floats | None:
        names = self.class_names
        if not names:
            if classes is not None:
                raise ValueError("this model was trained without classes: leave the classes out")
            return None
        chosen = [seed % len(names) for seed in seeds] if classes is None else list(classes)
        if len(chosen) != len(seeds):
            raise ValueError(f"as many classes as seeds are needed ({len(seeds)}), got {len(chosen)}")
        rows = np.zeros((len(seeds), len(names)), np.float32)
        for row, item in enumerate(chosen):
            rows[row, _class_index(item, names)] = 1
        return rows


def drawing(path: Path | str) -> Callable[[], Pixels]:
    """A call that opens the model at `path` and makes one picture: what a process needs for that can be measured.

    A translator makes one of 256 px, or of the size that it has.
    """

    def draw() -> Pixels:
        runtime = Runtime(path)
        if not runtime.is_translator:
            return runtime.sample([0])
        height, width = runtime.facts["size"] or (256, 256)
        return runtime.translate(np.zeros((1, height, width, runtime.facts["source_channels"]), np.uint8))

    return draw


def _reflected(maps: Pixels, multiple: int) -> Pixels:
    """Pictures (N, C, H, W), right and lower parts reflected until both sides are multiples and at least 8, as in
    training's package; the edge itself is not repeated.
    """
    for axis in (2, 3):
        length = maps.shape[axis]
        steps = np.arange(-(-max(length, 8) // multiple) * multiple) % max(2 * length - 2, 1)
        maps = np.take(maps, np.minimum(steps, 2 * length - 2 - steps), axis=axis)
    return maps


def _class_index(item: int | str, names: tuple[str, ...]) -> int:
    if isinstance(item, str) and item in names:
        return names.index(item)
    if isinstance(item, str) and not item.isdigit():
        raise ValueError(f"this model has no class {item!r}; it has: {', '.join(names)}")
    if not 0 <= int(item) < len(names):
        raise ValueError(f"a class number must be in [0, {len(names) - 1}], got {item}")
    return int(item)


def _joined(parts: Iterable[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(list(parts))


def latents(seeds: Sequence[int], z_dim: int) -> Floats:
    """The z of these seeds: row by row `numpy.random.RandomState(seed).randn(z_dim)`, as in training."""
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise ValueError(f"a seed must be in [0, {2**32 - 1}], got {seed}")
    return np.stack([np.random.RandomState(seed).randn(z_dim) for seed in seeds]).astype(np.float32)


def to_uint8(images: Floats) -> Pixels:
    """Modelled pixels ([-1, 1], (N, C, H, W)) as stored ones: rounded and clamped to 0..255, (N, H, W, C)."""
    scaled = np.nan_to_num((images.astype(np.float32) + 1) * np.float32(127.5), nan=0.0, posinf=255.0, neginf=0.0)
    return np.ascontiguousarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


# ---- the engines --------------------------------------------------------------------------------------------------


def _facts(text: str | None, path: Path) -> dict[str, Any]:
    if text is None:
        raise ValueError(f"{path} was not written by `frugan export`: it does not say what its inputs mean")
    facts: dict[str, Any] = json.loads(text)
    return facts


def _open_onnx(path: Path, threads: int | None) -> tuple[dict[str, Any], str, Run]:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("an .onnx model runs with onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf, RuntimeError) as error:
        raise ValueError(f"{path} is not an ONNX model that onnxruntime can read ({error})") from None
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, Floats]) -> dict[str, Floats]:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return _facts(session.get_modelmeta().custom_metadata_map.get(FACTS), path), "float32", run


def _open_openvino(path: Path, threads: int | None) -> tuple[dict[str, Any], str, Run]:
    try:
        import openvino
    except ImportError:
        raise ValueError("an .xml model runs with openvino: pip install openvino") from None
    core = openvino.Core()
    try:
        model = core.read_model(path)
        text = model.get_rt_info([FACTS]).value if FACTS in model.get_rt_info() else None
    except RuntimeError as error:
        raise ValueError(f"{path} is not a model that openvino can read ({error})") from None
    facts = _facts(text, path)
    # Left to itself openvino takes bfloat16 where the processor has it: other pictures on other machines.
    can_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    is_bf16 = facts["execution"] == "bfloat16" and can_bf16
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if is_bf16 else "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", settings)

    def run(feeds: Mapping[str, Floats]) -> dict[str, Floats]:
        # A call makes its own request, so that threads do not share one.
        outputs = compiled.create_infer_request().infer(dict(feeds))
        return {port.any_name: np.array(value, np.float32) for port, value in outputs.items()}

    return facts, "bfloat16" if is_bf16 else "float32", run


# ---- a picture of many --------------------------------------------------------------------------------------------


def grid(images: Pixels, columns: int | None = None, gap: int = 2) -> Pixels:
    """One picture (H, W, C) that shows all `images` (N, H, W, C) row by row on white; by default nearly square."""
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = gap + index // columns * (height + gap), gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def encode_png(image: Pixels) -> bytes:
    """The bytes of a PNG file of a picture (H, W, C) with 1, 3 or 4 channels."""
    height, width, channels = image.shape
    kinds = {1: 0, 3: 2, 4: 6}
    if channels not in kinds:
        raise ValueError(f"a picture needs 1, 3 or 4 channels, got {channels}")
    lines = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, kinds[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def parse_seeds(text: str) -> list[int]:
    """The numbers of `0-63`, `7` or `1,5,9-12`."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f"seeds must look like 0-63 or 1,5,9-12, got {text!r}")
        numbers.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return numbers


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw a grid of pictures from an exported model; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m frugan.runtime", description="Draw from an exported model.")
    parser.add_argument("model", type=Path, help="model.onnx or model.xml")
    parser.add_argument("--seeds", default="0-15", help="such as 0-15 or 1,5,9-12")
    parser.add_argument("--psi", type=float, help="below 1 tamer pictures, 1 all the variety; by default 0.7 or 1")
    parser.add_argument("--noise", type=float, default=1.0, help="strength of the noise, 0 for none")
    parser.add_argument("--classes", help="names or numbers, separated by commas, one for each seed")
    parser.add_argument("--threads", type=int, help="by default all cores")
    parser.add_argument("--out", type=Path, default=Path("grid.png"), help="the picture to write")
    options = parser.parse_args(arguments)
    classes = [part.strip() for part in options.classes.split(",")] if options.classes else None
    try:
        runtime = Runtime(options.model, threads=options.threads)
        seeds = parse_seeds(options.seeds)
        psi = options.psi if options.psi is not None else 0.7 if runtime.has_styles else 1.0
        images = runtime.sample(seeds, psi=psi, noise=options.noise, classes=classes)
        options.out.write_bytes(encode_png(grid(images)))
    except (ValueError, OSError) as error:
        print(f"frugan: {error}", file=sys.stderr)
        return 2
    print(f"drawn: {len(images)} pictures, {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
