"""Closed-form compensation: let the channels that stay do the work of those that leave.

A weight multiplies features x: the patches of a Conv, the input channels of a Gemm or MatMul (``moments``). With K
the features that stay, R those that leave, and S the second moments over the calibration data, the new weight

    W' = W_K + W_R S_RK (S_KK + lambda I)^-1

minimises E|W x - W' x_K|^2 + lambda |W' - W_K|^2: the layer's squared output error, held near the plain cut. Where
the node can take a bias, S is the covariance and b' = b + W E[x] - W' E[x_K], which is the minimum over biases too.
Where the features of a Conv or ConvTranspose are channels, not patches, one mixing of channels is fitted for all of
its taps, without a bias (padding is zero in every channel, and an estimate from zeros should be zero).

Least squares on the consumer is the reconstruction step of ThiNet (Luo et al. 2017, arXiv:1707.06342) and of Channel
Pruning (He et al. 2017, arXiv:1707.06168).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channel_map import BoolArray, ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.errors import ModelError
from hqp_onnx.moments import Contraction, Matrix, Moments, contractions, takes_bias
from hqp_onnx.passes.base import PassResult
from hqp_onnx.runtime import Array

__all__ = ["compensate"]

RIDGE = 1e-3


def compensate(
    original: gs.Graph,
    pruned: gs.Graph,
    channels: ChannelMap,
    plan: PruningPlan,
    moments: Mapping[str, Moments],
    ridge: float = RIDGE,
) -> PassResult:
    """A copy of ``pruned`` whose weights make up for the input channels that they lost.

    Args:
        original: the canonical graph before pruning.
        pruned: what ``prune_channels`` made of it by ``plan``.
        channels: units of ``original``.
        plan: the units that were removed.
        moments: of the inputs of ``original``'s weights, by weight name; others are left as they are.
        ridge: lambda, in units of the mean diagonal of S_KK.

    Returns:
        The graph; one note per weight that lost inputs: the share of its squared output error that remains.

    Raises:
        ModelError: moments, plan and graphs do not belong together.
    """
    graph = pruned.copy()
    gone = channels.removed(plan)
    before, after = original.tensors(), graph.tensors()
    notes: list[str] = []
    modified = False
    for name, use in contractions(original).items():
        removed = _mask(channels, gone, ParamAxis(name, use.axis), before[name])
        if not removed.any():
            continue
        if name not in moments:
            notes.append(f"{name}: not compensated: no moments of its input")
            continue
        kept_outputs = ~_mask(channels, gone, ParamAxis(name, 1 - use.axis), before[name])
        if name not in after:
            raise ModelError(f"weight '{name}' is not in the pruned graph: prune the graph that the units are of")
        weight = np.moveaxis(before[name].values, use.axis, 1)[kept_outputs].astype(np.float64)
        fit = _fit(weight, removed, moments[name], use, ridge, takes_bias(after[name]))
        replace_weight(after[name], np.moveaxis(fit.weight, 1, use.axis), fit.bias)
        notes.append(f"{name}: {removed.sum()} of {len(removed)} inputs removed, {fit.remains:.1%} of the error stays")
        modified = True
    return PassResult(graph, modified, tuple(notes))


def _mask(channels: ChannelMap, gone: BoolArray, key: ParamAxis, weight: gs.Constant) -> BoolArray:
    """Which indices of a parameter axis leave."""
    labels = channels.members.get(key)
    return np.zeros(weight.shape[key.axis], bool) if labels is None else gone[labels]


@dataclass(frozen=True, slots=True)
class _Fit:
    weight: Matrix  # [outputs, kept channels, taps ...]
    bias: Matrix | None  # [outputs], to add
    remains: float  # squared output error, as a share of that of the plain cut


def _fit(weight: Matrix, removed: BoolArray, moments: Moments, use: Contraction, ridge: float, biased: bool) -> _Fit:
    outputs, inputs, *taps = weight.shape
    per_channel = int(np.prod(taps))
    if len(moments.mean) == weight[0].size:
        rows, leaves = weight.reshape(outputs, -1), np.repeat(removed, per_channel)
        new, bias, remains = _least_squares(rows, leaves, moments, ridge, biased)
        return _Fit(new.reshape(outputs, -1, *taps), bias, remains)
    if len(moments.mean) != inputs:
        raise ModelError(f"{use.weight}: moments of {len(moments.mean)} features for a weight of {inputs} channels")
    rows = np.moveaxis(weight, 1, -1).reshape(-1, inputs)
    new, _, remains = _least_squares(rows, removed, moments, ridge, False)
    return _Fit(np.moveaxis(new.reshape(outputs, *taps, -1), -1, 1), None, remains)


def _least_squares(
    weight: Matrix, removed: BoolArray, moments: Moments, ridge: float, biased: bool
) -> tuple[Matrix, Matrix | None, float]:
    """New rows over the kept features, the bias to add, and the share of squared error that remains."""
    lost, stays, mean = weight[:, removed], weight[:, ~removed], moments.mean * biased
    kept_kept = moments.gram[np.ix_(~removed, ~removed)] - np.outer(mean[~removed], mean[~removed])
    kept_lost = moments.gram[np.ix_(~removed, removed)] - np.outer(mean[~removed], mean[removed])
    target = kept_lost @ lost.T
    strength = ridge * np.trace(kept_kept) / len(kept_kept) or 1.0
    change = np.linalg.solve(kept_kept + strength * np.eye(len(kept_kept)), target)
    error = np.sum((lost @ moments.gram[np.ix_(removed, removed)]) * lost)
    gain = np.sum((lost @ mean[removed]) ** 2) + np.sum(change * target) + strength * np.sum(change**2)
    bias = lost @ mean[removed] - change.T @ mean[~removed] if biased else None
    return stays + change.T, bias, float(max(error - gain, 0) / error) if error > 0 else 0.0


def replace_weight(weight: gs.Constant, values: Array, bias: Array | None) -> None:
    """Put ``values`` in place of those of ``weight``, and add ``bias`` to that of its reader."""
    if values.shape != tuple(weight.shape):
        raise ModelError(
            f"{weight.name}: the pruned weight has shape {list(weight.shape)}, but the plan leaves {list(values.shape)}"
        )
    dtype = weight.values.dtype
    weight.values = np.ascontiguousarray(values, dtype)
    if bias is None:
        return
    node = weight.outputs[0]
    if len(node.inputs) < 3:
        node.inputs.append(gs.Constant(f"{weight.name}.bias", bias.astype(dtype)))
    else:
        old = node.inputs[2]
        new = (old.values + bias.reshape(-1 if old.values.ndim < 2 else (1, -1))).astype(dtype)
        node.inputs[2] = gs.Constant(old.name if len(old.outputs) == 1 else f"{weight.name}.bias", new)
