"""Metrics against plain loops, and early verdicts against full evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest

from hqp_onnx.arrays import Array, FloatArray, IntArray
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.memory import ArraySource
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.evaluation.budget import Budget
from hqp_onnx.evaluation.metrics import Metric, Scores, classes, evaluate, load_metric, predictions
from hqp_onnx.evaluation.nonfinite import NonFinite, chosen_samples, finite_samples
from hqp_onnx.runtimes.session import Session, TensorSpec

IDENTITY = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,7] x) => (float[n,7] y) { y = Relu(x) }'
RNG = np.random.default_rng(0)
LOGITS = RNG.random((53, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, 53)


def session(text: str = IDENTITY) -> Session:
    return Session(onnx.parser.parse_model(text))


def dataset(labels: np.ndarray | None = LABELS) -> Dataset:
    return Dataset(ArraySource("test", {"x": LOGITS}, labels), session().inputs, batch_size=10)


def top(count: int) -> list[float]:
    return [float(label in np.argsort(-row)[:count]) for row, label in zip(LOGITS, LABELS, strict=True)]


ROWS = {"top1": top(1), "top5": top(5), "agreement": top(1)}  # agreement's labels are the original's answers


@pytest.mark.parametrize("name", ROWS)
def test_top_k_is_membership_in_the_k_largest(name: str) -> None:
    scores = evaluate(session(), dataset(), load_metric(name))
    assert scores.values.tolist() == ROWS[name]
    assert scores.metric == pytest.approx(np.mean(ROWS[name]))
    assert (scores.nonfinite.samples, scores.complete) == (0, True)


def test_equal_logits_count_as_argmax_does() -> None:
    flat = Dataset(ArraySource("flat", {"x": np.zeros((7, 7), np.float32)}, np.arange(7)), session().inputs)
    assert evaluate(session(), flat, load_metric("top1")).values.tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_agreement_is_of_the_first_answers() -> None:
    data = dataset(None)
    labeled = data.labeled_with(predictions(session(), data))
    assert evaluate(session(), labeled, load_metric("agreement")).metric == 1
    runners_up = data.labeled_with(LOGITS.argsort(1)[:, -2])
    assert evaluate(session(), runners_up, load_metric("agreement")).metric == 0


@pytest.mark.parametrize("required", [0, 5, 8, 20, 53])
def test_an_early_rejection_is_the_verdict_of_the_whole(required: int) -> None:
    full = evaluate(session(), dataset(), load_metric("top1"))
    early = evaluate(session(), dataset(), load_metric("top1"), required)
    assert (early.complete and early.values.sum() >= required) == (full.values.sum() >= required)
    assert early.metric >= full.metric


@pytest.mark.parametrize("right", ["first", "last", "mixed"])
def test_an_evaluation_stops_after_the_first_batch_that_decides_it(right: str) -> None:
    """And not before: who needs every sample left to be right may still get them all."""
    hits = {"first": np.arange(53) < 30, "last": np.arange(53) >= 23, "mixed": RNG.permutation(53) < 30}[right]
    best = LOGITS.argmax(1)
    data, ends = dataset(np.where(hits, best, (best + 1) % 7)), [*range(10, 53, 10), 53]
    for required in range(54):
        out_of_reach = (end for end in ends if hits[:end].sum() + 53 - end < required)
        scores = evaluate(session(), data, load_metric("top1"), required)
        assert len(scores.values) == next(out_of_reach, 53)
        assert scores.values.tolist() == hits[: len(scores.values)].tolist()
    exact = Budget(Scores(np.ones(53), 53), 23 / 53)
    assert exact.admits(evaluate(session(), data, load_metric("top1"), exact.required))


ROOTS = "g (float[n,7] x) => (float[n,7] y, float[n] z) { y = Sqrt(x) s = ReduceSum<keepdims=0>(x, a) z = Log(s) }"


def broken(*rows: int) -> tuple[Session, Dataset]:
    """A model whose output y is NaN for ``rows``, and z infinite for row 2 in any case."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {ROOTS}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "a"))
    x = LOGITS.copy()
    x[2] = 0
    x[list(rows), LABELS[list(rows)]] = -1e-3  # where the label is: without a check, it would count as right
    opened = Session(model)
    return opened, Dataset(ArraySource("test", {"x": x}, LABELS), opened.inputs, batch_size=10)


def seen(outputs: Mapping[str, Array], labels: IntArray | None) -> FloatArray:
    """A metric that takes every sample for right, and none that is not finite."""
    assert labels is not None and all(np.isfinite(x).all() and len(x) == len(labels) for x in outputs.values())
    return np.ones(len(labels))


def test_a_sample_that_is_not_finite_scores_nothing() -> None:
    model, data = broken(5, 17, 52)
    scores = evaluate(model, data, load_metric(seen))
    assert np.flatnonzero(scores.values == 0).tolist() == [2, 5, 17, 52]
    assert scores.nonfinite == NonFinite(4, ("y", "z"))
    assert scores.nonfinite.words(53) == "4 of 53 samples have NaN or infinities in output 'y', 'z'"
    clean = evaluate(*broken(), load_metric("top1"))
    assert evaluate(model, data, load_metric("top1")).values.tolist() == [
        0.0 if row in (2, 5, 17, 52) else hit for row, hit in enumerate(clean.values)
    ]


def test_the_answers_of_a_model_that_gives_none_are_no_reference() -> None:
    with pytest.raises(ModelError, match="4 of 53 samples have NaN or infinities in output"):
        predictions(*broken(5, 17, 52))


def test_an_output_that_belongs_to_no_sample_belongs_to_all() -> None:
    outputs = {"y": np.ones((4, 2)), "loss": np.array(np.inf), "labels": np.arange(4)}
    finite, nonfinite = finite_samples(outputs, 4)
    assert (finite.tolist(), nonfinite) == ([False] * 4, NonFinite(4, ("loss",)))


@pytest.mark.parametrize("required", [0, 5, 8, 20, 49, 50, 53])
def test_an_early_rejection_is_the_verdict_of_the_whole_with_nan_too(required: int) -> None:
    model, data = broken(*range(20, 24))
    full, early = (evaluate(model, data, load_metric("top1"), least) for least in (0, required))
    assert (early.complete and early.values.sum() >= required) == (full.values.sum() >= required)
    assert early.metric >= full.metric


def test_a_metric_is_a_name_a_value_or_a_function() -> None:
    mine = Metric("mine", seen, "data")
    assert load_metric(mine) is mine
    assert (load_metric(seen).name, load_metric(seen).labels) == ("seen", "any")


def test_user_function(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def half(outputs, labels):\n    return [0.5] * len(outputs['y'])\n")
    assert evaluate(session(), dataset(), load_metric(f"{file}:half")).metric == 0.5
    with pytest.raises(UsageError, match="no function 'other'"):
        load_metric(f"{file}:other")
    file.write_text("def fails(outputs, labels):\n    return 1 / 0\n")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        evaluate(session(), dataset(), load_metric(f"{file}:fails"))


@pytest.mark.parametrize("scores", ["[1.0]", "[1.0] * 9 + [1.1]", "[1.0] * 9 + [-0.1]", "[1.0] * 11", "[[1.0]] * 10"])
def test_scores_of_a_user_are_one_in_0_to_1_per_sample(tmp_path: Path, scores: str) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(f"def wrong(outputs, labels):\n    return {scores}\n")
    with pytest.raises(UsageError, match="one score in"):
        evaluate(session(), dataset(), load_metric(f"{file}:wrong"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("labels[:] = 0", r"ValueError: assignment destination is read-only \(.*mine\.py, line 3\)"),
        ("outputs['y'] -= 1", r"ValueError: output array is read-only \(.*mine\.py, line 3\)"),
        ("return np.ones(len(labels)) * 1j", "TypeError: complex numbers"),
        ("raise GeneratorExit", r"GeneratorExit: GeneratorExit \(.*mine\.py, line 3\)"),
        ("raise type('Own', (BaseException,), {})('bad')", "Own: bad"),
    ],
)
def test_a_metric_changes_nothing_and_fails_in_one_line(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"import numpy as np\ndef f(outputs, labels):\n    {line}\n    return np.ones(len(labels))\n")
    data = dataset()
    before = [batch.labels.copy() for batch in data]
    with pytest.raises(UsageError, match=f"failed: {words}$|failed: {words}"):
        evaluate(session(), data, load_metric(f"{file}:f"))
    assert all((batch.labels == labels).all() for batch, labels in zip(data, before, strict=True))


def test_an_interrupted_metric_is_an_interruption() -> None:
    def interrupted(outputs: object, labels: object) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(session(), dataset(), load_metric(interrupted))


@pytest.mark.parametrize("name", ["top2", "metric.py", "metric.txt:f", "metric.py:"])
def test_an_unknown_metric_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown metric .*: expected one of top1, .*recall@1, or FILE\.py:name"):
        load_metric(name)


def test_a_metric_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.py: no such file"):
        load_metric(f"{tmp_path / 'gone.py'}:f")


def test_progress_counts_samples() -> None:
    seen: list[tuple[int, int]] = []
    evaluate(session(), dataset(), load_metric("top1"), progress=lambda done, total: seen.append((done, total)))
    assert seen == [*((done, 53) for done in range(10, 53, 10)), (53, 53)]


@pytest.mark.parametrize("shape", ["n,7,1,1", "n,1,7", "n,7,1"])
def test_classes_may_stand_on_any_one_axis(shape: str) -> None:
    sizes = [0, *(int(size) for size in shape.split(",")[1:])]
    body = f"g (float[n,7] x) => (float[{shape}] y) <int64[{len(sizes)}] s = {{{str(sizes)[1:-1]}}}>"
    text = f'<ir_version: 8, opset_import: ["" : 17]> {body} {{ y = Reshape(x, s) }}'
    assert predictions(session(text), dataset()).tolist() == LOGITS.argmax(1).tolist()


def test_an_output_that_is_no_row_of_logits() -> None:
    graph = "g (float[n,7] x, int64[3] s) => (float[a,b,c] y) { y = Reshape(x, s) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {graph}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 7, 7]), "s"))
    del model.graph.input[1]
    data = Dataset(ArraySource("test", {"x": LOGITS[:49]}, LABELS[:49]), Session(model).inputs, batch_size=49)
    with pytest.raises(ModelError, match=r"a metric of your own, FILE\.py:function"):
        evaluate(Session(model), data, load_metric("top1"))


@pytest.mark.parametrize(
    ("shape", "count"), [((None, 7), 7), ((4, 7, 1, 1), 7), ((None, None), None), ((None, 1), 1), ((), None)]
)
def test_the_number_of_classes(shape: tuple[int | None, ...], count: int | None) -> None:
    assert classes((TensorSpec("y", np.dtype(np.float32), shape),)) == count


def test_samples_are_found_in_sequences_and_maps() -> None:
    nan, count = float("nan"), 3
    outputs: dict[str, Any] = {
        "maps": [{"a": 1.0}, {"a": nan}, {"a": 0.0}],
        "parts": [np.zeros((3, 2)), np.array([0.0, 0.0, nan])],
        "words": np.array(["a", "b", "c"], object),
        "one": {1: 2.0},
        "none": None,
    }
    finite, nonfinite = finite_samples(outputs, count)
    assert finite.tolist() == [True, False, False]
    assert nonfinite.outputs == ("maps", "parts") and nonfinite.samples == 2
    few = chosen_samples(outputs, finite)
    assert few["maps"] == [{"a": 1.0}] and [part.shape for part in few["parts"]] == [(1, 2), (1,)]
    assert few["one"] == {1: 2.0} and few["none"] is None
    with pytest.raises(ModelError, match="output 'maps' is no tensor"):
        load_metric("top1").scores({"maps": [{"a": 1.0}]}, Batch({"x": np.zeros((1, 1))}, np.array([0])))
