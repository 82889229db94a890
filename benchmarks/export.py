"""A generator as torch runs it, and exported for ONNX Runtime and OpenVINO, side by side.

    python -m benchmarks.export [--model demo] [--threads 2] [--repeats 30] [--batches 1 16] [--no-record]

All take turns; the fastest turn counts. Memory is that of a process which loads the exported model and draws once.
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from benchmarks import record

import frugan
from frugan.export import export
from frugan.metrics.cost import count_macs
from frugan.metrics.measure import latencies, peak_memory
from frugan.runtime import Runtime, drawing


def measure(name: str, folder: Path, threads: int, repeats: int, batches: list[int]) -> list[record.Row]:
    """A row for each engine and batch size."""
    model = frugan.load(name)
    macs = count_macs(lambda: model.sample([0])).total
    files = {"onnxruntime": export(model, folder / "onnx", repeats=0).model}
    if importlib.util.find_spec("openvino") is not None:
        files["openvino"] = export(model, folder / "openvino", to="openvino", repeats=0).model
    runtimes = {engine: Runtime(path, threads=threads) for engine, path in files.items()}
    memory = {engine: peak_memory(drawing, str(path)) for engine, path in files.items()}
    rows = []
    for batch in batches:
        calls: dict[str, Callable[[], object]] = {"eager": partial(model.sample, range(batch), batch=batch)}
        for engine, runtime in runtimes.items():
            calls[engine] = partial(runtime.sample, range(batch), batch=batch)
        for engine, latency in latencies(calls, repeats=repeats, warmup=3).items():
            used = memory.get(engine)
            rows.append(
                record.Row(
                    name=f"sample {engine}",
                    size=name,
                    batch=batch,
                    ms=latency.minimum_ms,
                    median_ms=latency.median_ms,
                    images_per_second=1000 * batch / latency.minimum_ms,
                    macs=macs,
                    peak_mb=None if used is None else used.peak_mb,
                )
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="demo")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options.model, Path(folder), options.threads, options.repeats, options.batches)
    eager = {row.batch: row.ms for row in rows if row.name == "sample eager"}
    for row in rows:
        assert row.ms is not None and row.median_ms is not None
        ratio = (eager[row.batch] or 0.0) / row.ms
        memory = "" if row.peak_mb is None else f"  process {row.peak_mb:.0f} MB"
        print(
            f"{row.name:20} batch {row.batch:3}  {row.ms:8.1f} ms  median {row.median_ms:8.1f}  "
            f"{ratio:5.2f} times eager{memory}"
        )
    if not options.no_record:
        record.append(rows)


if __name__ == "__main__":
    main()
