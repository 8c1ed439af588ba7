"""``hqp export``: a model, or what an optimization shipped, in another file format, held to the ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hqp_onnx.arrays import Array
from hqp_onnx.boundary import public
from hqp_onnx.errors import ModelError, UsageError
from hqp_onnx.evaluation.deviation import Deviation
from hqp_onnx.files import forbid_overlap, require_replaceable
from hqp_onnx.graphs import model_io
from hqp_onnx.graphs.shapes import example_feeds
from hqp_onnx.model import open_session, read_model
from hqp_onnx.report.reading import read_report
from hqp_onnx.runtimes.exports import EPCONTEXT, FORMATS, Format, epcontext, exported, htp
from hqp_onnx.runtimes.qnn.chips import is_chip


@dataclass(frozen=True)
class Exported:
    """What was written: ``files``, their ``bytes``, and by how much outputs differ, relative to their size."""

    model: str
    files: tuple[str, ...]
    bytes: int
    error: float


@public
def export(source: str | Path, output: str | Path, form: str, provider: str | None = None) -> Exported:
    """Write a model for one runtime alone; it is loaded again and run beside the ONNX model.

    Args:
        source: an .onnx file, or OUT of ``hqp optimize``, whose shipped model is taken.
        output: the file, .xml, .tflite, .ort or .onnx.
        form: openvino, litert, qnn (or for another HTP, as qnn-v73), ort or epcontext.
        provider: of onnxruntime, which makes the EPContext, as OpenVINOExecutionProvider.

    Raises:
        UsageError: no such format, or a file with another ending; a provider that is missing, or for another format.
        ModelError: the runtime cannot write it, or computes something else from it.
        MissingRuntimeError: the runtime is not installed.
    """
    made, file = _format(form, provider), Path(output)
    if file.suffix != made.suffix:
        raise UsageError(f"{{--output}} {file}: expected a file {made.suffix}, which {{--format}} {form} is")
    model = _model(Path(source))
    files = [file.with_suffix(suffix) for suffix in (made.suffix, *made.beside)]
    forbid_overlap({"output": files}, {"the model": model_io.parts(model)})
    for each in files:
        require_replaceable(each)
    session = open_session(model, made.reference)
    feeds = example_feeds(model_io.to_graph(read_model(model, quantized=True)[1]), leading=session.batch or 1)
    wanted = session.run(feeds)
    error = exported(model, file, made, feeds, lambda got: _error(wanted, got, file, made.error))
    return Exported(str(model), tuple(map(str, files)), sum(each.stat().st_size for each in files), error)


def _format(form: str, provider: str | None) -> Format:
    if form not in (*FORMATS, EPCONTEXT) and not is_chip(form):
        raise UsageError(f"{{--format}} {form}: expected one of {', '.join((*FORMATS, EPCONTEXT))}")
    if (form == EPCONTEXT) != (provider is not None):
        raise UsageError(
            f"{{--format}} {EPCONTEXT} is what a provider makes of a model: expected {{--provider}} "
            "NAMEExecutionProvider with it, and with no other format"
        )
    if provider is not None:
        return epcontext(provider)
    return htp(form) if is_chip(form) else FORMATS[form]


def _model(source: Path) -> Path:
    if not source.is_dir():
        return source
    report = read_report(source)
    return source / report.files[report.ships]


def _error(wanted: Mapping[str, Array], got: Sequence[Array], file: Path, most: float) -> float:
    """The largest of the relative errors of outputs that are numbers; ``ModelError`` where one is above ``most``."""
    worst = 0.0
    for (name, value), other in zip(wanted.items(), got, strict=True):
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            continue
        if value.shape != other.shape:
            raise ModelError(
                f"{file}: output '{name}' is {list(other.shape)}, and {list(value.shape)} of the ONNX model"
            )
        found = Deviation.between(value, np.asarray(other))
        if found.broken or found.relative > most:
            raise ModelError(f"{file}: output '{name}' differs from that of the ONNX model by {found.relative:.2%}")
        worst = max(worst, found.relative)
    return worst
