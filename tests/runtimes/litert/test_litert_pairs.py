"""Q/DQ as others write them: integers are taken with all that their scales and zero-points say, or not as integers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from tflite_operators import kinds

from hqp_onnx.errors import ModelError
from hqp_onnx.runtimes.litert import held
from hqp_onnx.runtimes.litert.rules import RULES
from hqp_onnx.runtimes.litert.session import LiteRtSession, compiled
from hqp_onnx.runtimes.session import Session
from hqp_onnx.steps.export import export

pytest.importorskip("ai_edge_litert")

IN = "q0 = QuantizeLinear(x, s, z) d = DequantizeLinear(q0, s, z)"
OUT = "q1 = QuantizeLinear(r, t, z) y = DequantizeLinear(q1, t, z)"
CONV = "float[1, 2, 5, 5] x"


def model_of(
    inputs: str, body: str, opset: int = 17, zero: str = "int8 z = {3}", **stored: np.ndarray
) -> onnx.ModelProto:
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => (float[] y)
        <float s = {{0.02}}, float t = {{0.1}}, {zero}> {{ {body} }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in stored.items())
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    value, rng = model.graph.input[0], np.random.default_rng(1)
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    x = (
        rng.uniform(-2.4, 2.4, shape)
        if kind == np.float32
        else rng.integers(*(-128, 127) if kind == np.int8 else (0, 255), shape)
    )
    return {value.name: x.astype(kind)}


def operators(model: onnx.ModelProto, steps: float = 1.01) -> Counter[tuple[str, bool]]:
    """Of the file, which gives what onnxruntime gives."""
    feeds = feeds_of(model)
    wanted, got = Session(model, optimize=False).run(feeds)["y"], LiteRtSession(model).run(feeds)["y"]
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    assert np.abs(got.astype(float) - wanted).max() <= steps * (0.1 if wanted.dtype == np.float32 else 1)
    assert np.abs(wanted).max() > 10 * 0.1
    return kinds(compiled(model, feeds))


def integers(low: int, high: int, shape: tuple[int, ...], kind: type) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, shape).astype(kind)


@pytest.mark.parametrize(
    ("kind", "low", "high", "zero"),
    [(np.uint8, 20, 250, [128]), (np.int8, -80, 80, [20]), (np.int8, -80, 80, [-9, 0, 30]), (np.int8, -100, 100, [0])],
)
def test_weights_of_any_zero_point_are_int8_around_0(kind: type, low: int, high: int, zero: list[int]) -> None:
    scale = np.full(len(zero), 0.01, np.float32).reshape(-1 if len(zero) > 1 else ())
    made = "w = DequantizeLinear<axis = 0>(v, vs, vz) r = Conv(d, w)"
    zeros = np.array(zero, kind).reshape(scale.shape)
    model = model_of(CONV, f"{IN} {made} {OUT}", v=integers(low, high, (3, 2, 3, 3), kind), vs=scale, vz=zeros)
    assert operators(model)["CONV_2D", True] == 1


def test_weights_that_do_not_fit_are_floats() -> None:
    made = "w = DequantizeLinear(v, vs, vz) r = Conv(d, w)"
    stored = {"v": integers(-128, 127, (3, 2, 3, 3), np.int8), "vs": np.float32(0.01), "vz": np.int8(100)}
    model = model_of(CONV, f"{IN} {made} {OUT}", **{name: np.asarray(value) for name, value in stored.items()})
    assert operators(model)["CONV_2D", False] == 1


@pytest.mark.parametrize(("axis", "int8"), [(0, False), (1, True)])
def test_scales_along_what_is_summed_leave_a_product_in_float(axis: int, int8: bool) -> None:
    scale = np.array([0.001, 0.01, 0.03, 0.1], np.float32)
    made = f"w = DequantizeLinear<axis = {axis}>(v, vs) r = MatMul(d, w)"
    model = model_of("float[3, 4] x", f"{IN} {made} {OUT}", v=integers(-100, 100, (4, 4), np.int8), vs=scale)
    assert operators(model)["FULLY_CONNECTED", int8] == 1


def test_scales_of_input_channels_or_of_blocks_leave_weights_in_float() -> None:
    scale = np.array([0.001, 0.02, 0.005], np.float32)
    made = "w = DequantizeLinear<axis = 1>(v, vs) r = Conv(d, w)"
    model = model_of(
        "float[1, 3, 5, 5] x", f"{IN} {made} {OUT}", v=integers(-100, 100, (3, 3, 3, 3), np.int8), vs=scale
    )
    assert operators(model)["CONV_2D", False] == 1
    blocks = np.array([[0.001, 0.01, 0.02], [0.03, 0.002, 0.004]], np.float32)
    made = "w = DequantizeLinear<axis = 0, block_size = 2>(v, vs) r = MatMul(d, w)"
    model = model_of("float[3, 4] x", f"{IN} {made} {OUT}", 21, v=integers(-100, 100, (4, 3), np.int8), vs=blocks)
    assert operators(model)["FULLY_CONNECTED", False] == 1


def test_stacked_weights_are_multiplied_in_float() -> None:
    made = "w = DequantizeLinear(v, vs) r = MatMul(d, w)"
    stored = {"v": integers(-100, 100, (2, 4, 5), np.int8), "vs": np.array(0.01, np.float32)}
    assert operators(model_of("float[2, 3, 4] x", f"{IN} {made} {OUT}", **stored))["BATCH_MATMUL", False] == 1


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize(
    "body",
    [
        "d = DequantizeLinear(x, s, z) y = Relu(d)",
        "d = DequantizeLinear(x, s, z) y = Exp(d)",
        "f = Flatten(x) y = DequantizeLinear(f, s, z)",
        "d = DequantizeLinear(x, s, z) r = MaxPool<kernel_shape = [2, 2]>(d) y = QuantizeLinear(r, s, z)",
    ],
)
def test_integers_come_in_and_go_out(kind: str, body: str) -> None:
    model = model_of(f"{kind}[1, 2, 5, 5] x", body, zero=f"{kind} z = {{20}}")
    if "y = Quant" in body:
        model.graph.output[0].type.tensor_type.elem_type = model.graph.input[0].type.tensor_type.elem_type
    assert operators(model)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize(
    "moved",
    [
        "m = Flatten(q)",
        "m = MaxPool<kernel_shape = [2, 2]>(q)",
        "m = Gather<axis = 1>(q, one)",
        "a = Identity(q) m = Concat<axis = 1>(a, q)",
        "a, b = Split<axis = 3>(q, parts) m = Transpose(b)",
        "m = Expand(q, sizes)",
    ],
)
def test_integers_are_moved_as_they_are(kind: str, moved: str) -> None:
    body = f"q = QuantizeLinear(x, s, z) {moved} y = DequantizeLinear(m, s, z)"
    stored = {"one": np.array(1), "parts": np.array([2, 3]), "sizes": np.array([2, 2, 5, 5])}
    model = model_of(CONV, body, zero=f"{kind} z = {{10}}", **stored)
    assert operators(model, 0.01)["DEQUANTIZE", False] == 1


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_tables_of_integers_are_looked_up_as_they_are(kind: type) -> None:
    body = "i = Cast<to = 7>(x) g = Gather(v, i) y = DequantizeLinear(g, t, z)"
    model = model_of("uint8[1, 3] x", body, zero=f"{kind.__name__} z = {{10}}", v=integers(0, 127, (256, 4), kind))
    assert operators(model, 0.01)["GATHER", True] == 1


@pytest.mark.parametrize(("kind", "opset"), [("uint8", 17), ("int8", 21), ("uint8", 21)])
def test_zero_points_may_be_left_out(kind: str, opset: int) -> None:
    said = f"<output_dtype = {getattr(onnx.TensorProto, kind.upper())}>" if opset > 17 else ""
    body = f"q = QuantizeLinear{said}(x, s) d = DequantizeLinear(q, s) y = MaxPool<kernel_shape = [1, 1]>(d)"
    assert operators(model_of(CONV, body, opset), 0.01)["MAX_POOL_2D", True] == 1


def test_a_reduction_over_nothing_changes_scales_alone() -> None:
    body = f"{IN} r = ReduceMean<noop_with_empty_axes = 1>(d) {OUT}"
    assert not operators(model_of(CONV, body, 18))["MEAN", True]


def test_a_mean_has_scales_of_its_own() -> None:
    body = f"{IN} m = ReduceMean<axes = [3]>(d) q1 = QuantizeLinear(m, u, z) y = DequantizeLinear(q1, u, z)"
    model = model_of(CONV, body, u=np.array(0.015, np.float32))
    assert operators(model, 0.31)["MEAN", True] == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, t, z)",
            "DequantizeLinear 'y': what it reads was not quantized with its scale and zero-point",
        ),
        (
            "q = QuantizeLinear(x, s, z) c = Cast<to = 1>(q) y = Mul(c, t)",
            "Cast 'c': it reads integers that stand for others by a scale",
        ),
        (
            "q = QuantizeLinear(x, s, z) p = Pad(q, pads) y = DequantizeLinear(p, s, z)",
            "Pad 'p': it reads integers that stand for others by a scale",
        ),
        (
            "q = QuantizeLinear<axis = 1>(x, v, vz) y = DequantizeLinear<axis = 1>(q, v, vz)",
            "QuantizeLinear 'q': expected one constant scale, and one zero-point",
        ),
        (
            "m = ReduceMax<keepdims = 0>(x) a = Abs(m) q = QuantizeLinear(x, a, z) y = DequantizeLinear(q, a, z)",
            "QuantizeLinear 'q': expected one constant scale, and one zero-point",
        ),
    ],
)
def test_pairs_without_a_counterpart_are_refused_by_name(body: str, words: str) -> None:
    stored = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "v": np.array([0.1, 0.2], np.float32)}
    model = model_of(CONV, body, **stored, vz=np.zeros(2, np.int8))
    Session(model).run(feeds_of(model))
    with pytest.raises(ModelError, match=f"^{words}$"):
        LiteRtSession(model).run(feeds_of(model))


def test_integers_that_differ_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CONV, f"{IN} y = MaxPool<kernel_shape = [2, 2]>(d)")
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2, 4, 4]))
    onnx.save(model, tmp_path / "a.onnx")
    said = export(tmp_path / "a.onnx", tmp_path / "right.tflite", "litert")
    assert said.error < 0.01
    monkeypatch.setitem(RULES, "MaxPool", RULES["AveragePool"])
    for run in (
        lambda: compiled(model, feeds_of(model)),
        lambda: export(tmp_path / "a.onnx", tmp_path / "wrong.tflite", "litert"),
    ):
        with pytest.raises(
            ModelError, match=r"something else than onnxruntime: output 'y' has .* dB of signal over noise"
        ):
            run()
    assert not (tmp_path / "wrong.tflite").exists()


@pytest.mark.parametrize(
    ("x", "y", "rounded", "why"),
    [
        ([0.0, 0.0], [0.1, 0.0], True, ""),  # a step
        ([0.0, 0.0], [0.5, 0.0], True, "output 'y' has -"),
        ([5.0, 5.0], [5.0, 6.5], True, "output 'y' has 13.5 dB of signal over noise, expected 15"),
        ([5.0, 5.0], [5.0, 5.6], True, ""),
        ([5.0, 5.0], [5.0, 5.6], False, "output 'y' differs by 12.00%"),
        ([5.0, np.inf], [5.0, np.inf], True, ""),
        ([5.0, np.nan], [5.0, np.nan], False, ""),
        ([5.0, 5.0], [5.0, np.nan], True, "output 'y' is infinite or no number elsewhere"),
        ([5.0, 5.0], [[5.0, 5.0]], True, "output 'y' is float32 [1, 2], expected float32 [2]"),
        ([0.0, 0.0], [1e-7, 0.0], False, ""),
        ([], [], False, ""),
    ],
)
def test_what_counts_as_rounding(x: list[float], y: list[float], rounded: bool, why: str) -> None:
    wanted, got = ({"y": np.array(values, np.float32)} for values in (x, y))
    found = held.difference(wanted, got, rounded, {"y": 0.1} if rounded else {})
    assert found.startswith(why) and bool(found) == bool(why)
