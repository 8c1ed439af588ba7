"""The sizes of all tensors of a model in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.unique_names import tensor_names, unused_prefix
from hqp_onnx.runtimes.session import Session, try_run

_LARGEST_VALUE = 4096  # elements; shape arithmetic is smaller


@dataclass(frozen=True)
class Run:
    """Sizes of every tensor in a run, and values of those that are the same for all inputs; empty if it failed."""

    sizes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Array]


@dataclass(frozen=True)
class Measured:
    """A model that gives the sizes of its tensors, not their values, so a run takes the memory that it always takes.

    Attributes:
        session: on the model and a Shape node for each tensor, or with every tensor as an output where it holds
            sequences, which have no shape.
        shapes: of the Shape nodes, by the tensor that they read.
    """

    session: Session
    shapes: Mapping[str, str]

    @classmethod
    def of(cls, model: onnx.ModelProto, constants: Sequence[str]) -> Measured | None:
        """``model``, of which the values of ``constants`` are wanted, too; None if it does not load."""
        names, valued = [name for node in model.graph.node for name in node.output if name], set(constants)
        prefix = unused_prefix("hqp.shape.", tensor_names(model.graph))
        shapes = {name: f"{prefix}{number}" for number, name in enumerate(names) if name not in valued}
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        copy.graph.node.extend(onnx.helper.make_node("Shape", [name], [shape]) for name, shape in shapes.items())
        # without the outputs themselves, nodes would not run whose results are of one shape
        ends = [value.name for value in model.graph.output if value.name in shapes]
        with suppress(ModelError):
            return cls(Session(copy, outputs=[*shapes.values(), *constants, *ends]), shapes)
        with suppress(ModelError):
            return cls(Session(model, outputs=names, optimize=False), {})
        return None

    def run(self, feeds: Mapping[str, Array]) -> Run:
        """One run on these inputs."""
        try:
            got = try_run(self.session, feeds)
        except ModelError:
            return Run({}, {})
        shapes = {name: tuple(got[shape].tolist()) for name, shape in self.shapes.items()}
        values = {name: value for name, value in {**feeds, **got}.items() if isinstance(value, np.ndarray)}
        sizes = {name: value.shape for name, value in values.items()}  # those of the shapes themselves do no harm
        return Run({**sizes, **shapes}, {name: x for name, x in values.items() if x.size <= _LARGEST_VALUE})
