"""Candidate models of one optimization: the original without the first n units of an order, in FP32 or quantized."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.files import write_text
from hqp_onnx.passes.absorb_scales import absorb_scales
from hqp_onnx.passes.compensate import compensate
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.passes.quantize import Prepared, prepare, quantize_prepared
from hqp_onnx.passes.refit_in_order import refit_in_order
from hqp_onnx.progress import Progress
from hqp_onnx.quantization.placement import quantizable
from hqp_onnx.ranking.order import aligned
from hqp_onnx.runtimes.targets import Target
from hqp_onnx.statistics.calibration import Calibration
from hqp_onnx.statistics.moments import Moments


@dataclass(frozen=True)
class Candidates:
    """What every candidate is made of.

    Attributes:
        original: the canonical graph.
        channels: its units.
        order: units, first to leave first.
        moments: of the inputs of its weights, for compensation; None to leave weights as they are.
        ridges: of the refit, by weight (``least_squares.held_out_ridges``).
        data: calibration data.
        target: what INT8 is laid out for.
        method: calibration method.
        in_order: refit weights a second time, from what they read in the candidate (``refit_in_order``).
        multiple: widths stay multiples of it (``search.aligned``).
        cache: folder for calibrations that were paid for.
        threads: of calibration sessions.
        progress: called during calibration.
    """

    original: gs.Graph
    channels: ChannelMap
    order: IntArray
    moments: Mapping[str, Moments] | None
    ridges: Mapping[str, float]
    data: Dataset
    target: Target
    method: str
    in_order: bool
    multiple: int
    cache: Path
    threads: int
    progress: Progress
    _made: dict[int, gs.Graph] = field(default_factory=dict, init=False)  # the last one pruned
    _prepared: dict[int, Prepared] = field(default_factory=dict, init=False)  # the last one prepared

    def plan(self, removed: int) -> PruningPlan:
        """The first ``removed`` units of the order, less those that stay for the sake of alignment."""
        return PruningPlan(aligned(self.order[:removed], self.channels, self.multiple))

    def pruned(self, removed: int) -> gs.Graph:
        """The candidate in FP32; not to be changed."""
        if removed not in self._made:
            self._made.clear()
            self._made[removed] = self._pruned(removed)
        return self._made[removed]

    def _pruned(self, removed: int) -> gs.Graph:
        plan = self.plan(removed)
        graph = prune_channels(self.original, self.channels, plan).graph
        if self.moments is not None and removed:
            graph = compensate(self.original, graph, self.channels, plan, self.moments, self.ridges).graph
            if self.in_order:
                made = refit_in_order(self.original, graph, self.channels, plan, self.data, threads=self.threads)
                graph = made.graph
        return absorb_scales(graph).graph if self.channels.ended(plan) else graph

    def quantizable(self, removed: int) -> list[str]:
        """Nodes, by their first outputs, that ``quantized`` can leave in float; all but those of branches that left."""
        return quantizable(fold_batchnorm(self.pruned(removed)).graph, self.target)

    def quantized(self, removed: int, floats: Collection[str] = ()) -> gs.Graph:
        """The candidate in INT8, less the nodes ``floats``."""
        return quantize_prepared(self.prepared(removed), self.target, floats).graph

    def prepared(self, removed: int) -> Prepared:
        """The candidate ready for INT8, with the calibration of an earlier run if there is one."""
        if removed not in self._prepared:
            self._prepared.clear()
            self._prepared[removed] = self._prepare(removed)
        return self._prepared[removed]

    def _prepare(self, removed: int) -> Prepared:
        file = self.cache / f"calibration-{removed}.json"
        prepared = prepare(
            self.pruned(removed),
            self.data,
            self.target,
            self.method,
            threads=self.threads,
            progress=partial(self.progress, "calibration"),
            known=Calibration.from_json(file.read_text()) if file.is_file() else None,
        )
        if not file.is_file():
            write_text(file, prepared.calibration.to_json())
        return prepared
