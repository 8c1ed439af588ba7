"""A model with INT4 weights: a share of them, or as many as a budget allows, the rest in INT8.

Weights become INT4 in the order of what that costs (S times the squared error of rounding, per parameter), so with as
many as the budget allows, the file is about as small as the second-order model of the loss knows how: each weight saves
half a byte per parameter over INT8, and a greedy choice by cost per byte solves that knapsack up to its last item. The
budget is held on validation data, by bisection over their number, all of them first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import onnx

from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.reading import Data
from hqp_onnx.errors import GradientError, UsageError
from hqp_onnx.evaluation.budget import Budget, allowed, check_budget
from hqp_onnx.graphs import model_io
from hqp_onnx.job.options import MAX_DROP, RELATIVE_DROP
from hqp_onnx.job.search import bisect_from
from hqp_onnx.model import Model
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.quantize import Recipe
from hqp_onnx.passes.quantize_int4 import check_share, int4_share
from hqp_onnx.passes.store_weights import PreparedWeights, finish_weights, prepare_weights
from hqp_onnx.progress import Progress, silent
from hqp_onnx.shares import Given, share
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


def int4_asked(weights: Given | None, convolutions: bool, judging: Judging | None) -> Int4 | None:
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
    number = share(weights, "int4_weights")
    check_share(number)
    return Int4(number, convolutions)


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
    convolutions = weights.convolutions
    try:
        prepared = prepare_weights(model.graph, data, recipe, convolutions=convolutions, progress=progress)
    except GradientError as e:
        instead = "{--int4_weights} ranks weights by gradients: leave it out for INT8"
        raise GradientError(e.reason, instead) from e
    if isinstance(weights.share, Judging):
        return _smallest(prepared, weights.share, model_io.to_proto(model.graph), progress)
    made = int4_share(prepared.four, weights.share, prepared.data, partial(progress, "rounding in order"))
    return StoredWeights(**vars(made), precision="int4" if made.modified else "fp32")


def _smallest(
    prepared: PreparedWeights, judging: Judging, original: onnx.ModelProto, progress: Progress
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
    budget, names = _budget(judged(original), judging.max_drop), prepared.names
    best: list[StoredWeights] = []  # of the largest number that was admitted, which is the last one

    def tried(count: int) -> tuple[StoredWeights, bool]:
        made = finish_weights(prepared, names[count:], progress)
        scores = judged(model_io.to_proto(made.graph)).scores
        notes = (f"{made.notes[0]}: {budget.name} {budget.words(scores)}", *made.notes[1:])
        precision = "int4" if count else "mixed" if made.modified else "fp32"
        return StoredWeights(made.graph, True, notes, precision=precision), budget.admits(scores)

    def admits(count: int) -> bool:
        made, admitted = tried(count)
        if admitted:
            best[:] = [made]
        return admitted

    if bisect_from(len(names), len(names), 1, admits):
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
