"""The plans that pruned models are checked by: the least of all units, by scores that need no data."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.gradients import filter_weights
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.ranking.order import removal_order, unit_scores
from hqp_onnx.ranking.rank import filter_scores
from hqp_onnx.ranking.saliencies import Scoring

SHARES = (0.1, 0.3, 0.6)
"""Of the prunable units."""


def make_scores(graph: gs.Graph, channels: ChannelMap, kind: str, seed: int = 0) -> np.ndarray:
    """One score per unit: seeded random numbers, or "l2" as the product ranks."""
    if kind == "random":
        return np.random.default_rng(seed).random(channels.units)
    proto = to_proto(graph)
    return unit_scores(filter_scores(proto, Scoring("l2")), channels, filter_weights(proto))


def make_plan(channels: ChannelMap, scores: np.ndarray, share: float) -> PruningPlan:
    """The least ``share`` of the prunable units, at least one."""
    order = removal_order(scores, channels, 0.0, branches=True)
    return PruningPlan(order[: max(1, round(share * len(channels.prunable)))])
