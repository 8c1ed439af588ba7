"""Intervals against a brute-force paired bootstrap, and early stops against full evaluations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from metric_oracles import bootstrap, judged, macro, miou, per_class

from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import DataError, UsageError
from hqp_onnx.evaluation.budget import Budget, allowed, parse_drop
from hqp_onnx.evaluation.metrics import Metric, Scores, load_metric
from hqp_onnx.evaluation.metrics.quantity import Quantity

N = 150
RNG = np.random.default_rng(11)
MASKS = RNG.integers(0, 3, (N, 4, 4))
LABELS = RNG.integers(0, 4, N)
VALUES = RNG.standard_normal((N, 2))


def noisy(clean: np.ndarray, share: float, classes: int) -> np.ndarray:
    return np.where(RNG.random(clean.shape) < share, RNG.integers(0, classes, clean.shape), clean)


MASKS_FOUND = noisy(MASKS, 0.2, 3), noisy(MASKS, 0.3, 3)
LABELS_FOUND = noisy(LABELS, 0.2, 4), noisy(LABELS, 0.35, 4)
VALUES_FOUND = VALUES + 0.3 * RNG.standard_normal((N, 2)), VALUES + 0.35 * RNG.standard_normal((N, 2))


def rmse(found: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda rows: float(np.sqrt(np.mean((found[rows] - VALUES[rows]) ** 2)))


def r2(found: np.ndarray) -> Callable[[np.ndarray], float]:
    def value(rows: np.ndarray) -> float:
        t = VALUES[rows]
        return float(np.mean(1 - ((found[rows] - t) ** 2).sum(0) / ((t - t.mean(0)) ** 2).sum(0)))

    return value


def f1(found: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda rows: macro("f1", per_class(found[rows], LABELS[rows], lambda w: False))


def mean_iou(found: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda rows: miou(found[rows], MASKS[rows])


CASES = {
    "miou": (MASKS_FOUND, MASKS, mean_iou, 1.0),
    "f1": (LABELS_FOUND, LABELS, f1, 1.0),
    "rmse": (VALUES_FOUND, VALUES, rmse, -1.0),
    "r2": (VALUES_FOUND, VALUES, r2, 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_intervals_are_those_of_a_brute_force_bootstrap(name: str) -> None:
    """Of 600 draws of the oracle, whose quantiles are uncertain by a tenth of a standard deviation or so."""
    (first, second), targets, oracle, sign = CASES[name]
    base, other = (judged(name, {"y": y}, targets) for y in (first, second))
    drops = bootstrap(oracle(first), oracle(second), N, 600, sign)
    interval, spread = base.drop_to(other), drops.std()
    assert interval.drop == pytest.approx(sign * (oracle(first)(np.arange(N)) - oracle(second)(np.arange(N))))
    assert interval.drop > 0
    low, high = np.quantile(drops, (0.025, 0.975))
    assert interval.low == pytest.approx(low, abs=0.25 * spread)
    assert interval.high == pytest.approx(high, abs=0.25 * spread)
    bound = base.scale.upper_drop(base.values, other.values, 0.9)
    assert bound == pytest.approx(np.quantile(drops, 0.9), abs=0.2 * spread)
    assert Budget(base, bound + 1e-9, 0.9).admits(other) and not Budget(base, bound - 1e-6, 0.9).admits(other)
    assert Budget(base, interval.drop + 1e-6).admits(other) and not Budget(base, interval.drop - 1e-6).admits(other)


@pytest.mark.parametrize("name", ["rmse", "mae", "cosine", "exact-match"])
def test_an_early_rejection_is_the_verdict_of_the_whole(name: str) -> None:
    targets = VALUES if name != "exact-match" else LABELS[:, None]
    found = VALUES_FOUND if name != "exact-match" else tuple(x[:, None] for x in LABELS_FOUND)
    base, full = (judged(name, {"y": y}, targets) for y in found)
    stopped = set()
    for max_drop in np.linspace(0, 1.5, 12) * base.scale.drop_of(base.values, full.values):
        budget, tally, stop = Budget(base, float(max_drop)), load_metric(name).tally(N), False
        for start in range(0, N, 10):
            rows = slice(start, start + 10)
            tally.add({"y": found[1][rows]}, Batch({"x": VALUES[rows]}, {"labels": targets[rows]}))
            if tally.reach < budget.required:
                stop = True
                break
        early = tally.scores()
        assert budget.admits(early) is budget.admits(full)
        assert not (stop and budget.admits(full))
        assert full.scale.drop(full.metric, early.metric) <= 1e-12  # as good as it can be, at least
        stopped.add(stop)
    assert stopped == {True, False}


class MeanError:
    """A user's metric, of which nothing is known but its value."""

    higher, unit = False, "mm"

    def __init__(self) -> None:
        self.total = self.count = 0.0

    def update(self, outputs: dict[str, np.ndarray], targets: dict[str, np.ndarray], inputs: object) -> None:
        self.total += float(np.abs(outputs["y"] - targets["labels"]).mean(1).sum())
        self.count += len(outputs["y"])

    def value(self) -> float:
        return self.total / self.count


def test_a_class_has_an_interval_as_wide_as_a_bootstrap_says() -> None:
    metric = load_metric(MeanError)
    assert metric.quantity == Quantity("MeanError", "mm", False)
    first, second = VALUES_FOUND
    base, other = (judged(metric, {"y": y}, VALUES) for y in (first, second))
    assert base.metric == pytest.approx(np.abs(first - VALUES).mean())
    drops = np.abs(second - VALUES).mean(1) - np.abs(first - VALUES).mean(1)
    interval = base.drop_to(other)
    assert interval.drop == pytest.approx(drops.mean())
    error = drops.std() / np.sqrt(N)
    assert 0.4 * 1.96 * error < interval.high - interval.drop < 2.5 * 1.96 * error  # ten blocks tell no more
    assert interval.high - interval.drop == pytest.approx(interval.drop - interval.low)


def in_mm(outputs: dict[str, np.ndarray], targets: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> np.ndarray:
    assert set(inputs) == {"x"}
    return -10 * np.abs(outputs["y"] - targets["labels"]).mean(1)


def test_scores_of_a_user_may_have_any_range() -> None:
    found = judged(in_mm, {"y": VALUES_FOUND[0]}, VALUES)
    assert found.metric == pytest.approx(-10 * np.abs(VALUES_FOUND[0] - VALUES).mean())
    assert load_metric(in_mm).tally(9).reach == np.inf
    with pytest.raises(UsageError, match="NaN"):
        judged(lambda outputs, targets, inputs: np.full(len(outputs["y"]), np.nan), {"y": VALUES}, VALUES)
    with pytest.raises(UsageError, match="one score per sample"):
        judged(lambda outputs, targets, inputs: 1.0, {"y": VALUES}, VALUES)


@pytest.mark.parametrize(
    ("given", "relative", "value"),
    [(0.015, False, 0.015), ("0.2", False, 0.2), ("5%", True, 0.05), ("0.5 %", True, 0.005)],
)
def test_budgets_in_units_or_as_a_share(given: float | str, relative: bool, value: float) -> None:
    assert parse_drop(given) == (pytest.approx(value), relative)


@pytest.mark.parametrize("given", ["5 points", "%", "", "-1", "nan", "inf%", "-5%"])
def test_what_is_no_budget_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="max_drop"):
        parse_drop(given)


def test_a_share_is_of_the_original_and_a_rise_where_less_is_better() -> None:
    base, other = (judged("rmse", {"y": y}, VALUES) for y in VALUES_FOUND)
    assert allowed("5%", base) == pytest.approx(0.05 * base.metric)
    budget = Budget(base, allowed("50%", base), name="rmse")
    assert budget.admits(other) and budget.drop(other) == pytest.approx(other.metric - base.metric)
    rise = f"{other.metric - base.metric:.3g}"
    assert budget.words(other) == f"rise {rise}, budget {0.5 * base.metric:.3g}"
    assert sum(budget.spent(0.01, other).values()) == pytest.approx(budget.max_drop)


def test_no_value_is_no_baseline_and_no_candidate() -> None:
    nothing = judged("r2", {"y": VALUES}, np.zeros((N, 2)))
    assert np.isnan(nothing.metric)
    with pytest.raises(DataError, match="no value"):
        Budget(nothing, 0.1)
    base = judged("r2", {"y": VALUES_FOUND[0]}, VALUES)
    assert not Budget(base, 5.0).admits(Scores(nothing.values, N, scale=nothing.scale))


def test_the_words_of_units() -> None:
    share, error = Quantity("top1"), Quantity("rmse", "mm", False)
    assert (share.head, share.said(0.912), share.limit(0.015), share.fall) == (
        "top1 %",
        "91.20 %",
        "1.5 points",
        "drop",
    )
    assert (error.head, error.said(0.01234), error.limit(0.5), error.fall) == (
        "rmse mm",
        "0.01234 mm",
        "0.5 mm",
        "rise",
    )
    assert Quantity("r2", "").head == "r2"


def test_an_output_is_chosen_by_name() -> None:
    metric: Metric = load_metric("rmse").of_output("b")
    outputs = {"a": VALUES + 9, "b": VALUES_FOUND[0]}
    assert judged(metric, outputs, VALUES).metric == judged("rmse", {"b": VALUES_FOUND[0]}, VALUES).metric
    with pytest.raises(UsageError, match="no such output, there are a, b"):
        judged(load_metric("rmse").of_output("c"), outputs, VALUES)
