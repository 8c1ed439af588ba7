"""Saliency: how much the loss would suffer without a filter, one float64 per filter, then per unit; by name."""

from hqp_onnx.ranking.saliencies import obs, of_gradients, of_weights
from hqp_onnx.ranking.saliencies.scoring import SALIENCIES, Execution, FilterScores, Saliency, Samples, Scoring

__all__ = [
    "SALIENCIES",
    "Execution",
    "FilterScores",
    "Saliency",
    "Samples",
    "Scoring",
    "obs",
    "of_gradients",
    "of_weights",
]
