"""Measure the rows of a report: every model on the same data, and their latency in turn.

Narrow models are often faster on one thread than on all, so each is timed on several numbers of threads, and compared
on its best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hqp_onnx.arrays import Array
from hqp_onnx.engine import EngineLatency
from hqp_onnx.evaluation.deviation import finite
from hqp_onnx.evaluation.latency import Latency, measure
from hqp_onnx.evaluation.metrics import Scores
from hqp_onnx.evaluation.paired import Interval
from hqp_onnx.graphs import model_io
from hqp_onnx.job.candidate import Candidate, digest
from hqp_onnx.job.judge import Judge
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.results import EngineRow, Row
from hqp_onnx.job.setup import Setup
from hqp_onnx.job.shipping import NOISE
from hqp_onnx.runtimes.runners import thread_counts
from hqp_onnx.runtimes.session import Runner

SECONDS = 6.0
"""Of the latencies of all models."""


@dataclass(frozen=True)
class Measured:
    """A candidate and what is known of it; ``scores`` are on the report's data, ``val`` on D_val.

    ``load`` opens it for a number of threads.
    """

    candidate: Candidate
    session: Runner
    load: Callable[[int], Runner]
    scores: Scores
    val: Scores
    bytes: int
    params: int
    macs: int
    sparsity: float


def measured(
    setup: Setup, judge: Judge, candidate: Candidate, size: int, session: Runner, load: Callable[[int], Runner]
) -> Measured:
    """A candidate as ``session`` runs it, judged on all samples, whatever the budget."""
    val = judge.budget.baseline if session is setup.model.session else setup.scores(session, "val")
    scores = setup.scores(session, "test") if "test" in setup.data else val
    return Measured(
        candidate, session, load, scores, val, size, sparsity=judge.sparsity(candidate), **judge.size(candidate)
    )


def measured_file(setup: Setup, judge: Judge, candidate: Candidate, file: Path) -> Measured:
    """A candidate as it is written in ``file``."""

    def load(threads: int) -> Runner:
        return setup.load(file, threads=threads)

    return measured(setup, judge, candidate, model_io.stored_bytes(file), setup.load(file), load)


Latencies = Mapping[str, Mapping[int, Latency]]
"""By model, the baseline first, and number of threads."""


def latencies_of(
    models: Mapping[str, Measured], threads: Sequence[int], feeds: Mapping[str, Array]
) -> dict[str, dict[int, Latency]]:
    """Of every model on every number of threads, in turn; the first model is the baseline. ``feeds`` is one sample."""
    ways = [(name, count) for name in models for count in threads]
    sessions = {f"{name} {count}": models[name].load(count) for name, count in ways}
    found = measure(sessions, feeds, SECONDS)
    return {name: {count: found[f"{name} {count}"] for count in threads} for name in models}


def latencies_once(setup: Setup, ledger: Ledger, models: Mapping[str, Measured], name: str) -> Latencies:
    """The latencies of models on every number of threads that is worth trying; a resumed run has the same."""
    which = digest(f"{row} {model.candidate.key}" for row, model in models.items())
    counts = thread_counts(setup.target, setup.options.threads)
    found = ledger.once(
        f"{name}-{which}", lambda: msgspec.to_builtins(latencies_of(models, counts, setup.sample), str_keys=True)
    )
    return msgspec.convert(found, dict[str, dict[int, Latency]], strict=False)


def best_threads(latencies: Mapping[int, Latency]) -> int:
    """The number of threads that a model is fastest on: the last that was tried, unless another is clearly faster."""
    best, last = max(latencies, key=lambda count: latencies[count].speedup), [*latencies][-1]
    return best if latencies[best].speedup > (1 + NOISE) * latencies[last].speedup else last


def make_rows(models: Mapping[str, Measured], latencies: Latencies) -> dict[str, Row]:
    """One row per model; the first is the baseline."""
    base, first = next(iter(models.values())), next(iter(latencies.values()))
    rows = {}
    for name, model in models.items():
        times, threads = latencies[name], best_threads(latencies[name])
        best, one = times[threads], times.get(1)
        rows[name] = Row(
            **_judged(base, model),
            latency_ms=best.median_ms,
            latency_p10_ms=best.p10_ms,
            latency_p90_ms=best.p90_ms,
            speedup=best.speedup / first[best_threads(first)].speedup,
            threads=threads,
            one_thread_ms=None if one is None else one.median_ms,
            one_thread_speedup=None if one is None else one.speedup / first[1].speedup,
        )
    return rows


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
        "parts": model.scores.parts,
    }
