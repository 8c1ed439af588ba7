"""Dataset: conversion, limits and labels against plain numpy slices; every refusal."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from hqp_onnx.data.ahead import ahead
from hqp_onnx.data.dataset import Dataset, batch_size
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.runtimes.session import TensorSpec

SPEC = TensorSpec("x", np.dtype(np.float32), (None, 2, 3))
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 2, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0], np.uint8)


def source(values=PIXELS, labels=LABELS, name="here.npz"):
    return ArraySource(name, {"x": values}, labels)


def test_batches_are_the_rows_in_order_and_can_be_read_twice():
    data = Dataset(source(), [SPEC], batch_size=3)
    for _ in range(2):
        batches = list(data)
        assert [len(batch) for batch in batches] == [3, 3, 1]
        assert all(batch.feeds["x"].dtype == np.float32 and batch.labels.dtype == np.int64 for batch in batches)
        np.testing.assert_array_equal(np.concatenate([b.feeds["x"] for b in batches]), PIXELS.astype(np.float32))
        np.testing.assert_array_equal(np.concatenate([b.labels for b in batches]), LABELS)


def test_limit_first_and_in_batches():
    data = Dataset(source(), [SPEC], batch_size=3, limit=5)
    assert len(data) == 5 and [len(b) for b in data] == [3, 2]
    assert [len(b) for b in data.in_batches(2)] == [2, 2, 1]
    assert len(data.first(4)) == 4 and len(data.first(100)) == 5
    assert len(Dataset(source(), [SPEC], limit=99)) == 7


def test_other_labels_replace_the_stored_ones_and_follow_the_limit():
    labels = np.arange(5)
    data = Dataset(source(), [SPEC], batch_size=3, limit=5).labeled_with(labels)
    np.testing.assert_array_equal(np.concatenate([b.labels for b in data]), labels)
    np.testing.assert_array_equal(next(iter(data.first(2))).labels, labels[:2])
    assert data.labeled and not Dataset(source(labels=None), [SPEC]).labeled
    with pytest.raises(DataError, match=r"here.npz: 4 labels for 5 samples"):
        data.labeled_with(np.arange(4))


def test_only_the_models_inputs_are_fed():
    both = ArraySource("two.npz", {"x": PIXELS, "extra": np.zeros(7)})
    assert list(next(iter(Dataset(both, [SPEC]))).feeds) == ["x"]


@pytest.mark.parametrize(
    ("have", "want", "fits"),
    [
        (np.uint8, np.float32, True),
        (np.int16, np.float32, True),
        (np.bool_, np.float32, True),
        (np.float64, np.float32, True),
        (np.int32, np.float32, False),
        (np.uint8, np.int64, True),
        (np.int64, np.int32, False),
        (np.float32, np.int64, False),
        (np.float32, np.uint8, False),
    ],
)
def test_values_are_cast_only_where_nothing_is_lost(have, want, fits):
    spec = TensorSpec("x", np.dtype(want), (None, 2, 3))
    values = np.ones((2, 2, 3), have)
    if fits:
        assert next(iter(Dataset(source(values, None), [spec]))).feeds["x"].dtype == want
    else:
        with pytest.raises(DataError, match=f"here.npz: array 'x' is {np.dtype(have)}, the model wants"):
            Dataset(source(values, None), [spec])


def test_shape_and_name_are_checked_at_once():
    with pytest.raises(DataError, match=r"'x' has shape \[1, 3, 2\], the model wants float32\[\?, 2, 3\]"):
        Dataset(source(np.zeros((7, 3, 2))), [SPEC])
    with pytest.raises(DataError, match=r"no array for model input 'y'; found \['labels', 'x'\]"):
        Dataset(source(), [TensorSpec("y", np.dtype(np.float32), (None,))])


def test_non_finite_values_name_the_sample():
    values = PIXELS.astype(np.float32)
    values[5, 1, 1] = np.nan
    with pytest.raises(DataError, match=r"here.npz: array 'x' holds NaN or infinity in sample 5"):
        list(Dataset(source(values), [SPEC], batch_size=2))


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_the_models_type_are_no_infinity():
    values = PIXELS.astype(np.float64)
    values[5, 1, 1] = 1e300
    with pytest.raises(DataError, match=r"here.npz: array 'x' holds numbers beyond float32 in sample 5"):
        list(Dataset(source(values), [SPEC], batch_size=2))


def test_batches_are_read_only():
    batch = Dataset(source(), [SPEC]).rows(0, 2)
    for values in (batch.feeds["x"], batch.labels, source().rows(0, 2).feeds["x"]):
        with pytest.raises(ValueError, match="read-only"):
            values[:] = 1


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"limit": 0}, {"limit": -3}])
def test_sizes_below_one_are_refused(options):
    with pytest.raises(UsageError, match="must be at least 1"):
        Dataset(source(), [SPEC], **options)


def test_empty_data_are_refused():
    with pytest.raises(DataError, match=r"here.npz: no samples"):
        Dataset(source(PIXELS[:0], LABELS[:0]), [SPEC])


def test_check_labels():
    data = Dataset(source(), [SPEC])
    data.check_labels(3)
    data.check_labels(None)
    with pytest.raises(DataError, match=r"here.npz: label 2 of sample 2 is not a class: expected 0 .. 1"):
        data.check_labels(2)
    data.first(2).check_labels(2)
    large = np.array([0, 1, 2**63 + 5, 0, 0, 0, 0], np.uint64)
    with pytest.raises(DataError, match="label 9223372036854775807 of sample 2 is not a class"):
        Dataset(source(labels=large), [SPEC]).check_labels(None)
    with pytest.raises(DataError, match="label -1 of sample 0"):
        data.labeled_with(np.full(7, -1)).check_labels(3)
    with pytest.raises(DataError, match=r"no labels. Add an array 'labels'"):
        Dataset(source(labels=None), [SPEC]).check_labels(3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(7), r"float64\[\] a sample.*convert them to integers"),
        (np.zeros(7, bool), r"bool\[\] a sample, expected one class number"),
        (np.eye(7, dtype=int), r"int64\[7\] a sample.*one-hot rows with argmax; several tags"),
        (np.zeros((7, 1), int), r"int64\[1\] a sample.*flatten"),
        (np.zeros((7, 4, 4), np.uint8), r"uint8\[4, 4\] a sample.*pixels.*miou"),
    ],
)
def test_targets_that_are_no_class_numbers_pass_and_are_explained_where_these_are_needed(labels, message):
    data = Dataset(source(labels=labels), [SPEC], batch_size=3)
    assert not data.labeled and all(batch.labels is None for batch in data)
    kept = np.concatenate([batch.targets["labels"] for batch in data])
    assert kept.dtype == labels.dtype
    np.testing.assert_array_equal(kept, labels)
    with pytest.raises(DataError, match=f"here.npz: the target 'labels' is {message}"):
        data.check_labels(3)


def test_arrays_that_are_no_inputs_are_targets_of_any_type():
    boxes, names = np.random.default_rng(1).random((7, 5, 4), np.float32), np.array(list("abcdefg"))
    stored = ArraySource("d", {"x": PIXELS, "boxes": boxes, "names": names}, {"labels": LABELS})
    batch = Dataset(stored, [SPEC]).rows(2, 5)
    assert list(batch.feeds) == ["x"] and sorted(batch.targets) == ["boxes", "labels", "names"]
    np.testing.assert_array_equal(batch.targets["boxes"], boxes[2:5])
    np.testing.assert_array_equal(batch.targets["names"], ["c", "d", "e"])
    spec = Dataset(stored, [SPEC]).targets["boxes"]
    assert (spec.dtype, spec.shape) == (np.float32, (None, 5, 4))
    part = batch.part(np.array([True, False, True]))
    np.testing.assert_array_equal(part.labels, LABELS[[2, 4]])
    with pytest.raises(ValueError, match="read-only"):
        batch.targets["boxes"][:] = 0
    with pytest.raises(DataError, match=r"d: no labels \(but 'boxes'\)"):
        Dataset(ArraySource("d", {"x": PIXELS, "boxes": boxes}), [SPEC]).check_labels(3)


def test_an_input_may_be_called_labels():
    spec = TensorSpec("labels", np.dtype(np.int64), (None,))
    batch = Dataset(ArraySource("d", {"x": PIXELS}, {"labels": LABELS}), [SPEC, spec]).rows(0, 7)
    np.testing.assert_array_equal(batch.feeds["labels"], LABELS)
    assert not batch.targets
    both = ArraySource("d", {"x": PIXELS, "labels": LABELS}, {"labels": LABELS + 1})
    np.testing.assert_array_equal(Dataset(both, [SPEC, spec]).rows(0, 7).labels, LABELS + 1)


def test_array_source_refuses_ragged_scalar_and_object_arrays():
    with pytest.raises(DataError, match=r"f: array 'b' has shape \[2\], expected 3 samples"):
        ArraySource("f", {"a": np.zeros(3), "b": np.zeros(2)})
    with pytest.raises(DataError, match=r"f: array 'a' has shape \[\]"):
        ArraySource("f", {"a": np.float32(1)})
    with pytest.raises(DataError, match="f: array 'a' is object, expected numbers"):
        ArraySource("f", {"a": np.array([{}, {}], object)})
    with pytest.raises(DataError, match="f: no arrays"):
        ArraySource("f", {})


@pytest.mark.parametrize(
    ("shape", "samples"),
    [
        ((None, 2, 3), 100),
        ((4, 2, 3), 4),
        ((None, 3, 224, 224), 27),
        ((None, 3, 4096, 4096), 1),
        ((None, 3, None), 100),
    ],
)
def test_large_samples_run_in_small_batches(shape, samples):
    assert batch_size([TensorSpec("x", np.dtype(np.float32), shape)]) == samples


def test_work_ahead_keeps_the_order_and_ends_with_who_asks():
    """Threads are ahead by as many items as there are of them, and errors come in their place."""
    begun, gate = [], threading.Event()

    def work(number):
        begun.append(number)
        if number:
            gate.wait(5)
        if number == 7:
            raise DataError("seven")
        return number * number

    results = ahead(range(20), work, 2)
    gate.set()
    assert [next(results) for _ in range(7)] == [n * n for n in range(7)]
    assert max(begun) <= 6 + 2
    with pytest.raises(DataError, match="seven"):
        next(results)
    before = len(begun)
    time.sleep(0.05)
    assert len(begun) == before
    assert list(ahead(range(3), lambda n: n, 0)) == [0, 1, 2]
