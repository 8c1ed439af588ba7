"""What commands answer by ``--json``, and files beside the report, where it is the value of no other type."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hqp_onnx.steps.check import Finding


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """JSON with these fields."""

    def json(self) -> dict[str, object]:
        """JSON values."""
        values: dict[str, object] = msgspec.to_builtins(self)
        return values


class Checked(Answer, frozen=True, kw_only=True):
    """The model that ships, and what was measured of each threshold."""

    model: str
    findings: tuple[Finding, ...]


class Evaluated(Answer, frozen=True, kw_only=True):
    """The metric of a model: its ``value`` in its ``unit``, by output where several are judged.

    ``nonfinite`` samples have outputs that are NaN or infinite, and score nothing.
    """

    model: str
    metric: str
    value: float
    samples: int
    outputs: Mapping[str, float] | msgspec.UnsetType = msgspec.UNSET
    warnings: tuple[str, ...]
    unit: str
    higher_is_better: bool
    nonfinite: int
    target: str
    runtime: str


class TimedModel(Answer, frozen=True, kw_only=True):
    """Milliseconds of one batch: median, 10th and 90th percentile of the runs; ``speedup`` over the first model.

    ``joules`` are those of a sample on a board that says them.
    """

    model: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    speedup: float
    joules: float | None = None


class Benchmarked(Answer, frozen=True, kw_only=True):
    """Models that were timed in turn."""

    target: str
    device: str | None
    runtime: str
    batch: int
    models: tuple[TimedModel, ...]


class Latencies(Answer, frozen=True, kw_only=True):
    """Milliseconds of one batch."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


class OutputError(Answer, frozen=True, kw_only=True):
    """An output beside that of the first model; null stands for what is infinite or unknown.

    ``agreement`` is the share of samples with the same class.
    """

    max_abs: float | None
    mean_abs: float | None
    relative: float | None
    cosine: float | None
    psnr_db: float | None
    broken: int
    undefined: int
    agreement: float | None


class ComparedModel(Answer, frozen=True, kw_only=True):
    """A model beside the first one."""

    model: str
    runtime: str
    bytes: int
    accuracy: float | None
    nonfinite: int
    latency: Latencies
    speedup: float
    outputs: Mapping[str, OutputError]


class LayerError(Answer, frozen=True, kw_only=True):
    """A tensor of a model beside that of the model before it; null stands for what is not finite."""

    tensor: str
    op: str
    node: str
    error: float | None
    own: float | None
    allowed: float | None
    channels: int
    of: int
    divergent: bool


class ComparedStep(Answer, frozen=True, kw_only=True):
    """From one model to the next, layer by layer; or why that cannot be told."""

    reference: str
    model: str
    not_traced: str | msgspec.UnsetType = msgspec.UNSET
    samples: int | msgspec.UnsetType = msgspec.UNSET
    first_divergent: str | msgspec.UnsetType | None = msgspec.UNSET
    tensors: tuple[LayerError, ...] | msgspec.UnsetType = msgspec.UNSET
    unmatched: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class Compared(Answer, frozen=True, kw_only=True):
    """Models of a chain; outputs are compared with the first, layers with the model before."""

    data: str
    samples: int
    metric: str
    unit: str
    higher_is_better: bool
    batch: int
    tolerance: float
    models: tuple[ComparedModel, ...]
    steps: tuple[ComparedStep, ...]


class Split(Answer, frozen=True, kw_only=True):
    """Which samples of one source served what: their numbers."""

    source: str
    count: int
    seed: int
    shares: tuple[float, ...]
    by_class: bool
    calib: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]
