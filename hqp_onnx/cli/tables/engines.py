"""Built engines and their latency in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from hqp_onnx.counts import counted
from hqp_onnx.engine import BuildReport, EngineLatency
from hqp_onnx.engine.build_report import OnBoard


def build_lines(report: BuildReport, output: Path) -> list[str]:
    """What was built or prepared, how, and why."""
    how = [report.precision.upper(), *([report.path] if report.path else [])]
    how += [f"scales: {report.scales}"] if report.scales else []
    how += [f"{'strongly' if report.strongly_typed else 'weakly'} typed"]
    where = f"{report.library} {report.tensorrt}"
    if not report.built or report.bytes is None:
        return [f"{output}.sh: {', '.join(how)}; run it beside {output.name}.onnx under {where}", *report.notes]
    size = f"{report.bytes / 1e6:.2f} MB"
    size += "" if report.weights_bytes is None else f" (weights {report.weights_bytes / 1e6:.2f})"
    size += "" if report.layers is None else f", {counted(len(report.layers), 'layer')}"
    ran = [] if report.board is None else [_on_board(report.board)]
    return [f"{output}: {size}, {', '.join(how)}; {where} {_gpus(report)}", *ran, *report.notes]


def _on_board(ran: OnBoard) -> str:
    """What trtexec measured on the board that built it."""
    power = "" if ran.joules is None else f", {1e3 * ran.joules:.2f} mJ a sample ({ran.meter})"
    times = f"median {ran.median_ms:.3f} ms, 99 % below {ran.p99_ms:.3f} ms, {ran.throughput:.0f} samples a second"
    return f"{ran.name}, batch {ran.batch}: {times}{power}"


def _gpus(report: BuildReport) -> str:
    """What an engine was built on, or for."""
    if report.for_gpu:
        return f"for compute capability {', '.join(report.for_gpu)}"
    if report.device is None and report.board is not None:
        return f"on {report.board.name}"
    if report.device is None:
        return "for compute capability 8.0 and later"
    return f"on {report.device.name} ({report.device.compute_capability})"


def engine_rows(results: Mapping[str, EngineLatency]) -> list[dict[str, Any]]:
    """One JSON object per engine; ratios to the first."""
    return [
        {
            "model": name,
            "speedup": ratio,
            **vars(timing),
            "throughput": timing.throughput,
            "paper_joules": timing.paper_joules,
        }
        for (name, timing), ratio in zip(results.items(), _ratios(results), strict=True)
    ]


def engine_table(results: Mapping[str, EngineLatency]) -> Table:
    """Latency and energy of engines."""
    table = Table()
    table.add_column("engine")
    for column in ("batch", "median ms", "p99", "samples/s", "speedup", "W", "mJ/sample", "P L mJ"):
        table.add_column(column, justify="right")
    for (name, timing), ratio in zip(results.items(), _ratios(results), strict=True):
        times = (f"{timing.median_ms:.3f}", f"{timing.p99_ms:.3f}", f"{timing.throughput:.0f}", f"{ratio:.2f}x")
        energy = (timing.watts, _milli(timing.joules), _milli(timing.paper_joules))
        table.add_row(name, str(timing.batch), *times, *("" if v is None else f"{v:.3g}" for v in energy))
    return table


def _ratios(results: Mapping[str, EngineLatency]) -> list[float]:
    """Throughput as a multiple of the first engine's."""
    throughputs = [timing.throughput for timing in results.values()]
    return [value / throughputs[0] for value in throughputs]


def _milli(value: float | None) -> float | None:
    return None if value is None else 1e3 * value
