"""What a comparison found, as values, JSON and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

from hqp_onnx.comparison.trace import Trace
from hqp_onnx.counts import counted
from hqp_onnx.evaluation.deviation import Deviation, finite
from hqp_onnx.evaluation.latency import Latency
from hqp_onnx.evaluation.metrics import Quantity
from hqp_onnx.evaluation.nonfinite import NONE, NonFinite
from hqp_onnx.markup import Table, table

NOTHING = Quantity("")


@dataclass(frozen=True)
class Compared:
    """One model beside the reference.

    Attributes:
        name, runtime, bytes: the model.
        accuracy: the metric; None where there is none, or it has no value.
        latency: of one batch.
        outputs: output -> deviation from the reference.
        agreement: output -> share of samples with the reference's top-1 answer; absent where there are no classes.
        nonfinite: samples whose outputs hold NaN or infinities.
    """

    name: str
    runtime: str
    bytes: int
    accuracy: float | None
    latency: Latency
    outputs: Mapping[str, Deviation]
    agreement: Mapping[str, float]
    nonfinite: NonFinite = NONE


@dataclass(frozen=True)
class Step:
    """Where ``model`` departs from ``reference``; ``trace`` is None if that cannot be told, and ``why`` says why."""

    reference: str
    model: str
    trace: Trace | None
    why: str = ""


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found; the first model is the reference. ``quantity`` says what the metric is measured in."""

    data: str
    samples: int
    metric: str
    batch: int
    tolerance: float
    models: tuple[Compared, ...]
    steps: tuple[Step, ...]
    quantity: Quantity = NOTHING

    def json(self) -> dict[str, Any]:
        """Stable JSON values; null stands for what is infinite or unknown."""
        return {
            "data": self.data,
            "samples": self.samples,
            "metric": self.metric,
            "unit": self.quantity.unit,
            "higher_is_better": self.quantity.higher,
            "batch": self.batch,
            "tolerance": self.tolerance,
            "models": [_model_json(model) for model in self.models],
            "steps": [_step_json(step) for step in self.steps],
        }

    @property
    def table(self) -> Table:
        """A row per model and output; errors and agreement are against the first model."""
        caption = f"{counted(self.samples, 'sample')} of {self.data}, median latency of batch {self.batch}"
        metric = self.quantity.head if self.metric else "metric %"
        errors = ("error", "max abs", "mean abs", "cosine", "PSNR dB", "agree %")
        rows: list[tuple[str, ...]] = []
        labels = short_names([model.name for model in self.models])
        for model in self.models:
            accuracy = "" if model.accuracy is None else self.quantity.value(model.accuracy)
            cost = (f"{model.latency.median_ms:.3f}", f"{model.latency.speedup:.2f}x", f"{model.bytes / 1e6:.2f}")
            first, *more = _output_rows(model)
            rows.append((labels[model.name], model.runtime, accuracy, *first, *cost))
            rows += [("", "", "", *figures, "", "", "") for figures in more]
        return Table(caption, ("model", "runtime", metric, *errors, "ms", "speedup", "MB"), tuple(rows))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return table(self.table)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without their folders, where they still differ; else without the folders that all are in."""
    parts = [name.split("/") for name in names]
    last = {tuple(each[-1:]) for each in parts}
    levels = zip(*(each[:-1] for each in parts), strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    return {
        name: each[-1] if len(last) == len(names) else "/".join(each[shared:])
        for name, each in zip(names, parts, strict=True)
    }


def _output_rows(model: Compared) -> list[tuple[str, ...]]:
    """Figures of every output; the reference has none."""
    many = len(model.outputs) > 1
    rows: list[tuple[str, ...]] = []
    for name, deviation in model.outputs.items():
        share = model.agreement.get(name)
        figures = (
            f"{deviation.relative:.2%}",
            f"{deviation.max_abs:.3g}",
            f"{deviation.mean_abs:.3g}",
            f"{deviation.cosine:.5f}",
            f"{deviation.psnr_db:.1f}",
        )
        error, *others = figures if deviation.comparable else ("not finite", *[""] * 4)
        agreement = "" if share is None else f"{100 * share:.2f}"
        rows.append((f"{name}: {error}" if many else error, *others, agreement))
    return rows or [("",) * 6]


def _model_json(model: Compared) -> dict[str, Any]:
    latency = asdict(model.latency)
    speedup = latency.pop("speedup")
    del latency["joules"]  # no board computes here
    return {
        "model": model.name,
        "runtime": model.runtime,
        "bytes": model.bytes,
        "accuracy": model.accuracy,
        "nonfinite": model.nonfinite.samples,
        "latency": latency,
        "speedup": speedup,
        "outputs": {
            name: {**deviation.json(), "agreement": model.agreement.get(name)}
            for name, deviation in model.outputs.items()
        },
    }


def _step_json(step: Step) -> dict[str, Any]:
    names = {"reference": step.reference, "model": step.model}
    if step.trace is None:
        return {**names, "not_traced": step.why}
    first = step.trace.first
    shares = ("error", "own", "allowed")
    tensors = [
        {**asdict(t), **{name: finite(getattr(t, name)) for name in shares}, "divergent": t.divergent}
        for t in step.trace.tensors
    ]
    unmatched = list(step.trace.unmatched)
    return {
        **names,
        "samples": step.trace.samples,
        "first_divergent": None if first is None else first.tensor,
        "tensors": tensors,
        "unmatched": unmatched,
    }
