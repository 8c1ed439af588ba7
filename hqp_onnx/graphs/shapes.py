"""Shapes of a model: concrete ones, found by running it, and what is proven of them for all sizes.

The model runs once, at sizes of its symbolic dimensions that it takes, and says the shape of every tensor; where it
cannot run, inference at these sizes gives what it can. Sizes of one run say nothing about other sizes: that is for
``symbolic``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import Array
from hqp_onnx.errors import DataError, ModelError
from hqp_onnx.graphs.body_shapes import shapes_of_bodies
from hqp_onnx.graphs.measured_run import Measured, Run
from hqp_onnx.graphs.model_io import default_values, to_proto
from hqp_onnx.graphs.symbolic.demands import Demands, demands
from hqp_onnx.graphs.symbolic.known import Dims, Known
from hqp_onnx.graphs.symbolic.propagation import dim_symbol, propagate
from hqp_onnx.limits import LARGEST_PROBE
from hqp_onnx.runtimes.session import Runner, try_run

_BATCH = 2
_LARGEST_LONG = 1 << 22  # elements of an input whose first dimension is time
_LONG = 128  # of a first dimension that is time: windows need as many steps as they are wide
_UNITS = (64, 96, 32, 16, 512)  # of the other symbolic dimensions' sizes; the first that runs is taken


@dataclass(frozen=True)
class Shapes:
    """Shapes of the tensors of a model.

    Tensors in the graphs inside nodes are among them, by names that no other tensor has (``bodies.name_apart``).

    Attributes:
        sizes: concrete shape in the run; batch 2 where the batch is dynamic.
        known: what is proven for all sizes.
    """

    sizes: Mapping[str, tuple[int, ...]]
    known: Known

    def varying(self, name: str) -> tuple[bool, ...]:
        """Per dimension of a tensor of known shape, whether its size may depend on the inputs'."""
        dims = self.known.dims.get(name)
        return (True,) * len(self.sizes[name]) if dims is None else tuple(dim.value is None for dim in dims)

    def same(self, name: str, other: str) -> bool:
        """Whether two tensors have one shape, for all sizes."""
        dims = self.known.dims
        return name in dims and dims[name] == dims.get(other)

    def constant(self, name: str) -> Array | None:
        """The value that a small tensor of integers has for all sizes."""
        return self.known.constants.get(name) if name in self.known.values else None

    def including(self, sizes: Mapping[str, tuple[int, ...]], dims: Mapping[str, Dims]) -> Shapes:
        """These, and those of further tensors."""
        return Shapes({**self.sizes, **sizes}, replace(self.known, dims={**self.known.dims, **dims}))


def probe(graph: gs.Graph) -> Shapes:
    """Shapes of every tensor of ``graph``; tensors that neither run nor inference reaches are absent."""
    model = to_proto(graph)
    found, taken = Run({}, {}), dict[str, Array]()
    fixed: Mapping[str, int] = {}
    known = propagate(model, {})
    stored = {tensor.name for tensor in model.graph.initializer}
    constants = [name for name, value in known.constants.items() if value is None and name not in stored]
    measured = Measured.of(model, constants)
    if measured is not None:
        for feeds, proven in trials(graph, _BATCH):
            fixed = proven
            if (found := measured.run(feeds)).sizes:
                taken = feeds
                break
    if constants or fixed:
        known = propagate(model, found.constants, fixed)
    if not found.sizes:
        return Shapes(_inferred(graph, model), known)
    return Shapes(found.sizes, known).including(*shapes_of_bodies(model, taken, known))


def trials(graph: gs.Graph, leading: int) -> Iterator[tuple[dict[str, Array], Mapping[str, int]]]:
    """Inputs that a model may take, the likeliest first, and sizes that its weights prove to be the only ones.

    Sizes that weights demand are looked for only after others have failed, since they rarely are open; then states that
    are as long as the batch; then a batch of 1, which a fixed state demands, and then first dimensions that are time.
    """
    opened = [axis for t in graph.inputs for axis, dim in enumerate(t.shape or []) if not _is_size(dim)]
    states = any(axis and not _is_size(dim) for t in graph.inputs[1:] for axis, dim in enumerate(t.shape or []))
    units = list(itertools.product(_UNITS, (1, 0))) if any(opened) else [(1, 0)]
    none = Demands({}, {})
    yield from _sized(graph, leading, units[:1], none)
    wanted = demands(to_proto(graph), _LONG) if any(opened) else none
    for first in dict.fromkeys((leading, 1, _LONG) if 0 in opened else (leading,)):
        most = _LARGEST_LONG if first == _LONG else LARGEST_PROBE
        if wanted.all:
            yield from _sized(graph, first, units, wanted, most)
        if not wanted.proven:
            yield from _sized(graph, first, units, none, most)
        if states:
            yield from _sized(graph, first, [(unit, None) for unit in _UNITS], wanted, most)


def _sized(
    graph: gs.Graph, leading: int, units: Iterable[tuple[int, int | None]], fixed: Demands, most: int = LARGEST_PROBE
) -> Iterator[tuple[dict[str, Array], Mapping[str, int]]]:
    """``trials`` of one first dimension, of at most so many elements."""
    for unit, apart in units:
        with suppress(DataError):
            step = None if apart is None else 2 * unit * apart
            yield example_feeds(graph, leading, unit, step, fixed.all, most), fixed.proven


def _is_size(dim: int | str | None) -> bool:
    return isinstance(dim, int) and dim >= 0


def example_feeds(
    graph: gs.Graph,
    leading: int = 1,
    other: int = 224,
    step: int | None = 0,
    fixed: Mapping[str, int] = MappingProxyType({}),
    most: int = LARGEST_PROBE,
) -> dict[str, Array]:
    """Seeded inputs of a model: symbolic dimensions become ``leading`` (the first, and of its name) or ``other``.

    Inputs with default values are left to these.

    Args:
        graph: the model.
        leading: size of a symbolic first dimension.
        other: size of the other symbolic dimensions.
        step: how much larger each further dimension is, of another name or without one; None makes those of all inputs
            but the first ``leading``.
        fixed: sizes by the text of a dimension's symbol, see ``demands``.
        most: elements that an input may hold.

    Raises:
        DataError: an input would hold more.
    """
    rng = np.random.default_rng(0)
    seen: dict[object, int] = {}
    defaults = default_values(graph)
    batches = {t.shape[0] for t in graph.inputs if t.shape and isinstance(t.shape[0], str)}

    def size(tensor: gs.Variable, axis: int, dim: int | str | None) -> int:
        if isinstance(dim, int) and _is_size(dim):
            return dim
        name = dim if isinstance(dim, str) else None
        if (text := dim_symbol(tensor.name, axis, name)) in fixed:
            return fixed[text]
        if axis == 0 or name in batches or (step is None and tensor is not graph.inputs[0]):
            return leading
        return other + (step or 0) * seen.setdefault(name or (tensor.name, axis), len(seen))

    return {
        t.name: _value(rng, t, [size(t, axis, dim) for axis, dim in enumerate(t.shape or [])], most)
        for t in graph.inputs
        if t.name not in defaults
    }


def random_feeds(graph: gs.Graph, session: Runner, count: int = 4) -> list[dict[str, Array]]:
    """One seeded batch that ``session``, of a model with the inputs of ``graph``, takes; none if it takes none."""
    try:
        for feeds, _ in trials(graph, session.batch or count):
            try:
                try_run(session, feeds)
            except ModelError:
                continue
            return [feeds]
    except TypeError:  # an input of text
        return []
    return []


def _value(rng: np.random.Generator, tensor: gs.Variable, dims: list[int], most: int) -> Array:
    if math.prod(dims) > most:
        raise DataError(f"input '{tensor.name}' of shape {dims} is too large to be tried")
    if isinstance(tensor.dtype, int):
        kind = onnx.TensorProto.DataType.Name(tensor.dtype).lower()
        raise DataError(
            f"input '{tensor.name}' is of type {kind}, which no array is: make it float32, cast in the model"
        )
    dtype = np.dtype(tensor.dtype)
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(dims).astype(dtype)
    return np.ones(dims, dtype)


def _inferred(graph: gs.Graph, model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes at the sizes of the run, without running."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    feeds = example_feeds(graph, _BATCH, _UNITS[0])
    for value in fixed.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, np.shape(feeds.get(value.name, 0)), strict=False):
            dim.dim_value = size
    dims = propagate(fixed, {}).dims
    sizes = {name: tuple(dim.value for dim in shape) for name, shape in dims.items()}
    known = {name: tuple(n for n in shape if n is not None and n >= 0) for name, shape in sizes.items()}
    return {name: shape for name, shape in known.items() if len(shape) == len(sizes[name])}
