"""Compensation against numpy.linalg.lstsq on collected features, and on what onnxruntime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from hqp_onnx.channels.channel_map import ChannelMap, ParamAxis, PruningPlan
from hqp_onnx.channels.walk import analyze
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.model_io import to_graph
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.compensate import compensate
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.runtimes.session import Session
from hqp_onnx.statistics import moments
from hqp_onnx.statistics.moments import input_moments

MODELS = Path(__file__).parents[2] / "models"
RNG = np.random.default_rng(2)
X = RNG.normal(0.3, 1, (40, 3, 5, 5)).astype(np.float32)
UNITS, PLAN = 6, PruningPlan(np.array([1, 4]))
GONE, KEPT = np.array([1, 4]), np.array([0, 2, 3, 5])
EXACT = 1e-10  # a ridge small enough not to be seen in float32


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def graph_of(body, inputs="float[N,3,5,5] x", **weights):
    """A graph of ``body`` over ``weights``, with output y."""
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[] y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in weights.items())
    return to_graph(proto)


def channels_of(*axes, labels=None):
    """Units 0 .. 5 along the given (tensor, axis) pairs, and ``labels`` of others."""
    members = {ParamAxis(*key): np.arange(UNITS) for key in axes}
    return ChannelMap(UNITS, members | (labels or {}), {}, {})


def cut(graph, channels, plan=PLAN):
    """``graph`` without the units of ``plan``, for graphs that hold no shape constants."""
    pruned = graph.copy()
    for name, axes in channels.removed_slices(plan).items():
        for axis, indices in axes.items():
            pruned.tensors()[name].values = np.delete(pruned.tensors()[name].values, indices, axis)
    for tensor in pruned.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor.name not in ("x", "y"):
            tensor.shape = None
    return pruned


def run(graph, names, x=X):
    return Session(gs.export_onnx(graph, do_type_check=False), names).run({"x": x})


def measured(graph, x=X):
    return input_moments(gs.export_onnx(graph), None, [Batch({"x": x})])


def error(a, b):
    return float(np.sum((a.astype(np.float64) - b) ** 2))


def least_squares(features, target, biased):
    """Weights [outputs, features] and bias [outputs] of the linear map that fits ``target`` best."""
    x = np.concatenate([features, np.ones((len(features), 1))], 1) if biased else features
    solution = np.linalg.lstsq(x.astype(np.float64), target.astype(np.float64), rcond=None)[0].T
    return (solution[:, :-1], solution[:, -1]) if biased else (solution, None)


def patches(h, pads=1, stride=1):
    h = np.pad(h, ((0, 0), (0, 0), (pads, pads), (pads, pads)))
    cut = sliding_window_view(h, (3, 3), (2, 3))[:, :, ::stride, ::stride]
    return cut.transpose(0, 2, 3, 1, 4, 5).reshape(-1, h.shape[1] * 9)


def rows(y):
    """[positions, channels] of y [N, C, ...]."""
    return np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])


CONV = "a = Conv<pads = [1,1,1,1]>(x, w1, b1)  h = Relu(a)  y = Conv<pads = [1,1,1,1], strides = [2,2]>(h, w2)"
CONV_AXES = (("w1", 0), ("b1", 0), ("w2", 1))


def conv_case():
    graph = graph_of(CONV, w1=normal(6, 3, 3, 3), b1=normal(6), w2=normal(5, 6, 3, 3))
    return graph, channels_of(*CONV_AXES)


def test_padded_strided_conv_is_the_least_squares_fit_of_its_patches():
    graph, channels = conv_case()
    pruned = cut(graph, channels)
    result = compensate(graph, pruned, channels, PLAN, measured(graph), EXACT)
    values = run(graph, ["h", "y"])
    weight, bias = least_squares(patches(values["h"][:, KEPT], stride=2), rows(values["y"]), True)
    node = result.graph.tensors()["w2"].outputs[0]
    np.testing.assert_allclose(node.inputs[1].values, weight.reshape(5, 4, 3, 3), atol=2e-4)
    np.testing.assert_allclose(node.inputs[2].values, bias, atol=2e-4)
    assert result.modified and node.inputs[1].values.dtype == np.float32


def test_the_note_says_what_share_of_the_error_stays():
    graph, channels = conv_case()
    pruned = cut(graph, channels)
    result = compensate(graph, pruned, channels, PLAN, measured(graph))
    y, plain, new = (run(g, ["y"])["y"] for g in (graph, pruned, result.graph))
    share = error(new, y) / error(plain, y)
    assert 0 < share < 1
    assert result.notes == (f"w2: 2 of 6 inputs removed, {share:.1%} of the error stays",)


@pytest.mark.parametrize("ridge", [EXACT, 1e-3, 1.0, 1e3, 1e9])
def test_no_ridge_makes_calibration_error_worse_than_the_plain_cut(ridge):
    graph, channels = conv_case()
    pruned = cut(graph, channels)
    result = compensate(graph, pruned, channels, PLAN, measured(graph), ridge)
    y, plain, new = (run(g, ["y"])["y"] for g in (graph, pruned, result.graph))
    assert error(new, y) <= error(plain, y) * (1 + 1e-6)
    if ridge == 1e9:  # all that is left is the bias: the weight is that of the plain cut
        np.testing.assert_allclose(result.graph.tensors()["w2"].values, pruned.tensors()["w2"].values, atol=1e-6)


def redundant(w):
    """``w`` whose output channels 1 and 4 are linear combinations of the others."""
    mixing = RNG.normal(size=(2, 4)).astype(np.float32)
    w[GONE] = np.tensordot(mixing, w[KEPT], 1)
    return w


LAYERS = [
    ("Conv(x, w1)", "Conv(h, w2)", (5, 6, 1, 1), 1, {}),
    ("Conv(x, w1)", "Conv(h, w2, b2)", (5, 6, 1, 1), 1, {"b2": (5,)}),
    ("Conv(x, w1)", "Conv<pads = [1,1,1,1], dilations = [2,2]>(h, w2)", (5, 6, 3, 3), 1, {}),
    ("Conv(x, w1)", "ConvTranspose<strides = [2,2]>(h, w2)", (6, 5, 3, 3), 0, {}),
    ("Conv(x, w1)", "ConvTranspose<strides = [2,2]>(h, w2)", (6, 5, 1, 1), 0, {}),
    ("MatMul(f, w1)", "MatMul(h, w2)", (6, 5), 0, {}),
    ("MatMul(f, w1)", "Gemm(h, w2)", (6, 5), 0, {}),
    ("MatMul(f, w1)", "Gemm<transB = 1>(h, w2, b2)", (5, 6), 1, {"b2": (5,)}),
    ("MatMul(f, w1)", "Gemm<transB = 1>(h, w2, b2)", (5, 6), 1, {"b2": (1, 5)}),
    ("MatMul(f, w1)", "Gemm<alpha = 2.0, beta = 3.0>(h, w2, b2)", (6, 5), 0, {"b2": (5,)}),
    ("MatMul(f, w1)", "Gemm(h, w2, b2)", (6, 5), 0, {"b2": (1,)}),
    ("MatMul(f, w1)", "Gemm(h, w2, f2)", (6, 5), 0, {}),
]


def layer_case(first, second, shape, axis, biases):
    image = first.startswith("Conv")
    body = f"h = {first}  y = {second}" if image else f"f = Flatten(x)  f2 = MatMul(f, w0)  h = {first}  y = {second}"
    w1 = redundant(normal(6, 3, 2, 2)) if image else redundant(normal(6, 75)).T.copy()
    weights = {"w1": w1, "w2": normal(*shape), **{k: normal(*v) for k, v in biases.items()}}
    if not image:
        weights["w0"] = normal(75, 5)
    return graph_of(body, **weights), channels_of(("w1", 0 if image else 1), ("w2", axis))


@pytest.mark.parametrize(("first", "second", "shape", "axis", "biases"), LAYERS)
def test_channels_that_are_combinations_of_others_cost_nothing(first, second, shape, axis, biases):
    graph, channels = layer_case(first, second, shape, axis, biases)
    pruned = cut(graph, channels)
    result = compensate(graph, pruned, channels, PLAN, measured(graph), EXACT)
    y, plain, new = (run(g, ["y"])["y"] for g in (graph, pruned, result.graph))
    scale = np.abs(y).max()
    assert np.abs(plain - y).max() > 0.1 * scale
    np.testing.assert_allclose(new, y, atol=1e-4 * scale)


def test_an_affine_dependence_moves_into_the_bias():
    graph = graph_of(
        "a = Conv(x, w1, b1)  y = Conv(a, w2)", w1=redundant(normal(6, 3, 1, 1)), b1=normal(6), w2=normal(5, 6, 2, 2)
    )
    channels = channels_of(*CONV_AXES)
    result = compensate(graph, cut(graph, channels), channels, PLAN, measured(graph), EXACT)
    y = run(graph, ["y"])["y"]
    np.testing.assert_allclose(run(result.graph, ["y"])["y"], y, atol=1e-4 * np.abs(y).max())


def test_removed_outputs_of_the_refitted_weight_stay_removed():
    graph = graph_of(
        "a = Conv(x, w1)  b = Conv(a, w2, b2)  y = Conv(b, w3)",
        w1=redundant(normal(6, 3, 1, 1)),
        w2=normal(6, 6, 3, 3),
        b2=normal(6),
        w3=normal(2, 6, 1, 1),
    )
    first, second = np.arange(6), np.arange(6, 12)
    members = {("w1", 0): first, ("w2", 1): first, ("w2", 0): second, ("b2", 0): second, ("w3", 1): second}
    channels = ChannelMap(12, {ParamAxis(*key): labels for key, labels in members.items()}, {}, {})
    plan = PruningPlan(np.array([1, 4, 6, 7, 8]))
    result = compensate(graph, cut(graph, channels, plan), channels, plan, measured(graph), EXACT)
    values = run(graph, ["b", "y"])
    new = run(result.graph, ["b", "y"])
    np.testing.assert_allclose(new["b"], values["b"][:, 3:], atol=1e-3)
    weight, bias = least_squares(rows(values["b"][:, 3:]), rows(values["y"]), True)
    np.testing.assert_allclose(rows(new["y"]), rows(values["b"][:, 3:]) @ weight.T + bias, atol=2e-3)


def test_flattened_positions_of_one_unit_are_removed_together():
    labels = {ParamAxis("w2", 0): np.repeat(np.arange(6), 25)}
    graph = graph_of(
        "a = Conv(x, w1)  h = Relu(a)  f = Flatten(h)  y = Gemm(f, w2)", w1=normal(6, 3, 1, 1), w2=normal(150, 4)
    )
    channels = channels_of(("w1", 0), labels=labels)
    x = RNG.normal(size=(400, 3, 5, 5)).astype(np.float32)
    result = compensate(graph, cut(graph, channels), channels, PLAN, measured(graph, x), EXACT)
    values = run(graph, ["h", "y"], x)
    features = values["h"][:, KEPT].reshape(400, -1)
    weight, bias = least_squares(features, values["y"], True)
    np.testing.assert_allclose(run(result.graph, ["y"], x)["y"], features @ weight.T + bias, atol=5e-3)


def test_a_shared_weight_fits_all_its_inputs_together():
    body = "a = Conv(x, w1)  h = Relu(a)  s = Sigmoid(a)  c = Conv(h, w2)  d = Conv(s, w2)  y = Concat<axis = 1>(c, d)"
    graph = graph_of(body, w1=normal(6, 3, 1, 1), w2=normal(5, 6, 1, 1))
    channels = channels_of(("w1", 0), ("w2", 1))
    result = compensate(graph, cut(graph, channels), channels, PLAN, measured(graph), EXACT)
    values = run(graph, ["h", "s", "c", "d"])
    inputs = np.concatenate([rows(values["h"][:, KEPT]), rows(values["s"][:, KEPT])])
    weight, _ = least_squares(inputs, np.concatenate([rows(values["c"]), rows(values["d"])]), False)
    np.testing.assert_allclose(result.graph.tensors()["w2"].values[:, :, 0, 0], weight, atol=2e-4)


def test_a_bias_of_several_nodes_changes_for_one_only():
    body = "h = Conv(x, w1)  c = Conv(h, w2, b)  d = Conv(x, w3, b)  y = Concat<axis = 1>(c, d)"
    graph = graph_of(
        body, w1=redundant(normal(6, 3, 1, 1)) + 1, w2=normal(5, 6, 1, 1), w3=normal(5, 3, 1, 1), b=normal(5)
    )
    channels = channels_of(("w1", 0), ("w2", 1))
    result = compensate(graph, cut(graph, channels), channels, PLAN, measured(graph, X + 1))
    values, new = run(graph, ["c", "d"], X + 1), run(result.graph, ["c", "d"], X + 1)
    np.testing.assert_array_equal(new["d"], values["d"])
    np.testing.assert_allclose(new["c"].mean((0, 2, 3)), values["c"].mean((0, 2, 3)), atol=1e-4)


def test_wide_convs_fit_one_mixing_of_channels(monkeypatch):
    monkeypatch.setattr(moments, "LARGEST", 50)
    graph, channels = conv_case()
    result = compensate(graph, cut(graph, channels), channels, PLAN, measured(graph), EXACT)
    h = rows(run(graph, ["h"])["h"])
    mixing, _ = least_squares(h[:, KEPT], h[:, GONE], False)
    before = graph.tensors()["w2"].values
    expected = before[:, KEPT] + np.einsum("orhw,rk->okhw", before[:, GONE], mixing)
    np.testing.assert_allclose(result.graph.tensors()["w2"].values, expected, atol=2e-4)
    assert len(result.graph.tensors()["w2"].outputs[0].inputs) == 2


@pytest.mark.parametrize(
    "body", ["a = Gemm(x, w1)  h = Relu(a)  y = Gemm(h, w2, b2)", "h = MatMul(x, w1)  y = MatMul(h, w2)"]
)
def test_inputs_wider_than_a_block_are_fitted_block_by_block(monkeypatch, body):
    monkeypatch.setattr(moments, "LARGEST", 5)
    monkeypatch.setattr(moments, "BLOCK", 4)
    x = RNG.normal(0.3, 1, (50, 3)).astype(np.float32)
    w1, w2 = normal(3, 6), normal(6, 5)
    graph = graph_of(body, "float[N,3] x", w1=w1, w2=w2, **({"b2": normal(5)} if "b2" in body else {}))
    channels = channels_of(("w1", 1), ("w2", 0))
    found = measured(graph, x)
    assert found.keys() == {"w1", "w2[0:4]", "w2[4:6]"}
    result = compensate(graph, cut(graph, channels), channels, PLAN, found, EXACT)
    h = run(graph, ["h"], x)["h"]
    shift, rows_of = 0, []
    for block in (np.arange(4), np.arange(4, 6)):
        kept = np.setdiff1d(block, GONE)
        weight, bias = least_squares(h[:, kept], h[:, block] @ w2[block], "b2" in body)
        rows_of.append(weight.T)
        shift = shift + (bias if bias is not None else 0)
    node = result.graph.tensors()["w2"].outputs[0]
    np.testing.assert_allclose(node.inputs[1].values, np.concatenate(rows_of), atol=1e-3)
    if "b2" in body:
        np.testing.assert_allclose(node.inputs[2].values - graph.tensors()["b2"].values, shift, atol=1e-3)
    assert len(result.notes) == 1 and "2 of 6 inputs removed" in result.notes[0]


def test_dead_channels_change_nothing():
    graph = graph_of(
        "a = Conv(x, w1, b1)  h = Relu(a)  y = Conv(h, w2)",
        w1=0 * normal(6, 3, 1, 1),
        b1=-np.ones(6, np.float32),
        w2=normal(5, 6, 1, 1),
    )
    channels = channels_of(*CONV_AXES)
    result = compensate(graph, cut(graph, channels), channels, PLAN, measured(graph))
    np.testing.assert_array_equal(result.graph.tensors()["w2"].values, graph.tensors()["w2"].values[:, KEPT])
    assert result.notes == ("w2: 2 of 6 inputs removed, 0.0% of the error stays",)


def test_depthwise_and_unmeasured_weights_are_left_as_they_are():
    body = "a = Conv(x, w1)  h = Conv<group = 6>(a, dw)  y = Conv(h, w2)"
    graph = graph_of(body, w1=normal(6, 3, 1, 1), dw=normal(6, 1, 3, 3), w2=normal(5, 6, 1, 1))
    channels = channels_of(("w1", 0), ("dw", 0), ("w2", 1))
    pruned = cut(graph, channels)
    result = compensate(graph, pruned, channels, PLAN, {})
    assert not result.modified and result.notes == ("w2: not compensated: no moments of its input",)
    result = compensate(graph, pruned, channels, PLAN, measured(graph))
    np.testing.assert_array_equal(result.graph.tensors()["dw"].values, pruned.tensors()["dw"].values)
    assert result.modified


def test_nothing_removed_changes_nothing_and_inputs_are_never_mutated():
    graph, channels = conv_case()
    result = compensate(graph, graph, channels, PruningPlan(np.array([], int)), measured(graph))
    assert not result.modified and result.notes == ()
    pruned = cut(graph, channels)
    before = [gs.export_onnx(g).SerializeToString() for g in (graph, pruned)]
    compensate(graph, pruned, channels, PLAN, measured(graph))
    assert [gs.export_onnx(g).SerializeToString() for g in (graph, pruned)] == before


def test_parts_that_do_not_belong_together_are_refused():
    graph, channels = conv_case()
    found = measured(graph)
    with pytest.raises(ModelError, match=r"w2: the pruned weight has shape \[5, 6, 3, 3\].*leaves \[5, 4, 3, 3\]"):
        compensate(graph, graph, channels, PLAN, found)
    with pytest.raises(ModelError, match="w2: moments of 27 features for a weight of 6 channels"):
        compensate(graph, cut(graph, channels), channels, PLAN, {"w2": found["w1"]})
    other = graph_of("y = Relu(x)")
    with pytest.raises(ModelError, match="weight 'w2' is not in the pruned graph"):
        compensate(graph, other, channels, PLAN, found)


def random_plan(graph, channels, share):
    """``share`` of the units of each weight's outputs, at random; units of several weights are drawn several times."""
    axes = [k for k, v in channels.members.items() if k.axis == 0 and len(graph.tensors()[k.tensor].shape) > 1]
    sets = [np.intersect1d(channels.members[key], channels.prunable) for key in axes]
    rng = np.random.default_rng(0)
    return PruningPlan(np.concatenate([rng.choice(s, int(share * len(s)), replace=False) for s in sets]))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_bundled_models_keep_their_accuracy(name):
    """Channels at random, no training: the plain cut loses 30 points or more, the refit stays close to the original."""
    graph = canonicalize(to_graph(onnx.load(MODELS / f"{name}.onnx"))).graph
    channels = analyze(graph)
    plan = random_plan(graph, channels, 0.1)
    specs = Session(gs.export_onnx(graph)).inputs
    data = open_dataset(str(MODELS / "fashion_mnist_calib.npz"), specs, limit=200)
    held_out = open_dataset(str(MODELS / "fashion_mnist_val.npz"), specs, limit=500)
    pruned = prune_channels(graph, channels, plan).graph
    refit = compensate(graph, pruned, channels, plan, input_moments(gs.export_onnx(graph), None, data)).graph

    def accuracy(g):
        session = Session(gs.export_onnx(g, do_type_check=False))
        return np.mean([(session.run(b.feeds)["logits"].argmax(1) == b.labels).mean() for b in held_out])

    whole, plain, mended = (accuracy(g) for g in (graph, pruned, refit))
    assert plain < whole - 0.3 and mended > whole - 0.06
