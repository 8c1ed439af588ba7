"""How often the bounds behind ``--confidence`` hold: the coverage of known drops, by simulation.

    python tools/check_confidence.py            # the table of docs/trust.md, a few minutes

For each number of samples and each kind of score, samples are drawn from a population whose drop is known. A bound
should be below it in 1 - confidence of the draws at most, so a candidate whose true drop is that of the budget, or
twice as much, is admitted at most so often. The normal bound, which hqp_onnx used before, stands beside.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from hqp_onnx.evaluation.budget import Budget
from hqp_onnx.evaluation.metrics import Scores
from hqp_onnx.evaluation.paired import upper_bound
from hqp_onnx.runtimes.machine import processor

SAMPLES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
Draw = Callable[[np.random.Generator, int, float], np.ndarray]


def lost_only(rng: np.random.Generator, samples: int, drop: float) -> np.ndarray:
    """Right or wrong: answers are only lost."""
    return (rng.random(samples) < drop).astype(float)


def churn(rng: np.random.Generator, samples: int, drop: float) -> np.ndarray:
    """Right or wrong: 5 % of the answers are won, more are lost."""
    place = rng.random(samples)
    return (place < 0.05 + drop).astype(float) - (place > 0.95)


def rare(rng: np.random.Generator, samples: int, drop: float) -> np.ndarray:
    """Scores in 0..1: a few samples lose 0.4 to 0.8, the others nothing."""
    return (rng.random(samples) < drop / 0.6) * rng.uniform(0.4, 0.8, samples)


def noisy(rng: np.random.Generator, samples: int, drop: float) -> np.ndarray:
    """Scores in 0..1: every sample changes a little."""
    return rng.uniform(-0.08, 0.08, samples) + drop


KINDS: dict[str, Draw] = {"answers lost": lost_only, "answers lost and won": churn, "rare": rare, "noisy": noisy}


def normal_bound(differences: np.ndarray, confidence: float) -> float:
    """Mean and normal quantile of standard errors."""
    return differences.mean() + NormalDist().inv_cdf(confidence) * differences.std(ddof=1) / math.sqrt(len(differences))


def admitted(kind: Draw, samples: int, drop: float, options: argparse.Namespace) -> tuple[float, float, float]:
    """Shares of draws: admitted by the budget, admitted by the normal bound, and drops that the bound covers."""
    rng = np.random.default_rng([options.seed, samples, round(1e6 * drop)])
    few = kind in (rare, noisy)  # whose bounds are found by bisection
    draws = min(options.draws, max(400, options.draws * 250 // samples)) if few else options.draws
    counts = np.zeros(3)
    for _ in range(draws):
        lost = kind(rng, samples, drop)
        budget = Budget(Scores(np.maximum(lost, 0), samples), options.budget, options.confidence)
        bound = upper_bound(lost, options.confidence)
        assert budget.admits(Scores(np.maximum(-lost, 0), samples)) == (bound <= options.budget + 1e-9)
        counts += bound <= options.budget, normal_bound(lost, options.confidence) <= options.budget, bound >= drop
    admits, normal, covered = counts / draws
    return float(admits), float(normal), float(covered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--samples", type=int, nargs="*", default=SAMPLES)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--budget", type=float, default=0.015)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    low, same, high = (options.budget * factor for factor in (1 / 3, 1, 2))
    head = f"| scores | n | covered at {100 * same:g} | "
    head += " | ".join(f"admitted at {100 * drop:g}" for drop in (low, same, high))
    print(f"{head} | normal bound at {100 * high:g} |\n|{'---|' * 7}")
    worst = 0.0
    for name, kind in KINDS.items():
        for samples in options.samples:
            found = [admitted(kind, samples, drop, options) for drop in (low, same, high)]
            shares = [found[1][2], *(admits for admits, _, _ in found), found[2][1]]
            worst = max(worst, found[1][0], found[2][0])
            row = " | ".join(f"{100 * share:.1f} %" for share in shares)
            print(f"| {name} | {samples} | {row} |", flush=True)
    print(f"\nAt a true drop of the budget or more, {100 * worst:.1f} % at most are admitted.")
    drawn = f"{options.draws} draws (of scores that are not 0 or 1, fewer from 500 samples on), seed {options.seed}"
    print(f"{drawn}, {time.perf_counter() - start:.0f} s, {processor()}")


if __name__ == "__main__":
    main()
