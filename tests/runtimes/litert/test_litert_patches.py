"""Windows that lie side by side lose their strides for Ethos-U: the same is computed, and Vela makes few rows."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

import hqp_onnx
from hqp_onnx.runtimes.litert.rules.patches import are_patches
from hqp_onnx.runtimes.litert.session import LiteRtSession, compiled
from hqp_onnx.runtimes.session import Session

pytest.importorskip("ai_edge_litert")


def model(kernel: tuple[int, int], stride: tuple[int, int]) -> onnx.ModelProto:
    """A convolution of 3 to 8 channels on 8 x 15 pixels."""
    made = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, 8, 15] x) => (float[n, 8, p, q] y)
        {{ c = Conv<strides = [{stride[0]}, {stride[1]}]>(x, w, b) y = Relu(c) }}"""
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w", (8, 3, *kernel)), ("b", (8,))):
        made.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return made


def data(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, 8, 15)).astype(np.float32)


@pytest.mark.parametrize("kernel", [(4, 5), (8, 3), (2, 15), (4, 3)])
def test_the_same_is_computed_without_strides(kernel: tuple[int, int]) -> None:
    assert are_patches(kernel, kernel, (1, 1), (8, 15), False)
    x = data(3)
    got = LiteRtSession(model(kernel, kernel), lookups=True).run({"x": x})["y"]
    np.testing.assert_allclose(got, Session(model(kernel, kernel)).run({"x": x})["y"], rtol=1e-5, atol=1e-5)


def test_integers_are_those_of_the_convolution_with_strides() -> None:
    int8 = hqp_onnx.quantize(model((4, 5), (4, 5)), data={"x": data(40)}, target="ethos-u55-256")
    with_strides, without = (LiteRtSession(int8, lookups=on).run({"x": data(3)})["y"] for on in (False, True))
    np.testing.assert_array_equal(with_strides, without)


def test_others_keep_their_strides() -> None:
    assert not are_patches((4, 5), (4, 5), (1, 1), (8, 14), False)  # a rest that no window covers
    assert not are_patches((4, 4), (4, 5), (1, 1), (8, 15), False)
    assert not are_patches((2, 3), (2, 3), (1, 1), (8, 15), False)  # the NPU has these
    assert not are_patches((4, 5), (4, 5), (1, 1), (8, 15), True)
    x = data(2)
    got = LiteRtSession(model((3, 4), (4, 4)), lookups=True).run({"x": x})["y"]
    np.testing.assert_allclose(got, Session(model((3, 4), (4, 4))).run({"x": x})["y"], rtol=1e-5, atol=1e-5)


def test_vela_makes_one_operator_of_it() -> None:
    pytest.importorskip("ethosu")
    from hqp_onnx.runtimes.ethos.vela import chip_of, estimate

    chip = chip_of("ethos-u55-256")
    few, many = (
        estimate(compiled(model((4, 5), (4, 5)), {"x": data(1)}, lookups=on, assume=True), chip) for on in (True, False)
    )
    assert len([row for row in few.rows if row.on_npu]) < len([row for row in many.rows if row.on_npu])
    assert few.cycles < many.cycles
