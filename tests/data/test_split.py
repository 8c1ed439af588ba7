"""Splits: disjoint, whole, by class, by seed, bounded."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hqp_onnx.data import split as splits
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.data.split import PARTS, read_part, split, subset
from hqp_onnx.errors import DataError, UsageError


def source(labels):
    return ArraySource("d", {"x": np.arange(len(labels))}, {"labels": np.asarray(labels)})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=10, max_size=200), st.integers(0, 3))
def test_parts_are_disjoint_whole_and_even_in_every_class(labels, seed):
    found = split(source(labels), seed)
    together = np.concatenate([found.parts[part] for part in PARTS])
    assert sorted(together.tolist()) == list(range(len(labels)))
    for part, share in zip(PARTS, splits.SHARES, strict=True):
        numbers = found.parts[part]
        assert (np.diff(numbers) > 0).all() and abs(len(numbers) - share * len(labels)) <= 1
        for number in set(labels):
            expected = share * labels.count(number)
            assert abs((np.asarray(labels)[numbers] == number).sum() - expected) <= 2


def test_the_seed_decides():
    labels = np.arange(100) % 4
    same, other = (split(source(labels), 1).parts["val"].tolist() for _ in range(2))
    assert same == other != split(source(labels), 2).parts["val"].tolist()
    assert split(source(np.zeros((100, 2))), 0).by_class is False


def test_calibration_is_bounded_and_the_rest_shared(monkeypatch):
    monkeypatch.setattr(splits, "MOST_CALIBRATION", 50)
    found = split(source(np.zeros(1000)), 0, (0.5, 0.3, 0.2))
    assert [len(found.parts[part]) for part in PARTS] == [50, 570, 380]
    assert found.words == "d was split by seed 0: 50 calib, 570 val, 380 test"


def test_a_part_reads_as_its_samples():
    labels = np.random.default_rng(0).integers(0, 3, 50)
    whole = source(labels)
    found = split(whole, 0)
    part = subset(whole, found, "val")
    numbers = found.parts["val"]
    assert part.name == "d (val)" and part.count == len(numbers)
    for start, stop in ((0, 3), (2, 9), (0, len(numbers))):
        batch = part.rows(start, stop)
        assert batch.feeds["x"].tolist() == numbers[start:stop].tolist()
        np.testing.assert_array_equal(batch.labels, labels[numbers[start:stop]])
    np.testing.assert_array_equal(part.labels, labels[numbers])
    assert part.digest() != subset(whole, found, "test").digest()


@pytest.mark.parametrize(
    ("numbers", "error", "message"),
    [
        ([1, 20], DataError, r"'test' has sample numbers that are not in 0 \.\. 19"),
        ([-1], DataError, r"'test' has sample numbers that are not in 0 \.\. 19"),
        ([1.5], UsageError, "'test' is not a list of sample numbers"),
        ("abc", UsageError, "'test' is not a list of sample numbers"),
    ],
)
def test_a_part_that_was_edited_is_refused(tmp_path, numbers, error, message):
    (tmp_path / "split.json").write_text(json.dumps({"count": 20, "test": numbers}))
    with pytest.raises(error, match=message):
        read_part(source(np.zeros(20)), f"{tmp_path / 'split.json'}:test")


def test_what_cannot_be_split():
    with pytest.raises(DataError, match="d: 9 samples are too few to be split: expected 10"):
        split(source(np.zeros(9)), 0)
    for shares in ((0.5, 0.5), (0.5, 0.6, -0.1), (0.3, 0.3, 0.3), (math.nan, 0.5, 0.5), (0.5, 0.5, math.nan)):
        with pytest.raises(UsageError, match="expected three shares above 0 that add up to 1"):
            split(source(np.zeros(20)), 0, shares)
