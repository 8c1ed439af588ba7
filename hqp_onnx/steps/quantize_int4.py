"""A model with INT4 weights: a share of them, or as many as a budget allows, the rest in INT8.

Weights become INT4 in the order of what that costs (S times the squared error of rounding, per parameter), so with as
many as the budget allows, the file is about as small as the second-order model of the loss knows how: each weight saves
half a byte per parameter over INT8, and a greedy choice by cost per byte solves that knapsack up to its last item. The
budget is held on validation data, by bisection over their number, all of them first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.reading import Data
from hqp_onnx.errors import GradientError, UsageError
from hqp_onnx.evaluation.budget import Budget, allowed, check_budget
from hqp_onnx.graphs import model_io
from hqp_onnx.job.options import MAX_DROP, RELATIVE_DROP
from hqp_onnx.job.search import bisect_from
from hqp_onnx.model import Model
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.compress_weights import LIMIT, compress_weights, stored_scales
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.quantize import Recipe
from hqp_onnx.passes.quantize_int4 import PreparedInt4, check_share, finish_int4, prepare_int4, quantize_int4
from hqp_onnx.passes.round_weights import round_weights, roundable
from hqp_onnx.progress import Progress, silent
from hqp_onnx.ranking.rank import filter_scores
from hqp_onnx.ranking.saliencies import Execution, Scoring
from hqp_onnx.statistics.moments import Moments, input_moments
from hqp_onnx.steps.evaluate import Evaluation, evaluate_model


@dataclass(frozen=True)
class Judging:
    """What weights in INT4 are held to: how much worse the metric may be on ``val``; None takes the defaults."""

    val: Data
    max_drop: float | str | None = None
    metric: str | None = None
    preprocess: str | Path | None = None


class Int4(NamedTuple):
    """Which Gemm and MatMul weights, with ``convolutions`` those of Conv, are to be INT4: a share, or by a budget."""

    share: float | Judging
    convolutions: bool = False


def int4_asked(weights: float | Literal["auto"] | None, convolutions: bool, judging: Judging | None) -> Int4 | None:
    """What the arguments of these names ask for.

    Raises:
        UsageError: they do not go together, or a share is outside 0..1.
    """
    if judging is not None and weights != "auto":
        raise UsageError("{--val} judges {--int4_weights} auto: add it, or leave {--val} out")
    if weights == "auto":
        if judging is None:
            raise UsageError("{--int4_weights} auto is judged on validation data: add {--val} DATA")
        return Int4(judging, convolutions)
    if weights is None:
        if convolutions:
            raise UsageError("{--int4_convs} says which weights are INT4, not how many: add {--int4_weights} SHARE")
        return None
    check_share(weights)
    return Int4(weights, convolutions)


@dataclass(frozen=True, kw_only=True)
class StoredWeights(PassResult):
    """``precision`` is that of weights: int4 where some are, mixed where some are in INT8 and none in INT4, or fp32."""

    precision: str


def int4_model(
    model: Model, data: Dataset, weights: Int4, recipe: Recipe | None = None, progress: Progress = silent
) -> StoredWeights:
    """``model`` with weights in INT4, the least sensitive by Fisher information.

    Raises:
        GradientError: the model has no gradients.
        UsageError: all of them in INT8 are outside the budget already.
    """
    graph = fold_batchnorm(model.graph).graph if weights.convolutions else model.graph
    proto = model_io.to_proto(graph)
    try:
        scores = filter_scores(proto, Scoring("fisher"), data, Execution(progress=progress))
    except GradientError as e:
        instead = "{--int4_weights} ranks weights by gradients: leave it out for INT8"
        raise GradientError(e.reason, instead) from e
    chosen = recipe or Recipe()
    moments = input_moments(proto, None, data, progress=partial(progress, "moments")) if chosen.round_weights else None
    again, seen = data if chosen.round_weights and chosen.in_order else None, partial(progress, "rounding in order")
    if not isinstance(weights.share, Judging):
        made = quantize_int4(graph, scores, weights.share, moments, again, seen, convolutions=weights.convolutions)
        return StoredWeights(**vars(made), precision="int4" if made.modified else "fp32")
    prepared = prepare_int4(graph, scores, moments, convolutions=weights.convolutions)
    return _smallest(prepared, weights.share, model_io.to_proto(model.graph), moments or {}, again, progress)


def _smallest(
    prepared: PreparedInt4,
    judging: Judging,
    original: onnx.ModelProto,
    moments: Mapping[str, Moments],
    data: Dataset | None,
    progress: Progress,
) -> StoredWeights:
    """As many weights in INT4 as the budget allows, the others in INT8."""
    judged = partial(
        evaluate_model,
        data=judging.val,
        metric=judging.metric,
        preprocess=judging.preprocess,
        progress=progress,
        reference=original,
    )
    budget, most = _budget(judged(original), judging.max_drop), len(prepared.coded)
    best: list[StoredWeights] = []  # of the largest number that was admitted, which is the last one

    def tried(count: int) -> tuple[StoredWeights, bool]:
        four = finish_int4(prepared, count, data, partial(progress, "rounding in order"))
        eight = weights_in_int8(four.graph, moments)
        scores = judged(model_io.to_proto(eight.graph)).scores
        others = ", the others in INT8" if eight.modified else ", none in INT8" if count < most else ""
        words = f"{count} of {most} weights in INT4{others}: {budget.name} {budget.words(scores)}"
        notes = (words, *four.notes)
        precision = "int4" if four.modified else "mixed" if eight.modified else "fp32"
        return StoredWeights(eight.graph, True, notes, precision=precision), budget.admits(scores)

    def admits(count: int) -> bool:
        made, admitted = tried(count)
        if admitted:
            best[:] = [made]
        return admitted

    if bisect_from(most, most, 1, admits):
        return best[0]
    made, admitted = tried(0)
    if not admitted:
        raise UsageError(f"{made.notes[0]}. Give a larger {{--max_drop}}, or leave weights in float")
    return made


def _budget(baseline: Evaluation, max_drop: float | str | None) -> Budget:
    quantity = baseline.choice.metric.quantity
    limit = max_drop if max_drop is not None else MAX_DROP if quantity.shares else RELATIVE_DROP
    check_budget(limit, 0.5, quantity)
    return Budget(baseline.scores, allowed(limit, baseline.scores), name=baseline.choice.metric.name)


def weights_in_int8(graph: gs.Graph, moments: Mapping[str, Moments]) -> PassResult:
    """``graph`` with its float weights in INT8, rounded by the ``moments`` of their inputs where there are some."""
    scales = stored_scales(graph)
    known = {name: moments[name] for name in roundable(graph, scales) if name in moments}
    return compress_weights(round_weights(graph, known, scales, LIMIT).graph, scales)
