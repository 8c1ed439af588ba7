"""``hqp score``: the saliency of every filter and unit."""

from __future__ import annotations

from pathlib import Path

from hqp_onnx.data.reading import Data, read_files
from hqp_onnx.errors import UsageError
from hqp_onnx.evaluation.metrics import classes
from hqp_onnx.files import Names, forbid_overlap
from hqp_onnx.graphs.model_io import parts
from hqp_onnx.model import ModelSource, open_model, open_optional_data
from hqp_onnx.progress import Progress, silent
from hqp_onnx.ranking.rank import Ranking, rank
from hqp_onnx.ranking.saliencies import Execution, Scoring


def score_model(
    source: ModelSource,
    data: Data | None,
    scoring: Scoring,
    preprocess: str | Path | None = None,
    progress: Progress = silent,
) -> Ranking:
    """Saliency of the filters and units of a model; see ``hqp_onnx.score``."""
    model = open_model(source)
    dataset = open_optional_data(model, data, preprocess)
    if dataset is not None and dataset.labeled:
        dataset.check_labels(classes(model.session.outputs))
    return rank(model.graph, model.channels(), scoring, dataset, Execution(progress=progress))


def score_file(
    path: Path,
    data: Data | None,
    output: Path,
    scoring: Scoring,
    preprocess: str | Path | None = None,
    progress: Progress = silent,
) -> Ranking:
    """Write the scores of a model; ``UsageError`` where ``output`` has another extension than .npz."""
    read: dict[str, Names] = {"the input model": parts(path), "the file of {--loss}": scoring.loss}
    forbid_overlap({"output": output}, {**read, **read_files(data, preprocess)})
    if output.suffix != ".npz":
        raise UsageError(f"{{--output}} {output}: expected a file .npz, which holds the scores' arrays")
    ranking = score_model(path, data, scoring, preprocess, progress)
    ranking.save(output)
    return ranking
