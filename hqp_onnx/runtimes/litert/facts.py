"""What a model says of its tensors at given sizes: shapes, types, and values that its inputs do not change.

The model is run once, by onnxruntime, with every tensor as an output. What is computed from constants alone, or from
shapes, which these sizes fix, is constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.session import Session, try_run

_OF_SHAPES = frozenset({"Shape", "Size"})
_DRAWN = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


@dataclass(frozen=True)
class Facts:
    """Of the tensors of a model, by name.

    Attributes:
        values: of constants.
        shapes: of all tensors.
        types: numpy's, of all tensors.
        results: of the graph, in that run.
        negative: tensors of integers with some below 0, in that run.
    """

    values: dict[str, Array]
    shapes: dict[str, tuple[int, ...]]
    types: dict[str, np.dtype[Any]]
    results: Mapping[str, Array]
    negative: frozenset[str] = frozenset()

    def add(self, name: str, value: Array) -> None:
        """A constant more."""
        self.values[name], self.shapes[name], self.types[name] = value, value.shape, value.dtype

    def like(self, name: str, other: str) -> None:
        """A tensor more, of the shape and type of another."""
        self.shapes[name], self.types[name] = self.shapes[other], self.types[other]


def find_facts(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Facts:
    """What one run of ``feeds`` shows.

    Raises:
        ModelError: the model does not run, or gives something other than tensors.
    """
    graph = model.graph
    names = list(dict.fromkeys(name for node in graph.node for name in node.output if name))
    got = try_run(Session(model, outputs=names, optimize=False), feeds) if names else {}
    others = [name for name, value in got.items() if not isinstance(value, np.ndarray)]
    if others:
        raise ModelError(f"'{others[0]}' is no tensor, and .tflite files hold nothing else")
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        reads = [name for name in node.input if name]
        inner = any(entry.HasField("g") or entry.graphs for entry in node.attribute)
        fixed = all(name in values for name in reads) or node.op_type in _OF_SHAPES
        if fixed and not inner and node.op_type not in _DRAWN:
            values |= {name: got[name] for name in node.output if name}
    known = {**feeds, **got, **values}
    return Facts(
        values,
        {name: np.shape(x) for name, x in known.items()},
        {name: np.asarray(x).dtype for name, x in known.items()},
        {value.name: known[value.name] for value in graph.output},
        frozenset(name for name, x in known.items() if np.asarray(x).dtype.kind == "i" and (np.asarray(x) < 0).any()),
    )
