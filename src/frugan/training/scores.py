"""Scores by a feature network at snapshots, kept to a share of the training's time."""

from collections.abc import Callable

import torch

from frugan.data.dataset import Dataset
from frugan.evaluation import PIXEL_SWD, EvaluationConfig, Evaluator
from frugan.features import FeatureExtractor, open_extractor
from frugan.model import Model
from frugan.training.loop import Progress
from frugan.training.recipe import TrainingConfig


class SnapshotScores:
    """What a training asks at its snapshots, beside the pixel distance that is always taken.

    `name` is the score by which snapshots are ranked: KID, else the Fréchet distance, else the sliced distance over the
    pyramid, else the pixel distance.
    """

    def __init__(
        self,
        config: TrainingConfig,
        dataset: Dataset,
        device: torch.device,
        opener: Callable[[str, torch.device], FeatureExtractor] = lambda name, device: open_extractor(
            name, device=device
        ),
    ) -> None:
        """Opens the network, so that missing weights or too few pictures are said before anything is trained."""
        self._config = config
        self._evaluator: Evaluator | None = None
        self._tell: Callable[[int, int, str], None] = lambda done, total, text: None
        self.name = PIXEL_SWD
        if config.evaluation is not None:
            wanted = config.evaluation
            extractor = opener(wanted.features, device) if wanted.needs_features else None
            self._evaluator = Evaluator(dataset, extractor, wanted, lambda *words: self._tell(*words), device)
            self.name = _leading(wanted, extractor)

    def is_due(self, progress: Progress) -> bool:
        """Whether to score now: at the last snapshot, and as long as all scoring took at most its share of the rest.

        A training that may stop by its score takes it each time. Which snapshots are scored depends on the machine's
        speed; the weights that come out never do.
        """
        if self._evaluator is None:
            return False
        if progress.images_seen >= self._config.total_images or self._config.plateau_images is not None:
            return True
        trained = progress.seconds - progress.evaluation_seconds
        return progress.evaluation_seconds <= self._config.evaluation_share * max(trained, 0.0)

    def score(self, model: Model, tell: Callable[[int, int, str], None]) -> tuple[dict[str, float], float]:
        """(the scores, the seconds they took). No random state of the training is touched."""
        assert self._evaluator is not None
        self._tell = tell
        found = self._evaluator.score(model, is_lasting=False)
        return found.values, found.seconds


def _leading(config: EvaluationConfig, extractor: FeatureExtractor | None) -> str:
    if extractor is not None and "kid" in config.metrics:
        return f"KID-{extractor.name}"
    if extractor is not None and "fid" in config.metrics:
        return f"{'FID' if extractor.name == 'inception_2015' else 'FD'}-{extractor.name}"
    return "SWD-pyramid" if "swd" in config.metrics else PIXEL_SWD
