"""prune_channels on the trained models: the contract of a pass, refusals, and the zero-masked original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from oracle import worst_error

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.prune_channels import prune_channels

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module", params=["resnet18", "mobilenet_v3_small"])
def analyzed(request: pytest.FixtureRequest) -> tuple:
    graph = canonicalize(to_graph(onnx.load(MODELS / f"{request.param}.onnx"))).graph
    return graph, analyze(graph)


def random_plan(channels, share: float, seed: int = 0) -> PruningPlan:
    chosen = np.random.default_rng(seed).random(len(channels.prunable)) < share
    return PruningPlan(channels.prunable[chosen])


def test_equals_the_masked_original(analyzed) -> None:
    graph, channels = analyzed
    images = np.load(MODELS / "fashion_mnist_test.npz")["input"][:4].astype(np.float32)
    for seed, share in enumerate((0.1, 0.5)):
        plan = random_plan(channels, share, seed)
        pruned = to_proto(prune_channels(graph, channels, plan).graph)
        onnx.checker.check_model(pruned, full_check=True)
        assert worst_error(to_proto(graph), pruned, channels.removed_slices(plan), {"input": images}) <= 1e-5


def test_keeps_interface_and_names_and_leaves_the_input_alone(analyzed) -> None:
    graph, channels = analyzed
    before = to_proto(graph).SerializeToString(deterministic=True)
    result = prune_channels(graph, channels, random_plan(channels, 0.4))
    assert result.modified
    assert to_proto(graph).SerializeToString(deterministic=True) == before
    for side in ("inputs", "outputs"):
        assert [(t.name, t.shape, t.dtype) for t in getattr(result.graph, side)] == [
            (t.name, t.shape, t.dtype) for t in getattr(graph, side)
        ]
    assert [node.name for node in result.graph.nodes] == [node.name for node in graph.nodes]


def test_initializers_lose_what_the_ledger_says(analyzed) -> None:
    graph, channels = analyzed
    plan = random_plan(channels, 0.4)
    after = prune_channels(graph, channels, plan).graph.tensors()
    ledger = channels.removed_slices(plan)
    for name, axes in ledger.items():
        shape = list(graph.tensors()[name].shape)
        for axis, gone in axes.items():
            shape[axis] -= len(gone)
        assert list(after[name].shape) == shape
    assert ledger


def test_empty_plan_changes_nothing(analyzed) -> None:
    graph, channels = analyzed
    result = prune_channels(graph, channels, PruningPlan(np.array([], int)))
    assert not result.modified
    assert to_proto(result.graph) == to_proto(graph)


def test_refuses_frozen_units_and_empty_tensors(analyzed) -> None:
    graph, channels = analyzed
    frozen = next(iter(channels.frozen))
    with pytest.raises(UsageError, match=f"unit {frozen} cannot be removed: "):
        prune_channels(graph, channels, PruningPlan([frozen]))
    with pytest.raises(UsageError, match="leave at least one"):
        prune_channels(graph, channels, PruningPlan(channels.prunable))
