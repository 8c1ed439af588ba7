from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hqp_onnx.errors import UsageError
from hqp_onnx.runtimes.machine import saturates
from hqp_onnx.runtimes.targets import target


def test_number_formats() -> None:
    ort, trt = target("onnxruntime", reduced_range=False), target("tensorrt")
    assert (ort.activation_type, trt.activation_type) == (np.uint8, np.int8)
    assert (ort.int32_bias, trt.int32_bias) == (True, False)
    assert (ort.weight_limit, trt.weight_limit) == (127, 127)
    assert trt.channel_multiple == 32


def test_reduced_weights_cannot_saturate_int16() -> None:
    limit = target("onnxruntime", reduced_range=True).weight_limit
    assert 2 * 255 * limit <= np.iinfo(np.int16).max < 2 * 255 * (limit + 1)


def test_an_unknown_target_lists_those_that_exist() -> None:
    with pytest.raises(UsageError, match=r"'tpu'.*cuda, onnxruntime, openvino, tensorrt, or onnxruntime:"):
        target("tpu")
    with pytest.raises(UsageError, match="'onnxruntime:cuda'"):
        target("onnxruntime:cuda")


def test_a_target_is_a_layout_and_a_runtime() -> None:
    assert target("onnxruntime").runtime == target("tensorrt").runtime == "CPUExecutionProvider"
    assert target("openvino").runtime == "openvino"
    assert target("cuda").runtime == "CUDAExecutionProvider"
    on_trt, on_xnnpack = (target(f"onnxruntime:{name}ExecutionProvider") for name in ("Tensorrt", "Xnnpack"))
    assert on_trt.symmetric and not on_xnnpack.symmetric
    assert on_xnnpack == replace(target("onnxruntime"), name=on_xnnpack.name, runtime="XnnpackExecutionProvider")


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags : sse2 avx2 fma", True),
        ("AMD64", "flags : avx2 avx512f avx512_vnni", False),
        ("x86_64", "flags : avx2 avx_vnni", False),
        ("x86_64", None, True),
        ("aarch64", None, False),
        ("arm64", "Features : asimd", False),
    ],
)
def test_saturation_is_read_from_the_processor(machine: str, flags: str | None, expected: bool, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(flags)
    assert saturates(machine, cpuinfo) is expected


def test_only_unsigned_activations_saturate() -> None:
    assert target("onnxruntime").reduced_range is target("openvino").reduced_range is saturates()
    assert target("tensorrt").reduced_range is False
