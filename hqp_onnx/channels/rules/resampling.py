"""Resize, DepthToSpace, SpaceToDepth: space changes, channels keep their order or move in blocks."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channels.labels import along, varied
from hqp_onnx.channels.rules.lines import axis_labels, collapse
from hqp_onnx.channels.rules.registry import rewrite, rule
from hqp_onnx.channels.survivors import Survivors
from hqp_onnx.channels.walk_state import Walk


@rule("Resize")
def _resize(walk: Walk, node: gs.Node) -> None:
    """Channels pass where they are not scaled; so do residues, except where values are extrapolated."""
    data, result = node.inputs[0], node.outputs[0]
    labels = walk.labels(data)
    if any(walk.sizes(data)[axis] != walk.sizes(result)[axis] for axis in varied(labels)):
        return walk.refuse(node, f"Resize '{node.name}' scales channels")
    crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    walk.set(result, labels, None if crops else walk.residue(data))
    return None


@rewrite("Resize")
def _sizes(survivors: Survivors, node: gs.Node) -> None:
    if len(node.inputs) < 4 or not node.inputs[3].name:
        return
    rank, counts = survivors.rank(node.outputs[0]), survivors.counts(node.outputs[0])
    axes = [axis % rank for axis in node.attrs.get("axes") or range(rank)] if counts else []
    survivors.restate(node, 3, {row: counts[axis] for row, axis in enumerate(axes) if axis in counts}, len(axes))


@rule("DepthToSpace")
def _depth_to_space(walk: Walk, node: gs.Node) -> None:
    """The channels that make up one channel's block of positions are removed together."""
    block = node.attrs["blocksize"] ** 2
    line = axis_labels(walk, node, node.inputs[0], 1)
    labels = line.reshape(-1, block).T if node.attrs.get("mode", "DCR") == "CRD" else line.reshape(block, -1)
    line = collapse(walk, labels, [0], f"DepthToSpace '{node.name}' moves channels that stay").ravel()
    walk.set(node.outputs[0], along(line, 1, 4), walk.residue(node.inputs[0]))


@rule("SpaceToDepth")
def _space_to_depth(walk: Walk, node: gs.Node) -> None:
    line = axis_labels(walk, node, node.inputs[0], 1)
    line = np.tile(line, node.attrs["blocksize"] ** 2)
    walk.set(node.outputs[0], along(line, 1, 4), walk.residue(node.inputs[0]))
