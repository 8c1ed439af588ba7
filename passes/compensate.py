"""Closed-form compensation: let the channels that stay do the work of those that are removed.

A weight multiplies features x: the patches of a Conv, the input channels of a Gemm or MatMul (``moments``). With K
the features that stay, R those that are removed, and S the second moments over the calibration data, the new weight

    W' = W_K + W_R S_RK (S_KK + lambda I)^-1

minimises E|W x - W' x_K|^2 + lambda |W' - W_K|^2: the layer's squared output error, held near the plain cut. Where
the node can take a bias, S is the covariance and b' = b + W E[x] - W' E[x_K], which is the minimum over biases too.
Where the features of a Conv or ConvTranspose are channels, not patches, one mixing of channels is fitted for all of
its taps, without a bias (padding is zero in every channel, and an estimate from zeros should be zero). Where no feature
stays, a constant has taken the node's place (``prune_channels``), and W E[x] is added to it.

Least squares on the consumer is the reconstruction step of ThiNet (Luo et al. 2017, arXiv:1707.06342) and of Channel
Pruning (He et al. 2017, arXiv:1707.06168).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array, BoolArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.counts import counted
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.nonfinite_weights import is_finite
from hqp_onnx.graphs.unique_names import UniqueNames, tensor_names
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.prune_channels import constant_name
from hqp_onnx.ranking.least_squares import RIDGE, Fits, fit_blocks, mean_product, removal_mask
from hqp_onnx.statistics.moments import Contraction, Moments, block_names, reading_weights, takes_bias

__all__ = ["compensate"]


def compensate(
    original: gs.Graph,
    pruned: gs.Graph,
    channels: ChannelMap,
    plan: PruningPlan,
    moments: Mapping[str, Moments],
    ridge: float | Mapping[str, float] = RIDGE,
    known: Fits | None = None,
) -> PassResult:
    """A copy of ``pruned`` whose weights make up for the input channels that they lost.

    Args:
        original: the canonical graph before pruning.
        pruned: what ``prune_channels`` made of it by ``plan``.
        channels: units of ``original``.
        plan: the units that were removed.
        moments: of the inputs of ``original``'s weights, by weight name; others are left as they are.
        ridge: lambda, in units of the mean diagonal of S_KK; or one by weight (``held_out_ridges``), RIDGE for others.
        known: fits that were made with the same ``original``, ``moments`` and ``ridge``; new ones are added.

    Returns:
        The graph; one note per weight that lost inputs: the share of its squared output error that remains.

    Raises:
        ModelError: moments, plan and graphs do not belong together.
    """
    graph, known = pruned.copy(), known or Fits()
    gone, ended = channels.removed(plan), channels.ended(plan)  # nodes inside a branch that ended are gone
    before, after = original.tensors(), graph.tensors()
    names, taken = UniqueNames(graph), tensor_names(original)
    notes: list[str] = []
    modified = False
    for name, use in reading_weights(original).items():
        removed = removal_mask(channels, gone, ParamAxis(name, use.axis), before[name])
        if not removed.any():
            continue
        blocks = [part for part in block_names(name, len(removed)) if part in moments]
        if name not in moments and not blocks:
            notes.append(f"{name}: not compensated: no moments of its input")
            continue
        if not is_finite(before[name]):
            notes.append(f"{name}: not compensated: it holds NaN or infinities")
            continue
        kept_outputs = ~removal_mask(channels, gone, ParamAxis(name, use.outputs), before[name])
        if removed.all() or (ended and name not in after):
            constant = after.get(constant_name(before[name].outputs[0], taken))
            if _hold_mean(before[name], kept_outputs, use, constant, moments.get(name)):
                notes.append(f"{name}: all of {counted(len(removed), 'input')} removed, its mean stays")
                modified = True
            continue
        if name not in after:
            raise ModelError(f"weight '{name}' is not in the pruned graph: prune the graph that the units are of")
        biased = takes_bias(after[name])
        fit = known.get(key := (name, biased, removed.tobytes(), kept_outputs.tobytes()))
        if fit is None:
            weight = np.compress(kept_outputs, before[name].values, use.outputs)
            weight = np.moveaxis(weight, use.axis, 1).astype(np.float64)
            strength = ridge.get(name, RIDGE) if isinstance(ridge, Mapping) else ridge
            parts = [moments[part] for part in ([name] if name in moments else blocks)]
            fit = known.add(key, fit_blocks(weight, removed, parts, use, strength, biased))
        replace_weight(after[name], np.moveaxis(fit.weight, 1, use.axis), fit.bias, names)
        notes.append(
            f"{name}: {removed.sum()} of {counted(len(removed), 'input')} removed, {fit.remains:.1%} of the error stays"
        )
        modified = True
    return PassResult(graph, modified, tuple(notes))


def _hold_mean(
    weight: gs.Constant, kept: BoolArray, use: Contraction, constant: gs.Constant | None, moments: Moments | None
) -> bool:
    """Add the mean of what the reader of ``weight`` computed to the constant in its place; whether there is one."""
    if constant is None or moments is None:
        return False
    mean = mean_product(np.moveaxis(weight.values, use.axis, 1)[kept], moments)
    constant.values = (constant.values + mean.reshape(constant.shape)).astype(constant.dtype)
    return True


def replace_weight(weight: gs.Constant, values: Array, bias: Array | None, names: UniqueNames) -> None:
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
        node.inputs.append(gs.Constant(names.tensor(f"{weight.name}.bias"), bias.astype(dtype)))
    else:
        old = node.inputs[2]
        new = (old.values + bias.reshape(-1 if old.values.ndim < 2 else (1, -1))).astype(dtype)
        node.inputs[2] = gs.Constant(old.name if len(old.outputs) == 1 else names.tensor(f"{weight.name}.bias"), new)
