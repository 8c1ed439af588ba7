"""The figure of the search: the metric of every candidate against the line that it had to reach."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import svg

from hqp_onnx.job.ledger import Trial
from hqp_onnx.job.results import Report
from hqp_onnx.report.html.figures import Figure
from hqp_onnx.report.html.plot import (
    CHARACTER,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    line,
    picture,
    text,
    ticks,
    tooltip,
    x_axis,
    y_axis,
)
from hqp_onnx.report.table import Table

_CLIPPED = 4.0  # budgets below the line; trials further down are drawn at the edge


def trials(report: Report) -> Figure:
    """The metric of every candidate in the order of the search, and the line that it had to reach."""
    trials, max_drop, confidence = report.trials, report.request.max_drop, report.request.confidence
    baseline = report.baseline.val_metric
    required, bottom = 100 * (baseline - max_drop), 212.0
    values = [100 * trial.metric for trial in trials]
    floor = required - 100 * _CLIPPED * (max_drop or 0.01)
    low, high = max(min([required, *values]), floor), max([100 * baseline, *values])
    margin = 0.08 * (high - low) or 1.0
    x = Scale(0.5, len(trials) + 0.5, LEFT, WIDTH - RIGHT)
    y = Scale(low - margin, high + margin, bottom, TOP + 14)
    drawn = y_axis(y, "metric on the validation data, %")
    drawn += _phases(trials, x, bottom)
    drawn += [line(LEFT, y(required), WIDTH - RIGHT, y(required), "limit")]
    size = min(4.0, max(2.0, 200 / max(len(trials), 1)))
    for number, (trial, value) in enumerate(zip(trials, values, strict=True), 1):
        drawn.append(_mark(trial.accepted, x(number), y(value), size, _trial_words(number, trial)))
    drawn += x_axis(x, bottom, _numbers(len(trials)), "trial")
    accepted = sum(trial.accepted for trial in trials)
    caption = (
        f"{len(trials)} candidates, {accepted} inside the budget (●), {len(trials) - accepted} outside (×). The "
        f"dashed line at {required:.2f} % is the baseline less {100 * max_drop:g} points. An evaluation stops once the "
        "verdict is certain: a × is then an upper bound"
        + ("; marks at the lower edge are below it." if min(values, default=low) < low else ".")
        + (f" A × above the line is not inside at a confidence of {100 * confidence:g} %." * (confidence > 0.5))
    )
    rows = tuple(_trial_row(number, trial) for number, trial in enumerate(trials, 1))
    numbers = Table("Trials", ("trial", "precision", "θ %", "metric %", "verdict"), rows)
    drawing = picture("trials", "Metric of every trial", caption, bottom + 36, drawn)
    return Figure("trials", "Accuracy against trials", drawing, caption, numbers)


def _phases(trials: Sequence[Trial], x: Scale, bottom: float) -> list[svg.Element]:
    """Where the search went on with another precision: a thin line, and its name where there is room."""
    drawn: list[svg.Element] = []
    start = 0
    for name, group in groupby(map(_phase, trials)):
        count = len(list(group))
        left, right = x(start + 0.5), x(start + count + 0.5)
        if start:
            drawn.append(line(left, TOP, left, bottom, "grid"))
        if len(name) * CHARACTER < right - left:
            drawn.append(text((left + right) / 2, TOP + 6, name, "middle"))
        start += count
    return drawn


def _phase(trial: Trial) -> str:
    """Its precision, whatever the number of nodes in float, and whether it was recovered."""
    return f"{'mixed' if trial.floats else trial.precision}{', recovered' * trial.trained}"


def _mark(accepted: bool, x: float, y: float, size: float, says: str) -> svg.Element:
    if accepted:
        return svg.Circle(cx=x, cy=y, r=size, class_=["accepted"], elements=tooltip(says))
    left, right, top, bottom = (round(value, 2) for value in (x - size, x + size, y - size, y + size))
    ends = [svg.MoveTo(left, top), svg.LineTo(right, bottom), svg.MoveTo(left, bottom), svg.LineTo(right, top)]
    return svg.Path(d=list(ends), class_=["rejected"], elements=tooltip(says))


def _trial_row(number: int, trial: Trial) -> tuple[str, ...]:
    metric = f"{'' if trial.complete else '≤ '}{100 * trial.metric:.2f}"
    verdict = f"{'accepted' if trial.accepted else 'rejected'}: {trial.why}"
    return str(number), trial.kind, f"{100 * trial.sparsity:.1f}", metric, verdict


def _trial_words(number: int, trial: Trial) -> str:
    _, precision, sparsity, metric, verdict = _trial_row(number, trial)
    return f"{number}: {precision}, {sparsity} % removed, {metric} %, {verdict}"


def _numbers(count: int) -> list[float]:
    """Ticks of the numbers 1 to ``count``."""
    return [value for value in ticks(1, count, min(count, 6)) if value == round(value)] if count > 1 else [1.0]
