"""Confidence bounds of a mean drop, from the same samples answered by two models; they hold for few samples, too.

A sample's difference is d = baseline score - candidate score, -1..1; wanted is a bound of its mean over all data like
these. The normal bound, mean + z s / sqrt(n), fails where it matters: with few samples, a drop of 3 % of all answers
often shows in none of them, so s = 0.

Answers that are right or wrong (all d are -1, 0 or 1). b samples are lost, c are won, and the drop is (b - c) / n. The
bounds of both shares, each exact (Clopper and Pearson 1934), are combined by the method of variance estimates recovery
(Zou and Donner 2008, as Newcombe 1998 combines Wilson's), whose correlation is that of two cells of a multinomial:

    upper = (b - c) / n + sqrt(u^2 + v^2 + 2 r u v)     u = upper(b) - b / n,  v = c / n - lower(c)
    r = sqrt(b c / ((n - b)(n - c)))

With c = 0 that is the exact bound: 1 - (1 - confidence)^(1 / n) where nothing was lost. Its coverage was computed
(``tools/check_confidence.py``), not proven.

Scores between 0 and 1. The bound of Waudby-Smith and Ramdas (Estimating means of bounded random variables by betting,
2024) is proven for every distribution and every n. Who bets against "the mean drop is m or more" has, after n samples,
the wealth prod (1 + l_t (m - d_t)), which exceeds 1 / (1 - confidence) with probability 1 - confidence at most if that
is true. All m at which it does are ruled out. The stakes l_t are chosen from the samples before t,
sqrt(2 log(1 / (1 - confidence)) / (n variance_(t - 1))), at most 0.9 / (1 - m). Samples are taken in a fixed shuffled
order, since files are often sorted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from hqp_onnx.arrays import FloatArray

_LARGEST_STAKE = 0.9  # below 1: a bet that can lose everything is never won back
_PRECISE = 1e-7


@dataclass(frozen=True)
class Interval:
    """Mean drop and its 95 % interval, in the metric's unit."""

    drop: float
    low: float
    high: float


def paired_drop(baseline: FloatArray, candidate: FloatArray) -> Interval:
    """Drop of the mean score and its 95 % interval, from the scores of each sample, float64 [samples]."""
    difference = baseline - candidate
    return Interval(float(difference.mean()), -upper_bound(-difference, 0.975), upper_bound(difference, 0.975))


def upper_bound(differences: FloatArray, confidence: float) -> float:
    """What the mean of all differences like these exceeds with probability 1 - ``confidence`` at most.

    Args:
        differences: -1..1, float64 [samples].
        confidence: 0.5 to below 1.
    """
    lost, won = int((differences == 1).sum()), int((differences == -1).sum())
    if lost + won == np.count_nonzero(differences):
        return upper_bound_of_counts(lost, won, len(differences), confidence)
    return _upper_bound_by_betting(differences, confidence)


def upper_bound_of_counts(lost: int, won: int, samples: int, confidence: float) -> float:
    """``upper_bound`` of answers that are right or wrong, of which some were ``lost`` and some ``won``."""
    n = samples
    above = _exact_upper(lost, n, confidence) - lost / n
    below = won / n - (1 - _exact_upper(n - won, n, confidence))
    apart = (n - lost) * (n - won)
    together = math.sqrt(lost * won / apart) if apart else 1.0
    return (lost - won) / n + math.sqrt(above**2 + below**2 + 2 * together * above * below)


def fewest_samples(max_drop: float, confidence: float) -> int:
    """Samples at which a candidate that loses no answer can be inside ``max_drop``; none are enough for 0."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-max_drop)) if 0 < max_drop < 1 else 1


def _exact_upper(count: int, samples: int, confidence: float) -> float:
    """The largest share of which ``count`` or fewer of ``samples`` are not too unlikely."""
    return 1.0 if count == samples else float(betaincinv(count + 1, samples - count, confidence))


def _upper_bound_by_betting(differences: FloatArray, confidence: float) -> float:
    shuffled = np.random.default_rng(0).permutation(differences)
    stakes, needed = _stakes(shuffled, confidence), math.log(1 / (1 - confidence))

    def ruled_out(mean: float) -> bool:
        held = np.minimum(stakes, _LARGEST_STAKE / (1 - mean))
        return bool(np.log1p(held * (mean - shuffled)).sum() >= needed)

    low, high = -1.0, 1.0  # wealth grows with the mean that is bet against
    while high - low > _PRECISE:
        middle = (low + high) / 2
        low, high = (low, middle) if ruled_out(middle) else (middle, high)
    return high


def _stakes(differences: FloatArray, confidence: float) -> FloatArray:
    """Each from the variance of what came before, which starts as if one sample had been half a unit off."""
    count = np.arange(1, len(differences) + 1)
    means = np.cumsum(differences) / (count + 1)
    variance = (0.25 + np.cumsum(np.square(differences - means))) / (count + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    return np.sqrt(2 * math.log(1 / (1 - confidence)) / (len(differences) * before))
