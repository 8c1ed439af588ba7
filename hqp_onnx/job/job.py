"""The search of one optimization: what was given, every verdict on a candidate, and what was found.

baseline -> saliency (and moments) -> pruned FP32 candidates -> INT8 of the result where it pays, with less of
either where the budget demands it [-> recovered candidates beyond it]
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.channels import cost
from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.evaluation.budget import Budget
from hqp_onnx.evaluation.latency import measure
from hqp_onnx.evaluation.metrics import Metric, Scores, evaluate
from hqp_onnx.graphs import model_io
from hqp_onnx.job.candidates import Candidates
from hqp_onnx.job.ledger import Ledger, Trial
from hqp_onnx.job.options import Options
from hqp_onnx.job.recovered_candidates import RecoveredCandidates
from hqp_onnx.job.search import SEARCHES, bisect, step_size
from hqp_onnx.model import Model
from hqp_onnx.passes.convert_fp16 import in_float16
from hqp_onnx.progress import Progress
from hqp_onnx.quantization.float_nodes import faster_in_float, output_errors
from hqp_onnx.ranking.least_squares import held_out_ridges
from hqp_onnx.ranking.order import redundant_first, removal_order
from hqp_onnx.ranking.rank import Ranking, filter_saliencies, rank_units
from hqp_onnx.ranking.redundancy import redundant_units
from hqp_onnx.runtimes.runners import open_runner, stand_in
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.targets import target
from hqp_onnx.statistics.moment_halves import Halves, halved_moments, joined
from hqp_onnx.statistics.moments import Moments, load_moments, save_moments
from hqp_onnx.timing.node_seconds import node_seconds

log = logging.getLogger(__name__)

MOMENTS = "moments-0.npz", "moments-1.npz"
SENSITIVITY_SAMPLES = 100
RECOVERED = "+recovery"  # of a precision: the candidate is trained before it is judged
MORE = tuple(2 ** (power / 2) for power in range(-10, 1))  # of what is left, shares to add by recovery: 1/32 ... 1


@dataclass(frozen=True)
class Found:
    """Candidates as precision and units removed.

    Attributes:
        removed: units of the FP32 candidate.
        chosen: the quantized candidate; None where none is admissible or asked for.
        recovered: the one that was trained; None likewise.
    """

    removed: int
    chosen: tuple[str, int] | None
    recovered: tuple[str, int] | None


class Job:
    """What an optimization was given, and what it has paid for so far."""

    def __init__(
        self, options: Options, model: Model, data: Mapping[str, Dataset], metric: Metric, progress: Progress
    ) -> None:
        self.options, self.model, self.data, self.metric, self.progress = options, model, data, metric, progress
        self.target = target(options.target)
        self.channels = model.channels().restricted(options.keep, options.only, options.branches)
        self.positions = cost.positions(model.graph, model.shapes)
        self.ledger = Ledger(options.output, options.settings(), options.resume)
        self.sample = next(iter(data["val"].in_batches(model.session.batch or 1))).feeds
        self.floats: dict[str, list[str]] = {"int8": []}
        self.redundant: dict[int, str] = {}

    def run(self) -> Found:
        """The search; nothing but its ledger is written."""
        with self.timed("baseline"):
            baseline = self.scores(self.model.session, "val")
            self.budget = Budget(baseline, self.options.max_drop, self.options.confidence)
        order, moments, ridges = self._order()
        self.step = step_size(self.options.step, len(self.channels.prunable))
        given: dict[str, Any] = {
            "original": self.model.graph,
            "channels": self.channels,
            "moments": moments,
            "ridges": ridges,
            "data": self.data["calib"],
            "target": self.target,
            "method": self.options.calibration,
            "in_order": self.options.refit == "in-order",
            "multiple": self.options.width_multiple,
            "threads": self.options.threads,
            "progress": self.progress,
        }
        self.candidates = Candidates(order=order, cache=self.ledger.cache, **given)
        removed = SEARCHES[self.options.search](len(order), self.step, self._admits_next)
        chosen = None if self.options.precision == "fp32" else self._quantized(removed)
        recovered = None
        if self.options.recover:
            folder = self.ledger.cache / "recovery"
            folder.mkdir(exist_ok=True)
            order = self.candidates.order  # ranked anew, perhaps
            self.recovered = RecoveredCandidates(order=order, cache=folder, recovery=self.options.recovery, **given)
            first = ("fp32", removed) if self.options.precision == "fp32" else chosen or (self.options.precision, 0)
            recovered = self._recovered(*first)
        return Found(removed, chosen, recovered)

    def _order(self) -> tuple[IntArray, dict[str, Moments] | None, dict[str, float]]:
        """Units, first to leave first; moments and ridges, if there is to be a refit."""
        min_width, compensate = self.options.min_width, self.options.compensate
        halves = self._moments() if compensate or self.options.saliency == "obs" else None
        moments = None if halves is None else joined(*halves)
        self.ranking = self._ranking(halves)
        scores = self.ranking.units
        if halves is None or moments is None or not compensate:
            return removal_order(scores, self.channels, min_width, branches=True), None, {}
        self.redundant = redundant_units(self.model.graph, self.channels, moments, scores)
        scores = redundant_first(scores, self.redundant)
        order = removal_order(scores, self.channels, min_width, branches=True)
        half = PruningPlan(order[: len(order) // 2])  # ridges are to do best there
        ridges = self.ledger.once("ridges", lambda: held_out_ridges(self.model.graph, self.channels, half, halves))
        return order, moments, ridges

    def _recovered(self, precision: str, removed: int) -> tuple[str, int] | None:
        """The last admissible recovered candidate from ``removed`` units on; None if there is none."""
        kinds, rest = ("fp32" + RECOVERED, precision + RECOVERED), len(self.candidates.order) - removed
        more = {removed, *(removed + max(round(share * rest), min(self.step, rest)) for share in MORE)}
        counts = self._distinct(sorted(more))
        most = SEARCHES[self.options.search](len(counts) - 1, 1, lambda i: self.admits(kinds[0], counts[i]))
        for count in counts[most::-1]:  # trained again, as it ships: nothing that failed in FP32
            if all(self.admits(kind, count) for kind in kinds):
                return kinds[1], count
        return None

    def _distinct(self, counts: Sequence[int]) -> list[int]:
        """The first count of each set of units: alignment makes many the same."""
        plans: dict[bytes, int] = {}
        for count in counts:
            plans.setdefault(self.candidates.plan(count).removed.tobytes(), count)
        return list(plans.values())

    def _admits_next(self, count: int) -> bool:
        """The verdict on a candidate of the search, its last units ranked anew where that is due."""
        before = (count - 1) // self.step
        if self.options.refresh and before and before % self.options.refresh == 0:
            self._refresh(before * self.step)
        return self.admits("fp32", count)

    def _refresh(self, removed: int) -> None:
        """Rank the units that are left on the candidate without the first ``removed``."""
        first = self.candidates.order[:removed]
        rest = self.channels.without(self.candidates.plan(removed))
        scores = self._ranking(None, self.candidates.pruned(removed), rest, f"-{removed}").units.copy()
        scores[first] = np.arange(removed) - removed  # all others are 0 or more
        order = removal_order(scores, self.channels, self.options.min_width, branches=True)
        self.candidates = replace(self.candidates, order=order)

    def _quantized(self, removed: int) -> tuple[str, int] | None:
        """The fastest admissible quantized candidate, as its precision and its units removed; None if there is none.

        Where the candidate with ``removed`` units is outside the budget, there are two ways back into it: fewer units
        removed, or more nodes in float, those first whose INT8 arithmetic harms the outputs most.
        """
        precision = self.options.precision
        if precision == "mixed":
            self.floats["mixed"] = self.ledger.once("mixed", lambda: self._faster_in_float(removed))
        if self.admits(precision, removed):
            return precision, removed
        counts = self._distinct([*range(0, removed, self.step), removed])[:-1] or [0]
        fewer = bisect(len(counts) - 1, 1, lambda i: self.admits(precision, counts[i]))
        choices = [(precision, counts[fewer])]
        if precision == "mixed":
            choices.append((self._spared(removed), removed))
        choices = [choice for choice in choices if self.admits(*choice)]
        if len(choices) < 2:
            return choices[0] if choices else None
        return choices[self.ledger.once("faster", lambda: self._faster(choices))]

    def _faster_in_float(self, removed: int) -> list[str]:
        if stand_in(self.target):
            return []
        nodes = self.candidates.quantizable(removed)
        with self.timed("mixed precision"):
            floats = faster_in_float(
                nodes, partial(self._open, removed), self.sample, partial(self.progress, "mixed precision")
            )
        log.info("%d of %d quantizable nodes stay in float, since that is faster", len(floats), len(nodes))
        return floats

    def _spared(self, removed: int) -> str:
        """The precision that keeps as few harmful nodes in float as the budget allows."""
        floats = self.floats["mixed"]
        errors = self.ledger.once("output_errors", lambda: self._output_errors(removed))
        harmless = sorted(errors, key=lambda node: errors[node])
        names = [f"mixed+{len(harmless) - count}" for count in range(len(harmless) + 1)]
        self.floats |= {name: [*floats, *harmless[count:]] for count, name in enumerate(names)}
        return names[bisect(len(harmless), 1, lambda count: self.admits(names[count], removed))]

    def _output_errors(self, removed: int) -> dict[str, float]:
        floats = self.floats["mixed"]
        nodes = [node for node in self.candidates.quantizable(removed) if node not in floats]
        data = self.data["calib"]
        few = [batch.feeds for batch in islice(data, max(1, SENSITIVITY_SAMPLES // data.batch_size))]
        with self.timed("sensitivity to INT8"):
            report = partial(self.progress, "sensitivity to INT8")
            return output_errors(nodes, partial(self._open, removed), few, floats, report)

    def _faster(self, choices: Sequence[tuple[str, int]]) -> int:
        """Index of the fastest candidate."""
        sessions = {str(i): self._session(*choice) for i, choice in enumerate(choices)}
        latencies = measure(sessions, self.sample)
        return int(max(latencies, key=lambda i: latencies[i].speedup))

    def graph(self, precision: str, removed: int) -> gs.Graph:
        """A candidate; not to be changed."""
        candidates = self.recovered if precision.endswith(RECOVERED) else self.candidates
        precision = precision.removesuffix(RECOVERED)
        if precision == "fp32":
            return candidates.pruned(removed)
        if precision == "fp16":
            return in_float16(candidates.pruned(removed)).graph
        return candidates.quantized(removed, self.floats[precision])

    def _session(self, precision: str, removed: int) -> Runner:
        return self.load(model_io.to_proto(self.graph(precision, removed)))

    def _open(self, removed: int, floats: Collection[str]) -> Runner:
        return self.load(model_io.to_proto(self.candidates.quantized(removed, floats)), spin=False)

    def load(self, model: onnx.ModelProto | Path, spin: bool = True) -> Runner:
        """A session of the target's runtime."""
        return open_runner(model, self.target, threads=self.options.threads, spin=spin)

    def admits(self, precision: str, removed: int) -> bool:
        """The verdict on a candidate, from the ledger if it was paid for already."""
        trial = self.ledger.trials.get((precision, removed))
        if trial is None:
            trial = self._trial(precision, removed)
            self.ledger.add(trial)
            log.info("%s, %4.1f %% of the units removed: %s", precision, 100 * trial.sparsity, trial.why)
        return trial.accepted

    def _trial(self, precision: str, removed: int) -> Trial:
        start = time.perf_counter()
        scores = self.scores(self._session(precision, removed), "val", self.budget.required)
        accepted = self.budget.admits(scores)
        size = self.size(removed)
        return Trial(
            precision=precision,
            removed=removed,
            sparsity=self.sparsity(removed),
            metric=scores.metric,
            complete=scores.complete,
            macs=size["macs"],
            params=size["params"],
            accepted=accepted,
            why=self.budget.words(scores),
            seconds=round(time.perf_counter() - start, 3),
        )

    def size(self, removed: int) -> dict[str, int]:
        """MACs and parameters of a candidate, the same in every precision."""
        graph = self.candidates.pruned(removed)
        return {"macs": cost.macs(graph, self.positions), "params": cost.params(graph)}

    def sparsity(self, removed: int) -> float:
        """Units that leave, as a share of the prunable ones."""
        return len(self.candidates.plan(removed)) / max(len(self.channels.prunable), 1)

    def scores(self, session: Runner, part: str, required: float = 0.0) -> Scores:
        """Scores on ``part`` of the data; stops where ``required`` is out of reach."""
        total = len(self.data[part])
        return evaluate(
            session, self.data[part], self.metric, required, lambda done, _: self.progress("evaluation", done, total)
        )

    def _ranking(
        self,
        halves: Halves | None,
        graph: gs.Graph | None = None,
        channels: ChannelMap | None = None,
        suffix: str = "",
    ) -> Ranking:
        """Of the original, or of a candidate with the units that it has left."""
        graph, channels = graph or self.model.graph, channels or self.channels
        file = self.ledger.cache / f"scores{suffix}.npz"
        if file.is_file():
            return Ranking.load(file)
        with self.timed(f"saliency{suffix}"):
            filters = filter_saliencies(
                graph,
                self.options.saliency,
                self.data["calib"],
                engine=self.options.engine,
                loss=self.options.loss,
                draws=self.options.draws,
                seed=self.options.seed,
                threads=self.options.threads,
                progress=self.progress,
                checkpoint=self.ledger.cache / "saliency.npz",
            )
        with self.timed(f"ranking{suffix}"):
            ranking = rank_units(
                graph,
                channels,
                self.options.saliency,
                filters,
                self.data["calib"],
                threads=self.options.threads,
                progress=self.progress,
                halves=halves,
                min_width=self.options.min_width,
                gains=self._gains(),
            )
        ranking.save(file)
        return Ranking.load(file)

    def _gains(self) -> FloatArray | None:
        """What the removal of each unit saves of what the objective counts."""
        if self.options.objective == "sparsity":
            return None
        graph, threads = self.model.graph, self.options.threads
        if self.options.objective == "macs":
            costs = cost.node_macs(graph, self.positions)
        else:
            proto = model_io.to_proto(graph)
            costs = self.ledger.once("node_seconds", lambda: node_seconds(proto, self.sample, threads=threads))
        return cost.unit_costs(graph, self.channels, costs)

    def _moments(self) -> Halves:
        files = [self.ledger.cache / name for name in MOMENTS]
        if not all(file.is_file() for file in files):
            with self.timed("moments"):
                halves = halved_moments(
                    model_io.to_proto(self.model.graph),
                    self.data["calib"],
                    threads=self.options.threads,
                    progress=partial(self.progress, "input moments"),
                )
            for moments, file in zip(halves, files, strict=True):
                save_moments(moments, file)
        return load_moments(files[0]), load_moments(files[1])

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time inside to the ledger's ``stage``."""
        start = time.perf_counter()
        yield
        self.ledger.add_seconds(stage, round(time.perf_counter() - start, 3))
