"""A .tflite file as it is put together: tensors, their buffers, operators.

A tensor of integers stands for real numbers, ``scale * (q - zero)``, with one scale, or one for each index of an axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.litert.library import flatbuffers, schema

_SCHEMA_VERSION = 3
_IDENTIFIER = b"TFL3"
_TYPES = {
    "float32": "FLOAT32",
    "float16": "FLOAT16",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
    "uint8": "UINT8",
}
_LEAST_VERSIONS = {"BROADCAST_TO": 2, "TRANSPOSE_CONV": 3}
# The first version of an operator that takes int8; all others are written as version 1.
_INT8_VERSIONS = {
    "AVERAGE_POOL_2D": 2, "ADD": 2, "CONCATENATION": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "DEQUANTIZE": 2,
    "FULLY_CONNECTED": 4, "GATHER": 2, "LOGISTIC": 2, "MAXIMUM": 2, "MAX_POOL_2D": 2, "MEAN": 2, "MINIMUM": 2, "MUL": 2,
    "PAD": 2, "PADV2": 2, "RELU": 2, "RELU6": 2, "RESIZE_BILINEAR": 2, "RESIZE_NEAREST_NEIGHBOR": 2, "SLICE": 2,
    "SPLIT": 2, "STRIDED_SLICE": 2, "SUB": 2, "TANH": 2, "TRANSPOSE": 2, "TRANSPOSE_CONV": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Scales:
    """Of a tensor of integers.

    Attributes:
        scale: one, or one for each index of ``axis``.
        zero: the integer that stands for 0.
        axis: of the scales, if there is more than one.
    """

    scale: tuple[float, ...]
    zero: int = 0
    axis: int = 0


class File:
    """The file; ``tensor``, ``constant`` and ``operator`` add to it, ``content`` is its bytes."""

    def __init__(self) -> None:
        self._s = schema()
        self._buffers = [self._s.BufferT()]  # the first is empty, by convention
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[str, int], int] = {}
        self._constants: dict[tuple[Any, ...], int] = {}

    def tensor(self, name: str, shape: Sequence[int], dtype: np.dtype[Any] | type, scales: Scales | None = None) -> int:
        """The number of a new tensor; ``ModelError`` for a type that files cannot hold."""
        kind = np.dtype(dtype).name
        if kind not in _TYPES:
            raise ModelError(f"'{name}' is of type {kind}, which no .tflite file takes here")
        tensor = self._s.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(map(int, shape)), 0
        tensor.type, tensor.hasRank = getattr(self._s.TensorType, _TYPES[kind]), True
        if scales is not None:
            quantization = self._s.QuantizationParametersT()
            quantization.scale = np.asarray(scales.scale, np.float32)
            quantization.zeroPoint = np.full(len(scales.scale), scales.zero, np.int64)
            quantization.quantizedDimension = scales.axis
            tensor.quantization = quantization
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(self, name: str, values: Array, scales: Scales | None = None) -> int:
        """The number of a tensor of ``values``; the same values are stored once."""
        values = np.asarray(values, order="C")  # ascontiguousarray makes a single number a list of one
        key = values.tobytes(), values.shape, values.dtype.name, scales
        if key not in self._constants:
            number = self.tensor(name, values.shape, values.dtype, scales)
            buffer = self._s.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            self._buffers.append(buffer)
            self._tensors[number].buffer = len(self._buffers) - 1
            self._constants[key] = number
        return self._constants[key]

    def operator(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", **chosen: Any
    ) -> None:
        """Add an operator.

        Args:
            kind: its name in the schema, as "CONV_2D".
            inputs: numbers of tensors, -1 for one that is left out.
            outputs: numbers of tensors.
            options: the schema's table of its options, as "Conv2DOptions".
            chosen: their values; names of enumerations' values as text.
        """
        int8 = any(self._tensors[n].type == self._s.TensorType.INT8 for n in (*inputs[:1], *outputs))
        least = _LEAST_VERSIONS.get(kind, 1)
        version = _INT8_VERSIONS.get(kind, least) if int8 else least
        operator = self._s.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((kind, version), len(self._codes))
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options:
            table = getattr(self._s, f"{options}T")()
            for name, value in chosen.items():
                setattr(table, name, value)
            operator.builtinOptionsType = getattr(self._s.BuiltinOptions, options)
            operator.builtinOptions = table
        self._operators.append(operator)

    def content(
        self, inputs: Mapping[str, int], outputs: Mapping[str, int], description: str, metadata: Mapping[str, bytes]
    ) -> bytes:
        """The file, with a signature that names its inputs and outputs."""
        s = self._s
        graph = s.SubGraphT()
        graph.tensors, graph.operators, graph.name = self._tensors, self._operators, "main"
        graph.inputs, graph.outputs = list(inputs.values()), list(outputs.values())
        signature = s.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs = [self._named(name, number) for name, number in inputs.items()]
        signature.outputs = [self._named(name, number) for name, number in outputs.items()]
        model = s.ModelT()
        model.version, model.description = _SCHEMA_VERSION, description
        model.operatorCodes = [self._code(kind, version) for kind, version in self._codes]
        model.subgraphs, model.signatureDefs, model.buffers = [graph], [signature], self._buffers
        model.metadata = [self._note(name, content) for name, content in metadata.items()]
        builder = flatbuffers().Builder(1 << 16)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    def _named(self, name: str, number: int) -> Any:
        entry = self._s.TensorMapT()
        entry.name, entry.tensorIndex = name, number
        return entry

    def _code(self, kind: str, version: int) -> Any:
        code = self._s.OperatorCodeT()
        code.builtinCode = getattr(self._s.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
        return code

    def _note(self, name: str, content: bytes) -> Any:
        buffer = self._s.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self._buffers.append(buffer)
        note = self._s.MetadataT()
        note.name, note.buffer = name, len(self._buffers) - 1
        return note
