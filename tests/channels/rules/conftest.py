"""Random plans of a graph against the zero-masked original."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from oracle import worst_error

from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.passes.prune_channels import prune_channels


def _check(
    graph: gs.Graph,
    channels: ChannelMap,
    feeds: dict[str, np.ndarray],
    tolerance: float = 1e-5,
    tries: int = 12,
) -> None:
    original = to_proto(graph)
    rng = np.random.default_rng(2)
    tried = 0
    for _ in range(tries):
        count = rng.integers(1, max(len(channels.prunable), 2))
        plan = PruningPlan(rng.permutation(channels.prunable)[:count])
        try:
            pruned = prune_channels(graph, channels, plan).graph
        except UsageError:
            continue  # would empty a tensor
        assert worst_error(original, to_proto(pruned), channels.removed_slices(plan), feeds) <= tolerance
        tried += len(plan) > 0
    assert tried or not len(channels.prunable)


@pytest.fixture
def check_plans() -> Callable[..., None]:
    return _check
