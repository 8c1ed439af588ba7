"""Graphs as exporters write them (``export.py``), random weights: random plans against the zero-masked original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper
from oracle import worst_error

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.ranking.order import removal_order

# file -> prunable units at least; all that is frozen beside them is a trunk under LayerNormalization, an input, a head
PRUNABLE = {
    "attend": 44,
    "bert": 42,
    "dense": 20,
    "gpt2": 66,
    "gpt2_any_size": 66,
    "groups": 9,
    "llama": 24,
    "poolformer": 96,
    "scales": 24,
    "segformer": 90,
    "segformer_any_size": 90,
    "shuffle": 28,
    "shuffle_any_size": 28,
    "squeeze": 28,
    "swin": 66,
    "unet": 40,
    "unet_any_size": 40,
    "vit": 26,
    "wav2vec2": 42,
}
TOKENS = 100
TOLERANCE = 1e-4  # float32, sums in another order, up to 15 layers deep


def load(name: str) -> onnx.ModelProto:
    """The graph with its weights: those that are declared by shape only."""
    model = onnx.parser.parse_model(Path(__file__).with_name(f"{name}.onnxtxt").read_text())
    rng = np.random.default_rng(0)
    for value in model.graph.value_info:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        values = rng.uniform(0.5, 1.5, shape)
        if len(shape) > 1:
            values = rng.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), shape[0]))
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(dtype), value.name))
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return model


def feeds_of(model: onnx.ModelProto, batch: int, size: int) -> dict[str, np.ndarray]:
    """Inputs: ``batch`` for a dynamic first axis, ``size`` for any other that is dynamic."""
    rng = np.random.default_rng(1)
    feeds = {}
    for value in model.graph.input:
        shape = [dim.dim_value or (size if i else batch) for i, dim in enumerate(value.type.tensor_type.shape.dim)]
        floats = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        feeds[value.name] = (
            rng.standard_normal(shape).astype(np.float32) if floats else rng.integers(0, TOKENS, shape, np.int64)
        )
    return feeds


def test_every_file_has_a_row() -> None:
    assert {path.stem for path in Path(__file__).parent.glob("*.onnxtxt")} == set(PRUNABLE)


@pytest.mark.parametrize("name", PRUNABLE)
def test_canonical_is_original(name: str) -> None:
    original = load(name)
    canonical = to_proto(canonicalize(to_graph(original)).graph)
    for batch, size in ((1, 32), (2, 64), (5, 112)):
        assert worst_error(original, canonical, {}, feeds_of(original, batch, size)) <= TOLERANCE


@pytest.mark.parametrize("name", PRUNABLE)
def test_pruned_is_masked(name: str) -> None:
    original = load(name)
    graph = canonicalize(to_graph(original)).graph
    channels = analyze(graph)
    assert len(channels.prunable) >= PRUNABLE[name]
    canonical = to_proto(graph)
    written = {tensor.name for tensor in original.graph.initializer}
    for seed, share in enumerate((0.1, 0.4, 1.0)):
        order = removal_order(np.random.default_rng(seed).random(channels.units), channels, 0.0, branches=True)
        plan = PruningPlan(order[: max(1, round(share * len(channels.prunable)))])
        pruned = to_proto(prune_channels(graph, channels, plan).graph)
        onnx.checker.check_model(pruned)
        ledger = channels.removed_slices(plan)
        reference = original if ledger.keys() <= written else canonical
        for batch, size in ((1, 32), (3, 80)):
            assert worst_error(reference, pruned, ledger, feeds_of(original, batch, size)) <= TOLERANCE


@pytest.mark.parametrize("name", PRUNABLE)
def test_pruned_can_be_pruned_again(name: str) -> None:
    graph = canonicalize(to_graph(load(name))).graph
    for seed in range(2):
        channels = analyze(graph)
        order = removal_order(np.random.default_rng(seed).random(channels.units), channels, 0.0, branches=True)
        plan = PruningPlan(order[: max(1, len(channels.prunable) // 4)])
        before, feeds = to_proto(graph), feeds_of(to_proto(graph), 2, 64)
        pruned = to_proto(prune_channels(graph, channels, plan).graph)
        assert worst_error(before, pruned, channels.removed_slices(plan), feeds) <= TOLERANCE
        graph = canonicalize(to_graph(pruned)).graph
