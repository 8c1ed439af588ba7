"""Candidate models of one optimization: the original without the first n units of an order, in FP32 or INT8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_graphsurgeon as gs

from hqp_onnx.calibration import Calibration
from hqp_onnx.channel_map import ChannelMap, IntArray, PruningPlan
from hqp_onnx.dataset import Dataset
from hqp_onnx.ledger import write_text
from hqp_onnx.moments import Moments
from hqp_onnx.passes.compensate import compensate
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.passes.quantize import quantize
from hqp_onnx.search import aligned
from hqp_onnx.steps import Progress
from hqp_onnx.targets import Target


@dataclass(frozen=True)
class Candidates:
    """What every candidate is made of.

    Attributes:
        original: the canonical graph.
        channels: its units.
        order: units, first to leave first.
        moments: of the inputs of its weights, for compensation; None to leave weights as they are.
        data: calibration data.
        target: what INT8 is laid out for.
        method: calibration method.
        multiple: widths stay multiples of it (``search.aligned``).
        cache: folder for calibrations that were paid for.
        threads: of calibration sessions.
        progress: called during calibration.
    """

    original: gs.Graph
    channels: ChannelMap
    order: IntArray
    moments: Mapping[str, Moments] | None
    data: Dataset
    target: Target
    method: str
    multiple: int
    cache: Path
    threads: int
    progress: Progress

    def plan(self, removed: int) -> PruningPlan:
        """The first ``removed`` units of the order, less those that stay for the sake of alignment."""
        return PruningPlan(aligned(self.order[:removed], self.channels, self.multiple))

    def graph(self, precision: str, removed: int) -> gs.Graph:
        """The candidate in ``fp32`` or ``int8``."""
        plan = self.plan(removed)
        graph = prune_channels(self.original, self.channels, plan).graph
        if self.moments is not None and removed:
            graph = compensate(self.original, graph, self.channels, plan, self.moments).graph
        return graph if precision == "fp32" else self._int8(graph, removed)

    def _int8(self, graph: gs.Graph, removed: int) -> gs.Graph:
        """Quantized, with the calibration of an earlier run if there is one."""
        file = self.cache / f"calibration-{removed}.json"
        total = len(self.data)
        quantized, calibration = quantize(
            graph,
            self.data,
            self.target,
            self.method,
            threads=self.threads,
            progress=lambda done: self.progress("calibration", done, total),
            known=Calibration.from_json(file.read_text()) if file.is_file() else None,
        )
        write_text(file, calibration.to_json())
        return quantized
