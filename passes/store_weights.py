"""All weights as integers, activations in float: INT4, and INT8 where 4 bits cost too much or are of no use.

Weights that may be INT4 are known in the order of what that costs the loss (``quantize_int4``), and are rounded one
after the other, each to the float model's output from what the ones before it now give (``round_in_order``). Which of
them are INT8 instead is the caller's choice. That, and the other weights of products and look-ups, become INT8
(``compress_weights``), rounded by the second moments of what they read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import onnx_graphsurgeon as gs

from hqp_onnx.counts import counted
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.graphs.model_io import to_proto
from hqp_onnx.passes.base import PassResult
from hqp_onnx.passes.compress_weights import LIMIT, compress_weights, stored_scales
from hqp_onnx.passes.fold_batchnorm import fold_batchnorm
from hqp_onnx.passes.quantize import Recipe
from hqp_onnx.passes.quantize_int4 import PreparedInt4, finish_int4, prepare_int4
from hqp_onnx.passes.round_weights import round_weights, roundable
from hqp_onnx.progress import Progress, silent
from hqp_onnx.ranking.rank import filter_scores
from hqp_onnx.ranking.saliencies import Execution, Scoring
from hqp_onnx.statistics.moments import Moments, input_moments

__all__ = ["PreparedWeights", "finish_weights", "prepare_weights", "store_weights", "weights_in_int8"]

_SMALLEST = 700  # values; below, one more node and the scales of blocks take more bytes than 4 bits save over 8


@dataclass(frozen=True, eq=False)
class PreparedWeights:
    """A model whose weights may be stored in bits that are chosen later.

    Attributes:
        four: the weights that may be INT4.
        moments: of what weights read; empty where they are rounded to nearest.
        data: that INT4 weights are rounded in order by; None leaves each on its own.
        threads: of onnxruntime.
    """

    four: PreparedInt4
    moments: Mapping[str, Moments]
    data: Dataset | None
    threads: int = 0

    @property
    def names(self) -> list[str]:
        """The weights that are smaller in INT4 than in INT8, cheapest first."""
        return [name for name, blocks in self.four.coded.items() if blocks.integers.size >= _SMALLEST]


def prepare_weights(
    graph: gs.Graph,
    data: Dataset,
    recipe: Recipe | None = None,
    *,
    convolutions: bool = True,
    threads: int = 0,
    progress: Progress = silent,
) -> PreparedWeights:
    """What ``finish_weights`` takes: the least sensitive weights by Fisher information first.

    Args:
        graph: float32, canonical; not changed.
        data: calibration samples.
        recipe: ``round_weights`` and ``in_order`` count; None takes the defaults of ``Recipe``.
        convolutions: weights of Conv may be INT4, too.
        threads: of onnxruntime; 0 lets it choose.
        progress: called as the work goes on.

    Raises:
        ModelError: the opset cannot be converted to 21.
    """
    graph, chosen = fold_batchnorm(graph).graph if convolutions else graph, recipe or Recipe()
    proto = to_proto(graph)
    scores = filter_scores(proto, Scoring("fisher"), data, Execution(threads, progress))
    moments = {}
    if chosen.round_weights:
        moments = input_moments(proto, None, data, progress=partial(progress, "moments"), threads=threads)
    again = data if chosen.round_weights and chosen.in_order else None
    return PreparedWeights(prepare_int4(graph, scores, moments, convolutions=convolutions), moments, again, threads)


def store_weights(
    graph: gs.Graph, data: Dataset, eights: Collection[str] = (), recipe: Recipe | None = None
) -> PassResult:
    """``graph`` (float32, canonical) with all weights as integers; see ``prepare_weights`` and ``finish_weights``."""
    return finish_weights(prepare_weights(graph, data, recipe), eights)


def finish_weights(prepared: PreparedWeights, eights: Collection[str] = (), progress: Progress = silent) -> PassResult:
    """All weights as integers; of those that may be INT4, the ``eights`` are INT8. The first note counts them."""
    names = [name for name in prepared.names if name not in set(eights)]
    report = partial(progress, "rounding in order")
    four = finish_int4(prepared.four, names, prepared.data, report, threads=prepared.threads)
    eight = weights_in_int8(four.graph, prepared.moments)
    others = ", the others in INT8" if eight.modified else ", none in INT8" * (len(names) < len(prepared.four.coded))
    words = f"{len(names)} of {counted(len(prepared.names), 'weight')} in INT4{others}"
    return PassResult(eight.graph, four.modified or eight.modified, (words, *four.notes))


def weights_in_int8(graph: gs.Graph, moments: Mapping[str, Moments]) -> PassResult:
    """``graph`` with its float weights in INT8, rounded by the ``moments`` of their inputs where there are some."""
    scales = stored_scales(graph)
    known = {name: moments[name] for name in roundable(graph, scales) if name in moments}
    return compress_weights(round_weights(graph, known, scales, LIMIT).graph, scales)
