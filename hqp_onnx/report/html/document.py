"""The page: what an optimization found, in figures and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from hqp_onnx.counts import counted
from hqp_onnx.evaluation.metrics import Quantity
from hqp_onnx.evaluation.verification import together
from hqp_onnx.job.cost_model import QAT_EPOCHS, QAT_SAMPLES
from hqp_onnx.job.results import EngineRow, Report, Row
from hqp_onnx.job.table import interval_words
from hqp_onnx.markup import Html, Table, join, table, tag
from hqp_onnx.report.advice import advice
from hqp_onnx.report.html.changed_samples import changed
from hqp_onnx.report.html.commands import Recipe, recipes
from hqp_onnx.report.html.figures import Figure
from hqp_onnx.report.html.model_charts import budget, latency
from hqp_onnx.report.html.network_chart import network
from hqp_onnx.report.html.pareto_chart import pareto
from hqp_onnx.report.html.time_chart import layer_times
from hqp_onnx.report.html.trial_chart import trials
from hqp_onnx.report.html.unit_charts import layers, saliency
from hqp_onnx.report.words import result
from hqp_onnx.version import __version__

_LISTED = 4  # tensors of frozen units


def render(report: Report, folder: Path) -> str:
    """The page of a report.

    Args:
        report: as ``report.json`` holds it.
        folder: OUT/, as commands should name it; what is there decides which commands are shown.

    Raises:
        DataError: the model that ships is not in ``folder``.
    """
    name = Path(report.model).name
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name}: pruned and quantized"),
        tag("style", Html(files(__package__).joinpath("style.css").read_text())),
    )
    main, foot = tag("main", *_sections(report, folder, name)), tag("footer", f"Written by hqp_onnx {__version__}.")
    return f"<!doctype html>\n{tag('html', head, tag('body', main, foot), lang='en')}\n"


def _sections(report: Report, folder: Path, name: str) -> Iterator[Html]:
    yield _summary(report, name)
    warned = (f"Warning: {warning}" for warning in report.warnings)
    notes = (tag("p", note, class_="note") for note in (report.why, *warned, *report.notes))
    advised = (tag("p", sentence, class_="advice") for sentence in advice(report))
    yield _section("models", "Models", *advised, table(report.table, "figures wide"), *notes)
    if report.network:
        yield tag("div", *map(_figure, filter(None, (network(report), layer_times(report)))), class_="grid")
    held = [] if report.request.speed else [budget(report), trials(report)]  # to a budget
    family = [pareto(report)] if report.pareto else []
    times = [] if report.counted else [latency(report)]
    figures = [*times, *family, *held, layers(report)]
    if report.changes is not None:
        yield _section("changed", "Samples whose score changed", *changed(report))
    yield tag("div", *map(_figure, figures), class_="grid")
    yield _section("frozen", "Channels that stay, and why", *_frozen(report))
    yield _section("run", "How to run it", *map(_recipe, recipes(report, folder)))
    cost = tag("div", tag("h3", "What it cost"), *_cost(report), id="cost")
    inside = tag("div", _figure(saliency(report), "h3"), cost, class_="grid")
    yield _section("appendix", "Appendix: how it was made", inside, _origin(report), *_checked(report))


def _checked(report: Report) -> Iterator[Html]:
    """How near every file is to the original, as it was written; nothing where the input alone ships."""
    lines = [tag("li", f"{name}: {found.words}") for name, found in report.verified.items()]
    if lines:
        yield tag("details", tag("summary", together(report.verified)), tag("ul", *lines))


def _section(identifier: str, title: str, *content: Html) -> Html:
    return tag("section", tag("h2", title), *content, id=identifier)


def _summary(report: Report, name: str) -> Html:
    row, q = report.all_rows[report.shipped_row], report.metric
    speed = _speed(report, row) if isinstance(row, Row) else _on_gpu(row)
    facts = (
        speed,
        ("smaller", f"{100 * row.size_reduction:.0f} %"),
        (f"{q.name}, was {q.said(report.baseline.metric)}", q.said(row.metric)),
        ("of the prunable units removed", f"{100 * row.sparsity:.0f} %"),
    )
    cards = [tag("div", tag("dt", words), tag("dd", value)) for words, value in facts]
    text = (
        f"On {counted(report.samples, 'sample')} of {report.data}, {Path(report.shipped).name} {_loses(q)} "
        f"{q.change(row.drop)} (95 % interval {interval_words(q, row)}). {_verdict(report, row)}"
    )
    kind = "met" if report.budget_met else "missed"
    return tag(
        "header",
        tag("h1", name),
        tag("p", f"{result(report)}.", class_="result"),
        tag("dl", *cards),
        tag("p", text, class_=kind),
    )


def _verdict(report: Report, row: Row | EngineRow) -> str:
    """On what was asked for."""
    request, q, met = report.request, report.metric, report.budget_met
    if request.speed:
        words = "It reaches" if met else "It is the fastest found, and misses"
        return f"{words} the speed that was asked for, {request.speed}."
    surely = f", at a confidence of {100 * request.confidence:g} %" if request.confidence > 0.5 else ""
    verdict = "inside" if met else "which is the best found, but outside"
    lost = f"it {_loses(q)} {q.change(row.val_drop)}"
    return f"On the validation data {lost}, {verdict} the budget of {q.limit(report.max_drop)}{surely}."


def _loses(q: Quantity) -> str:
    return "loses" if q.higher else f"is worse in {q.name} by"


def _speed(report: Report, row: Row) -> tuple[str, str]:
    if report.counted:
        return "of the multiply-accumulates are left", f"{100 * row.macs / max(report.baseline.macs, 1):.0f} %"
    return "the original's speed", f"{row.speedup:.2f}×"


def _on_gpu(row: EngineRow) -> tuple[str, str]:
    return f"batch {row.batch}, on the GPU", f"{row.latency_ms:.3f} ms"


def _figure(figure: Figure, heading: str = "h2") -> Html:
    numbers = tag("details", tag("summary", "Numbers"), table(figure.numbers))
    title, caption = tag(heading, figure.title), tag("figcaption", figure.caption)
    return tag("figure", title, figure.drawing, caption, numbers, id=figure.identifier)


def _frozen(report: Report) -> Iterator[Html]:
    units, floats = report.units, report.floats
    removed = counted(units.removed, "was", "were")
    yield tag("p", f"{units.prunable} of {counted(units.all, 'unit')} can be removed, and {removed}.")
    rows = tuple((frozen.reason, str(frozen.units), _names(frozen.tensors)) for frozen in report.frozen)
    yield table(Table("Units that stay whatever their saliency", ("reason", "units", "slices of"), rows), "words")
    if floats:
        that = "that could be quantized"
        stay = counted(len(floats), f"node {that} stays", f"nodes {that} stay")
        yield tag("p", f"{stay} in float, where that is faster or does less harm.")
        yield tag("details", tag("summary", "Nodes"), tag("p", ", ".join(floats), class_="names"))


def _names(tensors: Sequence[str]) -> str:
    more = len(tensors) - _LISTED
    return ", ".join(tensors[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _recipe(recipe: Recipe) -> Html:
    remark = tag("p", recipe.remark, class_="note") if recipe.remark else None
    code = tag("pre", tag("code", recipe.code), tabindex=0, data_language=recipe.language)
    return join([tag("h3", recipe.title), code, remark])


def _cost(report: Report) -> Iterator[Html]:
    cost = report.cost_model
    yield tag(
        "p",
        f"{counted(cost.t_prune, 'trial')} of {counted(cost.d_val, 'sample')}; sensitivity on "
        f"{counted(cost.d_calib, 'sample')}.",
    )
    rows = [("all trials, and sensitivity", f"{cost.c_hqp:.0f}\u00a0s")]
    if cost.c_qat:
        of = f"{QAT_EPOCHS} epochs of {QAT_SAMPLES} samples"
        rows.append((f"quantization-aware training instead, estimated: {of}", f"{cost.c_qat:.0f}\u00a0s"))
    rows += [(stage, f"{seconds:.1f}\u00a0s") for stage, seconds in report.seconds.items()]
    yield table(Table("Wall-clock time", ("stage", "time"), tuple(rows)))


def _origin(report: Report) -> Html:
    values = {name: v for name, v in {**vars(report.machine), **report.settings}.items() if v not in (None, "", [])}
    values["threads"] = report.settings.get("threads") or "chosen by time"
    rows = tuple((name, ", ".join(v) if isinstance(v, list) else str(v)) for name, v in values.items())
    title = "Machine and settings"
    return tag("details", tag("summary", title), table(Table(title, ("name", "value"), rows), "words"))
