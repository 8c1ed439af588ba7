"""What the search stands on: the units in the order in which they are removed, and how their readers are refitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from hqp_onnx.arrays import FloatArray, IntArray
from hqp_onnx.channels import cost
from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.job.ledger import Ledger
from hqp_onnx.job.setup import Setup
from hqp_onnx.passes.cut import Refit
from hqp_onnx.passes.turn_heads import turn_halves
from hqp_onnx.ranking.order import first_removed, removal_order
from hqp_onnx.ranking.rank import Ranking, filter_scores, rank_units
from hqp_onnx.ranking.removal import order_units, ridges_of
from hqp_onnx.ranking.saliencies import Execution
from hqp_onnx.statistics.moment_halves import Halves, halved_moments, joined
from hqp_onnx.statistics.moments import load_moments, save_moments

REFIT_SAMPLES = 1000  # of a second refit: with more, its cost grows and the result hardly improves
REFIT = "refit"
"""The stage of it."""
_SCORES = "scores{}.npz"
MOMENTS = "moments-0.npz", "moments-1.npz"


@dataclass(frozen=True)
class Evidence:
    """What is measured once, on the original.

    Attributes:
        ranking: of its units.
        order: units in the order of removal.
        redundant: units that can be removed at no loss, and why.
        refit: of the weights that read them; None leaves weights as they are.
    """

    ranking: Ranking
    order: IntArray
    redundant: Mapping[int, str]
    refit: Refit | None


def gather(setup: Setup, ledger: Ledger) -> Evidence:
    """Measure the evidence, or read the parts that the ledger's cache holds."""
    if not len(setup.channels.prunable):
        return no_evidence(setup)
    options, graph, channels = setup.options, setup.model.graph, setup.channels
    measured = halves(setup, ledger) if options.compensate or setup.scoring.method.needs_moments else None
    turned = measured
    if measured is not None and options.compensate:
        graph, turned = turn_halves(graph, channels, measured)  # as the refit will
    ranking = measure_ranking(setup, ledger, graph, channels, turned)
    moments = joined(*turned) if turned is not None and options.compensate else None
    order, redundant = order_units(graph, channels, ranking.units, options.min_width, moments)
    if measured is None or turned is None or moments is None:
        return Evidence(ranking, order, redundant, None)
    ridges = ledger.once("ridges", lambda: ridges_of(graph, channels, order, turned))
    again = setup.data["calib"].first(REFIT_SAMPLES) if options.chosen_refit == "in-order" else None
    report = partial(setup.progress, REFIT)
    return Evidence(ranking, order, redundant, Refit(joined(*measured), ridges, again, options.threads, report))


def no_evidence(setup: Setup) -> Evidence:
    """Where nothing was measured."""
    return Evidence(Ranking({}, np.full(setup.channels.units, np.nan)), np.zeros(0, np.int64), {}, None)


def check_saliency(setup: Setup, ledger: Ledger) -> None:
    """Raise what ranking would raise of the model, before anything is paid for; nothing where it is ranked already."""
    if len(setup.channels.prunable) and not (ledger.cache / _SCORES.format("")).is_file():
        execution = Execution(setup.options.threads, setup.progress)
        setup.scoring.method.check(to_proto(setup.model.graph), setup.data["calib"], setup.scoring, execution)


def refreshed_order(
    setup: Setup, ledger: Ledger, order: IntArray, removed: int, plan: PruningPlan, graph: gs.Graph
) -> IntArray:
    """The first ``removed`` units of ``order``, then the others, ranked anew on ``graph``, pruned by ``plan``."""
    scores = measure_ranking(setup, ledger, graph, setup.channels.without(plan), None, f"-{removed}").units
    scores = first_removed(scores, order[:removed])
    return removal_order(scores, setup.channels, setup.options.min_width, branches=True)


def measure_ranking(
    setup: Setup, ledger: Ledger, graph: gs.Graph, channels: ChannelMap, halves: Halves | None, suffix: str = ""
) -> Ranking:
    """The ranking of a graph's units; ``suffix`` distinguishes the rankings of one job."""
    file, options, data = ledger.cache / _SCORES.format(suffix), setup.options, setup.data["calib"]
    if file.is_file():
        return Ranking.load(file)
    with ledger.timed(f"saliency{suffix}"):
        execution = Execution(options.threads, setup.progress, ledger.cache / "saliency.npz")
        filters = filter_scores(to_proto(graph), setup.scoring, data, execution)
    with ledger.timed(f"ranking{suffix}"):
        ranking = rank_units(
            graph,
            channels,
            setup.scoring,
            filters,
            data,
            execution,
            halves=halves,
            min_width=options.min_width,
            gains=_gains(setup),
        )
    ranking.save(file)
    return Ranking.load(file)


def _gains(setup: Setup) -> FloatArray | None:
    """How much of the objective the removal of each unit saves, float64 [units]; None where units are counted."""
    graph = setup.model.graph
    if setup.options.objective == "macs":
        return cost.unit_costs(graph, setup.channels, cost.node_macs(graph, setup.positions))
    if setup.options.objective == "size":
        return cost.unit_costs(graph, setup.channels, cost.node_params(graph))
    return None


def halves(setup: Setup, ledger: Ledger) -> Halves:
    """Moments of two halves of the calibration samples, measured or read."""
    files = [ledger.cache / name for name in MOMENTS]
    if not all(file.is_file() for file in files):
        with ledger.timed("moments"):
            halves = halved_moments(
                to_proto(setup.model.graph),
                setup.data["calib"],
                threads=setup.options.threads,
                progress=partial(setup.progress, "input moments"),
                user="compensation" if setup.options.compensate else f"{{--saliency}} {setup.options.saliency}",
            )
        for moments, file in zip(halves, files, strict=True):
            save_moments(moments, file)
    return load_moments(files[0]), load_moments(files[1])
