"""Metric of embeddings: the nearest other sample of the data, by cosine, is the right one (recall@1).

Right is a sample of the same label, where there are labels; else the one that is nearest by the original's embeddings.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.errors import DataError
from hqp_onnx.evaluation.metrics.metric import METRICS, Metric
from hqp_onnx.evaluation.metrics.outputs import Named, judged, target_of
from hqp_onnx.evaluation.metrics.scale import SHARES

_ROWS = 512  # whose similarities to all are in memory


def _of_labels(outputs: Named, targets: Named, inputs: Named) -> FloatArray:
    """Rows: an embedding and a label."""
    kind, labels = target_of(targets, next(iter(outputs)))
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"target '{kind}' is {labels.dtype}{list(labels.shape)}: recall@1 needs a label per sample")
    return np.concatenate([_embeddings(outputs), labels[:, None]], 1)


def _of_original(outputs: Named, targets: Named, inputs: Named) -> FloatArray:
    """Rows: an embedding and the original's."""
    name = next(iter(outputs))
    return np.concatenate([_embeddings(outputs), _embeddings({name: targets[name]})], 1)


def _same_label(rows: FloatArray) -> FloatArray:
    known, labels = np.asarray(~np.isnan(rows).any(1)), rows[:, -1]
    if len(np.unique(labels[known])) == known.sum():
        raise DataError("no label is there twice: recall@1 of labels needs several samples of each")
    return np.asarray(known & (labels[nearest(rows[:, :-1])] == labels), np.float64)


def _same_neighbour(rows: FloatArray) -> FloatArray:
    known = np.asarray(~np.isnan(rows).any(1))
    found, wanted = np.split(np.where(known[:, None], rows, 0), 2, 1)
    return np.asarray(known & (nearest(found) == nearest(wanted)), np.float64)


def nearest(embeddings: FloatArray) -> IntArray:
    """For each row, the number of the most similar other row; the first of several."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = np.nan_to_num(embeddings / np.where(length > 0, length, 1))
    found = []
    for start in range(0, len(unit), _ROWS):
        similar = np.round(unit[start : start + _ROWS] @ unit.T, 12)
        rows = np.arange(len(similar))
        similar[rows, start + rows] = -np.inf
        found.append(similar.argmax(1))
    return np.concatenate(found)


def _embeddings(outputs: Named) -> FloatArray:
    name, values = judged(outputs)
    if values.dtype.kind != "f" or values.ndim < 2:
        raise DataError(f"output '{name}' is {values.dtype}{list(values.shape)}: recall@1 needs [samples, dimensions]")
    return values.reshape(len(values), -1).astype(np.float64)


def _metric(rows: Callable[..., FloatArray], finish: Callable[[FloatArray], FloatArray], outputs: bool) -> Metric:
    return Metric("recall@1", rows, "outputs" if outputs else "targets", SHARES, finish=finish)


OF_ORIGINAL = _metric(_of_original, _same_neighbour, True)
METRICS.register("recall@1")(_metric(_of_labels, _same_label, False))
