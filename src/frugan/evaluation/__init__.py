"""From generated pictures and a set to scores with their protocol: what was compared, how many, by which network."""

from frugan.evaluation.evaluator import Evaluator
from frugan.evaluation.protocol import METRICS, EvaluationConfig, Neighbours, PixelProtocol, Protocol, Scores
from frugan.evaluation.quick import PAIRED_L1, PIXEL_SWD, Evaluation, are_paired, quick_score

__all__ = [
    "METRICS",
    "PAIRED_L1",
    "PIXEL_SWD",
    "Evaluation",
    "EvaluationConfig",
    "Evaluator",
    "Neighbours",
    "PixelProtocol",
    "Protocol",
    "Scores",
    "are_paired",
    "quick_score",
]
