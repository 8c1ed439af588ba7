"""What the search took for the times of layers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from hqp_onnx.job import layer_times
from hqp_onnx.job.results import Step
from hqp_onnx.timing.table import KernelTime, Part, TimeTable


@pytest.mark.parametrize(
    ("tables", "predicted"), [({}, None), ({"tables": 2.0}, 8.0), ({"tables": 2.0, "tables-again": 3.0}, 12.0)]
)
def test_predictions_are_of_the_table_that_widths_were_chosen_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: dict[str, float], predicted: float | None
) -> None:
    """Milliseconds of four channels."""
    for name, slope in tables.items():
        kernel = KernelTime((Part((0,), ((0.0, 1e-3 * slope),)),), (), 1)
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode([TimeTable({"conv": kernel}, 0.0, 0.0, "kernels")]))
    monkeypatch.setattr(layer_times, "groups_of", lambda *_: SimpleNamespace(widths_of=lambda _: np.array([4])))
    steps, places, ledger = [Step("input", "input"), Step("conv", "Conv")], {"conv": 1}, SimpleNamespace(cache=tmp_path)
    unused: Any = None
    first, second = layer_times.with_predictions(steps, places, unused, ledger, unused, unused)
    assert first.ms_predicted is None and second.ms_predicted == (predicted and pytest.approx(predicted))
