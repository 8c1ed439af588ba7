"""Scores of a model's filters, by what a ``Scoring`` is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from hqp_onnx.progress import StageProgress
from hqp_onnx.ranking.rank import filter_scores
from hqp_onnx.ranking.saliencies import Execution, FilterScores, Samples, Scoring


def scored(
    model: onnx.ModelProto,
    data: Samples | None = None,
    progress: StageProgress = lambda done, total: None,
    checkpoint: Path | None = None,
    **scoring: Any,
) -> FilterScores:
    """``scoring`` are fields of ``Scoring``, whose saliency is fisher unless told."""
    execution = Execution(0, lambda stage, done, total: progress(done, total), checkpoint)
    return filter_scores(model, Scoring(**scoring), data, execution)
