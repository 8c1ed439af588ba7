from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import onnx.parser
import pytest

from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import DataError, ModelError, UsageError
from hqp_onnx.statistics import calibration
from hqp_onnx.statistics.calibration import Calibration, Range, calibrate

RELU = onnx.parser.parse_model(
    """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x) => (float[N, 4] y) { h = Relu(x)  y = Neg(h) }"""
)


def batches(count: int, size: int = 8, scale: float = 1.0) -> list[Batch]:
    rng = np.random.default_rng(1)
    return [Batch({"x": (scale * rng.normal(size=(size, 4))).astype(np.float32)}) for _ in range(count)]


def test_a_batch_that_is_too_large_is_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = calibrate(RELU, ["x", "h"], batches(2, size=9))
    monkeypatch.setattr(calibration, "WORKSPACE", 4 * 16)  # bytes of h for 4 samples
    sizes: list[int] = []
    count = calibration._count
    monkeypatch.setattr(calibration, "_count", lambda h, values: sizes.append(len(values["x"])) or count(h, values))
    assert calibrate(RELU, ["x", "h"], batches(2, size=9)) == whole
    assert sizes == [4, 4, 1, 4, 4, 1]


def test_one_pass_over_activations_and_inputs_with_a_ragged_end() -> None:
    data = [*batches(3), *batches(1, size=3, scale=5)]
    seen: list[tuple[int, int]] = []
    calibration = calibrate(
        RELU, ["x", "h"], iter(data), method="minmax", progress=lambda done, total: seen.append((done, total))
    )
    x = np.concatenate([batch.feeds["x"] for batch in data])
    assert calibration.ranges["x"] == Range(x.min(), x.max(), np.abs(x).max())
    assert calibration.ranges["h"] == Range(0, x.max(), x.max())
    assert calibration.ranges["h"].clipped == (0, x.max())
    assert seen == [(8, 0), (16, 0), (24, 0), (27, 0)]  # an iterator does not say how many will come


def test_a_fixed_batch_size_takes_a_ragged_end() -> None:
    fixed = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[8, 4] x) => (float[8, 4] y) { h = Relu(x)  y = Neg(h) }'
    )
    data = [*batches(2), *batches(1, size=3)]
    assert calibrate(fixed, ["h"], data, method="mse") == calibrate(RELU, ["h"], data, method="mse")


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    wide = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4096] x) => (float[N, 4096] y) { h = Relu(x) y = Neg(h) }'
    )

    def peak(count: int) -> int:
        rng = np.random.default_rng(0)
        data = (Batch({"x": rng.normal(size=(8, 4096)).astype(np.float32)}) for _ in range(count))
        tracemalloc.start()
        calibrate(wide, ["x", "h", "y"], data, method="minmax")
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(2)  # imports
    assert peak(60) < 1.1 * peak(6)


def test_a_tensor_that_is_always_zero_has_a_valid_range() -> None:
    data = [Batch({"x": -np.ones((5, 4), np.float32)})]
    for method in ("entropy", "percentile", "mse", "minmax"):
        assert calibrate(RELU, ["h"], data, method=method).ranges["h"] == Range(0, 0, 1)


def test_bad_data_and_options_are_named() -> None:
    bad = [Batch({"x": np.full((2, 4), np.inf, np.float32)})]
    with pytest.raises(DataError, match="no calibration samples"):
        calibrate(RELU, ["h"], [])
    with pytest.raises(UsageError, match="entropy, percentile, mse, minmax"):
        calibrate(RELU, ["h"], bad, method="kl")
    with pytest.raises(UsageError, match="'percentile:0': expected a percentage above 0, up to 100"):
        calibrate(RELU, ["h"], bad, method="percentile:0")
    with pytest.raises(ModelError):
        calibrate(RELU, ["nowhere"], batches(1))
    with pytest.raises(DataError, match="'x' had no values"):
        calibrate(RELU, ["x"], [Batch({"x": np.zeros((2, 0), np.float32)})])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_has_no_range_and_others_have(value: float) -> None:
    data = batches(3)
    x = data[1].feeds["x"].copy()
    x[5, 2] = value
    data[1] = Batch({"x": x})
    found = calibrate(RELU, ["x", "h"], data, method="minmax")
    unbounded = ("x",) if value == -np.inf else ("x", "h")  # Relu
    assert found.unbounded == unbounded and set(found.ranges) == {"x", "h"} - {*unbounded}
    assert Calibration.from_json(found.to_json()) == found


@pytest.mark.parametrize("method", ["entropy", "percentile:99.5"])
def test_json_restores_every_bit_and_the_method(method: str) -> None:
    calibration = calibrate(RELU, ["x", "h"], batches(3), method=method)
    assert Calibration.from_json(calibration.to_json()) == calibration
    assert calibration.method == method


def test_json_of_anything_else_is_refused() -> None:
    for text in ("", "[]", "{}", '{"method": "mse", "ranges": {"x": {"lo": 1}}}', '{"method": 1, "ranges": 3}'):
        with pytest.raises(DataError, match="not a calibration file"):
            Calibration.from_json(text)


def test_asymmetric_ranges_hold_zero_and_respect_the_threshold() -> None:
    assert Range(-1, 9, 4).clipped == (-1, 4)
    assert Range(-9, 1, 4).clipped == (-4, 1)
    assert Range(2, 3, 3).clipped == (0, 3)
    assert Range(-3, -2, 3).clipped == (-3, 0)
    with pytest.raises(ValueError, match="not a range"):
        Range(0, 0, 0)


def test_tensorrt_cache_text() -> None:
    lines = Calibration({"a:b": Range(-1, 2, 1.27), "y": Range(0, 5, 5)}, "entropy").tensorrt_cache("8603").splitlines()
    assert lines[0] == "TRT-8603-EntropyCalibration2"
    name, scale = lines[1].rsplit(": ", 1)
    assert name == "a:b" and struct.unpack("!f", bytes.fromhex(scale))[0] == np.float32(0.01)
