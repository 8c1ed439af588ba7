"""The paper's cost model, with costs as they were measured.

    C_HQP = |D_calib| C_grad + T_prune |D_val| C_inf        C_QAT = epochs |D_train| C_grad

with C_grad the measured seconds of one sample's gradients, C_inf of one sample's inference and T_prune the
number of trials. C_QAT is an estimate: one training sample is charged like one sample of the Fisher pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

QAT_EPOCHS, QAT_SAMPLES = 10, 50_000  # a short fine-tuning on a training set of CIFAR's size


class Training(TypedDict):
    """The training that ``c_qat`` is the cost of: so many ``epochs`` of so many ``train_samples``."""

    epochs: int
    train_samples: int


class Derived(TypedDict):
    """What follows from the costs, and is written beside them.

    Attributes:
        c_hqp: the cost of the search: ``d_calib * c_grad + t_prune * d_val * c_inf``.
        c_qat: an estimate of one quantization-aware training; None where ``c_grad`` is.
        ratio: ``c_hqp / c_qat``; None where ``c_qat`` is.
        recovery_ratio: ``c_recover / c_qat``; None likewise.
        qat_estimate: the training that ``c_qat`` stands for.
    """

    c_hqp: float
    c_qat: float | None
    ratio: float | None
    recovery_ratio: float | None
    qat_estimate: Training


@dataclass(frozen=True)
class CostModel:
    """What the paper's cost model says that the search took, from measured seconds.

    Attributes:
        c_grad: seconds of one sample's gradients; None where the saliency takes none.
        c_inf: seconds of one sample's inference.
        t_prune: the number of trials.
        d_calib: the number of calibration samples.
        d_val: the number of validation samples.
        c_recover: seconds of the trials with training, all together.
        t_recover: the number of trials with training.
    """

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

    def derived(self) -> Derived:
        """What follows from the fields, as JSON values."""
        ratio = None if not self.c_qat else self.c_hqp / self.c_qat
        share = None if not self.c_qat else self.c_recover / self.c_qat
        estimate = Training(epochs=QAT_EPOCHS, train_samples=QAT_SAMPLES)
        return Derived(c_hqp=self.c_hqp, c_qat=self.c_qat, ratio=ratio, recovery_ratio=share, qat_estimate=estimate)
