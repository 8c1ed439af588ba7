"""The metrics that docs/metrics.md writes down, judged by what they say of themselves; and its table of names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metric_oracles import judged

from hqp_onnx.evaluation.metrics import METRICS, Metric, load_metric

TEXT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(block, names)
    return names


def test_metrics_of_ones_own(written: dict[str, Any]) -> None:
    logits, labels, values = RNG.standard_normal((50, 3)), RNG.integers(0, 3, 50), RNG.standard_normal((50, 3))
    right = (logits.argmax(1) == labels).mean()
    assert judged(written["near"], {"y": logits}, labels).metric == pytest.approx(right)
    assert judged(written["Quality"], {"y": logits}, labels).metric == pytest.approx(right)
    assert judged(written["error"], {"y": logits}, values).metric == pytest.approx(np.abs(logits - values).mean())
    assert (load_metric(written["error"]).quantity.unit, load_metric(written["error"]).quantity.higher) == ("mm", False)


def test_a_reader_of_ones_own(written: dict[str, Any]) -> None:
    boxes = np.array([[[0, 0, 4, 4], [5, 5, 9, 9]]], np.float32)
    outputs = {"corners": boxes, "confidences": np.array([[0.9, 0.8]]), "kinds": np.array([[1, 0]])}
    targets = {"boxes": boxes, "classes": np.array([[1, 0]])}
    metric: Metric = written["quality"]
    assert metric.scale.value(metric.function(outputs, targets, {}), 1) == pytest.approx(1.0)


def test_every_name_is_in_the_table() -> None:
    table = TEXT[: TEXT.index("Without `--metric`")]
    assert set(re.findall(r"`([\w@-]+)`", " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))) - {
        "--metric"
    } == set(METRICS.own)
