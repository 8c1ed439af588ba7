"""``hqp recover``: a model that any tool pruned or quantized, trained towards the original that it was made from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.comparison.lineage import Lineage, find_lineage
from hqp_onnx.data.dataset import Dataset
from hqp_onnx.data.reading import Data, read_files
from hqp_onnx.data.sampled import is_sampled, whole
from hqp_onnx.errors import ModelError
from hqp_onnx.evaluation.verification import Source
from hqp_onnx.files import Names, forbid_overlap
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.interface import Interface
from hqp_onnx.graphs.record import Record
from hqp_onnx.graphs.shapes import probe
from hqp_onnx.model import IN_MEMORY, Model, ModelSource, open_data, open_model, open_session, read_model
from hqp_onnx.passes.canonicalize import canonicalize
from hqp_onnx.passes.recover import Recovered, recover
from hqp_onnx.progress import Progress, silent
from hqp_onnx.recovery import Recovery
from hqp_onnx.recovery.points import kept_positions
from hqp_onnx.recovery.samples import held_of
from hqp_onnx.recovery.schedule import batch_for, epochs_for
from hqp_onnx.runtimes.same_inputs import require_same_inputs
from hqp_onnx.steps.forecast import Forecast, Stage
from hqp_onnx.steps.writing import Written, write_verified

STAGE = "recovery"


def recover_model(
    student: ModelSource,
    teacher: Model,
    data: Dataset,
    settings: Recovery,
    *,
    lineage: Lineage | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> Recovered:
    """``student`` trained towards ``teacher``; see ``passes.recover``.

    Args:
        student: pruned or quantized or both, a file or a model.
        teacher: the original.
        data: samples.
        settings: of the training.
        lineage: what was removed, for the comparison of features that lost channels.
        checkpoint: written after every round.
        progress: called as the work goes on.

    Raises:
        ModelError: the student is invalid, or has other inputs than the teacher.
        DataError, GradientError, UsageError: see there.
    """
    path, proto = read_model(student, quantized=True)
    graph = _student(proto)
    inputs, expected = ([x.name for x in some.inputs] for some in (graph, teacher.graph))
    if inputs != expected:
        raise ModelError(f"{path}: its inputs {inputs} are not those of {teacher.path}: give its original")
    require_same_inputs(path, open_session(student), teacher.path, teacher.session)
    return recover(
        graph,
        teacher.graph,
        data,
        settings,
        kept=None if lineage is None else kept_positions(lineage.channels, lineage.removal(probe(graph).sizes)),
        checkpoint=checkpoint,
        progress=lambda done, total: progress(STAGE, done, total),
    )


def recover_file(
    path: Path,
    teacher: Path,
    output: Path,
    data: Data,
    settings: Recovery,
    *,
    ledger: Path | None = None,
    checkpoint: Path | None = None,
    preprocess: str | Path | None = None,
    progress: Progress = silent,
) -> Written:
    """Write a recovered model.

    Args:
        path: the student, pruned or quantized or both.
        teacher: the original.
        output: the recovered student.
        data: samples; labels are not read.
        settings: of the training.
        ledger: what was removed; a ledger.json beside the student is found automatically.
        checkpoint: written after every round; the same call continues from it.
        preprocess: of images, see ``Reading``.
        progress: called as the work goes on.
    """
    models: dict[str, Names] = {"the student": model_io.parts(path), "the teacher": model_io.parts(teacher)}
    more: dict[str, Names] = {"the file of {--ledger}": ledger, **read_files(data, preprocess)}
    forbid_overlap({"output": output, "checkpoint": checkpoint}, {**models, **more})
    original = open_model(teacher)
    dataset = open_data(original, data, preprocess)
    model_io.require_file(path)
    lineage = find_lineage([teacher, path], [] if ledger is None else [ledger])
    if settings.epochs == "auto" and is_sampled():  # ``expected`` knows how many follow
        settings = replace(settings, epochs=1, batch=batch_for(settings, whole(dataset)), seconds=None)
    recovered = recover_model(
        path, original, dataset, settings, lineage=lineage, checkpoint=checkpoint, progress=progress
    )
    source = recovery_source(path, original, dataset)
    return Written(recovered.notes, write_verified(recovered.graph, output, source, Record(original.digest)))


def expected(found: Forecast, settings: Recovery) -> Forecast:
    """What a training will take, where ``found`` is of one epoch if ``auto`` chooses them, and of any time."""

    def whole_of(stage: Stage) -> Stage:
        if stage.name != STAGE or not stage.seconds:
            return stage
        count = found.samples["data"]
        epochs = epochs_for(settings, count - held_of(count, settings)) if settings.epochs == "auto" else 1
        times = min(epochs, math.inf if settings.seconds is None else settings.seconds / stage.seconds)
        counted = round(times * stage.count)
        return replace(stage, count=counted, seconds=times * stage.seconds, work=times * stage.work)

    return replace(found, stages=tuple(map(whole_of, found.stages)))


def recovery_source(student: ModelSource, teacher: Model, data: Dataset) -> Source:
    """What a recovered student is held to: its own size and interface, and the answers of its teacher."""
    path, proto = read_model(student, quantized=True)
    size = proto.ByteSize() if path is IN_MEMORY else model_io.stored_bytes(path)
    return replace(teacher.source(data), interface=Interface.of(proto), bytes=size)


def _student(proto: onnx.ModelProto) -> gs.Graph:
    """Canonical; of a quantized one only Constant nodes are folded, since folding more would undo its weights."""
    graph = model_io.to_graph(proto)
    if any(model_io.is_quantized(node.op) for node in graph.nodes):
        return graph.fold_constants(should_exclude_node=lambda node: node.op != "Constant").cleanup().toposort()
    return canonicalize(graph).graph
