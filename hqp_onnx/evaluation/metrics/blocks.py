"""A metric of a user's class, of which nothing is known but its value: its interval comes from blocks of the samples.

Sample i also goes to block i mod b, each an instance of its own. The differences d_j of two models' values on the same
blocks vary as values of n / b samples do, so the drop on all n varies by their standard deviation over sqrt(b):

    drop +- t_(b - 1) s(d_j) / sqrt(b)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from hqp_onnx.arrays import Array, BoolArray, FloatArray
from hqp_onnx.evaluation.metrics.scale import Scale
from hqp_onnx.evaluation.nonfinite import chosen_samples

_BLOCKS = 10


@dataclass(frozen=True)
class BlockValues:
    """The value of all samples seen, and float64 [blocks]."""

    whole: float
    blocks: FloatArray
    seen: int

    @property
    def shape(self) -> tuple[int]:
        """As that of rows."""
        return (self.seen,)


class Blocks:
    """Instances of ``kind``, for all samples and for each block."""

    def __init__(self, kind: Callable[[], Any], samples: int) -> None:
        self._whole = kind()
        self._blocks = [kind() for _ in range(min(_BLOCKS, samples))]
        self._seen = 0

    def add(self, outputs: Any, targets: Any, inputs: Any, finite: BoolArray, start: int) -> None:
        """Update them with a batch, whose ``finite`` samples are given; its first sample is number ``start``."""
        self._seen = start + len(finite)
        places = (start + np.flatnonzero(finite)) % max(len(self._blocks), 1)
        if not len(places):
            return
        self._whole.update(outputs, targets, inputs)
        for number, block in enumerate(self._blocks):
            if (mine := places == number).any():
                block.update(*(_part(values, mine) for values in (outputs, targets, inputs)))

    def values(self) -> BlockValues:
        """Of all."""
        blocks = [float(block.value()) for block in self._blocks]
        return BlockValues(float(self._whole.value()), np.array(blocks), self._seen)


@dataclass(frozen=True)
class OfBlocks(Scale):
    """The value as it is."""

    unit: str = ""
    higher: bool = True

    def value(self, rows: BlockValues, samples: int) -> float:
        """Of all samples seen."""
        return rows.whole

    def upper_drop(self, baseline: BlockValues, candidate: BlockValues, confidence: float) -> float:
        """By Student's t."""
        differences = (1.0 if self.higher else -1.0) * (baseline.blocks - candidate.blocks)
        known = differences[np.isfinite(differences)]
        if len(known) < 2:
            return math.inf
        error = known.std(ddof=1) / math.sqrt(len(known))
        return self.drop_of(baseline, candidate) + float(stdtrit(len(known) - 1, confidence) * error)

    def interval(self, baseline: BlockValues, candidate: BlockValues) -> tuple[float, float]:
        """By Student's t."""
        drop, high = self.drop_of(baseline, candidate), self.upper_drop(baseline, candidate, 0.975)
        return 2 * drop - high, high


def _part(values: Mapping[str, Array], mine: BoolArray) -> Mapping[str, Array]:
    return chosen_samples(values, mine)
