"""What the search costs, and what quantization-aware training would: the paper's model, and measurements."""

from __future__ import annotations

import time
from pathlib import Path

from hqp_onnx.job.cost_model import QAT_EPOCHS, QAT_SAMPLES
from hqp_onnx.job.results import Report
from hqp_onnx.model import open_data, open_model
from hqp_onnx.passes.recover import recover
from hqp_onnx.recovery import Recovery
from hqp_onnx.runtimes.targets import target
from hqp_onnx.steps.quantize import quantize_model


def qat_epoch(model: Path, calib: Path) -> tuple[float, int]:
    """Seconds of one epoch of training the INT8 model straight through its Q/DQ pairs, and its samples.

    It learns from the original's outputs, not from labels, which costs the same; its fixed costs are in it.
    """
    opened = open_model(model)
    data = open_data(opened, str(calib))
    student = quantize_model(opened, data, target("onnxruntime"), "minmax").graph
    start = time.perf_counter()
    recover(student, opened.graph, data, Recovery(epochs=1, features=0))
    return time.perf_counter() - start, len(data)


def costs(report: Report, calib: Path) -> list[str]:
    """A table of seconds."""
    cost, spent = report.cost_model, sum(trial.seconds for trial in report.trials)
    assert cost.c_grad is not None and cost.c_qat is not None, "the search ranks by S"
    seconds, samples = qat_epoch(Path(report.model), calib)
    qat = seconds / samples * QAT_SAMPLES * QAT_EPOCHS
    rows = [
        (r"\|D_calib\| C_grad", cost.d_calib * cost.c_grad, report.seconds["saliency"]),
        (rf"T_prune \|D_val\| C_inf, T_prune = {cost.t_prune}", cost.t_prune * cost.d_val * cost.c_inf, spent),
        ("C_HQP, their sum", cost.c_hqp, report.seconds["saliency"] + spent),
        (f"C_QAT: {QAT_EPOCHS} epochs of {QAT_SAMPLES} samples", cost.c_qat, qat),
    ]
    lines = ["| | the paper's model, s | measured, s |", "|---|--:|--:|"]
    lines += [f"| {name} | {predicted:.1f} | {measured:.1f} |" for name, predicted, measured in rows]
    lines.append(f"| C_QAT / C_HQP | {cost.c_qat / cost.c_hqp:.0f} | {qat / rows[2][2]:.0f} |")
    parts = ", ".join(f"{name} {value:.1f}" for name, value in report.seconds.items())
    note = f"one epoch of {samples} samples took {seconds:.1f} s; the rest of QAT is extrapolated"
    return [*lines, "", f"All stages of the run, seconds: {parts}. Measured C_QAT: {note}."]
