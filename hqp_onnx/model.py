"""A checked model: the file, a session on it, its canonical graph and shapes; and data that fit it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.channels.channel_map import ChannelMap
from hqp_onnx.channels.walk import analyze
from hqp_onnx.data.dataset import Dataset, batch_size
from hqp_onnx.data.sources import Data, open_dataset
from hqp_onnx.errors import ModelError
from hqp_onnx.evaluation.metrics import Metric, classes, predictions
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.shapes import Shapes
from hqp_onnx.passes.canonicalize import canonicalize_with_shapes
from hqp_onnx.runtimes.runners import open_runner
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.targets import target

IN_MEMORY = Path("<model>")
"""What errors call a model that is no file."""


@dataclass(frozen=True)
class Model:
    """A checked model: the file (``IN_MEMORY`` if there is none), a session on it, its canonical graph and shapes."""

    path: Path
    session: Runner
    graph: gs.Graph
    shapes: Shapes

    def channels(self) -> ChannelMap:
        """The units of the graph."""
        return analyze(self.graph, self.shapes)


def open_model(source: Path | onnx.ModelProto, threads: int = 0, target_name: str = "onnxruntime") -> Model:
    """Load, check and canonicalise a file or a ModelProto, which is left; the session is of the target's runtime.

    Raises:
        ModelError: see ``model_io.load``; or the runtime cannot load it.
        MissingRuntimeError: the runtime is not installed.
    """
    if isinstance(source, Path):
        path, proto = source, model_io.load(source)
    else:
        path, proto = IN_MEMORY, onnx.ModelProto()
        proto.CopyFrom(source)  # onnx-graphsurgeon names tensors inside the model that it imports
        model_io.check(proto, path)
    try:
        session = open_runner(source, target(target_name), threads=threads)
        canonical, shapes = canonicalize_with_shapes(model_io.to_graph(proto))
    except ModelError as e:
        raise ModelError(f"{path}: {e}") from e
    return Model(path, session, canonical.graph, shapes)


def open_data(model: Model, data: Data, preprocess: Path | None = None, metric: Metric | None = None) -> Dataset:
    """``data`` as the inputs of ``model``; with ``metric``, labels are checked or made as it needs them.

    Raises:
        DataError: the data do not fit the model or the metric.
        ModelError: the model does not run on them.
    """
    dataset = open_dataset(
        data, model.session.inputs, preprocess=preprocess, batch_size=batch_size(model.session.inputs)
    )
    try:
        model.session.run(dataset.rows(0, 1).feeds)
    except ModelError as e:
        raise ModelError(f"{model.path}: {e}") from e
    if metric is not None and metric.labels == "data":
        dataset.check_labels(classes(model.session.outputs))
    if metric is not None and metric.labels == "original":
        dataset = dataset.labeled_with(predictions(model.session, dataset))
    return dataset
