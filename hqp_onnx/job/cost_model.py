"""The paper's cost model, with costs as they were measured.

    C_HQP = |D_calib| C_grad + T_prune |D_val| C_inf        C_QAT = epochs |D_train| C_grad

with C_grad the measured seconds of one sample's gradients, C_inf of one sample's inference and T_prune the
number of trials. C_QAT is an estimate: one training sample is charged like one sample of the Fisher pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

QAT_EPOCHS, QAT_SAMPLES = 10, 50_000  # a short fine-tuning on a training set of CIFAR's size


@dataclass(frozen=True)
class CostModel:
    """Seconds; ``None`` where the saliency takes no gradients. ``c_recover``: of ``t_recover`` trials with training."""

    c_grad: float | None
    c_inf: float
    t_prune: int
    d_calib: int
    d_val: int
    c_recover: float = 0.0
    t_recover: int = 0

    @property
    def c_hqp(self) -> float:
        """Cost of the whole search."""
        return self.d_calib * (self.c_grad or 0.0) + self.t_prune * self.d_val * self.c_inf

    @property
    def c_qat(self) -> float | None:
        """Estimated cost of one quantization-aware training."""
        return None if self.c_grad is None else QAT_EPOCHS * QAT_SAMPLES * self.c_grad

    def derived(self) -> dict[str, Any]:
        """What follows from the fields, as JSON values."""
        ratio = None if not self.c_qat else self.c_hqp / self.c_qat
        share = None if not self.c_qat else self.c_recover / self.c_qat
        estimate = {"epochs": QAT_EPOCHS, "train_samples": QAT_SAMPLES}
        sums = {"c_hqp": self.c_hqp, "c_qat": self.c_qat}
        return {**sums, "ratio": ratio, "recovery_ratio": share, "qat_estimate": estimate}
