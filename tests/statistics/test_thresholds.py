"""Histograms, and thresholds from them: against all the data at once, a search bin by bin, numpy and onnxruntime."""

from __future__ import annotations

import itertools
import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import hqp
from small_model import small_data, small_model

from hqp_onnx.errors import UsageError
from hqp_onnx.job.options import Options
from hqp_onnx.job.settings import settings_of
from hqp_onnx.job.setup import open_setup
from hqp_onnx.progress import silent
from hqp_onnx.statistics.histogram import Histogram
from hqp_onnx.statistics.thresholds import CLIPPED, METHODS, method


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
    assert method("entropy")(histogram) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "factor"), [("outliers", 2), ("normal", 1.3), ("laplace", 1.3), ("uniform", 1.01)])
def test_entropy_clips_like_onnxruntime_at_fine_bins(name: str, factor: float) -> None:
    """onnxruntime searches a two-sided histogram with 128 levels over both signs (we: 128 per sign), floors the bins
    per level, and smooths zeros; so the thresholds agree to a factor, not in digits."""
    collector = pytest.importorskip("onnxruntime.quantization.calibrate").HistogramCollector(
        "entropy", True, 2048, 128, None, None
    )
    collector.collect({"x": [DATA[name]]})
    low, high = collector.compute_collection_result()["x"][:2]
    ours = method("entropy")(filled(DATA[name]))
    assert float(high) / factor < ours < float(high) * factor
    assert -float(low) / factor < ours < -float(low) * factor
    if name == "outliers":
        assert ours < 10 and float(high) < 10  # both clip the range of 60


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("by", METHODS.names)
def test_no_threshold_collapses(name: str, by: str) -> None:
    values = np.abs(DATA[name].astype(np.float64))
    t = method(by)(filled(DATA[name]))
    assert 0 < t <= values.max()
    nonzero = values[values > 0]
    assert (nonzero > t).mean() <= (0.01 if by == "percentile" else 0.0011)  # percentiles count zeros, too
    if name in ("constant", "near constant"):
        assert t == pytest.approx(values.max(), rel=1e-3)


@pytest.mark.parametrize("name", ["normal", "laplace", "outliers", "relu"])
def test_percentile_is_that_of_numpy_to_one_bin(name: str) -> None:
    histogram = filled(DATA[name])
    exact = np.percentile(np.abs(DATA[name].astype(np.float64)), 99.9, method="inverted_cdf")
    assert 0 < method("percentile:99.9")(histogram) - exact <= histogram.bins()[1]


@pytest.mark.parametrize("name", ["normal", "laplace", "outliers", "relu", "hardswish", "gate"])
def test_mse_is_within_a_percent_of_the_best_on_the_data(name: str) -> None:
    values = np.abs(DATA[name].astype(np.float64))

    def error(t: float) -> float:
        return float(((np.clip(np.rint(values / t * 127), 0, 127) * t / 127 - values) ** 2).sum())

    best = min(error(values.max() * k / 128) for k in range(1, 129))
    assert error(method("mse")(filled(DATA[name]))) <= best * 1.01


@pytest.mark.parametrize("name", ["normal", "outliers"])
def test_percentile_takes_its_number(name: str) -> None:
    histogram = filled(DATA[name])
    assert method("percentile")(histogram) == method("percentile:99.99")(histogram)
    thresholds = [method(f"percentile:{number}")(histogram) for number in ("50", "9e1", "99.9", "1e2")]
    assert thresholds == sorted(set(thresholds)) and thresholds[-1] == histogram.top


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("percentile:0", "'percentile:0': expected a percentage above 0, up to 100, as percentile:99.9"),
        ("percentile:100.1", "expected a percentage"),
        ("percentile:-1", "expected a percentage"),
        ("percentile:9.9.9", "'9.9.9' is no number"),
        (
            "percentile:nan",
            "'percentile:nan': 'nan' is no number",
        ),
        ("percentile:", "'' is no number"),
        ("entropy:3", "'entropy' takes no number"),
        ("kl", "unknown calibration method 'kl'"),
        ("", "unknown calibration method ''"),
        ("nowhere.py:f", "nowhere.py: no such file"),
    ],
)
def test_what_is_no_method_is_named(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        method(name)
    with pytest.raises(UsageError, match=words):
        Options(Path("m.onnx"), "c.npz", "v.npz", Path("out"), calibration=name)


MINE = """
import numpy as np

def half(histogram):
    counts, width = histogram.bins(16)
    assert counts.sum() == histogram.counts.sum() and len(counts) <= 16 and width > 0
    return histogram.top / 2

class Share:
    def __init__(self, number=1.0):
        if number > 1:
            raise ValueError("expected a share")
        self.number = number

    def __call__(self, histogram):
        return max(-histogram.lo, histogram.hi) * self.number

def broken(histogram):
    return histogram.no_such_field

def nothing(histogram):
    return np.nan
"""


def test_methods_of_a_file_and_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    file, histogram = tmp_path / "mine.py", filled(DATA["normal"])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS.__dict__, "_installed", {"share": [EntryPoint("share", "mine:Share", METHODS.group)]})
    assert method(f"{file}:half")(histogram) == histogram.top / 2
    assert method(f"{file}:Share")(histogram) == method("share")(histogram) == histogram.top
    assert method(f"{file}:Share:0.25")(histogram) == method("share:0.25")(histogram) == histogram.top / 4
    assert method("share:0.25")(filled(np.zeros(3))) == 1.0
    for name, words in (("share:2", "share:2': .*expected a share"), (f"{file}:half:2", "half' takes no number")):
        with pytest.raises(UsageError, match=words):
            method(name)
    for name, words in (("broken", "broken': .*no attribute 'no_such_field'"), ("nothing", "gives nan: expected")):
        with pytest.raises(UsageError, match=words):
            method(f"{file}:{name}")(histogram)


def test_commands_take_methods_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "model.onnx").write_bytes(small_model().SerializeToString())
    np.savez(tmp_path / "data.npz", **small_data())
    monkeypatch.chdir(tmp_path)
    words = ("quantize", "model.onnx", "--data", "data.npz", "--calibration-out", "ranges", "-o", "int8.onnx")
    found = {}
    for name in ("minmax", "percentile:90", "mine.py:half", "mine.py:Share:0.25"):
        assert hqp(monkeypatch, *words, "--calibration", name) == 0
        written = json.loads((tmp_path / "ranges" / "calibration.json").read_text())
        assert written["method"] == name
        found[name] = {tensor: r["threshold"] for tensor, r in written["ranges"].items()}
    for tensor, top in found["minmax"].items():
        assert found["mine.py:half"][tensor] == top / 2 and found["mine.py:Share:0.25"][tensor] == top / 4
        assert found["percentile:90"][tensor] < top
    capfd.readouterr()
    for command in (words, ("build", "model.onnx", "--data", "data.npz", "--for", "10.3.0", "-o", "x.engine")):
        assert hqp(monkeypatch, *command, "--calibration", "percentile:101") == 2
        assert "'percentile:101': expected a percentage above 0" in capfd.readouterr().err
    assert hqp(monkeypatch, "build", *words[1:4], "--for", "8.6.2", "--calibration", "mine.py:half", "-o", "x") == 0


def test_a_file_that_changes_is_another_setting(tmp_path: Path) -> None:
    onnx.save(small_model(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **small_data())
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    paths = (tmp_path / "m.onnx", tmp_path / "d.npz", tmp_path / "d.npz", tmp_path / "out")
    options = Options(*paths, calibration=f"{file}:half")
    before = settings_of(open_setup(options, silent))
    file.write_text(MINE + "\n")
    after = settings_of(open_setup(options, silent))
    assert {key for key, value in after.items() if value != before[key]} == {"calibration_file"}
