"""The models of a comparison: each a file in a runtime, written FILE or FILE@TARGET.

TARGET is a target's name (``targets.target``), of which only the runtime matters here; onnxruntime on the CPU if there
is none. A file that ends in .engine, .plan or .trt runs on TensorRT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from hqp_onnx.engine.library import of_engine
from hqp_onnx.engine.session import SUFFIXES, EngineSession
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.graphs.model_io import require_bounded, require_file
from hqp_onnx.runtimes.litert.session import SUFFIX as TFLITE
from hqp_onnx.runtimes.qnn.context import is_context
from hqp_onnx.runtimes.runners import open_runner, runtime_name
from hqp_onnx.runtimes.same_inputs import require_same_inputs
from hqp_onnx.runtimes.session import Runner
from hqp_onnx.runtimes.targets import target as target_named

Opener = Callable[[onnx.ModelProto | Path, Sequence[str] | None], Runner]
"""Loads a ModelProto or path; fetches the named tensors, or the graph's own outputs."""


@dataclass(frozen=True)
class Contender:
    """A model to compare.

    Attributes:
        name: as the user wrote it.
        path: the file.
        runtime: what runs it.
        session: loaded.
        opener: loads further models on the same runtime; None for an engine or a compiled file.
    """

    name: str
    path: Path
    runtime: str
    session: Runner
    opener: Opener | None

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The model; of .onnx files only."""
        return onnx.load(self.path)

    @property
    def tensors(self) -> list[str]:
        """Tensors that can be read, in topological order: what nodes compute, or the outputs of an engine."""
        if self.opener is None:
            return [spec.name for spec in self.session.outputs]
        return [name for node in self.proto.graph.node for name in node.output if name]

    def reading(self, names: Sequence[str]) -> Runner:
        """A session that gives the named tensors, at least."""
        return self.session if self.opener is None else self.opener(self.proto, names)


def open_contenders(texts: Sequence[str], threads: int = 0) -> list[Contender]:
    """The models that the user named.

    Raises:
        ModelError: a file that is missing, or that its runtime cannot load, or whose inputs are not the first's.
        UsageError: fewer than two models, one twice, or an unknown target.
        MissingRuntimeError: a runtime that is not installed.
    """
    if len(texts) < 2:
        raise UsageError("compare needs two models or more: the reference first")
    if twice := [text for text in texts if list(texts).count(text) > 1]:
        raise UsageError(f"{twice[0]} is given twice: add another runtime (FILE@TARGET) to one of them")
    contenders = [_open(text, threads) for text in texts]
    for other in contenders[1:]:
        require_same_inputs(other.name, other.session, contenders[0].name, contenders[0].session)
    return contenders


def named(text: str) -> tuple[Path, str]:
    """The file and the target of FILE@TARGET; an empty target where there is none."""
    file, _, target_name = text.rpartition("@") if "@" in text and not Path(text).exists() else (text, "", "")
    return Path(file), target_name


def _open(text: str, threads: int) -> Contender:
    path, name = named(text)
    require_file(path)
    if path.suffix in SUFFIXES:
        if name:
            raise UsageError(f"{text}: an engine runs on TensorRT only: leave out @{name}")
        return Contender(text, path, of_engine(path).name, EngineSession(path), None)
    require_bounded(path)
    target = target_named(name or ("litert" if path.suffix == TFLITE else "onnxruntime"))

    def opener(model: onnx.ModelProto | Path, outputs: Sequence[str] | None) -> Runner:
        return open_runner(model, target, outputs, threads)

    runtime = runtime_name(target)
    try:
        alone = path.suffix == TFLITE or is_context(path)
        return Contender(text, path, runtime, opener(path, None), None if alone else opener)
    except ModelError as e:
        raise ModelError(f"{path}: {e}") from e
