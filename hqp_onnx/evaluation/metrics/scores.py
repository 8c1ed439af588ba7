"""What an evaluation found: statistics of every sample, and the metric that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hqp_onnx.evaluation.metrics.scale import SHARES, Scale
from hqp_onnx.evaluation.nonfinite import NONE, NonFinite
from hqp_onnx.evaluation.paired import Interval
from hqp_onnx.markup import Table, table


@dataclass(frozen=True)
class Scores:
    """Rows of the samples seen, out of ``samples``; fewer were seen if the verdict was certain.

    Attributes:
        values: scores, float64 [seen], or what else ``scale`` takes, first axis = samples.
        samples: of the data.
        nonfinite: those among the seen that scored nothing since their outputs are not finite.
        scale: how rows make the metric.
        parts: the metric of single outputs, where it has such.
    """

    values: Any
    samples: int
    nonfinite: NonFinite = NONE
    scale: Scale = SHARES
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        """Samples that were judged."""
        return int(self.values.shape[0])

    @property
    def complete(self) -> bool:
        """Whether every sample was seen."""
        return self.seen == self.samples

    @property
    def metric(self) -> float:
        """The metric; as good as it could still have become where the evaluation stopped early."""
        return self.scale.value(self.values, self.samples)

    @property
    def attained(self) -> float:
        """How good, in the terms of ``Scale.required``."""
        return self.scale.attained(self.values, self.samples)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [("metric", f"{self.metric:.4g}"), *((name, f"{value:.4g}") for name, value in self.parts.items())]
        rows += [("samples", str(self.samples) if self.complete else f"{self.seen} of {self.samples}")]
        rows += [("not finite", self.nonfinite.words(self.samples))] if self.nonfinite else []
        return table(Table("", ("", "value"), tuple(rows)))

    def drop_to(self, candidate: Scores) -> Interval:
        """How much worse a candidate is on the same samples, with its 95 % interval."""
        drop = self.scale.drop_of(self.values, candidate.values)
        return Interval(drop, *self.scale.interval(self.values, candidate.values))
