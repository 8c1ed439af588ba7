"""What onnxruntime's QNN provider compiles of a model: an .onnx of EPContext nodes, and what became of each node.

The provider takes fixed sizes alone, and leaves to the CPU what it does not take, without a word: a model of which it
takes nothing runs all the same, there. It is asked which nodes it took, and why not the others.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.errors import MissingRuntimeError, ModelError, one_line
from hqp_onnx.runtimes.external_data import loaded, weight_bytes
from hqp_onnx.runtimes.litert.held import difference
from hqp_onnx.runtimes.messages import Child, EndedError, Message, part
from hqp_onnx.runtimes.qnn import worker
from hqp_onnx.runtimes.qnn.chips import Chip
from hqp_onnx.runtimes.session import BYTES_LIMIT, Session, TensorSpec, failure, fixed_batch, run_padded

SUFFIX = ".ctx.onnx"
CONTEXT = "EPContext"
_INSTALL = "onnxruntime-qnn is not installed: pip install 'hqp-onnx[qnn]'"
_MODULE = worker.__name__
_KEPT = 8  # contexts


@dataclass(frozen=True)
class Left:
    """A node that is left to the CPU, and why; ``end`` if it converts an input or output of the model."""

    operator: str
    name: str
    reason: str
    end: bool


@dataclass(frozen=True)
class Compiled:
    """The file's content; of so many ``nodes``, all but those that are ``left`` are in the context."""

    content: bytes
    nodes: int
    left: tuple[Left, ...]


def qnn_version() -> str:
    """Of the package; ``MissingRuntimeError`` says how to install it."""
    if find_spec("onnxruntime_qnn") is None:
        raise MissingRuntimeError(_INSTALL)
    return version_of("onnxruntime-qnn")


def is_context(model: onnx.ModelProto | Path) -> bool:
    """Whether a model was compiled by a provider of onnxruntime; no file that is not ONNX is."""
    if isinstance(model, Path):
        if model.suffix != ".onnx" or not model.is_file():
            return False
        model = onnx.load(model, load_external_data=False)
    return any(node.op_type == CONTEXT for node in model.graph.node)


class HtpSession:
    """A context, emulated, or the model that it is compiled of.

    Args:
        content: of the file; all its inputs have fixed sizes.
        chip: what it is compiled for.
        wanted: whether it is compiled here, and ``answer`` shall hold the context.

    Attributes:
        answer: of the process, see ``worker``.

    Raises:
        ModelError: the provider refuses the model, or its process ends.
        MissingRuntimeError: onnxruntime-qnn is not installed.
    """

    def __init__(self, content: bytes, chip: Chip, wanted: bool = False) -> None:
        qnn_version()
        graph = onnx.ModelProto.FromString(content).graph
        stored = {tensor.name for tensor in graph.initializer}
        self.inputs = tuple(_spec(value) for value in graph.input if value.name not in stored)
        self.outputs = tuple(_spec(value) for value in graph.output)
        self._chip, self._child = chip, Child(_MODULE)
        weakref.finalize(self, self._child.close)
        self.answer = self._ask(
            {
                "model": np.frombuffer(content, np.uint8),
                "arch": np.array(chip.arch),
                "soc": np.array(chip.soc),
                "context": np.array(wanted),
            }
        )

    @property
    def batch(self) -> int | None:
        """The fixed batch size."""
        return fixed_batch(self.inputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. A batch shorter than the fixed batch size is padded, and its outputs cut to length."""
        return run_padded(self._infer, feeds, self.batch)

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return part(self._ask({f"feed/{name}": np.asarray(x) for name, x in feeds.items()}), "value/")

    def _ask(self, message: Mapping[str, Array]) -> Message:
        try:
            answer = self._child.ask(message)
        except EndedError as e:
            raise ModelError(f"QNN ended {e}, for {self._chip}: it does not take this model") from e
        if "error" in answer:
            raise ModelError(f"QNN fails for {self._chip}: {failure(RuntimeError(str(answer['error'])))}")
        return answer


def compiled(model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, Array], chip: Chip) -> Compiled:
    """The context of a model for inputs of the sizes of ``feeds``, one sample where it leaves their number open.

    Raises:
        ModelError: nothing of it is in the context.
        MissingRuntimeError: onnxruntime-qnn is not installed.
    """
    proto = loaded(model, "QNN")
    if weight_bytes(proto) >= BYTES_LIMIT:
        raise ModelError("a model of 2 GB or more is not compiled for the HTP here")
    return _compiled(_fixed(proto, one_sample(proto, feeds)).SerializeToString(), chip)


def hold(model: onnx.ModelProto | bytes | Path, made: Compiled, feeds: Mapping[str, Array], chip: Chip) -> None:
    """Load a context again; ``ModelError`` unless it gives, emulated, what onnxruntime gives for ``model``."""
    proto = loaded(model, "QNN")
    sample = one_sample(proto, feeds)
    wanted = stand_in(proto).run(sample)
    if why := difference(wanted, HtpSession(made.content, chip).run(sample), rounded=True, steps={}):
        raise ModelError(f"the context for {chip} computes something else than onnxruntime: {why}")


def stand_in(
    model: onnx.ModelProto | bytes | Path, outputs: Sequence[str] | None = None, threads: int = 0, spin: bool = False
) -> Session:
    """What computes as the HTP does, fast: pairs round, all else is in float, so no processor's kernels saturate."""
    return Session(model, outputs, threads=threads, integer_kernels=False, spin=spin)


def one_sample(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The first sample of ``feeds`` where the model leaves the number of samples open."""
    inputs = {value.name: _spec(value) for value in model.graph.input if value.name in feeds}
    if fixed_batch(list(inputs.values())) is not None:
        return dict(feeds)
    return {name: x[:1] if inputs[name].shape[:1] == (None,) else x for name, x in feeds.items()}


@lru_cache(maxsize=_KEPT)
def _compiled(content: bytes, chip: Chip) -> Compiled:
    answer = HtpSession(content, chip, wanted=True).answer
    made = answer["context"].tobytes()
    graph = onnx.ModelProto.FromString(made).graph
    if all(node.op_type != CONTEXT for node in graph.node):
        raise ModelError(f"QNN takes no node of the model for {chip}: it would run on the CPU. Are the numbers right?")
    try:
        said = json.loads(str(answer["trace"]))
        nodes, reasons = int(said["summary"]["total_onnx_nodes"]), said.get("unsupported_nodes", ())
        why = {str(node["node_name"]): one_line(node["reason"]) for node in reasons}
    except (ValueError, KeyError, TypeError) as e:
        raise ModelError("QNN does not say which nodes it took: onnxruntime-qnn is of an unknown version") from e
    ends = {value.name for value in (*graph.input, *graph.output)}
    left = (
        Left(
            node.op_type, node.name, why.get(node.name, "no reason was given"), bool(ends & {*node.input, *node.output})
        )
        for node in graph.node
        if node.op_type != CONTEXT
    )
    return Compiled(made, nodes, tuple(left))


def _fixed(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy whose inputs have the sizes of ``feeds``; those of all other tensors follow from them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        for size, dim in zip(np.shape(feeds.get(value.name, ())), value.type.tensor_type.shape.dim, strict=False):
            dim.dim_value = size
    inferred = onnx.shape_inference.infer_shapes(_without_sizes(copy))
    for value, known in zip(copy.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(known)
    return copy


def _without_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()
    return model


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type or onnx.TensorProto.FLOAT), shape)
