"""Candidates that are trained towards the original before they are judged: in FP32, and again behind Q/DQ pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from hqp_onnx.job.candidates import Candidates
from hqp_onnx.passes.recover import recover
from hqp_onnx.recovery import Recovery
from hqp_onnx.recovery.points import kept_positions


@dataclass(frozen=True, kw_only=True)
class RecoveredCandidates(Candidates):
    """As ``Candidates``; ``cache`` is a folder of their own, for calibrations and checkpoints.

    Attributes:
        recovery: of the FP32 candidate; the quantized one is trained by ``recovery.quantized``.
    """

    recovery: Recovery
    _quantized: dict[tuple[int, frozenset[str]], gs.Graph] = field(default_factory=dict, init=False)  # the last one

    def quantized(self, removed: int, floats: Collection[str] = ()) -> gs.Graph:
        """The candidate in INT8, less the nodes ``floats``, recovered; not to be changed."""
        key = removed, frozenset(floats)
        if key not in self._quantized:
            graph = super().quantized(removed, floats)
            digest = hashlib.sha256("\n".join(sorted(floats)).encode()).hexdigest()[:12]
            self._quantized.clear()
            self._quantized[key] = self._recovered(graph, removed, f"int8-{digest}", self.recovery.quantized)
        return self._quantized[key]

    def _pruned(self, removed: int) -> gs.Graph:
        return self._recovered(super()._pruned(removed), removed, "fp32", self.recovery)

    def _recovered(self, graph: gs.Graph, removed: int, name: str, settings: Recovery) -> gs.Graph:
        return recover(
            graph,
            self.original,
            self.data,
            settings,
            kept=kept_positions(self.channels, self.channels.removed(self.plan(removed))),
            threads=self.threads,
            checkpoint=self.cache / f"{removed}-{name}.npz",
            progress=lambda done, total: self.progress("recovery", done, total),
        ).graph
