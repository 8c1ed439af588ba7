"""The tensors of an ONNX model as they come to stand in a .tflite file.

A tensor may stand there in two layouts, FIRST (channels before space, as in ONNX) and LAST (channels at the end, which
the kernels of LiteRT want). It is written in one, by the operator that makes it; the other is made by a TRANSPOSE, or,
where no values change places, a RESHAPE, when something asks for it. In the same way QUANTIZE and DEQUANTIZE stand
only where something reads the other side of a pair: integers that were computed as such are never floats in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.litert.facts import Facts
from hqp_onnx.runtimes.litert.file import File, Scales
from hqp_onnx.runtimes.litert.library import schema
from hqp_onnx.runtimes.litert.pairs import Pairs, Stored

FIRST, LAST = "channels first", "channels last"


def to_last(rank: int) -> list[int]:
    """The permutation from FIRST to LAST."""
    return [0, *range(2, rank), 1] if rank > 2 else list(range(rank))


def to_first(rank: int) -> list[int]:
    """The permutation from LAST to FIRST."""
    return [0, rank - 1, *range(1, rank - 1)] if rank > 2 else list(range(rank))


class Emitter:
    """A file that grows, and what of the model stands in it.

    Args:
        facts: of the model.
        pairs: of the model.
        lookups: whether the chip has tables for activations of int8.
    """

    def __init__(self, facts: Facts, pairs: Pairs, lookups: bool = False) -> None:
        self.facts, self.file, self.lookups = facts, File(), lookups
        self._quantized, self._dequantized = dict(pairs.quantized), dict(pairs.dequantized)
        self._shapes, self.scales, self.stored = dict(facts.shapes), dict(pairs.scales), pairs.stored
        self._forms: dict[tuple[str, str], int] = {}
        self._same: dict[str, str] = {}
        self.positive: set[str] = set()

    def shape(self, name: str) -> tuple[int, ...]:
        """In FIRST."""
        return self._shapes[name]

    def is_constant(self, name: str) -> bool:
        """Whether its value is known."""
        return name in self.facts.values

    def value(self, name: str, what: str) -> Array:
        """A constant; ``ModelError`` where it is none, ``what`` says what it is."""
        if name not in self.facts.values:
            raise ModelError(f"{what} is not constant")
        return self.facts.values[name]

    def alias(self, name: str, of: str) -> None:
        """Let ``name`` be what ``of`` is."""
        self._same[name] = self.origin(of)

    def origin(self, name: str) -> str:
        """What ``name`` is another name of, or itself."""
        return self._same.get(name, name)

    def integers(self, name: str) -> str | None:
        """The integers that ``name`` stands for, where it is their dequantized value."""
        return self._dequantized.get(self.origin(name))

    def weight(self, name: str, data: str, what: str) -> Stored:
        """A weight: its integers where what it multiplies, ``data``, is integers, too."""
        if self.origin(data) in self.scales:
            return self.stored[name]
        return Stored(np.asarray(self.value(name, what), np.float32))

    def has_weight(self, name: str) -> bool:
        """Whether ``weight`` gives one."""
        return name in self.stored or self.is_constant(name)

    def bias(self, name: str, channels: int, weight: Stored, data: str) -> int:
        """The number of a bias of so many channels, zeros where there is none; int32 of the products' scale in INT8."""
        values = np.zeros(channels, np.float32) if not name else np.asarray(self.value(name, "its bias"), np.float32)
        if values.size != 1 and (values.size != channels or values.shape[-1] != channels):
            raise ModelError(f"its bias is {list(values.shape)}: expected one value, or {channels} for the channels")
        values = np.broadcast_to(values.reshape(-1), (channels,))
        if weight.scale is None:
            return self.file.constant(name or "zeros", np.ascontiguousarray(values))
        scale = np.float64(self.scales[self.origin(data)].scale[0]) * weight.scale.astype(np.float64)
        integers = np.rint(values / scale).clip(-(2**31), 2**31 - 1).astype(np.int32)
        return self.file.constant(name or "zeros", integers, Scales(tuple(map(float, scale)), 0, 0))

    def activation(self, name: str) -> int:
        """Of the schema's fused activations."""
        number: int = getattr(schema().ActivationFunctionType, name)
        return number

    def never_negative(self, name: str) -> bool:
        """Whether nothing below 0 can be in a tensor."""
        name = self.origin(name)
        own = self.scales.get(name) or self.scales.get(self.integers(name) or "")
        return own.zero == -128 if own is not None else name in self.positive

    def name(self, name: str, number: int, layout: str = FIRST) -> None:
        """Let tensor ``number`` be ``name``."""
        self._forms[name, layout] = number

    def between(self, name: str, scales: Scales) -> str:
        """The name of integers of ``scales``, to be written in place of the tensor ``name``."""
        own = f"{name}/int8"
        self.scales[own], self._shapes[own] = scales, self.shape(name)
        return own

    def restore(self, name: str, integers: str) -> None:
        """Let ``name`` be what ``integers`` stand for: floats, or integers of other scales."""
        (self._quantized if name in self.scales else self._dequantized)[name] = integers

    def layout(self, *names: str) -> str:
        """LAST if any of these tensors stands in it, and none in FIRST alone with values that would move."""
        return LAST if any((source, LAST) in self._forms for name in names for source in self._sources(name)) else FIRST

    def get(self, name: str, layout: str = FIRST) -> int:
        """The number of a tensor in a layout, which is made if need be."""
        name = self.origin(name)
        if (name, layout) in self._forms:
            return self._forms[name, layout]
        if len(self.shape(name)) < 3 and layout == LAST:
            return self.get(name, FIRST)
        if self.is_constant(name):
            values, own = self.facts.values[name], self.scales.get(name)
            if own is not None and values.dtype == np.uint8:
                values = (values.astype(np.int16) - 128).astype(np.int8)
            values = values if layout == FIRST else values.transpose(to_last(values.ndim))
            number = self.file.constant(name, values, own)
        elif (other := (name, FIRST if layout == LAST else LAST)) in self._forms:
            rank = len(self.shape(name))
            order = to_last(rank) if layout == LAST else to_first(rank)
            number = self.permuted(self._forms[other], name, self.laid_out(name, other[1]), order)
        elif name in self._quantized:
            number = self._converted("QUANTIZE", self._quantized[name], name, layout)
        elif name in self._dequantized:
            number = self._converted("DEQUANTIZE", self._dequantized[name], name, layout)
        else:
            raise ModelError(f"'{name}' is read before it is made")
        return self._forms.setdefault((name, layout), number)

    def put(self, name: str, layout: str = FIRST) -> int:
        """The number of a new tensor, to be written in that layout."""
        layout = FIRST if len(self.shape(name)) < 3 else layout
        shape = self.laid_out(name, layout)
        kind = np.int8 if name in self.scales else self.facts.types[name]
        number = self.file.tensor(name, shape, kind, self.scales.get(name))
        self._forms[name, layout] = number
        return number

    def unsigned(self, name: str, layout: str) -> int:
        """The number of a new tensor of uint8 for the integers ``name``, which are int8 elsewhere."""
        own = self.scales[self.origin(name)]
        return self.file.tensor(name, self.laid_out(name, layout), np.uint8, Scales(own.scale, own.zero + 128))

    def laid_out(self, name: str, layout: str) -> tuple[int, ...]:
        """Its shape in a layout."""
        shape = self.shape(name)
        return shape if layout == FIRST or len(shape) < 3 else tuple(shape[axis] for axis in to_last(len(shape)))

    def permuted(self, number: int, name: str, shape: Sequence[int], order: Sequence[int]) -> int:
        """A new tensor with the axes of tensor ``number``, of that ``shape``, in another order; itself if none moves.

        ``name`` says of which type, and what it is called.
        """
        if list(order) == list(range(len(order))):
            return number
        new = self.new(name, [shape[axis] for axis in order])
        moving = [axis for axis in order if shape[axis] != 1]
        if moving == sorted(moving):
            self.reshape(number, new, [shape[axis] for axis in order])
        else:
            self.file.operator("TRANSPOSE", [number, self.ints(order)], [new], "TransposeOptions")
        return new

    def reshape(self, number: int, new: int, shape: Sequence[int]) -> None:
        """Let tensor ``new`` be tensor ``number`` in another shape."""
        sizes = list(map(int, shape))
        self.file.operator("RESHAPE", [number, self.ints(sizes)], [new], "ReshapeOptions", newShape=sizes)

    def new(self, like: str, shape: Sequence[int], scales: Scales | None = None) -> int:
        """The number of a tensor in between, of the type and scales of ``like``."""
        like = self.origin(like)
        own = scales or self.scales.get(like)
        return self.file.tensor(f"{like}/form", shape, np.int8 if own else self.facts.types[like], own)

    def ints(self, values: Sequence[int]) -> int:
        """The number of a constant list."""
        return self.file.constant("sizes", np.asarray(values, np.int32))

    def floats(self, values: Any) -> int:
        """The number of a constant of floats."""
        return self.file.constant("number", np.asarray(values, np.float32))

    def _sources(self, name: str) -> list[str]:
        """``name`` and what it is the integers, or the floats, of."""
        found = [self.origin(name)]
        for table in (self._dequantized, self._quantized):
            if found[-1] in table:
                found.append(self.origin(table[found[-1]]))
        return found

    def _converted(self, kind: str, source: str, name: str, layout: str) -> int:
        """A tensor on the other side of a pair, in the layout that its source stands in if it stands in one alone."""
        source = self.origin(source)
        standing = [one for one in (FIRST, LAST) if (source, one) in self._forms]
        own = layout if layout in standing or not standing else standing[0]
        number = self.get(source, own)
        self.file.operator(kind, [number], [self.put(name, own)])
        return self.get(name, layout)
