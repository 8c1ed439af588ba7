"""A share of a model's units removed, of a file or in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx_graphsurgeon as gs

from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.channels.removals import removals_json
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.errors import UsageError
from hqp_onnx.files import write_text
from hqp_onnx.graphs import model_io
from hqp_onnx.model import Model, open_data, open_model
from hqp_onnx.passes.absorb_scales import absorb_scales
from hqp_onnx.passes.compensate import compensate
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.progress import Progress, silent
from hqp_onnx.ranking.least_squares import held_out_ridges
from hqp_onnx.ranking.order import aligned, check_widths, redundant_first, removal_order
from hqp_onnx.ranking.rank import rank
from hqp_onnx.ranking.redundancy import redundant_units
from hqp_onnx.ranking.saliency import SALIENCIES
from hqp_onnx.statistics.moment_halves import halved_moments, joined


@dataclass(frozen=True)
class Pruning:
    """How a given share of a model's units is chosen and removed.

    Attributes:
        sparsity: share of the prunable units to remove, 0 to below 1.
        saliency: how units are ranked, one of ``saliency.SALIENCIES``.
        compensate: refit the weights that read removed channels; needs calibration data.
        min_width: share of the units of every tensor that stays; one always does.
        branches: whether the last units of a branch may leave, together (``branches``).
        multiple_of: widths stay multiples of it, see ``search.aligned``.
        keep: patterns of tensors whose units stay, see ``ChannelMap.restricted``.
        only: patterns of tensors whose units may leave; empty for all.
        seed: of the random saliency.
    """

    sparsity: float
    saliency: str = "l2"
    compensate: bool = False
    min_width: float = 0.0
    branches: bool = False
    multiple_of: int = 1
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise UsageError(
                f"--sparsity {self.sparsity}: expected a share of the prunable units, 0 or more and below 1"
            )
        if self.saliency not in SALIENCIES:
            raise UsageError(f"--saliency {self.saliency}: expected one of {', '.join(SALIENCIES)}")
        check_widths(self.min_width, self.multiple_of)


@dataclass(frozen=True)
class Pruned:
    """A pruned graph, the units of the original, and those that left of the number ``wanted``."""

    graph: gs.Graph
    channels: ChannelMap
    plan: PruningPlan
    wanted: int

    @property
    def units(self) -> int:
        """How many units left."""
        return len(self.plan)

    @property
    def prunable(self) -> int:
        """How many units could have left."""
        return len(self.channels.prunable)

    @property
    def notes(self) -> tuple[str, ...]:
        """Why fewer units left than were wanted."""
        short = f"{self.wanted} units were asked for: widths that must stay allow no more"
        return () if self.units == self.wanted else (short,)


def prune_model(model: Model, options: Pruning, data: Dataset | None = None, progress: Progress = silent) -> Pruned:
    """Remove a share of a model's units.

    Args:
        model: not changed.
        options: how many units leave, and which.
        data: calibration data, for gradient saliencies and compensation.
        progress: called as the work goes on.

    Raises:
        UsageError: a saliency or compensation without its data, patterns that match no tensor.
    """
    if options.compensate and data is None:
        raise UsageError("--compensate needs calibration data: add --data DATA")
    channels = model.channels().restricted(options.keep, options.only, options.branches)
    halves = None
    if data is not None and (options.compensate or options.saliency == "obs"):
        report = partial(progress, "input moments")
        halves = halved_moments(model_io.to_proto(model.graph), data, progress=report)
    ranking = rank(
        model.graph,
        channels,
        options.saliency,
        data,
        seed=options.seed,
        progress=progress,
        halves=halves,
        min_width=options.min_width,
    )
    scores = ranking.units
    moments = None if halves is None else joined(*halves)
    if options.compensate and moments is not None:
        scores = redundant_first(scores, redundant_units(model.graph, channels, moments, scores))
    order = removal_order(scores, channels, options.min_width, branches=True)
    wanted = round(options.sparsity * len(channels.prunable))
    plan = PruningPlan(aligned(order[:wanted], channels, options.multiple_of))
    graph = prune_channels(model.graph, channels, plan).graph
    if options.compensate and halves is not None and moments is not None:
        ridges = held_out_ridges(model.graph, channels, plan, halves)
        graph = compensate(model.graph, graph, channels, plan, moments, ridges).graph
    if channels.ended(plan):
        graph = absorb_scales(graph).graph
    return Pruned(graph, channels, plan, wanted)


def prune(
    path: Path,
    output: Path,
    options: Pruning,
    *,
    data: str | None = None,
    preprocess: Path | None = None,
    ledger: Path | None = None,
    progress: Progress = silent,
) -> Pruned:
    """Write a pruned model, and the ledger of what was removed; see ``prune_model``.

    Args:
        path: the model.
        output: the pruned model.
        options: how many units leave, and which.
        data: calibration data, for gradient saliencies and compensation.
        preprocess: for image folders.
        ledger: JSON file: {"model_sha256", "removed": {tensor: {axis: indices in the original}}}.
        progress: called as the work goes on.
    """
    model = open_model(path)
    dataset = None if data is None else open_data(model, data, preprocess)
    pruned = prune_model(model, options, dataset, progress)
    model_io.save(pruned.graph, output)
    if ledger is not None:
        write_text(ledger, removals_json(path, pruned.channels, pruned.plan))
    return pruned
