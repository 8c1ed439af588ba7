"""A model in the file that its runtime reads fastest: IR of OpenVINO, .tflite, ORT format, a provider's EPContext.

    openvino    NAME.xml and NAME.bin, weights as they are (not in float16)
    litert      NAME.tflite, for one sample at a time where the model leaves their number open
    qnn         NAME.onnx, an EPContext for Qualcomm's HTP v75; qnn-vNN[:SOC_MODEL] for another (``qnn.chips``)
    ort         NAME.ort, for small builds of onnxruntime, which read no ONNX; optimized as far as that holds on any
                processor of the same kind
    epcontext   NAME.onnx, whose EPContext nodes hold what a provider of onnxruntime compiled, for this machine's device

Each is made by its runtime, in a folder of its own, and loaded from there before it takes its place.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from hqp_onnx.arrays import Array
from hqp_onnx.errors import ModelError, one_line
from hqp_onnx.files import make_folder, move
from hqp_onnx.runtimes.bench import CPU, quiet_options
from hqp_onnx.runtimes.litert.runtime import LiteRt
from hqp_onnx.runtimes.litert.session import LiteRtSession
from hqp_onnx.runtimes.openvino_session import DEVICE, openvino
from hqp_onnx.runtimes.qnn.chips import QNN, Chip, chip_of
from hqp_onnx.runtimes.qnn.context import HtpSession
from hqp_onnx.runtimes.qnn.runtime import Qnn
from hqp_onnx.runtimes.session import Session, failure, onnxruntime, require_provider

Feeds = Mapping[str, Array]
EPCONTEXT = "epcontext"


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        reference: the target whose results of the ONNX model the file's are held to.
        suffix: of the file that is named, as ".xml".
        beside: suffixes of other files.
        write: makes the file of a model, for these inputs or any of their sizes.
        run: the outputs of a file, in the order of the model's.
        error: by how much these may differ, of their size; any where ``write`` itself holds the file to onnxruntime,
            and knows where integers are rounded.
    """

    reference: str
    suffix: str
    beside: tuple[str, ...]
    write: Callable[[Path, Path, Feeds], None]
    run: Callable[[Path, Feeds], Sequence[Array]]
    error: float = 1e-3  # rounding of another order of sums


def exported(model: Path, file: Path, form: Format, feeds: Feeds, held: Callable[[Sequence[Array]], float]) -> float:
    """Write ``file``; what ``held`` says of what it gives for ``feeds``, loaded again, and raises if it may not be.

    Raises:
        ModelError: the runtime cannot write it, or not read it again.
        MissingRuntimeError: the runtime is not installed.
        FileError: the folder cannot be made.
    """
    make_folder(file.parent)
    with tempfile.TemporaryDirectory(prefix=".hqp-", dir=file.parent) as folder:
        made = Path(folder) / file.name
        form.write(model, made, feeds)
        error = held(form.run(made, feeds))
        for suffix in (*form.beside, form.suffix):  # the one that names the others comes last
            move(made.with_suffix(suffix), file.with_suffix(suffix))
    return error


def _write_ir(model: Path, file: Path, feeds: Feeds) -> None:
    ov = openvino()
    try:
        ov.save_model(ov.Core().read_model(str(model)), str(file), compress_to_fp16=False)  # its converter sends events
    except Exception as e:  # openvino raises bare RuntimeError
        raise ModelError(f"OpenVINO cannot write '{file.name}': {one_line(e)}") from e


def _run_ir(file: Path, feeds: Feeds) -> Sequence[Array]:
    try:
        compiled = openvino().compile_model(str(file), DEVICE, {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled(dict(feeds))
        return [found[port] for port in compiled.outputs]
    except Exception as e:  # as above
        raise ModelError(f"OpenVINO cannot run '{file.name}': {one_line(e)}") from e


def _write_ort(model: Path, file: Path, feeds: Feeds) -> None:
    ort = onnxruntime()
    options: Any = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(file)
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        ort.InferenceSession(str(model), options, providers=[CPU])
    except Exception as e:  # as in Session
        raise ModelError(f"onnxruntime cannot write '{file.name}': {failure(e)}") from e


def _run_ort(file: Path, feeds: Feeds) -> Sequence[Array]:
    return list(Session(file).run(feeds).values())


def _write_tflite(model: Path, file: Path, feeds: Feeds) -> None:
    file.write_bytes(LiteRt().compile(model, feeds))


def _run_tflite(file: Path, feeds: Feeds) -> Sequence[Array]:
    return list(LiteRtSession(file).run(feeds).values())


def _write_context(provider: str, model: Path, file: Path, feeds: Feeds) -> None:
    ort, devices = onnxruntime(), require_provider(provider)
    options = quiet_options(ort, 0, spin=False)
    for key, value in (("enable", "1"), ("file_path", str(file)), ("embed_mode", "1")):
        options.add_session_config_entry(f"ep.context_{key}", value)
    try:
        if devices:
            options.add_provider_for_devices(devices, {})
        ort.InferenceSession(str(model), options, providers=None if devices else [provider], enable_fallback=0)
    except Exception as e:  # as in Session
        raise ModelError(f"{provider} cannot write '{file.name}': {failure(e)}") from e
    if not file.is_file() or all(node.op_type != "EPContext" for node in onnx.load(file).graph.node):
        raise ModelError(f"{provider} compiles nothing of this model ahead of time: there would be no EPContext node")


def _run_context(provider: str, file: Path, feeds: Feeds) -> Sequence[Array]:
    return list(Session(file, provider=provider).run(feeds).values())


def epcontext(provider: str) -> Format:
    """The file that a provider of onnxruntime loads without compiling; held to what the provider itself computes."""
    write, run = partial(_write_context, provider), partial(_run_context, provider)
    return Format(f"onnxruntime:{provider}", ".onnx", (), write, run)


def _write_htp(chip: Chip, model: Path, file: Path, feeds: Feeds) -> None:
    file.write_bytes(Qnn(chip).compile(model, feeds))


def _run_htp(chip: Chip, file: Path, feeds: Feeds) -> Sequence[Array]:
    return list(HtpSession(file.read_bytes(), chip).run(feeds).values())


def htp(name: str) -> Format:
    """An EPContext for one of Qualcomm's HTPs, by the name of its target."""
    chip = chip_of(name)
    return Format("onnxruntime", ".onnx", (), partial(_write_htp, chip), partial(_run_htp, chip), math.inf)


FORMATS = {
    "openvino": Format("openvino", ".xml", (".bin",), _write_ir, _run_ir),
    "litert": Format("onnxruntime", ".tflite", (), _write_tflite, _run_tflite, math.inf),
    QNN: htp(QNN),
    "ort": Format("onnxruntime", ".ort", (), _write_ort, _run_ort),
}
