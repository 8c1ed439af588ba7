"""A plan carried out: units are removed, what read them is refitted, constants that this creates are absorbed.

    [turn_heads] ─► prune_channels ─► [compensate] ─► [absorb_shifts, where a branch was removed as a whole]
                   ─► [refit_in_order] ─► [absorb_scales, likewise]

The same plan and the same ``Refit`` always give the same model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from hqp_onnx.channels.channel_map import ChannelMap, PruningPlan
from hqp_onnx.data.batch import Batch
from hqp_onnx.errors import UsageError
from hqp_onnx.passes.absorb_scales import absorb_scales
from hqp_onnx.passes.absorb_shifts import Absorbed, absorb_shifts, constants
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.compensate import compensate
from hqp_onnx.passes.prune_channels import prune_channels
from hqp_onnx.passes.refit_in_order import refit_in_order
from hqp_onnx.passes.turn_heads import turn_heads
from hqp_onnx.progress import StageProgress
from hqp_onnx.ranking.least_squares import RIDGE, Fits
from hqp_onnx.statistics.moments import Moments
from hqp_onnx.statistics.moments_in_order import refittable

__all__ = ["REFITS", "Refit", "check_refit", "cut"]


REFITS = ("once", "in-order")


def check_refit(refit: str, compensate: bool | None) -> None:
    """Raise ``UsageError`` for a kind of refit that does not exist, or is excluded."""
    if refit not in REFITS:
        raise UsageError(f"{{--refit}} {refit}: expected one of {', '.join(REFITS)}")
    if refit != "once" and compensate is False:
        raise UsageError(f"{{--refit}} {refit}: without {{--compensate}}, weights stay as they are. Leave one out")


@dataclass(frozen=True)
class Refit:
    """How weights that read removed channels are refitted.

    Attributes:
        moments: of the inputs of the original's weights, by weight.
        ridges: lambda by weight (``least_squares.held_out_ridges``).
        data: calibration batches for a second refit, in order (``refit_in_order``); None for one refit.
        threads: of the second refit.
        progress: of the second refit: called with the weights that are done, and all.
    """

    moments: Mapping[str, Moments]
    ridges: Mapping[str, float]
    data: Iterable[Batch] | None = None
    threads: int = 0
    progress: StageProgress | None = None


def cut(
    graph: gs.Graph,
    channels: ChannelMap,
    plan: PruningPlan,
    refit: Refit | None = None,
    known: Fits | None = None,
) -> PassResult:
    """A copy of ``graph`` without the units of ``plan``.

    Args:
        graph: the canonical graph that ``channels`` was made from.
        channels: its units.
        plan: units to remove.
        refit: None leaves all other weights as they are.
        known: fits of earlier cuts of ``graph`` with the same ``refit``; new ones are added.

    Returns:
        The graph, with the notes of every pass that ran.

    Raises:
        UsageError: see ``prune_channels``.
        DataError, ModelError: see ``compensate`` and ``refit_in_order``.
    """
    moments: Mapping[str, Moments] = {} if refit is None else refit.moments
    if refit is not None and channels.products:
        turned = turn_heads(graph, channels, moments, channels.removed(plan))
        graph, moments = turned.graph, turned.moments
    results = [prune_channels(graph, channels, plan)]
    again = refit.data if refit is not None and len(plan) else None
    if refit is not None and len(plan):
        results.append(compensate(graph, results[-1].graph, channels, plan, moments, refit.ridges, known))
    moved = Absorbed(results[-1].graph, modified=False)
    if channels.ended(plan):
        inexact = () if again is None else refittable(results[-1].graph)
        moved = absorb_shifts(results[-1].graph, constants(graph), inexact)
        results.append(moved)
    if again is not None:
        assert refit is not None
        results.append(
            refit_in_order(
                graph,
                results[-1].graph,
                channels,
                plan,
                again,
                ridges={name: max(ridge, RIDGE) for name, ridge in refit.ridges.items()},
                moved=moved.targets,
                readers=moved.readers,
                threads=refit.threads,
                progress=refit.progress,
            )
        )
    if channels.ended(plan):
        numbers = {t.name for t in graph.tensors().values() if isinstance(t, gs.Constant) and t.values.size == 1}
        results.append(absorb_scales(results[-1].graph, numbers))
    notes = tuple(note for result in results for note in result.notes)
    return PassResult(results[-1].graph, any(result.modified for result in results), notes)
