"""Data for the rest of a model whose first part stays as it is: what that part gave is kept, and fed in its place.

A weight that is fitted to what the weights before it make of the data needs all of these to be run, and so does the
next: in a chain, the cost grows with the square of the depth. Here each part of the model is run once. Runs are kept as
they were, with every tensor that crosses from the first part to the rest, so no tensor needs an axis of samples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.data.batch import Batch
from hqp_onnx.graphs.nodes import reads
from hqp_onnx.runtimes.session import Session, work_session
from hqp_onnx.statistics.feature_sums import WORKSPACE, needed, run_of
from hqp_onnx.statistics.summing import Features

ROOM = 1 << 30
"""Bytes of tensors that are kept, from one depth to the next; where more would be, more is computed again."""


@dataclass(frozen=True)
class Carried:
    """What a model is fed.

    Attributes:
        batches: of the model's inputs, or what crosses to the rest, one run each.
        inputs: of the rest; none where all of the model is computed.
        known: outputs of nodes that are not computed any more.
        size: bytes of what is kept.
    """

    batches: Iterable[Batch]
    inputs: tuple[onnx.ValueInfoProto, ...] = ()
    known: frozenset[str] = frozenset()
    size: int = 0

    def rest(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """``model``, in place, without what is known."""
        if self.inputs:
            nodes = [node for node in model.graph.node if self.known.isdisjoint(node.output)]
            del model.graph.node[:], model.graph.input[:], model.graph.value_info[:]
            model.graph.node.extend(nodes)
            model.graph.input.extend(self.inputs)
        return model

    def past(
        self, rest: onnx.ModelProto, settled: Collection[str], features: Sequence[Features], threads: int
    ) -> Carried:
        """What the nodes that give ``settled`` tensors leave for the others; the same where that is too much.

        Args:
            rest: of the model, see there.
            settled: outputs of nodes that need not be computed again, all of each, and of all that these read.
            features: what the model will be asked for, each beside outputs of the node that reads it.
            threads: of onnxruntime; 0 lets it choose.
        """
        crossing = _crossing(rest, settled, {name for each in features for name in (each.tensor, each.beside)})
        fed = {value.name for value in rest.graph.input}
        if crossing <= fed:
            return self
        session = _session(rest, crossing - fed, threads)
        kept: list[dict[str, Array]] = []
        size = 0
        for feeds in self._runs(rest, features, session.batch, threads):
            given = {name: feeds[name] for name in crossing & fed} | session.run(feeds)
            if not all(isinstance(values, np.ndarray) for values in given.values()):
                return self  # a sequence, say
            size += sum(values.nbytes for values in given.values())
            if self.size + size > ROOM:
                return self
            kept.append(given)
        if not kept:
            return self
        inputs = tuple(_input(name, [given[name] for given in kept]) for name in sorted(crossing))
        batches = [Batch(given, shared=frozenset(given)) for given in kept]
        return Carried(batches, inputs, self.known | set(settled), size)

    def _runs(
        self, model: onnx.ModelProto, features: Sequence[Features], fixed: int | None, threads: int
    ) -> Iterator[Mapping[str, Array]]:
        """The feeds of each run: of as many samples as the features leave room for."""
        rows = fixed or 0
        for batch in self.batches:
            rows = rows or (1 if self.inputs else _affordable(model, features, run_of(batch, 0, 1, 1), threads))
            for start in range(0, len(batch), rows):
                yield run_of(batch, start, rows, fixed or 0)


def _session(model: onnx.ModelProto, names: Iterable[str], threads: int) -> Session:
    part = onnx.ModelProto()
    part.CopyFrom(model)
    return work_session(needed(part, sorted(names)), sorted(names), threads)


def _crossing(model: onnx.ModelProto, settled: Collection[str], wanted: Collection[str]) -> set[str]:
    """Inputs of ``model`` and ``settled`` tensors that are ``wanted``, or read by nodes that are needed for these."""
    depended, crossing = set(wanted), set(wanted)
    for node in reversed(model.graph.node):
        if not depended.isdisjoint(node.output):
            depended.update(reads(node))
            if not any(name in settled for name in node.output):
                crossing.update(reads(node))
    return crossing & {*settled, *(value.name for value in model.graph.input)}


def _affordable(model: onnx.ModelProto, features: Sequence[Features], one: Mapping[str, Array], threads: int) -> int:
    """Samples whose features fit the workspace, given the feeds of one."""
    sizes = _session(model, {each.beside for each in features}, threads).run(one)
    floats = max(each.size * sizes[each.beside].size // each.beside_channels for each in features)
    return max(1, WORKSPACE // (4 * floats))


def _input(name: str, values: Sequence[Array]) -> onnx.ValueInfoProto:
    """An input that takes these ``values``."""
    sizes = [{*sizes} for sizes in zip(*(x.shape for x in values), strict=True)]
    shape = [sizes.pop() if len(sizes) == 1 and axis else None for axis, sizes in enumerate(sizes)]
    kind = onnx.helper.np_dtype_to_tensor_dtype(values[0].dtype)
    return onnx.helper.make_tensor_value_info(name, kind, shape)
