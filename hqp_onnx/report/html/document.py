"""The page: what was found, in figures and tables.

A row of the report is any value that has a metric, bytes and a latency: the page shows rows that it has never heard of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from hqp_onnx.report.html.commands import Recipe, recipes
from hqp_onnx.report.html.figures import Data, Figure, shipped_row, title_of
from hqp_onnx.report.html.markup import Html, join, table, tag
from hqp_onnx.report.html.model_charts import budget, latency
from hqp_onnx.report.html.trial_chart import trials
from hqp_onnx.report.html.unit_charts import layers, saliency
from hqp_onnx.version import __version__

_ROW = {"metric", "drop", "bytes", "latency_ms"}
_SHOWN = 4  # tensors of frozen units


def render(report: Data, folder: Path) -> str:
    """The page of a report.

    Args:
        report: the JSON values of ``report.json``.
        folder: OUT/, as commands should name it; what is there decides which commands are shown.
    """
    name = Path(report["model"]).name
    style = tag("style", Html(files(__package__).joinpath("style.css").read_text()))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name}: pruned and quantized"),
        style,
    )
    body = tag(
        "body", tag("main", *_sections(report, folder, name)), tag("footer", f"Written by hqp_onnx {__version__}.")
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def rows_of(report: Data) -> dict[str, Data]:
    """The models of a report, by the names of their rows."""
    return {name: row for name, row in report.items() if isinstance(row, Mapping) and row.keys() >= _ROW}


def _sections(report: Data, folder: Path, name: str) -> Iterator[Html]:
    rows = rows_of(report)
    yield _summary(report, rows, name)
    yield _section(
        "models", "Models", _models(report, rows), *(tag("p", note, class_="note") for note in report["notes"])
    )
    figures = [
        latency(rows, report["machine"]["runtime"]),
        budget(report["budget_spent"], report["settings"]["max_drop"], report["settings"]["precision"]),
        trials(report["trials"], rows["baseline"]["val_metric"], report["settings"]["max_drop"], _confidence(report)),
        saliency(report["saliency_histogram"], report["settings"]["saliency"]),
        layers(report["layers"]),
    ]
    yield tag("div", *map(_figure, figures), _section("cost", "What it cost", *_cost(report)), class_="grid")
    yield _section("frozen", "Channels that stay, and why", *_frozen(report))
    yield _section("run", "How to run it", *map(_recipe, recipes(report, folder)))
    yield _section("origin", "How it was made", *_origin(report))


def _confidence(report: Data) -> float:
    """Of the budget; reports of versions without it had the drop itself inside the budget."""
    return float(report["settings"].get("confidence", 0.5))


def _section(identifier: str, title: str, *content: Html) -> Html:
    return tag("section", tag("h2", title), *content, id=identifier)


def _summary(report: Data, rows: Mapping[str, Data], name: str) -> Html:
    row, shipped = rows[shipped_row(rows)], Path(report["shipped"]).name
    speed = f"{row['speedup']:.2f}×" if "speedup" in row else f"{row['latency_ms']:.3f} ms"
    metric, before = report["settings"]["metric"], rows["baseline"]["metric"]
    facts = {
        "as fast" if "speedup" in row else f"batch {row['batch']}, on the GPU": speed,
        "smaller": f"{100 * row['size_reduction']:.0f} %",
        f"{metric}, from {100 * before:.2f} %": f"{100 * row['metric']:.2f} %",
        "of the prunable units removed": f"{100 * row['sparsity']:.0f} %",
    }
    interval = f"95 % interval {100 * row['drop_low']:.2f} to {100 * row['drop_high']:.2f}"
    drop = f"{100 * row['drop']:.2f} points ({interval})"
    sure = _confidence(report)
    limit = f"the budget of {100 * report['settings']['max_drop']:g} points on the validation data" + (
        f", at a confidence of {100 * sure:g} %" if sure > 0.5 else ""
    )
    verdict = (
        f"It is inside {limit}."
        if report["budget_met"]
        else f"It is the best found: what was asked for misses {limit}."
    )
    text = f"{shipped} loses {drop} on {report['samples']} samples of {report['data']}. {verdict}"
    cards = [tag("div", tag("dt", words), tag("dd", value)) for words, value in facts.items()]
    kind = "met" if report["budget_met"] else "missed"
    return tag("header", tag("h1", name), tag("dl", *cards), tag("p", text, class_=kind))


def _models(report: Data, rows: Mapping[str, Data]) -> Html:
    head = (
        "model",
        "latency ms",
        "speedup",
        "size MB",
        "smaller",
        f"{report['settings']['metric']} %",
        "drop (95 % interval)",
        "θ %",
        "MACs M",
        "parameters M",
    )
    machine = report["machine"]
    caption = f"{report['samples']} samples of {report['data']}; {machine['runtime']} on {machine['processor']}"
    return table(caption, head, [_model(title_of(name), row) for name, row in rows.items()], "figures wide")


def _model(title: str, row: Data) -> list[str]:
    return [
        title,
        f"{row['latency_ms']:.3f}",
        f"{row['speedup']:.2f}×" if "speedup" in row else "–",
        f"{row['bytes'] / 1e6:.2f}",
        f"{100 * row['size_reduction']:.0f} %",
        f"{100 * row['metric']:.2f}",
        f"{100 * row['drop']:+.2f} ({100 * row['drop_low']:+.2f} to {100 * row['drop_high']:+.2f})",
        f"{100 * row['sparsity']:.1f}",
        f"{row['macs'] / 1e6:.2f}",
        f"{row['params'] / 1e6:.3f}",
    ]


def _figure(figure: Figure) -> Html:
    numbers = tag("details", tag("summary", "Numbers"), figure.numbers)
    return tag(
        "figure",
        tag("h2", figure.title),
        figure.drawing,
        tag("figcaption", figure.caption),
        numbers,
        id=figure.identifier,
    )


def _frozen(report: Data) -> list[Html]:
    units, floats = report["units"], report["floats"]
    text = f"{units['prunable']} of {units['all']} units can be removed, and {units['removed']} were."
    rows = [(frozen["reason"], str(frozen["units"]), _names(frozen["tensors"])) for frozen in report["frozen"]]
    found = [
        tag("p", text),
        table("Units that stay whatever their saliency", ("reason", "units", "slices of"), rows, "words"),
    ]
    if floats:
        listed = tag("details", tag("summary", "Nodes"), tag("p", ", ".join(floats), class_="names"))
        text = f"{len(floats)} nodes could be quantized and stay in float, since that is faster or does less harm."
        found += [tag("p", text), listed]
    return found


def _names(tensors: list[str]) -> str:
    more = len(tensors) - _SHOWN
    return ", ".join(tensors[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _recipe(recipe: Recipe) -> Html:
    remark = tag("p", recipe.remark, class_="note") if recipe.remark else None
    code = tag("pre", tag("code", recipe.code), tabindex=0, data_language=recipe.language)
    return join([tag("h3", recipe.title), code, remark])


def _cost(report: Data) -> list[Html]:
    cost = report["cost_model"]
    rows = [("C_HQP, measured", f"{cost['c_hqp']:.0f}\u00a0s")]
    if cost["c_qat"]:
        estimate = cost["qat_estimate"]
        of = f"{estimate['epochs']} epochs of {estimate['train_samples']} samples"
        rows.append((f"C_QAT, estimated: quantization-aware training, {of}", f"{cost['c_qat']:.0f}\u00a0s"))
    rows += [(stage, f"{seconds:.1f}\u00a0s") for stage, seconds in report["seconds"].items()]
    words = f"{cost['t_prune']} trials of {cost['d_val']} samples; sensitivity on {cost['d_calib']} samples."
    return [tag("p", words), table("Wall-clock time", ("stage", "time"), rows)]


def _origin(report: Data) -> list[Html]:
    rows = [*report["machine"].items(), *report["settings"].items()]
    values = [
        (str(name), ", ".join(map(str, value)) if isinstance(value, list) else str(value)) for name, value in rows
    ]
    listed = table("Machine and settings", ("name", "value"), values, "words")
    return [tag("details", tag("summary", "Machine and settings"), listed)]
