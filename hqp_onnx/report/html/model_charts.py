"""Figures of the models: latency, and where the accuracy budget went."""

from __future__ import annotations

from collections.abc import Mapping

import svg

from hqp_onnx.report.html.figures import Data, Figure, shipped_row, title_of
from hqp_onnx.report.html.markup import table
from hqp_onnx.report.html.plot import WIDTH, Scale, bar, line, picture, text, ticks, x_axis

_STEP = 38.0  # from bar to bar
_LONGEST = 2.0  # medians; spreads that reach further are cut


def latency(rows: Mapping[str, Data], runtime: str) -> Figure:
    """Median latency of each row, and its spread."""
    spans = {name: _span(row) for name, row in rows.items()}
    furthest = max(high for _, high in spans.values())
    scale = Scale(0, min(furthest, _LONGEST * max(row["latency_ms"] for row in rows.values())), 0, WIDTH - 2)
    drawn: list[svg.Element] = []
    for position, (name, row) in enumerate(rows.items()):
        kind = "main" if name == shipped_row(rows) else "other"
        drawn += _latency_bar(_STEP * position, title_of(name), kind, row, spans[name], scale)
    fastest = min(rows, key=lambda name: rows[name]["latency_ms"])
    says = f"Bars of {len(rows)} models; the shortest is {title_of(fastest)} with {rows[fastest]['latency_ms']:.3f} ms."
    caption = f"Median of one run, on {runtime}, in turn. Thin lines reach from the 10th to the 90th percentile"
    caption += " (an engine's from the median to the 99th)" if "engine" in rows else ""
    caption += ", those with an arrow further than shown." if furthest > scale.high else "."
    values = [
        [title_of(name), *(f"{ms:.3f}" for ms in (row["latency_ms"], *spans[name]))] for name, row in rows.items()
    ]
    numbers = table("Latency in milliseconds", ("model", "median", "from", "to"), values)
    drawing = picture("latency", "Latency of the models", says, _STEP * len(rows), drawn)
    return Figure("latency", "Latency", drawing, caption, numbers)


def _span(row: Data) -> tuple[float, float]:
    """Ends of the spread: 10th and 90th percentile, an engine's median and 99th."""
    if "latency_p90_ms" in row:
        return row["latency_p10_ms"], row["latency_p90_ms"]
    return row["latency_ms"], row.get("latency_p99_ms", row["latency_ms"])


def _latency_bar(
    y: float, name: str, kind: str, row: Data, span: tuple[float, float], scale: Scale
) -> list[svg.Element]:
    median, (low, high) = row["latency_ms"], span
    what = f"{row['speedup']:.2f}×" if "speedup" in row else f"batch {row['batch']}, GPU"
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


def budget(spent: Mapping[str, float], max_drop: float, precision: str) -> Figure:
    """What each stage took of the budget, one after the other, and what is left.

    Args:
        spent: shares of the metric by stage, and ``left``.
        max_drop: the budget.
        precision: that was asked for.
    """
    titles = {"pruning": "Pruning", "precision": "FP16" if precision == "fp16" else "INT8", "left": "Left"}
    steps, reached = [], 0.0
    for name, drop in spent.items():
        if name != "left":
            steps.append((titles.get(name, name.capitalize()), reached, reached + 100 * drop))
            reached += 100 * drop
    limit = 100 * max_drop
    ends = [end for _, _, end in steps]
    scale = Scale(min(0.0, *ends), max(limit, *ends), 4, WIDTH - 8)
    taken = ", ".join(f"{name} {end - start:+.2f}" for name, start, end in steps)
    caption = f"Of {limit:g} points, {reached:.2f} are spent ({taken}) and {limit - reached:.2f} are left. "
    steps.append((titles["left"], reached, limit))
    drawn: list[svg.Element] = []
    for position, (name, start, end) in enumerate(steps):
        kind = "rest" if name == titles["left"] else "main"
        drawn += _budget_bar(_STEP * position, name, (start, end), kind, scale, limit)
    base = _STEP * len(steps)
    drawn += x_axis(scale, base, ticks(scale.low, scale.high), "points lost on the validation data")
    numbers = table("Points of the metric", ("stage", "points"), [[name, f"{b - a:+.2f}"] for name, a, b in steps])
    drawing = picture("budget", "Budget spent by stage", caption, base + 34, drawn)
    return Figure(
        "budget", "Where the accuracy budget went", drawing, f"{caption}The dashed line is the budget.", numbers
    )


def _budget_bar(
    y: float, name: str, span: tuple[float, float], kind: str, scale: Scale, limit: float
) -> list[svg.Element]:
    says = f"{span[1] - span[0]:+.2f} points"
    return [
        text(0, y + 13, name, kind="name"),
        text(WIDTH, y + 13, says, "end", "value"),
        bar(scale(span[0]), y + 19, scale(span[1]), y + 31, kind, f"{name}: {says}"),
        line(scale(0), y + 17, scale(0), y + 33, "axis"),
        line(scale(limit), y + 17, scale(limit), y + 33, "limit"),
    ]
