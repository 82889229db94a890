"""`frugan export` and `frugan cost`: models as files that run elsewhere, and what it costs to run them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from frugan.cli import parse
from frugan.cli.tell import Teller

if TYPE_CHECKING:
    from torch import nn

    from frugan.export import Exported
    from frugan.metrics.measure import Latency
    from frugan.model import Model
    from frugan.models.subnet import Subnet

BATCHES = (1, 16)


def export(
    model: str = "demo",
    /,
    *,
    to: Literal["onnx", "openvino", "rosinality"] = "onnx",
    out: Path | None = None,
    precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    repeats: int = 20,
    overwrite: bool = False,
) -> None:
    """Write a model as a file that runs without torch; refused where its pictures would differ.

    Parameters
    ----------
    model
        demo, a run folder or a checkpoint.
    to
        onnx: runs nearly everywhere, the browser too. openvino: for Intel and AMD processors. rosinality: a .pt file
        that the many projects built on rosinality's StyleGAN2 read.
    out
        The folder to make; by default export-TO beside you. For rosinality the file; by default rosinality.pt.
    precision
        fp32; fp16: half the download, computes in fp32; bf16: openvino computes in bfloat16 where the processor can.
    repeats
        How often times are measured; 0 for not at all.
    overwrite
        Replace an earlier export.
    """
    from frugan.export import export as write
    from frugan.model import load

    teller = Teller()
    loaded = load(model)
    if to == "rosinality":
        if precision != "fp32":
            raise ValueError(f"--to rosinality writes fp32 as its readers expect, got --precision {precision}")
        _export_rosinality(loaded, out or Path("rosinality.pt"), overwrite, teller)
        return
    folder = out or Path(f"export-{to}")
    done = write(loaded, folder, to=to, precision=precision, overwrite=overwrite, repeats=repeats, progress=teller.say)
    _tell(done, teller)


def _export_rosinality(model: "Model", path: Path, overwrite: bool, teller: Teller) -> None:
    from frugan.interop.rosinality import export_checkpoint

    if path.exists() and not overwrite:
        raise ValueError(f"{path} is there already; use --overwrite or another --out")
    notes = export_checkpoint(model, path)
    teller.say(f"  {path}  {path.stat().st_size / 1e6:.2f} MB")
    for note in notes:
        teller.say(f"note: {note}")


def _tell(done: "Exported", teller: Teller) -> None:
    for name, size in done.sizes.items():
        teller.say(f"  {done.folder / name}  {size / 1e6:.2f} MB")
    found = done.verification
    teller.say(
        f"compared on {found.pictures} pictures: {found.worst_levels:.4f} of 255 grey levels apart at the worst pixel, "
        f"{found.mean_levels:.5f} on average"
    )
    for (name, batch), latency in done.latency.items():
        teller.say(f"  {name:>8}, {_pictures(batch)}: {_time(latency)}, {done.threads} threads")
    if done.memory is not None:
        teller.say(f"  memory of a process that draws one picture: {done.memory.peak_mb:.0f} MB")
    for note in done.notes:
        teller.say(f"note: {note}")
    teller.say(done.usage)


def _pictures(batch: int) -> str:
    return "1 picture" if batch == 1 else f"{batch} pictures"


def _time(latency: "Latency") -> str:
    return f"{latency.minimum_ms:.1f} ms at best, median {latency.median_ms:.1f} of {latency.repeats}"


def cost(
    model: str = "demo",
    /,
    *,
    ratio: Annotated[float | None, parse.FINITE] = None,
    resolution: int | None = None,
    repeats: int = 20,
    device: str = "cpu",
) -> None:
    """What a picture costs: multiply-adds, parameters, time and memory, of a model or a part of it.

    Parameters
    ----------
    model
        demo, a run folder or a checkpoint.
    ratio
        Run this share of the channels, above 0 and up to 1.
    resolution
        Stop at this many pixels per side; of a translator, the size of the picture.
    repeats
        How often times are measured.
    device
        cpu, cuda.
    """
    import torch

    from frugan.metrics import cost as costs
    from frugan.metrics.measure import latencies, peak_memory
    from frugan.model import load

    loaded = load(model, device=device)
    if loaded.is_translator and ratio is not None:
        raise ValueError(f"--ratio is for stylegan2 models, this is a {loaded.family} model")
    subnet = _subnet(loaded, ratio)
    macs = costs.count_macs(_call(model, 1, ratio, resolution, device))
    teller = Teller()
    running: nn.Module = loaded.generator
    if not loaded.is_translator:
        whole = loaded.artist if subnet is None else loaded.styles.extract(subnet)
        running = whole if resolution is None else whole.at_resolution(resolution)
    side = resolution or _side(loaded)
    teller.say(f"{side} px, {loaded.generator.config.channels} channels, one picture:")
    teller.say(f"  parameters     {costs.count_parameters(running):,}")
    teller.say(f"  multiply-adds  {_giga(macs.total)}")
    for name, number in (("convolution", macs.convolution), ("products", macs.product), ("filters", macs.filter)):
        teller.say(f"    {name:<13}{_giga(number)}")
    teller.say(f"  as torchprofile counts (published tables): {_giga(macs.torchprofile)}")
    wait = torch.cuda.synchronize if loaded.device.type == "cuda" else None
    threads = f"{torch.get_num_threads()} threads" if wait is None else torch.cuda.get_device_name(loaded.device)
    calls = {_pictures(batch): _call(model, batch, ratio, resolution, device) for batch in BATCHES}
    for name, latency in latencies(calls, repeats=repeats, wait=wait).items():
        teller.say(f"  {name:<12} {_time(latency)} ({threads})")
    for batch in BATCHES:
        if wait is not None:
            peak = costs.cuda_peak_mb(calls[_pictures(batch)], loaded.device)
            teller.say(f"  memory on the GPU for {_pictures(batch)}: {peak:.0f} MB")
        elif memory := peak_memory(_call, model, batch, ratio, resolution, device):
            teller.say(
                f"  memory for {_pictures(batch)}: {memory.added_mb:.0f} MB, the whole process {memory.peak_mb:.0f} MB"
            )


def _giga(number: int) -> str:
    return f"{number / 1e9:.4g} G"


def _subnet(model: "Model", ratio: float | None) -> "Subnet | None":
    from frugan.models.subnet import Subnet

    return None if ratio is None else Subnet.uniform(model.styles.config, ratio)


def _side(model: "Model") -> int:
    """Pixels per side of its pictures; of a translator, of those it learned from, else 256."""
    known = (model.info.get("data") or {}).get("resolution")
    return int(known or 256) if model.is_translator else model.resolution


def _call(model: str, batch: int, ratio: float | None, resolution: int | None, device: str) -> Callable[[], object]:
    """A call that draws `batch` pictures; made here so that a process of its own can make it too."""
    import torch

    from frugan.model import load

    loaded = load(model, device=device)
    if loaded.is_translator:
        side, channels = resolution or _side(loaded), loaded.translator.config.source_channels
        source = torch.zeros(batch, channels, side, side, dtype=torch.uint8)
        return lambda: loaded.translate(source, batch=batch)
    subnet = _subnet(loaded, ratio)
    return lambda: loaded.sample(range(batch), subnet=subnet, resolution=resolution, batch=batch)
