from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import ModelError
from hqp_onnx.graphs.model_io import load, to_graph
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.insert_qdq import insert_qdq
from hqp_onnx.passes.quantize import quantize
from hqp_onnx.quantization.placement import place, quantized_tensors
from hqp_onnx.runtimes.targets import Target, target
from hqp_onnx.statistics.calibration import Calibration, Range, calibrate

ROOT = Path(__file__).parents[2]
ORT, TRT = target("onnxruntime", reduced_range=False), target("tensorrt")
RNG = np.random.default_rng(0)


def parse(body: str, shape: str, arrays: dict[str, np.ndarray], opset: int = 17, outputs: str = "y") -> gs.Graph:
    declared = ", ".join(f"float[n] {name}" for name in outputs.split())  # shapes are left to inference
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{shape}] x) => ({declared}) {{ {body} }}'
    )
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return to_graph(onnx.shape_inference.infer_shapes(proto))


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """By onnxruntime, each node as written (onnx.reference has no Q/DQ below opset 19)."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def calibrated(graph: gs.Graph, aim: Target, x: np.ndarray) -> Calibration:
    return calibrate(gs.export_onnx(graph), quantized_tensors(graph, aim), [Batch({"x": x})], method="minmax")


def quantized(graph: gs.Graph, aim: Target, x: np.ndarray) -> onnx.ModelProto:
    model = gs.export_onnx(insert_qdq(graph, calibrated(graph, aim, x), aim).graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def optimized_ops(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Operators of the graph that onnxruntime runs."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


# -- arithmetic: the whole quantized graph against fake quantization in numpy --------------------------------------

BLOCK = """h = Conv(x, w1, b1) r = Relu(h) c = Conv(r, w2) a = Add(c, x) p = GlobalAveragePool(a)
           f = Flatten(p) y = Gemm<transB=1>(f, w3, b3)"""
ARRAYS = {
    "w1": normal(6, 4, 1, 1), "b1": normal(6), "w2": normal(4, 6, 1, 1), "w3": normal(3, 4), "b3": normal(3),
}  # fmt: skip


def fake_weight(w: np.ndarray, limit: int = 127) -> tuple[np.ndarray, np.ndarray]:
    flat = w.reshape(len(w), -1).astype(np.float64)
    scale = (np.abs(flat).max(axis=1) / limit).astype(np.float32)
    return (np.rint(flat / scale[:, None]) * scale[:, None]).reshape(w.shape), scale


def fake_bias(b: np.ndarray, input_scale: np.float32, weight_scale: np.ndarray) -> np.ndarray:
    scale = (input_scale * weight_scale).astype(np.float32)
    return np.rint(b / scale.astype(np.float64)) * scale


def fake_u8(v: np.ndarray, like: np.ndarray) -> tuple[np.ndarray, np.float32]:
    lo, hi = min(like.min(), 0), max(like.max(), 0)
    scale = np.float32((np.float64(hi) - np.float64(lo)) / 255)
    zero = np.rint(-lo / np.float64(scale))
    return (np.clip(np.rint(v.astype(np.float32) / scale) + zero, 0, 255) - zero) * scale, scale


def fake_s8(v: np.ndarray, like: np.ndarray) -> np.ndarray:
    scale = np.float32(np.float64(np.abs(like).max()) / 127)
    return np.clip(np.rint(v.astype(np.float32) / scale), -128, 127) * scale


def conv1x1(v: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.einsum("nchw,oc->nohw", v, w[:, :, 0, 0])


def float_values(x: np.ndarray) -> dict[str, np.ndarray]:
    r = np.maximum(conv1x1(x, ARRAYS["w1"]) + ARRAYS["b1"][:, None, None], 0)
    c = conv1x1(r, ARRAYS["w2"])
    a = c + x
    return {"x": x, "r": r, "c": c, "a": a, "p": a.mean((2, 3))}


def test_onnxruntime_arithmetic_is_fake_quantization() -> None:
    x = normal(8, 4, 5, 5)
    v = float_values(x)
    (w1, s1), (w2, _), (w3, s3) = (fake_weight(ARRAYS[k]) for k in ("w1", "w2", "w3"))
    xq, sx = fake_u8(x, v["x"])
    r, _ = fake_u8(np.maximum(conv1x1(xq, w1) + fake_bias(ARRAYS["b1"], sx, s1)[:, None, None], 0), v["r"])
    c, _ = fake_u8(conv1x1(r, w2), v["c"])
    a, _ = fake_u8(c + xq, v["a"])
    p, sp = fake_u8(a.mean((2, 3)), v["p"])
    expected = p @ w3.T + fake_bias(ARRAYS["b3"], sp, s3)
    got = run(quantized(parse(BLOCK, "N,4,5,5", ARRAYS), ORT, x), x)[0]
    off = np.abs(got - expected) > 1e-5  # a value on a rounding edge may fall either way
    assert off.mean() < 0.1 and np.abs(got - expected).max() < 0.02 * np.abs(expected).max()


def test_tensorrt_arithmetic_is_fake_quantization() -> None:
    x = normal(8, 4, 5, 5)
    v = float_values(x)
    (w1, _), (w2, _), (w3, _) = (fake_weight(ARRAYS[k]) for k in ("w1", "w2", "w3"))
    xq = fake_s8(x, v["x"])
    r = fake_s8(np.maximum(conv1x1(xq, w1) + ARRAYS["b1"][:, None, None], 0), v["r"])
    a = conv1x1(r, w2) + xq
    expected = fake_s8(a.mean((2, 3)), v["p"]) @ w3.T + ARRAYS["b3"]
    got = run(quantized(parse(BLOCK, "N,4,5,5", ARRAYS), TRT, x), x)[0]
    off = np.abs(got - expected) > 1e-5
    assert off.mean() < 0.1 and np.abs(got - expected).max() < 0.02 * np.abs(expected).max()


# -- what each target requires ------------------------------------------------------------------------------------


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


@pytest.mark.parametrize("aim", [ORT, TRT], ids=lambda aim: aim.name)
def test_number_formats(aim: Target) -> None:
    model = quantized(parse(BLOCK, "N,4,5,5", ARRAYS), aim, normal(8, 4, 5, 5))
    constants, made_by = initializers(model), producers(model)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = constants[node.input[2]]
            assert zero.dtype == (np.int8 if aim is TRT else np.uint8) and zero.shape == ()
            assert aim is ORT or zero == 0
        if node.op_type in ("Conv", "Gemm"):
            weight = constants[made_by[node.input[1]].input[0]]
            assert weight.dtype == np.int8 and np.abs(weight.astype(int)).max() == 127
            assert not constants[made_by[node.input[1]].input[2]].any()
        if len(node.input) > 2 and node.op_type in ("Conv", "Gemm"):
            bias = node.input[2]
            if aim is TRT:
                assert constants[bias].dtype == np.float32
            else:
                q, s, _ = made_by[bias].input
                data, weight = made_by[node.input[0]], made_by[node.input[1]]
                assert constants[q].dtype == np.int32
                np.testing.assert_allclose(
                    constants[s], constants[data.input[1]] * constants[weight.input[1]], rtol=1e-6
                )


@pytest.mark.parametrize("lo", [-0.3, -1.0, -2.4, -2.6, -5.0, 0.0, 2.0])
@pytest.mark.parametrize("hi", [0.0, 0.7, 3.0, 5.0])
def test_zero_is_the_nearest_integer(lo: float, hi: float) -> None:
    """0 is exact, and the ends of the 255 steps are at most half a step from those of the range."""
    lo, hi = min(lo, hi), max(lo, hi)
    calibration = Calibration({name: Range(lo, hi, 5.0) for name in ("x", "y")}, "minmax")
    graph = parse("y = Conv(x, w)", "N,4,5,5", {"w": normal(6, 4, 1, 1)})
    constants = initializers(gs.export_onnx(insert_qdq(graph, calibration, ORT).graph))
    scale, zero = float(constants["x/scale"]), int(constants["x/zero_point"])
    assert scale == pytest.approx((max(hi, 0) - min(lo, 0) or 5.0) / 255)
    assert abs(scale * (0 - zero) - min(lo, 0)) <= 0.5001 * scale
    assert abs(scale * (255 - zero) - max(hi, 0)) <= 0.5001 * scale or lo == hi == 0


def test_tensorrt_pairs_sit_on_inputs_only() -> None:
    model = quantized(parse(BLOCK, "N,4,5,5", ARRAYS), TRT, normal(8, 4, 5, 5))
    made_by = producers(model)
    add = next(node for node in model.graph.node if node.op_type == "Add")
    assert [made_by[name].op_type for name in add.input] == ["Conv", "DequantizeLinear"]
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    assert made_by[relu.input[0]].op_type == "Conv"
    pool = next(node for node in model.graph.node if node.op_type == "GlobalAveragePool")
    assert made_by[pool.input[0]].op_type == "Add"
    assert {made_by[n.input[0]].op_type for n in model.graph.node if n.op_type in ("Conv", "Gemm")} == {
        "DequantizeLinear"
    }


def test_tensorrt_leaves_sums_of_unequal_shapes_and_constants_alone() -> None:
    body = "c = Conv(x, w) m = GlobalAveragePool(c) s = Add(c, m) y = Add(s, k)"
    graph = parse(body, "N,4,5,5", {"w": normal(4, 4, 1, 1), "k": normal(4, 1, 1)})
    assert quantized_tensors(graph, TRT) == ["x"]


FUSED = {
    "block": (BLOCK, "N,4,5,5", ARRAYS, {"QLinearConv": 2, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1}),
    "clip": (
        "h = Conv(x, w) r = Clip(h, lo, hi) y = Conv(r, v)", "N,4,5,5",
        {"w": 9 * normal(4, 4, 1, 1), "v": normal(4, 4, 1, 1), "lo": np.float32(0), "hi": np.float32(6)},
        {"QLinearConv": 2, "Clip": 0},
    ),
    "pool and concat": (
        """h = Conv(x, w) m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h) g = Conv(m, v)
           n = AveragePool<kernel_shape=[1,1]>(g) k = Concat<axis=1>(m, n) d = Conv(k, u) y = Neg(d)""",
        "N,4,6,6", {"w": normal(4, 4, 1, 1), "v": normal(4, 4, 1, 1), "u": normal(4, 8, 1, 1)},
        {"QLinearConv": 3, "MaxPool": 1, "QLinearConcat": 1, "QLinearAveragePool": 1, "QuantizeLinear": 1},
    ),
    "grouped and depthwise": (
        "h = Conv<group=2>(x, w, b) r = Relu(h) d = Conv<group=4, pads=[1,1,1,1]>(r, v) y = Neg(d)", "N,4,5,5",
        {"w": normal(4, 2, 1, 1), "b": normal(4), "v": normal(4, 1, 3, 3)}, {"QLinearConv": 2, "Relu": 0},
    ),
    "shuffle": (
        """h = Conv(x, w) a, b = Split<axis=1>(h, half) c = Conv(a, v) k = Concat<axis=1>(c, b)
           r = Reshape(k, five) t = Transpose<perm=[0,2,1,3,4]>(r) f = Reshape(t, four) y = Conv(f, w)""",
        "N,4,5,5", {"w": normal(4, 4, 1, 1), "v": normal(2, 2, 1, 1), "half": np.int64([2, 2]),
                    "five": np.int64([0, 2, 2, 5, 5]), "four": np.int64([0, 4, 5, 5])},
        {"QLinearConv": 3, "QLinearConcat": 1, "QuantizeLinear": 1, "DequantizeLinear": 1},
    ),
    "matmul": ("h = MatMul(x, w) r = Relu(h) y = MatMul(r, v)", "N,4", {"w": normal(4, 8), "v": normal(8, 3)},
               {"QLinearMatMul": 1, "MatMulIntegerToFloat": 1, "MatMul": 0, "Relu": 0}),
    "attention": ("t = Transpose<perm=[0,2,1]>(x) s = MatMul(x, t) y = Softmax(s)", "N,4,5", {},
                  {"MatMulIntegerToFloat": 1, "MatMul": 0}),
}  # fmt: skip


@pytest.mark.parametrize("case", FUSED)
def test_onnxruntime_fuses(case: str, tmp_path: Path) -> None:
    body, shape, arrays, expected = FUSED[case]
    sizes = [8, *(int(n) for n in shape.split(",")[1:])]
    graph, x = parse(body, shape, arrays), normal(*sizes)
    model = quantized(graph, ORT, x)
    ops = optimized_ops(model, tmp_path)
    assert {op: ops[op] for op in expected} == expected, ops
    reference = run(gs.export_onnx(graph), x)[0]
    got = run(model, x)[0]
    assert np.linalg.norm(got - reference) < 0.05 * np.linalg.norm(reference)


# -- edges --------------------------------------------------------------------------------------------------------


def test_a_weight_shared_by_nodes_is_stored_once() -> None:
    graph = parse("h = Conv(x, w, b) r = Relu(h) y = Conv(r, w, c)", "N,4,5,5",
                  {"w": normal(4, 4, 1, 1), "b": normal(4), "c": normal(4)})  # fmt: skip
    x = normal(8, 4, 5, 5)
    for aim in (ORT, TRT):
        model = quantized(graph, aim, x)
        assert sum(array.dtype == np.int8 and array.ndim == 4 for array in initializers(model).values()) == 1
        reference = run(gs.export_onnx(graph), x)[0]
        np.testing.assert_allclose(run(model, x)[0], reference, atol=0.05 * np.abs(reference).max())


def test_a_bias_always_fits_int32_and_zero_channels_keep_theirs() -> None:
    w, b = normal(4, 4, 1, 1), np.float32([1000, -3, 2, 1e-3])
    w[0], w[1] = 0, w[1] * 1e-12
    graph, x = parse("h = Conv(x, w, b) y = Neg(h)", "N,4,5,5", {"w": w, "b": b}), normal(8, 4, 5, 5)
    y = run(quantized(graph, ORT, x), x)[0]
    assert np.abs(y[:, 0] + 1000).max() < 2.1 * 1002 / 255  # one step of h's scale
    stored = [a for a in initializers(quantized(graph, ORT, x)).values() if a.dtype == np.int32 and a.any()]
    assert len(stored) == 1 and np.abs(stored[0].astype(np.int64)).max() <= 1.001 * 2**30


def test_reduced_range_limits_weights() -> None:
    aim = target("onnxruntime", reduced_range=True)
    model = quantized(parse(BLOCK, "N,4,5,5", ARRAYS), aim, normal(8, 4, 5, 5))
    weights = [a for a in initializers(model).values() if a.dtype == np.int8 and a.ndim > 1]
    assert {int(np.abs(a.astype(int)).max()) for a in weights} == {64}


def test_an_older_opset_is_converted() -> None:
    graph = parse("h = Conv(x, w) y = Relu(h)", "N,4,5,5", {"w": normal(4, 4, 1, 1)}, opset=11)
    result = insert_qdq(graph, calibrated(graph, ORT, normal(8, 4, 5, 5)), ORT)
    assert result.graph.opset == 13 and any("converted" in note for note in result.notes)
    onnx.checker.check_model(gs.export_onnx(result.graph), full_check=True)


def test_the_argument_is_untouched_and_the_interface_kept() -> None:
    graph = parse(BLOCK, "N,4,5,5", ARRAYS)
    before = gs.export_onnx(graph).SerializeToString()
    result = insert_qdq(graph, calibrated(graph, TRT, normal(8, 4, 5, 5)), TRT)
    assert gs.export_onnx(graph).SerializeToString() == before and result.modified
    for ours, theirs in zip(result.graph.inputs + result.graph.outputs, graph.inputs + graph.outputs, strict=True):
        assert (ours.name, ours.dtype, ours.shape) == (theirs.name, theirs.dtype, theirs.shape)


def test_an_output_inside_the_graph_keeps_name_and_type() -> None:
    graph = parse("h = Conv(x, w) r = Relu(h) y = Conv(r, w)", "N,4,5,5", {"w": normal(4, 4, 1, 1)}, outputs="y r")
    x = normal(8, 4, 5, 5)
    r = run(gs.export_onnx(graph), x)[1]
    for aim in (ORT, TRT):
        model = quantized(graph, aim, x)
        assert [output.name for output in model.graph.output] == ["y", "r"]
        y, got = run(model, x)
        assert y.dtype == got.dtype == np.float32
        np.testing.assert_allclose(got, r, atol=0.03 * r.max())


@pytest.mark.parametrize(
    ("body", "shape", "arrays", "reason"),
    [
        ("k = Neg(w) y = Conv(x, k)", "N,4,5,5", {"w": normal(4, 4, 1, 1)}, "weight is not constant"),
        ("y = Gemm<alpha=0.5>(x, w)", "N,4", {"w": normal(4, 4)}, "alpha"),
        ("y = Gemm<beta=0.5>(x, w, b)", "N,4", {"w": normal(4, 4), "b": normal(4)}, "scaled"),
        ("y = Gemm(x, w, b)", "4,4", {"w": normal(4, 4), "b": normal(4, 1)}, "one value per channel"),
        ("y = MatMul(w, x)", "4,N", {"w": normal(4, 4)}, "first input is constant"),
    ],
)
def test_what_stays_in_float_says_why(body: str, shape: str, arrays: dict[str, np.ndarray], reason: str) -> None:
    placement = place(parse(body, shape, arrays), ORT)
    assert not placement.weighted and not placement.tensors
    assert reason in placement.notes[0]


def test_operators_without_activations_in_reach_of_int8_are_listed() -> None:
    graph = parse("h = Conv(x, w) s = HardSwish(h) e = Exp(s) y = Conv(e, w)", "N,4,5,5", {"w": normal(4, 4, 1, 1)})
    assert place(graph, ORT).notes == ("without Q/DQ on all inputs: 1 Exp",)
    assert place(graph, ORT).tensors == {name: name for name in "xhey"}
    assert place(graph, TRT).tensors == {name: name for name in "xe"}


def test_bad_input_is_named() -> None:
    graph = parse("h = Conv(x, w) y = Relu(h)", "N,4,5,5", {"w": normal(4, 4, 1, 1)})
    with pytest.raises(ModelError, match="no range for tensor 'x'"):
        insert_qdq(graph, Calibration({"y": Range(0, 1, 1)}, "minmax"), ORT)
    once = insert_qdq(graph, calibrated(graph, ORT, normal(8, 4, 5, 5)), ORT).graph
    with pytest.raises(ModelError, match="quantized already"):
        insert_qdq(once, Calibration({}, "minmax"), ORT)


# -- trained models -----------------------------------------------------------------------------------------------


def images(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    with np.load(ROOT / "models" / f"fashion_mnist_{name}.npz") as arrays:
        return arrays["input"][:count].astype(np.float32), arrays["labels"][:count]


def top1(model: onnx.ModelProto) -> float:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x, labels = images("test", 1000)
    return float((session.run(None, {"input": x})[0].argmax(1) == labels).mean())


CONVS = {"resnet18": 20, "mobilenet_v3_small": 52}


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("aim", [ORT, TRT], ids=lambda aim: aim.name)
def test_trained_models_stay_small_and_accurate(name: str, aim: Target, tmp_path: Path) -> None:
    path = ROOT / "models" / f"{name}.onnx"
    graph = canonicalize(to_graph(load(path))).graph
    x = images("calib", 100)[0]
    result = quantize(graph, [Batch({"input": part}) for part in np.array_split(x, 4)], aim)
    model = gs.export_onnx(result.graph)
    onnx.save(model, tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size < 0.35 * path.stat().st_size
    assert set(result.calibration.ranges) == set(quantized_tensors(fold_batchnorm(graph).graph, aim))
    assert top1(onnx.load(tmp_path / "int8.onnx")) > top1(gs.export_onnx(graph)) - 0.015
    if aim is ORT:
        ops = optimized_ops(model, tmp_path)
        assert (ops["QLinearConv"], ops["Conv"] + ops["FusedConv"]) == (CONVS[name], 0)


# -- what has no integers, and what has unusual weights -------------------------------------------------------------

RESIDUALS = {  # body, and the tensors with pairs for TensorRT
    "the sum is part of the convolution before it": ("c = Conv(x, u) s = Add(c, x) y = Conv(s, u)", "x s"),
    "of two convolutions, one takes the sum in": (
        "b = Conv(x, u) c = Conv(x, u) s = Add(b, c) y = Conv(s, u)",
        "x c s",
    ),
    "a convolution with other readers": ("c = Conv(x, u) s = Add(c, x) t = Conv(c, u) y = Add(s, t)", "x c s"),
    "no convolution": ("c = Relu(x) s = Add(c, x) y = Conv(s, u)", "x c s"),
}


@pytest.mark.parametrize("name", RESIDUALS)
def test_residual_sums_of_tensorrt(name: str) -> None:
    body, pairs = RESIDUALS[name]
    graph = parse(body, "N,4,5,5", {"u": normal(4, 4, 1, 1)})
    assert set(place(graph, TRT).tensors) == set(pairs.split())
    for node in graph.nodes:  # whatever stays in float, its ranges are known
        assert set(place(graph, TRT, [node.outputs[0].name]).tensors) <= set(pairs.split())


@pytest.mark.parametrize("aim", [ORT, TRT, target("openvino", reduced_range=False)], ids=lambda aim: aim.name)
@pytest.mark.parametrize(
    ("stack", "shape"), [((4, 6, 3), "N,4,5,6"), ((1, 6, 3), "N,5,6"), ((2, 1, 6, 3), "N,2,4,5,6")]
)
def test_products_by_stacks_of_matrices(aim: Target, stack: tuple[int, ...], shape: str) -> None:
    x, w = normal(16, *map(int, shape.split(",")[1:])), normal(*stack)
    model = quantized(parse("y = MatMul(x, w)", shape, {"w": w}), aim, x)
    session = pytest.importorskip("onnxruntime").InferenceSession(model.SerializeToString())
    got, want = session.run(None, {"x": x})[0], x @ w
    assert np.square(got - want).sum() < 1e-3 * np.square(want).sum()  # 30 dB
    assert "DequantizeLinear" in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("aim", [ORT, TRT, target("openvino", reduced_range=False)], ids=lambda aim: aim.name)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_weights_that_are_not_finite_stay_as_they_are(aim: Target, value: float) -> None:
    x, arrays = normal(8, 4, 5, 5), {"u": normal(4, 4, 1, 1), "v": normal(16, 100), "b": normal(4)}
    arrays["v"][3, 7] = value
    body = """c = Conv(x, u, b) p = GlobalAveragePool(c) f = Flatten<axis=1>(p) g = Concat<axis=1>(f, f, f, f)
              y = MatMul(g, v)"""
    graph = parse(body, "N,4,5,5", arrays)
    result = quantize(canonicalize(graph).graph, [Batch({"x": x})], aim, "minmax")
    with np.errstate(all="ignore"):
        want, got = run(gs.export_onnx(graph), x)[0], run(gs.export_onnx(result.graph), x)[0]
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    finite = np.isfinite(want)
    assert finite.any() and np.abs(got[finite] - want[finite]).max() < 0.05 * np.abs(want[finite]).max()


@pytest.mark.parametrize("aim", [ORT, TRT, target("openvino", reduced_range=False)], ids=lambda aim: aim.name)
def test_activations_that_are_not_finite_stay_in_float(aim: Target) -> None:
    x = normal(8, 4, 4)
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    body = """q = MatMul(x, u) s = MatMul(q, x) m = Add(s, mask) r = Reshape(m, shape) o = MatMul(r, one)
              p = Softmax(m) y = MatMul(p, v) z = Identity(o)"""
    arrays = {"u": normal(4, 4), "v": normal(4, 3), "mask": mask, "one": np.eye(4, dtype=np.float32)}
    graph = parse(body, "N,4,4", {**arrays, "shape": np.array([0, 0, 4])}, outputs="y z")
    result = quantize(canonicalize(graph).graph, [Batch({"x": x})], aim, "minmax")
    want, got = run(gs.export_onnx(graph), x)[0], run(gs.export_onnx(result.graph), x)[0]
    assert np.square(got - want).sum() < 1e-2 * np.square(want).sum()
    assert any("is NaN or infinite on calibration samples, and stays in float" in line for line in result.warnings)


def test_a_graph_with_nothing_to_quantize_says_so() -> None:
    result = quantize(
        parse("y = MatMul(w, x)", "5,6", {"w": normal(4, 5)}), [Batch({"x": normal(5, 6)})], ORT, "minmax"
    )
    assert "no node was quantized: MatMul" in result.warnings[0] and "its first input is constant" in result.warnings[0]
