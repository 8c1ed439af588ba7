"""Samples that lost most by the change, with a thumbnail where they are images."""

from __future__ import annotations

from collections.abc import Iterator

from hqp_onnx.counts import counted
from hqp_onnx.evaluation.metrics import Quantity
from hqp_onnx.job.results import Change, Changes, Report
from hqp_onnx.markup import Html, tag


def changed(report: Report) -> Iterator[Html]:
    """Nothing where the metric has no scores of single samples."""
    if report.changes is None:
        return
    yield tag("p", _counted(report.changes, report.samples))
    if report.changes.shown:
        numbers = report.metric
        yield tag("ul", *(_sample(numbers, change) for change in report.changes.shown), class_="samples")


def _counted(changes: Changes, samples: int) -> str:
    if not changes.worse + changes.better:
        return f"Every one of {counted(samples, 'sample')} scores as before."
    shown = len(changes.shown)
    which = {changes.worse: "these"}.get(shown, f"these {shown} lost most" if shown else "")
    tail = f"; {which}:" if shown and shown < changes.worse else ":" if shown else "."
    worse = f"{counted(changes.worse, 'scores', 'score')} worse than before"
    return f"Of {counted(samples, 'sample')}, {worse} and {changes.better} better{tail}"


def _sample(q: Quantity, change: Change) -> Html:
    picture = None
    if change.picture:
        picture = tag("img", src=f"data:image/png;base64,{change.picture}", alt=f"sample {change.sample}")
    return tag("li", picture, tag("strong", f"{change.sample}"), " ", _words(q, change))


def _words(q: Quantity, change: Change) -> str:
    if change.answers is None:
        return f"{q.name} {q.said(change.before)}, now {q.said(change.after)}"
    before, after = change.answers
    target = "" if change.target in (None, before) else f", target {change.target}"
    return f"class {before}, now {after}{target}"
