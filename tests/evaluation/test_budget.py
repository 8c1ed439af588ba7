"""The budget on counts, and the paired interval against a bootstrap."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest

from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.evaluation.budget import Budget, check_samples
from hqp_onnx.evaluation.metrics import Scores
from hqp_onnx.evaluation.nonfinite import NonFinite
from hqp_onnx.evaluation.paired import paired_drop


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
def test_a_confidence_asks_for_an_upper_bound_near_that_of_a_paired_bootstrap(confidence: float) -> None:
    rng = np.random.default_rng(1)
    base = (rng.random(2000) < 0.92).astype(float)
    other = np.where(rng.random(2000) < 0.97, base, 0.0)
    rows = rng.integers(0, 2000, (4000, 2000))
    bound = float(np.percentile((base - other)[rows].mean(1), 100 * confidence))
    for max_drop, admitted in ((bound - 1e-3, False), (bound + 2e-3, True)):  # noise of 4000 draws; an exact bound
        assert Budget(Scores(base, 2000), max_drop, confidence).admits(Scores(other, 2000)) is admitted
        assert Budget(Scores(base, 2000), max_drop).admits(Scores(other, 2000))  # the drop itself is inside


def test_few_samples_without_a_difference_prove_little() -> None:
    """Of n samples none is lost with probability 0.985^n where 1.5 points are: below 5 % from n = 199 on."""
    for samples, admitted in ((10, False), (50, False), (198, False), (199, True)):
        budget = Budget(hits(samples, samples), 0.015, 0.95)
        assert budget.admits(hits(samples, samples)) is admitted
        with nullcontext() if admitted else pytest.raises(UsageError, match=f"takes 199 .* or more, not {samples}"):
            check_samples(samples, 0.015, 0.95)
    check_samples(10, 0.015, 0.5)
    with pytest.raises(UsageError, match="no data can prove that"):
        check_samples(9999, 0.0, 0.95)


def test_the_baseline_itself_is_certain() -> None:
    budget = Budget(hits(3, 5), 0.0, 0.99)
    assert budget.admits(budget.baseline) and budget.margin(budget.baseline) == 0


def test_a_verdict_says_the_drop_its_bound_and_the_budget() -> None:
    """3 of 200 are lost; at the bound p, 3 or fewer are as unlikely as 5 %. A partial evaluation has no bound."""
    lost = hits(177, 200)
    assert Budget(hits(180, 200), 0.03).words(lost) == "drop 1.50, budget 3 points"
    sure = Budget(hits(180, 200), 0.03, 0.95)
    assert sure.words(lost) == "drop 1.50 (up to 3.83 at 95 %), budget 3 points"
    bound = 0.015 + sure.margin(lost)
    few = sum(math.comb(200, k) * bound**k * (1 - bound) ** (200 - k) for k in range(4))
    assert few == pytest.approx(0.05, abs=1e-9)
    partial = Scores(np.zeros(50), 200)
    assert sure.words(partial) == "drop at least 15.00, budget 3 points"


def test_the_budget_is_spent_on_pruning_precision_and_uncertainty() -> None:
    budget, final = Budget(hits(4600, 5000), 0.015, 0.95), hits(4550, 5000)
    spent = budget.spent(0.008, final)
    assert list(spent) == ["pruning", "precision", "uncertainty", "left"]
    assert sum(spent.values()) == pytest.approx(0.015)
    assert spent["precision"] == pytest.approx(0.01 - 0.008)
    assert spent["uncertainty"] == pytest.approx(1.6449 * np.sqrt(0.01 * 0.99 / 5000), rel=0.15)  # exact: a little more
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
    assert interval.low == pytest.approx(low, abs=1e-3)  # bootstrap noise of 4000 draws, and exact bounds
    assert interval.high == pytest.approx(high, abs=1e-3)
