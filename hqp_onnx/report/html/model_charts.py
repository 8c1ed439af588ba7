"""Figures of the models: latency, and where the accuracy budget went."""

from __future__ import annotations

from collections.abc import Mapping

import svg

from hqp_onnx.report.html.figures import Data, Figure, title_of
from hqp_onnx.report.html.markup import table
from hqp_onnx.report.html.plot import (
    WIDTH,
    Scale,
    bar,
    line,
    picture,
    text,
    ticks,
    x_axis,
)


def latency(rows: Mapping[str, Data], runtime: str) -> Figure:
    """Median latency of each row, with the range from the 10th to the 90th percentile where there is one."""
    spans = {name: _span(row) for name, row in rows.items()}
    scale = Scale(0, max(high for _, high in spans.values()), 0, WIDTH - 2)
    drawn: list[svg.Element] = []
    for position, (name, row) in enumerate(rows.items()):
        y, (low, high) = 38.0 * position, spans[name]
        speed = f" · {row['speedup']:.2f}×" if "speedup" in row else f" · batch {row['batch']}, GPU"
        drawn += [text(0, y + 13, title_of(name), kind="name")]
        drawn += [text(WIDTH, y + 13, f"{row['latency_ms']:.3f} ms{speed}", "end", "value")]
        says = f"{title_of(name)}: {row['latency_ms']:.3f} ms, {low:.3f} to {high:.3f}"
        drawn += [bar(0, y + 19, scale(row["latency_ms"]), y + 31, "main" if name == "hqp" else "other", says)]
        drawn += [line(scale(low), y + 25, scale(high), y + 25, "spread")]
        drawn += [line(scale(end), y + 21, scale(end), y + 29, "spread") for end in (low, high)]
    fastest = min(rows, key=lambda name: rows[name]["latency_ms"])
    description = (
        f"Bars of {len(rows)} models; the shortest is {title_of(fastest)} with {rows[fastest]['latency_ms']:.3f} ms."
    )
    caption = (
        f"Median of one run, on {runtime}, models run in turn. Thin lines reach from the 10th to the 90th percentile"
    )
    caption += " (an engine's: from the median to the 99th)." if "engine" in rows else "."
    values = (
        [title_of(name), f"{row['latency_ms']:.3f}", *(f"{end:.3f}" for end in spans[name])]
        for name, row in rows.items()
    )
    numbers = table("Latency in milliseconds", ("model", "median", "from", "to"), values)
    return Figure(
        "latency",
        "Latency",
        picture("latency", "Latency of the models", description, 38.0 * len(rows), drawn),
        caption,
        numbers,
    )


def _span(row: Data) -> tuple[float, float]:
    if "latency_p90_ms" in row:
        return row["latency_p10_ms"], row["latency_p90_ms"]
    return row["latency_ms"], row.get("latency_p99_ms", row["latency_ms"])


def budget(spent: Mapping[str, float], max_drop: float) -> Figure:
    """What each stage took of the budget, one after the other, and what is left."""
    taken = {name: 100 * drop for name, drop in spent.items() if name != "left"}
    limit, used = 100 * max_drop, 100 * (max_drop - spent["left"])
    ends = [0.0]
    for drop in taken.values():
        ends.append(ends[-1] + drop)
    scale = Scale(min(0.0, *ends), max(limit, *ends), 4, WIDTH - 24)
    drawn: list[svg.Element] = []
    steps = [*zip(taken, ends, ends[1:], strict=False), ("left", ends[-1], limit)]
    for position, (name, start, end) in enumerate(steps):
        y = 36.0 * position
        kind = "rest" if name == "left" else "main"
        drawn += [
            text(4, y + 13, _STAGES.get(name, name), kind="name"),
            text(WIDTH - 24, y + 13, _points(end - start), "end", "value"),
        ]
        drawn += [
            bar(scale(start), y + 18, scale(end), y + 30, kind, f"{_STAGES.get(name, name)}: {_points(end - start)}")
        ]
    base = 36.0 * len(steps) + 4
    drawn += [line(scale(limit), 16, scale(limit), base, "limit"), line(scale(0), 16, scale(0), base, "axis")]
    drawn += x_axis(
        scale, base, [*ticks(scale.low, scale.high)], lambda value: f"{value:g}", "points lost on the validation data"
    )
    description = ", ".join(f"{_STAGES.get(name, name)} {_points(drop)}" for name, drop in taken.items())
    left = f"{_points(limit - used)} left. The dashed line is the budget."
    caption = f"Of {limit:g} points, {used:.2f} are spent: {description}; {left}"
    rows = [[_STAGES.get(name, name), f"{end - start:+.2f}"] for name, start, end in steps]
    numbers = table("Points of the metric", ("stage", "points"), rows)
    return Figure(
        "budget",
        "Where the accuracy budget went",
        picture("budget", "Budget spent by stage", caption, base + 34, drawn),
        caption,
        numbers,
    )


_STAGES = {"pruning": "Pruning", "precision": "Change of precision (INT8)", "left": "Left"}


def _points(value: float) -> str:
    return f"{value:+.2f} points"
