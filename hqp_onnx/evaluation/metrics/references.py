"""The original's outputs, batch by batch, as targets; kept in memory where they are small, else computed again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import ModelError
from hqp_onnx.evaluation.metrics.sample_axis import BySample
from hqp_onnx.evaluation.nonfinite import finite_samples
from hqp_onnx.runtimes.session import Runner

KEPT_BYTES = 1 << 28


class References:
    """Outputs of ``session`` for the batches of one set of data.

    Args:
        session: the original.
        where: the data are from, for errors.
    """

    def __init__(self, session: Runner, where: str) -> None:
        self.session, self._by_sample, self._where = session, BySample(session), where
        self._kept: dict[int, dict[str, Array]] = {}
        self._bytes = 0

    def targeted(self, start: int, batch: Batch) -> Batch:
        """The batch that begins with sample ``start``, always the same, with the original's outputs as targets."""
        outputs = self._kept.get(start)
        if outputs is None:
            outputs = self._outputs(batch)
            size = sum(values.nbytes for values in outputs.values())
            if self._bytes + size <= KEPT_BYTES:
                self._kept[start], self._bytes = outputs, self._bytes + size
        return replace(batch, targets=outputs)

    def _outputs(self, batch: Batch) -> dict[str, Array]:
        outputs = self._by_sample.run(batch.feeds)
        finite, nonfinite = finite_samples(outputs, len(batch))
        if not finite.all():
            raise ModelError(
                f"{self._where}: the original model gives no answer everywhere: "
                f"{nonfinite.words(len(batch))}. Mend it, or leave these samples out"
            )
        return {name: values for name, values in outputs.items() if _is_tensor(values, len(batch))}


def _is_tensor(values: Any, count: int) -> bool:
    """Whether an output holds one row per sample."""
    return isinstance(values, np.ndarray) and values.ndim > 0 and len(values) == count
