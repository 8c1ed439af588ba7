"""A comparison as rich tables and lines, for a terminal or plain text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from hqp_onnx.comparison.comparison import Compared, Comparison, Step
from hqp_onnx.comparison.trace import Trace

_SHOWN = 5  # tensors of a step


def models_table(comparison: Comparison) -> Table:
    """One row per model and output; errors and agreement are against the first model."""
    title = f"{comparison.samples} samples of {comparison.data}, median latency of batch {comparison.batch}"
    table = Table(title=title, title_justify="left")
    table.add_column("model", overflow="fold", min_width=16)
    table.add_column("runtime", no_wrap=True)
    titles = ("error", "max abs", "mean abs", "cosine", "PSNR dB", "agree %", "ms", "speedup", "MB")
    for column in (comparison.quantity.head if comparison.metric else "metric %", *titles):
        table.add_column(column, justify="right")
    labels = short_names([model.name for model in comparison.models])
    for model in comparison.models:
        accuracy = "" if model.accuracy is None else comparison.quantity.value(model.accuracy)
        cost = (f"{model.latency.median_ms:.3f}", f"{model.latency.speedup:.2f}x", f"{model.bytes / 1e6:.2f}")
        for index, figures in enumerate(_output_rows(model)):
            table.add_row(
                *((labels[model.name], model.runtime, accuracy) if index == 0 else ("", "", "")), *figures, *cost
            )
            cost = ("", "", "")
    return table


def _output_rows(model: Compared) -> list[tuple[str, ...]]:
    """Figures of every output; the reference has none."""
    many = len(model.outputs) > 1
    rows: list[tuple[str, ...]] = []
    for name, deviation in model.outputs.items():
        share = model.agreement.get(name)
        figures = (
            f"{deviation.relative:.2%}",
            f"{deviation.max_abs:.3g}",
            f"{deviation.mean_abs:.3g}",
            f"{deviation.cosine:.5f}",
            f"{deviation.psnr_db:.1f}",
        )
        error, *others = figures if deviation.comparable else ("not finite", *[""] * 4)
        agreement = "" if share is None else f"{100 * share:.2f}"
        rows.append((f"{name}: {error}" if many else error, *others, agreement))
    return rows or [("",) * 6]


def nonfinite_lines(comparison: Comparison) -> list[str]:
    """Which models have outputs with NaN or infinities."""
    labels = short_names([model.name for model in comparison.models])
    return [f"{labels[m.name]}: {m.nonfinite.words(comparison.samples)}" for m in comparison.models if m.nonfinite]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without their folders, where they still differ."""
    short = [name.rpartition("/")[2] for name in names]
    return dict(zip(names, short if len(set(short)) == len(short) else names, strict=True))


def step_line(comparison: Comparison, step: Step) -> str:
    """What was found between two models, in words."""
    labels = short_names([model.name for model in comparison.models])
    head = f"{labels[step.reference]} -> {labels[step.model]}: "
    if step.trace is None:
        return f"{head}layers not compared: {step.why}"
    tensors, first, unmatched = step.trace.tensors, step.trace.first, len(step.trace.unmatched)
    left_out = f", {unmatched} not comparable" if unmatched else ""
    head += f"{len(tensors)} tensors on {step.trace.samples} samples{left_out}; "
    if first is None:
        return f"{head}no own error above what is allowed ({comparison.tolerance:.1%}, more where channels are missing)"
    count = sum(tensor.divergent for tensor in tensors)
    return (
        f"{head}{count} divergent; the first is '{first.tensor}' of {first.op} '{first.node}': "
        f"own error {first.own:.1%}, allowed {first.allowed:.1%}"
    )


def layers_table(trace: Trace) -> Table:
    """The first divergent tensor and those whose own errors are largest against what is allowed, in order."""
    table = Table()
    table.add_column("tensor", overflow="fold")
    table.add_column("op", no_wrap=True)
    for column in ("channels", "own error", "allowed", "error so far"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    worst = sorted(trace.tensors, key=lambda tensor: tensor.own / tensor.allowed, reverse=True)[:_SHOWN]
    for tensor in (tensor for tensor in trace.tensors if tensor in (trace.first, *worst)):
        channels = f"{tensor.channels}/{tensor.of}" if tensor.of else ""
        shares = (f"{share:.2%}" for share in (tensor.own, tensor.allowed, tensor.error))
        table.add_row(tensor.tensor, tensor.op, channels, *shares, "divergent" if tensor.divergent else "")
    return table
