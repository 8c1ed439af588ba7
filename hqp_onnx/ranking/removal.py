"""Which units are removed first, once they are ranked: redundant ones, then the least sensitive."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.ranking.least_squares import held_out_ridges
from hqp_onnx.ranking.order import first_removed, removal_order
from hqp_onnx.ranking.redundancy import redundant_units
from hqp_onnx.statistics.moment_halves import Halves
from hqp_onnx.statistics.moments import Moments


def order_units(
    graph: gs.Graph,
    channels: ChannelMap,
    scores: FloatArray,
    min_width: float,
    moments: Mapping[str, Moments] | None = None,
) -> tuple[IntArray, dict[int, str]]:
    """Units in the order of removal, and which of them are redundant, and why.

    Args:
        graph: canonical.
        channels: its units.
        scores: float64 [units], of a ``Ranking``.
        min_width: see ``removal_order``.
        moments: of the inputs of its weights, if these are to be refitted: only then can redundant units be removed at
            no loss.
    """
    redundant = {} if moments is None else redundant_units(graph, channels, moments, scores)
    if redundant:
        scores = first_removed(scores, sorted(redundant))
    return removal_order(scores, channels, min_width, branches=True), redundant


def ridges_of(graph: gs.Graph, channels: ChannelMap, order: IntArray, halves: Halves) -> dict[str, float]:
    """The ridge of each weight's refit, for all plans along ``order``: the one that does best for half of it."""
    return held_out_ridges(graph, channels, PruningPlan(order[: len(order) // 2]), halves)
