"""Losses, summed over samples, so the gradient of each row is that sample's own.

cross-entropy: dL_i/dz_i = softmax(z_i) - onehot(c_i) for the logits z [N, classes] and the label c_i.
sampled: the same for a label drawn from the model's own distribution, which makes the mean of squares the true Fisher
    information: c = #{k: P(class <= k) < u} for uniform u in [0, 1).
expected: the expectation over that distribution instead, one round per class c: dL_i/dz_i sqrt(P(c)).
gauss-newton: L_i = <v_i, y_i> over all outputs y for v_i ~ N(0, I), so E ||dL_i/dw||^2 = ||dy_i/dw||_F^2, the
    diagonal of the Gauss-Newton matrix of a squared error (Hutchinson's estimator).
cross-entropy at positions, binary-cross-entropy, squared-error: see ``task_loss``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from hqp_onnx.arrays import Array
from hqp_onnx.errors import DataError, GradientError
from hqp_onnx.evaluation.metrics.task import Task
from hqp_onnx.gradients.samples import place_of, samples_back, width
from hqp_onnx.gradients.tape import INSTEAD, Tape
from hqp_onnx.gradients.task_loss import NAMES, encoded, task_seeds
from hqp_onnx.graphs.ends import ends_of
from hqp_onnx.graphs.nodes import attribute

LossName = Literal["cross-entropy", "sampled", "expected", "binary-cross-entropy", "squared-error", "gauss-newton"]
LOSSES: tuple[LossName, ...] = get_args(LossName)
_WITHOUT_CLASSES = "use {--saliency} obs, which needs no classes, or {--loss} gauss-newton"


@dataclass(frozen=True)
class Draw:
    """Random targets: ``count`` for each of ``samples``, a function of ``seed`` and the sample's position alone."""

    count: int
    samples: int
    seed: int

    def uniform(self) -> NDArray[np.float32]:
        """In [0, 1), [count, samples]."""
        return np.random.default_rng(self.seed).random((self.count, self.samples), np.float32)

    def normal(self, part: range, number: int, width: int) -> NDArray[np.float32]:
        """Draw ``number`` of the samples ``part``, [len(part), width]."""
        streams = [np.random.default_rng((self.seed, number, sample)) for sample in part]
        return np.stack([stream.standard_normal(width, np.float32) for stream in streams])


@dataclass(frozen=True)
class Loss:
    """A loss on a tape.

    Attributes:
        name: as above, or "user".
        seeds: dL/dy by the tensors y that it reads.
        targets: name of the graph input that it adds; "" if none.
        classes: of cross-entropy.
        width: of gauss-newton, elements of v per sample.
        task: what the output says, where the loss follows from it.
    """

    name: LossName | Literal["user"]
    seeds: Mapping[str, str]
    targets: str
    classes: int = 0
    width: int = 0
    task: Task | None = None

    def rounds(self, part: range, labels: Array | None, draw: Draw) -> Iterator[Array | None]:
        """Values of ``targets``, one after the other, for the samples ``part`` and their labels.

        Raises:
            DataError: labels are needed and missing.
        """
        if not self.targets:
            yield None
        elif self.task is not None or self.name in ("cross-entropy", "user"):
            if labels is None:
                raise DataError(f"sample {part.start} has no label: the loss needs one for every sample")
            yield labels if self.task is None else encoded(labels, self.task, self.classes)
        elif self.name == "expected":
            yield from (np.full(len(part), c, np.int64) for c in range(self.classes))
        elif self.name == "sampled":
            yield from draw.uniform()[:, part.start : part.stop]
        else:
            yield from (draw.normal(part, number, self.width) for number in range(draw.count))

    @property
    def random(self) -> bool:
        """Whether the targets are drawn."""
        return self.name in ("sampled", "gauss-newton")


def append_loss(t: Tape, name: LossName | Task | None, reached: Collection[str]) -> Loss:
    """Append dL/dy.

    Args:
        t: tape of the model.
        name: or a task, whose loss is taken; None takes one that needs no labels: sampled for a classifier, which has
            logits and no other float output, else gauss-newton.
        reached: tensors that the weights flow into.

    Raises:
        GradientError: the outputs do not fit the loss.
    """
    outputs = [value.name for value in t.model.graph.output if value.name in reached]
    if isinstance(name, Task):
        source = _new_input(t, "targets", onnx.TensorProto.FLOAT, 2)
        seeds, count = task_seeds(t, name, source)
        return Loss(NAMES[name.kind], seeds, source, count, task=name)
    if not outputs:
        raise _out_of_reach(t)
    name = name or ("sampled" if len(outputs) == 1 and is_classifier(t) else "gauss-newton")
    return _projection(t, outputs) if name == "gauss-newton" else _cross_entropy(t, name)


def append_user_loss(t: Tape, output: str, targets: str) -> Loss:
    """The loss tensor ``output``, [N] or a sum over samples, that ``join_loss`` put into the model.

    Raises:
        GradientError: it has another shape.
    """
    dims = t.dims(output)
    if dims and (t.traced.rows.get(output) != 1 or set(dims[1:]) - {1}):
        shape = ", ".join("?" if n is None else str(n) for n in dims)
        raise GradientError(f"the loss is [{shape}]: expected one number per sample, or their sum")
    ones = t.op("Expand", t.scalar(1, output), t.op("Shape", output))
    return Loss("user", {output: ones}, targets)


def logits_of(t: Tape, output: str = "") -> str:
    """The logits of ``output``, or of the first one: what feeds its Softmax or LogSoftmax, if it ends in one.

    Raises:
        GradientError: the output is not [batch, classes], up to axes of size 1.
    """
    producers = {name: node for node in t.model.graph.node for name in node.output}
    value = next((value for value in t.model.graph.output if value.name == output), t.model.graph.output[0])
    name = str(value.name)
    if not value.type.HasField("tensor_type"):
        raise GradientError(f"output '{name}' is no tensor: cross-entropy needs logits", _WITHOUT_CLASSES)
    node = producers.get(name)
    while node is not None and (node.op_type == "Identity" or _over_classes(t, node)):
        name = node.input[0]
        node = producers.get(name)
    dims = t.dims(name)
    if classes(t, name) < 2 or any(n != 1 for n in dims[2:]):
        shape = ", ".join("?" if n is None else str(n) for n in dims)
        raise GradientError(
            f"output '{name}' is [{shape}]: cross-entropy needs logits [batch, classes]",
            _WITHOUT_CLASSES,
        )
    if t.traced.rows.get(name) != 1:
        raise GradientError(f"output '{name}' mixes its samples: per-sample gradients need one row a sample")
    return name


def classes(t: Tape, logits: str) -> int:
    """Number of classes."""
    dims = t.dims(logits)
    return _size(dims[1]) if len(dims) > 1 else 0


def is_classifier(t: Tape) -> bool:
    """Whether the first output has logits, see ``logits_of``."""
    try:
        logits_of(t)
    except GradientError:
        return False
    return True


def _cross_entropy(t: Tape, name: LossName) -> Loss:
    logits = logits_of(t)
    count, kind = classes(t, logits), t.traced.types[logits]
    sampled = name == "sampled"
    source = _new_input(
        t, "uniform" if sampled else "labels", onnx.TensorProto.FLOAT if sampled else onnx.TensorProto.INT64
    )
    p = t.op("Softmax", t.reshape(logits, -1, count), axis=1)
    labels = _drawn(t, p, source, count) if sampled else source
    onehot = t.onehot(labels, count, kind)
    seed = t.op("Sub", p, onehot)
    if name == "expected":
        seed = t.mul(seed, t.op("Sqrt", t.reduce("ReduceSum", t.mul(p, onehot), [1], keepdims=True)))
    return Loss(name, {logits: t.reshape_like(seed, logits)}, source, count)


def _projection(t: Tape, outputs: list[str]) -> Loss:
    """Each output takes its share of the columns of v."""
    source = _new_input(t, "normal", onnx.TensorProto.FLOAT, 1)
    seeds, stop = {}, 0
    for name in outputs:
        dims, rows, place = t.dims(name), t.traced.rows.get(name), place_of(t, name)
        if place is None and (rows is None or None in dims[1:]):
            raise GradientError(
                f"output '{name}' does not hold one sample after the other in a fixed shape{_mixer(t)}: remove it "
                "from the outputs, or give a loss model"
            )
        start, stop = stop, stop + (width(t, name) if rows is None else rows * prod(map(_size, dims[1:])))
        v = t.op("Slice", source, t.ints(start), t.ints(stop), t.ints(1))
        seeds[name] = t.op("CastLike", samples_back(t, v, name) if rows is None else t.reshape_like(v, name), name)
    return Loss("gauss-newton", seeds, source, width=stop)


def _out_of_reach(t: Tape) -> GradientError:
    """The error for a model without an output to differentiate."""
    chosen = [op for op in ends_of(t.model.graph).values() if op in ("ArgMax", "ArgMin", "TopK", "Greater")]
    ends = f"the model ends in {chosen[0]}: export it without, so that scores are outputs, or " if chosen else ""
    return GradientError("no floating-point output depends on a weight", ends + INSTEAD)


def _mixer(t: Tape) -> str:
    """Which node is the first to put other samples into a row, in words."""
    rows, dims = t.traced.rows, t.traced.dims
    for node in t.model.graph.node:
        name = node.output[0]
        if name not in rows and None in dims.get(name, ()) and any(read in rows for read in node.input):
            through = [read for read in node.input if read and read not in rows and read not in t.traced.values]
            by = f" through '{through[0]}'" if through else ""
            return f" ({node.op_type} node '{node.name or name}' mixes samples{by})"
    return ""


def _new_input(t: Tape, name: str, element: int, extra: int = 0) -> str:
    """A graph input [N], or [N, any]."""
    batch = t.model.graph.input[0].type.tensor_type.shape.dim[0]
    shape = [batch.dim_value or "hqp_batch", *[None] * extra]
    t.model.graph.input.append(onnx.helper.make_tensor_value_info(t.prefix + name, element, shape))
    return t.prefix + name


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
