"""Bounds of a mean drop: exact where that can be computed, and covering by enumeration and by simulation."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest

from hqp_onnx.evaluation.paired import paired_drop, upper_bound, upper_bound_of_counts


def differences(lost: int, won: int, samples: int) -> np.ndarray:
    return np.repeat([1.0, -1.0, 0.0], [lost, won, samples - lost - won])


@pytest.mark.parametrize(("lost", "samples"), [(0, 10), (0, 300), (1, 50), (7, 60), (50, 50)])
def test_where_nothing_is_won_the_bound_is_that_of_clopper_and_pearson(lost: int, samples: int) -> None:
    bound = upper_bound(differences(lost, 0, samples), 0.95)
    tail = sum(comb(samples, k) * bound**k * (1 - bound) ** (samples - k) for k in range(lost + 1))
    assert tail == pytest.approx(1 if lost == samples else 0.05)


@pytest.mark.parametrize("samples", [1, 5, 10, 40])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_bounds_of_right_and_wrong_answers_cover_whatever_is_true(samples: int, confidence: float) -> None:
    """Every outcome, with its probability."""
    cells = [(b, c) for b, c in itertools.product(range(samples + 1), repeat=2) if b + c <= samples]
    bounds = np.array([upper_bound_of_counts(b, c, samples, confidence) for b, c in cells])
    ways = np.array([comb(samples, b) * comb(samples - b, c) for b, c in cells], float)
    lost, won = np.array(cells).T
    for p_lost, p_won in itertools.product((0.01, 0.03, 0.1, 0.3, 0.5), (0.0, 0.005, 0.05, 0.2, 0.4)):
        rest = 1 - p_lost - p_won
        chance = ways * p_lost**lost * p_won**won * rest ** (samples - lost - won)
        assert chance.sum() == pytest.approx(1)
        assert chance[bounds >= p_lost - p_won].sum() >= confidence, (p_lost, p_won)


def scores(rng: np.random.Generator, samples: int, kind: str) -> np.ndarray:
    """Differences whose mean is 0.03."""
    if kind == "rare":  # one sample in 25 loses 0.75
        return 0.75 * (rng.random(samples) < 0.04)
    noise = rng.uniform(-0.1, 0.1, samples)
    return noise + 0.03 if kind == "even" else noise + 0.3 * (rng.random(samples) < 0.1)


@pytest.mark.parametrize("kind", ["rare", "even", "mixed"])
@pytest.mark.parametrize("samples", [10, 50, 400])
def test_bounds_of_other_scores_cover(kind: str, samples: int) -> None:
    rng = np.random.default_rng(0)
    covered = np.mean([upper_bound(scores(rng, samples, kind), 0.95) >= 0.03 for _ in range(400)])
    assert covered >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 400)


def test_the_bound_narrows_to_the_mean_and_sorted_files_change_little() -> None:
    rng = np.random.default_rng(1)
    drawn = rng.uniform(-0.2, 0.3, 10_000)
    bound = upper_bound(drawn, 0.95)
    assert 1.6 < (bound - drawn.mean()) / (drawn.std() / 100) < 4
    assert upper_bound(np.sort(drawn), 0.95) == pytest.approx(bound, abs=drawn.std() / 100)


def test_a_higher_confidence_is_a_higher_bound_and_the_interval_holds_the_drop() -> None:
    rng = np.random.default_rng(2)
    for drawn in (differences(5, 3, 100), rng.uniform(-0.3, 0.3, 100), np.zeros(3), np.ones(4)):
        bounds = [upper_bound(drawn, confidence) for confidence in (0.6, 0.8, 0.95, 0.99)]
        assert bounds == sorted(bounds) and bounds[0] >= -1 and bounds[-1] <= 1
        interval = paired_drop(drawn, np.zeros(len(drawn)))
        assert -1 <= interval.low <= interval.drop <= interval.high <= 1
