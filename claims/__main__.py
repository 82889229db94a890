"""`python -m claims NAME --size smoke|cpu|gpu|full`: run a claim, or go on with it; without a name, list them."""

import argparse
import os
from pathlib import Path
from typing import get_args

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from claims import both_sides, cyclegan, d2d_forms, fewer_pictures, growing, pix2pix, progan_parts, reacgan
from claims.harness import Size, run_claim, run_trial

_ALL = (
    both_sides.CLAIM,
    fewer_pictures.CLAIM,
    growing.CLAIM,
    progan_parts.CLAIM,
    pix2pix.CLAIM,
    cyclegan.CLAIM,
    reacgan.CLAIM,
    reacgan.MORE_CLASSES,
    d2d_forms.CLAIM,
)
CLAIMS = {claim.name: claim for claim in _ALL}


def main() -> None:
    """Read the command line."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m claims", description=__doc__)
    parser.add_argument("name", nargs="?", choices=CLAIMS)
    parser.add_argument("--size", choices=get_args(Size), default="cpu")
    parser.add_argument("--work", type=Path, default=Path("runs/claims"), help="where the trainings are kept")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--threads", type=int, help="processor threads")
    parser.add_argument("--trial", help="train and measure this one alone, for several processes; without it the rest")
    args = parser.parse_args()
    if args.name is None:
        for claim in CLAIMS.values():
            print(f"{claim.name}: {claim.question}")
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    claim = CLAIMS[args.name]
    if args.size not in claim.sizes:
        parser.error(f"{claim.name} has the sizes {', '.join(claim.sizes)}, not {args.size}")
    if args.trial is None:
        run_claim(claim, args.size, args.work, args.results, _say)
        return
    trials = {trial.name: trial for trial in claim.trials(args.size)}
    if args.trial not in trials:
        parser.error(f"{claim.name} has the trials {', '.join(trials)}, not {args.trial}")
    run_trial(claim, trials[args.trial], args.size, args.work, _say)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
