"""A second refit, in topological order: each weight learns the original's output from what it now really reads.

``compensate`` fits every weight to the *original's* features without the removed ones. Behind other weights that were
refitted, features differ from these. Here, with x the features in the pruned model (all weights before are refitted)
and y = W_0 x_0 + b_0 the original's output, the new weight and bias minimise

    E|y - W x - b|^2 + lambda |W - W_now|^2,      W = W_now + (C - W_now S) (S + lambda I)^-1,    b = E[y] - W E[x]

with S the covariance of x and C that of y with x (the reconstruction of Channel Pruning, arXiv:1707.06168,
asymmetric; ``moments_in_order``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import BoolArray, FloatArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.compensate import replace_weight
from hqp_onnx.progress import StageProgress
from hqp_onnx.ranking.least_squares import RIDGE
from hqp_onnx.statistics.moments import Contraction, Moments, bias_of, takes_bias
from hqp_onnx.statistics.moments_in_order import moments_in_order
from hqp_onnx.statistics.ridge import ridge_strength, solve

__all__ = ["refit_in_order"]


def refit_in_order(
    original: gs.Graph,
    pruned: gs.Graph,
    channels: ChannelMap,
    plan: PruningPlan,
    data: Iterable[Batch],
    *,
    moved: Mapping[str, FloatArray] | None = None,
    readers: Collection[str] = (),
    ridges: Mapping[str, float] | None = None,
    threads: int = 0,
    progress: StageProgress | None = None,
) -> PassResult:
    """A copy of ``pruned`` whose weights reproduce the original's outputs from what they read.

    A weight is left as it is where it reads what the original's does; where several nodes use it; where its node has
    no room for a bias, unless it is a MatMul; and where its features are more than ``moments.LARGEST``.

    Args:
        original: the canonical graph before pruning.
        pruned: what ``prune_channels`` made of it by ``plan``, compensated.
        channels: units of ``original``.
        plan: the units that were removed.
        data: calibration batches, read once where what crosses from depth to depth fits (``statistics.carried``).
        moved: what the outputs of weights are to be larger by than the original's (``absorb_shifts``), by weight.
        readers: weights to refit in any case.
        ridges: lambda by weight, in units of the mean diagonal of S; ``RIDGE`` for others.
        threads: of onnxruntime; 0 lets it choose.
        progress: called with the weights that are done, and all.

    Raises:
        DataError: no batch.
        ModelError: onnxruntime cannot run the graphs.
    """
    graph, gone, notes = pruned.copy(), channels.removed(plan), []
    names, moved, ridges = UniqueNames(graph), moved or {}, ridges or {}
    measured = moments_in_order(original, graph, data, readers=readers, threads=threads, progress=progress)
    for weight, use, moments in measured:
        labels = channels.members.get(ParamAxis(weight.name, 1 - use.axis))
        count = len(moments.mean) - use.features[0].size
        stays = np.ones(count, bool) if labels is None else ~gone[labels]
        ridge, larger = ridges.get(weight.name, RIDGE), moved.get(weight.name, 0.0)
        _refit(weight, use, moments, stays, ridge, names, larger)
        notes.append(f"{weight.name}: refitted")
    return PassResult(graph, bool(notes), tuple(notes))


def _refit(
    weight: gs.Constant,
    use: Contraction,
    moments: Moments,
    stays: BoolArray,
    ridge: float,
    names: UniqueNames,
    moved: FloatArray | float,
) -> None:
    now = np.moveaxis(weight.values, use.axis, 1).astype(np.float64)
    rows = now.reshape(len(now), -1)
    size = rows.shape[1]
    biased = takes_bias(weight)
    second = moments.gram - np.outer(moments.mean, moments.mean) * biased
    inner, cross = second[:size, :size], second[:size, size:][:, stays]
    strength = ridge_strength(inner, moments.gram[:size, :size], ridge)
    new = rows + solve(inner + strength * np.eye(size), cross - inner @ rows.T).T
    wanted = moments.mean[size:][stays] + moved
    bias = wanted - new @ moments.mean[:size] - bias_of(weight.outputs[0]) if biased else None
    replace_weight(weight, np.moveaxis(new.reshape(now.shape), 1, use.axis), bias, names)
