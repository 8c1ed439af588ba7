"""Let the channels of what products read share its INT8 range evenly, in the same function.

    x W  ==  (x / s) (diag(s) W)          s_i > 0, one for each channel along the last axis of x

A LayerNormalization, or a product with one factor per channel, takes in 1 / s where nothing but products reads it (Xiao
et al. 2023, arXiv:2211.10438). Elsewhere a Mul in front of the products has it, which costs a pass over x; so does
quantizing it. The noise that s trades, and the choice of s, are those of ``equalize``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray
from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.nonfinite_weights import is_finite
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.equalize import GAIN, POWERS, Equalized, Reading, base, noise
from hqp_onnx.statistics.channel_stats import ChannelStats, channel_stats

__all__ = ["smooth_products"]


@dataclass(frozen=True)
class _Read:
    """A tensor and the products that read it, each by a matrix of its own."""

    tensor: gs.Variable
    products: list[gs.Node]
    alone: bool

    @property
    def channels(self) -> int:
        """Along the last axis."""
        return int(self.products[0].inputs[1].shape[0])

    @property
    def parameters(self) -> list[gs.Constant]:
        """The constants by which the tensor is scaled in one go, if what makes it has such, of its own."""
        maker = self.tensor.inputs[0]
        if operator(maker) in ("LayerNormalization", "RMSNormalization") and self.tensor is maker.outputs[0]:
            found = [t for t in maker.inputs[1:] if not t.is_empty()]
        elif operator(maker) == "Mul":
            found = [t for t in maker.inputs if isinstance(t, gs.Constant)]
        else:
            return []
        own = all(
            isinstance(t, gs.Constant) and list(t.shape) == [self.channels] and len(t.outputs) == 1 for t in found
        )
        return found if own and self.alone else []


def smooth_products(graph: gs.Graph, data: Iterable[Batch], *, threads: int = 0, muls: bool = True) -> Equalized:
    """A copy of ``graph`` that computes the same, with scales moved from activations to weights; notes name each.

    Args:
        graph: float32, canonical, sorted.
        data: calibration batches, read once.
        threads: as for ``Session``.
        muls: whether a Mul is put in where nothing takes in 1 / s.
    """
    graph = graph.copy()
    reads = [read for read in _reads(graph) if muls or read.parameters]
    stats = channel_stats(to_proto(graph), {r.tensor.name: r.channels for r in reads}, data, threads=threads)
    names, notes, scaled = UniqueNames(graph), [], set[str]()
    for read in reads:
        seen = stats[read.tensor.name]
        if not seen.is_finite:
            continue
        scale = _scale(read, seen)
        if scale is not None:
            _apply(graph, read, scale[0].astype(np.float32), names)
            scaled |= {read.tensor.name} if read.parameters else set()
            notes.append(f"{read.tensor.name}: smoothed, {scale[1]:.0%} of its noise power is left")
    graph.toposort()
    return Equalized(graph, bool(notes), tuple(notes), scaled=frozenset(scaled))


def _reads(graph: gs.Graph) -> list[_Read]:
    if any(isinstance(value, gs.Graph) for node in graph.nodes for value in node.attrs.values()):
        return []  # an inner graph may read any tensor
    exposed, found = {id(t) for t in graph.outputs}, []
    for tensor in graph.tensors().values():
        if not isinstance(tensor, gs.Variable) or not tensor.inputs:
            continue
        products = [node for node in tensor.outputs if _is_product(node, tensor)]
        if products:
            found.append(_Read(tensor, products, len(products) == len(tensor.outputs) and id(tensor) not in exposed))
    return found


def _is_product(node: gs.Node, data: gs.Variable) -> bool:
    if operator(node) != "MatMul" or node.inputs[0] is not data or not isinstance(node.inputs[1], gs.Constant):
        return False
    weight = node.inputs[1]
    return len(weight.shape) == 2 and len(weight.outputs) == 1 and weight.dtype == np.float32 and is_finite(weight)


def _scale(read: _Read, seen: ChannelStats) -> tuple[FloatArray, float] | None:
    """Factors, and the share of the noise that they leave; None where that is not worth it."""
    consumers = [Reading(seen, node.inputs[1].values.astype(np.float64)[:, :, None]) for node in read.products]
    tops = base([seen])
    left = {power: noise(consumers, tops**power) for power in POWERS}
    best = min(left, key=left.__getitem__)
    return (tops**best, left[best] / left[0]) if left[best] < GAIN * left[0] else None


def _apply(graph: gs.Graph, read: _Read, scale: FloatArray, names: UniqueNames) -> None:
    for node in read.products:
        node.inputs[1].values = node.inputs[1].values * scale[:, None]
    if parameters := read.parameters:
        for tensor in parameters:
            tensor.values = (tensor.values / scale).astype(tensor.values.dtype)
        return
    inverse = gs.Constant(names.tensor(f"{read.tensor.name}/inverse"), (1 / scale).astype(np.float32))
    smooth = gs.Variable(names.tensor(f"{read.tensor.name}/smooth"), np.float32)
    for node in read.products:
        node.inputs[0] = smooth
    graph.nodes.append(gs.Node("Mul", names.node(f"{read.tensor.name}/smooth"), {}, [read.tensor, inverse], [smooth]))
