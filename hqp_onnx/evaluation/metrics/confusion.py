"""Metrics of counts per class: of what was found, what was wanted, and what was both (true positives).

    IoU = both / (found + wanted - both)      precision = both / found
    F1 = 2 both / (found + wanted)            recall = both / wanted

each the mean over the classes that are found or wanted anywhere (macro); 0 where a class has no denominator of its own.
Sums run over all positions of all samples, so mIoU is that of the whole data, not a mean over images.

Rows hold [both, found, wanted] of every class. Of several yes-or-no decisions per sample (multi-hot targets, one output
each) they hold both readings of the output, a probability above 1/2 and a logit above 0, and last whether a value was
no probability: if any was, all are logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.errors import DataError
from hqp_onnx.evaluation.metrics.metric import METRICS, Metric
from hqp_onnx.evaluation.metrics.outputs import Named, decisions, judged, probable, target_of
from hqp_onnx.evaluation.metrics.scale import OfSums

_Share = Callable[[FloatArray, FloatArray, FloatArray], Any]


def counts(outputs: Named, targets: Named, inputs: Named) -> FloatArray:
    """Rows [samples, 3 classes], or [samples, 6 decisions + 1]."""
    (name, values), (kind, target) = judged(outputs), target_of(targets, next(iter(outputs)))
    if values.dtype.kind == "f" and values.size == target.size and target.dtype.kind in "iubf":
        return _of_decisions(values, target, f"output '{name}' and target '{kind}'")
    return class_counts(outputs, targets, inputs)


def class_counts(outputs: Named, targets: Named, inputs: Named) -> FloatArray:
    """Rows [samples, 3 classes] of the most probable class at each position."""
    d = decisions(outputs, targets)
    sample = np.repeat(np.arange(len(d.found)), d.found.shape[1]).reshape(d.found.shape)

    def counted(classes: Array, where: Array) -> Array:
        places = (sample * d.classes + classes)[where]
        return np.bincount(places, minlength=len(d.found) * d.classes).reshape(len(d.found), d.classes)

    both = counted(d.wanted, d.counted & (d.found == d.wanted))
    return np.concatenate([both, counted(d.found, d.counted), counted(d.wanted, d.counted)], 1).astype(np.float64)


def _of_decisions(values: Array, target: Array, where: str) -> FloatArray:
    """Decisions lie along axis 1 where both have two; elsewhere there is one, at many positions."""
    several = values.ndim == 2 and target.ndim == 2
    shape = (len(values), 1, -1) if not several else (*values.shape, 1)
    x, wanted = values.reshape(shape), target.reshape(shape)
    ignored = (wanted < 0) | (wanted == 255)
    if not np.isin(wanted[~ignored], (0, 1)).all():
        raise DataError(f"{where}: expected 0 or 1 for each decision. Of values, use {{--metric}} rmse")
    yes = (wanted == 1) & ~ignored
    rows = []
    for threshold in (0.5, 0.0):
        found = (x > threshold) & ~ignored
        rows += [(found & yes).sum(2), found.sum(2), yes.sum(2)]
    beyond = [[not probable(sample)] for sample in x]
    return np.concatenate([*rows, beyond], 1).astype(np.float64)


def macro(share: _Share, sums: FloatArray) -> FloatArray:
    """The mean of a share over classes, from sums of rows [..., k]."""
    if sums.shape[-1] % 3:
        of_probabilities, of_logits = np.split(sums[..., :-1], 2, -1)
        sums = np.where(sums[..., -1:] > 0, of_logits, of_probabilities)
    both, found, wanted = np.split(sums, 3, -1)
    there = found + wanted > 0
    top, bottom = share(both, found, wanted)
    shares = np.where(bottom > 0, top / np.maximum(bottom, 1), 0.0)
    return np.asarray((shares * there).sum(-1) / there.sum(-1))


def _iou(both: FloatArray, found: FloatArray, wanted: FloatArray) -> Any:
    return both, found + wanted - both


def _precision(both: FloatArray, found: FloatArray, wanted: FloatArray) -> Any:
    return both, found


def _recall(both: FloatArray, found: FloatArray, wanted: FloatArray) -> Any:
    return both, wanted


def _f1(both: FloatArray, found: FloatArray, wanted: FloatArray) -> Any:
    return 2 * both, found + wanted


METRICS.register("miou")(Metric("miou", class_counts, "targets", OfSums(partial(macro, _iou))))
METRICS.register("f1")(Metric("f1", counts, "targets", OfSums(partial(macro, _f1))))
METRICS.register("precision")(Metric("precision", counts, "targets", OfSums(partial(macro, _precision))))
METRICS.register("recall")(Metric("recall", counts, "targets", OfSums(partial(macro, _recall))))
