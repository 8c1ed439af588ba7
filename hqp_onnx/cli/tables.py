"""Results as rich tables, for a terminal or plain text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from hqp_onnx.evaluation.latency import Latency
from hqp_onnx.job.results import TITLES, CostModel, Report, Row


def report_table(report: Report) -> Table:
    """The paper's table."""
    title = f"{report.model}, {report.samples} samples of {report.data}, {report.machine['runtime']}"
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("latency ms", "speedup", "size MB", "smaller", "metric %", "drop (95 % interval)", "θ %", "MACs M"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in report.all_rows.items():
        table.add_row(
            TITLES[name],
            f"{row.latency_ms:.3f}",
            f"{row.speedup:.2f}x" if isinstance(row, Row) else "",
            f"{row.bytes / 1e6:.2f}",
            f"{100 * row.size_reduction:.0f} %",
            f"{100 * row.metric:.2f}",
            f"{100 * row.drop:+.2f} ({100 * row.drop_low:+.2f} to {100 * row.drop_high:+.2f})",
            f"{100 * row.sparsity:.0f}",
            f"{row.macs / 1e6:.2f}",
        )
    return table


def budget_line(report: Report) -> str:
    """What took how much of the budget."""
    points = {name: f"{100 * drop:.2f}" for name, drop in report.spent.items()}
    sure = f"{points['uncertainty']} are uncertainty, " if "uncertainty" in points else ""
    return (
        f"Of the budget of {100 * report.settings['max_drop']:g} points on D_val, pruning took {points['pruning']} and "
        f"precision {points['precision']}; {sure}{points['left']} are left"
    )


def cost_lines(cost: CostModel) -> list[str]:
    """The paper's cost model in words."""
    lines = [f"C_HQP = {cost.c_hqp:.0f} s: {cost.t_prune} trials of {cost.d_val} samples at {1e3 * cost.c_inf:.2f} ms"]
    if cost.c_grad is not None and cost.c_qat is not None:
        lines[0] += f", {cost.d_calib} gradients at {1e3 * cost.c_grad:.2f} ms"
        lines.append(f"C_QAT = {cost.c_qat:.0f} s (estimate): {cost.c_qat / cost.c_hqp:.0f} times as much")
    if cost.c_recover:
        lines.append(f"C_recover = {cost.c_recover:.0f} s: {cost.t_recover} trials with training")
        if cost.c_qat is not None:
            all_of_it = cost.c_qat / cost.c_recover
            lines[-1] += f", 1/{all_of_it:.0f} of C_QAT, 1/{all_of_it * cost.t_recover:.0f} each"
    return lines


def latency_table(results: Mapping[str, Latency], sizes: Mapping[str, int], runtime: str) -> Table:
    """Latency of models measured in turn; ratios to the first."""
    table = Table(title=runtime, title_justify="left")
    table.add_column("model")
    for column in ("median ms", "p10", "p90", "speedup", "size MB"):
        table.add_column(column, justify="right")
    for name, latency in results.items():
        values = (latency.median_ms, latency.p10_ms, latency.p90_ms)
        cells = (*(f"{value:.3f}" for value in values), f"{latency.speedup:.2f}x", f"{sizes[name] / 1e6:.2f}")
        table.add_row(name, *cells)
    return table


def inspect_table(found: Mapping[str, Any]) -> Table:
    """Groups of parameter axes that share units, and what is frozen; "(all)" marks branches, which may leave whole."""
    title = (
        f"{found['units']} units, {found['prunable']} prunable; of {found['params'] / 1e6:.2f} M parameters and "
        f"{found['macs'] / 1e6:.2f} M MACs per sample, {found['prunable_params'] / max(found['params'], 1):.1%} and "
        f"{found['prunable_macs'] / max(found['macs'], 1):.1%} are in slices that can be removed"
    )
    table = Table(title=title, title_justify="left")
    for column in ("units", "prunable", "members (tensor: axis)", "frozen because"):
        table.add_column(column, overflow="fold")
    for group in found["groups"]:
        members = ", ".join(f"{member['tensor']}: {member['axis']}" for member in group["members"])
        reasons = Counter(group["frozen"].values())
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
        prunable = f"{group['prunable']}{' (all)' * group['branch']}"
        table.add_row(str(group["units"]), prunable, members, why)
    return table
