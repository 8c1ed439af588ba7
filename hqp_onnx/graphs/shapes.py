"""Concrete shapes and shape-only constants of a model, found by running it.

The model runs at several assignments of its symbolic dimensions, every tensor an output. Where the model takes it,
dimensions of different names get sizes of their own in no fixed ratio: else 2 * height would pass for width. A
dimension that differs between runs is dynamic. A tensor that depends on the inputs' shapes alone (every path to an
input passes a Shape or Size node) and is the same in all runs is a constant. Two runs must succeed; further ones at
odd sizes, which expose floor divisions and padding to a multiple, count where the model takes them. Where it
cannot run, ``onnx.shape_inference`` on the first assignment gives what it can.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.runtimes.session import Session

_UNITS = (64, 96, 32, 16, 512)  # of the symbolic dimensions' sizes; the first at which both runs succeed is taken
_WITNESSES = ((5, 93, 46), (7, 160, 64))  # leading, first other size, step
_LARGEST_VALUE = 4096  # elements; shape arithmetic is smaller


@dataclass(frozen=True)
class Shapes:
    """What the runs showed.

    Attributes:
        sizes: concrete shape of each tensor in the first run; batch 2 where the batch is dynamic.
        runs: concrete shapes in every run.
        varying: per dimension, whether it differed between runs.
        constants: values of tensors that depend on shapes alone and never differed.
        targets: shape-only int64 vectors that did differ: their values in every run.
    """

    sizes: Mapping[str, tuple[int, ...]]
    runs: Mapping[str, tuple[tuple[int, ...], ...]]
    varying: Mapping[str, tuple[bool, ...]]
    constants: Mapping[str, Array]
    targets: Mapping[str, tuple[Array, ...]]

    def including(self, runs: Mapping[str, tuple[tuple[int, ...], ...]]) -> Shapes:
        """These, and those of further tensors."""
        return _shapes({**self.runs, **runs}, self.constants, self.targets)


def probe(graph: gs.Graph) -> Shapes:
    """Shapes of every tensor of ``graph``; tensors that neither run nor inference reaches are absent."""
    symbolic = any(not isinstance(dim, int) or dim < 0 for t in graph.inputs for dim in (t.shape or [])[1:])
    names = [t.name for node in graph.nodes for t in node.outputs if t.name]
    try:
        session = Session(to_proto(graph), outputs=names, optimize=False)
    except ModelError:
        session = None
    for unit, apart in itertools.product(_UNITS, (1, 0)) if symbolic else [(1, 0)]:
        # 1, 3, 5, ... and 2, 5, 8, ... units
        pair = [_run(graph, session, n, (n - 1) * unit, n * unit * apart) for n in (2, 3)]
        if all(pair):
            witnesses = [_run(graph, session, *sizes) for sizes in (_WITNESSES if symbolic else _WITNESSES[:1])]
            return _compare(graph, [run for run in (*pair, *witnesses) if run])
    inferred = [_inferred(graph, n, (n - 1) * _UNITS[0]) for n in (2, 3)]
    return _shapes({name: tuple(sizes[name] for sizes in inferred) for name in inferred[0]}, {}, {})


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


def _run(graph: gs.Graph, session: Session | None, leading: int, other: int, step: int) -> dict[str, Array]:
    """Values of every tensor; empty if the model does not run at these sizes."""
    feeds = example_feeds(graph, leading, other, step)
    try:
        values = {} if session is None else {**feeds, **session.run(feeds)}
    except ModelError:
        return {}
    return {name: _light(value) for name, value in values.items()}


def _light(value: Array) -> Array:
    """``value``, or zeros of its shape without memory where only the shape is of interest."""
    if not isinstance(value, np.ndarray) or value.size <= _LARGEST_VALUE:
        return value
    return np.broadcast_to(np.zeros((), value.dtype), value.shape)


def _compare(graph: gs.Graph, runs: Sequence[Mapping[str, Array]]) -> Shapes:
    shapes, constants, targets = {}, {}, {}
    by_shape = _shape_only(graph)
    for name in runs[0]:
        values = [run[name] for run in runs]
        if not all(isinstance(value, np.ndarray) for value in values):
            continue  # sequences and optionals have no shape
        shapes[name] = tuple(value.shape for value in values)
        if name in by_shape and values[0].size <= _LARGEST_VALUE and len(set(shapes[name])) == 1:
            if all(np.array_equal(values[0], value) for value in values):
                constants[name] = values[0]
            elif values[0].ndim == 1 and values[0].dtype == np.int64:
                targets[name] = tuple(values)
    return _shapes(shapes, constants, targets)


def _shapes(
    runs: Mapping[str, tuple[tuple[int, ...], ...]],
    constants: Mapping[str, Array],
    targets: Mapping[str, tuple[Array, ...]],
) -> Shapes:
    sizes = {name: shapes[0] for name, shapes in runs.items()}
    varying = {name: tuple(len(set(axis)) > 1 for axis in zip(*shapes, strict=True)) for name, shapes in runs.items()}
    return Shapes(sizes, runs, varying, constants, targets)


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
