"""The figure of the family that ``--pareto`` writes: what is lost at which speed."""

from __future__ import annotations

from itertools import pairwise

import svg

from hqp_onnx.counts import counted
from hqp_onnx.job.results import Report, Row
from hqp_onnx.job.table import interval_words
from hqp_onnx.markup import Table
from hqp_onnx.report.html.figures import Figure
from hqp_onnx.report.html.plot import LEFT, RIGHT, TOP, WIDTH, Scale, line, picture, ticks, tooltip, x_axis, y_axis

_BOTTOM = 212.0


def pareto(report: Report) -> Figure:
    """Speed against what is lost of the metric, model by model, slowest first."""
    q, rows = report.metric, {"the input": report.baseline, **{point.file: point for point in report.pareto or ()}}
    lost = {name: q.factor * row.drop for name, row in rows.items()}
    fastest, low, high = max(row.speedup for row in rows.values()), min(lost.values()), max(lost.values())
    x = Scale(0, 1.05 * fastest, LEFT, WIDTH - RIGHT)
    y = Scale(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1), _BOTTOM, TOP + 14)
    drawn = y_axis(y, f"{q.fall}, {q.unit}".rstrip(", "))
    places = [(x(row.speedup), y(lost[name])) for name, row in rows.items()]
    drawn += [line(*start, *end, "spread") for start, end in pairwise(places)]
    for (name, row), (across, down) in zip(rows.items(), places, strict=True):
        says = f"{name}: {row.speedup:.2f}×, {q.change(row.drop)}"
        drawn.append(svg.Circle(cx=across, cy=down, r=4, class_=["accepted"], elements=tooltip(says)))
    drawn += x_axis(x, _BOTTOM, ticks(0, 1.05 * fastest), "times as fast as the input")
    caption = (
        f"{counted(len(report.pareto or ()), 'model')}, none beaten by a faster one in the metric; each is a file."
    )
    drawing = picture("pareto", "Speed against what is lost", caption, _BOTTOM + 36, drawn)
    cells = tuple((name, *_cells(report, row)) for name, row in rows.items())
    head = ("model", "speedup", "latency ms", "threads", q.head, f"{q.fall} (95 % interval)", "size MB")
    return Figure("pareto", "Speed against quality", drawing, caption, Table("The family", head, cells))


def _cells(report: Report, row: Row) -> tuple[str, ...]:
    q = report.metric
    drop, threads = f"{q.worse(row.drop, '+')} ({interval_words(q, row, '+')})", str(row.threads or "all")
    return f"{row.speedup:.2f}×", f"{row.latency_ms:.3f}", threads, q.value(row.metric), drop, f"{row.bytes / 1e6:.2f}"
