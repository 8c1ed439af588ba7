"""The units of a model."""

from __future__ import annotations

from rich.table import Table

from hqp_onnx.steps.inspect import Acceptance, Inspection


def refusals_table(accepted: Acceptance) -> Table:
    """The nodes that a TensorRT refuses."""
    table = Table()
    for column in ("node", "operator", "refused because"):
        table.add_column(column, overflow="fold")
    for refusal in accepted.refused:
        table.add_row(refusal.node, refusal.op, refusal.reason)
    return table


def inspect_table(inspection: Inspection) -> Table:
    """The groups of units."""
    shown = inspection.table
    table = Table(title=shown.caption, title_justify="left")
    for column in shown.head:
        table.add_column(column, overflow="fold")
    for row in shown.rows:
        table.add_row(*row)
    return table
