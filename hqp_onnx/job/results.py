"""What an optimization found: the paper's rows and columns, and its cost model.

    C_HQP = |D_calib| C_grad + T_prune |D_val| C_inf        C_QAT = epochs |D_train| C_grad

with C_grad the measured seconds of one sample's gradients, C_inf of one sample's inference and T_prune the
number of trials. C_QAT is an estimate: one training sample is charged like one sample of the Fisher pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hqp_onnx.job.ledger import Trial

TITLES = {
    "baseline": "Baseline FP32",
    "q8_only": "Q8-only",
    "pruned": "Pruned-only",
    "int8_everywhere": "HQP, all INT8",
    "hqp": "HQP",
    "recovered": "HQP + recovery",
    "engine": "Engine, on the GPU",
}
QAT_EPOCHS, QAT_SAMPLES = 10, 50_000  # a short fine-tuning on a training set of CIFAR's size


@dataclass(frozen=True)
class Judged:
    """One model, but for its latency. ``drop`` is baseline minus metric on ``data``, with its 95 % paired interval.

    ``sparsity`` is the share of prunable units removed; ``size_reduction`` 0.75 means that a quarter of the baseline's
    bytes is left.
    """

    metric: float
    drop: float
    drop_low: float
    drop_high: float
    val_metric: float
    val_drop: float
    bytes: int
    size_reduction: float
    params: int
    macs: int
    sparsity: float


@dataclass(frozen=True)
class Row(Judged):
    """``latency_ms`` is the median of one run at batch 1; ``speedup`` compares with the baseline."""

    latency_ms: float
    latency_p10_ms: float
    latency_p90_ms: float
    speedup: float


@dataclass(frozen=True)
class EngineRow(Judged):
    """The TensorRT engine of the model that ships; ``admitted`` if it is inside the budget.

    ``latency_ms`` is the median between CUDA events of one run of ``batch`` samples on the GPU. It has no ratio to the
    other rows, which are not measured there.
    """

    admitted: bool
    latency_ms: float
    latency_p99_ms: float
    batch: int


@dataclass(frozen=True)
class Layer:
    """One weight of Conv, ConvTranspose, Gemm or MatMul, in graph order; its θ is ``removed / channels``.

    ``channels``, ``prunable`` and ``removed`` count indices of its output axis; ``shape`` is that of the original.
    """

    weight: str
    op: str
    shape: tuple[int, ...]
    channels: int
    prunable: int
    removed: int


@dataclass(frozen=True)
class SaliencyHistogram:
    """Prunable units by log10 of their saliency.

    ``edges`` are one more than bins; ``kept`` and ``removed`` count units per bin. ``not_positive`` counts units
    (kept, removed) whose saliency has no logarithm, ``unknown`` those without a scored filter.
    """

    edges: tuple[float, ...]
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    not_positive: tuple[int, int]
    unknown: tuple[int, int]


@dataclass(frozen=True)
class Frozen:
    """Units that stay for one reason, and the initializers that they are slices of."""

    reason: str
    units: int
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class ModelInput:
    """An input of the model; None in ``shape`` is a size that it leaves open, ``sample`` the shape of one sample."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    sample: tuple[int, ...]


@dataclass(frozen=True)
class Details:
    """What was removed where, what stays and why, and what the model takes."""

    layers: tuple[Layer, ...]
    saliency_histogram: SaliencyHistogram
    frozen: tuple[Frozen, ...]
    inputs: tuple[ModelInput, ...]


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

    def json(self) -> dict[str, Any]:
        """Fields and derived values."""
        ratio = None if not self.c_qat else self.c_hqp / self.c_qat
        share = None if not self.c_qat else self.c_recover / self.c_qat
        estimate = {"epochs": QAT_EPOCHS, "train_samples": QAT_SAMPLES}
        derived = {"c_hqp": self.c_hqp, "c_qat": self.c_qat, "ratio": ratio, "recovery_ratio": share}
        return {**asdict(self), **derived, "qat_estimate": estimate}


@dataclass(frozen=True)
class Report:
    """Everything that one ``optimize`` found.

    ``rows`` are in the paper's order; the shipped model is ``recovered`` where there is one, else ``hqp``. ``spent``
    is ``constraint.Budget.spent``. ``floats`` are first outputs of nodes of the shipped model that could be quantized
    and stay in float. ``engine`` is None unless one was built.
    """

    model: str
    rows: Mapping[str, Row]
    data: str
    samples: int
    met: bool
    shipped: str
    settings: Mapping[str, Any]
    trials: tuple[Trial, ...]
    spent: Mapping[str, float]
    floats: tuple[str, ...]
    cost: CostModel
    seconds: Mapping[str, float]
    units: Mapping[str, Any]
    machine: Mapping[str, str]
    notes: tuple[str, ...]
    details: Details
    engine: EngineRow | None = None

    def json(self) -> dict[str, Any]:
        """JSON values; every row is a top-level key."""
        rest = {
            "model": self.model,
            "data": self.data,
            "samples": self.samples,
            "budget_met": self.met,
            "shipped": self.shipped,
            "settings": dict(self.settings),
            "budget_spent": dict(self.spent),
            "floats": list(self.floats),
            "cost_model": self.cost.json(),
            "seconds": dict(self.seconds),
            "units": dict(self.units),
            "machine": dict(self.machine),
            "notes": list(self.notes),
            "trials": [asdict(trial) for trial in self.trials],
        }
        return {name: asdict(row) for name, row in self.all_rows.items()} | rest | asdict(self.details)

    @property
    def all_rows(self) -> dict[str, Row | EngineRow]:
        """``rows``, and that of the engine where there is one."""
        return {**self.rows, **({} if self.engine is None else {"engine": self.engine})}
