"""The table of a report: what is known of each model beside the original, and the cells that say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hqp_onnx.evaluation.metrics import Quantity
from hqp_onnx.markup import Table

TITLES = {
    "baseline": "Baseline",
    "q8_only": "Q8-only",
    "pruned": "Pruned-only",
    "int8_everywhere": "HQP, all INT8",
    "hqp": "HQP",
    "recovered": "HQP + recovery",
    "engine": "Engine, on the GPU",
}
PARAMETERS, THREADS, ONE_THREAD, REMOVED = "parameters M", "threads", "one thread", "removed %"
TIMES = ("latency ms", THREADS, "speedup", ONE_THREAD)
"""Columns."""


@dataclass(frozen=True)
class Judged:
    """One model, apart from its latency.

    Attributes:
        metric: on the data that ``Report.data`` names; of metrics that are shares, 0.94 is 94 %.
        drop: how much worse than the baseline's it is, in the same units: of a share, 0.015 is 1.5 points.
        drop_low: the lower end of the drop's 95 % paired interval; None where that is not known.
        drop_high: its upper end.
        val_metric: the metric on the validation data.
        val_drop: the drop on the validation data: what the budget is held to.
        bytes: of the file, and of the weights beside it.
        size_reduction: the share of the baseline's bytes that is gone: 0.75 leaves a quarter.
        params: values in initializers.
        macs: multiply-accumulates per sample.
        sparsity: the share of the prunable units that was removed.
        parts: the metric of each output by itself, where several are judged; else empty.
    """

    metric: float
    drop: float
    drop_low: float | None
    drop_high: float | None
    val_metric: float
    val_drop: float
    bytes: int
    size_reduction: float
    params: int
    macs: int
    sparsity: float
    parts: Mapping[str, float] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class Row(Judged):
    """A model of the table.

    Attributes:
        latency_ms: the median time of one run, of ``--batch`` samples, on ``threads`` threads.
        latency_p10_ms: the 10th percentile.
        latency_p90_ms: the 90th percentile.
        speedup: over the baseline.
        threads: the number that the model is fastest on; 0 for the runtime's own choice.
        one_thread_ms: the median time on one thread; None where that was not measured.
        one_thread_speedup: over the baseline, both on one thread; None likewise.
    """

    latency_ms: float
    latency_p10_ms: float
    latency_p90_ms: float
    speedup: float
    threads: int = 0
    one_thread_ms: float | None = None
    one_thread_speedup: float | None = None

    @property
    def spread(self) -> tuple[float, float]:
        """Milliseconds from the 10th to the 90th percentile."""
        return self.latency_p10_ms, self.latency_p90_ms


@dataclass(frozen=True)
class Point(Row):
    """A model of the family that ``--pareto`` writes.

    Attributes:
        file: relative to OUT.
    """

    file: str = ""


@dataclass(frozen=True)
class EngineRow(Judged):
    """The TensorRT engine of the model that ships. It has no speedup: the other rows are not measured on the GPU.

    Attributes:
        admitted: whether it is inside the budget.
        latency_ms: the median time of one run on the GPU, between CUDA events.
        latency_p99_ms: the 99th percentile.
        batch: samples of a run.
    """

    admitted: bool
    latency_ms: float
    latency_p99_ms: float
    batch: int

    @property
    def spread(self) -> tuple[float, float]:
        """Milliseconds from the median to the 99th percentile."""
        return self.latency_ms, self.latency_p99_ms


def title_of(row: str) -> str:
    """A row's name in words."""
    return TITLES.get(row, row.replace("_", " ").capitalize())


def models_table(
    rows: Mapping[str, Row | EngineRow], q: Quantity, caption: str, threads: Mapping[str, float | None]
) -> Table:
    """A row per model.

    Args:
        rows: by name, in order.
        q: what the metric is measured in.
        caption: of the table.
        threads: speedups on one thread, as far as they are known and were compared.
    """
    change = f"{q.fall} (95 % interval)"
    head = ("model", *TIMES, "size MB", "smaller", q.head, change, REMOVED, "MACs M", PARAMETERS)
    table = Table(caption, head, tuple(_model(q, title_of(name), row) for name, row in rows.items()))
    compared = any(speedup is not None for speedup in threads.values())
    return table if compared else table.without(THREADS).without(ONE_THREAD)


def _model(q: Quantity, title: str, row: Row | EngineRow) -> tuple[str, ...]:
    return (
        title,
        f"{row.latency_ms:.3f}",
        str(row.threads or "all") if isinstance(row, Row) else "–",
        f"{row.speedup:.2f}×" if isinstance(row, Row) else "–",
        "–" if isinstance(row, EngineRow) or row.one_thread_speedup is None else f"{row.one_thread_speedup:.2f}×",
        f"{row.bytes / 1e6:.2f}",
        f"{100 * row.size_reduction:.0f} %",
        q.value(row.metric),
        f"{q.worse(row.drop, '+')} ({interval_words(q, row, '+')})",
        f"{100 * row.sparsity:.1f}",
        f"{row.macs / 1e6:.2f}",
        f"{row.params / 1e6:.3f}",
    )


def interval_words(q: Quantity, row: Row | EngineRow, sign: str = "") -> str:
    """The 95 % interval of a row's drop."""
    if row.drop_low is None or row.drop_high is None:
        return "interval not known"
    return f"{q.worse(row.drop_low, sign)} to {q.worse(row.drop_high, sign)}"
