"""What stands in a .tflite file."""

from __future__ import annotations

from collections import Counter

from hqp_onnx.runtimes.litert.library import schema


def operators(content: bytes) -> list[tuple[str, bool]]:
    """Each operator in order, and whether it gives int8."""
    s = schema()
    names = {number: name for name, number in vars(s.BuiltinOperator).items() if isinstance(number, int)}
    model = s.ModelT.InitFromPackedBuf(content)
    graph = model.subgraphs[0]
    return [
        (names[model.operatorCodes[op.opcodeIndex].builtinCode], graph.tensors[op.outputs[0]].type == s.TensorType.INT8)
        for op in graph.operators
    ]


def kinds(content: bytes) -> Counter[tuple[str, bool]]:
    """How many there are of each."""
    return Counter(operators(content))
