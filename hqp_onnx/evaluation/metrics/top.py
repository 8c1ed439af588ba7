"""Answers of a classifier: the label is the most probable class, or among the five most probable."""

from __future__ import annotations

from functools import partial

import numpy as np

from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.evaluation.metrics.metric import METRICS, Metric
from hqp_onnx.evaluation.metrics.outputs import Named, logits_of


def top(count: int, outputs: Named, labels: IntArray | None) -> FloatArray:
    """1 where fewer than ``count`` classes are more probable than the label, of equals those that come first."""
    logits = logits_of(outputs)
    assert labels is not None  # Dataset.check_labels has been called
    rows = np.arange(len(labels))
    above = (logits > logits[rows, labels][:, None]).sum(1)
    ties_before = (logits == logits[rows, labels][:, None]) & (np.arange(logits.shape[1]) < labels[:, None])
    hits: FloatArray = (above + ties_before.sum(1) < count).astype(np.float64)
    return hits


METRICS.register("top1")(Metric("top1", partial(top, 1)))
METRICS.register("top5")(Metric("top5", partial(top, 5)))
METRICS.register("agreement")(Metric("agreement", partial(top, 1), "original"))
