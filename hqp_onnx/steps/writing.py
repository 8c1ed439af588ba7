"""Write a model that a step made, if it passes what ``evaluation.verification`` asks; its TensorRT is heard."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from hqp_onnx.engine.acceptance import heard
from hqp_onnx.evaluation.verification import Source, Verified, verify
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.record import Record
from hqp_onnx.model import IN_MEMORY
from hqp_onnx.passes.narrow_weights import narrow_weights
from hqp_onnx.runtimes.targets import Target

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What a user should know of a model that was written."""

    notes: Sequence[str]
    verified: Verified


def write_verified(
    graph: gs.Graph,
    path: Path,
    source: Source,
    record: Record,
    goal: Target | None = None,
    precision: str = "fp32",
    warnings: tuple[str, ...] = (),
) -> Verified:
    """Write ``path``; arguments and errors as for ``verify`` and ``model_io.save``, ``warnings`` those of passes."""
    proto = _recorded(graph, record)
    verified = heard(verify(proto, path, source, goal, precision), proto, path, source, goal)
    model_io.save(proto, path)
    return replace(verified, bytes=model_io.stored_bytes(path), warnings=(*warnings, *verified.warnings))


def verified_model(
    graph: gs.Graph,
    source: Source,
    record: Record,
    goal: Target | None = None,
    precision: str = "fp32",
    warnings: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """The model of ``graph``, for a caller in Python; warnings are logged."""
    proto = _recorded(graph, record)
    verified = heard(verify(proto, IN_MEMORY, source, goal, precision), proto, IN_MEMORY, source, goal)
    for warning in (*warnings, *verified.warnings):
        log.warning("%s", warning)
    return proto


def _recorded(graph: gs.Graph, record: Record) -> onnx.ModelProto:
    proto = model_io.to_file(narrow_weights(graph).graph)
    record.write(proto)
    return proto
