"""The budget: how far the metric may fall, and how certain a measured drop is.

A candidate is admitted while A_baseline - A <= max_drop, A being the mean score on D_val, and all its outputs are
finite; the comparison is made on sums of scores, so counts are exact. D_val is a sample, and the search takes the
candidate that just passes on it: on other data, the drop is as likely above the budget as below. With a confidence
above 0.5, it is the drop's upper bound at that confidence that must be inside the budget (``paired``). Few samples
prove little: a candidate that loses none of n answers is surely (95 %) inside a budget of 1.5 points from n = 199 on.
"""

from __future__ import annotations

from dataclasses import dataclass

from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.metrics import Scores, require_finite
from hqp_onnx.evaluation.paired import fewest_samples, upper_bound

_ROUNDING = 1e-9  # of a sample: max_drop * samples is rarely exact in binary


def check_budget(max_drop: float, confidence: float) -> None:
    """Raise ``UsageError`` for values that no budget takes."""
    if not 0 <= max_drop <= 1:
        raise UsageError(f"{{--max_drop}} {max_drop}: expected a share in 0..1, such as 0.015 for 1.5 points")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"{{--confidence}} {confidence}: expected 0.5 or more and below 1, such as 0.95")


def check_samples(samples: int, max_drop: float, confidence: float) -> None:
    """Raise ``UsageError`` where there are too few validation samples for any candidate to be surely inside."""
    if confidence == 0.5:
        return
    asked = f"{{--confidence}} {confidence:g} that the drop is at most {100 * max_drop:g} points"
    if not max_drop:
        raise UsageError(f"{asked}: no data can prove that. Allow some {{--max_drop}}")
    if samples < (needed := fewest_samples(max_drop, confidence)):
        raise UsageError(f"{asked} takes {needed} samples in {{--val}} or more, which has {samples}")


@dataclass(frozen=True)
class Budget:
    """``baseline`` scores, the largest drop of their mean, 0..1 (0.015 = 1.5 points), and with what confidence.

    Raises:
        UsageError: ``max_drop`` or ``confidence`` is out of range.
        ModelError: the baseline's outputs are not all finite, so nothing can be held against it.
    """

    baseline: Scores
    max_drop: float
    confidence: float = 0.5

    def __post_init__(self) -> None:
        check_budget(self.max_drop, self.confidence)
        require_finite(self.baseline.nonfinite, self.baseline.samples)

    @property
    def required(self) -> float:
        """Sum of scores that a candidate must reach at least."""
        samples = self.baseline.samples
        return float(self.baseline.values.sum() - self.max_drop * samples - _ROUNDING * samples)

    def admits(self, scores: Scores) -> bool:
        """Whether a candidate is inside the budget; one not fully evaluated, or with outputs not finite, never is."""
        reached = float(scores.values.sum()) - self.margin(scores) * scores.samples
        return scores.complete and not scores.nonfinite and reached >= self.required

    def margin(self, scores: Scores) -> float:
        """How far the upper bound of a candidate's drop is above the drop; 0 at a confidence of 0.5.

        It is unknown, and 0, for a candidate that not every sample was seen of; the baseline itself has none.
        """
        if self.confidence == 0.5 or not scores.complete or scores is self.baseline:
            return 0.0
        differences = self.baseline.values - scores.values
        return max(0.0, upper_bound(differences, self.confidence) - float(differences.mean()))

    def words(self, scores: Scores) -> str:
        """The drop, and its upper bound if that is what counts, beside the budget; or what rules a candidate out."""
        drop, margin = (100 * x for x in (self.baseline.metric - scores.metric, self.margin(scores)))
        least = "" if scores.complete else "at least "
        bound = f" (up to {drop + margin:.2f} at {100 * self.confidence:g} %)" if margin and scores.complete else ""
        broken = f"{least}{scores.nonfinite.words(scores.samples)}; " if scores.nonfinite else ""
        return f"{broken}drop {least}{drop:.2f}{bound} of {100 * self.max_drop:g} points"

    def spent(self, pruning: float, scores: Scores) -> dict[str, float]:
        """Where the budget went: to pruning and to the lower precision that led to ``scores``, and what is left.

        Args:
            pruning: the drop of the pruned model, 0..1.
            scores: of the model that ships, on D_val.

        Returns:
            Shares of the metric that add up to ``max_drop``; above a confidence of 0.5 with the ``uncertainty``.
        """
        drop, margin = self.baseline.metric - scores.metric, self.margin(scores)
        uncertainty = {"uncertainty": margin} if self.confidence > 0.5 else {}
        return {"pruning": pruning, "precision": drop - pruning, **uncertainty, "left": self.max_drop - drop - margin}
