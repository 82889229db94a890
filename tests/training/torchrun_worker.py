"""One of the processes of a training, which may kill itself once: arguments FOLDER, IMAGES SEEN, RANK."""

import os
import signal
import sys
from pathlib import Path

import torch

from frugan.training.loop import Loop
from frugan.training.run import Start, train
from tests.training.tiny_runs import tiny_data, tiny_recipe
from tests.training.tiny_tasks import FULL, gan_config


def main() -> None:
    """Train with every regulariser."""
    torch.set_num_threads(1)
    run, kill_at, victim = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    mark = run.parent / "was_killed"
    iterate = Loop.iterate

    def fatal(loop: Loop) -> dict[str, torch.Tensor]:
        if loop.progress.images_seen == kill_at and os.environ["RANK"] == victim and not mark.exists():
            mark.touch()
            print("killing myself", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return iterate(loop)

    Loop.iterate = fatal  # type: ignore[method-assign]
    outcome = train(run, tiny_recipe(gan_config(4, **FULL), total_images=24), tiny_data(), Start(device="cpu"))
    print(f"outcome: {outcome.reason}", flush=True)


if __name__ == "__main__":
    main()
