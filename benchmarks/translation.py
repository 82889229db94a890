"""Milliseconds of a translator's forward, eager and exported, and pictures per second of its training.

    python -m benchmarks.translation [--width 64] [--side 256] [--threads 2] [--seconds 60] [--targets onnx,openvino]
        [--precisions float32,bfloat16] [--note WORDS]

The dense ResNet of nine blocks. The ways to run it take turns and the fastest turn of each counts. A training image
costs one step of the patch discriminator on a fake and on a real, and one step of the generator with L1, as pix2pix
has them; no optimiser, no data.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks import record

from frugan.export import export
from frugan.losses import adversarial
from frugan.metrics.cost import count_macs
from frugan.model import Model
from frugan.models.patchgan import PatchConfig, PatchDiscriminator
from frugan.models.translator import ResnetConfig, ResnetTranslator
from frugan.runtime import Runtime

Call = Callable[[], object]


def forwards(net: ResnetTranslator, side: int, targets: list[str], folder: Path) -> dict[str, Call]:
    """One call for each way to translate a picture."""
    source = torch.rand(1, 3, side, side) * 2 - 1

    def eager() -> None:
        with torch.inference_mode():
            net.translate(source)

    calls: dict[str, Call] = {"eager": eager}
    for target in targets:
        done = export(Model(net), folder / target, to=target, repeats=0)  # type: ignore[arg-type]
        runtime = Runtime(done.model, threads=torch.get_num_threads())
        calls[target] = lambda runtime=runtime: runtime.run_source(source.numpy())
    return calls


def training(net: ResnetTranslator, side: int, batch: int, precision: torch.dtype) -> Call:
    """One discriminator step and one generator step."""
    judge = PatchDiscriminator(PatchConfig(channels=6))
    source, target = (torch.rand(batch, 3, side, side) * 2 - 1 for _ in range(2))
    is_mixed = precision != torch.float32

    def step() -> None:
        with torch.autocast("cpu", precision, enabled=is_mixed):
            fakes = net(source)
            of_fakes = judge(torch.cat([source, fakes.detach()], dim=1)).float()
            of_reals = judge(torch.cat([source, target], dim=1)).float()
        adversarial.discriminator_loss("hinge", of_reals.flatten(), of_fakes.flatten()).mean().backward()
        judge.requires_grad_(False)
        with torch.autocast("cpu", precision, enabled=is_mixed):
            opinion = judge(torch.cat([source, fakes], dim=1)).float()
        loss = adversarial.generator_loss("hinge", opinion.flatten()).mean() + 100 * (fakes - target).abs().mean()
        loss.backward()
        judge.requires_grad_(True)

    return step


def fastest(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """The fastest of several turns, in seconds; every call runs three times or more."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < 3 or time.perf_counter() < end:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: min(found[1:]) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--targets", default="onnx,openvino")
    parser.add_argument("--precisions", default="float32,bfloat16", help="of training; bfloat16 is slow where emulated")
    parser.add_argument("--note", default="", help="what a reader should know, such as that the machine was busy")
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    net = ResnetTranslator(ResnetConfig(width=options.width)).eval()
    source = torch.zeros(1, 3, options.side, options.side)
    macs = count_macs(lambda: net(source)).total
    size, rows = f"resnet9 ngf{options.width} {options.side}px", []
    with tempfile.TemporaryDirectory() as folder:
        targets = [target for target in options.targets.split(",") if target]
        found = fastest(forwards(net, options.side, targets, Path(folder)), options.seconds / 2)
    for name, best in found.items():
        print(f"forward {name:9} {best * 1e3:8.1f} ms")
        rows.append(
            record.Row(name=f"translate {name}", size=size, batch=1, ms=best * 1e3, macs=macs, note=options.note)
        )
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    chosen = [name for name in options.precisions.split(",") if name]
    calls = {name: training(net, options.side, options.batch, kinds[name]) for name in chosen}
    for name, best in fastest(calls, options.seconds / 2).items():
        speed = options.batch / best
        print(f"training {name:9} {speed:8.2f} images/s")
        row = record.Row(
            name="translate training",
            size=size,
            batch=options.batch,
            ms=best * 1e3,
            images_per_second=speed,
            note=f"{name}; {options.note}".rstrip("; "),
        )
        rows.append(row)
    if not options.no_record:
        record.append(rows)


if __name__ == "__main__":
    main()
