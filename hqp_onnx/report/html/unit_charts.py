"""Figures of the units: their saliencies, and the share that left of every layer."""

from __future__ import annotations

from collections.abc import Sequence

from hqp_onnx.report.html.figures import Data, Figure
from hqp_onnx.report.html.markup import table
from hqp_onnx.report.html.plot import LEFT, RIGHT, TOP, WIDTH, Scale, bar, legend, picture, ticks, x_axis, y_axis


def saliency(found: Data, kind: str) -> Figure:
    """Histogram of log10 S over the prunable units: what left, what stayed."""
    edges, bottom = found["edges"], 180.0
    totals = [kept + removed for kept, removed in zip(found["kept"], found["removed"], strict=True)]
    x = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    y = Scale(0, max([1, *totals]), bottom, TOP)
    drawn = y_axis(y, "prunable units")
    rows = []
    for left, right, kept, removed in zip(edges, edges[1:], found["kept"], found["removed"], strict=False):
        says = f"{_power(left)} to {_power(right)}: {removed} removed, {kept} kept"
        drawn += [bar(x(left), y(0), x(right) - 1, y(removed), "removed", says)] if removed else []
        drawn += [bar(x(left), y(removed), x(right) - 1, y(removed + kept), "kept", says)] if kept else []
        rows.append([f"{_power(left)} to {_power(right)}", str(removed), str(kept)])
    drawn += x_axis(x, bottom, ticks(edges[0], edges[-1], 6), f"log₁₀ of {kind} saliency")
    drawn += legend([("removed", "removed"), ("kept", "kept")])
    for name, words in (("not_positive", "of saliency 0"), ("unknown", "without a score")):
        if any(found[name]):
            rows.append([words, str(found[name][1]), str(found[name][0])])
    removed, kept = (sum(int(row[column]) for row in rows) for column in (1, 2))
    caption = f"{removed + kept} prunable units by {kind} saliency: {removed} removed, {kept} kept."
    outside = sum(map(sum, (found["not_positive"], found["unknown"])))
    caption += f" {outside} of them have no logarithm and are only in the table." if outside else ""
    numbers = table("Units by saliency", ("saliency", "removed", "kept"), rows)
    return Figure(
        "saliency",
        "Saliency of the units",
        picture("saliency", "Histogram of saliency", caption, bottom + 36, drawn),
        caption,
        numbers,
    )


def _power(value: float) -> str:
    return f"{10**value:.1e}"


def layers(found: Sequence[Data]) -> Figure:
    """Share of every layer's output channels that left, in the order of the graph."""
    bottom = 180.0
    x = Scale(0, len(found), LEFT, WIDTH - RIGHT)
    y = Scale(0, 100, bottom, TOP)
    drawn = y_axis(y, "θ, % of the output channels")
    gap = min(1.0, 0.2 * (x(1) - x(0)))
    for number, layer in enumerate(found):
        channels, stuck = layer["channels"], layer["channels"] - layer["prunable"]
        theta, frozen = theta_of(layer), 100 * stuck / channels
        says = f"{layer['weight']}: {layer['removed']} of {channels} removed, {stuck} frozen"
        drawn += [bar(x(number), y(100 - frozen), x(number + 1) - gap, y(100), "rest", says)] if frozen else []
        drawn += [bar(x(number), y(0), x(number + 1) - gap, y(theta), "removed", says)]
    places = [value for value in ticks(0, len(found)) if value == round(value)]
    drawn += x_axis(x, bottom, places, "layer, from input to output")
    drawn += legend([("removed", "removed"), ("rest", "frozen")])
    most = max(found, key=theta_of, default=None)
    caption = f"θ of {len(found)} layers, of which {sum(layer['removed'] == 0 for layer in found)} keep all channels."
    caption += f" The most pruned is {most['weight']} ({theta_of(most):.0f} %)." if most else ""
    rows = [
        [
            layer["weight"],
            layer["op"],
            "×".join(map(str, layer["shape"])),
            f"{layer['removed']} / {layer['channels']}",
            f"{theta_of(layer):.1f}",
        ]
        for layer in found
    ]
    numbers = table("θ per layer", ("weight", "operator", "shape", "removed", "θ %"), rows)
    return Figure(
        "layers",
        "θ per layer",
        picture("layers", "Share of channels removed per layer", caption, bottom + 36, drawn),
        caption,
        numbers,
    )


def theta_of(layer: Data) -> float:
    """Percentage of a layer's output channels that left."""
    return float(100 * layer["removed"] / layer["channels"])
