"""Products of matrices: FULLY_CONNECTED by a constant, BATCH_MATMUL otherwise."""

from __future__ import annotations

import numpy as np

from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.litert.emitter import Emitter
from hqp_onnx.runtimes.litert.rules.registry import Step, rule


@rule("Gemm", int8="weighted", fuses=True)
def _gemm(e: Emitter, step: Step) -> None:
    given = step.attributes
    if given.get("transA", 0) or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        raise ModelError("transA, alpha and beta have no counterpart")
    _fully_connected(e, step, step.input(2), transposed=bool(given.get("transB", 0)))


@rule("MatMul", int8="weighted", fuses=True, adds=True)
def _matmul(e: Emitter, step: Step) -> None:
    left, right = step.inputs
    if min(len(e.shape(left)), len(e.shape(right))) < 2:
        raise ModelError("a vector is one of its operands, and LiteRT multiplies matrices")
    if len(e.facts.shapes[right]) == 2 and e.has_weight(right):
        _fully_connected(e, step, step.bias, transposed=False)
        return
    if step.bias or step.activation != "NONE":
        raise ModelError("a product of two activations has no bias")
    inputs = [e.get(left), e.get(right)]
    e.file.operator("BATCH_MATMUL", inputs, [e.put(step.output)], "BatchMatMulOptions")


def _fully_connected(e: Emitter, step: Step, bias: str, transposed: bool) -> None:
    stored = e.weight(step.inputs[1], step.inputs[0], "its weight")
    values = stored.values if transposed else stored.values.T
    weight = e.file.constant(step.inputs[1], values, stored.along(0))
    inputs = [e.get(step.inputs[0]), weight, e.bias(bias, len(values), stored, step.inputs[0])]
    e.file.operator(
        "FULLY_CONNECTED",
        inputs,
        [e.put(step.output)],
        "FullyConnectedOptions",
        keepNumDims=len(e.shape(step.output)) > 2,
        fusedActivationFunction=e.activation(step.activation),
    )


@rule("LayerNormalization")
def _layer_normalization(e: Emitter, step: Step) -> None:
    """Written out: (x - mean) rsqrt(variance + epsilon) scale + shift, over the last axis."""
    shape = e.shape(step.output)
    if step.attributes.get("axis", -1) not in (-1, len(shape) - 1) or len([o for o in step.outputs if o]) > 1:
        raise ModelError("LiteRT normalizes over the last axis here, with one output")
    last, row = e.ints([len(shape) - 1]), (*shape[:-1], 1)

    def made(kind: str, inputs: list[int], sizes: tuple[int, ...], options: str = "", **chosen: object) -> int:
        out = e.new(step.output, sizes)
        e.file.operator(kind, inputs, [out], options, **chosen)
        return out

    x = e.get(step.inputs[0])
    mean = made("MEAN", [x, last], row, "ReducerOptions", keepDims=True)
    centred = made("SUB", [x, mean], shape, "SubOptions")
    squares = made("MUL", [centred, centred], shape, "MulOptions")
    variance = made("MEAN", [squares, last], row, "ReducerOptions", keepDims=True)
    raised = made("ADD", [variance, e.floats(step.attributes.get("epsilon", 1e-5))], row, "AddOptions")
    normal = made("MUL", [centred, made("RSQRT", [raised], row)], shape, "MulOptions")
    scale = e.floats(np.asarray(e.value(step.inputs[1], "its scale")))
    if not step.input(2):
        e.file.operator("MUL", [normal, scale], [e.put(step.output)], "MulOptions")
        return
    scaled = made("MUL", [normal, scale], shape, "MulOptions")
    shift = e.floats(np.asarray(e.value(step.inputs[2], "its bias")))
    e.file.operator("ADD", [scaled, shift], [e.put(step.output)], "AddOptions")
