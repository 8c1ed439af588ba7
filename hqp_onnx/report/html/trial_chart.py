"""The figure of the search: the metric of every candidate against the line that it had to reach."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import svg

from hqp_onnx.counts import counted
from hqp_onnx.evaluation.metrics import Quantity
from hqp_onnx.job.ledger import Trial
from hqp_onnx.job.results import Report
from hqp_onnx.markup import Table
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

_CLIPPED = 4.0  # budgets below the line; trials further down are drawn at the edge


def trials(report: Report) -> Figure:
    """The metric of every candidate in the order of the search, and the line that it had to reach."""
    trials, q, confidence = report.trials, report.metric, report.request.confidence
    better, max_drop, baseline = 1.0 if q.higher else -1.0, report.max_drop, report.baseline.val_metric
    required, bottom = q.factor * (baseline - better * max_drop), 212.0
    edge = required - better * q.factor * _CLIPPED * (max_drop or abs(baseline) / 100 or 0.01)
    values = [edge if trial.metric is None else q.factor * trial.metric for trial in trials]
    low, high = _shown(better, edge, [required, q.factor * baseline, *values])
    margin = 0.08 * (high - low) or 1.0
    x = Scale(0.5, len(trials) + 0.5, LEFT, WIDTH - RIGHT)
    y = Scale(low - margin, high + margin, bottom, TOP + 14)
    drawn = y_axis(y, f"{q.head} on the validation data")
    drawn += _phases(trials, x, bottom)
    drawn += [line(LEFT, y(required), WIDTH - RIGHT, y(required), "limit")]
    size = min(4.0, max(2.0, 200 / max(len(trials), 1)))
    for number, (trial, value) in enumerate(zip(trials, values, strict=True), 1):
        drawn.append(_mark(trial.accepted, x(number), y(value), size, _trial_words(q, number, trial)))
    drawn += x_axis(x, bottom, _numbers(len(trials)), "trial")
    accepted = sum(trial.accepted for trial in trials)
    caption = (
        f"{counted(len(trials), 'candidate')}, {accepted} inside the budget (●), {len(trials) - accepted} outside (×). "
        f"The dashed line at {q.said(required / q.factor)} is the baseline {'less' if q.higher else 'and'} "
        f"{q.limit(max_drop)}. An evaluation stops once the verdict is certain: a × is then the best that was possible"
        + ("; marks at the edge are beyond it." if any(not low <= value <= high for value in values) else ".")
        + (
            f" A × on the good side of the line is not inside at a confidence of {100 * confidence:g} %."
            * (confidence > 0.5)
        )
    )
    rows = tuple(_trial_row(q, number, trial) for number, trial in enumerate(trials, 1))
    numbers = Table("Trials", ("trial", "precision", "removed %", q.head, "verdict"), rows)
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
    mixed = trial.floats and trial.precision != "int4"
    return f"{'mixed' if mixed else trial.precision}{', recovered' * trial.trained}"


def _mark(accepted: bool, x: float, y: float, size: float, says: str) -> svg.Element:
    if accepted:
        return svg.Circle(cx=x, cy=y, r=size, class_=["accepted"], elements=tooltip(says))
    left, right, top, bottom = (round(value, 2) for value in (x - size, x + size, y - size, y + size))
    ends = [svg.MoveTo(left, top), svg.LineTo(right, bottom), svg.MoveTo(left, bottom), svg.LineTo(right, top)]
    return svg.Path(d=list(ends), class_=["rejected"], elements=tooltip(says))


def _trial_row(q: Quantity, number: int, trial: Trial) -> tuple[str, ...]:
    bound = "" if trial.complete else "≤ " if q.higher else "≥ "
    metric = "none" if trial.metric is None else f"{bound}{q.value(trial.metric)}"
    verdict = f"{'accepted' if trial.accepted else 'rejected'}: {trial.why}"
    return str(number), trial.kind, f"{100 * trial.sparsity:.1f}", metric, verdict


def _trial_words(q: Quantity, number: int, trial: Trial) -> str:
    _, precision, sparsity, metric, verdict = _trial_row(q, number, trial)
    return f"{number}: {precision}, {sparsity} % removed, {metric}{' %' * q.shares}, {verdict}"


def _shown(better: float, edge: float, values: Sequence[float]) -> tuple[float, float]:
    """The lowest and highest values of the axis: nothing beyond the ``edge``, on the bad side."""
    low, high = min(values), max(values)
    return (max(low, edge), high) if better > 0 else (low, min(high, edge))


def _numbers(count: int) -> list[float]:
    """Ticks of the numbers 1 to ``count``."""
    return [value for value in ticks(1, count, min(count, 6)) if value == round(value)] if count > 1 else [1.0]
