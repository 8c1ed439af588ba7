"""Moments of what each weight really reads, beside the original's output, depth by depth.

Weights at the same depth are measured together, in the graph as the weights before it have become by then, and what
comes before them is not computed again (``statistics.carried``). So a pass that changes each weight as it gets it sees
every change that was made before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.graphs.nodes import reads
from hqp_onnx.graphs.renaming import rename
from hqp_onnx.graphs.unique_names import tensor_names, unused_prefix
from hqp_onnx.progress import StageProgress
from hqp_onnx.statistics.carried import Carried
from hqp_onnx.statistics.feature_sums import needed
from hqp_onnx.statistics.moments import LARGEST, Contraction, Moments, contractions, feature_moments, takes_bias
from hqp_onnx.statistics.summing import Features

__all__ = ["moments_in_order", "refittable"]


def moments_in_order(
    original: gs.Graph,
    graph: gs.Graph,
    data: Iterable[Batch],
    *,
    readers: Collection[str] = (),
    threads: int = 0,
    progress: StageProgress | None = None,
) -> Iterator[tuple[gs.Constant, Contraction, Moments]]:
    """Each weight of ``graph`` that is ``refittable`` and reads what the original's does not, to be changed at once.

    Args:
        original: canonical.
        graph: made from it, with tensors of the same names; it may be changed between two weights, but for its nodes.
        data: calibration batches, read once where what crosses from depth to depth fits (``statistics.carried``).
        readers: weights that come in any case.
        threads: of onnxruntime; 0 lets it choose.
        progress: called with the weights that have been measured, and all.

    Yields:
        The weight; its features; the moments of these, then of the original's outputs of the node that reads it.
        Weights and features that are not finite are left out.

    Raises:
        DataError: no batch.
        ModelError: onnxruntime cannot run the graphs.
    """
    sources, weights = original.tensors(), graph.tensors()
    prefix = unused_prefix("hqp.original.", tensor_names(original) | tensor_names(graph))
    beside = _prefixed(to_proto(original), prefix)
    stages, carried = _stages(original, graph, readers), Carried(data)
    features = {
        depth: [_beside(use, weights[name], sources[name], prefix) for name, use in stage.items()]
        for depth, stage in stages.items()
    }
    depths = _depths(
        _merged(to_proto(graph), beside), {name: depth for depth in stages for name in stages[depth]}, prefix
    )
    count, done = sum(map(len, stages.values())), 0
    for depth, stage in stages.items():
        rest = carried.rest(_merged(to_proto(graph), beside))
        settled = {tensor for tensor, at in depths.items() if at <= depth}
        carried = carried.past(rest, settled, [x for d in features if d >= depth for x in features[d]], threads)
        part = needed(carried.rest(rest), [name for x in features[depth] for name in (x.tensor, x.beside)])
        found = feature_moments(part, features[depth], carried.batches, threads=threads)
        weights, done = graph.tensors(), done + len(stage)
        if progress is not None:
            progress(done, count)
        for (name, use), moments in zip(stage.items(), found, strict=True):
            if np.isfinite(moments.gram).all() and np.isfinite(weights[name].values).all():
                yield weights[name], use, moments


def refittable(graph: gs.Graph) -> set[str]:
    """The weights that a refit may change."""
    tensors = graph.tensors()
    return {name for name, use in contractions(graph).items() if _refittable(use, tensors[name])}


def _stages(original: gs.Graph, graph: gs.Graph, readers: Collection[str]) -> dict[int, dict[str, Contraction]]:
    """Weights to refit by depth, ascending: no two weights of one depth depend on each other."""
    uses, tensors, old = contractions(graph), graph.tensors(), original.tensors()
    depth: dict[str, int] = {}  # of tensors that differ from the original's
    stages: dict[int, dict[str, Contraction]] = {}
    for node in to_proto(graph).graph.node:
        read = reads(node)
        level = max((depth[name] for name in read if name in depth), default=0)
        weight = node.input[1] if len(node.input) > 1 else ""
        if weight in readers:
            level = max(level, 1)
        known = isinstance(old.get(weight), gs.Constant)  # not where what computed it was folded since
        if level and known and weight in uses and _refittable(uses[weight], tensors[weight]):
            stages.setdefault(level, {})[weight] = uses[weight]
            level += 1
        if level or any(_changed(tensors.get(name), old.get(name)) for name in read):
            depth.update((name, max(level, 1)) for name in node.output if name)
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


def _changed(tensor: gs.Tensor | None, before: gs.Tensor | None) -> bool:
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


def _prefixed(model: onnx.ModelProto, prefix: str) -> onnx.ModelProto:
    """``model`` with a prefix before all names but those of its inputs."""
    kept = {"", *(value.name for value in model.graph.input)}

    def renamed(name: str) -> str:
        return name if name in kept else prefix + name

    rename(model.graph, renamed, renamed)
    return model


def _merged(changed: onnx.ModelProto, beside: onnx.ModelProto) -> onnx.ModelProto:
    """``changed``, with the nodes of ``beside`` on the same inputs."""
    changed.graph.node.extend(beside.graph.node)
    changed.graph.initializer.extend(beside.graph.initializer)
    return changed
