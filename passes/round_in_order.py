"""Round weights layer by layer, each to the float model's output from what the layers before it now really give.

``round_weights`` lets each weight keep its own output on the features of the float model. Behind rounded weights
features differ, and such errors add up over the depth. Here, with x the features behind all that is rounded already,
and y = W_0 x_0 + b_0 the float model's output, the weight is first refitted (``refit_in_order``),

    W = W_0 + (C - W_0 S) (S + lambda I)^-1,        S the covariance of x, C that of y with x,

and then rounded under S (``round_weights.rounded``), with E[y] - Wq E[x] as its bias: up to a constant,
E|y - Wq x - b|^2 = (W - Wq) S (W - Wq)^T, so each weight makes up for the rounding of all before it. This is the
asymmetric reconstruction of AdaRound (Nagel et al. 2020, arXiv:2004.10568) in closed form, as GPTAQ
(Li et al. 2025, arXiv:2504.02692) has it. Weights between them that stay in float are refitted alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray
from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.compensate import replace_weight
from hqp_onnx.passes.round_weights import RIDGE, rounded
from hqp_onnx.progress import StageProgress
from hqp_onnx.statistics.moments import Contraction, Moments, bias_of, takes_bias
from hqp_onnx.statistics.moments_in_order import moments_in_order
from hqp_onnx.statistics.ridge import ridge_strength, solve

__all__ = ["Grid", "round_in_order"]


@dataclass(frozen=True, eq=False)
class Grid:
    """``low`` .. ``high`` times ``steps``, float64, which broadcast against a weight's rows [outputs, features]."""

    steps: FloatArray
    low: int
    high: int


def round_in_order(
    original: gs.Graph,
    graph: gs.Graph,
    grids: Mapping[str, Grid],
    data: Iterable[Batch],
    *,
    ridge: float = RIDGE,
    threads: int = 0,
    progress: StageProgress | None = None,
) -> PassResult:
    """A copy of ``graph`` whose weights are rounded anew, one depth after the other.

    Weights that cannot be refitted (``moments_in_order.refittable``) stay as they are in ``graph``.

    Args:
        original: float32, canonical.
        graph: the same with its weights rounded, each on its own.
        grids: of these, by name.
        data: calibration batches, see ``moments_in_order``.
        ridge: share of the mean variance that is added to every variance.
        threads: of onnxruntime; 0 lets it choose.
        progress: called with the weights that are done, and all.

    Raises:
        DataError: no batch.
        ModelError: onnxruntime cannot run the graphs.
    """
    graph, sources, notes, done = graph.copy(), original.tensors(), [], 0
    names = UniqueNames(graph)
    for weight, use, moments in moments_in_order(original, graph, data, readers=list(grids), threads=threads):
        _round(weight, sources[weight.name].values, use, moments, grids.get(weight.name), ridge, names)
        notes.append(f"{weight.name}: {'rounded' if weight.name in grids else 'refitted'} in order")
        done += weight.name in grids
        if progress is not None and weight.name in grids:
            progress(done, len(grids))
    return PassResult(graph, bool(notes), tuple(notes))


def _round(
    weight: gs.Constant,
    source: FloatArray,
    use: Contraction,
    moments: Moments,
    grid: Grid | None,
    ridge: float,
    names: UniqueNames,
) -> None:
    values = np.moveaxis(source.astype(np.float64), use.axis, 1)
    rows, biased = values.reshape(len(values), -1), takes_bias(weight)
    size = rows.shape[1]
    second = moments.gram - np.outer(moments.mean, moments.mean) * biased
    inner, cross, gram = second[:size, :size], second[:size, size:], moments.gram[:size, :size]
    strength = ridge_strength(inner, gram, ridge)
    new = rows + solve(inner + strength * np.eye(size), cross - inner @ rows.T).T
    if grid is not None:
        integers = rounded(new, grid.steps, inner, grid.high, ridge, gram, low=grid.low)
        if integers is None:
            return
        new = integers * grid.steps
    bias = moments.mean[size:] - new @ moments.mean[:size] - bias_of(weight.outputs[0]) if biased else None
    replace_weight(weight, np.moveaxis(new.reshape(values.shape), 1, use.axis), bias, names)
