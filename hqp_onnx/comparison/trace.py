"""Where two models part: the error that each layer adds by itself.

Let x be the reference's value of a tensor and y the other model's, both cut to the channels that they share. The error
||y - x|| grows from layer to layer, so a large one says little of the layer where it is seen. Therefore every layer of
the reference also runs on the *other* model's inputs: all tensors that both models compute become inputs of the
reference's graph, and one run gives, for every such tensor, r = what the reference makes of y's own inputs.

    own error = ||y - r|| / s                     of the nodes between this tensor and the shared ones before it

Rounding, quantization or damage before a layer is on both sides and cancels. The signal s is the part of r that varies
from sample to sample, s^2 = 1/2 sum_i ||r_i - r_i+1||^2 (the last meets the first), and at least 1 % of ||r||: a bias
that outweighs everything else would hide what a layer does. With one sample in a batch s is ||r||.

Channels that one model lacks keep the reference's values in r. A layer that reads such channels may differ (its weights
may have been refitted to make up for them), but by no more than if nothing had been done; so with p = r where the
lacking channels are zero instead,

    allowed   = tolerance + ||p - r|| / s         (the second term is 0 where no channel is missing)
    divergent = own error > allowed,              the first one in topological order being the one to look at.

One run of the other model and three of the reference give this for all tensors at once, whatever the depth. Bisection
over cuts would need runs in each of its steps, and the errors of tensors are not monotone along the graph, as it
presumes. Batches are cut so that all tensors of a batch fit in ``MEMORY`` bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.comparison.contenders import Contender
from hqp_onnx.comparison.lineage import Lineage, Match
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import ModelError
from hqp_onnx.evaluation.deviation import Deviation
from hqp_onnx.graphs.unique_names import tensor_names, unused_prefix

MEMORY = 1 << 30
_COPIES = 6  # of each tensor that are held at once: the two models', inputs, outputs of two runs, a cut one
_STEADY = 1e-4  # energy of a signal that does not vary, as a share

Values = Mapping[str, Array]
Sizes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TensorError:
    """One tensor's errors; see the module.

    Attributes:
        tensor, op, node: its name, and the reference's node that makes it.
        error, own, allowed: shares of the reference's signal; infinite where a value is not finite.
        channels, of: shared channels, and how many the original has; 0 where none can be removed.
    """

    tensor: str
    op: str
    node: str
    error: float
    own: float
    allowed: float
    channels: int
    of: int

    @property
    def divergent(self) -> bool:
        """Whether its own error is above what is allowed."""
        return self.own > self.allowed


@dataclass(frozen=True)
class Trace:
    """Errors of the shared tensors in topological order, and the names of those whose shapes do not match."""

    tensors: tuple[TensorError, ...]
    unmatched: tuple[str, ...]
    samples: int

    @property
    def first(self) -> TensorError | None:
        """The first divergent tensor."""
        return next((tensor for tensor in self.tensors if tensor.divergent), None)


def trace(
    first: Contender, second: Contender, data: Dataset, lineage: Lineage | None, samples: int, tolerance: float
) -> Trace:
    """How ``second`` departs from ``first``, layer by layer.

    Args:
        first: the reference, an .onnx model.
        second: the other model. Of an engine, only outputs can be read: then they are compared with the whole model.
        data: what to run.
        lineage: where the channels of pruned models come from; None if none is pruned.
        samples: of ``data`` to use, at most.
        tolerance: own error that any layer may have, as a share of its signal.

    Raises:
        ModelError: the models share no floating-point tensor, or one cannot run with inner tensors as outputs.
    """
    if None not in (sizes := {first.session.batch, second.session.batch}) and len(sizes) > 1:
        raise ModelError(f"{first.name} and {second.name} have different fixed batch sizes")
    fixed = first.session.batch or second.session.batch
    pair = _Pair(first, second, lineage, _rows(data, 0, fixed or 1))
    count = min(samples, len(data))
    batch = fixed or max(1, min(count, MEMORY // (_COPIES * pair.bytes)))
    for part in data.first(count).in_batches(batch).ranges:
        pair.add(_rows(data, part.start, fixed or len(part)))
    return Trace(tuple(pair.errors(tolerance)), tuple(pair.unmatched), count)


def _rows(data: Dataset, start: int, count: int) -> dict[str, Array]:
    """``count`` samples from ``start`` on; the last is repeated where there are fewer."""
    batch = data.rows(start, min(start + count, len(data)))
    return dict(batch.part(np.minimum(np.arange(count), len(batch) - 1)).feeds)


class _Pair:
    """Two models, the reference on forced inputs, and the deviations so far.

    Args:
        first, second, lineage: see ``trace``.
        feeds: one batch, as small as may be.
    """

    def __init__(self, first: Contender, second: Contender, lineage: Lineage | None, feeds: Values) -> None:
        theirs = set(second.tensors)
        names = [name for name in first.tensors if name in theirs]
        self._first, self._second = first.reading(names), second.reading(names)
        x, y = self._first.run(feeds), self._second.run(feeds)
        floats = [name for name in names if all(_is_float(values[name]) for values in (x, y))]
        self._matches = _matches(lineage, {name: x[name].shape for name in floats}, {n: y[n].shape for n in floats})
        self._names = [name for name in floats if _same(x[name], y[name], self._matches.get(name))]
        if not self._names:
            raise ModelError(f"{first.name} and {second.name} share no floating-point tensor of equal channels")
        self.unmatched = [name for name in floats if name not in set(self._names)]
        self.bytes = sum(x[name].nbytes for name in self._names) // len(next(iter(feeds.values()))) + 1
        read = {name for node in first.proto.graph.node for name in node.input}
        self._given = [name for name in self._names if name in read]
        self._lacking = any(match is not None and match.lacking for match in map(self._matches.get, self._given))
        self._prefix = unused_prefix("given.", tensor_names(first.proto.graph))
        forced = _forced(first.proto, {name: x[name] for name in self._given}, self._prefix)
        assert first.opener is not None
        self._reference = first.opener(forced, self._names)
        self._nodes = {name: node for node in first.proto.graph.node for name in node.output}
        self._sums = {name: (Deviation(), Deviation(), Deviation()) for name in self._names}
        self._signals = dict.fromkeys(self._names, 0.0)

    def add(self, feeds: Values) -> None:
        """Run both models on ``feeds``, and the reference on what the second made of them."""
        x, y = self._first.run(feeds), self._second.run(feeds)
        r = self._reference.run({**feeds, **self._inputs(x, y, keep=True)})
        p = self._reference.run({**feeds, **self._inputs(x, y, keep=False)}) if self._lacking else r
        for name in self._names:
            match = self._matches.get(name)
            theirs = _take(y[name], match, 1)
            mine, reached, plain = (_take(values[name], match, 0) for values in (x, r, p))
            error, own, cut = self._sums[name]
            error += Deviation.between(mine, theirs)
            own += Deviation.between(reached, theirs)
            if self._lacking:
                cut += Deviation.between(reached, plain)
            self._sums[name] = (error, own, cut)
            self._signals[name] += _signal(reached)

    def _inputs(self, x: Values, y: Values, keep: bool) -> dict[str, Array]:
        """The second model's values for the reference; channels that it lacks keep those of x, or are zero."""
        forced = {}
        for name in self._given:
            match, values = self._matches.get(name), np.array(x[name]) if keep else np.zeros_like(x[name])
            values[_index(match, 0, values.ndim)] = y[name][_index(match, 1, values.ndim)]
            forced[self._prefix + name] = values
        return forced

    def errors(self, tolerance: float) -> Iterator[TensorError]:
        """The tensors in topological order."""
        for name, (error, own, cut) in self._sums.items():
            node, match, signal = self._nodes[name], self._matches.get(name), self._signals[name]
            yield TensorError(
                tensor=name,
                op=node.op_type,
                node=node.name,
                error=error.share(signal),
                own=own.share(signal),
                allowed=tolerance + cut.share(signal),
                channels=0 if match is None else len(match.in_first),
                of=0 if match is None else match.sizes[2],
            )


def _signal(x: Array) -> float:
    """Energy of what varies from sample to sample along axis 0, but at least ``_STEADY`` of the whole."""
    x = x.astype(np.float64)
    whole = float(np.square(x).sum(where=np.isfinite(x)))
    if x.ndim == 0 or len(x) < 2:
        return whole
    with np.errstate(invalid="ignore"):  # infinity less infinity
        steps = x - np.roll(x, 1, axis=0)
    return max(float(np.square(steps).sum(where=np.isfinite(steps))) / 2, _STEADY * whole)


def _is_float(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _matches(lineage: Lineage | None, first: Sizes, second: Sizes) -> dict[str, Match | None]:
    """Which channels of two models' tensors correspond."""
    if lineage is None:
        return {}
    gone = lineage.removal(first), lineage.removal(second)
    return {name: lineage.match(name, *gone) for name in first}


def _same(x: Array, y: Array, match: Match | None) -> bool:
    """Whether two values can be compared."""
    if match is None:
        return x.shape == y.shape
    if (x.shape[match.axis], y.shape[match.axis]) != match.sizes[:2]:
        return False
    return _take(x, match, 0).shape == _take(y, match, 1).shape


def _index(match: Match | None, side: int, rank: int) -> tuple[slice | IntArray, ...]:
    """An index of the shared channels."""
    index: list[slice | IntArray] = [slice(None)] * rank
    if match is not None:
        index[match.axis] = (match.in_first, match.in_second)[side]
    return tuple(index)


def _take(values: Array, match: Match | None, side: int) -> Array:
    """The shared channels of a tensor of one side."""
    return values[_index(match, side, values.ndim)]


def _forced(model: onnx.ModelProto, forced: Values, prefix: str) -> onnx.ModelProto:
    """``model`` whose nodes read the tensors of ``forced`` from inputs of their own, called ``prefix`` and the name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        for index, name in enumerate(node.input):
            if name in forced:
                node.input[index] = prefix + name
    for name, value in forced.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        copy.graph.input.append(onnx.helper.make_tensor_value_info(prefix + name, kind, [None] * value.ndim))
    return copy
