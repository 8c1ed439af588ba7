"""Calibration caches as text, and batches as TensorRT's calibrator gets them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.engine.cache import CalibrationCache, read_cache, version_number
from hqp_onnx.engine.calibrator import CalibrationBatches
from hqp_onnx.engine.profiles import Profile
from hqp_onnx.errors import DataError
from hqp_onnx.runtimes.session import TensorSpec
from hqp_onnx.statistics.calibration import Calibration, Range

NATIVE = "TRT-8502-EntropyCalibration2\ndata: 3c008912\n(Unnamed Layer* 4) [Shuffle]_output: 3d895e44\na: b: 3f800000\n"


def test_a_native_cache_is_read_to_the_last_bit() -> None:
    cache = CalibrationCache.parse(NATIVE)
    assert (cache.version, cache.algorithm) == ("8502", "EntropyCalibration2")
    assert list(cache.scales) == ["data", "(Unnamed Layer* 4) [Shuffle]_output", "a: b"]
    hexadecimal = [np.array(scale, ">f4").tobytes().hex() for scale in cache.scales.values()]
    assert hexadecimal == ["3c008912", "3d895e44", "3f800000"]


def test_our_ranges_round_trip() -> None:
    rng = np.random.default_rng(0)
    thresholds = {f"t{i}": float(10 ** rng.uniform(-6, 4)) for i in range(50)}
    calibration = Calibration({name: Range(-t, t, t) for name, t in thresholds.items()}, "entropy")
    cache = CalibrationCache.parse(calibration.tensorrt_cache("100300"))
    assert (cache.version, cache.method) == ("100300", "entropy")
    assert cache.scales == {name: float(np.float32(t / 127)) for name, t in thresholds.items()}


@pytest.mark.parametrize(
    ("version", "number"), [((8, 2, 1), "8201"), ((8, 6, 1), "8601"), ((10, 3, 0), "100300"), ((10, 16, 1), "101601")]
)
def test_version_numbers(version: tuple[int, int, int], number: str) -> None:
    assert version_number(version) == number


@pytest.mark.parametrize(
    "text", ["", "x: 3c008912\n", "TRT-8502-Calibration\n", NATIVE + "x: 3c0089\n", NATIVE + "x\n"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"cal\.cache"):
        CalibrationCache.parse(text, "cal.cache")


def test_a_cache_that_tensorrt_would_ignore_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.cache"
    assert read_cache(file, (8, 5, 2)) is None
    file.write_text(NATIVE)
    found = read_cache(file, (8, 5, 2))
    assert found is not None and found.scales["a: b"] == 1
    with pytest.raises(DataError, match="TRT-8502, and TRT-100300 would ignore it"):
        read_cache(file, (10, 3, 0))
    assert CalibrationCache.parse(NATIVE.replace("EntropyCalibration2", "MinMaxCalibration")).method == "minmax"


def dataset(count: int, batch: int, dtype: type = np.float32) -> Dataset:
    values = np.arange(count, dtype=dtype)[:, None] * np.ones((1, 3), dtype)
    return Dataset(ArraySource("numbers", {"x": values}), [TensorSpec("x", np.dtype(dtype), (None, 3))], batch)


def shapes(*best: int) -> dict[str, Profile]:
    return {"x": Profile(best, best, best)}


@pytest.mark.parametrize(
    ("count", "batch", "last"), [(8, 4, [4, 5, 6, 7]), (5, 4, [4, 0, 1, 2]), (2, 5, [0, 1, 0, 1, 0])]
)
def test_batches_are_whole_and_repeatable(count: int, batch: int, last: list[int]) -> None:
    batches = CalibrationBatches(dataset(count, batch), shapes(batch, 3))
    for _ in range(2):
        feeds = list(batches)
        assert len(feeds) == len(batches)
        assert all(x["x"].shape == (batch, 3) and x["x"].flags["C_CONTIGUOUS"] for x in feeds)
        assert feeds[-1]["x"][:, 0].tolist() == last


def test_batches_that_tensorrt_would_drop_are_refused_beforehand() -> None:
    with pytest.raises(DataError, match=r"\[4, 3\].*\[4, 5\]"):
        CalibrationBatches(dataset(8, 4), shapes(4, 5))
    with pytest.raises(DataError, match="float64"):
        CalibrationBatches(dataset(8, 4, np.float64), shapes(4, 3))
