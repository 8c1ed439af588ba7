"""A comparison as rich tables and lines, for a terminal or plain text."""

from __future__ import annotations

from rich.table import Table

from hqp_onnx.comparison.found import Comparison, Step, short_names
from hqp_onnx.comparison.trace import Trace
from hqp_onnx.counts import counted

_SHOWN = 5  # tensors of a step


def models_table(comparison: Comparison) -> Table:
    """One row per model and output; errors and agreement are against the first model."""
    shown = comparison.table
    table = Table(title=shown.caption, title_justify="left")
    for place, column in enumerate(shown.head):
        if place == 0:
            table.add_column(column, overflow="fold", min_width=16)
        else:
            table.add_column(column, justify="left" if column == "runtime" else "right", no_wrap=column == "runtime")
    for row in shown.rows:
        table.add_row(*row)
    return table


def nonfinite_lines(comparison: Comparison) -> list[str]:
    """Which models have outputs with NaN or infinities."""
    labels = short_names([model.name for model in comparison.models])
    return [f"{labels[m.name]}: {m.nonfinite.words(comparison.samples)}" for m in comparison.models if m.nonfinite]


def step_line(comparison: Comparison, step: Step) -> str:
    """What was found between two models, in words."""
    labels = short_names([model.name for model in comparison.models])
    head = f"{labels[step.reference]} -> {labels[step.model]}: "
    if step.trace is None:
        return f"{head}layers not compared: {step.why}"
    tensors, first, unmatched = step.trace.tensors, step.trace.first, len(step.trace.unmatched)
    left_out = f", {unmatched} not comparable" if unmatched else ""
    head += f"{counted(len(tensors), 'tensor')} on {counted(step.trace.samples, 'sample')}{left_out}; "
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
