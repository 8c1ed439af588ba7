"""Figures of the units: their saliencies, and the share that was removed of every layer."""

from __future__ import annotations

import svg

from hqp_onnx.counts import counted
from hqp_onnx.job.results import Layer, Report
from hqp_onnx.markup import Table
from hqp_onnx.report.html.figures import Figure
from hqp_onnx.report.html.plot import LEFT, RIGHT, TOP, WIDTH, Scale, bar, legend, picture, ticks, x_axis, y_axis

_BOTTOM = 180.0


def _power(exponent: float) -> str:
    """Ten to the ``exponent``, which a float may not hold."""
    return f"{10**exponent:.1e}" if abs(exponent) < 300 else f"1e{exponent:+.0f}"


def saliency(report: Report) -> Figure:
    """Histogram of log10 S over the prunable units: removed or kept."""
    histogram, kind = report.saliency_histogram, report.request.saliency
    edges, bins = histogram.edges, list(zip(histogram.removed, histogram.kept, strict=True))
    x = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    y = Scale(0, max(1, *(sum(both) for both in bins)), _BOTTOM, TOP)
    drawn, counts = y_axis(y, "prunable units"), []
    for left, right, (removed, kept) in zip(edges, edges[1:], bins, strict=False):
        span = f"{_power(left)} to {_power(right)}"
        says = f"{span}: {removed} removed, {kept} kept"
        drawn += [bar(x(left), y(0), x(right) - 1, y(removed), "removed", says)] if removed else []
        drawn += [bar(x(left), y(removed), x(right) - 1, y(removed + kept), "kept", says)] if kept else []
        counts.append((span, removed, kept))
    drawn += x_axis(x, _BOTTOM, ticks(edges[0], edges[-1], 6), f"log₁₀ of {kind} saliency")
    drawn += legend([("removed", "removed"), ("kept", "kept")])
    for (kept, removed), words in ((histogram.not_positive, "of saliency 0"), (histogram.unknown, "without a score")):
        counts += [(words, removed, kept)] if kept or removed else []
    removed, kept = sum(row[1] for row in counts), sum(row[2] for row in counts)
    caption = f"{counted(removed + kept, 'prunable unit')} by {kind} saliency: {removed} removed, {kept} kept."
    outside = sum((*histogram.not_positive, *histogram.unknown))
    caption += f" {outside} of them have a saliency of 0 or none, and are only in the table." if outside else ""
    rows = tuple((name, str(removed), str(kept)) for name, removed, kept in counts)
    numbers = Table("Units by saliency", ("saliency", "removed", "kept"), rows)
    drawing = picture("saliency", "Histogram of saliency", caption, _BOTTOM + 36, drawn)
    return Figure("saliency", "Saliency of the units", drawing, caption, numbers)


def layers(report: Report) -> Figure:
    """Share of every layer's output channels that was removed, in the order of the graph."""
    layers = report.layers
    x = Scale(0, len(layers), LEFT, WIDTH - RIGHT)
    y = Scale(0, 100, _BOTTOM, TOP)
    drawn = y_axis(y, "% of the output channels")
    for number, layer in enumerate(layers):
        drawn += _layer_bars(layer, x(number), x(number + 1) - min(1.0, 0.2 * (x(1) - x(0))), y)
    places = [value for value in ticks(0, len(layers)) if value == round(value)]
    drawn += x_axis(x, _BOTTOM, places, "layer, from input to output")
    drawn += legend([("removed", "removed"), ("rest", "frozen")])
    most = max(layers, key=lambda layer: layer.theta, default=None)
    whole = counted(sum(layer.removed == 0 for layer in layers), "keeps", "keep")
    caption = f"{counted(len(layers), 'layer')}, of which {whole} all channels."
    caption += f" The most pruned is {most.weight} ({most.theta:.0f} %)." if most else ""
    numbers = Table(
        "Channels removed", ("weight", "operator", "shape", "removed", "removed %"), tuple(map(_layer_row, layers))
    )
    drawing = picture("layers", "Share of channels removed per layer", caption, _BOTTOM + 36, drawn)
    return Figure("layers", "Channels removed per layer", drawing, caption, numbers)


def _layer_bars(layer: Layer, left: float, right: float, y: Scale) -> list[svg.Element]:
    stuck = layer.channels - layer.prunable
    says = f"{layer.weight}: {layer.removed} of {layer.channels} removed, {stuck} frozen"
    frozen = [bar(left, y(100 - 100 * stuck / layer.channels), right, y(100), "rest", says)] if stuck else []
    return [*frozen, bar(left, y(0), right, y(layer.theta), "removed", says)]


def _layer_row(layer: Layer) -> tuple[str, ...]:
    shape, removed = "×".join(map(str, layer.shape)), f"{layer.removed} / {layer.channels}"
    return layer.weight, layer.op, shape, removed, f"{layer.theta:.1f}"
