"""The figure of what single layers take, before and after, and as the search predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import svg

from hqp_onnx.job.results import Report, Step
from hqp_onnx.markup import Table
from hqp_onnx.report.html.figures import Figure
from hqp_onnx.report.html.plot import WIDTH, Scale, bar, legend, line, picture, text

_DRAWN = 14  # layers, those that took most
_STEP, _HEAD, _LETTERS = 34.0, 20.0, 34


@dataclass(frozen=True)
class _Time:
    """Milliseconds; 0 for what has no kernel."""

    name: str
    before: float
    after: float
    predicted: float | None


def layer_times(report: Report) -> Figure | None:
    """The layers that took most time, the others together; None where times of single layers are not known."""
    timed = [step for step in report.network if step.ms_before is not None or step.ms_after is not None]
    times = [_Time(s.weight or s.name, s.ms_before or 0.0, s.ms_after or 0.0, s.ms_predicted) for s in timed]
    if not any(time.before for time in times) or not any(time.after for time in times):
        return None
    order = sorted(times, key=lambda time: -time.before)
    shown, rest = order[:_DRAWN], order[_DRAWN:]
    if rest:
        shown.append(_together(f"{len(rest)} others", rest))
    scale = Scale(0, max(max(time.before, time.after, time.predicted or 0) for time in shown), 0, WIDTH - 2)
    known = any(time.predicted is not None for time in times)
    marks = [("other", "before"), ("main", "after"), *([("spread", "predicted")] if known else [])]
    drawn: list[svg.Element] = [*legend(marks)]
    for number, time in enumerate(shown):
        drawn += _bars(_HEAD + _STEP * number, time, scale)
    whole = _together("all", times)
    caption = f"Milliseconds of single layers, and of what follows each, as {report.machine.runtime} times them; a "
    caption += f"profiler costs time itself. All together: {whole.before:.3f} before, {whole.after:.3f} after"
    caption += ". The upright mark is the time that the search had predicted." if known else "."
    rows = tuple(
        (t.name, f"{t.before:.4f}", f"{t.after:.4f}", _number(t.predicted)) for t in (*_in_order(report), whole)
    )
    numbers = Table("Milliseconds by layer, in the order of the graph", ("layer", "before", "after", "predicted"), rows)
    drawing = picture("times", "Time of single layers", caption, _HEAD + _STEP * len(shown), drawn)
    return Figure("times", "Where the time goes", drawing, caption, numbers)


def _in_order(report: Report) -> list[_Time]:
    def timed(step: Step) -> bool:
        return step.ms_before is not None or step.ms_after is not None

    return [
        _Time(f"{number}: {s.weight or s.name}", s.ms_before or 0.0, s.ms_after or 0.0, s.ms_predicted)
        for number, s in enumerate(report.network, 1)
        if timed(s)
    ]


def _together(name: str, times: Sequence[_Time]) -> _Time:
    predicted = [time.predicted for time in times if time.predicted is not None]
    before, after = sum(time.before for time in times), sum(time.after for time in times)
    return _Time(name, before, after, sum(predicted) if predicted else None)


def _bars(y: float, time: _Time, scale: Scale) -> list[svg.Element]:
    name = time.name if len(time.name) <= _LETTERS else f"…{time.name[1 - _LETTERS :]}"
    says = f"{time.name}: {time.before:.4f} ms before, {time.after:.4f} after"
    says += "" if time.predicted is None else f", {time.predicted:.4f} predicted"
    drawn: list[svg.Element] = [
        text(0, y + 11, name, kind="name"),
        text(WIDTH, y + 11, f"{time.before:.3f} → {time.after:.3f}", "end", "value"),
        bar(0, y + 15, scale(time.before), y + 21, "other", says),
        bar(0, y + 22, scale(time.after), y + 28, "main", says),
    ]
    if time.predicted is not None:
        drawn.append(line(scale(time.predicted), y + 20.5, scale(time.predicted), y + 29.5, "spread"))
    return drawn


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
