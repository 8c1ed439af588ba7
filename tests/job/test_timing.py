"""In which precision and on how many threads models are timed: the fastest way, or the one at hand if it is as fast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from small_model import small_data, small_model

import hqp_onnx
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.evaluation.latency import Latency
from hqp_onnx.job import timing
from hqp_onnx.job.candidate import Precision
from hqp_onnx.job.options import Options
from hqp_onnx.job.setup import open_setup
from hqp_onnx.job.timing import Timing, choose_timing
from hqp_onnx.progress import silent

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


def test_a_model_is_timed_by_the_kernels_that_ship_in_int8(tmp_path: Path) -> None:
    """Where numbers below 0 have a place in the range of a Relu, onnxruntime fuses neither it nor its convolution."""

    def kernels(model: onnx.ModelProto) -> Counter[str]:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)

    onnx.save(small_model(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **small_data())
    data = str(tmp_path / "data.npz")
    setup = open_setup(Options(tmp_path / "model.onnx", data, data, tmp_path / "out"), silent)
    found = kernels(Timing(Precision.INT8, 1).model(setup, PruningPlan(np.arange(3))))
    shipped = kernels(hqp_onnx.quantize(tmp_path / "model.onnx", data=data, precision="int8"))
    assert found == shipped and found["QLinearConv"] == 3
