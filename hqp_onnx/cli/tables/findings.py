"""What was found on a machine, as tables."""

from __future__ import annotations

from rich.table import Table

from hqp_onnx.steps.doctor import Findings


def machine_table(findings: Findings) -> Table:
    """Everything but the targets."""
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("system", findings.system),
        ("processor", findings.processor),
        ("INT8 instructions", ", ".join(findings.int8) or "none known"),
        ("weights", f"{findings.weight_bits} bits in u8s8 kernels"),
        ("GPU", findings.gpu),
        ("trtexec", findings.trtexec or "none"),
        ("energy counters", ", ".join(findings.energy) or "none"),
        ("providers", ", ".join(findings.providers) or "none"),
        ("onnxruntime-training", findings.training or "none: hqp setup training installs it"),
        ("versions", ", ".join(f"{name} {number}" for name, number in findings.versions.items())),
        *(("warning", warning) for warning in findings.warnings),
    ):
        table.add_row(name, value)
    return table


def targets_table(findings: Findings) -> Table:
    """One row per target."""
    table = Table()
    for column in ("--target", "ready", "runtime", "what it needs, what to know"):
        table.add_column(column, overflow="fold")
    for state in findings.targets:
        words = ". ".join(part for part in (state.needs, state.note) if part)
        table.add_row(state.name, "yes" if state.ready else "no", state.runtime, words)
    return table
