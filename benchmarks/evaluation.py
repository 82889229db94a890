"""What scores cost: the share of resizing in the time for features, and KID and FID of two sets from their pictures on.

    python -m benchmarks.evaluation [--features efficientnet_lite0] [--weights FILE] [--threads 1] [--repeats 20]
        [--sizes 64 256 512] [--pictures 2000] [--no-record]

Pictures are noise, as the time does not depend on what they show. Features and resizing alone take turns, four pictures
at once as in an evaluation on a CPU; the fastest turn counts. The two scores are timed once with an empty cache, which
is as good as all features, and once with the features kept, which leaves the scores' own arithmetic.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks import record

from frugan.data.dataset import Dataset, from_arrays
from frugan.evaluation import EvaluationConfig, Evaluator
from frugan.features import FeatureExtractor, open_extractor
from frugan.features.resize import resize
from frugan.metrics.measure import latencies

BATCH, SIDE = 4, 64


def share_of_resizing(extractor: FeatureExtractor, side: int, repeats: int) -> record.Row:
    """The features of four pictures of this size, and in the note how much of that is resizing."""
    rule, _, wanted = extractor.resizer.rpartition("-")
    images = torch.randint(0, 256, (BATCH, 3, side, side), generator=torch.Generator().manual_seed(0)).float()

    def features() -> object:
        with torch.inference_mode():
            return extractor(images)

    def resizing() -> object:
        with torch.inference_mode():
            return resize(images, int(wanted), int(wanted), rule)

    calls = {"features": features} | ({} if extractor.resizer == "none" else {"resizing": resizing})
    found = latencies(calls, repeats=repeats)
    whole = found["features"]
    note = "takes any size"
    if "resizing" in found:
        part = found["resizing"].minimum_ms
        note = f"resizing {part / BATCH:.3g} ms a picture, {part / whole.minimum_ms:.1%}"
    return record.Row(
        name=f"features {extractor.name}",
        size=f"{side} px",
        batch=BATCH,
        ms=whole.minimum_ms,
        median_ms=whole.median_ms,
        images_per_second=1000 * BATCH / whole.minimum_ms,
        note=note,
    )


def a_set(count: int, seed: int) -> Dataset:
    """So many pictures of noise."""
    return from_arrays(np.random.default_rng(seed).integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8))


def two_scores(extractor: FeatureExtractor, count: int) -> list[record.Row]:
    """KID and FID of so many pictures against as many, with their features and without."""
    reals, fakes = a_set(count, 0), a_set(count, 1)
    config = EvaluationConfig(metrics=("kid", "fid"), num_fake=count)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FRUGAN_CACHE"] = folder
        for which in ("with features", "features kept"):
            began = time.perf_counter()
            Evaluator(reals, extractor, config).score(fakes)
            spent = time.perf_counter() - began
            size = f"{count} x {count} at {SIDE} px"
            rows.append(
                record.Row(name=f"kid+fid {extractor.name}", size=size, batch=BATCH, ms=1000 * spent, note=which)
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--features", default="efficientnet_lite0")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    extractor = open_extractor(options.features, options.weights)
    rows = [share_of_resizing(extractor, side, options.repeats) for side in options.sizes]
    for row in rows:
        print(f"{row.name} {row.size:>6}  {row.ms:8.1f} ms for {row.batch}  median {row.median_ms:8.1f}  {row.note}")
    scores = two_scores(extractor, options.pictures)
    for row in scores:
        print(f"{row.name} {row.size}, {row.note}: {(row.ms or 0) / 1000:.2f} s")
    if not options.no_record:
        record.append([*rows, *scores])


if __name__ == "__main__":
    main()
