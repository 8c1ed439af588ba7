"""How models are timed while widths are chosen: in one precision, on one number of threads.

A table of times belongs to one such way. Where it is open (``mixed`` precision, no ``threads`` asked for), a model of
half the widths is tried in each, since what ships is narrow; and once it is known how narrow, that model is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.allocation.groups import Groups
from hqp_onnx.allocation.times import Measurement, WidthTimes, measured
from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.channel_map import PruningPlan
from hqp_onnx.errors import ModelError
from hqp_onnx.evaluation.latency import fastest, measure
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.candidate import Precision
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.setup import Setup
from hqp_onnx.passes.absorb_shifts import absorb_shifts, constants
from hqp_onnx.passes.convert_fp16 import convert_fp16
from hqp_onnx.passes.cut import cut
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.quantize import Recipe, prepare, quantize_prepared
from hqp_onnx.passes.quantize_dynamic import quantize_dynamic
from hqp_onnx.passes.widen_float16 import widen_float16
from hqp_onnx.quantization.placement import quantized_tensors
from hqp_onnx.runtimes.runners import thread_counts
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.statistics.calibration import Calibration, Range
from hqp_onnx.statistics.moments_in_order import refittable

log = logging.getLogger(__name__)
COMPARISON_SECONDS = 1.0
_WORTHWHILE = 1.03  # times as fast
_BARE = Recipe(equalize=False, correct_bias=False, round_weights=False)
_ANY_RANGE = Range(-1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Timing:
    """In which precision models are timed, and on how many threads."""

    precision: Precision
    threads: int

    def widths(self, setup: Setup, ledger: Ledger, groups: Groups, suffix: str) -> WidthTimes:
        """Times of widths of the groups, some measured; ``suffix`` goes behind the names of what the ledger keeps."""
        measure = partial(self.measurement, setup, groups)

        def survey() -> Any:
            with ledger.timed(f"times{suffix}".replace("-", ", ")):
                found = WidthTimes(groups, measure).survey(partial(setup.progress, "times"), setup.options.seed)
            return msgspec.to_builtins(found, enc_hook=_builtin)

        known = ledger.once(f"widths{suffix}", survey)
        return WidthTimes(groups, measure, msgspec.convert(known, list[Measurement], dec_hook=_integers))

    def measurement(self, setup: Setup, groups: Groups, choice: IntArray) -> Measurement:
        """What a choice of widths takes."""
        models, graphs = partial(self.model, setup), partial(_bare, setup)
        return measured(groups, choice, models, graphs, setup.target, setup.sample, setup.positions, self.threads)

    def fastest(self, setup: Setup, plans: Sequence[PruningPlan]) -> int:
        """The number of the fastest plan as measured: predictions are good enough to search by."""
        models = [self.model(setup, plan) for plan in plans]
        return fastest([setup.load(m, threads=self.threads) for m in models], setup.sample, COMPARISON_SECONDS)

    def beside(self, setup: Setup, plan: PruningPlan) -> Beside:
        """A plan's latency beside the original's, which runs on the threads that it is fastest on."""
        sessions: dict[str, Runner] = {
            str(count): setup.model.load(count) for count in thread_counts(setup.target, setup.options.threads)
        }
        sessions["plan"] = setup.load(self.model(setup, plan), threads=self.threads)
        found = measure(sessions, setup.sample, COMPARISON_SECONDS)
        plans = found.pop("plan")
        return Beside(plans.speedup / max(latency.speedup for latency in found.values()), plans.median_ms)

    def model(self, setup: Setup, plan: PruningPlan) -> onnx.ModelProto:
        """A plan as it is timed."""
        graph = _bare(setup, plan)
        if self.precision is Precision.INT8:
            return _in_int8(setup, graph)
        if self.precision is Precision.DYNAMIC:
            return to_proto(quantize_dynamic(graph, None, setup.target).graph)
        folded = fold_batchnorm(graph).graph
        return to_proto(convert_fp16(folded).graph if self.precision is Precision.FP16 else folded)


@dataclass(frozen=True)
class Beside:
    """How many times as fast as the original a plan is, and what it takes, in milliseconds."""

    speedup: float
    latency_ms: float


def choose_timing(setup: Setup, ledger: Ledger, plan: PruningPlan, name: str, now: Timing | None = None) -> Timing:
    """The fastest way for a plan, measured, or as an earlier run measured it under that name.

    It stays as it is ``now`` unless another way is faster beyond the noise, which is worth another table.
    """

    def chosen() -> Timing:
        narrow = Precision(setup.options.narrow)
        kinds = [Precision.FP32, narrow] if setup.options.precision == "mixed" else [narrow]
        kinds += [Precision.DYNAMIC] * setup.may_be_dynamic
        counts = thread_counts(setup.target, setup.options.threads)
        ways = [Timing(kind, count) for count in counts for kind in kinds]
        if len(ways) == 1 or setup.target.stand_in:
            return Timing(narrow, setup.options.threads)
        sessions = {way: session for kind in kinds for way, session in _opened(setup, plan, kind, ways).items()}
        found = measure(
            {str(n): opened for n, opened in enumerate(sessions.values())}, setup.sample, COMPARISON_SECONDS
        )
        speed = {way: found[str(n)].speedup for n, way in enumerate(sessions)}
        best = max(speed, key=lambda way: speed[way])
        return now if now in speed and speed[best] < _WORTHWHILE * speed[now] else best

    return msgspec.convert(ledger.once(name, lambda: msgspec.to_builtins(chosen())), Timing)


def _opened(setup: Setup, plan: PruningPlan, kind: Precision, ways: Sequence[Timing]) -> dict[Timing, Runner]:
    """A plan in those of ``ways`` that are of a kind; none where the target runs the plan in float32 alone."""
    try:
        model = Timing(kind, 0).model(setup, plan)
        return {way: setup.load(model, threads=way.threads) for way in ways if way.precision is kind}
    except ModelError as e:
        if kind is Precision.FP32 or setup.options.precision != "mixed":
            raise
        log.info("%s is not tried: %s", kind.value, e)
        return {}


def _builtin(value: Any) -> Any:
    """An array or a number of numpy, for JSON."""
    return value.tolist()


def _integers(_: type, values: Any) -> IntArray:
    """An array as JSON has it."""
    return np.array(values, np.int64)


def _bare(setup: Setup, plan: PruningPlan) -> gs.Graph:
    """Cut without a refit, the values of weights do not change what a model takes; sums go where a refit lets them."""
    graph = cut(setup.model.graph, setup.channels, plan).graph
    if setup.options.chosen_refit != "in-order" or not setup.channels.ended(plan):
        return graph
    return absorb_shifts(graph, constants(setup.model.graph), refittable(graph)).graph


def _in_int8(setup: Setup, graph: gs.Graph) -> onnx.ModelProto:
    """Quantized with the original's ranges: runtimes fuse a Relu only where nothing below 0 has a number."""
    graph = fold_batchnorm(widen_float16(graph).graph).graph
    ranges = {name: setup.ranges.get(name, _ANY_RANGE) for name in quantized_tensors(graph, setup.target)}
    prepared = prepare(graph, (), setup.target, known=Calibration(ranges, "any"), recipe=_BARE)
    return to_proto(quantize_prepared(prepared, setup.target).graph)
