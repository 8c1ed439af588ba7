"""Floats to train in place of the integers that a quantized graph stores, and back.

    DQ(q, s, z), q of 8 bits   =>   DQ(Q(W, s, z), s, z)    W = s (q - z)     weights
    Mul(Cast(q), s)            =>   the same                                  weights of nodes that stay in float
    DQ(q, s), q of 32 bits     =>   W                                         biases

Scales stay as they are. W is kept inside the integers that were there, |q| <= max |q| of its tensor, so a format
of fewer bits (``targets``) is respected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array, Float32Array
from hqp_onnx.graphs.unique_names import UniqueNames
from hqp_onnx.passes.base import PassResult

__all__ = ["Exposed", "Master", "expose_masters", "store_masters"]


@dataclass(frozen=True, eq=False)
class Master:
    """The float tensor of the constant ``stored``: W = scale (q - zero), low <= q <= high, all of W's rank."""

    stored: str
    scale: Float32Array
    zero: Array
    low: int
    high: int

    @property
    def bounds(self) -> tuple[Float32Array, Float32Array]:
        """Smallest and largest W."""
        low, high = (self.scale * (end - self.zero.astype(np.int64)) for end in (self.low, self.high))
        return low.astype(np.float32), high.astype(np.float32)

    def floats(self, integers: Array) -> Float32Array:
        """W of ``integers``."""
        return (self.scale * (integers.astype(np.int64) - self.zero)).astype(np.float32)

    def integers(self, floats: Array) -> Array:
        """The integers nearest to ``floats``, by the arithmetic of QuantizeLinear."""
        steps = np.rint(floats / self.scale).astype(np.int64) + self.zero
        return np.clip(steps, self.low, self.high).astype(self.zero.dtype)


@dataclass(frozen=True, kw_only=True)
class Exposed(PassResult):
    """``masters`` by the name of their float constant."""

    masters: Mapping[str, Master]


def expose_masters(graph: gs.Graph) -> Exposed:
    """``graph`` with float constants in place of its integers; a float graph comes back as a copy."""
    graph = graph.copy()
    work = _Exposing(graph)
    for node in list(graph.nodes):
        if node.op == "DequantizeLinear" and _integers(node.inputs[0]) and not node.attrs.get("block_size", 0):
            zero = node.inputs[2].values if len(node.inputs) > 2 else np.zeros(1, node.inputs[0].dtype)
            work.expose(node, node.inputs[0], node.inputs[1].values, zero, node.attrs.get("axis", 1))
        elif node.op == "Mul" and (stored := _cast_constant(node)) is not None:
            scale = node.inputs[1].values
            axis = int(np.argmax(scale.shape)) if scale.ndim else 0
            work.expose(node, stored, scale.reshape(-1), np.zeros(scale.size, stored.dtype), axis)
    graph.cleanup().toposort()
    notes = (f"{len(work.masters)} integer constants as floats",)
    return Exposed(graph, bool(work.masters), notes, masters=work.masters)


def store_masters(graph: gs.Graph, masters: Mapping[str, Master], values: Mapping[str, Array]) -> PassResult:
    """``graph``, as it was given to ``expose_masters``, with new ``values`` of its float constants and masters."""
    graph = graph.copy()
    tensors, modified = graph.tensors(), False
    for name, new in values.items():
        master = masters.get(name)
        tensor = tensors[name if master is None else master.stored]
        stored = new.astype(tensor.dtype) if master is None else master.integers(new)
        modified |= not np.array_equal(stored, tensor.values)
        tensor.values = np.ascontiguousarray(stored)
    return PassResult(graph, modified)


def _integers(tensor: gs.Tensor) -> bool:
    """Whether it is a constant of integers that can be trained."""
    return isinstance(tensor, gs.Constant) and tensor.dtype in (np.int8, np.uint8, np.int32)


def _cast_constant(node: gs.Node) -> gs.Constant | None:
    """The integers of Mul(Cast(q), s), as ``compress_weights`` writes them."""
    source, scale = node.inputs
    cast = source.inputs[0] if isinstance(source, gs.Variable) and source.inputs else None
    if cast is None or cast.op != "Cast" or not isinstance(scale, gs.Constant) or not _integers(cast.inputs[0]):
        return None
    stored = cast.inputs[0]
    per_channel = sum(size > 1 for size in scale.shape) < 2 and scale.values.ndim in (0, stored.values.ndim)
    return stored if stored.dtype == np.int8 and per_channel else None


class _Exposing:
    """A graph that changes, and the masters found so far."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.masters: dict[str, Master] = {}
        self._names = UniqueNames(graph)
        self._floats: dict[str, gs.Constant] = {}

    def expose(self, node: gs.Node, stored: gs.Constant, scale: Float32Array, zero: Array, axis: int) -> None:
        """Let the output of ``node``, which restores ``stored``, come from a float constant."""
        output, names = node.outputs[0], self._names
        node.outputs.clear()
        if stored.name not in self._floats:
            name, master = names.tensor(f"{stored.name}/master"), _master(stored, scale, zero, axis)
            self.masters[name], self._floats[stored.name] = master, gs.Constant(name, master.floats(stored.values))
        floats = self._floats[stored.name]
        if stored.dtype == np.int32:
            for reader in list(output.outputs):
                for i in [i for i, tensor in enumerate(reader.inputs) if tensor is output]:
                    reader.inputs[i] = floats
            return
        attributes = {"axis": axis} if scale.size > 1 else {}
        parts = (("scale", scale), ("zero", zero))
        form = [gs.Constant(names.tensor(f"{output.name}/{part}"), x) for part, x in parts]
        quantized = gs.Variable(names.tensor(f"{output.name}/Q"), stored.dtype, stored.shape)
        pair = [names.node(f"{output.name}/{part}") for part in ("Q", "DQ")]
        self.graph.nodes += [
            gs.Node("QuantizeLinear", pair[0], dict(attributes), [floats, *form], [quantized]),
            gs.Node("DequantizeLinear", pair[1], dict(attributes), [quantized, *form], [output]),
        ]


def _master(stored: gs.Constant, scale: Float32Array, zero: Array, axis: int) -> Master:
    rank, info = stored.values.ndim, np.iinfo(stored.dtype)
    shape = [-1 if scale.size > 1 and k == axis % rank else 1 for k in range(rank)]
    zero, low, high = np.broadcast_to(zero, scale.shape).reshape(shape), info.min, info.max
    if stored.dtype == np.int8 and not zero.any():
        high = int(np.abs(stored.values.astype(np.int64)).max(initial=1))
        low = -high
    return Master(stored.name, scale.reshape(shape), zero, low, high)
