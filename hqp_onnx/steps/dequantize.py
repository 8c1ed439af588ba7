"""``hqp dequantize``: a quantized model in float, so that it can be pruned, and quantized for another target."""

from __future__ import annotations

from pathlib import Path

from hqp_onnx.errors import ModelError
from hqp_onnx.evaluation.verification import Source
from hqp_onnx.files import forbid_overlap
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.interface import Interface
from hqp_onnx.graphs.record import Record
from hqp_onnx.model import ModelSource, held_to, identity, name_of, open_session, read_model
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.dequantize import dequantize
from hqp_onnx.passes.lowering.inline_constants import inline_constants
from hqp_onnx.steps.writing import Written, write_verified


def dequantize_file(path: Path, output: Path) -> Written:
    """Write the float model that a quantized one stands for, compared with it on random inputs.

    Raises:
        UsageError: the output is the model.
        ModelError: see ``dequantized``.
    """
    forbid_overlap({"output": output}, {"the model": model_io.parts(path)})
    result, source, record = dequantized(path)
    return Written(result.notes, write_verified(result.graph, output, source, record))


def dequantized(model: ModelSource) -> tuple[PassResult, Source, Record]:
    """The float model, what it is held to, and what was done.

    Raises:
        ModelError: not a valid model, nothing in it is quantized, or something has no known meaning in float.
    """
    path, proto = read_model(model, quantized=True)
    graph = model_io.to_graph(inline_constants(proto))
    try:
        result = dequantize(graph)
    except ModelError as e:
        raise ModelError(f"{name_of(model)}: {e}") from e
    if not result.modified:
        raise ModelError(f"{name_of(model)}: nothing in it is quantized: it is a float model already")
    size = model_io.to_proto(result.graph).ByteSize()  # float weights are larger: nothing to warn of
    source = held_to(open_session(model), Interface.of(proto), size, graph)
    return result, source, Record(identity(path, proto)[0], precision="fp32")
