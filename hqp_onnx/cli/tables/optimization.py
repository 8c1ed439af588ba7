"""What an optimization found: the paper's table, the budget, the cost model."""

from __future__ import annotations

from rich.table import Table

from hqp_onnx.counts import counted
from hqp_onnx.job.cost_model import CostModel
from hqp_onnx.job.results import Report
from hqp_onnx.job.table import ONE_THREAD, PARAMETERS, REMOVED, THREADS
from hqp_onnx.markup import Table as Words

_DISPENSABLE = ("MACs M", REMOVED, ONE_THREAD, THREADS, "smaller", "size MB", "latency ms")
"""Columns that a narrow terminal can do without, first those that it misses least."""


def report_table(report: Report, width: int = 0) -> Table:
    """A row per model; columns are left out where they do not fit into ``width`` characters, 0 for any."""
    shown = report.table.without(PARAMETERS)
    title = f"{report.model}, {counted(report.samples, 'sample')} of {report.data}, {report.machine.runtime}"
    for column in ("", *_DISPENSABLE):
        shown = shown.without(column)
        if not width or _needs(shown) <= width:
            break
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(shown.head):
        table.add_column(_heading(column) if place else "", justify="right" if place else "left", no_wrap=True)
    for row in shown.rows:
        table.add_row(*row)
    return table


def _heading(column: str) -> str:
    """On two lines where that is narrower, as the unit under a name."""
    first, space, rest = column.partition(" ")
    return f"{first}\n{rest}" if space else column


def _needs(table: Words) -> int:
    """Characters of a line."""
    cells = zip(*((*map(_heading, table.head),), *table.rows), strict=True)
    return 1 + sum(3 + max(len(line) for cell in column for line in cell.split("\n")) for column in cells)


def budget_line(report: Report) -> str:
    """How much of the budget each stage took."""
    q, row, asked = report.metric, report.rows[report.ships], report.request.speed
    if asked:
        what = f"what ships is {row.speedup:.2f} times as fast, {q.change(row.drop)} worse"
        return f"{asked} was asked for; {what}"
    points = {name: q.worse(drop) for name, drop in report.budget_spent.items()}
    sure = f"{points['uncertainty']} are uncertainty, " if "uncertainty" in points else ""
    return (
        f"The budget was {q.limit(report.max_drop)} on the validation data: pruning took {points['pruning']} and "
        f"precision {points['precision']}; {sure}{points['left']} left"
    )


def cost_lines(cost: CostModel) -> list[str]:
    """The paper's cost model in words."""
    trials = f"{counted(cost.t_prune, 'trial')} of {counted(cost.d_val, 'sample')}"
    lines = [f"C_HQP = {cost.c_hqp:.0f} s: {trials} at {1e3 * cost.c_inf:.2f} ms"]
    if cost.c_grad is not None and cost.c_qat is not None:
        lines[0] += f", {cost.d_calib} gradients at {1e3 * cost.c_grad:.2f} ms"
        lines.append(f"C_QAT = {cost.c_qat:.0f} s (estimate): {cost.c_qat / cost.c_hqp:.0f} times as much")
    if cost.c_recover:
        lines.append(f"C_recover = {cost.c_recover:.0f} s: {cost.t_recover} trials with training")
        if cost.c_qat is not None:
            all_of_it = cost.c_qat / cost.c_recover
            lines[-1] += f", 1/{all_of_it:.0f} of C_QAT, 1/{all_of_it * cost.t_recover:.0f} each"
    return lines
