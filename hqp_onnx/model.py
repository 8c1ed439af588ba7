"""A checked model: the file, a session on it, its canonical graph and shapes; and data that fit it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.boundary import public
from hqp_onnx.channels.channel_map import ChannelMap
from hqp_onnx.channels.walk import analyze
from hqp_onnx.counts import article, counted
from hqp_onnx.data.dataset import Dataset, batch_size
from hqp_onnx.data.reading import Data
from hqp_onnx.data.sampled import taken
from hqp_onnx.data.sources import open_dataset
from hqp_onnx.errors import DataError, LimitError, ModelError, UsageError
from hqp_onnx.evaluation.metrics import Metric, predictions
from hqp_onnx.evaluation.metrics.choice import prepared
from hqp_onnx.evaluation.verification import SAMPLES, Source
from hqp_onnx.files import sha256
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.batch import takes_one, with_one
from hqp_onnx.graphs.ends import ends_of
from hqp_onnx.graphs.interface import Interface
from hqp_onnx.graphs.nonfinite_weights import nonfinite_weights
from hqp_onnx.graphs.shapes import Shapes, random_feeds
from hqp_onnx.passes.canonicalize import canonicalize_with_shapes
from hqp_onnx.passes.dequantize import dequantize
from hqp_onnx.passes.lowering.inline_constants import inline_constants
from hqp_onnx.runtimes.runners import open_runner
from hqp_onnx.runtimes.runtime import Calibrating
from hqp_onnx.runtimes.session import Runner, try_run
from hqp_onnx.runtimes.targets import Target
from hqp_onnx.runtimes.targets import target as target_named

log = logging.getLogger(__name__)
_STEPS = 128  # more than most windows over time need
_VERIFIED_BATCH = 4  # where the model leaves it open
IN_MEMORY = Path("<model>")
"""What errors call a model in memory."""

CALIBRATING = 128  # samples, at most
ModelSource: TypeAlias = str | Path | onnx.ModelProto
"""A file, or a model in memory, which is not changed."""


@dataclass(frozen=True)
class Model:
    """A checked model.

    Attributes:
        path: its file; ``IN_MEMORY`` if there is none.
        single: whether it was found to take one sample at a time, though its file leaves the number open.
        quantized: "", or how a quantized model computes, as ``job.candidate.Precision`` says it: int8 or dynamic.
        digest: SHA-256 of the file, or of the serialized model.
        bytes: of the file with its external data, or of the serialized model.
        session: on the model as it is.
        load: the same for a number of threads.
        interface: what callers see of it.
        graph: canonical; the float model that a quantized one stands for.
        shapes: of its tensors.
    """

    path: Path
    digest: str
    bytes: int
    session: Runner
    load: Callable[[int], Runner]
    interface: Interface
    graph: gs.Graph
    shapes: Shapes
    quantized: str = ""
    single: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it was read."""
        found = {
            "it is quantized: units are removed from the float model that it stands for, and results compared with "
            "it": bool(self.quantized),
            "it runs on one sample at a time, though its file leaves the number open: that is 1 in what is written": (
                self.single
            ),
        }
        return tuple(f"{self.path}: {words}" for words, holds in found.items() if holds)

    def channels(self) -> ChannelMap:
        """The units of the graph."""
        return analyze(self.graph, self.shapes)

    def source(self, data: Dataset | None = None) -> Source:
        """What models made from this one are held to, on a few samples of ``data``, or on random inputs."""
        return held_to(self.session, self.interface, self.bytes, data or self.graph)


def held_to(session: Runner, interface: Interface, size: int, data: Dataset | gs.Graph) -> Source:
    """See ``Source``; samples are the first of ``data``, or random ones that the inputs of a graph may take."""
    if isinstance(data, gs.Graph):
        feeds = random_feeds(data, session)
        return Source(session, interface, size, feeds, "random inputs (no data were given)")
    few = data.first(SAMPLES)
    batches = [batch.feeds for batch in few.in_batches(session.batch or _VERIFIED_BATCH)]
    return Source(session, interface, size, batches, f"{counted(len(few), 'sample')} of {data.source.name}")


@public
def open_model(
    source: ModelSource, threads: int = 0, target: str | Target = "onnxruntime", quantized: bool = False
) -> Model:
    """Load, check and canonicalise a file or a ModelProto, which is not changed; the session uses the target's runtime.

    With ``quantized``, a quantized model is one, too: the session is on it as it is, the graph is in float.

    Raises:
        ModelError: see ``model_io.load``; or the runtime cannot load it.
        MissingRuntimeError: the runtime is not installed.
    """
    path, proto = read_model(source, quantized)
    try:
        canonical, shapes = canonicalize_with_shapes(_in_float(proto))
        one = takes_one(proto, shapes.sizes)
        read = with_one(proto) if one else proto
        if one:
            canonical, shapes = canonicalize_with_shapes(_in_float(read))
        stored = path is not IN_MEMORY and not model_io.is_linked(path) and not one
        load = partial(_load, path if stored else read, _target(target))
        session = load(threads)
    except (ModelError, LimitError) as e:
        raise type(e)(f"{path}: {e.template}") from e
    for line in nonfinite_weights(canonical.graph):
        log.warning("warning: %s", line)
    return Model(
        path, *identity(path, proto), session, load, Interface.of(read), canonical.graph, shapes, _kind(proto), one
    )


def _kind(proto: onnx.ModelProto) -> str:
    """See ``Model.quantized``."""
    found = {node.op_type for node in model_io.nodes(proto.graph) if model_io.is_quantized(node.op_type)}
    dynamic = any(op.startswith("DynamicQuantize") for op in found)
    return "" if not found else "dynamic" if dynamic else "int8"


def _in_float(proto: onnx.ModelProto) -> gs.Graph:
    if not _kind(proto):
        return model_io.to_graph(proto)
    return dequantize(model_io.to_graph(inline_constants(proto))).graph


def _target(target: str | Target) -> Target:
    return target_named(target) if isinstance(target, str) else target


def _load(model: Path | onnx.ModelProto, target: Target, threads: int) -> Runner:
    return open_runner(model, target, threads=threads)


def read_model(source: ModelSource, quantized: bool = False) -> tuple[Path, onnx.ModelProto]:
    """The path and the checked model of a file; ``IN_MEMORY`` and a checked copy of a ModelProto.

    Raises:
        ModelError: see ``model_io.load``; ``quantized`` ones are refused unless they are asked for.
    """
    if not isinstance(source, onnx.ModelProto):
        path = _path(source)
        return path, model_io.load(path, quantized=quantized)
    copy = onnx.ModelProto()
    copy.CopyFrom(source)  # onnx-graphsurgeon names tensors inside the model that it imports
    model_io.check(copy, IN_MEMORY, quantized=quantized)
    return IN_MEMORY, copy


def identity(path: Path, proto: onnx.ModelProto) -> tuple[str, int]:
    """Digest and bytes of a model, and of its file if it has one."""
    if path is not IN_MEMORY:
        return sha256(path), model_io.stored_bytes(path)
    content = proto.SerializeToString(deterministic=True)
    return hashlib.sha256(content).hexdigest(), len(content)


def open_session(source: ModelSource, target: str | Target = "onnxruntime", threads: int = 0) -> Runner:
    """A session on any runnable model, quantized or not.

    Raises:
        ModelError: no such file, or the runtime cannot load it.
        MissingRuntimeError: the runtime is not installed.
    """
    target, model = _target(target), source if isinstance(source, onnx.ModelProto) else _path(source)
    if isinstance(model, Path):
        model_io.require_bounded(model)
    if isinstance(model, Path) and model_io.is_linked(model):
        model = model_io.load(model, quantized=True)
    try:
        return open_runner(model, target, threads=threads)
    except ModelError as e:
        raise ModelError(f"{name_of(source)}: {e}") from e


def ends_of_source(source: ModelSource) -> Mapping[str, str]:
    """``graphs.ends.ends_of`` a model; empty for what is no .onnx file, as an engine."""
    if isinstance(source, onnx.ModelProto):
        return ends_of(source.graph)
    if Path(source).suffix != ".onnx":
        return {}
    return ends_of(onnx.load(Path(source), load_external_data=False).graph)


def name_of(source: ModelSource) -> Path:
    """What errors call a model."""
    return IN_MEMORY if isinstance(source, onnx.ModelProto) else Path(source)


def _path(source: object) -> Path:
    if not isinstance(source, (str, Path)):
        raise UsageError(f"the model is {article(type(source).__name__)}: expected a path or a ModelProto")
    return Path(source)


@public
def open_data(
    model: Model,
    data: Data,
    preprocess: str | Path | None = None,
    metric: Metric | None = None,
    part: str = "data",
) -> Dataset:
    """``data`` as the inputs of ``model``; with ``metric``, labels are checked or made as it needs them.

    ``part`` is what ``data.sampled`` calls it.

    Raises:
        DataError: the data do not fit the model or the metric.
        ModelError: the model does not run on them.
    """
    dataset = open_dataset(
        data,
        model.session.inputs,
        preprocess=preprocess,
        batch_size=batch_size(model.session.inputs),
        original=model.session,
    )
    _try_one(model, dataset)
    dataset = taken(dataset, part)
    return dataset if metric is None else judged_data(model.session, dataset, metric)


def _try_one(model: Model, data: Dataset) -> None:
    """Run the model on the first sample.

    Raises:
        DataError: it runs on more rows, but not on one.
        ModelError: it does not run.
    """
    try:
        try_run(model.session, data.rows(0, 1).feeds, model.path)
    except ModelError as e:
        rows = min(len(data), _STEPS)
        with suppress(ModelError):
            try_run(model.session, data.rows(0, rows).feeds)
            raise DataError(
                f"{model.path} runs on {rows} rows of {data.source.name}, but not on one: its first axis is no batch, "
                "and samples are taken from it one by one. Export the model with an axis of samples in front"
            ) from e
        raise


def judged_data(original: Runner, data: Dataset, metric: Metric) -> Dataset:
    """``data`` with the labels that a metric needs.

    Raises:
        DataError: there are none, or they are no classes.
        ModelError: the original's answers are needed, and it gives none.
    """
    answers = predictions(original, data, metric) if metric.labels == "original" else None
    return prepared(metric, original, data, answers)


def open_optional_data(model: Model, data: Data | None, preprocess: str | Path | None = None) -> Dataset | None:
    """``open_data``, or None without data.

    Raises:
        UsageError: ``preprocess`` without data.
    """
    if data is not None:
        return open_data(model, data, preprocess)
    if preprocess is not None:
        raise UsageError("{--preprocess} is for {--data}: add it, or leave both out")
    return None


def calibrated(target: Target, data: Dataset | None) -> Target:
    """``target``, by the first samples of the calibration data where its runtime quantizes by itself."""
    if data is None or not isinstance(target.runtime, Calibrating):
        return target
    samples = next(iter(data.in_batches(min(len(data), CALIBRATING)))).feeds
    return replace(target, runtime=target.runtime.calibrated(samples))
