from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import DataError
from hqp_onnx.statistics.channel_stats import channel_stats

RNG = np.random.default_rng(0)


def model(opset: int, shape: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{shape}] x) => (float[{shape}] y) {{ y = Neg(x) }}'
    )


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize(("shape", "last"), [("N,3,4,5", 0), ("N,3", 0), ("N,6,3", 3), ("N,3", 3)])
def test_statistics_are_those_of_numpy_over_a_ragged_end(opset: int, shape: str, last: int) -> None:
    sizes = [int(n) for n in shape.split(",")[1:]]
    x = RNG.normal(2, 3, size=(11, *sizes)).astype(np.float32)
    found = channel_stats(model(opset, shape), {"y": last}, [Batch({"x": part}) for part in (x[:4], x[4:8], x[8:])])
    rows = np.moveaxis(-x.astype(np.float64), -1 if last else 1, -1).reshape(-1, 3)
    np.testing.assert_allclose(found["y"].mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["y"].power, (rows**2).mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["y"].top, np.abs(rows).max(0), rtol=1e-6)


def test_samples_that_pad_a_short_batch_do_not_count() -> None:
    x = RNG.normal(size=(5, 3)).astype(np.float32)
    found = channel_stats(model(17, "4,3"), {"y": 0}, [Batch({"x": x[:4]}), Batch({"x": x[4:]})])
    np.testing.assert_allclose(found["y"].mean, -x.mean(0, dtype=np.float64), rtol=1e-6)


def test_no_data_is_an_error_and_no_tensor_is_no_work() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        channel_stats(model(17, "N,3"), {"y": 0}, [])
    assert channel_stats(model(17, "N,3"), {}, []) == {}


def test_a_tensor_may_have_no_other_axis_than_that_of_channels() -> None:
    flat = '<ir_version: 8, opset_import: ["" : 17]> g (float[1,3] x) => (float[3] y) { y = Squeeze(x) }'
    x = RNG.normal(size=(5, 3)).astype(np.float32)
    found = channel_stats(onnx.parser.parse_model(flat), {"y": 3}, [Batch({"x": x[:3]}), Batch({"x": x[3:]})])
    np.testing.assert_allclose(found["y"].mean, x.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(found["y"].power, np.square(x, dtype=np.float64).mean(0), rtol=1e-6)
