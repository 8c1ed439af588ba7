"""The budget: how far the metric may fall, and how certain a measured drop is.

A candidate is admitted while A_baseline - A <= max_drop (A - A_baseline where less is better), A being the metric on
D_val, and all its outputs are finite; means of scores are compared by their sums, so counts are exact. D_val is a
sample, and the search takes the candidate that just passes on it: on other data, the drop is as likely above the budget
as below. With a confidence above 0.5, it is the drop's upper bound at that confidence that must be inside the budget
(``metrics.scale``). Few samples prove little: a candidate that loses none of n answers is surely (95 %) inside a budget
of 1.5 points from n = 199 on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.evaluation.metrics import Metric, Quantity, Scores, require_finite
from hqp_onnx.evaluation.metrics.scale import SHARES
from hqp_onnx.evaluation.paired import fewest_samples


def parse_drop(given: float | str) -> tuple[float, bool]:
    """A budget, and whether it is a share of the original's metric: 0.015, or "5%".

    Raises:
        UsageError: it is neither.
    """
    text = str(given).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError(
            f"{{--max_drop}} {given}: expected a number in the metric's units, such as 0.015 for 1.5 points, or a "
            "share of the original's metric, such as 5%"
        )
    return (value / 100, True) if text.endswith("%") else (value, False)


def check_budget(max_drop: float | str, confidence: float, quantity: Quantity | None = None) -> None:
    """Raise ``UsageError`` for values that no budget takes; without ``quantity`` the metric is a share."""
    drop, relative = parse_drop(max_drop)
    if (quantity is None or quantity.shares or relative) and drop > 1:
        raise UsageError(f"{{--max_drop}} {max_drop}: expected a share in 0..1, such as 0.015 for 1.5 points")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"{{--confidence}} {confidence}: expected 0.5 or more and below 1, such as 0.95")


def allowed(max_drop: float | str, baseline: Scores) -> float:
    """The budget in the metric's units."""
    drop, relative = parse_drop(max_drop)
    return drop * abs(baseline.metric) if relative else drop


def check_samples(samples: int, max_drop: float | str, confidence: float, metric: Metric | None = None) -> None:
    """Raise ``UsageError`` where there are too few validation samples for any candidate to be surely inside."""
    max_drop, relative = parse_drop(max_drop)
    if confidence == 0.5 or relative or (metric is not None and metric.scale != SHARES):
        return
    asked = f"{{--confidence}} {confidence:g} that the drop is at most {100 * max_drop:g} points"
    if not max_drop:
        raise UsageError(f"{asked}: no data can prove that. Allow some {{--max_drop}}")
    if samples < (needed := fewest_samples(max_drop, confidence)):
        raise UsageError(f"{asked} takes {needed} validation samples or more, not {samples}")


@dataclass(frozen=True)
class Budget:
    """``baseline`` scores, how much worse a metric may be in its own units (0.015 = 1.5 points), and how surely.

    Raises:
        UsageError: ``max_drop`` or ``confidence`` is out of range.
        ModelError: the baseline's outputs are not all finite, so nothing can be held against it.
        DataError: the metric has no value on the data.
    """

    baseline: Scores
    max_drop: float
    confidence: float = 0.5
    name: str = ""

    def __post_init__(self) -> None:
        check_budget(self.max_drop, self.confidence, self.quantity)
        require_finite(self.baseline.nonfinite, self.baseline.samples)
        if not math.isfinite(self.baseline.metric):
            raise DataError(
                f"the metric {self.name} has no value on these data: they lack what it counts".replace("  ", " ")
            )

    @property
    def quantity(self) -> Quantity:
        """What drops are measured in."""
        return Quantity(self.name, self.baseline.scale.unit, self.baseline.scale.higher)

    @property
    def required(self) -> float:
        """What a candidate must attain at least; a sum of scores, where the metric is their mean."""
        return self.baseline.scale.required(self.baseline.values, self.max_drop)

    def admits(self, scores: Scores) -> bool:
        """Whether a candidate is inside the budget; one not fully evaluated, or with outputs not finite, never is."""
        margin = scores.scale.in_units_of_attained(self.margin(scores), scores.samples)
        return scores.complete and not scores.nonfinite and scores.attained - margin >= self.required

    def drop(self, scores: Scores) -> float:
        """How much worse a candidate is; at least, where it was not fully evaluated."""
        return self.baseline.scale.drop(self.baseline.metric, scores.metric)

    def margin(self, scores: Scores) -> float:
        """How far the upper bound of a candidate's drop is above the drop; 0 at a confidence of 0.5.

        It is unknown, and 0, for a candidate that not every sample was seen of; the baseline itself has none.
        """
        if self.confidence == 0.5 or not scores.complete or scores is self.baseline:
            return 0.0
        rows, scale = (self.baseline.values, scores.values), scores.scale
        return max(0.0, scale.upper_drop(*rows, self.confidence) - scale.drop_of(*rows))

    def words(self, scores: Scores) -> str:
        """The drop, and its upper bound if that is what counts, beside the budget; or what rules a candidate out."""
        drop, margin, q = self.drop(scores), self.margin(scores), self.quantity
        least = "" if scores.complete else "at least "
        sure = f" (up to {q.worse(drop + margin)} at {100 * self.confidence:g} %)" if margin and scores.complete else ""
        broken = f"{least}{scores.nonfinite.words(scores.samples)}; " if scores.nonfinite else ""
        if math.isnan(drop):
            return f"{broken}the metric has no value"
        return f"{broken}{q.fall} {least}{q.worse(drop)}{sure}, budget {q.limit(self.max_drop)}"

    def spent(self, pruning: float, scores: Scores) -> dict[str, float]:
        """Where the budget went: to pruning and to the lower precision that led to ``scores``, and what is left.

        Args:
            pruning: the drop of the pruned model.
            scores: of the model that ships, on D_val.

        Returns:
            Parts that add up to ``max_drop``; above a confidence of 0.5 with the ``uncertainty``.
        """
        drop, margin = self.drop(scores), self.margin(scores)
        uncertainty = {"uncertainty": margin} if self.confidence > 0.5 else {}
        return {"pruning": pruning, "precision": drop - pruning, **uncertainty, "left": self.max_drop - drop - margin}
