"""A factor per channel becomes part of the weights that read the product: W (s x) = (W s) x.

Padding is zero with and without the factor, so this is exact for convolutions of any kind. Nodes over constants alone
are evaluated first: a gate that became a constant (``prune_channels``) is such a factor. A number that the file had
before may be the end of an activation that runtimes compute in one kernel, as the 1/2 of a GELU is, and is left to it.
"""

from __future__ import annotations

from collections.abc import Container

import onnx_graphsurgeon as gs

from hqp_onnx.graphs.weight_axes import CONVOLUTIONS
from hqp_onnx.passes.base import PassResult
from hqp_onnx.statistics.moments import Contraction, contractions

__all__ = ["absorb_scales"]


def absorb_scales(graph: gs.Graph, left: Container[str] = ()) -> PassResult:
    """A copy of ``graph`` (canonical) without products by constants that only Conv, Gemm or MatMul read.

    Constants named in ``left`` stay.
    """
    result = graph.copy()
    before = len(result.nodes)
    result.fold_constants(fold_shapes=False).cleanup()
    modified, notes = len(result.nodes) != before, []
    uses, exposed = contractions(result), {id(tensor) for tensor in result.outputs}
    for node in result.nodes:
        scale = next((t for t in node.inputs if isinstance(t, gs.Constant)), None)
        if (
            node.op != "Mul"
            or scale is None
            or scale.name in left
            or id(node.outputs[0]) in exposed
            or not node.outputs[0].outputs
        ):
            continue
        data = node.inputs[1 - node.inputs.index(scale)]
        readers = [(reader, _use(reader, node.outputs[0], scale, uses)) for reader in node.outputs[0].outputs]
        if not all(use for _, use in readers):
            continue
        for reader, use in readers:
            assert use is not None
            weight = reader.inputs[1]
            factors = scale.values.reshape([-1 if axis == use.axis else 1 for axis in range(weight.values.ndim)])
            weight.values = (weight.values * factors).astype(weight.dtype)
            reader.inputs[0] = data
        notes.append(f"{node.name}: absorbed by {', '.join(reader.name for reader, _ in readers)}")
    result.cleanup()
    return PassResult(result, modified or bool(notes), tuple(notes))


def _use(reader: gs.Node, product: gs.Tensor, scale: gs.Constant, uses: dict[str, Contraction]) -> Contraction | None:
    """How a reader multiplies the product, if its weight can take the factor of each channel."""
    if len(reader.inputs) < 2 or reader.inputs[0] is not product or reader.inputs[1].name not in uses:
        return None
    weight = reader.inputs[1]
    use, rank = uses[weight.name], len(weight.shape)
    if len(scale.shape) > rank or len(weight.outputs) != 1:
        return None
    channels = [1] * rank
    channels[1 if reader.op in CONVOLUTIONS else -1] = weight.shape[use.axis]
    own = [1] * (rank - len(scale.shape)) + list(scale.shape)
    return use if own in (channels, [1] * rank) else None
