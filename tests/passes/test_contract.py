"""Every pass takes an onnx-graphsurgeon graph, leaves it as it is, and returns a PassResult with a graph that runs.

The lowering passes have a contract of their own (``lowering/test_contract.py``).
"""

from __future__ import annotations

import inspect
import pkgutil
import typing
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from oracle import run
from small_model import small_data, small_model

import hqp_onnx.passes
from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.graphs.unique_names import tensor_names
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.cut import Refit
from hqp_onnx.passes.insert_qdq import weight_scales
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.passes.round_in_order import Grid
from hqp_onnx.passes.round_weights import roundable
from hqp_onnx.quantization.placement import quantized_tensors
from hqp_onnx.recovery import Recovery
from hqp_onnx.runtimes.session import Session
from hqp_onnx.runtimes.targets import Target, target
from hqp_onnx.statistics.calibration import Calibration, calibrate
from hqp_onnx.statistics.moments import input_moments

NAMES = [
    module.name
    for module in pkgutil.iter_modules(hqp_onnx.passes.__path__)
    if module.name != "base" and not module.ispkg
]
IMAGES = small_data()["input"]
SOURCE = ArraySource("images", {"input": IMAGES})
BATCHES = [Batch({"input": IMAGES})]


def the_pass(name: str) -> Callable[..., PassResult]:
    """The function of a module that bears its name."""
    found: Callable[..., PassResult] = getattr(import_module(f"hqp_onnx.passes.{name}"), name)
    return found


def calibrated(graph: gs.Graph) -> Calibration:
    """Ranges of ``graph``, BatchNormalization folded."""
    return calibrate(to_proto(graph), quantized_tensors(graph, target("tensorrt")), BATCHES, method="minmax")


def arguments(name: str, graph: gs.Graph, channels: ChannelMap, plan: PruningPlan) -> tuple[Any, ...]:
    """What a pass takes besides the graph."""
    if name in ("cut", "prune_channels"):
        return channels, plan
    if name == "cut":
        return channels, plan, Refit(input_moments(to_proto(graph), None, BATCHES), {})
    if name == "compensate":
        pruned = prune_channels(graph, channels, plan).graph
        return pruned, channels, plan, input_moments(to_proto(graph), None, BATCHES)
    if name == "turn_heads":
        return channels, input_moments(to_proto(graph), None, BATCHES)
    if name == "refit_in_order":
        return (
            prune_channels(graph, channels, plan).graph,
            channels,
            plan,
            Dataset(SOURCE, Session(small_model()).inputs),
        )
    if name == "round_in_order":
        values = graph.tensors()["w4"].values
        return graph.copy(), {"w4": Grid(np.abs(values).max(1, keepdims=True) / 7.0, -8, 7)}, BATCHES
    if name == "quantize":
        return BATCHES, target("tensorrt"), "minmax"
    if name == "insert_qdq":
        return calibrated(graph), target("tensorrt")
    if name in ("equalize", "smooth_products"):
        return (BATCHES,)
    if name == "quantize_dynamic":
        return BATCHES, target("onnxruntime")
    if name == "correct_bias":
        return weight_scales(graph, calibrated(graph), target("tensorrt")), 127, BATCHES
    if name == "round_weights":
        scales = weight_scales(graph, calibrated(graph), target("tensorrt"))
        return input_moments(to_proto(graph), roundable(graph, scales), BATCHES), scales, 127
    if name == "store_weights":
        return (Dataset(SOURCE, Session(small_model()).inputs),)
    if name == "quantize_int4":
        return {"w4": np.ones(4)}, 1.0
    if name == "raise_opset":
        return (18,)
    if name == "pool_spatial_means":
        return ({"pooled": 4},)
    if name in ("join_layer_norms", "share_heads"):
        return ({},)
    if name == "recover":
        teacher = graph.copy()
        teacher.tensors()["w2"].values = 1.05 * teacher.tensors()["w2"].values
        return teacher, Dataset(SOURCE, Session(small_model()).inputs), Recovery(2, batch=4)
    return ()


def test_passes_are_found() -> None:
    assert {"canonicalize", "compensate", "fold_batchnorm", "insert_qdq", "prune_channels", "quantize"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_signature(name: str) -> None:
    function = the_pass(name)
    hints = typing.get_type_hints(function)
    assert hints[next(iter(inspect.signature(function).parameters))] is gs.Graph
    assert issubclass(hints["return"], PassResult)
    assert name in import_module(f"hqp_onnx.passes.{name}").__all__


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_does_not_change_its_graph_and_returns_one_that_runs(name: str) -> None:
    raw = gs.import_onnx(small_model())
    graph = raw if name == "canonicalize" else canonicalize(raw).graph
    if name in ("insert_qdq", "equalize", "correct_bias", "round_weights"):
        graph = the_pass("fold_batchnorm")(graph).graph
    channels = analyze(canonicalize(raw).graph)
    plan = PruningPlan(channels.prunable[:3])
    more = arguments(name, graph, channels, plan)
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    result = the_pass(name)(graph, *more)
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before
    assert isinstance(result, PassResult) and isinstance(result.graph, gs.Graph)
    after = gs.export_onnx(result.graph)
    assert result.modified == (after.SerializeToString(deterministic=True) != before)
    want, have = run(small_model(), {"input": IMAGES})[0], run(after, {"input": IMAGES})[0]
    assert have.shape == want.shape
    loss = {"prune_channels": 0.5, "compensate": 0.5, "cut": 0.5, "quantize_int4": 0.1}.get(name, 0.05)
    assert np.abs(have - want).max() <= loss * np.abs(want).max()


def prepared(name: str, proto: onnx.ModelProto) -> tuple[gs.Graph, tuple[Any, ...]]:
    """The graph that a pass is given, and what it takes besides."""
    raw = gs.import_onnx(proto)
    canonical = canonicalize(raw).graph
    graph = raw if name in ("canonicalize", "raise_opset", "fold_constants", "take_branches") else canonical
    if name in ("insert_qdq", "equalize", "correct_bias", "round_weights"):
        graph = the_pass("fold_batchnorm")(graph).graph
    if name in ("dequantize", "expose_masters", "restore_float_weights"):
        graph = the_pass("quantize")(graph, BATCHES, target("tensorrt"), "minmax").graph
    channels = analyze(canonical)
    return graph, arguments(name, graph, channels, PruningPlan(channels.prunable[:3]))


def poisoned(proto: onnx.ModelProto, tensors: set[str], nodes: set[str]) -> onnx.ModelProto:
    """``proto`` with an output of its own, a sum of numbers and results that bear these names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph, total = copy.graph, "poison"
    graph.node.append(onnx.helper.make_node("ReduceMax", [graph.input[0].name], [total], axes=[1, 2, 3]))
    spare = iter([*sorted(nodes), *(f"poison{n}" for n in range(len(tensors)))])
    for number, name in enumerate(sorted(tensors)):
        constant, result = (name, f"poison.{number}") if number % 2 else (f"poison.{number}", name)
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(number + 0.5), constant))
        graph.node.append(onnx.helper.make_node("Add", [total, constant], [result], next(spare)))
        total = result
    for name in spare:
        graph.node.append(onnx.helper.make_node("Neg", [total], [f"{name}.negative"], name))
        total = f"{name}.negative"
    graph.output.append(onnx.helper.make_tensor_value_info(total, onnx.TensorProto.FLOAT, ["n", 1, 1, 1]))
    return copy


def names_of(graph: gs.Graph) -> tuple[set[str], set[str]]:
    return tensor_names(graph), {node.name for node in graph.nodes}


@pytest.mark.parametrize(
    ("name", "runtime"),
    [(name, "tensorrt") for name in NAMES if name != "recover"]
    + [("quantize", "onnxruntime"), ("quantize", "openvino")],
)
def test_names_that_happen_to_exist_do_no_harm(name: str, runtime: str) -> None:
    def apply(proto: onnx.ModelProto) -> tuple[gs.Graph, gs.Graph]:
        graph, more = prepared(name, proto)
        more = tuple(target(runtime) if isinstance(each, Target) else each for each in more)
        return graph, the_pass(name)(graph, *more).graph

    before, after = apply(small_model())
    added = [new - old for old, new in zip(names_of(before), names_of(after), strict=True)]
    proto = poisoned(small_model(), *added)
    _, hardened = apply(proto)
    want, have = run(to_proto(after), {"input": IMAGES})[0], run(to_proto(hardened), {"input": IMAGES})
    np.testing.assert_allclose(have[0], want, rtol=1e-5, atol=1e-6)
    poison = run(proto, {"input": IMAGES})[1]
    np.testing.assert_allclose(have[1], poison, rtol=0.02, atol=0.05 * np.abs(poison).max())
