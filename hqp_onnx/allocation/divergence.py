"""How far a pruned model's outputs are from the original's, on calibration samples that its refit has not seen.

    classifier      mean of KL(p || q),  p and q = softmax of the original's and the pruned model's logits
    anything else   mean over outputs of E |y - y'|^2 / E |y - E y|^2

Outputs that are not finite are infinitely far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from hqp_onnx.arrays import Array, FloatArray
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.data.dataset import Batch
from hqp_onnx.runtimes.session import Session

_LEAST = np.finfo(np.float64).tiny

Build = Callable[[PruningPlan], onnx.ModelProto]
"""The pruned model of a plan, refitted on other samples."""


class Divergence:
    """Divergence of plans, each measured once.

    Args:
        original: the model to stay close to.
        build: see ``Build``.
        batches: samples.
        classifier: whether the only output is logits or probabilities of classes, along its last axis of several.
        threads: of onnxruntime.

    Raises:
        ModelError: onnxruntime cannot run the original.
    """

    def __init__(
        self, original: onnx.ModelProto, build: Build, batches: Sequence[Batch], classifier: bool, threads: int = 0
    ) -> None:
        self._build, self._batches, self._classifier, self._threads = build, batches, classifier, threads
        self._wanted = [_floating(outputs) for outputs in self._run(original)]
        self._spread = {} if classifier else _spreads(self._wanted)
        self.known: dict[bytes, float] = {}

    def __call__(self, plan: PruningPlan) -> float:
        """0 for what equals the original."""
        key = plan.removed.tobytes()
        if key not in self.known:
            self.known[key] = self._measured(self._build(plan)) if len(plan) else 0.0
        return self.known[key]

    def _measured(self, model: onnx.ModelProto) -> float:
        count = sum(len(batch) for batch in self._batches)
        pairs = zip(self._wanted, self._run(model), strict=True)
        total = sum(self._between(wanted, outputs) for wanted, outputs in pairs) / count
        return total if np.isfinite(total) else np.inf

    def _run(self, model: onnx.ModelProto) -> list[dict[str, Array]]:
        session = Session(model, threads=self._threads)
        return [session.run(batch.feeds) for batch in self._batches]

    def _between(self, wanted: Mapping[str, FloatArray], outputs: Mapping[str, Array]) -> float:
        """Summed over the samples of a batch."""
        if self._classifier:
            ((name, reference),) = wanted.items()
            log_p, log_q = _log_probabilities(reference), _log_probabilities(outputs[name].astype(np.float64))
            return float(np.sum(np.exp(log_p) * (log_p - log_q)))
        parts = [np.square(reference - outputs[name]).sum() / self._spread[name] for name, reference in wanted.items()]
        return float(np.mean(parts)) if parts else 0.0


def _floating(outputs: Mapping[str, Array]) -> dict[str, FloatArray]:
    return {name: y.astype(np.float64) for name, y in outputs.items() if np.issubdtype(y.dtype, np.floating)}


def _spreads(batches: Sequence[Mapping[str, FloatArray]]) -> dict[str, float]:
    """Mean over samples of each output's squared distance from its mean."""
    spreads = {}
    for name in batches[0]:
        values = [batch[name] for batch in batches]
        count, size = sum(map(len, values)), sum(y.size for y in values)
        mean = sum(float(y.sum()) for y in values) / max(size, 1)
        spreads[name] = max(sum(float(np.square(y - mean).sum()) for y in values) / max(count, 1), _LEAST)
    return spreads


def _log_probabilities(values: FloatArray) -> FloatArray:
    """Of logits, or of probabilities, as float64 [samples, classes]."""
    rows = values.reshape(len(values), -1)
    if (rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-3):
        return np.asarray(np.log(np.maximum(rows, 1e-12)))
    shifted = rows - rows.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
