"""What training changed, carried from one plan to another: the channels of both, and nothing else."""

import numpy as np
import pytest
from small_model import small_model

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.job.carrying import carried
from hqp_onnx.model import open_model
from hqp_onnx.passes.cut import cut
from hqp_onnx.recovery.trained import trained_constants


@pytest.fixture(scope="module")
def model():
    return open_model(small_model(), threads=1)


@pytest.mark.parametrize(("given", "own"), [(4, 2), (2, 4), (3, 3), (3, 5)])
def test_the_change_is_that_of_the_channels_of_both(model, given, own):
    """The change of each weight of the original, cut by a plan and carried to another, against cutting it by both."""
    channels = model.channels()
    plans = [PruningPlan(channels.prunable[::step]) for step in (given, own)]
    gone = [channels.removed_slices(plan) for plan in plans]
    whole = {name: t.values for name, t in model.graph.tensors().items() if name in trained_constants(model.graph)}
    rng = np.random.default_rng(0)
    change = {name: rng.standard_normal(values.shape).astype(np.float32) for name, values in whole.items()}

    def without(values, removed):
        for axis, indices in removed.items():
            values = np.delete(values, indices, axis)
        return values

    def zeroed(values, removed):
        values = values.copy()
        for axis, indices in removed.items():
            np.moveaxis(values, axis, 0)[indices] = 0
        return values

    graph = cut(model.graph, channels, plans[1]).graph
    before = {name: t.values.copy() for name, t in graph.tensors().items() if name in change}
    moved = carried({name: without(x, gone[0].get(name, {})) for name, x in change.items()}, graph, *gone)
    assert moved.keys() == before.keys() == change.keys()
    for name, values in moved.items():
        expected = without(zeroed(change[name], gone[0].get(name, {})), gone[1].get(name, {}))
        np.testing.assert_allclose(values, before[name] + expected, rtol=0, atol=1e-6)


def test_what_does_not_fit_is_left_out(model):
    graph = cut(model.graph, model.channels(), PruningPlan(np.zeros(0, np.int64))).graph
    name = trained_constants(graph)[0]
    change = {name: np.ones((1, 2, 3), np.float32), "no such weight": np.ones(3, np.float32)}
    assert carried(change, graph, {}, {}) == {}
