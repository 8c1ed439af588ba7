"""The paper's table: true to the report, and the same on the page, in the terminal and in tools."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hqp_onnx.cli.tables.optimization import report_table
from hqp_onnx.job.results import Report
from hqp_onnx.job.table import PARAMETERS
from hqp_onnx.markup import Table
from hqp_onnx.report.html import render


def test_cells_are_the_numbers_of_the_rows(returned: Report) -> None:
    row = replace(returned.hqp, latency_ms=1.25, speedup=4.0, bytes=2_500_000, size_reduction=0.75, metric=0.912)
    row = replace(row, drop=0.01, drop_low=-0.002, drop_high=0.022, sparsity=0.333, macs=7_000_000, params=1_500)
    cells = "HQP", "1.250", "4.00×", "2.50", "75 %", "91.20", "+1.00 (-0.20 to +2.20)", "33.3", "7.00", "0.002"
    alone = replace(row, threads=0, one_thread_speedup=None)
    base = replace(returned.baseline, one_thread_speedup=None)
    none = {name: replace(other, one_thread_speedup=None) for name, other in returned.rows.items()}
    assert replace(returned, **{**none, "baseline": base, "hqp": alone}).table.rows[-1] == cells
    row = replace(row, threads=1, one_thread_speedup=3.5)
    none["baseline"] = replace(base, threads=0, one_thread_speedup=1.0)
    shown = replace(returned, **{**none, "hqp": row}).table
    assert shown.head[1:5] == ("latency ms", "threads", "speedup", "one thread")
    assert shown.rows[-1] == (*cells[:2], "1", "4.00×", "3.50×", *cells[3:])
    assert shown.rows[0][2:5:2] == ("all", "1.00×")
    assert [name for name, *_ in shown.rows] == ["Baseline", "Q8-only", "Pruned-only", "HQP"]
    assert shown.head[7] == "agreement %"


def test_the_terminal_shows_the_cells_of_the_page(returned: Report, folder: Path) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report_table(returned))
    lines = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in console.export_text().splitlines()]
    shown, page = returned.table, render(returned, folder)
    assert PARAMETERS in shown.head
    for row in shown.rows:
        assert list(row[:-1]) in lines
        assert all(f">{cell}</t" in page for cell in row)


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_the_table_fits_the_terminal(returned: Report, width: int) -> None:
    """No cell is cut, and a narrow terminal has what matters."""
    row = replace(returned.hqp, speedup=12.5, latency_ms=1234.5, bytes=123_456_789, drop=0.0123, drop_low=-0.1)
    report = replace(returned, recovered=row, files={**returned.files, "recovered": "r"}, model="m.onnx")
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(report_table(report, width))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert {"12.50×", "HQP + recovery", "+1.23 (-10.00"} <= set(re.split(r"\s*[│┃]\s*| to ", text))


def test_a_table_without_a_column() -> None:
    table = Table("words", ("a", "b", "c"), (("1", "2", "3"), ("4", "5", "6")))
    assert table.without("b") == Table("words", ("a", "c"), (("1", "3"), ("4", "6")))
    assert Table("none", ("a", "b"), ()).without("a") == Table("none", ("b",), ())
    with pytest.raises(ValueError, match="not 2 cells"):
        Table("words", ("a", "b"), (("1",),))
