"""``hqp prune``: remove a share of a model's units, from a file or in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx_graphsurgeon as gs

from hqp_onnx.arrays import IntArray
from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.channels.removals import plan_of, removals_json
from hqp_onnx.counts import counted
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.reading import Data, read_files
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.verification import Verified
from hqp_onnx.files import forbid_overlap, write_text
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.graphs.record import Record
from hqp_onnx.model import Model, open_model, open_optional_data
from hqp_onnx.passes.cut import Refit, check_refit, cut
from hqp_onnx.passes.turn_heads import turn_halves
from hqp_onnx.progress import Progress, silent
from hqp_onnx.ranking.order import aligned, check_min_width, check_multiple
from hqp_onnx.ranking.rank import rank
from hqp_onnx.ranking.removal import order_units, ridges_of
from hqp_onnx.ranking.saliencies import Execution, Scoring
from hqp_onnx.shares import Given, Share, share
from hqp_onnx.statistics.moment_halves import Halves, halved_moments, joined
from hqp_onnx.steps.writing import write_verified


@dataclass(frozen=True)
class Pruning:
    """How units of a model are chosen and removed: a given share, as by ``optimize`` except for widths, or a plan.

    Attributes:
        sparsity: share of the prunable units to remove, 0 to below 1, or as "30%"; None with a ``plan``.
        saliency: how units are ranked; None takes fisher where there are data, else l2.
        compensate: refit the weights that read removed channels, which needs data; None refits if there are data.
        refit: ``once``, or ``in-order``: once more, each weight from what it then reads; None takes in-order for a
            plan, as ``optimize`` does, else once.
        min_width: share of the units of every tensor that stays; one always does.
        branches: whether the last units of a branch may be removed, together (``branches``).
        multiple_of: widths stay multiples of it, see ``ranking.order.aligned``.
        keep: patterns of tensors whose units stay, see ``ChannelMap.restricted``.
        only: patterns of tensors whose units may be removed; empty for all.
        seed: of the random saliency.
        plan: a ledger of an earlier run, of the same network: what it removed is removed again, so nothing is ranked.

    Raises:
        UsageError: a value that makes no sense.
    """

    sparsity: Given | None = None
    saliency: str | None = None
    compensate: bool | None = None
    refit: str | None = None
    min_width: Share = Share(0.1)
    branches: bool = True
    multiple_of: int = 1
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    seed: int = 0
    plan: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.sparsity is None) == (self.plan is None):
            raise UsageError("{--sparsity} says how many units are removed, {--plan} which: expected one of them")
        if self.sparsity is not None:
            object.__setattr__(self, "sparsity", share(self.sparsity, "sparsity"))
            if not 0 <= self.share < 1:
                raise UsageError(
                    f"{{--sparsity}} {self.sparsity}: expected a share of the prunable units, 0 or more and below 1"
                )
        self.scoring(False)
        check_refit(self.refit or "once", self.compensate)
        check_min_width(self.min_width)
        check_multiple(self.multiple_of)

    @property
    def share(self) -> float:
        """``sparsity`` as a number, 0 with a plan."""
        return float(self.sparsity or 0)

    def scoring(self, data: bool) -> Scoring:
        """How units are ranked, with or without ``data``."""
        return Scoring(self.saliency or ("fisher" if data else "l2"), seed=self.seed)


@dataclass(frozen=True)
class Pruned:
    """A pruned graph, the units of the original, and those that were removed of the number ``wanted``.

    ``original`` is the digest of what was pruned, ``read`` are notes on it; ``verified`` is what is known of the file,
    if there is one.
    """

    original: str
    graph: gs.Graph
    channels: ChannelMap
    plan: PruningPlan
    wanted: int
    read: tuple[str, ...] = ()
    verified: Verified | None = None

    @property
    def record(self) -> Record:
        """What was done, for the file."""
        return Record(self.original, (self.units, self.prunable), "fp32" if self.read else None)

    @property
    def units(self) -> int:
        """How many units were removed."""
        return len(self.plan)

    @property
    def prunable(self) -> int:
        """How many units could have been removed."""
        return len(self.channels.prunable)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was pruned in place of the model that was given, and why fewer units were removed than were wanted."""
        short = f"{counted(self.wanted, 'unit was', 'units were')} asked for: widths that must stay allow no more"
        return self.read if self.units == self.wanted else (*self.read, short)


def prune_model(model: Model, options: Pruning, data: Dataset | None = None, progress: Progress = silent) -> Pruned:
    """Remove a share of a model's units.

    Args:
        model: not changed.
        options: how many units are removed, and which.
        data: calibration data, for gradient saliencies and compensation.
        progress: called as the work goes on.

    Raises:
        UsageError: a saliency or a refit without its data, patterns that match no tensor.
        DataError: the plan is not of this network.
    """
    if data is None and (options.compensate or options.refit == "in-order"):
        argument = "compensate" if options.compensate else "refit"
        raise UsageError(f"{{--{argument}}} needs calibration data: add {{--data}}")
    channels = model.channels().restricted(options.keep, options.only, options.branches)
    scoring, refitted = options.scoring(data is not None), options.compensate is not False
    replayed = None if options.plan is None else plan_of(Path(options.plan), channels)
    halves = None
    if replayed is None and scoring.method.needs_data and data is not None:
        scoring.method.check(to_proto(model.graph), data, scoring, Execution(progress=progress))
    if data is not None and (refitted or (replayed is None and scoring.method.needs_moments)):
        user = "compensation" if refitted else f"{{--saliency}} {scoring.name}"
        halves = halved_moments(to_proto(model.graph), data, progress=partial(progress, "input moments"), user=user)
    graph, turned = model.graph, halves
    if halves is not None and refitted:
        graph, turned = turn_halves(graph, channels, halves)  # as the refit will
    if replayed is None:
        order, plan, wanted = _ranked(graph, channels, options, scoring, data, turned, progress)
    else:
        order, plan, wanted = replayed.removed, replayed, len(replayed)
    refit = None
    if halves is not None and turned is not None and refitted:
        again = data if options.refit == "in-order" or (options.plan and options.refit is None) else None
        ridges = ridges_of(graph, channels, order, turned)
        refit = Refit(joined(*halves), ridges, again, progress=partial(progress, "refit"))
    return Pruned(model.digest, cut(model.graph, channels, plan, refit).graph, channels, plan, wanted, model.notes)


def _ranked(
    graph: gs.Graph,
    channels: ChannelMap,
    options: Pruning,
    scoring: Scoring,
    data: Dataset | None,
    halves: Halves | None,
    progress: Progress,
) -> tuple[IntArray, PruningPlan, int]:
    """Units in the order of removal, the plan that removes the share asked for, and how many units that would be."""
    ranking = rank(
        graph,
        channels,
        scoring,
        data,
        Execution(progress=progress),
        halves=halves,
        min_width=options.min_width,
    )
    moments = joined(*halves) if halves is not None and options.compensate is not False else None
    order, _ = order_units(graph, channels, ranking.units, options.min_width, moments)
    wanted = round(options.share * len(channels.prunable))
    return order, PruningPlan(aligned(order[:wanted], channels, options.multiple_of)), wanted


def prune_file(
    path: Path,
    output: Path,
    options: Pruning,
    *,
    data: Data | None = None,
    preprocess: str | Path | None = None,
    ledger: Path | None = None,
    progress: Progress = silent,
) -> Pruned:
    """Write a pruned model, and the ledger of what was removed; see ``prune_model``.

    Args:
        path: the model.
        output: the pruned model.
        options: how many units are removed, and which.
        data: calibration data, for gradient saliencies and compensation.
        preprocess: of images, see ``Reading``.
        ledger: JSON file: {"model_sha256", "removed": {tensor: {axis: indices in the original}}}.
        progress: called as the work goes on.
    """
    forbid_overlap(
        {"output": output, "ledger": ledger},
        {
            "the input model": model_io.parts(path),
            **read_files(data, preprocess),
            "the file of {--plan}": options.plan,
        },
    )
    model = open_model(path, quantized=True)
    dataset = open_optional_data(model, data, preprocess)
    pruned = prune_model(model, options, dataset, progress)
    verified = write_verified(pruned.graph, output, model.source(dataset), pruned.record)
    if ledger is not None:
        write_text(ledger, removals_json(model.digest, pruned.channels, pruned.plan))
    return replace(pruned, verified=verified)
