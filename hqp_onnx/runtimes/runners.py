"""Open a model in the runtime of a target: the only place that knows which session serves which target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from hqp_onnx.runtimes.openvino_session import OpenVinoSession, openvino
from hqp_onnx.runtimes.session import CPU, Runner, Session, onnxruntime, require_provider
from hqp_onnx.runtimes.targets import Target


def open_runner(
    model: onnx.ModelProto | bytes | Path,
    target: Target,
    outputs: Sequence[str] | None = None,
    threads: int = 0,
    spin: bool = True,
) -> Runner:
    """``model`` loaded in the runtime of ``target``; arguments and errors as for ``runtime.Session``."""
    if target.runtime == "openvino":
        return OpenVinoSession(model, outputs, threads=threads)  # its threads spin for 1 ms only
    return Session(model, outputs, target.runtime, threads, spin=spin)


def runtime_name(target: Target) -> str:
    """The runtime that ``target`` is measured on, with its version.

    Raises:
        MissingRuntimeError: it is not installed; the message says what is, and what to do.
    """
    if target.runtime == "openvino":
        return f"OpenVINO {openvino().__version__.partition('-')[0]}"
    require_provider(target.runtime)
    provider = "" if target.runtime == CPU else f", {target.runtime}"
    return f"onnxruntime {onnxruntime().__version__}{provider}"


def stand_in(target: Target) -> tuple[str, ...]:
    """What a reader of measurements should know where they are not of the target's own runtime."""
    if target.name != "tensorrt":
        return ()
    return ("accuracy and latency are onnxruntime's on the CPU: TensorRT runs the engine built from the model",)


def remarks(target: Target, precision: str) -> tuple[str, ...]:
    """What a user of ``precision`` on ``target`` should not miss."""
    if target.runtime == "CUDAExecutionProvider" and precision == "int8":
        return ("onnxruntime's CUDA provider computes INT8 convolutions in float: INT8 on a GPU means TensorRT",)
    if target.runtime in (CPU, "openvino") and precision == "fp16":
        return ("the CPU computes float16 models in float32: half the size, and no faster",)
    return ()
