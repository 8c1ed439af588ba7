"""Operators that move values without changing them."""

from __future__ import annotations

import numpy as np

from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.litert.emitter import FIRST, LAST, Emitter, to_last
from hqp_onnx.runtimes.litert.rules.elementwise import layout_of
from hqp_onnx.runtimes.litert.rules.registry import Step, rule


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze", int8="same")
def _reshape(e: Emitter, step: Step) -> None:
    e.reshape(e.get(step.inputs[0]), e.put(step.output), e.shape(step.output))


@rule("Transpose", int8="same")
def _transpose(e: Emitter, step: Step) -> None:
    """From the layout that is there, so that two moves are one."""
    name, rank = step.inputs[0], len(e.shape(step.inputs[0]))
    order = list(step.attributes.get("perm", range(rank)[::-1]))
    layout = e.layout(name)
    if layout == LAST:
        order = [to_last(rank).index(axis) for axis in order]
    moved = e.permuted(e.get(name, layout), step.output, e.laid_out(name, layout), order)
    e.name(step.output, moved)


@rule("Concat", int8="values")
def _concat(e: Emitter, step: Step) -> None:
    rank, layout = len(e.shape(step.output)), layout_of(e, step)
    axis = step.attributes["axis"] % rank
    own = e.scales.get(e.origin(step.output))
    numbers = [e.get(name, layout) for name in step.inputs]
    if own is not None:  # integers are joined as they are
        for place, name in enumerate(step.inputs):
            if e.scales[e.origin(name)] != own:
                requantized = e.new(name, e.laid_out(name, layout if rank > 2 else FIRST), own)
                e.file.operator("QUANTIZE", [numbers[place]], [requantized])
                numbers[place] = requantized
    place = axis if layout == FIRST else to_last(rank).index(axis)
    e.file.operator("CONCATENATION", numbers, [e.put(step.output, layout)], "ConcatenationOptions", axis=place)


@rule("Pad", int8="same")
def _pad(e: Emitter, step: Step) -> None:
    if step.attributes.get("mode", b"constant") != b"constant" or step.input(3):
        raise ModelError("other than constants around all axes it has no counterpart")
    if step.attributes.get("value") or (step.input(2) and e.value(step.input(2), "its value").any()):
        raise ModelError("LiteRT pads zeros")
    given = e.value(step.input(1), "its padding") if step.input(1) else step.attributes.get("pads", ())
    pads, layout = np.array(given, np.int32).reshape(2, -1).T, layout_of(e, step, 1)
    if (pads < 0).any():
        raise ModelError("it cuts, and LiteRT's does not")
    pads = pads if layout == FIRST else pads[to_last(len(pads))]
    inputs = [e.get(step.inputs[0], layout), e.file.constant("pads", pads)]
    e.file.operator("PAD", inputs, [e.put(step.output, layout)], "PadOptions")


@rule("Slice", int8="same")
def _slice(e: Emitter, step: Step) -> None:
    name, shape = step.inputs[0], e.shape(step.inputs[0])
    starts, _, axes, steps = (_list(e, step, at) for at in (1, 2, 3, 4))
    if starts is None:
        raise ModelError("expected opset 10 or newer")
    axes = [axis % len(shape) for axis in axes or range(len(starts))]
    strides = [1] * len(shape)
    for axis, stride in zip(axes, steps or [1] * len(axes), strict=True):
        strides[axis] = stride
    if min(strides) < 1:
        raise ModelError("it goes backwards")
    begin = [0] * len(shape)
    for axis, start in zip(axes, starts, strict=True):
        begin[axis] = min(max(start + shape[axis] if start < 0 else start, 0), shape[axis])
    end = [b + (n - 1) * s + 1 for b, n, s in zip(begin, e.shape(step.output), strides, strict=True)]
    layout = layout_of(e, step, 1)
    order = to_last(len(shape)) if layout == LAST else range(len(shape))
    lists = [e.ints([values[axis] for axis in order]) for values in (begin, end, strides)]
    e.file.operator("STRIDED_SLICE", [e.get(name, layout), *lists], [e.put(step.output, layout)], "StridedSliceOptions")


def _list(e: Emitter, step: Step, index: int) -> list[int] | None:
    name = step.input(index)
    if not name:
        return None
    found: list[int] = np.asarray(e.value(name, "where it cuts")).reshape(-1).tolist()
    return found


@rule("Split", int8="same")
def _split(e: Emitter, step: Step) -> None:
    """A slice for each output."""
    name, shape = step.inputs[0], e.shape(step.inputs[0])
    axis, layout = step.attributes.get("axis", 0) % len(shape), layout_of(e, step, 1)
    order = to_last(len(shape)) if layout == LAST else list(range(len(shape)))
    begin = 0
    for output in step.outputs:
        sizes = [e.shape(output)[n] for n in order]
        starts = [begin if n == axis else 0 for n in order]
        inputs = [e.get(name, layout), e.ints(starts), e.ints(sizes)]
        e.file.operator("SLICE", inputs, [e.put(output, layout)], "SliceOptions")
        begin += e.shape(output)[axis]


@rule("Gather")
def _gather(e: Emitter, step: Step) -> None:
    name, indices = step.inputs
    axis = step.attributes.get("axis", 0) % len(e.shape(name))
    if e.is_constant(indices):
        size = e.shape(name)[axis]
        places = e.file.constant("indices", np.asarray(e.facts.values[indices] % size, np.int32))
    elif indices in e.facts.negative:
        raise ModelError("its indices are negative, and LiteRT counts from the start alone")
    else:
        places = e.get(indices)
    e.file.operator("GATHER", [e.get(name), places], [e.put(step.output)], "GatherOptions", axis=axis, batchDims=0)


@rule("Expand")
def _expand(e: Emitter, step: Step) -> None:
    e.file.operator("BROADCAST_TO", [e.get(step.inputs[0]), e.ints(e.shape(step.output))], [e.put(step.output)])
