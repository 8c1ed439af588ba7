"""Metrics once more, by plain loops over samples, positions and classes; and a brute-force paired bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from hqp_onnx.data.batch import Batch
from hqp_onnx.evaluation.metrics import Metric, Scores, load_metric


def judged(metric: str | Metric, outputs: dict[str, Any], targets: Any, size: int = 7) -> Scores:
    """The scores of outputs for targets, judged in batches of ``size``."""
    chosen = load_metric(metric)
    targets = targets if isinstance(targets, dict) else {"labels": targets}
    count = len(next(iter(targets.values())))
    tally = chosen.tally(count)
    for start in range(0, count, size):
        rows = slice(start, start + size)
        feeds = {"x": np.zeros((len(range(*rows.indices(count))), 1), np.float32)}
        tally.add({n: x[rows] for n, x in outputs.items()}, Batch(feeds, {n: x[rows] for n, x in targets.items()}))
    return tally.scores()


def per_class(found: np.ndarray, wanted: np.ndarray, ignored: Callable[[int], bool]) -> list[tuple[int, int, int]]:
    """(both, found, wanted) of the classes that occur, over all positions."""
    pairs = [(int(f), int(w)) for f, w in zip(found.ravel(), wanted.ravel(), strict=True) if not ignored(int(w))]
    classes = sorted({c for pair in pairs for c in pair})
    return [
        (
            sum(f == w == c for f, w in pairs),
            sum(f == c for f, _ in pairs),
            sum(w == c for _, w in pairs),
        )
        for c in classes
    ]


def miou(found: np.ndarray, wanted: np.ndarray) -> float:
    rows = per_class(found, wanted, lambda w: w in (-1, 255))
    return float(np.mean([both / (f + w - both) for both, f, w in rows]))


def macro(kind: str, rows: Sequence[tuple[int, int, int]]) -> float:
    shares = []
    for both, found, wanted in rows:
        top, bottom = {"f1": (2 * both, found + wanted), "precision": (both, found), "recall": (both, wanted)}[kind]
        if found + wanted:
            shares.append(top / bottom if bottom else 0.0)
    return float(np.mean(shares))


def greedy(steps: Sequence[int], blank: int) -> list[int]:
    return [symbol for symbol, _ in groupby(steps) if symbol != blank]


def levenshtein(a: Sequence[int], b: Sequence[int]) -> int:
    table = [[i + j if not i * j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i, j in ((i, j) for i in range(1, len(a) + 1) for j in range(1, len(b) + 1)):
        table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    return table[-1][-1]


def bootstrap(
    value: Callable[[np.ndarray], float], other: Callable[[np.ndarray], float], samples: int, draws: int, sign: float
) -> np.ndarray:
    """Drops on ``draws`` resamples; the values are functions of the numbers of the samples drawn."""
    rng = np.random.default_rng(7)
    rows = [rng.integers(0, samples, samples) for _ in range(draws)]
    drops = np.array([sign * (value(r) - other(r)) for r in rows])
    return drops[[math.isfinite(d) for d in drops]]
