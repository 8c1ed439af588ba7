"""What a node reads as vectors, its features, and the nodes of a model that sum them and their products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx.helper import make_node

from hqp_onnx.arrays import Float32Array


@dataclass(frozen=True, slots=True)
class Features:
    """The vectors that a node makes of ``tensor``.

    Attributes:
        tensor: the activation.
        channels: of the activation, from ``start`` on, along axis 1 of ``rank``, or the last where ``rank`` is 0.
        rank: see there.
        window: attributes of the Conv that cuts patches; empty if the features are the channels.
        beside: a tensor of the same positions whose channels are features too, after those of ``tensor``; "" if none.
        beside_channels: its channels.
        start: the first channel that is a feature.
        part: whether other channels of ``tensor`` are left out.
    """

    tensor: str
    channels: int
    rank: int
    window: tuple[tuple[str, Any], ...] = ()
    beside: str = ""
    beside_channels: int = 0
    start: int = 0
    part: bool = False

    @property
    def size(self) -> int:
        """All features."""
        return self.channels * self.taps + self.beside_channels

    @property
    def taps(self) -> int:
        """Features per channel."""
        return math.prod(dict(self.window).get("kernel_shape", ()))


class Summing:
    """The nodes that sum the n-th features, and their constants: a matrix [positions, features], or turned.

    Args:
        prefix: of all names.
        number: n.
        features: see ``Features``.
    """

    def __init__(self, prefix: str, number: int, features: Features) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix, self._number, self._features = prefix, number, features
        self._rows = features.rank == 0  # positions first

    def matrix(self, half: bool) -> str:
        """The features as one matrix, ``half`` of them in float16, whose sums would overflow."""
        x, tensors = self._features, (self._features.tensor, self._features.beside)
        source, beside = (self._widened(t, n) if half and t else t for n, t in enumerate(tensors))
        if x.part:
            ends = {"start": x.start, "stop": x.start + x.channels, "along": -1 if self._rows else 1}
            source = self._sliced(source, ends, "block")
        if x.window:
            self.constants.append(_one_hot(x, self._name("taps")))
            source = self._add("Conv", [source, self._name("taps")], "patches", group=x.channels)
            self.nodes[-1].attribute.extend(onnx.helper.make_attribute(key, value) for key, value in x.window)
        own = self._flat(source, x.channels * x.taps, "own")
        if not beside:
            return own
        both = [own, self._flat(beside, x.beside_channels, "beside")]
        return self._add("Concat", both, "flat", axis=int(self._rows))

    def thinned(self, flat: str, step: int | None) -> str:
        """One position of ``step``."""
        if step is None:
            return flat
        last = np.iinfo(np.int64).max
        return self._sliced(flat, {"first": 0, "last": last, "over": int(not self._rows), "step": step}, "thin")

    def centred(self, flat: str, shift: Float32Array | None) -> str:
        """Less ``shift``."""
        if shift is None:
            return flat
        values = shift if self._rows else shift[:, None]
        self.constants.append(onnx.numpy_helper.from_array(values, self._name("shift")))
        return self._add("Sub", [flat, self._name("shift")], "centred")

    def sum(self, flat: str) -> None:
        """Gram, sum and number of positions."""
        rows, axis = int(self._rows), self._constant("axis", [int(not self._rows)])
        self._add("Gemm", [flat, flat], "gram", transA=rows, transB=1 - rows)
        self._add("ReduceSum", [flat, axis], "sum", keepdims=0)
        self._add("Gather", [self._add("Shape", [flat], "shape"), axis], "positions")

    def _widened(self, tensor: str, part: int) -> str:
        return self._add("Cast", [tensor], f"wide.{part}", to=onnx.TensorProto.FLOAT)

    def _flat(self, tensor: str, size: int, part: str) -> str:
        if not self._rows:
            perm = [1, 0, *range(2, self._features.rank)]
            tensor = self._add("Transpose", [tensor], f"{part}.turned", perm=perm)
        shape = self._constant(f"{part}.matrix", [-1, size] if self._rows else [size, -1])
        return self._add("Reshape", [tensor, shape], part)

    def _sliced(self, tensor: str, ends: Mapping[str, int], part: str) -> str:
        return self._add("Slice", [tensor, *(self._constant(name, [value]) for name, value in ends.items())], part)

    def _add(self, op: str, inputs: Sequence[str], part: str, **attributes: Any) -> str:
        self.nodes.append(make_node(op, inputs, [self._name(part)], **attributes))
        return self._name(part)

    def _constant(self, part: str, values: Sequence[int]) -> str:
        self.constants.append(onnx.numpy_helper.from_array(np.array(values, np.int64), self._name(part)))
        return self._name(part)

    def _name(self, part: str) -> str:
        return f"{self._prefix}{part}.{self._number}"


def _one_hot(x: Features, name: str) -> onnx.TensorProto:
    """Depthwise kernels that copy tap t of channel c to output c * taps + t."""
    kernel = dict(x.window)["kernel_shape"]
    taps = np.tile(np.eye(x.taps, dtype=np.float32), (x.channels, 1))
    return onnx.numpy_helper.from_array(taps.reshape(-1, 1, *kernel), name)
