"""The units of a model."""

from __future__ import annotations

from collections import Counter

from rich.table import Table

from hqp_onnx.steps.inspect import Inspection


def inspect_table(found: Inspection) -> Table:
    """Groups of parameter axes that share units, and what is frozen; "(all)" marks branches, which can go whole."""
    title = (
        f"{found.units} units, {found.prunable} prunable; of {found.params / 1e6:.2f} M parameters and "
        f"{found.macs / 1e6:.2f} M MACs per sample, {found.prunable_params / max(found.params, 1):.1%} and "
        f"{found.prunable_macs / max(found.macs, 1):.1%} are in slices that can be removed"
    )
    table = Table(title=title, title_justify="left")
    for column in ("units", "prunable", "members (tensor: axis)", "frozen because"):
        table.add_column(column, overflow="fold")
    for group in found.groups:
        members = ", ".join(f"{member.tensor}: {member.axis}" for member in group.members)
        reasons = Counter(group.frozen.values())
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
        prunable = f"{group.prunable}{' (all)' * group.branch}"
        table.add_row(str(group.units), prunable, members, why)
    return table
