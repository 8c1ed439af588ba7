"""The units of a model."""

from __future__ import annotations

from collections import Counter

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
    """Groups of parameter axes that share units, and what is frozen; "(all)" marks branches, which can go whole."""
    title = (
        f"{inspection.units} units, {inspection.prunable} prunable; of {inspection.params / 1e6:.2f} M parameters and "
        f"{inspection.macs / 1e6:.2f} M MACs per sample, "
        f"{inspection.prunable_params / max(inspection.params, 1):.1%} and "
        f"{inspection.prunable_macs / max(inspection.macs, 1):.1%} are in slices that can be removed"
    )
    table = Table(title=title, title_justify="left")
    for column in ("units", "prunable", "members (tensor: axis)", "frozen because"):
        table.add_column(column, overflow="fold")
    for group in inspection.groups:
        members = ", ".join(f"{member.tensor}: {member.axis}" for member in group.members)
        reasons = Counter(group.frozen.values())
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
        prunable = f"{group.prunable}{' (all)' * group.branch}"
        table.add_row(str(group.units), prunable, members, why)
    for node, count in inspection.inner_params.items():
        table.add_row("", "0", f"{count} parameters inside {node}", "graphs inside nodes stay as they are")
    return table
