"""Vela's estimates: what they count, what they name, and what cannot be right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.runtimes.ethos.vela import Chip, Estimate, Row, chip_of, estimate
from hqp_onnx.runtimes.runners import open_runner
from hqp_onnx.runtimes.targets import target

CHIP = Chip("ethos-u55-256", "Ethos_U55_High_End_Embedded", "Shared_Sram")


def test_names_of_chips() -> None:
    assert chip_of("ethos-u55-256") == CHIP
    assert chip_of("ethos-u85-512:Ethos_U85_SYS_DRAM_High:Dedicated_Sram_512KB") == Chip(
        "ethos-u85-512", "Ethos_U85_SYS_DRAM_High", "Dedicated_Sram_512KB"
    )
    assert target("ethos-u65-256").runtime.describe  # not among the registered ones
    for name, words in (("ethos-u55-512", "expected one of ethos-u55-32, "), ("ethos-u55-64:A", "SYSTEM and MEMORY")):
        with pytest.raises(UsageError, match=words):
            target(name)


def test_more_products_than_the_chip_has_units_for_cannot_be_right() -> None:
    rows = (Row("Conv2D", "a", True, 10, 2561), Row("Conv2D", "b", True, 10, 2560), Row("Mul", "c", False, 0, 99))
    assert Estimate(b"", 20, 1e6, rows).implausible(CHIP) == (
        "Conv2D 'a': 2561 multiply-accumulates in 10 cycles, where ethos-u55-256 needs 11 at least",
    )


@pytest.fixture(scope="module")
def int8() -> onnx.ModelProto:
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("ethosu")
    return hqp_onnx.quantize(small_model(), data=small_data(), target="ethos-u55-256")


def test_a_model_is_on_the_npu_and_takes_the_sum_of_its_rows(int8: onnx.ModelProto) -> None:
    place, feeds = target("ethos-u55-256"), {"input": np.zeros((1, 1, 8, 8), np.float32)}
    kernels = place.runtime.kernels(int8, feeds, 0, 1)
    runners = {"float": open_runner(small_model(), place), "int8": open_runner(int8, place)}
    found = measure(runners, feeds, 0.1)
    assert sum(kernel.seconds for kernel in kernels) * 1e3 == pytest.approx(found["int8"].median_ms)
    assert found["float"].median_ms == pytest.approx(found["int8"].median_ms, rel=0.1)  # as if it were in INT8
    assert {name for kernel in kernels for name in kernel.names} >= {"r1/quantized", "logits/quantized"}
    sizes = {shape for kernel in kernels if "r1/quantized" in kernel.names for shape in kernel.shapes}
    assert {(1, 8, 8, 16), (16, 3, 3, 1)} <= sizes
    (cycles, left) = place.runtime.notes(int8, feeds)
    assert cycles.endswith("cycles of the NPU at 500 MHz, as Vela estimates")
    assert left.startswith("left to the CPU beside the NPU, whose time is not known: 1 Dequantize, 1 Mul, 1 Quantize")


def test_what_is_left_to_the_cpu_is_said_with_velas_reason(int8: onnx.ModelProto) -> None:
    feeds = {"input": np.zeros((1, 1, 8, 8), np.float32)}
    for model in (int8, small_model()):
        rows, left = target("ethos-u55-256").runtime.placed(model, feeds)
        assert rows > len(left)
        reasons = {operator: reason for _, operator, reason in left}
        assert reasons["Dequantize"] == "Unsupported opType"
        assert reasons["Mul"].startswith("Operation has tensor with unsupported DataType Float32")


def test_a_fused_row_has_the_shapes_of_all_that_it_computes(int8: onnx.ModelProto) -> None:
    swish = small_model()
    for node in swish.graph.node:
        node.op_type = "HardSwish" if node.op_type == "Relu" else node.op_type
    feeds = {"input": np.zeros((1, 1, 8, 8), np.float32)}
    kernels = target("ethos-u55-256").runtime.kernels(swish, feeds, 0, 1)
    (row,) = [kernel for kernel in kernels if kernel.names == ("r2/quantized",) and (24, 3, 3, 16) in kernel.shapes][:1]
    assert {(1, 8, 8, 16), (1, 8, 8, 24)} <= set(row.shapes)  # what the convolution reads, and what the look-up gives


def test_it_is_judged_by_litert(int8: onnx.ModelProto) -> None:
    data = small_data()["input"].astype(np.float32)
    runner = open_runner(int8, target("ethos-u55-256"))
    assert {runner: 1}[runner] == 1  # as sessions are remembered
    got = runner.run({"input": data})["logits"]
    same = open_runner(int8, target("litert")).run({"input": data})["logits"]
    np.testing.assert_array_equal(got, same)


def test_what_vela_refuses_is_one_line(int8: onnx.ModelProto) -> None:
    with pytest.raises(ModelError, match=r"^Vela cannot compile the model: "):
        estimate(b"no model", CHIP)
