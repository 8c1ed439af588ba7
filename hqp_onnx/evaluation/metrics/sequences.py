"""Metrics of sequences: tokens that are right, sequences that are, and the edit distance of what was read.

    token-accuracy = right positions / positions        exact-match = samples with all positions right / samples
    cer = sum of edit distances / sum of lengths of the targets

Positions whose target is negative do not count (nor, of masks, 255). ``cer`` decodes greedily: the most probable symbol
of each step, repeats merged, blanks left out (CTC). The blank is symbol 0, or the last one if 0 is among the targets.
Outputs that hold symbols already are taken as they are, without those below 0.
"""

from __future__ import annotations

import numpy as np

from hqp_onnx.arrays import Array, FloatArray, IntArray
from hqp_onnx.errors import DataError
from hqp_onnx.evaluation.metrics.metric import METRICS, Metric
from hqp_onnx.evaluation.metrics.outputs import Named, decisions, judged, target_of
from hqp_onnx.evaluation.metrics.quantity import POINTS
from hqp_onnx.evaluation.metrics.scale import SHARES, OfSums, ratio


def _tokens(outputs: Named, targets: Named, inputs: Named) -> FloatArray:
    """Rows (right, counted)."""
    d = decisions(outputs, targets)
    right = d.counted & (d.found == d.wanted)
    return np.stack([right.sum(1), d.counted.sum(1)], 1).astype(np.float64)


def _exact(outputs: Named, targets: Named, inputs: Named) -> FloatArray:
    d = decisions(outputs, targets)
    return np.asarray((~d.counted | (d.found == d.wanted)).all(1), np.float64)


def _read(outputs: Named, targets: Named, inputs: Named) -> FloatArray:
    """Rows (distance if the blank is 0, if it is the last, length, whether 0 is wanted)."""
    (name, values), (kind, target) = judged(outputs), target_of(targets, next(iter(outputs)))
    if target.ndim != 2 or target.dtype.kind not in "iu":
        raise DataError(f"target '{kind}' is {target.dtype}{list(target.shape)}: cer needs symbols [samples, length]")
    if values.ndim == 3 and len(values) != len(target) == values.shape[1]:
        values = values.swapaxes(0, 1)
    symbols = values.ndim == 2 and values.dtype.kind in "iu"
    if len(values) != len(target) or not (symbols or values.ndim == 3):
        raise DataError(f"output '{name}' {list(values.shape)}: cer needs [samples, steps, symbols], or symbols read")
    wanted = [row[row >= 0] for row in target]
    if symbols:
        read = [[row[row >= 0]] * 2 for row in values.astype(np.int64)]
    else:
        read = [[decoded(row, blank) for blank in (0, values.shape[2] - 1)] for row in values.argmax(2)]
    rows = [
        (*(edit_distance(found, word) for found in both), len(word), bool((word == 0).any()))
        for both, word in zip(read, wanted, strict=True)
    ]
    return np.array(rows, np.float64)


def _rate(sums: FloatArray) -> FloatArray:
    return np.asarray(np.where(sums[..., 3] > 0, sums[..., 1], sums[..., 0]) / sums[..., 2])


def decoded(steps: Array, blank: int) -> IntArray:
    """Symbols of one sample, from the most probable one of each step."""
    kept = np.diff(steps, prepend=-1) != 0
    merged = steps[kept]
    return np.asarray(merged[merged != blank], np.int64)


def edit_distance(a: Array, b: Array) -> int:
    """Insertions, deletions and substitutions from ``a`` to ``b`` (Levenshtein)."""
    row, places = np.arange(len(b) + 1), np.arange(len(b) + 1)
    for number, symbol in enumerate(a, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (b != symbol))
        best = np.concatenate([[number], best])
        row = np.minimum.accumulate(best - places) + places  # insertions, from left to right
    return int(row[-1])


METRICS.register("token-accuracy")(Metric("token-accuracy", _tokens, "targets", OfSums(ratio, POINTS)))
METRICS.register("exact-match")(Metric("exact-match", _exact, "targets", SHARES))
METRICS.register("cer")(Metric("cer", _read, "targets", OfSums(_rate, POINTS, False)))
