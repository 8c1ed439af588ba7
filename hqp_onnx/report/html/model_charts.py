"""Figures of the models: latency, and where the accuracy budget went."""

from __future__ import annotations

import svg

from hqp_onnx.counts import counted
from hqp_onnx.evaluation.metrics import Quantity
from hqp_onnx.job.results import EngineRow, Report, Row, title_of
from hqp_onnx.markup import Table
from hqp_onnx.report.html.figures import Figure
from hqp_onnx.report.html.plot import WIDTH, Scale, bar, line, picture, text, ticks, x_axis

_STEP = 38.0  # from bar to bar
_LONGEST = 2.0  # medians; spreads that reach further are cut


def latency(report: Report) -> Figure:
    """Median latency of each row, and its spread."""
    rows = report.all_rows
    furthest = max(row.spread[1] for row in rows.values())
    scale = Scale(0, min(furthest, _LONGEST * max(row.latency_ms for row in rows.values())), 0, WIDTH - 2)
    drawn: list[svg.Element] = []
    for position, (name, row) in enumerate(rows.items()):
        kind = "main" if name == report.shipped_row else "other"
        drawn += _latency_bar(_STEP * position, title_of(name), kind, row, scale)
    fastest = min(rows, key=lambda name: rows[name].latency_ms)
    bars = f"Bars of {counted(len(rows), 'model')}"
    says = f"{bars}; the shortest is {title_of(fastest)} with {rows[fastest].latency_ms:.3f} ms."
    caption = f"Median of one run, on {report.machine.runtime}, in turn. Thin lines reach from the 10th to the 90th "
    caption += "percentile" if report.engine is None else "percentile (an engine's from the median to the 99th)"
    caption += ", those with an arrow further than shown." if furthest > scale.high else "."
    times = {title_of(name): (row.latency_ms, *row.spread) for name, row in rows.items()}
    values = tuple((title, *(f"{ms:.3f}" for ms in three)) for title, three in times.items())
    numbers = Table("Latency in milliseconds", ("model", "median", "from", "to"), values)
    drawing = picture("latency", "Latency of the models", says, _STEP * len(rows), drawn)
    return Figure("latency", "Latency", drawing, caption, numbers)


def _latency_bar(y: float, name: str, kind: str, row: Row | EngineRow, scale: Scale) -> list[svg.Element]:
    median, (low, high) = row.latency_ms, row.spread
    what = f"{row.speedup:.2f}×" if isinstance(row, Row) else f"batch {row.batch}, GPU"
    says = f"{name}: {median:.3f} ms, {low:.3f} to {high:.3f}"
    end, middle = scale(high), y + 25
    tips = [(end, -4), (end, 4)] if high <= scale.high else [(end - 5, -4), (end - 5, 4)]
    return [
        text(0, y + 13, name, kind="name"),
        text(WIDTH, y + 13, f"{median:.3f} ms · {what}", "end", "value"),
        bar(0, y + 19, scale(median), y + 31, kind, says),
        line(scale(low), middle, end, middle, "spread"),
        line(scale(low), middle - 4, scale(low), middle + 4, "spread"),
        *(line(end, middle, x, middle + rise, "spread") for x, rise in tips),
    ]


def budget(report: Report) -> Figure:
    """What each stage took of the budget, one after the other, and what is left."""
    titles = {"precision": report.request.narrow.upper()}
    q = report.metric
    limit, reached = q.factor * report.max_drop, 0.0
    steps = []
    for stage, drop in report.budget_spent.items():
        if stage != "left":
            steps.append((titles.get(stage, stage.capitalize()), reached, reached + q.factor * drop))
            reached += q.factor * drop
    ends = [end for _, _, end in steps]
    scale = Scale(min(0.0, *ends), max(limit, *ends), 4, WIDTH - 8)
    taken = ", ".join(f"{name} {_amount(q, end - start, '+')}" for name, start, end in steps)
    caption = f"Of {q.limit(report.max_drop)}, {_amount(q, reached)} are spent ({taken}) and "
    caption += f"{_amount(q, limit - reached)} are left. "
    drawn: list[svg.Element] = []
    for position, step in enumerate(steps):
        drawn += _budget_bar(_STEP * position, *step, "main", scale, limit, q)
    base = _STEP * len(steps)
    steps.append(("Left", reached, limit))
    drawn += _budget_bar(base, *steps[-1], "rest", scale, limit, q)
    base += _STEP
    drawn += x_axis(scale, base, ticks(scale.low, scale.high), f"{q.unit or q.name} lost on the validation data")
    rows = tuple((name, _amount(q, end - start, "+")) for name, start, end in steps)
    numbers = Table("Change of the metric for the worse", ("stage", q.unit or q.name), rows)
    drawing = picture("budget", "Budget spent by stage", caption, base + 34, drawn)
    title = "Where the accuracy budget went"
    return Figure("budget", title, drawing, f"{caption}The dashed line is the budget.", numbers)


def _budget_bar(
    y: float, name: str, start: float, end: float, kind: str, scale: Scale, limit: float, q: Quantity
) -> list[svg.Element]:
    says = f"{_amount(q, end - start, '+')} {q.unit}".rstrip()
    return [
        text(0, y + 13, name, kind="name"),
        text(WIDTH, y + 13, says, "end", "value"),
        bar(scale(start), y + 19, scale(end), y + 31, kind, f"{name}: {says}"),
        line(scale(0), y + 17, scale(0), y + 33, "axis"),
        line(scale(limit), y + 17, scale(limit), y + 33, "limit"),
    ]


def _amount(q: Quantity, shown: float, sign: str = "") -> str:
    """A change as it is shown: of shares, in points already."""
    return q.worse(shown / q.factor, sign)
