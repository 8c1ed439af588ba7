from __future__ import annotations

from dataclasses import replace

import pytest

from hqp_onnx.engine.capability import Capability, parse_version
from hqp_onnx.engine.device import Device
from hqp_onnx.engine.library import TENSORRT_RTX
from hqp_onnx.engine.plan import Plan, Request, choose
from hqp_onnx.errors import UsageError

ORIN, NANO, PASCAL = Device("Orin", (8, 7)), Device("NVIDIA Tegra X1", (5, 3)), Device("GTX 1080", (6, 1))


def able(version: str, device: Device | None = ORIN, dla: int | None = 2) -> Capability:
    return replace(Capability.of_version(version), device=device, dla_cores=dla)


def way(plan: Plan) -> tuple[object, ...]:
    return plan.precision, plan.path, plan.scales, plan.strongly_typed, plan.flags


DATA, QDQ = Request(data=True), Request(quantized=True)
PLANS = [
    ("8.5.2", DATA, ("int8", "implicit", "own", False, ("INT8", "FP16"))),
    ("8.6.2", replace(DATA, scales="tensorrt"), ("int8", "implicit", "tensorrt", False, ("INT8", "FP16"))),
    ("8.6.2", replace(DATA, path="explicit"), ("int8", "explicit", "own", False, ("INT8", "FP16"))),
    ("8.6.2", QDQ, ("int8", "explicit", "model", False, ("INT8", "FP16"))),
    ("10.3.0", DATA, ("int8", "explicit", "own", False, ("INT8", "FP16"))),
    ("10.3.0", QDQ, ("int8", "explicit", "model", False, ("INT8", "FP16"))),
    ("10.3.0", replace(QDQ, strongly_typed=True), ("int8", "explicit", "model", True, ())),
    ("10.3.0", replace(DATA, path="implicit"), ("int8", "implicit", "tensorrt", False, ("INT8", "FP16"))),
    ("10.3.0", replace(DATA, cache_named=True), ("int8", "implicit", "tensorrt", False, ("INT8", "FP16"))),
    ("10.3.0", Request(cache_named=True, cache=True), ("int8", "implicit", "cache", False, ("INT8", "FP16"))),
    ("10.3.0", replace(DATA, dla=0), ("int8", "implicit", "own", False, ("INT8", "FP16"))),
    ("10.3.0", Request(precision="fp16", strongly_typed=True), ("fp16", None, None, True, ())),
    ("10.3.0", Request(precision="fp32"), ("fp32", None, None, False, ())),
    ("10.3.0", Request(), ("fp16", None, None, False, ("FP16",))),
    ("10.3.0", replace(DATA, precision="fp8"), ("fp8", "explicit", "own", True, ())),
    ("10.3.0", replace(QDQ, float8=True), ("fp8", "explicit", "model", True, ())),
    ("11.4.0", DATA, ("int8", "explicit", "own", True, ())),
    ("11.4.0", replace(QDQ, dla=1), ("int8", "explicit", "model", True, ())),
    ("11.4.0", Request(precision="fp32"), ("fp32", None, None, True, ())),
]


@pytest.mark.parametrize(("version", "request_", "expected"), PLANS)
def test_plans(version: str, request_: Request, expected: tuple[object, ...]) -> None:
    plan = choose(request_, able(version, None if expected[0] == "fp8" else ORIN))
    assert way(plan) == expected
    assert plan.half == (plan.strongly_typed and plan.precision != "fp32")
    assert plan.float_weights == (plan.path == "explicit" and version.startswith("8"))


REFUSALS = [
    ("10.3.0", Request(precision="int8"), ORIN, "data"),
    ("10.3.0", replace(DATA, precision="int8"), NANO, "NVIDIA Tegra X1 .*5.3.* has no INT8. Use precision fp16"),
    ("10.3.0", QDQ, NANO, "Give the float model"),
    ("8.6.2", replace(QDQ, float8=True), None, "precision fp8: TensorRT 8.6.2 has none"),
    ("10.3.0", replace(QDQ, float8=True), ORIN, "compute capability 8.7 have none, those from 8.9 on do"),
    ("10.3.0", replace(QDQ, float8=True, precision="int8"), None, "FP8 already"),
    ("10.3.0", replace(DATA, precision="fp8", dla=0), None, "DLA"),
    ("10.3.0", replace(DATA, precision="fp8", cache_named=True), None, "calibration cache"),
    ("10.3.0", Request(precision="fp8"), None, "FP8 needs calibration data"),
    ("10.3.0", replace(QDQ, precision="fp16"), ORIN, "INT8 already"),
    ("10.3.0", replace(QDQ, path="implicit"), ORIN, "float model"),
    ("10.3.0", replace(QDQ, dla=0), ORIN, "float model"),
    ("10.3.0", replace(DATA, dla=2), ORIN, "2 DLA cores"),
    ("10.3.0", replace(DATA, dla=0, path="explicit"), ORIN, "11.4"),
    ("10.3.0", replace(DATA, dla=0, method="minmax", scales="tensorrt"), ORIN, "entropy"),
    ("10.3.0", Request(precision="fp32", dla=0), ORIN, "INT8 and FP16 only"),
    ("10.3.0", replace(DATA, dla=0, version_compatible=True), ORIN, "compatibility"),
    ("10.3.0", replace(DATA, path="explicit", cache_named=True), ORIN, "not in a cache"),
    ("10.3.0", replace(DATA, path="implicit", strongly_typed=True), ORIN, "weakly typed"),
    ("10.3.0", replace(DATA, path="explicit", scales="own"), ORIN, "scales"),
    ("10.3.0", Request(precision="fp16", cache_named=True), ORIN, "are for int8"),
    ("10.3.0", replace(DATA, path="implicit", scales="tensorrt"), None, "needs the GPU"),
    ("10.3.0", replace(DATA, path="implicit", method="mse"), ORIN, "entropy and minmax. Add scales own"),
    ("8.5.2", replace(DATA, strongly_typed=True), ORIN, "weakly typed networks only"),
    ("8.5.2", Request(version_compatible=True), ORIN, "8.6"),
    ("8.5.2", Request(hardware_compatible=True), ORIN, "8.6"),
    ("11.4.0", replace(DATA, path="implicit"), ORIN, "no implicit INT8"),
    ("11.4.0", replace(DATA, cache_named=True, cache=True), ORIN, "no implicit INT8"),
    ("11.2.0", replace(DATA, dla=0), ORIN, "precision fp16"),
]


@pytest.mark.parametrize(("version", "request_", "device", "part"), REFUSALS)
def test_refusals(version: str, request_: Request, device: Device | None, part: str) -> None:
    with pytest.raises(UsageError, match=part) as e:
        choose(request_, able(version, device))
    assert "\n" not in str(e.value)


def test_int8_that_was_not_asked_for_gives_way_with_the_reason() -> None:
    plan = choose(DATA, able("8.5.2", NANO))
    assert way(plan) == ("fp16", None, None, False, ("FP16",))
    assert plan.notes == ("INT8 refused: NVIDIA Tegra X1 (compute capability 5.3) has no INT8; fp16 instead",)
    assert choose(Request(), able("8.5.2", PASCAL)).precision == "fp32"
    assert choose(DATA, able("8.5.2", PASCAL)).flags == ("INT8",)  # its float16 is slower than float32


@pytest.mark.parametrize(
    ("compute", "int8", "fp16"),
    [((5, 2), 0, 0), ((5, 3), 0, 1), ((6, 0), 0, 1), ((6, 1), 1, 0), ((6, 2), 0, 1), ((7, 2), 1, 1), ((11, 0), 1, 1)],
)
def test_what_devices_have(compute: tuple[int, int], int8: int, fp16: int) -> None:
    device = Device("", compute)
    assert (device.int8, device.fp16) == (bool(int8), bool(fp16))


RTX = replace(
    Capability.of_version("11.4.0"),
    version=(1, 7, 1),
    library=TENSORRT_RTX,
    ahead=((8, 6), (12, 0)),
    timing_cache=False,
)


def test_where_int8_is_multiplied_in_float_float16_is_the_default() -> None:
    plan = choose(DATA, RTX)
    assert way(plan) == ("fp16", None, None, True, ()) and plan.half
    assert plan.notes[0].startswith("fp16: TensorRT for RTX 1.7.1 multiplies INT8 weights in float")
    assert way(choose(replace(DATA, precision="int8"), RTX)) == ("int8", "explicit", "own", True, ())
    assert way(choose(QDQ, RTX)) == ("int8", "explicit", "model", True, ())
    assert choose(Request(), RTX).notes == choose(Request(precision="fp16"), RTX).notes


@pytest.mark.parametrize(
    ("request_", "able_", "part"),
    [
        (Request(for_gpu=((9, 0),)), RTX, "9.0: TensorRT for RTX 1.7.1 compiles for 8.6, 12.0"),
        (Request(for_gpu=((8, 6),)), able("10.3.0"), "GPU that is in the machine. Use target tensorrt-rtx"),
        (Request(refit=True), RTX, "with a GPU only"),
        (Request(timing_cache=True), RTX, "times no kernels"),
        (Request(weight_streaming=True), able("8.6.1"), "TensorRT 10 and later"),
        (Request(dla=0), replace(RTX, dla_cores=0), "0 DLA cores"),
    ],
)
def test_what_only_some_builders_do(request_: Request, able_: Capability, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        choose(request_, able_)


def test_versions() -> None:
    assert parse_version("10.16.1.11") == (10, 16, 1)
    assert parse_version("8.5.2-1+cuda11.4") == (8, 5, 2)
    assert parse_version("10.3") == (10, 3, 0)
    for text in ("", "ten", "10"):
        with pytest.raises(UsageError, match="not a TensorRT version"):
            parse_version(text)
    with pytest.raises(UsageError, match="too old"):
        Capability.of_version("7.2.3")
