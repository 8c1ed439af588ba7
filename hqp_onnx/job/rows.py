"""Measure the rows of a report: every model on the same data, and their latency in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hqp_onnx.arrays import Array
from hqp_onnx.engine import EngineLatency
from hqp_onnx.evaluation.deviation import finite
from hqp_onnx.evaluation.latency import Latency, measure
from hqp_onnx.evaluation.metrics import Scores
from hqp_onnx.evaluation.paired import Interval
from hqp_onnx.job.candidate import Candidate
from hqp_onnx.job.results import EngineRow, Row
from hqp_onnx.runtimes.session import Runner


@dataclass(frozen=True)
class Measured:
    """A candidate and what is known of it; ``scores`` are on the report's data, ``val`` on D_val."""

    candidate: Candidate
    session: Runner
    scores: Scores
    val: Scores
    bytes: int
    params: int
    macs: int
    sparsity: float


def latencies_of(models: Mapping[str, Measured], feeds: Mapping[str, Array]) -> dict[str, Latency]:
    """Of every model, in turn; the first is the baseline. ``feeds`` is one sample."""
    return measure({name: model.session for name, model in models.items()}, feeds)


def make_rows(models: Mapping[str, Measured], latencies: Mapping[str, Latency]) -> dict[str, Row]:
    """One row per model; the first is the baseline."""
    base = next(iter(models.values()))
    return {
        name: Row(
            **_judged(base, model),
            latency_ms=latencies[name].median_ms,
            latency_p10_ms=latencies[name].p10_ms,
            latency_p90_ms=latencies[name].p90_ms,
            speedup=latencies[name].speedup,
        )
        for name, model in models.items()
    }


def engine_row(base: Measured, engine: Measured, latency: EngineLatency, admitted: bool) -> EngineRow:
    """The row of an engine; ``base`` is the baseline, ``latency`` the GPU's."""
    return EngineRow(
        **_judged(base, engine),
        admitted=admitted,
        latency_ms=latency.median_ms,
        latency_p99_ms=latency.p99_ms,
        batch=latency.batch,
    )


def _judged(base: Measured, model: Measured) -> dict[str, Any]:
    """The fields of ``Judged``."""
    same = model is base
    interval = Interval(0.0, 0.0, 0.0) if same else base.scores.drop_to(model.scores)
    return {
        "metric": model.scores.metric,
        "drop": interval.drop,
        "drop_low": finite(interval.low),
        "drop_high": finite(interval.high),
        "val_metric": model.val.metric,
        "val_drop": base.val.scale.drop(base.val.metric, model.val.metric),
        "bytes": model.bytes,
        "size_reduction": 1 - model.bytes / base.bytes,
        "params": model.params,
        "macs": model.macs,
        "sparsity": model.sparsity,
    }
