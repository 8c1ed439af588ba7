"""Moments of two halves against those of all samples at once."""

from __future__ import annotations

import numpy as np
import pytest
from small_model import small_data, small_model

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.errors import DataError
from hqp_onnx.runtimes.session import Session
from hqp_onnx.statistics.moment_halves import halved_moments, joined
from hqp_onnx.statistics.moments import Moments, input_moments

MODEL = small_model()


def samples(count: int, batch_size: int) -> Dataset:
    return Dataset(ArraySource("test", {"input": small_data(count)["input"]}, None), Session(MODEL).inputs, batch_size)


@pytest.mark.parametrize(
    ("count", "batch_size", "first", "second"),
    [(24, 8, 16, 8), (25, 8, 16, 9), (30, 8, 16, 14), (7, 8, 4, 3), (2, 8, 1, 1), (3, 1, 2, 1)],
)
def test_halves_join_to_the_moments_of_all_samples(count: int, batch_size: int, first: int, second: int) -> None:
    """Every other batch, of which a single one is cut in two; halves of other sizes weigh by their samples."""
    data = samples(count, batch_size)
    seen: list[tuple[int, int]] = []
    halves = halved_moments(MODEL, data, progress=lambda done, total: seen.append((done, total)))
    assert [half["w4"].count for half in halves] == [first, second]  # w4 reads one position per sample
    assert [done for done, _ in seen] == sorted({done for done, _ in seen}) and seen[-1] == (count, count)
    whole, both = input_moments(MODEL, None, data), joined(*halves)
    assert both.keys() == whole.keys()
    for name, moments in whole.items():
        assert both[name].count == moments.count
        np.testing.assert_allclose(both[name].gram, moments.gram, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(both[name].mean, moments.mean, rtol=1e-5, atol=1e-6)


def test_what_weights_share_is_joined_once() -> None:
    one, two = (Moments(np.eye(2) * n, np.ones(2) * n, n) for n in (1, 3))
    both = joined({"v": one, "w": one, "u": two}, {"v": two, "w": two, "u": one})
    assert both["v"] is both["w"] and both["u"] is not both["v"]
    assert both["v"].count == 4
    np.testing.assert_allclose(both["v"].mean, 2.5)  # (1 * 1 + 3 * 3) / 4


def test_one_sample_has_no_halves() -> None:
    with pytest.raises(DataError, match="1 sample"):
        halved_moments(MODEL, samples(1, 8))
