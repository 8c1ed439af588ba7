"""Data for the rest of a model whose first part stays as it is: what that part gave is kept, and fed in its place.

A weight that is fitted to what the weights before it make of the data needs all of these to be run, and so does the
next: in a chain, the cost grows with the square of the depth. Here each part of the model is run once. Runs are kept as
they were, with every tensor that crosses from the first part to the rest, so no tensor needs an axis of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeAlias

import numpy as np
import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.shards import Held, Numbered, Part, shards, shared_out, summed
from hqp_onnx.graphs.nodes import reads
from hqp_onnx.runtimes.session import Session, work_session
from hqp_onnx.statistics.feature_sums import WORKSPACE, needed, run_of
from hqp_onnx.statistics.summing import Features

ROOM = 1 << 30
"""Bytes of tensors that are kept, from one depth to the next; where more would be, more is computed again."""

Tensors: TypeAlias = Mapping[str, Array]


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
        names = tuple(sorted(crossing - fed))
        work = _Passing(
            needed(_copy(rest), [*names, *(each.beside for each in features)]),
            names,
            tuple(sorted(crossing & fed)),
            tuple(features),
            ROOM - self.size,
            int(bool(self.inputs)),
        )
        parts = shards(self.batches)
        if shared_out(parts) and not work.rows:
            work = replace(work, rows=_affordable(rest, features, next(iter(self.batches)), threads))
        starts, kept, size = list[int](), list[Tensors](), 0
        for start, given in summed(work, self.batches, parts, threads):
            if not all(isinstance(values, np.ndarray) for values in given.values()):
                return self  # a sequence, say
            size += _bytes(given)
            if size > work.room:
                return self
            starts.append(start)
            kept.append(given)
        if not kept:
            return self
        inputs = tuple(_input(name, [given[name] for given in kept]) for name in sorted(crossing))
        held = Held([Batch(given, shared=frozenset(given)) for given in kept], _parts(starts, parts))
        return Carried(held, inputs, self.known | set(settled), size)


@dataclass(frozen=True, eq=False)
class _Passing:
    """``shards.Summing``: where the batch begins, and what crosses to the rest, for each run.

    Attributes:
        model: what gives it.
        names: of what it gives.
        fed: names of what it is fed and does not change.
        features: see ``Carried.past``.
        room: bytes, beyond which a shard need not go on.
        rows: samples of a run, where the model fixes no number; 0 where the first batch is still to come.
    """

    model: onnx.ModelProto
    names: tuple[str, ...]
    fed: tuple[str, ...]
    features: tuple[Features, ...]
    room: int
    rows: int

    def opened(self, threads: int) -> Callable[[Iterable[Numbered]], Iterator[tuple[int, Tensors]]]:
        session = _session(self.model, self.names, threads)
        fixed = session.batch or 0
        rows = fixed or self.rows

        def run(batches: Iterable[Numbered]) -> Iterator[tuple[int, Tensors]]:
            nonlocal rows
            size = 0
            for start, batch in batches:
                rows = rows or _affordable(self.model, self.features, batch, threads)
                for first in range(0, len(batch), rows):
                    feeds = run_of(batch, first, rows, fixed)
                    given = {name: feeds[name] for name in self.fed} | session.run(feeds)
                    yield start, given
                    size += _bytes(given)
                    if size > self.room:
                        return

        return run


def _bytes(given: Tensors) -> int:
    return sum(values.nbytes for values in given.values() if isinstance(values, np.ndarray))


def _parts(starts: Sequence[int], parts: Sequence[Part]) -> list[Part]:
    """Numbers of runs, in the shards that they come from, by the ``starts`` of their batches."""
    shard = {each.start: number for number, part in enumerate(parts) for each in part}
    runs = groupby(range(len(starts)), lambda run: shard.get(starts[run], 0))
    return [[range(run, run + 1) for run in of_shard] for _, of_shard in runs]


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    part = onnx.ModelProto()
    part.CopyFrom(model)
    return part


def _session(model: onnx.ModelProto, names: Iterable[str], threads: int) -> Session:
    return work_session(needed(_copy(model), sorted(names)), sorted(names), threads)


def _crossing(model: onnx.ModelProto, settled: Collection[str], wanted: Collection[str]) -> set[str]:
    """Inputs of ``model`` and ``settled`` tensors that are ``wanted``, or read by nodes that are needed for these."""
    depended, crossing = set(wanted), set(wanted)
    for node in reversed(model.graph.node):
        if not depended.isdisjoint(node.output):
            depended.update(reads(node))
            if not any(name in settled for name in node.output):
                crossing.update(reads(node))
    return crossing & {*settled, *(value.name for value in model.graph.input)}


def _affordable(model: onnx.ModelProto, features: Sequence[Features], batch: Batch, threads: int) -> int:
    """Samples whose features fit the workspace, given some; or those that the model fixes."""
    session = _session(model, {each.beside for each in features}, threads)
    tried = session.batch or 1
    sizes = session.run(run_of(batch, 0, tried, tried))
    floats = max(each.size * sizes[each.beside].size // each.beside_channels for each in features)
    return session.batch or max(1, WORKSPACE // (4 * floats))


def _input(name: str, values: Sequence[Array]) -> onnx.ValueInfoProto:
    """An input that takes these ``values``."""
    sizes = [{*sizes} for sizes in zip(*(x.shape for x in values), strict=True)]
    shape = [sizes.pop() if len(sizes) == 1 and axis else None for axis, sizes in enumerate(sizes)]
    kind = onnx.helper.np_dtype_to_tensor_dtype(values[0].dtype)
    return onnx.helper.make_tensor_value_info(name, kind, shape)
