from __future__ import annotations

import itertools
import struct
import tracemalloc

import numpy as np
import onnx.parser
import pytest

from hqp_onnx.data.dataset import Batch
from hqp_onnx.errors import DataError, ModelError, UsageError
from hqp_onnx.statistics import calibration
from hqp_onnx.statistics.calibration import CLIPPED, Calibration, Histogram, Range, calibrate, threshold

RELU = onnx.parser.parse_model(
    """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x) => (float[N, 4] y) { h = Relu(x)  y = Neg(h) }"""
)


def filled(*chunks: np.ndarray) -> Histogram:
    histogram = Histogram()
    for chunk in chunks:
        histogram.add(chunk)
    return histogram


def distributions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=200_000)
    data = {
        "normal": normal,
        "laplace": rng.laplace(size=200_000),
        "uniform": rng.uniform(-3, 3, 100_000),
        "relu": np.maximum(normal, 0),
        "sparse relu": np.maximum(normal - 2, 0),
        "outliers": np.concatenate([normal, [60.0, -55.0, 48.0]]),
        "hardswish": normal * 3 * np.clip(normal / 2 + 0.5, 0, 1),
        "gate": np.clip(rng.normal(0.5, 1, 20_000), 0, 1),
        "near constant": 7 + rng.normal(0, 1e-4, 10_000),
        "constant": np.full(1000, -2.5),
        "small": rng.normal(size=64),
        "three values": rng.choice([0.0, 0.1, 5.0], 5000, p=[0.5, 0.4, 0.1]),
        "tiny": normal * 1e-30,
        "denormal": np.array([0.0, 1e-42, 3e-42]),
        "huge": normal * 1e30,
    }
    return {name: values.astype(np.float32) for name, values in data.items()}


DATA = distributions()


@pytest.mark.parametrize("name", DATA)
def test_a_growing_histogram_equals_one_of_all_the_data(name: str) -> None:
    values = DATA[name]
    order = values[np.argsort(np.abs(values))]  # ascending magnitude: the range grows with every chunk
    histogram = filled(*np.array_split(order, 17))
    counts, width = histogram.bins()
    expected, _ = np.histogram(np.abs(values).astype(np.float64), np.arange(len(counts) + 1) * width)
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == values.size and counts[-1] > 0
    assert 4096 < len(counts) <= 8192
    assert (histogram.lo, histogram.hi) == (values.min(), values.max())
    coarse, wide = histogram.bins(2048)
    assert 1024 < len(coarse) <= 2048
    expected, _ = np.histogram(np.abs(values).astype(np.float64), np.arange(len(coarse) + 1) * wide)
    np.testing.assert_array_equal(coarse, expected)


def test_the_order_of_chunks_does_not_matter() -> None:
    chunks = [np.zeros(3, np.float32), np.float32([0.5]), np.float32([-8.0]), np.float32([]), np.float32([[8, 1e-3]])]
    forward, backward = filled(*chunks), filled(*reversed(chunks))
    np.testing.assert_array_equal(forward.counts, backward.counts)
    assert forward.exponent == backward.exponent and (forward.lo, forward.hi) == (-8, 8)


def brute_force_entropy(counts: np.ndarray, width: float, top: float) -> float:
    """The search of the TensorRT talk, one candidate, level and bin at a time."""
    h = counts.astype(float)
    h[0] = h[1]
    best, best_divergence = len(h), np.inf
    for i in range(128, len(h) + 1):
        p = h[:i].copy()
        outliers = h[i:].sum()
        p[-1] += outliers
        if outliers > CLIPPED * h.sum():
            continue
        q = np.zeros(i)
        edges = [round(i * k / 128) for k in range(129)]
        for start, stop in itertools.pairwise(edges):
            occupied = p[start:stop] > 0
            if occupied.any():
                q[start:stop][occupied] = h[start:stop].sum() / occupied.sum()
        p, q = p / p.sum(), q / q.sum()
        if (q[p > 0] == 0).any():
            continue
        divergence = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        if divergence < best_divergence - 1e-12:
            best, best_divergence = i, divergence
    return min(best * width, top)


@pytest.mark.parametrize(
    "name", ["normal", "laplace", "relu", "outliers", "hardswish", "gate", "small", "three values"]
)
def test_entropy_equals_brute_force(name: str) -> None:
    histogram = filled(DATA[name])
    expected = brute_force_entropy(*histogram.bins(2048), histogram.top)
    assert threshold(histogram, "entropy") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "factor"), [("outliers", 2), ("normal", 1.3), ("laplace", 1.3), ("uniform", 1.01)])
def test_entropy_clips_like_onnxruntime_at_fine_bins(name: str, factor: float) -> None:
    """onnxruntime searches a two-sided histogram with 128 levels over both signs (we: 128 per sign), floors the bins
    per level, and smooths zeros; so the thresholds agree to a factor, not in digits."""
    collector = pytest.importorskip("onnxruntime.quantization.calibrate").HistogramCollector(
        "entropy", True, 2048, 128, None, None
    )
    collector.collect({"x": [DATA[name]]})
    low, high = collector.compute_collection_result()["x"][:2]
    ours = threshold(filled(DATA[name]), "entropy")
    assert float(high) / factor < ours < float(high) * factor
    assert -float(low) / factor < ours < -float(low) * factor
    if name == "outliers":
        assert ours < 10 and float(high) < 10  # both clip the range of 60


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("method", ["entropy", "percentile", "mse", "minmax"])
def test_no_threshold_collapses(name: str, method: str) -> None:
    values = np.abs(DATA[name].astype(np.float64))
    t = threshold(filled(DATA[name]), method)
    assert 0 < t <= values.max()
    nonzero = values[values > 0]
    assert (nonzero > t).mean() <= (0.01 if method == "percentile" else 0.0011)  # percentiles count zeros, too
    if name in ("constant", "near constant"):
        assert t == pytest.approx(values.max(), rel=1e-3)


@pytest.mark.parametrize("name", ["normal", "laplace", "outliers", "relu"])
def test_percentile_is_that_of_numpy_to_one_bin(name: str) -> None:
    histogram = filled(DATA[name])
    exact = np.percentile(np.abs(DATA[name].astype(np.float64)), 99.9, method="inverted_cdf")
    assert 0 < threshold(histogram, "percentile", 99.9) - exact <= histogram.bins()[1]


@pytest.mark.parametrize("name", ["normal", "laplace", "outliers", "relu", "hardswish", "gate"])
def test_mse_is_within_a_percent_of_the_best_on_the_data(name: str) -> None:
    values = np.abs(DATA[name].astype(np.float64))

    def error(t: float) -> float:
        return float(((np.clip(np.rint(values / t * 127), 0, 127) * t / 127 - values) ** 2).sum())

    best = min(error(values.max() * k / 128) for k in range(1, 129))
    assert error(threshold(filled(DATA[name]), "mse")) <= best * 1.01


def batches(count: int, size: int = 8, scale: float = 1.0) -> list[Batch]:
    rng = np.random.default_rng(1)
    return [Batch({"x": (scale * rng.normal(size=(size, 4))).astype(np.float32)}) for _ in range(count)]


def test_a_batch_that_is_too_large_is_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = calibrate(RELU, ["x", "h"], batches(2, size=9))
    monkeypatch.setattr(calibration, "WORKSPACE", 4 * 16)  # bytes of h for 4 samples
    sizes: list[int] = []
    count = calibration._count
    monkeypatch.setattr(calibration, "_count", lambda h, values, start: sizes.append(start) or count(h, values, start))
    assert calibrate(RELU, ["x", "h"], batches(2, size=9)) == whole
    assert sizes == [0, 4, 8, 9, 13, 17]


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
    with pytest.raises(DataError, match="'h'"):
        calibrate(RELU, ["h"], bad)
    with pytest.raises(DataError, match="no calibration samples"):
        calibrate(RELU, ["h"], [])
    with pytest.raises(UsageError, match="entropy, percentile, mse, minmax"):
        calibrate(RELU, ["h"], bad, method="kl")
    with pytest.raises(UsageError, match="percentile"):
        calibrate(RELU, ["h"], bad, method="percentile", percentile=0)
    with pytest.raises(ModelError):
        calibrate(RELU, ["nowhere"], batches(1))
    with pytest.raises(DataError, match="'x' had no values"):
        calibrate(RELU, ["x"], [Batch({"x": np.zeros((2, 0), np.float32)})])


def test_json_restores_every_bit() -> None:
    calibration = calibrate(RELU, ["x", "h"], batches(3), method="entropy")
    assert Calibration.from_json(calibration.to_json()) == calibration
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
