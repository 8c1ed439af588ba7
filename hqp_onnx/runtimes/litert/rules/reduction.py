"""Operators over whole axes: means, sums, maxima, softmax."""

from __future__ import annotations

from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.litert.emitter import FIRST, LAST, Emitter, to_last
from hqp_onnx.runtimes.litert.rules.registry import Step, rule

_REDUCERS = {"ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN"}


@rule("ReduceMean", int8="values")
@rule("ReduceSum", "ReduceMax", "ReduceMin")
def _reduce(e: Emitter, step: Step) -> None:
    name, keep = step.inputs[0], bool(step.attributes.get("keepdims", 1))
    rank, axes = len(e.shape(name)), step.attributes.get("axes")
    if step.input(1):
        axes = e.value(step.input(1), "the list of its axes").tolist()
    chosen = sorted(axis % rank for axis in (axes or range(rank)))
    moves = not keep and 1 not in chosen and any(axis not in chosen for axis in range(2, rank))
    layout = FIRST if moves else e.layout(name)
    places = chosen if layout == FIRST else [to_last(rank).index(axis) for axis in chosen]
    out = e.put(step.output, layout if keep else FIRST)
    e.file.operator(_REDUCERS[step.op], [e.get(name, layout), e.ints(places)], [out], "ReducerOptions", keepDims=keep)


@rule("Softmax", "LogSoftmax")
def _softmax(e: Emitter, step: Step) -> None:
    name, rank = step.inputs[0], len(e.shape(step.inputs[0]))
    axis = step.attributes.get("axis", -1 if step.opset >= 13 else 1) % rank
    if step.opset < 13 and axis != rank - 1:
        raise ModelError("over several axes at once it has no counterpart")
    if axis not in (1, rank - 1):
        raise ModelError("LiteRT takes it over the last axis alone")
    layout = FIRST if axis == rank - 1 else LAST
    kind, options, chosen = ("SOFTMAX", "SoftmaxOptions", {"beta": 1.0})
    if step.op == "LogSoftmax":
        kind, options, chosen = "LOG_SOFTMAX", "LogSoftmaxOptions", {}
    e.file.operator(kind, [e.get(name, layout)], [e.put(step.output, layout)], options, **chosen)
