"""Loaders as samples: any slice against the concatenated items, how often they are called, and every difference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hqp_onnx.data import stored, stream
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.loaders import open_items
from hqp_onnx.data.reading import Reading
from hqp_onnx.data.sources import open_dataset, open_source
from hqp_onnx.data.stream import Stream
from hqp_onnx.errors import DataError, LimitError, UsageError
from hqp_onnx.runtimes.session import TensorSpec

SIZES = (2, 1, 0, 3, 4)
X = np.random.default_rng(0).random((sum(SIZES), 5))
Y = np.arange(sum(SIZES))
SPEC = TensorSpec("x", np.dtype(np.float64), (None, 5))


def items(sizes=SIZES):
    edges = np.cumsum([0, *sizes])
    return [({"x": X[a:b]}, {"labels": Y[a:b], "more": X[a:b, :2]}) for a, b in itertools.pairwise(edges)]


class Loader:
    """Yields ``items``, and counts the calls."""

    def __init__(self, content=None):
        self.calls, self.content = 0, items() if content is None else content

    def __call__(self):
        self.calls += 1
        return iter(self.content)


@pytest.fixture
def small(monkeypatch):
    """Nothing is small enough to be kept in memory."""
    monkeypatch.setattr(stream, "SMALL", 64)


def check_all(source):
    assert source.count == len(X)
    np.testing.assert_array_equal(source.labels, Y)
    for start, stop in itertools.combinations(range(len(X) + 1), 2):
        batch = source.rows(start, stop)
        np.testing.assert_array_equal(batch.feeds["x"], X[start:stop])
        np.testing.assert_array_equal(batch.targets["more"], X[start:stop, :2])
        np.testing.assert_array_equal(batch.labels, Y[start:stop])


@pytest.mark.parametrize("make", [Loader, items, lambda: iter(items()), lambda: (item for item in items())])
def test_any_rows_are_those_of_the_items(make):
    check_all(open_source(make()))


@pytest.mark.parametrize("make", [Loader, items, lambda: iter(items())])
def test_any_rows_are_those_of_the_items_where_they_do_not_fit_into_memory(small, make):
    source = open_items(make(), "here", {})
    assert isinstance(source, Stream)
    check_all(source)


def test_what_is_small_is_called_twice_and_kept():
    loader = Loader()
    data = open_dataset(loader, [SPEC], batch_size=4)
    for _ in range(3):
        assert sum(map(len, data)) == len(X)
    assert loader.calls == 2


def test_what_is_large_is_called_once_a_pass_and_written_down_after_steps_back(small):
    loader = Loader()
    data = open_dataset(loader, [SPEC], batch_size=4)
    for _ in range(3):
        np.testing.assert_array_equal(np.concatenate([batch.feeds["x"] for batch in data]), X)
    assert loader.calls == 1 + 3  # counted, then three passes
    for _ in range(4):
        data.rows(8, 9), data.rows(3, 4)
    known = loader.calls
    for _ in range(4):
        data.rows(8, 9), data.rows(3, 4), data.rows(0, 10)
    assert loader.calls == known <= 9


def test_an_iterator_is_read_once(small):
    data = Dataset(open_items(iter(items()), "here", {}), [SPEC], batch_size=3)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate([batch.feeds["x"] for batch in data]), X)


@pytest.mark.parametrize("change", ["shuffled", "fewer", "more", "exhausted"])
@pytest.mark.parametrize("large", [False, True])
def test_another_pass_must_be_the_same(monkeypatch, change, large):
    if large:
        monkeypatch.setattr(stream, "SMALL", 64)
    calls = itertools.count()
    whole = items((2, 2, 6))
    later = {"shuffled": whole[::-1], "fewer": whole[:-1], "more": [*whole, whole[0]], "exhausted": []}[change]

    def load():
        return iter(later if next(calls) else whole)

    with pytest.raises(DataError, match="is not what it was in the first pass: it must yield the same") as caught:
        for _ in Dataset(open_items(load, "mine", {}), [SPEC], batch_size=3):
            pass
    assert "\n" not in str(caught.value)


def test_batches_are_of_one_shape():
    lengths = (3, 3, 5, 5, 5, 4)
    content = [{"x": np.full((1, n), number, np.float32)} for number, n in enumerate(lengths)]
    spec = TensorSpec("x", np.dtype(np.float32), (None, None))
    data = open_dataset(content, [spec], batch_size=2)
    assert [batch.feeds["x"].shape for batch in data] == [(2, 3), (2, 5), (1, 5), (1, 4)]
    assert [batch.feeds["x"][0, 0] for batch in data] == [0, 2, 4, 5]
    with pytest.raises(DataError, match=r"'x' has shape \[3, 5\], the model wants float32\[\?, 3\]"):
        list(open_dataset(content, [TensorSpec("x", np.dtype(np.float32), (None, 3))]))


def test_samples_are_padded_where_that_is_asked():
    content = [{"x": np.full((1, n), n), "mask": np.ones((1, n), int)} for n in (3, 2, 4)]
    free = [TensorSpec(name, np.dtype(np.int64), (None, None)) for name in ("x", "mask")]
    data = open_dataset(Reading(content, pad={"x": -1, "mask": 0}), free, batch_size=2)
    assert [batch.feeds["x"].tolist() for batch in data] == [[[3, 3, 3], [2, 2, -1]], [[4, 4, 4, 4]]]
    assert next(iter(data)).feeds["mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    fixed = [TensorSpec(name, np.dtype(np.int64), (None, 5)) for name in ("x", "mask")]
    data = open_dataset(Reading(content, pad={"x": -1, "mask": 0}), fixed)
    assert data.rows(0, 3).feeds["x"].shape == (3, 5)
    with pytest.raises(DataError, match="no array 'y', which pad names"):
        open_dataset(Reading(content, pad={"y": 0}), free)


def test_scalars_and_inputs_of_their_own_shape_are_shared():
    specs = [SPEC, TensorSpec("rate", np.dtype(np.int64), ()), TensorSpec("anchors", np.dtype(np.float64), (4,))]
    content = [{"x": X[:4], "rate": 16000, "anchors": np.arange(4.0)}, {"x": X[4:], "rate": 16000, "anchors": range(4)}]
    content[1]["anchors"] = np.arange(4.0)
    data = open_dataset(content, specs, batch_size=3)
    assert [len(batch) for batch in data] == [3, 3, 3, 1]
    for batch in data:
        assert batch.shared == {"rate", "anchors"} and batch.feeds["rate"] == 16000
        assert batch.part(slice(1)).feeds["anchors"].tolist() == [0, 1, 2, 3]
    content[1]["rate"] = 8000
    with pytest.raises(DataError, match="item 1: 'rate' has no axis of samples, but is not what it is in the first"):
        open_dataset(content, specs)
    named = open_dataset({"x": X, "rate": np.int64(8000), "anchors": np.arange(4.0)}, specs)
    assert named.rows(0, 2).feeds["rate"] == 8000
    given = Reading({"x": X}, constants={"rate": 16000.0, "anchors": [1, 2, 3, 4]})
    assert open_dataset(given, specs).rows(0, 2).feeds["anchors"].dtype == np.float64
    for constants, message in (
        ({"rate": 0.5, "anchors": [1, 2, 3, 4]}, "the constant 'rate' is 0.5, which int64 cannot hold"),
        ({"rate": 1, "anchors": [1, 2]}, r"'anchors' has shape \[2\], the model wants float64\[4\]"),
    ):
        with pytest.raises(DataError, match=message):
            open_dataset(Reading({"x": X}, constants=constants), specs)


def test_the_digest_is_that_of_what_is_yielded(small):
    same, other = (open_items(Loader(items(sizes)), "here", {}).digest() for sizes in (SIZES, SIZES))
    assert same == other != open_items(Loader(items((9,))), "here", {}).digest()


def test_a_full_disk_is_one_line(small, monkeypatch):
    monkeypatch.setattr(stored.shutil, "disk_usage", lambda folder: type("", (), {"free": 1})())
    with pytest.raises(LimitError, match=r"here takes .* TMPDIR"):
        open_items(iter(items()), "here", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constants": {"rate": {"a": 1}}}, "the constant 'rate' is {'a': 1}, expected finite numbers"),
        ({"constants": {"rate": float("nan")}}, "the constant 'rate' is nan"),
        ({"constants": {"rate": 1, "more": 2}}, "constant more: the model has no such input"),
        ({"constants": {"rate": 1}, "pad": {"x": float("nan")}}, "pad x=nan: is no value"),
        ({}, "no array for model input 'rate'.*constant NAME=VALUE"),
    ],
)
def test_constants_and_padding_that_make_no_sense(options, message):
    specs = [TensorSpec("x", np.dtype(np.float64), (None, None)), TensorSpec("rate", np.dtype(np.int64), ())]
    with pytest.raises((DataError, UsageError), match=message):
        open_dataset(Reading([{"x": X[:2]}, {"x": X[2:, :3]}], **options), specs)
    with pytest.raises(DataError, match="looks like an input that all samples share: constant rate=VALUE"):
        open_dataset({"x": X, "rate": np.ones(len(X), int)}, specs)


@pytest.mark.parametrize("form", ["pairs", "dictionaries", "feeds and labels", "inputs alone"])
def test_a_data_loader_of_torch_is_data(form):
    """As torch collates samples: pairs become lists, dictionaries stay, numbers become tensors."""
    torch = pytest.importorskip("torch")
    samples = {
        "pairs": [(x, int(y)) for x, y in zip(X, Y, strict=True)],
        "dictionaries": [{"x": x} for x in X],
        "feeds and labels": [({"x": x}, int(y)) for x, y in zip(X, Y, strict=True)],
        "inputs alone": list(X),
    }[form]
    data = open_dataset(torch.utils.data.DataLoader(samples, batch_size=3), [SPEC], batch_size=4)
    for _ in range(2):
        batches = list(data)
        np.testing.assert_array_equal(np.concatenate([batch.feeds["x"] for batch in batches]), X)
        if form in ("pairs", "feeds and labels"):
            np.testing.assert_array_equal(np.concatenate([batch.labels for batch in batches]), Y)


def test_an_array_is_no_item_where_there_are_several_inputs():
    with pytest.raises(DataError, match="is ndarray, expected a dictionary of arrays by input name"):
        open_dataset([X], [SPEC, TensorSpec("z", np.dtype(np.float64), (None, 5))])
