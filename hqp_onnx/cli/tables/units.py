"""The units of a model."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from hqp_onnx.channels.channel_map import ParamAxis
from hqp_onnx.steps.inspect import Acceptance, Inspection


def refusals_table(accepted: Acceptance) -> Table:
    """The nodes that a TensorRT refuses."""
    table = Table()
    for column in ("node", "operator", "refused because"):
        table.add_column(column, overflow="fold")
    for refusal in accepted.refused:
        table.add_row(refusal.node, refusal.op, refusal.reason)
    return table


def inspect_table(inspection: Inspection, named: int | None = None) -> Table:
    """The groups of units, with the tensors that they are slices of, ``named`` at most, and why some stay."""
    shown = inspection.table
    table = Table(title=shown.caption, title_justify="left")
    for column in ("units", "prunable"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("slices of tensor[axis]; why units stay", overflow="fold")
    groups = [_slices(group.members, named) for group in inspection.groups]
    inner = [row[2] for row in shown.rows[len(groups) :]]
    for row, slices in zip(shown.rows, groups + inner, strict=True):
        table.add_row(*row[:2], f"{slices}; {row[3]}" if row[3] else slices)
    return table


def _slices(members: Sequence[ParamAxis], named: int | None) -> str:
    names = [f"{member.tensor}[{member.axis}]" for member in members]
    more = 0 if named is None else len(names) - named
    return ", ".join(names[:named]) + (f" and {more} more" if more > 0 else "")
