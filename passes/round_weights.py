"""Round weights to their INT8 grid so that the layer's output, rather than the weight, changes least.

A weight row w multiplies features x (``moments``). With H the covariance of x and q on the grid s Z, |q| <= limit s,

    minimise  (w - q) H (w - q)^T

greedily: features are rounded one by one, from the largest variance down, and those still to come are refitted,

    e_j = (w_j - q_j) / U_jj,    w_k -= e_j U_jk  (k > j),    H^-1 = U^T U,  U upper triangular

(GPTQ, Frantar et al. 2022, arXiv:2210.17323; OBQ, arXiv:2208.11580). Where the node can take a bias, H is centred and
the bias takes up what the mean of x makes of the change, (w - q) E[x]; else H are the plain second moments. A ridge
keeps features that are nearly constant, or dependent on others, from moving others far. Where H is no use all the
same, because nothing varies but by noise, the weight is rounded to nearest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.compensate import replace_weight
from hqp_onnx.passes.insert_qdq import WeightScales, nearest
from hqp_onnx.progress import StageProgress
from hqp_onnx.statistics.moments import LARGEST, Contraction, Moments, contractions, takes_bias
from hqp_onnx.statistics.ridge import ridge_strength

__all__ = ["TO_NEAREST", "round_weights", "roundable", "rounded"]

TO_NEAREST = "rounded to nearest, since its input hardly varies on the calibration samples"

RIDGE = 0.01  # of the mean variance
_BLOCK = 64  # features between two updates of all the rest


def roundable(graph: gs.Graph, scales: WeightScales) -> list[str]:
    """The weights of ``scales`` whose features ``moments`` can measure one by one."""
    tensors, names = graph.tensors(), []
    for name, use in contractions(graph).items():
        features = {x.channels * x.taps for x in use.features}
        size = tensors[name].values.size // max(tensors[name].shape[1 - use.axis], 1)
        if (name, 1 - use.axis) in scales and features == {size} and size <= LARGEST:
            names.append(name)
    return names


def round_weights(
    graph: gs.Graph,
    moments: Mapping[str, Moments],
    scales: WeightScales,
    limit: int,
    ridge: float = RIDGE,
    progress: StageProgress | None = None,
) -> PassResult:
    """A copy of ``graph`` with every weight that has moments on its grid.

    Args:
        graph: float32, canonical; the one that ``moments`` and ``scales`` are of.
        moments: of the inputs of weights that are ``roundable``, by weight name; others are left as they are.
        scales: (weight, axis of its output channels) -> scales, float32 [channels] (``insert_qdq.weight_scales``).
        limit: largest integer of the grid.
        ridge: share of the mean variance that is added to every variance.
        progress: called with the weights that are done, and all.

    Returns:
        The graph; one note per weight: its output error as a share of that of plain rounding.
    """
    graph = graph.copy()
    tensors, notes, names = graph.tensors(), [], UniqueNames(graph)
    uses = {name: use for name, use in contractions(graph).items() if name in moments}
    for done, (name, use) in enumerate(uses.items(), 1):
        scale = scales[name, 1 - use.axis].astype(np.float64)
        notes.append(f"{name}: {_round(tensors[name], use, moments[name], scale, limit, ridge, names)}")
        if progress is not None:
            progress(done, len(uses))
    plain = tuple(note for note in notes if note.endswith(TO_NEAREST))
    return PassResult(graph, bool(notes), tuple(notes), plain)


def _round(
    weight: gs.Constant,
    use: Contraction,
    moments: Moments,
    scale: FloatArray,
    limit: int,
    ridge: float,
    names: UniqueNames,
) -> str:
    values = np.moveaxis(weight.values.astype(np.float64), use.axis, 1)
    rows = values.reshape(len(values), -1)
    biased = takes_bias(weight)
    mean = moments.mean * biased
    covariance = moments.gram - np.outer(mean, mean)
    grid = scale[:, None]
    integers, plain = rounded(rows, grid, covariance, limit, ridge, moments.gram), nearest(rows, grid, limit) * grid
    refined = plain if integers is None else integers * grid
    bias = (rows - refined) @ mean if biased else None
    replace_weight(weight, np.moveaxis(refined.reshape(values.shape), 1, use.axis), bias, names)
    if integers is None:
        return TO_NEAREST
    before, after = (float((((rows - q) @ covariance) * (rows - q)).sum()) for q in (plain, refined))
    return f"{after / before if before else 1:.0%} of the output error of plain rounding"


def rounded(
    rows: FloatArray,
    grid: FloatArray,
    covariance: FloatArray,
    limit: int,
    ridge: float = RIDGE,
    gram: FloatArray | None = None,
    *,
    low: int | None = None,
) -> FloatArray | None:
    """Integers of ``rows`` on their grid; None where the covariance is no use.

    Args:
        rows: float64 [outputs, F].
        grid: steps above 0 that broadcast against ``rows``.
        covariance: of the features, float64 [F, F].
        limit: largest integer.
        ridge: see ``round_weights``.
        gram: the second moments that the covariance was made of, if not these themselves.
        low: smallest integer; None takes -limit.
    """
    order = np.argsort(-np.diag(covariance), kind="stable")
    strength = ridge_strength(covariance, covariance if gram is None else gram, ridge)
    sorted_covariance = covariance[np.ix_(order, order)]
    upper = _factor(sorted_covariance, strength)
    upper = _factor(sorted_covariance, 100 * strength) if upper is None else upper
    if upper is None:
        return None
    rest, steps, integers = rows[:, order], np.broadcast_to(grid, rows.shape)[:, order], np.empty_like(rows)
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        errors = np.empty((len(rows), stop - start))
        for j in range(start, stop):
            q = nearest(rest[:, j], steps[:, j], limit, low)
            errors[:, j - start] = (rest[:, j] - q * steps[:, j]) / upper[j, j]
            rest[:, j + 1 : stop] -= np.outer(errors[:, j - start], upper[j, j + 1 : stop])
            integers[:, order[j]] = q
        rest[:, stop:] -= errors @ upper[start:stop, stop:]
    return integers


def _factor(covariance: FloatArray, strength: float) -> FloatArray | None:
    """U of the covariance with a ridge; None unless that is positive definite."""
    try:
        inverse = np.linalg.inv(covariance + strength * np.eye(len(covariance)))
        upper = np.asarray(np.linalg.cholesky(inverse).T, np.float64)
    except np.linalg.LinAlgError:
        return None
    return upper if np.isfinite(upper).all() else None
