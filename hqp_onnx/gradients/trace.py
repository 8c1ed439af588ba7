"""Shapes, types and shape constants of a model on real samples, and proof that samples do not mix.

The model runs on the rows [a, a] and on [a, b, c]. A dimension that differs counts samples: 2k in the first run is
k rows a sample. A tensor holds its samples apart if a's rows are the same in both runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from hqp_onnx.arrays import Array
from hqp_onnx.errors import GradientError
from hqp_onnx.graphs.nodes import reads
from hqp_onnx.graphs.shape_only import shape_only
from hqp_onnx.graphs.symbolic.sampled import proven_for
from hqp_onnx.runtimes.session import Session

Dims = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """Where a tensor has its samples: ``axis`` is [outer, samples, inner], as after steps in [steps, samples, ...]."""

    axis: int
    outer: int
    inner: int


@dataclass(frozen=True)
class Trace:
    """What two runs showed.

    Attributes:
        dims: shape of each tensor; None for a dimension that grows with the batch.
        types: numpy dtype of each tensor.
        values: initializers, and tensors that depend on nothing but shapes and are the same for all batches.
        rows: of a tensor whose first axis holds the samples in order, rows per sample; others are absent.
        size: elements per sample, of all tensors.
        elsewhere: samples of tensors that hold them apart, but in another way than ``rows`` says.
    """

    dims: Mapping[str, Dims]
    types: Mapping[str, np.dtype[np.generic]]
    values: Mapping[str, Array]
    rows: Mapping[str, int]
    size: int
    elsewhere: Mapping[str, Samples] = field(default_factory=dict)


def trace(model: onnx.ModelProto, feeds: Mapping[str, Array], batch: int | None) -> Trace:
    """Trace ``model`` on the first sample of ``feeds``; ``batch`` is its fixed batch size, or None."""
    names = [name for node in model.graph.node for name in node.output if name]
    session = Session(model, outputs=names, optimize=False)
    counts = (2, 3) if batch is None else (batch, batch)
    inputs = [{name: rolled(x[:1], count, shift) for name, x in feeds.items()} for shift, count in enumerate(counts)]
    first, second = ({**rows, **session.run(rows)} for rows in inputs)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    arrays = {name: value for name, value in first.items() if isinstance(value, np.ndarray)}
    constant = _proven(model, inputs[0], first, batch)
    values |= {name: x for name, x in arrays.items() if name in constant and np.array_equal(x, second[name])}
    known = {**values, **arrays}
    dims: dict[str, Dims] = {name: x.shape for name, x in known.items()}
    for name, x in arrays.items():
        if x.ndim == second[name].ndim:
            dims[name] = tuple(n if n == m else None for n, m in zip(x.shape, second[name].shape, strict=True))
    rows_of = {name: len(x) // counts[0] for name, x in arrays.items() if _apart(x, second[name], counts)}
    places = {name: _elsewhere(x, second[name], counts) for name, x in arrays.items() if name not in rows_of}
    elsewhere = {name: place for name, place in places.items() if place is not None}
    size = sum(x.size for x in arrays.values()) // counts[0]
    return Trace(dims, {name: x.dtype for name, x in known.items()}, values, rows_of, size, elsewhere)


def _proven(
    model: onnx.ModelProto, rows: Mapping[str, Array], measured: Mapping[str, Array], batch: int | None
) -> set[str]:
    """Tensors that have one value for batches of any size, of samples of the size of ``rows``."""
    return set(proven_for(model, measured, rows, batch).constants) & shape_only(model.graph)


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """The batch size that the model's inputs state, or None.

    Raises:
        GradientError: an input has no batch axis.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    sizes: set[int] = set()
    for value in model.graph.input:
        if value.name in constants:
            continue
        shape = value.type.tensor_type.shape.dim
        if not shape:
            raise GradientError(f"input '{value.name}' has no batch axis: per-sample gradients need one")
        sizes.add(max(0, shape[0].dim_value))  # below 0 is open, as for runtimes
    return next(iter(sizes)) or None if len(sizes) == 1 else None


def rolled(sample: Array, count: int, shift: int) -> Array:
    """``count`` rows: the sample, then copies whose values are rolled by ``shift`` elements more each."""
    return np.concatenate([np.roll(sample, shift * row) for row in range(count)])


def _apart(first: Array, second: Array, counts: tuple[int, int]) -> bool:
    if not first.ndim or first.ndim != second.ndim or len(first) * counts[1] != len(second) * counts[0]:
        return False
    if not len(first) or len(first) % counts[0] or first.shape[1:] != second.shape[1:]:
        return False
    k = len(first) // counts[0]
    if not np.issubdtype(first.dtype, np.floating):
        return bool(np.array_equal(first[:k], second[:k]))
    return close(first[:k], second[:k], float(np.abs(first[np.isfinite(first)]).max(initial=0.0)))


def _elsewhere(first: Array, second: Array, counts: tuple[int, int]) -> Samples | None:
    """The first axis along which a step or so lies between the values of one sample."""
    for axis in range(first.ndim if first.ndim == second.ndim and first.size else 0):
        each, rest = divmod(first.shape[axis], counts[0])
        for outer in dict.fromkeys((1, each)) if not rest and each else ():
            views = [
                np.moveaxis(x, axis, 0).reshape(outer, count, each // outer, -1).swapaxes(0, 1)
                for x, count in zip((first, second), counts, strict=True)
                if x.shape[axis] == each * count
            ]
            if len(views) == 2 and _apart(views[0], views[1], counts):
                return Samples(axis, outer, each // outer)
    return None


def close(first: Array, second: Array, size: float) -> bool:
    """Equal but for rounding of numbers of that size; NaN and infinities are what they are."""
    return bool(np.allclose(first, second, rtol=1e-3, atol=1e-4 * size, equal_nan=True))


def reachable(graph: onnx.GraphProto, seeds: Iterable[str], types: Mapping[str, np.dtype[np.generic]]) -> set[str]:
    """Floating-point tensors that the values of ``seeds`` flow into, ``seeds`` included, and quantized ones."""
    reached = set(seeds)
    for node in graph.node:
        values = node.input[:1] if node.op_type == "CastLike" else reads(node)  # its second input is a type
        if not reached.isdisjoint(values):
            real = (name for name in node.output if name in types and np.issubdtype(types[name], np.floating))
            reached.update(node.output if node.op_type == "QuantizeLinear" else real)
    return reached
