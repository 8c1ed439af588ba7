"""Saliency that knows about compensation: how much the loss grows without a unit *after* the refit of what read it.

A reader computes y = W x of features with second moments S (covariance, where it takes a bias). Without the features R
of a unit, and refitted (``passes.compensate``), the squared error of its output o and with it the loss grow by

    e_o = w_oR (P_RR)^-1 w_oR^T,   P = (S + lambda I)^-1;        dL = 1/2 sum_o G_o e_o,   G_o = E ||dL/dy_o||^2,

the Schur complement of Optimal Brain Surgeon (Hassibi and Stork 1993), for all outputs of a layer at once, and the
diagonal of the outputs' Fisher or Gauss-Newton matrix. A unit costs what all of its readers suffer. Units are
removed one by one, least cost first, and after each

    W <- W - W_R (P_RR)^-1 P_R,   P <- P - P_R^T (P_RR)^-1 P_R,   G_o <- 0 where o belongs to the unit:

a channel that took over the work of another is worth more from then on (of twins, only the first is free), and errors
in what is no longer computed are free. A dimension of queries, which no weight reads, costs what its zeros would,
1/2 G_f E[y_f^2]: heads are turned (``passes.turn_heads``), so the others cannot do its work. The last units of a branch
are removed together: with R all features that its readers still have, all that remains of their outputs is the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.graphs.nonfinite_weights import is_finite
from hqp_onnx.ranking.least_squares import RIDGE
from hqp_onnx.ranking.order import Floors
from hqp_onnx.statistics.moments import Contraction, Moments, reading_weights, takes_bias
from hqp_onnx.statistics.ridge import inverse, ridge_strength, solve

_SPARSE = 0.75  # readers are made smaller once no more than that share of their channels remains


def removal_costs(
    graph: gs.Graph,
    channels: ChannelMap,
    moments: Mapping[str, Moments],
    sensitivities: Mapping[str, FloatArray],
    *,
    ridges: Mapping[str, float] | None = None,
    min_width: float = 0.0,
    gains: FloatArray | None = None,
) -> FloatArray:
    """How much the loss has grown once each unit is removed: ascending in the order in which to remove them.

    Args:
        graph: canonical.
        channels: its units.
        moments: of the inputs of its weights; a reader without moments is not counted.
        sensitivities: weight -> G, float64 [outputs].
        ridges: weight -> lambda of its refit (``least_squares.held_out_ridges``); others take ``RIDGE``. Too small a
            lambda makes what few samples cannot tell apart look redundant.
        min_width: see ``Floors``: units that must stay are passed over; the last of a branch are removed as one.
        gains: of a unit's removal, float64 [units], above 0; the least cost per gain goes first. None for 1.

    Returns:
        float64 [units], distinct where finite; +inf for units that stay, and where no reader is known.
    """
    readers = _readers(graph, channels, moments, sensitivities, ridges or {})
    costs = _Costs(readers, _inside_heads(graph, channels, moments, sensitivities))
    for name, use in reading_weights(graph).items():
        labels = channels.members.get(ParamAxis(name, use.axis))
        if labels is not None and not is_finite(graph.tensors()[name]):
            costs.known[labels[labels >= 0]] = False
    rate = np.ones(channels.units) if gains is None else gains
    waiting = np.zeros(channels.units, bool)
    waiting[channels.prunable] = costs.known[channels.prunable]
    floors, ends = Floors(channels, min_width), _Ends(costs, rate)
    result, total = np.full(channels.units, np.inf), 0.0
    while waiting.any() or ends.waiting:
        unit = int(np.argmin(np.where(waiting, costs.units / rate, np.inf)))
        least = costs.units[unit] / rate[unit] if waiting[unit] else np.inf
        removed = ends.pop(least)
        if not removed:
            waiting[unit] = False
            branch = channels.branch_of[unit]
            if floors.take(unit):
                removed = [unit]
            elif branch >= 0:  # it is at its least width
                rest = [one for one in channels.branches[branch].tolist() if waiting[one] or one == unit]
                waiting[rest] = False
                ends.add(rest)
        for one in removed:
            total = max(total + float(costs.units[one]), float(np.nextafter(total, np.inf)))
            result[one] = total
            ends.touch(costs.remove(one))
    return result


def _readers(
    graph: gs.Graph,
    channels: ChannelMap,
    moments: Mapping[str, Moments],
    sensitivities: Mapping[str, FloatArray],
    ridges: Mapping[str, float],
) -> list[_Reader]:
    """The weights that read units; those that read the same features, refitted in the same way, are one reader."""
    tensors = graph.tensors()
    alike: dict[tuple[int, bool, bytes], list[Contraction]] = {}
    for name, use in reading_weights(graph).items():
        labels = channels.members.get(ParamAxis(name, use.axis))
        if labels is not None and name in moments and name in sensitivities and is_finite(tensors[name]):
            key = id(moments[name]), _biased(tensors[name], moments[name], use), labels.tobytes()
            alike.setdefault(key, []).append(use)
    readers = []
    for (_, biased, _), uses in alike.items():
        labels = channels.members[ParamAxis(uses[0].weight, uses[0].axis)]
        rows = [_rows(tensors[use.weight].values, use, moments[use.weight], channels, sensitivities) for use in uses]
        weight, outputs, sensitivity = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        ridge = max(ridges.get(use.weight, RIDGE) for use in uses)
        damped = _inverse(moments[uses[0].weight], biased, ridge)
        readers.append(_Reader(labels, outputs, weight, sensitivity, damped, len(damped) // len(labels)))
    return readers


def _inside_heads(
    graph: gs.Graph, channels: ChannelMap, moments: Mapping[str, Moments], sensitivities: Mapping[str, FloatArray]
) -> FloatArray:
    """1/2 sum_f G_f E[y_f^2] of the queries y that a unit holds, which no weight reads, [units]; NaN for others."""
    costs, tensors = np.full(channels.units, np.nan), graph.tensors()
    for product in (p for p in channels.products if not p.reads):
        query = product.left
        if query.weight not in moments or query.weight not in sensitivities or not is_finite(tensors[query.weight]):
            continue
        known, index = moments[query.weight], query.index.ravel()
        weight = np.moveaxis(tensors[query.weight].values, query.axis, 1).astype(np.float64)[:, index]
        bias = tensors[query.bias].values[index] if query.bias else np.zeros(len(index))
        square = np.sum((known.gram @ weight) * weight, 0) + 2 * bias * (known.mean @ weight) + bias**2
        units = channels.members[ParamAxis(query.weight, query.axis)][index]
        costs[units] = np.nan_to_num(costs[units])
        np.add.at(costs, units, sensitivities[query.weight][index] * np.maximum(square, 0) / 2)
    return costs


def _biased(weight: gs.Constant, moments: Moments, use: Contraction) -> bool:
    """Whether the refit moves a bias too: not where one mixing of channels serves several taps."""
    return takes_bias(weight) and len(moments.mean) * weight.shape[1 - use.axis] == weight.values.size


def _rows(
    values: FloatArray,
    use: Contraction,
    moments: Moments,
    channels: ChannelMap,
    sensitivities: Mapping[str, FloatArray],
) -> tuple[FloatArray, IntArray, FloatArray]:
    """A weight as rows over its features, with the unit (-1 for none) and the sensitivity of each row's output."""
    weight = np.moveaxis(values, use.axis, 1).astype(np.float64)
    outputs = len(weight)
    if len(moments.mean) != weight[0].size:  # one mixing of channels for all taps: each tap is a row
        weight = np.moveaxis(weight, 1, -1)
    rows = weight.reshape(-1, len(moments.mean))
    units = channels.members.get(ParamAxis(use.weight, use.outputs), np.full(values.shape[use.outputs], -1))
    if use.axis == 2:  # rows of both directions: each has its share of what both weigh
        return rows, np.tile(units, outputs), np.tile(sensitivities[use.weight] / outputs, outputs)
    times = len(rows) // outputs
    return rows, np.repeat(units, times), np.repeat(sensitivities[use.weight], times)


def _inverse(moments: Moments, biased: bool, ridge: float) -> FloatArray:
    second = moments.gram - np.outer(moments.mean, moments.mean) * biased
    strength = ridge_strength(second, moments.gram, ridge)
    return inverse(second + strength * np.eye(len(second)))


@dataclass
class _Reader:
    """Weights [rows, channels x taps] that read the same features.

    Attributes:
        units: of each channel, -1 for none.
        outputs: unit of each row, -1 for none.
        weight: as refitted for the channels that remain.
        sensitivity: G of each row.
        inverse: P.
        taps: features per channel.
    """

    units: IntArray
    outputs: IntArray
    weight: FloatArray
    sensitivity: FloatArray
    inverse: FloatArray
    taps: int

    def __post_init__(self) -> None:
        self._stays = np.ones(len(self.units), bool)

    def costs(self) -> FloatArray:
        """The cost of each remaining channel, [channels]; 0 for the others."""
        count = len(self.units)
        costs = np.zeros(count)
        if not self._stays.any():
            return costs
        own = self.inverse.reshape(count, self.taps, count, self.taps)[np.arange(count), :, np.arange(count), :]
        scaled = self.weight * np.sqrt(self.sensitivity / 2)[:, None]
        rows = scaled.reshape(-1, count, self.taps)[:, self._stays].transpose(1, 0, 2)
        costs[self._stays] = np.einsum("crt,crt->c", rows @ inverse(own[self._stays]), rows)
        return costs

    def cost_of(self, units: list[int]) -> float:
        """The cost of the remaining channels of ``units``, removed as one."""
        features = np.flatnonzero(np.repeat(np.isin(self.units, units) & self._stays, self.taps))
        rows = self.weight[:, features] * np.sqrt(self.sensitivity / 2)[:, None]
        return float(np.sum(solve(self.inverse[np.ix_(features, features)], rows.T) * rows.T))

    def remove(self, unit: int) -> None:
        """Remove the unit's channels and outputs."""
        self.sensitivity[self.outputs == unit] = 0
        gone = (self.units == unit) & self._stays
        if not gone.any():
            return
        self._stays &= ~gone
        features = np.flatnonzero(np.repeat(gone, self.taps))
        share = solve(self.inverse[np.ix_(features, features)], self.inverse[features])
        self.weight -= self.weight[:, features] @ share
        self.inverse -= self.inverse[:, features] @ share
        if self._stays.sum() < _SPARSE * len(self._stays):
            self._shrink()

    def _shrink(self) -> None:
        """Forget the removed channels, and the outputs that nothing computes any longer."""
        features, rows = np.repeat(self._stays, self.taps), self.sensitivity > 0
        self.units, self.outputs = self.units[self._stays], self.outputs[rows]
        self.weight, self.sensitivity = self.weight[np.ix_(rows, features)], self.sensitivity[rows]
        self.inverse = self.inverse[np.ix_(features, features)]
        self._stays = self._stays[self._stays]


@dataclass
class _End:
    """A branch at its least width: the units to be removed as one, and their cost per gain, NaN if not known."""

    units: list[int]
    readers: set[int]
    gain: float
    price: float = math.nan


class _Ends:
    """Branches at their least width."""

    def __init__(self, costs: _Costs, rate: FloatArray) -> None:
        self._costs, self._rate = costs, rate
        self.waiting: list[_End] = []

    def add(self, units: list[int]) -> None:
        self.waiting.append(_End(units, self._costs.readers(units), float(self._rate[units].sum())))

    def touch(self, readers: list[int]) -> None:
        """Forget the prices of branches that these readers read: the readers have changed."""
        for end in self.waiting:
            if not end.readers.isdisjoint(readers):
                end.price = math.nan

    def pop(self, limit: float) -> list[int]:
        """The units of the cheapest branch, if they cost no more than ``limit`` per gain; else none."""
        for end in self.waiting:
            if math.isnan(end.price):
                end.price = self._costs.together(end.readers, end.units) / end.gain
        best = min(self.waiting, key=lambda end: end.price, default=None)
        if best is None or best.price > limit:
            return []
        self.waiting.remove(best)
        return best.units


class _Costs:
    """The cost of each unit, ``units``, kept up to date; ``known`` are those that a reader sees, or ``unread`` has."""

    def __init__(self, readers: list[_Reader], unread: FloatArray) -> None:
        self._readers = readers
        self._touching: list[list[int]] = [[] for _ in unread]
        self._shares: list[tuple[IntArray, FloatArray]] = []
        self.units, self.known = np.nan_to_num(unread), np.isfinite(unread)
        for number, reader in enumerate(readers):
            for unit in np.union1d(reader.units, reader.outputs).tolist():
                if unit >= 0:
                    self._touching[unit].append(number)
            self.known[reader.units[reader.units >= 0]] = True
            self._shares.append(self._share(reader))
            np.add.at(self.units, *self._shares[-1])

    def remove(self, unit: int) -> list[int]:
        """Remove a unit; the numbers of the readers that this changes."""
        for number in self._touching[unit]:
            labels, before = self._shares[number]
            np.subtract.at(self.units, labels, before)
            self._readers[number].remove(unit)
            self._shares[number] = self._share(self._readers[number])
            np.add.at(self.units, *self._shares[number])
        return self._touching[unit]

    def readers(self, units: list[int]) -> set[int]:
        """The numbers of the readers of any of ``units``."""
        near = {number for unit in units for number in self._touching[unit]}
        return {number for number in near if np.isin(self._readers[number].units, units).any()}

    def together(self, numbers: set[int], units: list[int]) -> float:
        """The cost of ``units`` when they are removed as one."""
        return sum(self._readers[number].cost_of(units) for number in numbers)

    @staticmethod
    def _share(reader: _Reader) -> tuple[IntArray, FloatArray]:
        member = reader.units >= 0
        return reader.units[member], reader.costs()[member]
