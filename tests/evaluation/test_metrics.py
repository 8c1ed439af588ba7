"""Metrics against plain loops, and early verdicts against full evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from hqp_onnx.data.dataset import ArraySource, Dataset
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.evaluation.budget import Budget
from hqp_onnx.evaluation.metrics import Scores, evaluate, load_metric, predictions
from hqp_onnx.runtimes.session import Session

IDENTITY = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,7] x) => (float[n,7] y) { y = Relu(x) }'
RNG = np.random.default_rng(0)
LOGITS = RNG.random((53, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, 53)


def session(text: str = IDENTITY) -> Session:
    return Session(onnx.parser.parse_model(text))


def dataset(labels: np.ndarray | None = LABELS) -> Dataset:
    return Dataset(ArraySource("test", {"x": LOGITS}, labels), session().inputs, batch_size=10)


@pytest.mark.parametrize(("name", "count"), [("top1", 1), ("top5", 5)])
def test_top_k_is_membership_in_the_k_largest(name: str, count: int) -> None:
    expected = [label in np.argsort(-row)[:count] for row, label in zip(LOGITS, LABELS, strict=True)]
    scores = evaluate(session(), dataset(), load_metric(name))
    assert scores.values.tolist() == [float(hit) for hit in expected]
    assert scores.metric == pytest.approx(np.mean(expected))


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


@pytest.mark.parametrize("name", ["top2", "metric.py", "metric.txt:f", "metric.py:"])
def test_an_unknown_metric_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"expected top1, top5, agreement or FILE\.py:function"):
        load_metric(name)


def test_a_metric_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such metric file"):
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
    with pytest.raises(ModelError, match=r"--metric FILE\.py:function"):
        evaluate(Session(model), data, load_metric("top1"))
