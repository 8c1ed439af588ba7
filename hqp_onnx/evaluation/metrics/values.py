"""Metrics of values y beside targets t, or beside the original's outputs y0.

    rmse = sqrt(mean of (y - t)^2)     mae = mean of |y - t|     both over a sample's values, then over samples
    r2 = 1 - sum (y - t)^2 / sum (t - mean t)^2, for each column of [samples, columns], then the mean of these
    cosine = <y, t> / (||y|| ||t||) of each sample, then the mean
    fidelity = 1 - ||y - y0||^2 / ||y0||^2, in 0..1, of each sample and output, then the mean

A target that is NaN is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.errors import DataError
from hqp_onnx.evaluation.metrics.metric import METRICS, Metric
from hqp_onnx.evaluation.metrics.outputs import Named, judged, target_of
from hqp_onnx.evaluation.metrics.scale import Mean, OfSums

_COLUMNS = 64  # of r2, at most; more are one


def _errors(transform: Callable[[FloatArray], FloatArray], outputs: Named, targets: Named, inputs: Named) -> FloatArray:
    """Rows (mean over a sample's values, 1); (0, 0) where it has no target."""
    y, t = _pair(outputs, targets)
    known = ~np.isnan(t)
    count = known.sum(1)
    total = np.where(known, transform(y - np.where(known, t, 0)), 0).sum(1)
    return np.stack([total / np.maximum(count, 1), count > 0], 1)


def _root_mean(sums: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt(sums[..., 0] / sums[..., 1]))


def _mean(sums: FloatArray) -> FloatArray:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _squares(outputs: Named, targets: Named, inputs: Named) -> FloatArray:
    """Rows of (squared error, t, t^2, count) of every column."""
    y, t = _pair(outputs, targets)
    if y.shape[1] > _COLUMNS:
        y, t = y[:, None], t[:, None]
    else:
        y, t = y[:, :, None], t[:, :, None]
    known = ~np.isnan(t)
    t = np.where(known, t, 0)
    parts = (np.where(known, np.square(y - t), 0), t, np.square(t), known)
    return np.concatenate([part.sum(2) for part in parts], 1).astype(np.float64)


def _r2(sums: FloatArray) -> FloatArray:
    error, total, squares, count = np.split(sums, 4, -1)
    spread = squares - np.square(total) / count
    return np.asarray((1 - error / np.where(spread > 0, spread, np.nan)).mean(-1))


def _cosine(outputs: Named, targets: Named, inputs: Named) -> FloatArray:
    y, t = _pair(outputs, targets)
    lengths = np.linalg.norm(y, axis=1) * np.linalg.norm(t, axis=1)
    cosine = np.where(lengths > 0, (y * t).sum(1) / np.where(lengths > 0, lengths, 1), 0.0)
    both_zero = ~(y.any(1) | t.any(1))
    return np.asarray(np.clip(np.where(both_zero, 1.0, cosine), -1, 1))


def fidelities(outputs: Named, targets: Named) -> dict[str, FloatArray]:
    """Of every output that both have, float64 [samples]."""
    found = {}
    for name in (name for name in targets if name in outputs):
        y, y0 = outputs[name], targets[name]
        if not isinstance(y, np.ndarray) or y.shape != y0.shape:
            found[name] = np.zeros(len(y0))
        elif y0.dtype.kind == "f":
            y, y0 = (x.reshape(len(x), -1).astype(np.float64) for x in (y, y0))
            noise, signal = np.square(y - y0).sum(1), np.square(y0).sum(1)
            share = np.where(signal > 0, noise / np.where(signal > 0, signal, 1), noise > 0)
            found[name] = np.clip(1 - share, 0, 1)
        else:
            found[name] = (y == y0).reshape(len(y0), -1).mean(1)
    if not found:
        gives, original = (", ".join(names) or "nothing" for names in (outputs, targets))
        raise DataError(
            f"the model gives {gives}, and the original {original}: fidelity compares outputs of the same name. Give "
            "models of the same outputs, or another metric"
        )
    return found


def _fidelity(outputs: Named, targets: Named, inputs: Named) -> FloatArray:
    return np.asarray(np.mean(list(fidelities(outputs, targets).values()), 0))


def _pair(outputs: Named, targets: Named) -> tuple[FloatArray, FloatArray]:
    """An output and its target, float64 [samples, values]."""
    (name, y), (kind, t) = judged(outputs), target_of(targets, next(iter(outputs)))
    if y.dtype.kind not in "iubf" or t.dtype.kind not in "iubf":
        raise DataError(f"output '{name}' is {y.dtype} and target '{kind}' {t.dtype}: expected numbers")
    if y.shape != t.shape and _without_ones(y) != _without_ones(t):
        raise DataError(
            f"output '{name}' {list(y.shape)} and target '{kind}' {list(t.shape)}: expected the same shape, up to axes "
            "of size 1. Of class numbers, use {--metric} top1, f1, miou or token-accuracy"
        )
    first, second = (x.reshape(len(x), -1).astype(np.float64) for x in (y, t))
    return first, second


def _without_ones(values: Array) -> list[int]:
    return [size for axis, size in enumerate(values.shape) if size != 1 or not axis]


METRICS.register("fidelity")(Metric("fidelity", _fidelity, "outputs", whole=True, parts=fidelities))
METRICS.register("rmse")(
    Metric("rmse", partial(_errors, np.square), "targets", OfSums(_root_mean, "", False, (0.0, 1.0)))
)
METRICS.register("mae")(Metric("mae", partial(_errors, np.abs), "targets", OfSums(_mean, "", False, (0.0, 1.0))))
METRICS.register("r2")(Metric("r2", _squares, "targets", OfSums(_r2, "")))
METRICS.register("cosine")(Metric("cosine", _cosine, "targets", Mean(-1.0, 1.0, "")))
