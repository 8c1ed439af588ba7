"""A second refit, in topological order: each weight learns the original's output from what it now really reads.

``compensate`` fits every weight to the *original's* features without the removed ones. Behind other weights that were
refitted, features differ from these. Here, with x the features in the pruned model (all weights before are refitted)
and y = W_0 x_0 + b_0 the original's output, the new weight and bias minimise

    E|y - W x - b|^2 + lambda |W - W_now|^2,      W = W_now + (C - W_now S) (S + lambda I)^-1,    b = E[y] - W E[x]

with S the covariance of x and C that of y with x (the reconstruction of Channel Pruning, arXiv:1707.06168,
asymmetric). Weights at the same depth are measured together, and what comes before them is not computed again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import BoolArray, FloatArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.graphs.nodes import reads
from hqp_onnx.graphs.unique_names import UniqueNames, tensor_names, unused_prefix
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.compensate import replace_weight
from hqp_onnx.ranking.least_squares import RIDGE
from hqp_onnx.statistics.carried import Carried
from hqp_onnx.statistics.moments import (
    LARGEST,
    Contraction,
    Moments,
    contractions,
    feature_moments,
    takes_bias,
)
from hqp_onnx.statistics.ridge import ridge_strength, solve
from hqp_onnx.statistics.summing import Features

__all__ = ["refit_in_order", "refittable"]


def refit_in_order(
    original: gs.Graph,
    pruned: gs.Graph,
    channels: ChannelMap,
    plan: PruningPlan,
    data: Iterable[Batch],
    *,
    moved: Mapping[str, FloatArray] | None = None,
    readers: Collection[str] = (),
    ridge: float = RIDGE,
    threads: int = 0,
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
        ridge: lambda, in units of the mean diagonal of S.
        threads: of onnxruntime; 0 lets it choose.

    Raises:
        DataError: no batch.
        ModelError: onnxruntime cannot run the graphs.
    """
    graph, gone, notes = pruned.copy(), channels.removed(plan), []
    sources, names = original.tensors(), UniqueNames(graph)
    prefix = unused_prefix("hqp.original.", tensor_names(original) | tensor_names(graph))
    beside = onnx.compose.add_prefix(to_proto(original), prefix, rename_inputs=False)
    moved, stages = moved or {}, _stages(original, graph, readers)
    weights, carried = graph.tensors(), Carried(data)
    features = {
        depth: [_beside(use, weights[name], sources[name], prefix) for name, use in stage.items()]
        for depth, stage in stages.items()
    }
    depths = _depths(
        _merged(to_proto(graph), beside), {name: depth for depth in stages for name in stages[depth]}, prefix
    )
    for depth, stage in stages.items():
        rest = carried.rest(_merged(to_proto(graph), beside))
        settled = {tensor for tensor, at in depths.items() if at <= depth}
        carried = carried.past(rest, settled, [x for d in features if d >= depth for x in features[d]], threads)
        found = feature_moments(carried.rest(rest), features[depth], carried.batches, threads=threads)
        weights = graph.tensors()
        for (name, use), moments in zip(stage.items(), found, strict=True):
            labels = channels.members.get(ParamAxis(name, 1 - use.axis))
            count = sources[name].shape[1 - use.axis]
            stays = np.ones(count, bool) if labels is None else ~gone[labels]
            if np.isfinite(moments.gram).all() and np.isfinite(weights[name].values).all():
                _refit(weights[name], use, moments, stays, ridge, names, moved.get(name, 0.0))
                notes.append(f"{name}: refitted")
    return PassResult(graph, bool(notes), tuple(notes))


def refittable(graph: gs.Graph) -> set[str]:
    """The weights that a refit may change."""
    tensors = graph.tensors()
    return {name for name, use in contractions(graph).items() if _refittable(use, tensors[name])}


def _stages(original: gs.Graph, graph: gs.Graph, readers: Collection[str]) -> dict[int, dict[str, Contraction]]:
    """Weights to refit by depth, ascending: no two weights of one depth depend on each other."""
    uses, old = contractions(graph), original.tensors()
    depth: dict[str, int] = {}  # of tensors that differ from the original's
    stages: dict[int, dict[str, Contraction]] = {}
    for node in graph.nodes:
        level = max((depth[tensor.name] for tensor in node.inputs if tensor.name in depth), default=0)
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if weight is not None and weight.name in readers:
            level = max(level, 1)
        if level and weight is not None and weight.name in uses and _refittable(uses[weight.name], weight):
            stages.setdefault(level, {})[weight.name] = uses[weight.name]
            level += 1
        if level or any(_changed(tensor, old.get(tensor.name)) for tensor in node.inputs):
            depth.update((tensor.name, max(level, 1)) for tensor in node.outputs)
    return {level: stages[level] for level in sorted(stages)}


def _depths(model: onnx.ModelProto, of_weights: Mapping[str, int], prefix: str) -> dict[str, int]:
    """Of all tensors: one more than the depth of the deepest weight that they come from, in either model."""
    depths: dict[str, int] = {}
    for node in model.graph.node:
        read = reads(node)
        known = [of_weights[name.removeprefix(prefix)] + 1 for name in read if name.removeprefix(prefix) in of_weights]
        depth = max([*known, *(depths[name] for name in read if name in depths)], default=0)
        depths.update((name, depth) for name in node.output if name)
    return depths


def _changed(tensor: gs.Tensor, before: gs.Tensor | None) -> bool:
    if not isinstance(tensor, gs.Constant):
        return False
    return not isinstance(before, gs.Constant) or not np.array_equal(tensor.values, before.values)


def _refittable(use: Contraction, weight: gs.Constant) -> bool:
    size = use.features[0].size
    patches = size * weight.shape[1 - use.axis] == weight.values.size
    return (
        len(weight.outputs) == 1
        and patches
        and size <= LARGEST
        and (takes_bias(weight) or weight.outputs[0].op == "MatMul")
    )


def _beside(use: Contraction, weight: gs.Constant, source: gs.Constant, prefix: str) -> Features:
    output = f"{prefix}{weight.outputs[0].outputs[0].name}"
    return replace(use.features[0], beside=output, beside_channels=source.shape[1 - use.axis])


def _merged(changed: onnx.ModelProto, beside: onnx.ModelProto) -> onnx.ModelProto:
    """``changed``, with the nodes of ``beside`` on the same inputs."""
    changed.graph.node.extend(beside.graph.node)
    changed.graph.initializer.extend(beside.graph.initializer)
    return changed


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
    bias = wanted - new @ moments.mean[:size] - _bias(weight.outputs[0]) if biased else None
    replace_weight(weight, np.moveaxis(new.reshape(now.shape), 1, use.axis), bias, names)


def _bias(node: gs.Node) -> FloatArray | float:
    if len(node.inputs) < 3:
        return 0.0
    values: FloatArray = node.inputs[2].values.reshape(-1).astype(np.float64)
    return values
