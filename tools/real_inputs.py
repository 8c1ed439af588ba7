"""Inputs for a model that nobody described: what its types, names and tables say, random within that.

    integers that look rows up (Gather)     up to the number of rows
    masks                                   ones
    sample rates                            16000
    lengths                                 16
    other integers                          0 or 1
    floats [n, 1 or 3, h, w] or [n, h, w, 1 or 3]       0 .. 1, as images
    other floats                            standard normal; a tenth of that where they are named as a state
    open dimensions                         one size by name, the first of SIZES with which the model runs

Random inputs say whether a model is right, and how long it takes, but not how well INT8 fits the data that it was
made for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx

from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.graphs.symbolic.demands import demands
from hqp_onnx.graphs.symbolic.propagation import dim_symbol
from hqp_onnx.passes.fold_constants import fold_constants

Feeds = dict[str, np.ndarray]
SIZES = (32, 64, 96, 128, 160, 256, 512, 16000)
TIME, LARGEST = 128, 1 << 22  # steps of a first dimension that is time; values of all inputs
_PASSING = ("Cast", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Transpose", "Expand", "Slice", "Concat", "Clip")


class UnfedError(Exception):
    """No inputs were found that the model takes."""


class Drawer:
    """Inputs of a model that ``run`` takes; which sizes these have is tried once for each number of samples."""

    def __init__(self, model: onnx.ModelProto, run: Callable[[Feeds], object]) -> None:
        self._model, self._run = model, run
        found = demands(to_proto(fold_constants(to_graph(model)).graph), TIME)
        self._known = [found.all] if found.proven else [{}, found.all]
        self._shapes = dict[int, dict[str, list[int]]]()

    def __call__(self, batch: int, seed: int = 0) -> Feeds:
        """Inputs of ``batch`` samples, where the model leaves the batch open."""
        if batch not in self._shapes:
            self._shapes[batch] = self._tried(batch)
        return self._drawn(self._shapes[batch], seed)

    def _tried(self, batch: int) -> dict[str, list[int]]:
        last = ""
        for leading, sizes, states, size in itertools.product((batch, 1, TIME), self._known, (False, True), SIZES):
            shapes = _shapes(self._model, leading, size, states, sizes)
            if sum(math.prod(shape) for shape in shapes.values()) > LARGEST:
                continue
            try:
                self._run(self._drawn(shapes, 0))
            except Exception as e:  # of any runtime
                last = str(e).splitlines()[0][:160]
            else:
                return shapes
        raise UnfedError(last)

    def _drawn(self, shapes: Mapping[str, list[int]], seed: int) -> Feeds:
        rng = np.random.default_rng(seed)
        return {v.name: _values(rng, self._model, v.name, shapes[v.name], _type(v)) for v in _inputs(self._model)}


def open_batch(model: onnx.ModelProto) -> bool:
    """Whether the first dimension of the first input is open."""
    dims = _inputs(model)[0].type.tensor_type.shape.dim
    return bool(dims) and dims[0].dim_value <= 0


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    stated = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stated]


def _shapes(
    model: onnx.ModelProto, leading: int, size: int, states: bool, known: Mapping[str, int]
) -> dict[str, list[int]]:
    """Shape of each input; with ``states``, open dimensions of all but the first are as long as the batch."""
    shapes, seen = dict[str, list[int]](), dict[str, int]()
    for number, value in enumerate(_inputs(model)):
        shapes[value.name] = shape = []
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            text = dim_symbol(value.name, axis, dim.dim_param or None)
            wanted = leading if axis == 0 or (states and number) else size
            shape.append(dim.dim_value if dim.dim_value > 0 else seen.setdefault(text, known.get(text, wanted)))
    return shapes


def _type(value: onnx.ValueInfoProto) -> np.dtype:
    return onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def _values(
    rng: np.random.Generator, model: onnx.ModelProto, name: str, shape: list[int], dtype: np.dtype
) -> np.ndarray:
    low = name.lower()
    if np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16":
        if "mask" in low:
            return np.ones(shape, dtype)
        if len(shape) == 4 and {1, 3} & {shape[1], shape[3]}:
            return rng.random(shape).astype(dtype)
        scale = 0.1 if low.startswith(("h", "c", "state")) and len(low) < 8 else 1.0
        return np.asarray(scale * rng.standard_normal(shape), dtype)
    if low in ("sr", "sample_rate"):
        return np.full(shape, 16000, dtype)
    if "mask" in low:
        return np.ones(shape, dtype)
    if "len" in low:
        return np.full(shape, 16, dtype)
    return np.asarray(rng.integers(0, max(min(_rows(model, name), 30000), 2), shape), dtype)


def _rows(model: onnx.ModelProto, name: str) -> int:
    """Rows of the smallest table that the values of an input look up; 2 where they look up none."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = list(node.attribute[0].t.dims)
    return min(_tables(model, name, shapes), default=2)


def _tables(model: onnx.ModelProto, name: str, shapes: dict[str, list[int]]) -> Iterator[int]:
    reached = {name}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[1] in reached and len(shapes.get(node.input[0], ())) > 1:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            yield shapes[node.input[0]][axis]
        elif node.op_type in _PASSING and not reached.isdisjoint(node.input):
            reached.update(node.output)
        elif node.op_type == "Identity" and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
