"""The budget on counts, and the paired interval against a bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.evaluation.budget import Budget, paired_drop
from hqp_onnx.evaluation.metrics import Scores
from hqp_onnx.evaluation.nonfinite import NonFinite


def hits(count: int, samples: int) -> Scores:
    return Scores((np.arange(samples) < count).astype(float), samples)


@pytest.mark.parametrize(("lost", "admitted"), [(0, True), (74, True), (75, True), (76, False)])
def test_budget_counts_exactly(lost: int, admitted: bool) -> None:
    budget = Budget(hits(4600, 5000), 0.015)  # 75 samples of 5000
    assert budget.admits(hits(4600 - lost, 5000)) is admitted


def test_a_partial_evaluation_is_never_admitted() -> None:
    budget = Budget(hits(90, 100), 0.5)
    assert not budget.admits(Scores(np.ones(99), 100))


def test_a_candidate_whose_outputs_are_not_finite_is_never_admitted() -> None:
    budget, broken = Budget(hits(90, 100), 0.5), NonFinite(3, ("y",))
    values = hits(97, 100).values
    assert budget.admits(Scores(values, 100))
    assert not budget.admits(Scores(values, 100, broken))
    words = "3 of 100 samples have NaN or infinities in output 'y'"
    assert words in budget.words(Scores(values, 100, broken))
    assert f"at least {words}" in budget.words(Scores(values[:50], 100, broken))
    with pytest.raises(ModelError, match=words):
        Budget(Scores(values, 100, broken), 0.5)


def test_budget_refuses_points_for_fractions() -> None:
    with pytest.raises(UsageError, match=r"0\.015"):
        Budget(hits(1, 1), 1.5)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_a_confidence_asks_for_the_upper_bound_of_a_paired_bootstrap(confidence: float) -> None:
    rng = np.random.default_rng(1)
    base = (rng.random(2000) < 0.92).astype(float)
    other = np.where(rng.random(2000) < 0.97, base, 0.0)
    rows = rng.integers(0, 2000, (4000, 2000))
    bound = float(np.percentile((base - other)[rows].mean(1), 100 * confidence))
    for max_drop, admitted in ((bound - 1e-3, False), (bound + 1e-3, True)):  # bootstrap noise of 4000 draws
        assert Budget(Scores(base, 2000), max_drop, confidence).admits(Scores(other, 2000)) is admitted
        assert Budget(Scores(base, 2000), max_drop).admits(Scores(other, 2000))  # the drop itself is inside


def test_a_confidence_changes_nothing_where_candidates_answer_alike() -> None:
    budget = Budget(hits(90, 100), 0.0, 0.99)
    assert budget.admits(hits(90, 100))
    assert budget.margin(hits(90, 100)) == 0


def test_a_verdict_says_the_drop_its_bound_and_the_budget() -> None:
    """1.5 of 3 points are lost; 1.6449 standard errors of 3 in 200 are 1.42 more; a partial evaluation has no bound."""
    lost = hits(177, 200)
    assert Budget(hits(180, 200), 0.03).words(lost) == "drop 1.50 of 3 points"
    sure = Budget(hits(180, 200), 0.03, 0.95)
    bound = 1.5 + 100 * 1.6449 * np.sqrt(0.015 * 0.985 / 199)
    assert sure.words(lost) == f"drop 1.50 (up to {bound:.2f} at 95 %) of 3 points"
    assert sure.words(hits(180, 200)) == "drop 0.00 of 3 points"
    partial = Scores(np.zeros(50), 200)
    assert sure.words(partial) == "drop at least 15.00 of 3 points"


def test_a_single_sample_has_no_spread() -> None:
    assert Budget(hits(1, 1), 0.0, 0.99).admits(hits(1, 1))
    interval = paired_drop(hits(1, 1).values, hits(0, 1).values)
    assert (interval.drop, interval.low, interval.high) == (1, 1, 1)


def test_the_budget_is_spent_on_pruning_precision_and_uncertainty() -> None:
    budget, final = Budget(hits(4600, 5000), 0.015, 0.95), hits(4550, 5000)
    spent = budget.spent(0.008, final)
    assert list(spent) == ["pruning", "precision", "uncertainty", "left"]
    assert sum(spent.values()) == pytest.approx(0.015)
    assert spent["precision"] == pytest.approx(0.01 - 0.008)
    assert spent["uncertainty"] == pytest.approx(1.6449 * np.sqrt(0.01 * 0.99 / 4999), rel=1e-4)
    assert "uncertainty" not in Budget(hits(4600, 5000), 0.015).spent(0.008, final)


@pytest.mark.parametrize("confidence", [0.4, 1.0, 95])
def test_budget_refuses_confidences(confidence: float) -> None:
    with pytest.raises(UsageError, match="confidence"):
        Budget(hits(1, 1), 0.015, confidence)


def test_interval_agrees_with_a_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    base = (rng.random(2000) < 0.92).astype(float)
    other = np.where(rng.random(2000) < 0.95, base, rng.random(2000) < 0.5)
    interval = paired_drop(base, other)
    rows = rng.integers(0, 2000, (4000, 2000))
    low, high = np.percentile((base - other)[rows].mean(1), [2.5, 97.5])
    assert interval.drop == pytest.approx((base - other).mean())
    assert interval.low == pytest.approx(low, abs=5e-4)  # bootstrap noise of 4000 draws
    assert interval.high == pytest.approx(high, abs=5e-4)
