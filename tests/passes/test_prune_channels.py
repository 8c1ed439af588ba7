"""prune_channels on the trained models: the contract of a pass, refusals, and the zero-masked original."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from oracle import run, worst_error

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.errors import UsageError
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.graphs.unique_names import tensor_names
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


def test_names_that_happen_to_exist_do_no_harm() -> None:
    """Split sizes, a restated Reshape, a Slice and a Pad around LayerNormalization, a constant for an ended branch."""
    rng = np.random.default_rng(0)
    shapes = {
        "w1": (8, 3, 3, 3),
        "w2": (8, 4, 1, 1),
        "w3": (8, 8, 1, 1),
        "w4": (8, 8, 1, 1),
        "m1": (8, 8),
        "m2": (8, 4),
    }
    body = """a = Conv(x, w1)  b = Relu(a)  p, q = Split<axis=1>(b, halves)  s = Add(p, q)  c = Conv(s, w2)
              d = Relu(c)  e = Conv(d, w3)  f = Relu(e)  g = Conv(f, w4)  h = Add(d, g)  r = Reshape(h, flat)
              t = Transpose<perm=[0,2,1]>(r)  u = MatMul(t, m1)  n = LayerNormalization(u, one, zero)
              y = MatMul(n, m2)"""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> z (float[n,3,5,5] x) => (float[n,9,4] y) {{ {body} }}'
    )
    values: dict[str, np.ndarray] = {k: (rng.standard_normal(v) / 2).astype(np.float32) for k, v in shapes.items()}
    values |= {"halves": np.array([4, 4]), "flat": np.array([0, 8, 9])}
    values |= {"one": np.ones(8, np.float32), "zero": np.zeros(8, np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())

    def pruned(proto: onnx.ModelProto) -> tuple[gs.Graph, gs.Graph]:
        graph = canonicalize(to_graph(proto)).graph
        channels = analyze(graph)
        branch = channels.branches[0] if channels.branches else []
        plan = PruningPlan(np.union1d(branch, [unit for unit in channels.prunable.tolist() if unit % 3 == 0]))
        return graph, prune_channels(graph, channels, plan).graph

    before, after = pruned(model)
    names = sorted(tensor_names(after) - tensor_names(before))
    words = {word for name in names for word in re.split(r"[._]", name)}
    assert {"split", "constant", "flat", "LayerNormalization"} <= words, names
    poisoned = onnx.ModelProto()
    poisoned.CopyFrom(model)
    poisoned.graph.node.append(onnx.helper.make_node("ReduceMax", ["x"], ["start"], keepdims=0))
    for number, name in enumerate(names):
        total = f"poison{number - 1}" if number else "start"
        poisoned.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(number + 0.5), name))
        poisoned.graph.node.append(onnx.helper.make_node("Add", [total, name], [f"poison{number}"]))
    poisoned.graph.output.append(onnx.helper.make_tensor_value_info(f"poison{len(names) - 1}", 1, []))
    feeds = {"x": rng.standard_normal((2, 3, 5, 5)).astype(np.float32)}
    found, wanted = run(to_proto(pruned(poisoned)[1]), feeds), run(to_proto(after), feeds)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], run(poisoned, feeds)[1], rtol=1e-6)
