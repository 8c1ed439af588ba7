"""obs: the growth of the loss after the refit of what reads a filter (``removal_costs``), unit by unit.

A filter's own number is what its output weighs, 1/|D| sum_i ||dL_i/dy_f||^2, by default of projections of the outputs:
trained losses are flat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray
from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.gradients import filter_weights
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.ranking.least_squares import held_out_ridges
from hqp_onnx.ranking.order import unit_scores
from hqp_onnx.ranking.removal_costs import removal_costs
from hqp_onnx.ranking.saliencies.of_gradients import OfGradients
from hqp_onnx.ranking.saliencies.scoring import SALIENCIES
from hqp_onnx.statistics.moment_halves import Halves, joined


class RemovalCosts(OfGradients):
    """Units by ``removal_costs``."""

    needs_moments: ClassVar[bool] = True
    cumulative: ClassVar[bool] = True

    def units(
        self,
        graph: gs.Graph,
        channels: ChannelMap,
        filters: Mapping[str, FloatArray],
        halves: Halves | None,
        min_width: float,
        gains: FloatArray | None,
    ) -> FloatArray:
        """The loss's growth up to the moment when each unit is removed, per gain; see ``removal_costs``.

        What no weight reads costs nothing where nothing of the outputs depends on it, as on channels that are cut off.
        """
        assert halves is not None  # needs_moments
        ridges = held_out_ridges(graph, channels, PruningPlan(channels.prunable[::2]), halves)
        costs = removal_costs(
            graph, channels, joined(*halves), filters, ridges=ridges, min_width=min_width, gains=gains
        )
        idle = unit_scores(filters, channels, filter_weights(to_proto(graph))) == 0
        return np.where(np.isinf(costs) & idle, 0.0, costs)


SALIENCIES.register("obs")(RemovalCosts("output", "gauss-newton"))
