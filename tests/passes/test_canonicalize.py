"""Canonical form computes the same, and is what it says."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from oracle import run

import hqp_onnx
from hqp_onnx.graphs.model_io import to_graph, to_proto
from hqp_onnx.graphs.windows import window_of
from hqp_onnx.passes.canonicalize import canonicalize, canonicalize_with_shapes

RNG = np.random.default_rng(0)


def parse(body: str, opset: int = 17, shape: str = "n,3,9,8", **values: np.ndarray) -> onnx.ModelProto:
    text = f'<ir_version: 7, opset_import: ["" : {opset}]> g (float[{shape}] x) => (float[a,b] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items())
    return model


def check(model: onnx.ModelProto, *batches: tuple[int, ...]) -> gs.Graph:
    """Canonical graph, after comparing both on inputs of these shapes."""
    graph = canonicalize(to_graph(model)).graph
    for shape in batches:
        feeds = {"x": RNG.standard_normal(shape).astype(np.float32)}
        assert np.allclose(run(model, feeds)[0], run(to_proto(graph), feeds)[0], rtol=1e-5, atol=1e-6)
    return graph


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("strides", [[1, 1], [2, 3]])
@pytest.mark.parametrize("dilations", [[1, 1], [2, 1]])
def test_auto_pad_becomes_explicit(mode: str, strides: list[int], dilations: list[int]) -> None:
    """Dilated SAME padding, which onnxruntime refuses, keeps the size that the standard gives."""
    body = f'y = Conv<auto_pad="{mode}", strides={strides}, dilations={dilations}>(x, w)'
    model = parse(body, w=RNG.random((4, 3, 3, 2), np.float32))
    runs = mode == "VALID" or dilations == [1, 1]
    graph = check(model, *([(2, 3, 9, 8), (5, 3, 9, 8)] if runs else []))
    if mode != "VALID":
        size = run(to_proto(graph), {"x": np.zeros((1, 3, 9, 8), np.float32)})[0].shape[2:]
        assert size == (-(-9 // strides[0]), -(-8 // strides[1]))
    assert "auto_pad" not in graph.nodes[0].attrs
    assert len(graph.nodes[0].attrs["pads"]) == 4


def test_auto_pad_of_pooling() -> None:
    body = 'y = MaxPool<auto_pad="SAME_UPPER", kernel_shape=[3,2], strides=[2,2]>(x)'
    assert "pads" in check(parse(body), (2, 3, 9, 8)).nodes[0].attrs


def test_auto_pad_of_dilated_pooling_stays() -> None:
    """There, onnxruntime pads less than the specification says."""
    for mode, stays in (("SAME_UPPER", True), ("SAME_LOWER", True), ("VALID", False)):
        body = f'y = MaxPool<auto_pad="{mode}", kernel_shape=[3,3], dilations=[2,1], strides=[4,2]>(x)'
        graph = check(parse(body), (2, 3, 9, 8))
        assert ("auto_pad" in graph.nodes[0].attrs) is stays
        x = RNG.standard_normal((1, 3, 9, 8)).astype(np.float32)
        y = run(to_proto(graph), {"x": x})[0]
        window = window_of(graph.nodes[0], (3, 3), (9, 8), y.shape[2:])
        taps = window.attributes() | {"ceil_mode": 0}
        del taps["group"]
        attributes = ", ".join(f"{key}={list(value) if key != 'ceil_mode' else value}" for key, value in taps.items())
        assert np.array_equal(run(parse(f"y = MaxPool<{attributes}>(x)"), {"x": x})[0], y)


def test_auto_pad_of_dynamic_sizes_stays() -> None:
    body = 'y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)'
    graph = check(parse(body, shape="n,3,h,w", w=RNG.random((4, 3, 3, 3), np.float32)), (1, 3, 9, 8), (1, 3, 10, 7))
    assert graph.nodes[0].attrs["auto_pad"] == "SAME_UPPER"


def test_constants_and_their_arithmetic_become_initializers() -> None:
    body = "c = Constant<value_float=2.0>() \n t = Transpose<perm=[1,0]>(w) \n u = Mul(t, c) \n"
    body += " f = Flatten(x) \n y = MatMul(f, u)"
    graph = check(parse(body, w=RNG.random((5, 216), np.float32)), (2, 3, 9, 8))
    assert [node.op for node in graph.nodes] == ["Flatten", "MatMul"]


@pytest.mark.parametrize(
    ("body", "target"),
    [
        (
            "s = Shape(x) \n n = Gather(s, zero) \n u = Unsqueeze(n, axis) \n"
            " t = Concat<axis=0>(u, minus) \n y = Reshape(x, t)",
            [0, -1],
        ),
        ("s = Shape(x) \n n = Slice(s, axis, one) \n t = Concat<axis=0>(n, k) \n y = Reshape(x, t)", [0, 216]),
        (
            "s = Shape(x) \n n = Slice(s, axis, one) \n m = Mul(n, k) \n"
            " t = Concat<axis=0>(m, one) \n y = Reshape(x, t)",
            [-1, 1],
        ),
    ],
)
def test_shape_chains_fold(body: str, target: list[int]) -> None:
    ints = {"zero": 0, "axis": [0], "one": [1], "minus": [-1], "k": [216]}
    used = {name: np.asarray(value, np.int64) for name, value in ints.items()}
    graph = check(parse(body, **used), (2, 3, 9, 8), (7, 3, 9, 8))
    assert [node.op for node in graph.nodes] == ["Reshape"]
    assert graph.nodes[0].inputs[1].values.tolist() == target


@pytest.mark.parametrize(
    "body",
    [
        "h, w = Split<axis=0>(p, ones) \n t = Concat<axis=0>(k, w, h) \n y = Reshape(x, t)",
        "h, w = Split<axis=0>(p, ones) \n g = Mul(h, two) \n v = Div(w, two) \n"
        " t = Concat<axis=0>(k, g, v) \n y = Reshape(x, t)",
        "q = Div(p, big) \n c = Cast<to=1>(q) \n r = ReduceMax(c) \n y = Mul(x, r)",
    ],
)
def test_sizes_do_not_pass_for_others(body: str) -> None:
    """Width for height, twice the height for the width, small quotients for constants."""
    ints = {"k": [-1, 3], "ones": [1, 1], "two": [2], "big": [64, 64], "two_i": [2], "four": [4]}
    used = {name: np.asarray(value, np.int64) for name, value in ints.items()}
    body = f"s = Shape(x) \n p = Slice(s, two_i, four) \n {body}"
    check(parse(body, shape="n,3,h,w", **used), (2, 3, 4, 6), (5, 3, 8, 4), (1, 3, 128, 64), (1, 3, 6, 6))


MEAN = "s = Shape(x) \n m = ReduceMean<axes=[2, 3]>(x) \n e = Expand(m, s)"
PEAK = "n = ReduceMax<axes=[1]>(x) \n f = Expand(n, s)"


@pytest.mark.parametrize(
    ("body", "expansions"),
    [
        (f"{MEAN} \n y = Mul(e, x)", 0),
        (f"{MEAN} \n {PEAK} \n y = Add(e, f)", 0),
        (f"{MEAN} \n y = Add(e, one)", 1),
        (f"{MEAN} \n y = Relu(e)", 1),
    ],
)
@pytest.mark.parametrize("shape", ["n,3,9,8", "n,3,h,w"])
def test_expansions_that_broadcasting_repeats_go(body: str, expansions: int, shape: str) -> None:
    model = parse(body, 13, shape, one=np.ones((1, 1, 1), np.float32))
    graph = check(model, (2, 3, 9, 8), (1, 3, 9, 8))
    assert [node.op for node in graph.nodes].count("Expand") == expansions


def test_values_of_the_input_never_fold() -> None:
    """An integer tensor that is equal for all probes, but depends on the data."""
    body = "m = ReduceMax<keepdims=0>(x) \n z = Sub(m, m) \n c = Greater(m, z) \n f = Cast<to=1>(c) \n y = Mul(x, f)"
    graph = canonicalize(to_graph(parse(body))).graph
    assert [node.op for node in graph.nodes] == ["ReduceMax", "Sub", "Greater", "Cast", "Mul"]


def test_absent_inputs_and_outputs_at_the_end_are_not_stated() -> None:
    model = parse("y = Relu(c)", w=RNG.random((4, 3, 3, 3), np.float32))
    model.graph.node.insert(0, onnx.helper.make_node("MaxPool", ["x"], ["p", ""], kernel_shape=[2, 2]))
    model.graph.node.insert(1, onnx.helper.make_node("Conv", ["p", "w", ""], ["c"]))
    model.graph.node.insert(0, onnx.helper.make_node("Clip", ["x", "", ""], ["z"]))
    model.graph.node[1].input[0] = "z"
    graph = check(model, (2, 3, 9, 8))
    assert [len(node.inputs) for node in graph.nodes] == [1, 1, 2, 1]
    assert all(len(node.outputs) == 1 for node in graph.nodes)


def test_old_opsets_are_converted() -> None:
    graph = check(parse("y = Softmax<axis=1>(x)", 11), (2, 3, 9, 8))
    assert graph.opset == 13


def test_modified_is_truthful() -> None:
    model = parse("y = Relu(x)")
    once = canonicalize(to_graph(model))
    assert not canonicalize(once.graph).modified
    assert canonicalize(to_graph(parse('y = MaxPool<auto_pad="VALID", kernel_shape=[2,2]>(x)'))).modified


@pytest.mark.parametrize("multiple", [2, 16, 32, 64])
def test_padding_to_a_multiple_stays(multiple: int) -> None:
    """The pad is zero for all sizes that are multiples, and for no other."""
    body = """s = Shape(x)
      h = Slice(s, two, three)
      r = Mod(h, m)
      d = Sub(m, r)
      p = Mod(d, m)
      pads = Concat<axis=0>(zeros, p, zero)
      y = Pad(x, pads)"""
    ints = {"two": [2], "three": [3], "m": [multiple], "zeros": [0] * 6, "zero": [0]}
    values = {name: np.asarray(value, np.int64) for name, value in ints.items()}
    check(parse(body, shape="n,3,h,w", **values), (1, 3, 64, 8), (2, 3, 65, 8), (1, 3, 97, 9))


def test_half_of_the_batch_stays() -> None:
    body = "s = Shape(x) \n n = Slice(s, zero, one) \n k = Div(n, two) \n"
    body += " t = Concat<axis=0>(k, minus) \n y = Reshape(x, t)"
    ints = {"zero": [0], "one": [1], "two": [2], "minus": [-1]}
    values = {name: np.asarray(value, np.int64) for name, value in ints.items()}
    check(parse(body, **values), (2, 3, 9, 8), (4, 3, 9, 8), (8, 3, 9, 8))


def test_pads_and_means_are_what_kernels_know() -> None:
    body = "p = Pad(x, around) \n c = Conv(p, w) \n y = ReduceMean<axes=[2,3], keepdims=0>(c)"
    arrays = {"around": np.array([0, 0, 0, 1, 0, 0, 1, 1]), "w": RNG.standard_normal((5, 3, 3, 3)).astype(np.float32)}
    model = parse(body, 13, **arrays)
    graph = check(model, (2, 3, 9, 8), (1, 3, 9, 8))
    assert [node.op for node in graph.nodes] == ["Conv", "GlobalAveragePool", "Flatten"]
    result, shapes = canonicalize_with_shapes(to_graph(model))
    pooled = result.graph.nodes[1].outputs[0].name
    assert shapes.sizes[pooled] == (2, 5, 1, 1) and shapes.varying(pooled) == (True, False, False, False)


def test_weights_that_are_outputs_stay_whatever_becomes_of_the_layer() -> None:
    model = parse("h = Gemm(x, w, c)  r = Relu(h)  y = Gemm(r, v, d)", shape="n,8")
    shapes = {"w": (8, 16), "c": (16,), "v": (16, 4), "d": (4,)}
    values = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    for name in ("v", "c", "d"):
        kind = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, values[name].shape)
        model.graph.output.append(kind)
    data = {"x": RNG.standard_normal((64, 8)).astype(np.float32)}
    made = {precision: hqp_onnx.quantize(model, data, precision=precision) for precision in ("int8", "dynamic", "fp16")}
    made["pruned"] = hqp_onnx.prune(model, 0.5, data=data, saliency="l2")
    for how, proto in made.items():
        found = dict(zip([o.name for o in proto.graph.output], run(proto, data), strict=True))
        assert all(np.array_equal(found[name], values[name]) for name in ("v", "c", "d")), how
