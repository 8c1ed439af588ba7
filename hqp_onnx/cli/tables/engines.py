"""Built engines and their latency in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from hqp_onnx.engine import EngineLatency


def build_lines(report: Mapping[str, Any], output: Path) -> list[str]:
    """What was built or prepared, how, and why so."""
    how = [report["precision"].upper(), *(report[key] for key in ("path",) if report[key])]
    how += [f"scales: {report['scales']}"] if report["scales"] else []
    how += [f"{'strongly' if report['strongly_typed'] else 'weakly'} typed"]
    where = f"TensorRT {report['tensorrt']}"
    if not report["built"]:
        return [f"{output}.sh: {', '.join(how)}; run it beside {output.name}.onnx under {where}", *report["notes"]]
    device = report["device"]
    gpu = f"{device['name']} ({device['compute_capability']})"
    size = f"{report['bytes'] / 1e6:.2f} MB, {len(report['layers'])} layers"
    return [f"{output}: {size}, {', '.join(how)}; {where} on {gpu}", *report["notes"]]


def engine_rows(results: Mapping[str, EngineLatency]) -> list[dict[str, Any]]:
    """One JSON object per engine; ratios to the first."""
    first = next(iter(results.values())).throughput
    return [
        {
            "model": name,
            "speedup": found.throughput / first,
            **vars(found),
            "throughput": found.throughput,
            "paper_joules": found.paper_joules,
        }
        for name, found in results.items()
    ]


def engine_table(results: Mapping[str, EngineLatency]) -> Table:
    """Latency and energy of engines."""
    table = Table()
    table.add_column("engine")
    for column in ("batch", "median ms", "p99", "samples/s", "speedup", "W", "mJ/sample", "P L mJ"):
        table.add_column(column, justify="right")
    for row in engine_rows(results):
        energy = (row["watts"], _milli(row["joules"]), _milli(row["paper_joules"]))
        times = (
            f"{row['median_ms']:.3f}",
            f"{row['p99_ms']:.3f}",
            f"{row['throughput']:.0f}",
            f"{row['speedup']:.2f}x",
        )
        table.add_row(row["model"], str(row["batch"]), *times, *("" if v is None else f"{v:.3g}" for v in energy))
    return table


def _milli(value: float | None) -> float | None:
    return None if value is None else 1e3 * value
