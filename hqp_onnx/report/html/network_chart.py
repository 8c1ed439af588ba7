"""The drawing of the network: a row per layer, from input to output, with its channels before and after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import svg

from hqp_onnx.counts import counted
from hqp_onnx.job.results import Layer, Report, Step
from hqp_onnx.markup import Table
from hqp_onnx.report.html.figures import Figure
from hqp_onnx.report.html.folding import Drawn, folded
from hqp_onnx.report.html.lanes import Lanes, lanes
from hqp_onnx.report.html.plot import WIDTH, bar, picture, text, tooltip

_ROW, _HEAD, _BAR = 18.0, 40.0, 8.0
_NAME, _COUNTS, _GROUP, _REPEATS = 84.0, 92.0, 24.0, 26.0  # widths of columns
_RIGHT = WIDTH - _REPEATS
_LANE, _LANES = 9.0, 90.0  # width of a lane, and of all at most
_WORDS = {"int8": "INT8", "fp16": "FP16", "float": "float", "removed": "removed with its branch"}
_HEADS = ("step", "operator", "reads", "channels", "after", "computes in", "shares", "stay since")


def network(report: Report) -> Figure:
    """Every layer, what it reads, its width before and after, its precision, and what stays."""
    layers = {layer.weight: layer for layer in report.layers}
    rows = folded(report.network, layers)
    ways = lanes([row.reads for row in rows])
    lane = min(_LANE, _LANES / ways.count)
    height = _HEAD + _ROW * len(rows)
    drawn = [*_legend(report.network), *_edges(rows, ways, lane)]
    widest = max((layer.channels for layer in report.layers), default=1)
    for number, row in enumerate(rows):
        drawn.append(_row(number, row, report.network, layers, ways, lane, widest))
    drawn += _repeats(rows)
    drawing = picture("network", "The network, from input to output", _description(report, rows), height, drawn)
    numbers = Table("Every step, in the order of the graph", _HEADS, tuple(_cells(report, layers)))
    return Figure("network", "The network", drawing, _caption(report, rows), numbers)


def _legend(steps: Sequence[Step]) -> Iterator[svg.Element]:
    kinds = [kind for kind in ("int8", "fp16", "float") if any(s.precision == kind and s.weight for s in steps)]
    x = 0.0
    for kind, words in (*((kind, _WORDS[kind]) for kind in kinds), ("gone", "removed"), ("stays", "must stay")):
        yield bar(x, 2, x + 12, 10, kind, words) if kind != "stays" else bar(x, 8, x + 12, 10.5, kind, words)
        yield text(x + 16, 10, words)
        x += 26 + 6.3 * len(words)


def _y(row: int) -> float:
    return _HEAD + _ROW * (row + 0.5) - 8


def _x(lane: int, width: float) -> float:
    return round(5 + lane * width, 2)


def _edges(rows: Sequence[Drawn], ways: Lanes, lane: float) -> Iterator[svg.Element]:
    """From each row down its own lane, and across just above who reads it."""
    for number, row in enumerate(rows):
        for read in row.reads:
            x, to, y, end = _x(ways.of[read], lane), _x(ways.of[number], lane), _y(read), _y(number)
            moves: list[svg.PathData] = [svg.MoveTo(x, y)]
            if x == to:
                moves.append(svg.LineTo(to, end))
            else:
                bend = end - 0.8 * _ROW
                moves += [svg.LineTo(x, bend), svg.CubicBezier(x, bend + 8, to, bend + 5, to, end)]
            yield svg.Path(d=moves, class_=["way"])


def _row(
    number: int,
    row: Drawn,
    steps: Sequence[Step],
    layers: Mapping[str, Layer],
    ways: Lanes,
    lane: float,
    widest: int,
) -> svg.Element:
    own = [steps[step] for step in row.steps]
    y, left = _y(number), 12 + ways.count * lane
    kind = _precision(own)
    elements: list[svg.Element] = [*tooltip(_says(own, layers))]
    elements.append(svg.Circle(cx=_x(ways.of[number], lane), cy=y, r=3.2, class_=[kind or "join"]))
    elements.append(text(left, y + 4, _title(own, layers), kind="name" if own[0].weight else "tick"))
    found = [layers[step.weight] for step in own if step.weight in layers]
    if found:
        elements += _widths(found, own, kind, left + _NAME, y, widest)
    groups = sorted({step.group for step in own if step.group is not None})
    if groups:
        elements.append(text(_RIGHT - 8, y + 4, _letters(groups[0]) + "…" * (len(groups) > 1), "middle", "group"))
    return svg.G(elements=elements)


def _widths(
    found: Sequence[Layer], own: Sequence[Step], kind: str, left: float, y: float, widest: int
) -> Iterator[svg.Element]:
    room = _RIGHT - left - _COUNTS - _GROUP
    before = fmean(layer.channels for layer in found)
    after = fmean(_after(layer, step) for layer, step in zip(found, own, strict=True))
    stays = fmean(layer.channels - layer.prunable for layer in found)
    scale = room / math.sqrt(widest)  # areas of squares: narrow layers stay visible beside wide ones
    top = y - _BAR / 2
    yield svg.Rect(x=left, y=top, width=_long(scale, before), height=_BAR, class_=["gone"])
    if after:
        yield svg.Rect(x=left, y=top, width=_long(scale, after), height=_BAR, class_=[kind])
    if stays:
        yield svg.Rect(x=left, y=top + _BAR + 1, width=_long(scale, stays), height=2, class_=["stays"])
    counts = (
        _span([layer.channels for layer in found]),
        _span([_after(layer, step) for layer, step in zip(found, own, strict=True)]),
    )
    words = counts[0] if counts[0] == counts[1] else " → ".join(counts)
    yield text(_RIGHT - _GROUP, y + 4, words, "end", "value")


def _long(scale: float, channels: float) -> float:
    return round(scale * math.sqrt(channels), 2)


def _after(layer: Layer, step: Step) -> int:
    return 0 if step.precision == "removed" else layer.channels - layer.removed


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


def _repeats(rows: Sequence[Drawn]) -> Iterator[svg.Element]:
    """A bracket beside rows that repeat, and how often."""
    for block in dict.fromkeys(row.block for row in rows if row.block is not None):
        own = [number for number, row in enumerate(rows) if row.block == block]
        top, bottom, x = _y(own[0]) - 7, _y(own[-1]) + 7, _RIGHT + 5
        moves: list[svg.PathData] = [svg.MoveTo(x - 4, top), svg.LineTo(x, top), svg.LineTo(x, bottom)]
        yield svg.Path(d=[*moves, svg.LineTo(x - 4, bottom)], class_=["bracket"])
        yield text(x + 3, (top + bottom) / 2 + 4, f"×{rows[own[0]].times}", kind="group")


def _title(own: Sequence[Step], layers: Mapping[str, Layer]) -> str:
    kinds = dict.fromkeys(_operator(step, layers.get(step.weight)) for step in own)
    if len(kinds) > 1:
        return counted(len(own), "layer")
    words = next(iter(kinds))
    return words if len(words) <= 14 else f"{words[:13]}…"


def _operator(step: Step, layer: Layer | None) -> str:
    """As "Conv 3×3"; inputs and outputs by their own names."""
    if layer is None:
        return step.name if step.op in ("input", "output") else step.op.split("::")[-1]
    kernel = "×".join(map(str, layer.shape[2:])) if step.op in ("Conv", "ConvTranspose") else ""
    return f"{step.op} {kernel}".rstrip()


def _precision(own: Sequence[Step]) -> str:
    """That of most; "" where there is none."""
    found = [step.precision for step in own if step.precision]
    return max(dict.fromkeys(found), key=found.count, default="")


def _letters(group: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    return (_letters(group // 26 - 1) if group >= 26 else "") + chr(ord("A") + group % 26)


def _says(own: Sequence[Step], layers: Mapping[str, Layer]) -> str:
    """The tooltip of a row."""
    if len(own) > 3:
        names = f"{len(own)} steps, {own[0].name} to {own[-1].name}"
    else:
        names = ", ".join(step.weight or step.name for step in own)
    parts = [names, _computes(own)]
    if len(own) == 1 and own[0].weight in layers:
        layer = layers[own[0].weight]
        parts.append(f"{counted(layer.channels, 'channel')}, {_after(layer, own[0])} after")
    groups = sorted({step.group for step in own if step.group is not None})
    if groups:
        parts.append(f"shares channels with the layers marked {', '.join(map(_letters, groups))}")
    reasons = dict.fromkeys(f"{count} stay: {why}" for step in own for why, count in step.stays.items())
    return "; ".join([*filter(None, parts), *list(reasons)[:3]])


def _computes(own: Sequence[Step]) -> str:
    kinds = {kind: sum(step.precision == kind for step in own) for kind in _WORDS}
    found = {kind: count for kind, count in kinds.items() if count}
    if len(found) == 1:
        return _WORDS[next(iter(found))]
    return ", ".join(f"{count} in {_WORDS[kind]}" for kind, count in found.items())


def _description(report: Report, rows: Sequence[Drawn]) -> str:
    layers = [step for step in report.network if step.weight]
    integers = sum(step.precision == "int8" for step in layers)
    steps = f"{counted(len(report.network), 'step')} in {counted(len(rows), 'row')}"
    text = f"{steps}, {len(layers)} of them layers with weights"
    return f"{text}, {integers} in INT8. Every step is in the table below."


def _caption(report: Report, rows: Sequence[Drawn]) -> str:
    words = "Each row is a layer, or a place where ways meet; the lines at the left say what it reads. Outlines are "
    words += "channels before, full bars those that are left, in widths that grow as the root of the number. "
    if any(step.group is not None for step in report.network):
        words += "Layers with the same letter share their channels. "
    if any(step.stays for step in report.network):
        words += "A thin line under a bar marks channels that must stay; pointing at a row says why. "
    if any(row.times > 1 for row in rows):
        words += "A bracket marks rows that repeat, and says how often; their bars are means. "
    return words.rstrip()


def _cells(report: Report, layers: Mapping[str, Layer]) -> Iterator[tuple[str, ...]]:
    for number, step in enumerate(report.network):
        layer = layers.get(step.weight)
        reads = ", ".join(str(read + 1) for read in step.reads)
        widths = ("", "") if layer is None else (str(layer.channels), str(_after(layer, step)))
        shares = "" if step.group is None else _letters(step.group)
        stays = "; ".join(f"{why} ({count})" for why, count in step.stays.items())
        name = f"{number + 1}: {step.weight or step.name}"
        yield name, step.op, reads, *widths, _WORDS.get(step.precision, ""), shares, stays
