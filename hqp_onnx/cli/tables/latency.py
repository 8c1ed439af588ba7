"""Latency of models."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from hqp_onnx.comparison.found import short_names
from hqp_onnx.evaluation.latency import Latency


def latency_table(results: Mapping[str, Latency], sizes: Mapping[str, int], runtime: str) -> Table:
    """Latency of models measured in turn; ratios to the first."""
    table = Table(title=runtime, title_justify="left")
    table.add_column("model", overflow="fold")
    energy = any(latency.joules is not None for latency in results.values())
    for column in ("median ms", "p10", "p90", "speedup", "size MB", *(["mJ a sample"] if energy else [])):
        table.add_column(column, justify="right", no_wrap=True)
    labels = short_names(list(results))
    for name, latency in results.items():
        values = (latency.median_ms, latency.p10_ms, latency.p90_ms)
        cells = (*(f"{value:.3f}" for value in values), f"{latency.speedup:.2f}x", f"{sizes[name] / 1e6:.2f}")
        joules = [] if latency.joules is None else [f"{1e3 * latency.joules:.3f}"]
        table.add_row(labels[name], *cells, *joules)
    return table
