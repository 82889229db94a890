"""A training with compiled networks that is stopped and goes on, as a program: without the checks of shapes, which the
tests put around every function and torch.compile cannot see through.

python -m tests.compiled_training FOLDER DEVICE
"""

import sys
from pathlib import Path

from frugan.config import override
from frugan.recipes import RECIPES
from frugan.training.recipe import tiny
from frugan.training.run import Start, fit, train
from tests.training.tiny_tasks import noise_for


def main() -> None:
    folder, device = Path(sys.argv[1]), sys.argv[2]
    small = tiny(RECIPES["small"](), images=24)
    data = noise_for(small, 12)
    recipe = fit(small, data)
    for setting in (("training.precision", "auto"), ("task.compile", "true")):
        recipe = override(recipe, *setting)
    start = Start(device=device)
    print(train(folder, recipe, data, start).images_seen)
    print(train(folder, override(recipe, "training.total_images", "48"), data, start).images_seen)


if __name__ == "__main__":
    main()
