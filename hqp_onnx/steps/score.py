"""``hqp score``: the saliency of every filter and unit."""

from __future__ import annotations

from pathlib import Path

from hqp_onnx.evaluation.metrics import classes
from hqp_onnx.files import Names, forbid_overlap
from hqp_onnx.graphs.model_io import parts
from hqp_onnx.model import open_data, open_model
from hqp_onnx.progress import Progress
from hqp_onnx.ranking.rank import Ranking, rank


def score(
    path: Path,
    data: str,
    output: Path,
    saliency: str,
    preprocess: Path | None,
    progress: Progress,
    *,
    engine: str = "native",
    loss: str | None = None,
    draws: int = 1,
) -> Ranking:
    """Write ``scores.npz`` of a model; see ``rank``."""
    read: dict[str, Names] = {"the input model": parts(path), "the data": data, "the file of {loss}": loss}
    forbid_overlap({"output": output}, {**read, "the file of {preprocess}": preprocess})
    model = open_model(path)
    dataset = open_data(model, data, preprocess)
    if dataset.labeled:
        dataset.check_labels(classes(model.session.outputs))
    ranking = rank(
        model.graph,
        model.channels(),
        saliency,
        dataset,
        progress=progress,
        engine=engine,
        loss=loss,
        draws=draws,
    )
    ranking.save(output)
    return ranking
