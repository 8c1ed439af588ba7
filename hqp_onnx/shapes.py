"""Concrete shapes and shape-only constants of a model, found by running it.

The model runs once at each of two assignments of its symbolic dimensions, every tensor an output. Where the model
takes it, dimensions of different names get sizes of their own in no fixed ratio: else 2 * height would pass for
width. A dimension that differs between the runs is dynamic. A tensor that depends on the inputs' shapes alone
(every path to an input passes a Shape or Size node) and does not differ is a constant. Where the model cannot
run, ``onnx.shape_inference`` on the first assignment gives what it can.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.errors import ModelError
from hqp_onnx.model_io import to_proto
from hqp_onnx.runtime import Array, Session

_UNITS = (64, 96, 32, 16, 512)  # of the symbolic dimensions' sizes; the first at which both runs succeed is taken
_LARGEST_VALUE = 4096  # elements; shape arithmetic is smaller


@dataclass(frozen=True)
class Shapes:
    """What the runs showed.

    Attributes:
        sizes: concrete shape of each tensor in the first run; batch 2 where the batch is dynamic.
        again: concrete shapes in the second run.
        varying: per dimension, whether it differed between the runs.
        constants: values of tensors that depend on shapes alone and did not differ.
        targets: shape-only int64 vectors that did differ: their values in both runs.
    """

    sizes: Mapping[str, tuple[int, ...]]
    again: Mapping[str, tuple[int, ...]]
    varying: Mapping[str, tuple[bool, ...]]
    constants: Mapping[str, Array]
    targets: Mapping[str, tuple[Array, Array]]


def probe(graph: gs.Graph) -> Shapes:
    """Shapes of every tensor of ``graph``; tensors that neither run nor inference reaches are absent."""
    symbolic = any(not isinstance(dim, int) or dim < 0 for t in graph.inputs for dim in (t.shape or [])[1:])
    for unit, apart in itertools.product(_UNITS, (1, 0)) if symbolic else [(1, 0)]:
        try:  # 1, 3, 5, ... and 2, 5, 8, ... units
            first, second = (_run(graph, n, (n - 1) * unit, n * unit * apart) for n in (2, 3))
        except ModelError:
            continue
        return _compare(graph, first, second)
    sizes, again = (_inferred(graph, n, (n - 1) * _UNITS[0]) for n in (2, 3))
    return Shapes(sizes, again, _varying(sizes, again), {}, {})


def example_feeds(graph: gs.Graph, leading: int = 1, other: int = 224, step: int = 0) -> dict[str, Array]:
    """Seeded inputs of a model: symbolic dimensions become ``leading`` (the first) or ``other``.

    Args:
        graph: the model.
        leading: size of a symbolic first dimension.
        other: size of the other symbolic dimensions.
        step: how much larger each further dimension is, of another name or without one.
    """
    rng = np.random.default_rng(0)
    seen: dict[object, int] = {}

    def size(tensor: gs.Variable, axis: int, dim: int | str | None) -> int:
        if isinstance(dim, int) and dim >= 0:
            return dim
        if axis == 0:
            return leading
        return other + step * seen.setdefault(dim if isinstance(dim, str) else (tensor.name, axis), len(seen))

    return {
        t.name: _value(rng, t, [size(t, axis, dim) for axis, dim in enumerate(t.shape or [])]) for t in graph.inputs
    }


def _value(rng: np.random.Generator, tensor: gs.Variable, dims: list[int]) -> Array:
    dtype = np.dtype(tensor.dtype)
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(dims).astype(dtype)
    return np.ones(dims, dtype)


def _run(graph: gs.Graph, leading: int, other: int, step: int) -> dict[str, Array]:
    names = [t.name for node in graph.nodes for t in node.outputs if t.name]
    feeds = example_feeds(graph, leading, other, step)
    return {**feeds, **Session(to_proto(graph), outputs=names, optimize=False).run(feeds)}


def _compare(graph: gs.Graph, first: Mapping[str, Array], second: Mapping[str, Array]) -> Shapes:
    sizes, again, constants, targets = {}, {}, {}, {}
    by_shape = _shape_only(graph)
    for name, value in first.items():
        if not isinstance(value, np.ndarray):
            continue  # sequences and optionals have no shape
        other = second[name]
        sizes[name] = value.shape
        again[name] = other.shape
        if name in by_shape and value.size <= _LARGEST_VALUE and value.shape == other.shape:
            if np.array_equal(value, other):
                constants[name] = value
            elif value.ndim == 1 and value.dtype == np.int64:
                targets[name] = (value, other)
    return Shapes(sizes, again, _varying(sizes, again), constants, targets)


def _varying(sizes: Mapping[str, tuple[int, ...]], again: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[bool, ...]]:
    return {name: tuple(a != b for a, b in zip(size, again[name], strict=True)) for name, size in sizes.items()}


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
