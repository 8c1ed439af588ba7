"""Concrete shapes and shape-only constants of a model, found by running it.

The model runs once at each of two assignments of its symbolic dimensions, every tensor an output. A dimension
that differs is dynamic. A tensor that depends on the inputs' shapes alone (every path to an input passes a
Shape or Size node) and does not differ is a constant. Where the model cannot run, ``onnx.shape_inference`` on
the first assignment gives what it can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.errors import ModelError
from hqp_onnx.model_io import to_proto
from hqp_onnx.runtime import Array, Session

# (leading dimension, other symbolic dimensions) of the two runs; the first pair that runs is taken
_ASSIGNMENTS = (((2, 32), (3, 48)), ((2, 64), (3, 96)), ((2, 224), (3, 256)))
_LARGEST_VALUE = 4096  # elements; shape arithmetic is smaller


@dataclass(frozen=True)
class Shapes:
    """What the runs showed.

    Attributes:
        sizes: concrete shape of each tensor in the first run; batch 2 where the batch is dynamic.
        varying: per dimension, whether it differed between the runs.
        constants: values of tensors that depend on shapes alone and did not differ.
        targets: shape-only int64 vectors that did differ: their values in both runs.
    """

    sizes: Mapping[str, tuple[int, ...]]
    varying: Mapping[str, tuple[bool, ...]]
    constants: Mapping[str, Array]
    targets: Mapping[str, tuple[Array, Array]]


def probe(graph: gs.Graph) -> Shapes:
    """Shapes of every tensor of ``graph``; tensors that neither run nor inference reaches are absent."""
    for pair in _ASSIGNMENTS:
        try:
            first, second = (_run(graph, *sizes) for sizes in pair)
        except ModelError:
            continue
        return _compare(graph, first, second)
    sizes, other = (_inferred(graph, *assignment) for assignment in _ASSIGNMENTS[0])
    varying = {name: tuple(a != b for a, b in zip(size, other[name], strict=True)) for name, size in sizes.items()}
    return Shapes(sizes, varying, {}, {})


def example_feeds(graph: gs.Graph, leading: int = 1, other: int = 224) -> dict[str, Array]:
    """Seeded inputs of a model: symbolic dimensions become ``leading`` (the first) or ``other``."""
    rng = np.random.default_rng(0)
    return {tensor.name: _value(rng, tensor, leading, other) for tensor in graph.inputs}


def _value(rng: np.random.Generator, tensor: gs.Variable, leading: int, other: int) -> Array:
    dims = [n if isinstance(n, int) and n >= 0 else other if i else leading for i, n in enumerate(tensor.shape or [])]
    dtype = np.dtype(tensor.dtype)
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(dims).astype(dtype)
    return np.ones(dims, dtype)


def _run(graph: gs.Graph, leading: int, other: int) -> dict[str, Array]:
    names = [t.name for node in graph.nodes for t in node.outputs if t.name]
    feeds = example_feeds(graph, leading, other)
    return {**feeds, **Session(to_proto(graph), outputs=names, optimize=False).run(feeds)}


def _compare(graph: gs.Graph, first: Mapping[str, Array], second: Mapping[str, Array]) -> Shapes:
    sizes, varying, constants, targets = {}, {}, {}, {}
    by_shape = _shape_only(graph)
    for name, value in first.items():
        if not isinstance(value, np.ndarray):
            continue  # sequences and optionals have no shape
        other = second[name]
        sizes[name] = value.shape
        varying[name] = tuple(a != b for a, b in zip(value.shape, other.shape, strict=True))
        if name in by_shape and value.size <= _LARGEST_VALUE and value.shape == other.shape:
            if np.array_equal(value, other):
                constants[name] = value
            elif value.ndim == 1 and value.dtype == np.int64:
                targets[name] = (value, other)
    return Shapes(sizes, varying, constants, targets)


def _shape_only(graph: gs.Graph) -> set[str]:
    """Node outputs that depend on the values of no graph input."""
    by_value = {tensor.name for tensor in graph.inputs}
    for node in graph.nodes:  # topological
        opaque = any(isinstance(value, gs.Graph) for value in node.attrs.values()) or node.op.startswith("Random")
        reads = node.op not in ("Shape", "Size") and any(t.name in by_value for t in node.inputs)
        if opaque or reads:
            by_value.update(t.name for t in node.outputs)
    return {t.name for node in graph.nodes for t in node.outputs} - by_value


def _inferred(graph: gs.Graph, leading: int, other: int) -> dict[str, tuple[int, ...]]:
    """Shapes that inference finds for one assignment."""
    model = onnx.ModelProto()
    model.CopyFrom(to_proto(graph))
    feeds = example_feeds(graph, leading, other)
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, feeds[value.name].shape, strict=True):
            dim.dim_value = size
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in [*inferred.input, *inferred.value_info, *inferred.output]
        if value.type.tensor_type.HasField("shape")
        and all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }
