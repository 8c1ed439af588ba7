"""Which samples train and which judge, and their feeds."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from hqp_onnx.arrays import Array, IntArray
from hqp_onnx.counts import counted
from hqp_onnx.data.batch import joined
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import DataError
from hqp_onnx.recovery.settings import Recovery

Feeds = Mapping[str, Array]
MOST_HELD = 1000  # that judge, with ``auto``


def split(count: int, settings: Recovery, multiple: int) -> tuple[IntArray, IntArray]:
    """Sample numbers to train on and to judge by; the latter a multiple of ``multiple``.

    Raises:
        DataError: too few samples.
    """
    held = held_of(count, settings, multiple)
    if count - held < multiple:
        raise DataError(
            f"{counted(count, 'sample is', 'samples are')} too few to recover from: expected {2 * multiple} at least"
        )
    order = np.random.default_rng((settings.seed, 1)).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def held_of(count: int, settings: Recovery, multiple: int = 1) -> int:
    """How many of so many samples judge."""
    wanted = min(settings.held_out * count, MOST_HELD if settings.epochs == "auto" else count)
    return max(1, round(wanted / multiple)) * multiple


def gather(data: Dataset, rows: IntArray) -> dict[str, Array]:
    """Feeds of any samples that are not the same for all, in their order; neighbours are read at once."""
    edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return dict(joined([data.rows(int(rows[a]), int(rows[b - 1]) + 1) for a, b in pairwise(edges)]).own)
