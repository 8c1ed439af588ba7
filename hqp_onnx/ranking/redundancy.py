"""Units that can be removed at no loss: their readers do not see them, see a constant, or a multiple of another unit.

For every weight that reads a unit, with features x over the calibration data, the unit is

    dead        E[x^2] = 0, or the weight multiplies it by zero;
    constant    Var[x] = 0, and the reader has a bias to take it;
    duplicate   x = a x_q of a unit q that stays: E[x x_q]^2 = E[x^2] E[x_q^2], summed over taps.

In each case what the unit gave is folded into the bias or the weights of its twin by the refit (``passes.compensate``).
Zero means a share of 1e-6 of the feature's power: moments are sums of float32 products.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import BoolArray, FloatArray
from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis
from hqp_onnx.graphs.nodes import operator
from hqp_onnx.graphs.recurrent import GATES
from hqp_onnx.graphs.weight_axes import WEIGHTED, weight_axes
from hqp_onnx.statistics.moments import Contraction, Moments, contractions, recurrences, takes_bias

TINY = 1e-6
KINDS = ("dead", "constant", "duplicate")


def redundant_units(
    graph: gs.Graph, channels: ChannelMap, moments: Mapping[str, Moments], scores: FloatArray
) -> dict[int, str]:
    """Prunable units that can all be removed at no loss, with the largest of ``KINDS`` that any reader sees.

    Args:
        graph: canonical.
        channels: its units.
        moments: of the inputs of its weights; units that another weight reads are not redundant.
        scores: float64 [units]; of twins, the one of the higher score stays.
    """
    known = np.zeros(channels.units, bool)
    readers, seen = [], set()
    for name, use in (contractions(graph) | recurrences(graph, 1)).items():
        labels = channels.members.get(ParamAxis(name, use.axis))
        if labels is not None and name in moments:
            readers.append(_Reader(labels, graph.tensors()[name], use, moments[name]))
            known[labels[labels >= 0]] = True
            seen.add(name)
    for key, labels in channels.members.items():
        if key.tensor in graph.tensors() and _reads(graph.tensors()[key.tensor], key) and key.tensor not in seen:
            known[labels[labels >= 0]] = False
    redundant: dict[int, str] = {}
    gone = np.zeros(channels.units + 1, bool)  # the last entry is for label -1
    for unit in channels.prunable[np.argsort(scores[channels.prunable], kind="stable")].tolist():
        kinds = [reader.kind(unit, gone) for reader in readers if unit in reader.units] if known[unit] else [None]
        if None not in kinds:
            redundant[unit] = max((kind for kind in kinds if kind), key=KINDS.index)
            gone[unit] = True
    return redundant


def _reads(weight: gs.Tensor, key: ParamAxis) -> bool:
    """Whether an axis of a parameter is what a Conv, Gemm or MatMul of several channels contracts, or steps do."""
    if key.axis == 2 and any(operator(node) in GATES and weight in node.inputs[1:3] for node in weight.outputs):
        return True
    nodes = [node for node in weight.outputs if operator(node) in WEIGHTED and node.inputs[1] is weight]
    axes = {weight_axes(node, len(weight.shape)).input for node in nodes}
    return key.axis in axes and weight.shape[key.axis] > 1


class _Reader:
    """What one weight sees of each channel."""

    def __init__(self, labels: np.ndarray, weight: gs.Constant, use: Contraction, moments: Moments) -> None:
        self.labels, self.units = labels, set(labels.tolist()) - {-1}
        rows = np.moveaxis(weight.values, use.axis, 1)
        count = len(labels)
        taps = len(moments.mean) // count
        blocks = moments.gram.reshape(count, taps, count, taps)
        self.gram = np.einsum("atbt->ab", blocks)
        power, mean = np.diag(self.gram), np.square(moments.mean).reshape(count, taps).sum(1)
        unseen = np.abs(rows).sum(axis=tuple(i for i in range(rows.ndim) if i != 1)) == 0
        self.dead: BoolArray = (power == 0) | unseen
        patches = len(moments.mean) == rows[0].size
        self.constant: BoolArray = (power - mean <= TINY * power) & (takes_bias(weight) and patches)

    def kind(self, unit: int, gone: BoolArray) -> str | None:
        """How the unit is redundant here, with the units of ``gone`` removed."""
        mine = self.labels == unit
        if self.dead[mine].all():
            return "dead"
        if (self.dead | self.constant)[mine].all():
            return "constant"
        stays = ~(mine | gone[self.labels] | self.dead)
        own, power = self.gram[mine], np.diag(self.gram)
        alike = np.square(own[:, stays]) >= (1 - TINY) * np.outer(power[mine], power[stays])
        return "duplicate" if alike.any(1).all() else None
