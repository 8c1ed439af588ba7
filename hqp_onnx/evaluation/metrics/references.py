"""The original's outputs, batch by batch, as targets; kept in memory where they are small, else computed again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.data.batch import Batch
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import ModelError
from hqp_onnx.evaluation.metrics.sample_axis import BySample
from hqp_onnx.evaluation.nonfinite import finite_samples
from hqp_onnx.runtimes.session import Runner

KEPT_BYTES = 1 << 28


class References:
    """Outputs of ``session`` for the batches of one set of data.

    Args:
        session: the original.
        data: in the batches that will be asked for, always in this order.
    """

    def __init__(self, session: Runner, data: Dataset) -> None:
        self._session, self._data = BySample(session), data
        self._kept: dict[int, dict[str, Array]] = {}
        self._bytes = 0

    def targeted(self, number: int, batch: Batch) -> Batch:
        """Batch ``number`` with the original's outputs as targets."""
        outputs = self._kept.get(number)
        if outputs is None:
            outputs = self._outputs(batch)
            size = sum(values.nbytes for values in outputs.values())
            if self._bytes + size <= KEPT_BYTES:
                self._kept[number], self._bytes = outputs, self._bytes + size
        return replace(batch, targets=outputs)

    def _outputs(self, batch: Batch) -> dict[str, Array]:
        outputs = self._session.run(batch.feeds)
        finite, nonfinite = finite_samples(outputs, len(batch))
        if not finite.all():
            raise ModelError(
                f"{self._data.source.name}: the original model gives no answer everywhere: "
                f"{nonfinite.words(len(batch))}. Mend it, or leave these samples out"
            )
        return {name: values for name, values in outputs.items() if _is_tensor(values, len(batch))}


def _is_tensor(values: Any, count: int) -> bool:
    """Whether an output holds one row per sample."""
    return isinstance(values, np.ndarray) and values.ndim > 0 and len(values) == count
