"""Every graph as exporters write it can be trained: a pruned one comes closer to its original."""

from __future__ import annotations

import numpy as np
import pytest
from zoo.test_zoo import PRUNABLE, feeds_of, load

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.passes.recover import recover
from hqp_onnx.ranking.order import removal_order
from hqp_onnx.recovery import Recovery
from hqp_onnx.recovery.points import kept_positions
from hqp_onnx.runtimes.session import Session


@pytest.mark.parametrize("name", PRUNABLE)
def test_a_pruned_graph_comes_closer(name: str) -> None:
    teacher = open_model(load(name), threads=1)
    data = open_data(teacher, feeds_of(load(name), 24, 32))
    channels = teacher.channels()
    order = removal_order(np.random.default_rng(0).random(channels.units), channels, 0.0)
    plan = PruningPlan(order[: max(1, len(channels.prunable) // 5)])
    student = prune_channels(teacher.graph, channels, plan).graph
    kept = kept_positions(channels, channels.removed(plan))
    found = recover(student, teacher.graph, data, Recovery(3, batch=4, beta=0.0), kept=kept, threads=1)
    want, old, new = (
        next(iter(Session(to_proto(graph)).run(data.rows(0, 24).feeds).values()))
        for graph in (teacher.graph, student, found.graph)
    )
    before, after = (np.square(_centred(x) - _centred(want)).sum() for x in (old, new))
    assert min(found.losses) < 0.97 * found.losses[0]
    assert after < before


def _centred(x: np.ndarray) -> np.ndarray:
    """What a softmax over axis 1 sees of ``x``."""
    return x - x.mean(1, keepdims=True)
