"""Cross-entropy, summed over samples: dL_i/dz_i = softmax(z_i) - onehot(label_i) for the logits z [N, classes].

The loss is a sum, so the gradient of each row is that sample's own. Labels are either given, or drawn from the
model's own distribution, which makes the result the true Fisher information: label = #{c: P(class <= c) < u} for
uniform u in [0, 1).
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx

from hqp_onnx.errors import GradientError
from hqp_onnx.gradients.prepare import attribute
from hqp_onnx.gradients.tape import Tape


def logits_of(t: Tape) -> str:
    """The first output's logits: what feeds its Softmax or LogSoftmax, if it ends in one.

    Raises:
        GradientError: the output is not [batch, classes], up to axes of size 1.
    """
    producers = {name: node for node in t.model.graph.node for name in node.output}
    name = str(t.model.graph.output[0].name)
    node = producers.get(name)
    while node is not None and (node.op_type == "Identity" or _over_classes(t, node)):
        name = node.input[0]
        node = producers.get(name)
    dims = t.dims(name)
    if classes(t, name) < 2 or any(n != 1 for n in dims[2:]):
        shape = ", ".join("?" if n is None else str(n) for n in dims)
        raise GradientError(f"output '{name}' is [{shape}]: cross-entropy needs logits [batch, classes]")
    if t.traced.rows.get(name) != 1:
        raise GradientError(f"output '{name}' mixes its samples: per-sample gradients need one row a sample")
    return name


def classes(t: Tape, logits: str) -> int:
    """Number of classes."""
    dims = t.dims(logits)
    return _size(dims[1]) if len(dims) > 1 else 0


def append_loss(t: Tape, logits: str, labeled: bool) -> tuple[str, str]:
    """Append dL/dz; returns (name of the new input, gradient of ``logits`` in their own shape).

    The input is int64 labels [N] if ``labeled``, else float32 uniform numbers [N].
    """
    count, kind = classes(t, logits), t.traced.types[logits]
    source = t.prefix + ("labels" if labeled else "uniform")
    element = onnx.TensorProto.INT64 if labeled else onnx.TensorProto.FLOAT
    batch = t.model.graph.input[0].type.tensor_type.shape.dim[0]
    t.model.graph.input.append(onnx.helper.make_tensor_value_info(source, element, [batch.dim_value or "hqp_batch"]))
    p = t.op("Softmax", t.reshape(logits, -1, count), axis=1)
    labels = source if labeled else _drawn(t, p, source, count)
    onehot = t.op("OneHot", labels, t.ints(count), t.const(np.array([0, 1], kind)), axis=1)
    return source, t.reshape_like(t.op("Sub", p, onehot), logits)


def _drawn(t: Tape, p: str, uniform: str, count: int) -> str:
    """Inverse of the cumulative distribution."""
    cumulative = t.op("Cast", t.op("CumSum", p, t.const(np.array(1, np.int64))), to=onnx.TensorProto.FLOAT)
    below = t.op("LessOrEqual", cumulative, t.reshape(uniform, -1, 1))
    passed = t.reduce("ReduceSum", t.op("Cast", below, to=onnx.TensorProto.INT64), [1])
    return t.op("Min", passed, t.const(np.array(count - 1, np.int64)))


def _over_classes(t: Tape, node: onnx.NodeProto) -> bool:
    axis = attribute(node, "axis", -1)
    rank = len(t.dims(node.input[0]))
    assert isinstance(axis, int)
    return (
        node.op_type in ("Softmax", "LogSoftmax")
        and axis % rank == 1
        and prod(map(_size, t.dims(node.input[0])[2:])) == 1
    )


def _size(n: int | None) -> int:
    return 0 if n is None else n
