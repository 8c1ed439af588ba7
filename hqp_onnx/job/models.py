"""The models of candidates: cut from the original, quantized, trained; the last of each kind is kept in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import onnx_graphsurgeon as gs

from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.files import read_text, write_text
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.candidate import Candidate, Precision, digest, plan_key
from hqp_onnx.job.carrying import carried
from hqp_onnx.job.setup import Setup
from hqp_onnx.job.training_time import TrainingTime
from hqp_onnx.passes.convert_fp16 import convert_fp16
from hqp_onnx.passes.cut import Refit, cut
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.quantize import Prepared, prepare, quantize_prepared
from hqp_onnx.passes.quantize_dynamic import PreparedDynamic, dynamic_nodes, finish_dynamic, prepare_dynamic
from hqp_onnx.passes.recover import recover
from hqp_onnx.passes.store_weights import PreparedWeights, finish_weights, prepare_weights
from hqp_onnx.passes.widen_float16 import widen_float16
from hqp_onnx.quantization.placement import quantizable
from hqp_onnx.recovery import Recovery
from hqp_onnx.recovery.checkpoint import changed, prolonged
from hqp_onnx.recovery.points import kept_positions
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.statistics.calibration import Calibration

T = TypeVar("T")
log = logging.getLogger(__name__)


class CandidateModels:
    """Makes the model of any candidate.

    Args:
        setup: what the optimization was given.
        refit: of weights that read removed channels; None leaves them as they are.
        cache: folder for calibrations and checkpoints of trainings that were paid for.
        time: of trainings; None is without a limit.
    """

    def __init__(self, setup: Setup, refit: Refit | None, cache: Path, time: TrainingTime | None = None) -> None:
        self._setup, self._refit, self._cache = setup, refit, cache
        self.time = time or TrainingTime((), {})
        self._cut, self._prepared, self._quantized = _Last[gs.Graph](), _Last[Prepared](), _Last[gs.Graph]()
        self._dynamic, self._weights = _Last[PreparedDynamic](), _Last[PreparedWeights]()
        self._starts: dict[str, PruningPlan] = {}

    def graph(self, candidate: Candidate) -> gs.Graph:
        """The candidate's graph; do not change it."""
        if candidate.precision is Precision.FP32:
            return self._cut.get(candidate.key, lambda: self._pruned(candidate))
        if candidate.precision is Precision.FP16:
            return convert_fp16(fold_batchnorm(self.graph(candidate.in_float32)).graph).graph
        make = self._in_int4 if candidate.precision is Precision.INT4 else self._in_int8
        return self._quantized.get(candidate.key, lambda: make(candidate))

    def start_at(self, candidate: Candidate, trained: PruningPlan | None) -> None:
        """Let a training begin with what that of another plan changed, where this does better."""
        if trained is not None:
            self._starts[candidate.key] = trained

    def session(self, candidate: Candidate, spin: bool = True, threads: int | None = None) -> Runner:
        """The candidate in the target's runtime; see ``runtimes.Session`` for ``spin``."""
        return self._setup.load(to_proto(self.graph(candidate)), spin, threads)

    def quantizable(self, candidate: Candidate) -> list[str]:
        """First outputs of the nodes that can be quantized, in graph order."""
        graph = fold_batchnorm(widen_float16(self.graph(candidate.in_float32)).graph).graph
        if candidate.precision is Precision.DYNAMIC:
            return dynamic_nodes(graph)
        return quantizable(graph, self._setup.target)

    def storable(self, candidate: Candidate) -> list[str]:
        """The weights that may be INT4, the least sensitive first."""
        return self._stored(candidate.in_float32).names

    def _pruned(self, candidate: Candidate) -> gs.Graph:
        graph = cut(self._setup.model.graph, self._setup.channels, candidate.plan, self._refit).graph
        return self._trained(graph, candidate, "fp32", self._setup.recovery) if candidate.trained else graph

    def _in_int8(self, candidate: Candidate) -> gs.Graph:
        source, target = candidate.in_float32, self._setup.target
        if candidate.precision is Precision.DYNAMIC:
            ready = self._dynamic.get(source.key, lambda: self._prepare_dynamic(source))
            return finish_dynamic(ready, target, candidate.floats).graph
        prepared = self._prepared.get(source.key, lambda: self._prepare(source))
        graph = quantize_prepared(prepared, target, candidate.floats).graph
        if not candidate.trained:
            return graph
        name = f"int8-{digest(sorted(candidate.floats))}"
        return self._trained(graph, candidate, name, self._setup.recovery.quantized)

    def _in_int4(self, candidate: Candidate) -> gs.Graph:
        """Weights are rounded after the training, if there is one."""
        return finish_weights(self._stored(candidate.in_float32), candidate.floats, self._as_int4).graph

    def _stored(self, source: Candidate) -> PreparedWeights:
        data, threads = self._setup.data["calib"], self._setup.options.threads
        return self._weights.get(
            source.key, lambda: prepare_weights(self.graph(source), data, threads=threads, progress=self._as_int4)
        )

    def _as_int4(self, stage: str, done: int, total: int) -> None:
        self._setup.progress("INT4", done, total)

    def _prepare(self, source: Candidate) -> Prepared:
        """Ready for INT8, with the calibration of an earlier run if there is one."""
        file = self._cache / f"calibration-{source.key}.json"
        prepared = prepare(
            self.graph(source),
            self._setup.data["calib"],
            self._setup.target,
            self._setup.options.calibration,
            threads=self._setup.options.threads,
            progress=self._setup.progress,
            known=Calibration.from_json(read_text(file)) if file.is_file() else None,
        )
        if not file.is_file():
            write_text(file, prepared.calibration.to_json())
        return prepared

    def _prepare_dynamic(self, source: Candidate) -> PreparedDynamic:
        setup = self._setup
        data, threads = setup.data["calib"], setup.options.threads
        return prepare_dynamic(self.graph(source), data, setup.target, threads=threads, progress=setup.progress)

    def _trained(self, graph: gs.Graph, candidate: Candidate, name: str, settings: Recovery) -> gs.Graph:
        channels, checkpoint = self._setup.channels, self._checkpoint(candidate.plan, name)
        judged, seconds, other = self.time.judged(candidate), self.time.share(candidate), {}
        if candidate.precision is Precision.FP32 and not judged:
            seconds = None if seconds is None else prolonged(checkpoint, seconds)
            if (start := self._starts.get(candidate.key)) is not None:
                change = changed(self._checkpoint(start, name))
                other = carried(change, graph, channels.removed_slices(start), channels.removed_slices(candidate.plan))
        found = recover(
            graph,
            self._setup.model.graph,
            self._setup.lessons,
            replace(settings, seconds=seconds),
            kept=kept_positions(channels, channels.removed(candidate.plan)),
            threads=self._setup.options.threads,
            checkpoint=checkpoint,
            final=judged,
            other=other,
            progress=partial(self._setup.progress, "recovery"),
        )
        log.info("%s", found.notes[0])
        return found.graph

    def _checkpoint(self, plan: PruningPlan, name: str) -> Path:
        return self._cache / f"recovery-{plan_key(plan)}-{name}.npz"


class _Last(Generic[T]):
    """The last value that was made, by its key."""

    def __init__(self) -> None:
        self._held: tuple[str, T] | None = None

    def get(self, key: str, make: Callable[[], T]) -> T:
        """The value of ``key``: the last one if it has that key, otherwise a new one."""
        if self._held is None or self._held[0] != key:
            self._held = None  # so that two are never held at once
            self._held = key, make()
        return self._held[1]
