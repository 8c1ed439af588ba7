"""Mean, power and largest magnitude of each channel of activations, streamed.

    mean_c = E[x_c],   power_c = E[x_c^2],   top_c = max |x_c|        over samples and positions

Nodes appended to the model reduce every tensor to one value per sample and channel, so activations are never
copied out or kept. Sums over positions are float32, over samples float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx.helper import make_node

from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.shards import Numbered, summed
from hqp_onnx.errors import DataError
from hqp_onnx.graphs.nodes import opset
from hqp_onnx.graphs.unique_names import tensor_names, unused_prefix
from hqp_onnx.runtimes.session import Session, work_session

_AXES_ARE_INPUT = 18  # opset from which ReduceMean and ReduceMax take their axes as an input
_PARTS = ("mean", "power", "top")


_INPUTS = 1 << 22  # bytes of inputs in one run; larger batches are run in parts


@dataclass(frozen=True, eq=False)
class ChannelStats:
    """``mean``, ``power`` and ``top`` of C channels: float64 [C] each."""

    mean: FloatArray
    power: FloatArray
    top: FloatArray

    @property
    def is_finite(self) -> bool:
        """Whether all are: not, if an activation is NaN, infinite or beyond what float32 can square."""
        return bool(np.isfinite([self.mean, self.power, self.top]).all())


def channel_stats(
    model: onnx.ModelProto, tensors: Mapping[str, int], data: Iterable[Batch], *, threads: int = 0
) -> dict[str, ChannelStats]:
    """Statistics by tensor name, in one pass over ``data``.

    Args:
        model: canonical, opset 13 or newer.
        tensors: activation, samples first -> the number of its channels where they are the last axis; 0 where they
            are axis 1.
        data: batches of the model's inputs.
        threads: of onnxruntime; 0 lets it choose.

    Raises:
        DataError: no batch.
        ModelError: onnxruntime cannot run the model.
    """
    if not tensors:
        return {}
    totals = [_Total() for _ in tensors]
    for sums in summed(_Measuring(model, dict(tensors)), data, threads=threads):
        for total, each in zip(totals, sums, strict=True):
            total.add(*each)
    if not totals[0].rows:
        raise DataError("no calibration data: channel statistics need at least one batch")
    return {name: total.stats() for name, total in zip(tensors, totals, strict=True)}


_Sums = tuple[int, FloatArray, FloatArray, Array]
"""Samples, and sums of means and powers and the largest tops over them, [channels] each."""


@dataclass(frozen=True, eq=False)
class _Measuring:
    """``Summing``: the sums of each tensor, run by run."""

    model: onnx.ModelProto
    tensors: Mapping[str, int]

    def opened(self, threads: int) -> Callable[[Iterable[Numbered]], Iterator[list[_Sums]]]:
        prefix = unused_prefix("hqp.stats.", tensor_names(self.model.graph))
        names = _results(len(self.tensors), prefix)
        return partial(_run, work_session(_instrumented(self.model, self.tensors, prefix), names, threads))


def _run(session: Session, batches: Iterable[Numbered]) -> Iterator[list[_Sums]]:
    for _, batch in batches:
        bytes_each = sum(x.nbytes for x in batch.feeds.values()) / max(1, len(batch))
        rows = session.batch or max(1, int(_INPUTS // max(1, bytes_each)))
        for start in range(0, len(batch), rows):
            values = iter(session.run(batch.part(slice(start, start + rows)).feeds).values())
            yield [
                (len(mean), mean.sum(0, dtype=np.float64), power.sum(0, dtype=np.float64), top.max(0))
                for mean, power, top in zip(values, values, values, strict=True)
            ]


class _Total:
    """Sums over samples."""

    def __init__(self) -> None:
        self.rows = 0
        self.mean = self.power = self.top = np.zeros(1)

    def add(self, rows: int, mean: FloatArray, power: FloatArray, top: Array) -> None:
        """Those of some samples."""
        self.rows += rows
        self.mean = self.mean + mean
        self.power = self.power + power
        self.top = np.maximum(self.top, top)

    def stats(self) -> ChannelStats:
        return ChannelStats(self.mean / self.rows, self.power / self.rows, self.top)


def _results(count: int, prefix: str) -> list[str]:
    return [f"{prefix}{part}.{n}" for n in range(count) for part in _PARTS]


def _instrumented(model: onnx.ModelProto, tensors: Mapping[str, int], prefix: str) -> onnx.ModelProto:
    """``model`` plus nodes that give, for the n-th tensor, its mean, power and top as [samples, channels]."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, constants = copy.graph, dict[tuple[int, ...], str]()

    def constant(*values: int) -> str:
        if values not in constants:
            constants[values] = f"{prefix}constant.{len(constants)}"
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), constants[values]))
        return constants[values]

    for n, (tensor, last) in enumerate(tensors.items()):

        def op(kind: str, part: str, *inputs: str, number: int = n, **attributes: Any) -> str:
            name = f"{prefix}{part}.{number}"
            graph.node.append(make_node(kind, inputs, [name], **attributes))
            return name

        shape = constant(0, 0, -1)
        if last:  # samples, or 1 where there is no other axis, positions, channels
            others = op("Slice", "others", op("Shape", "sizes", tensor), constant(0), constant(-1))
            samples = op(
                "Slice", "samples", op("Concat", "or_one", others, constant(1), axis=0), constant(0), constant(1)
            )
            shape = op("Concat", "shape", samples, constant(-1, last), axis=0)
        axis = 1 if last else 2
        old = opset(model) < _AXES_ARE_INPUT
        axes = () if old else (constant(axis),)
        reducing: dict[str, Any] = {"keepdims": 0} | ({"axes": [axis]} if old else {})
        flat = op("Reshape", "flat", tensor, shape)
        op("ReduceMean", "mean", flat, *axes, **reducing)
        op("ReduceMean", "power", op("Mul", "square", flat, flat), *axes, **reducing)
        op("ReduceMax", "top", op("Abs", "abs", flat), *axes, **reducing)
    return copy
