"""In which precision and on how many threads models are timed: the fastest way, or the one at hand if it is as fast."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.evaluation.latency import Latency
from hqp_onnx.job import timing
from hqp_onnx.job.candidate import Precision
from hqp_onnx.job.timing import Timing, choose_timing

SPEEDS = {(Precision.FP32, 1): 1.0, (Precision.INT8, 1): 1.2, (Precision.FP32, 0): 1.18, (Precision.INT8, 0): 0.8}


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (None, Timing(Precision.INT8, 1)),
        (Timing(Precision.FP32, 1), Timing(Precision.INT8, 1)),  # by a fifth
        (Timing(Precision.FP32, 0), Timing(Precision.FP32, 0)),  # 1.2 of 1.18 is not worth another table
        (Timing(Precision.FP16, 1), Timing(Precision.INT8, 1)),  # which is no way that is open
    ],
)
def test_the_fastest_way_or_the_one_at_hand(
    monkeypatch: pytest.MonkeyPatch, now: Timing | None, expected: Timing
) -> None:
    def measured(sessions: Mapping[str, Any], *_: Any) -> dict[str, Latency]:
        return {name: Latency(1, 1, 1, 9, SPEEDS[way]) for name, way in sessions.items()}

    monkeypatch.setattr(timing, "thread_counts", lambda *_: (1, 0))
    monkeypatch.setattr(Timing, "model", lambda way, *_: way.precision)
    monkeypatch.setattr(timing, "measure", measured)
    setup = SimpleNamespace(
        options=SimpleNamespace(narrow="int8", precision="mixed", threads=0),
        target=SimpleNamespace(stand_in=""),
        may_be_dynamic=False,
        sample={},
        load=lambda model, threads: (model, threads),
    )
    ledger: Any = SimpleNamespace(once=lambda _, make: make())
    plan = PruningPlan(np.arange(2))
    assert choose_timing(setup, ledger, plan, "timing", now) == expected  # type: ignore[arg-type]
